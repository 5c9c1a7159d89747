//! What a person sees, who sits at a terminal: colours, questions, and a screen that is redrawn.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
};

use nix::pty::{Winsize, openpty};
use tide_sandbox::wait::eventually;
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{
    agent::StandIn,
    fixture::{Fixture, SOON},
};

/// A program at a terminal of its own.
struct Session {
    child: Child,
    keyboard: File,
    screen: watch::Receiver<String>,
    _reader: JoinSet<()>,
}

impl Session {
    fn start(mut command: Command) -> Self {
        let size = Winsize {
            ws_row: 40,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = openpty(Some(&size), None).unwrap();
        let slave = || -> OwnedFd { terminal.slave.try_clone().unwrap() };
        command
            .env("TERM", "xterm")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave());
        let child = command.spawn().unwrap();
        drop(command);
        drop(terminal.slave);
        let keyboard = File::from(terminal.master.try_clone().unwrap());
        let mut output = File::from(terminal.master);
        let (printed, screen) = watch::channel(String::new());
        let mut reader = JoinSet::new();
        reader.spawn_blocking(move || {
            let mut buffer = [0; 4096];
            // Reading fails once the last program at the terminal has ended.
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                printed.send_modify(|screen| screen.push_str(&text));
            }
        });
        Self {
            child,
            keyboard,
            screen,
            _reader: reader,
        }
    }

    async fn until_shows(&mut self, text: &str) {
        let shown = timeout(SOON, self.screen.wait_for(|screen| screen.contains(text))).await;
        let is_shown = matches!(shown, Ok(Ok(_)));
        drop(shown);
        assert!(is_shown, "{text:?} is not in {:?}", self.screen.borrow());
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    async fn end(mut self) -> (i32, String) {
        let status = timeout(SOON, self.child.wait())
            .await
            .expect("it ends")
            .unwrap();
        // The channel closes when everything is read.
        timeout(SOON, async { while self.screen.changed().await.is_ok() {} })
            .await
            .unwrap();
        let screen = self.screen.borrow().clone();
        (status.code().expect("it ends by itself"), screen)
    }
}

#[tokio::test]
async fn destroying_asks_and_no_is_the_default() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let delete = ["pipeline", "delete", "orders"];
    for (answer, code) in [("\n", 1), ("n\n", 1), ("y\n", 0)] {
        let mut session = Session::start(fixture.command(&delete));
        session
            .until_shows("delete pipeline orders and its position? [y/N] ")
            .await;
        session.types(answer);
        let (exit, screen) = session.end().await;
        assert_eq!(exit, code, "{screen}");
    }
    assert_eq!(
        fixture.json(&["pipeline", "ls"]).await,
        serde_json::json!([])
    );
}

#[tokio::test]
async fn ctrl_c_at_a_question_changes_nothing() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let mut session = Session::start(fixture.command(&["pipeline", "delete", "orders"]));
    session.until_shows("[y/N] ").await;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(session.child.id().unwrap() as i32),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let (exit, screen) = session.end().await;
    assert_eq!(exit, 130, "{screen}");
    assert_eq!(fixture.json(&["pipeline", "ls"]).await[0]["name"], "orders");
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let fixture = Fixture::migrated().await;
    let (_, coloured) = Session::start(fixture.command(&["fleet", "status"]))
        .end()
        .await;
    assert!(
        coloured.contains("\x1b[1;31mDEGRADED\x1b[0m"),
        "{coloured:?}"
    );
    let mut no_color = fixture.command(&["fleet", "status"]);
    no_color.env("NO_COLOR", "1");
    let flag = fixture.command(&["fleet", "status", "--no-color"]);
    for command in [no_color, flag] {
        let (_, plain) = Session::start(command).end().await;
        assert!(!plain.contains("\x1b["), "{plain:?}");
    }
}

#[tokio::test]
async fn a_watched_fleet_is_redrawn_until_ctrl_c() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let mut session = Session::start(fixture.command(&["fleet", "status", "--watch"]));
    session.until_shows("no agent is alive").await;
    let _agent = StandIn::start(&fixture, "relay-1", &["orders"]).await;
    session.until_shows("HEALTHY").await;
    let pid = nix::unistd::Pid::from_raw(session.child.id().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let (exit, screen) = session.end().await;
    assert_eq!(exit, 130);
    assert!(screen.starts_with("\x1b[H"), "{screen:?}");
}

#[tokio::test]
async fn progress_keeps_one_line_at_a_terminal() {
    let fixture = Fixture::with_pipelines(&["orders"]).await;
    let mut leaving = StandIn::start(&fixture, "relay-2", &["orders"]).await;
    let _taking = StandIn::start(&fixture, "relay-1", &[]).await;
    let mut session = Session::start(fixture.command(&["drain", "relay-2"]));
    session.until_shows("\r\x1b[K0/1 moved").await;
    leaving.release(&["orders"]).await;
    session.until_shows("\r\x1b[K1/1 moved").await;
    leaving.obey().await;
    let (exit, screen) = session.end().await;
    assert_eq!(exit, 0);
    assert!(
        screen.ends_with("\r\x1b[Krelay-2 is safe to stop\r\n"),
        "{screen:?}"
    );
}

#[tokio::test]
async fn output_that_nobody_reads_ends_a_watch_quietly() {
    let fixture = Fixture::migrated().await;
    let mut command = fixture.command(&["fleet", "status", "--watch", "-o", "json"]);
    let mut child = command.spawn().unwrap();
    let mut lines = crate::fixture::lines(child.stdout.take().unwrap());
    lines.next().await;
    drop(lines);
    let _agent = StandIn::start(&fixture, "relay-1", &[]).await;
    let ended = eventually(SOON, "the end", async || child.try_wait())
        .await
        .unwrap();
    assert_eq!(ended.code(), Some(0));
}
