//! A database of our own, and the program run against it.

use std::{process::Stdio, time::Duration};

use tide_catalog::{PgConnection, connection::Server, schema};
use tide_sandbox::postgres::{Auth, Postgres, PostgresOptions};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::timeout,
};

/// How long anything may take.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A PostgreSQL server with one database.
pub(crate) struct Fixture {
    pub(crate) postgres: Postgres,
    pub(crate) url: String,
}

/// How a run of the program ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Fixture {
    /// A server whose database has no catalog.
    pub(crate) async fn empty() -> Self {
        let auth = Auth::Password("geheim".to_owned());
        let options = PostgresOptions {
            auth,
            ..PostgresOptions::default()
        };
        let postgres = Postgres::start(options).await.unwrap();
        let url = postgres.create_database("shop").await.unwrap();
        Self { postgres, url }
    }

    /// A server whose database has a catalog.
    pub(crate) async fn migrated() -> Self {
        let fixture = Self::empty().await;
        schema::migrate(&mut fixture.connection().await)
            .await
            .unwrap();
        fixture
    }

    /// A server with a catalog, outbox `order_events` and these pipelines on it.
    pub(crate) async fn with_pipelines(names: &[&str]) -> Self {
        let fixture = Self::migrated().await;
        fixture.ok(&["outbox", "create", "order_events"]).await;
        for name in names {
            let file = format!("name: {name}\noutbox: order_events\nconfig: {{sink_type: 'null'}}");
            fixture
                .fed(&["pipeline", "apply", "-f", "-"], &file)
                .await
                .expect(0);
        }
        fixture
    }

    pub(crate) fn server(&self) -> Server {
        Server::parse(&self.url, "tidectl test").unwrap()
    }

    pub(crate) async fn connection(&self) -> PgConnection {
        self.server().connect().await.unwrap()
    }

    /// The program, asking this database and nobody else.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = tidectl(words);
        command
            .env("TIDE_POSTGRES_URL", &self.url)
            .args(["--source", "database"]);
        command
    }

    pub(crate) async fn run(&self, words: &[&str]) -> Run {
        finish(self.command(words), "").await
    }

    /// Runs the program with something on standard input.
    pub(crate) async fn fed(&self, words: &[&str], input: &str) -> Run {
        finish(self.command(words), input).await
    }

    /// Runs the program, which must succeed, and returns what it printed.
    pub(crate) async fn ok(&self, words: &[&str]) -> String {
        self.run(words).await.expect(0).stdout
    }

    /// Runs the program with `-o json`, and reads it.
    pub(crate) async fn json(&self, words: &[&str]) -> serde_json::Value {
        let run = self.run(&[words, &["-o", "json"]].concat()).await;
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
    }
}

impl Run {
    /// Checks the exit code.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Checks that stderr contains this.
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is not in {self:#?}");
        self
    }

    /// Checks that stdout contains this.
    pub(crate) fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "{text:?} is not in {self:#?}");
        self
    }
}

/// The program, with nothing of our own environment that could steer it.
pub(crate) fn tidectl(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidectl"));
    command
        .args(words)
        .env_clear()
        .env("USER", "ana")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs a program to its end.
pub(crate) async fn finish(mut command: Command, input: &str) -> Run {
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that does not read its input may have ended already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = timeout(SOON, child.wait_with_output())
        .await
        .expect("it ends")
        .unwrap();
    Run {
        code: output.status.code().expect("it ends by itself"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A program that goes on for a while, and what it says on stderr.
pub(crate) struct Running {
    child: Child,
    stderr: Lines<BufReader<ChildStderr>>,
    said: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Self {
            child,
            stderr,
            said: String::new(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it still runs")
    }

    /// Waits until a line of stderr contains this.
    pub(crate) async fn until_says(&mut self, text: &str) -> String {
        loop {
            let line = timeout(SOON, self.stderr.next_line()).await;
            match line
                .unwrap_or_else(|_| panic!("{text:?} is not in {:?}", self.said))
                .unwrap()
            {
                Some(line) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                None => panic!("it ended, and {text:?} is not in {:?}", self.said),
            }
        }
    }

    pub(crate) async fn end(mut self) -> Run {
        let rest = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                self.said.push_str(&line);
                self.said.push('\n');
            }
        };
        timeout(SOON, rest).await.expect("it ends");
        let output = timeout(SOON, self.child.wait_with_output())
            .await
            .expect("it ends")
            .unwrap();
        Run {
            code: output.status.code().expect("it ends by itself"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: self.said,
        }
    }
}

/// Lines of stdout, one by one.
pub(crate) struct StdoutLines(Lines<BufReader<ChildStdout>>);

pub(crate) fn lines(stdout: ChildStdout) -> StdoutLines {
    StdoutLines(BufReader::new(stdout).lines())
}

impl StdoutLines {
    pub(crate) async fn next(&mut self) -> String {
        let line = timeout(SOON, self.0.next_line())
            .await
            .expect("a line")
            .unwrap();
        line.expect("it still prints")
    }
}
