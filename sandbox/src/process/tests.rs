use std::os::unix::process::ExitStatusExt as _;

use super::*;
use crate::proc::Identity;

const SOON: Duration = Duration::from_secs(10);

async fn shell(script: &str) -> (Process, Scratch) {
    let scratch = Scratch::create("process").await.unwrap();
    let args = vec!["-c".into(), script.into()];
    let spec = ProcessSpec {
        args,
        ..ProcessSpec::new("shell", "/bin/sh", &scratch)
    };
    (Process::spawn(spec).unwrap(), scratch)
}

#[tokio::test]
async fn output_and_errors_go_to_the_log() {
    let (mut process, _scratch) = shell("echo one; echo two >&2; exec sleep 300").await;
    assert_eq!(process.wait_for_log("tw", SOON).await.unwrap(), "two");
    assert_eq!(process.log_tail(1), "two");
    assert_eq!(process.log_tail(9), "one\ntwo");
    assert!(process.is_running().unwrap());
}

#[tokio::test]
async fn a_second_process_does_not_find_the_words_of_the_first() {
    let scratch = Scratch::create("process").await.unwrap();
    let spec = |word: &str| ProcessSpec {
        args: vec!["-c".into(), format!("echo {word}").into()],
        ..ProcessSpec::new("shell", "/bin/sh", &scratch)
    };
    let mut first = Process::spawn(spec("ready")).unwrap();
    first.wait_for_log("ready", SOON).await.unwrap();
    let mut second = Process::spawn(spec("other")).unwrap();
    let error = second.wait_for_log("ready", SOON).await.unwrap_err();
    assert!(
        matches!(&error, ProcessError::Ended { tail, .. } if tail == "other"),
        "{error}"
    );
}

#[tokio::test]
async fn killed_means_killed_even_when_frozen() {
    let (mut process, _scratch) = shell("exec sleep 300").await;
    process.freeze().unwrap();
    assert!(process.is_running().unwrap());
    process.kill9().unwrap();
    let status = process.wait(SOON).await.unwrap();
    assert_eq!(status.signal(), Some(9));
    assert!(matches!(process.thaw(), Err(ProcessError::Ended { .. })));
}

#[tokio::test]
async fn a_frozen_process_acts_on_sigterm_only_once_it_is_thawed() {
    let (mut process, _scratch) =
        shell("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done").await;
    process.wait_for_log("up", SOON).await.unwrap();
    process.freeze().unwrap();
    process.terminate().unwrap();
    let waited = process.wait(Duration::from_millis(50)).await;
    assert!(matches!(waited, Err(ProcessError::StillRunning { .. })));
    process.thaw().unwrap();
    assert_eq!(process.wait(SOON).await.unwrap().code(), Some(3));
    assert_eq!(process.log_tail(1), "bye");
}

#[tokio::test]
async fn a_dropped_process_and_its_children_are_gone() {
    let (mut process, _scratch) = shell("sleep 300 & echo child $!; wait").await;
    let line = process.wait_for_log("child", SOON).await.unwrap();
    let child = Identity::of(line["child ".len()..].parse().unwrap()).unwrap();
    assert!(child.is_alive());
    drop(process);
    wait::eventually(SOON, "the grandchild to end", async || {
        Ok::<_, std::convert::Infallible>((!child.is_alive()).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let scratch = Scratch::create("process").await.unwrap();
    let error = Process::spawn(ProcessSpec::new("ghost", "/no/such", &scratch)).unwrap_err();
    assert_eq!(error.to_string(), "could not start ghost (/no/such)");
}

#[test]
fn what_configures_a_real_fleet_is_not_passed_on() {
    for name in ["TIDE_POSTGRES_URL", "TIDE_CONTROL_PLANE", "TIDE_CONFIG"] {
        assert!(configures_tide(OsStr::new(name)), "{name}");
    }
    for name in ["TIDE_BIN_DIR", "TIDE_PG_BIN", "TIDE_LOG", "PATH"] {
        assert!(!configures_tide(OsStr::new(name)), "{name}");
    }
}
