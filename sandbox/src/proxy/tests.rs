use tokio::time::{Instant, timeout};

use super::*;

const SOON: Duration = Duration::from_secs(10);
/// Long enough for a byte that should not arrive to arrive.
const A_MOMENT: Duration = Duration::from_millis(50);

struct Line {
    proxy: Proxy,
    near: TcpStream,
    far: TcpStream,
}

async fn line() -> Line {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(target.local_addr().unwrap()).await.unwrap();
    let mut near = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut far, _) = timeout(SOON, target.accept()).await.unwrap().unwrap();
    // The kernel accepts before the proxy has taken the connection on; a byte through tells.
    near.write_u8(0).await.unwrap();
    assert_eq!(byte(&mut far).await.unwrap(), 0);
    Line { proxy, near, far }
}

async fn byte(stream: &mut TcpStream) -> io::Result<u8> {
    timeout(SOON, stream.read_u8()).await.unwrap()
}

async fn hears_nothing(stream: &mut TcpStream) -> bool {
    timeout(A_MOMENT, stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn both_directions_pass() {
    let Line {
        proxy: _proxy,
        mut near,
        mut far,
    } = line().await;
    near.write_u8(1).await.unwrap();
    far.write_u8(2).await.unwrap();
    assert_eq!(byte(&mut far).await.unwrap(), 1);
    assert_eq!(byte(&mut near).await.unwrap(), 2);
    near.shutdown().await.unwrap();
    assert_eq!(
        byte(&mut far).await.unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
    far.write_u8(3).await.unwrap();
    assert_eq!(byte(&mut near).await.unwrap(), 3);
}

#[tokio::test]
async fn a_cut_is_silent_and_healing_delivers_what_was_held() {
    let Line {
        proxy,
        mut near,
        mut far,
    } = line().await;
    proxy.cut();
    near.write_u8(1).await.unwrap();
    far.write_u8(2).await.unwrap();
    assert!(hears_nothing(&mut far).await && hears_nothing(&mut near).await);
    proxy.heal();
    assert_eq!(byte(&mut far).await.unwrap(), 1);
    assert_eq!(byte(&mut near).await.unwrap(), 2);
}

#[tokio::test]
async fn a_close_is_not_heard_through_a_cut() {
    let Line {
        proxy,
        mut near,
        far,
    } = line().await;
    proxy.cut();
    drop(far);
    assert!(hears_nothing(&mut near).await);
    proxy.heal();
    assert!(byte(&mut near).await.is_err());
}

#[tokio::test]
async fn a_new_connection_does_not_get_through_a_cut() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(target.local_addr().unwrap()).await.unwrap();
    proxy.cut();
    let _near = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(timeout(A_MOMENT, target.accept()).await.is_err());
    proxy.heal();
    timeout(SOON, target.accept()).await.unwrap().unwrap();
}

#[tokio::test]
async fn closing_all_resets_both_sides_even_through_a_cut() {
    let Line {
        proxy,
        mut near,
        mut far,
    } = line().await;
    proxy.cut();
    proxy.close_all();
    for stream in [&mut near, &mut far] {
        assert_eq!(
            byte(stream).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
}

#[tokio::test]
async fn a_delay_holds_each_direction_back() {
    let Line {
        proxy,
        mut near,
        mut far,
    } = line().await;
    let delay = Duration::from_millis(40);
    proxy.delay(delay);
    let began = Instant::now();
    near.write_u8(1).await.unwrap();
    byte(&mut far).await.unwrap();
    far.write_u8(2).await.unwrap();
    byte(&mut near).await.unwrap();
    assert!(began.elapsed() >= 2 * delay);
}

#[tokio::test]
async fn a_target_that_refuses_is_a_broken_connection() {
    let free = crate::ports::reserve().unwrap();
    let proxy = Proxy::to_port(free.number()).await.unwrap();
    let mut near = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(byte(&mut near).await.is_err());
}
