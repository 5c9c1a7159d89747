use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn envelope(id: i64) -> String {
    format!(
        r#"{{"event_id":"6c1f7c0a-4f5c-4b59-9d57-{id:012}","outbox":"o","id":{id},"key":null,"headers":{{}},"payload":1,"created_at":"2026-11-21T10:00:00Z"}}"#
    )
}

async fn open(receiver: &Receiver, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nX-Sent: a\r\nX-Sent: b\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> io::Result<String> {
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text))
        .await
        .unwrap()?;
    Ok(text)
}

async fn post(receiver: &Receiver, path: &str, body: &str) -> String {
    answer(open(receiver, path, body).await).await.unwrap()
}

fn ids(receiver: &Receiver, path: &str) -> Vec<i64> {
    receiver
        .deliveries(path)
        .iter()
        .map(|delivery| delivery.envelope.id)
        .collect()
}

#[tokio::test]
async fn each_path_keeps_its_own_order() {
    let receiver = Receiver::start().await.unwrap();
    let both = format!("[{},{}]", envelope(1), envelope(2));
    assert!(
        post(&receiver, "/a", &both)
            .await
            .starts_with("HTTP/1.1 200")
    );
    post(&receiver, "/b", &envelope(9)).await;
    post(&receiver, "/a", &envelope(3)).await;
    assert_eq!(ids(&receiver, "/a"), [1, 2, 3]);
    assert_eq!(ids(&receiver, "/b"), [9]);
    let orders: Vec<u64> = receiver
        .deliveries("/a")
        .iter()
        .map(|one| one.order)
        .collect();
    assert_eq!(orders, [0, 1, 2]);
    let requests = receiver.requests();
    assert_eq!(requests[2].order, 1);
    assert_eq!(requests[0].headers["x-sent"], "a, b");
}

#[tokio::test]
async fn a_script_is_used_up_and_then_the_default_counts() {
    let receiver = Receiver::start().await.unwrap();
    receiver.by_default("/a", Behaviour::Respond(202));
    let refusal = Behaviour::RetryAfter {
        status: 429,
        seconds: 7,
    };
    receiver.script("/a", [Behaviour::Respond(503), refusal]);
    assert!(
        post(&receiver, "/a", &envelope(1))
            .await
            .starts_with("HTTP/1.1 503")
    );
    let refused = post(&receiver, "/a", &envelope(1)).await;
    assert!(
        refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: 7"),
        "{refused}"
    );
    assert!(ids(&receiver, "/a").is_empty());
    assert!(
        post(&receiver, "/a", &envelope(1))
            .await
            .starts_with("HTTP/1.1 202")
    );
    assert_eq!(ids(&receiver, "/a"), [1]);
}

#[tokio::test]
async fn what_is_no_envelope_is_refused_and_recorded() {
    let receiver = Receiver::start().await.unwrap();
    receiver.script("/a", [Behaviour::Respond(503)]);
    assert!(
        post(&receiver, "/a", "{}")
            .await
            .starts_with("HTTP/1.1 400")
    );
    assert!(receiver.requests()[0].envelopes.is_err());
    assert!(
        post(&receiver, "/a", &envelope(1))
            .await
            .starts_with("HTTP/1.1 503")
    );
}

#[tokio::test]
async fn a_message_can_be_accepted_without_an_answer() {
    let receiver = Receiver::start().await.unwrap();
    receiver.script("/a", [Behaviour::FailAfterAccept]);
    let stream = open(&receiver, "/a", &envelope(1)).await;
    assert_eq!(answer(stream).await.unwrap_or_default(), "");
    assert_eq!(ids(&receiver, "/a"), [1]);
    assert_eq!(receiver.requests()[0].outcome, Outcome::Severed);
}

#[tokio::test]
async fn a_hanging_request_is_answered_when_released() {
    let receiver = Receiver::start().await.unwrap();
    receiver.script("/a", [Behaviour::Hang]);
    let stream = open(&receiver, "/a", &envelope(1)).await;
    receiver
        .wait_until(SOON, "the request", |requests| requests.len() == 1)
        .await
        .unwrap();
    assert!(ids(&receiver, "/a").is_empty());
    receiver.release();
    assert!(answer(stream).await.unwrap().starts_with("HTTP/1.1 200"));
    receiver.wait_for_deliveries("/a", 1, SOON).await.unwrap();
}

#[tokio::test]
async fn a_sender_that_goes_away_delivered_nothing() {
    let receiver = Receiver::start().await.unwrap();
    receiver.by_default("/a", Behaviour::Hang);
    let stream = open(&receiver, "/a", &envelope(1)).await;
    receiver
        .wait_until(SOON, "the request", |requests| requests.len() == 1)
        .await
        .unwrap();
    drop(stream);
    let gone = |requests: &[Request]| requests[0].outcome == Outcome::Abandoned;
    receiver
        .wait_until(SOON, "the sender to be missed", gone)
        .await
        .unwrap();
    assert!(ids(&receiver, "/a").is_empty());
}

#[tokio::test]
async fn a_delayed_answer_is_an_answer() {
    let receiver = Receiver::start().await.unwrap();
    receiver.script("/a", [Behaviour::Delay(Duration::from_millis(20))]);
    assert!(
        post(&receiver, "/a", &envelope(1))
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert_eq!(ids(&receiver, "/a"), [1]);
}

#[tokio::test]
async fn waiting_in_vain_tells_what_came() {
    let receiver = Receiver::start().await.unwrap();
    post(&receiver, "/a", &envelope(1)).await;
    let waited = receiver
        .wait_for_deliveries("/a", 2, Duration::from_millis(20))
        .await;
    let text = waited.unwrap_err().to_string();
    assert!(
        text.ends_with("last seen: /a: 1 requests, 1 accepted messages"),
        "{text}"
    );
}
