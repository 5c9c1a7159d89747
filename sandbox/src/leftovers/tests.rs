use std::process::{Command, Stdio};

use super::*;

fn sleeper() -> std::process::Child {
    Command::new("sleep")
        .arg("300")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// What `kill -9` of the owner leaves: the directory stays, the lock is gone.
fn abandon(scratch: Scratch) -> PathBuf {
    let inner = Arc::try_unwrap(scratch.0).unwrap();
    let copy = inner.path.with_file_name("kept");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&inner.path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }
    copy
}

#[tokio::test]
async fn a_dropped_scratch_leaves_nothing() {
    let scratch = Scratch::create("drop").await.unwrap();
    let path = scratch.path().to_owned();
    let first = scratch.directory("logs").unwrap();
    let second = scratch.directory("logs").unwrap();
    assert_ne!(first, second);
    drop(scratch);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_living_owner_is_left_alone() {
    let scratch = Scratch::create("living").await.unwrap();
    let other = Scratch::create("other").await.unwrap();
    assert!(scratch.path().is_dir() && other.path().is_dir());
}

#[tokio::test]
async fn what_a_dead_owner_left_is_ended_and_removed() {
    let area = tempfile::tempdir().unwrap();
    let scratch = Scratch::create_in(area.path(), "dead").unwrap();
    let mut child = sleeper();
    let stopped = Identity::of(child.id()).unwrap();
    stopped.signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    scratch.adopt(child.id(), Ending::Quit).unwrap();
    let directory = abandon(scratch);

    let swept = sweep::sweep(area.path()).await;

    assert_eq!(
        swept,
        Swept {
            directories: vec![directory],
            processes: vec![child.id()]
        }
    );
    assert!(!child.wait().unwrap().success());
}

#[tokio::test]
async fn a_process_that_got_a_recorded_id_later_is_spared() {
    let area = tempfile::tempdir().unwrap();
    let scratch = Scratch::create_in(area.path(), "reused").unwrap();
    let mut child = sleeper();
    scratch.adopt(child.id(), Ending::Kill).unwrap();
    scratch
        .change(|state| state.children[0].identity.start -= 1)
        .unwrap();
    abandon(scratch);

    let swept = sweep::sweep(area.path()).await;

    assert!(swept.processes.is_empty());
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_disowned_child_is_forgotten() {
    let area = tempfile::tempdir().unwrap();
    let scratch = Scratch::create_in(area.path(), "disowned").unwrap();
    scratch.adopt(std::process::id(), Ending::Kill).unwrap();
    scratch.disown(std::process::id()).unwrap();
    assert!(State::load(scratch.path()).unwrap().children.is_empty());
}

#[tokio::test]
async fn a_removal_that_was_interrupted_is_finished() {
    let area = tempfile::tempdir().unwrap();
    let half = area.path().join("half");
    fs::create_dir_all(half.join("data")).unwrap();
    assert_eq!(sweep::sweep(area.path()).await.directories, [half]);
}

#[tokio::test]
async fn what_is_kept_outlives_its_owner() {
    let scratch = Scratch::create("keep").await.unwrap();
    let (clone, before) = (scratch.clone(), scratch.path().to_owned());
    fs::write(before.join("agent.log"), "hello").unwrap();
    let kept = scratch.keep().unwrap();
    drop(clone);
    assert!(!before.exists());
    assert_eq!(fs::read_to_string(kept.join("agent.log")).unwrap(), "hello");
    assert!(!sweep().await.unwrap().directories.contains(&kept));
    fs::remove_dir_all(kept).unwrap();
}
