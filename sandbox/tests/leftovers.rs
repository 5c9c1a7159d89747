//! What `kill -9` of an owner leaves is gone after the next start.

use std::{env, path::Path, time::Duration};

use sqlx::{Connection as _, PgConnection};
use tide_sandbox::{
    leftovers::{self, Scratch},
    process::{Process, ProcessSpec},
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_server_whose_owner_was_killed_is_swept() {
    let scratch = Scratch::create("test").await.unwrap();
    let test = env::current_exe().unwrap();
    let target = test
        .parent()
        .and_then(Path::parent)
        .expect("tests live in target/*/deps");
    let example = target.join("examples/throw_away_cluster");
    let spec = ProcessSpec {
        scratch: None,
        ..ProcessSpec::new("owner", example, &scratch)
    };
    let mut owner = Process::spawn(spec).unwrap();
    let line = owner.wait_for_log(" in ", SOON).await.unwrap();
    let (url, directory) = line.split_once(" in ").expect("it was found by that");
    owner.kill9().unwrap();
    owner.wait(SOON).await.unwrap();
    let orphan = PgConnection::connect(url).await;
    assert!(
        orphan.is_ok() || !Path::new(directory).exists(),
        "left behind, or swept already"
    );
    drop(orphan);

    // Another test may sweep at the same time: what counts is that it is gone.
    leftovers::sweep().await.unwrap();
    eventually(SOON, "the orphan to go", async || {
        let gone = PgConnection::connect(url).await.is_err() && !Path::new(directory).exists();
        Ok::<_, std::convert::Infallible>(gone.then_some(()))
    })
    .await
    .unwrap();
}
