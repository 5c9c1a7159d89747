//! A program under test: started, frozen, thawed, killed, and its log read.
//!
//! Every process runs in a process group of its own, so that Ctrl-C at a terminal reaches only
//! the owner, which then decides in which order things end. Dropping a [`Process`] kills its
//! whole group.
//!
//! # Example
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> anyhow::Result<()> {
//! # use std::time::Duration;
//! use tide_sandbox::{leftovers::Scratch, process::{Process, ProcessSpec}};
//!
//! let scratch = Scratch::create("example").await?;
//! let mut greeter = Process::spawn(ProcessSpec {
//!     args: vec!["-c".into(), "echo hello; exec sleep 60".into()],
//!     ..ProcessSpec::new("greeter", "/bin/sh", &scratch)
//! })?;
//! assert_eq!(greeter.wait_for_log("hello", Duration::from_secs(5)).await?, "hello");
//! greeter.freeze()?;
//! greeter.kill9()?;
//! greeter.wait(Duration::from_secs(5)).await?;
//! # Ok(()) }
//! ```

mod error;
mod log;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{
    binaries,
    leftovers::{Ending, Scratch},
    postgres, wait,
};

pub use self::error::ProcessError;
pub(crate) use self::log::Log;

/// How many lines of a log an error shows.
const TAIL: usize = 20;

/// What to start and where its output goes.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// The name in errors.
    pub name: String,
    /// The program, see [`binaries::find`].
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables on top of our own, of which those that configure Tide are left out:
    /// what is exported for a real fleet must not reach a throw-away one.
    pub env: Vec<(String, String)>,
    /// Standard output and error are appended here.
    pub log_path: PathBuf,
    /// Where the child is recorded, so that it does not outlive us for good.
    pub scratch: Option<Scratch>,
}

/// A running (or ended) child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: u32,
    ended: Option<ExitStatus>,
    log: Log,
    scratch: Option<Scratch>,
}

impl ProcessSpec {
    /// A program without arguments that logs to `<scratch>/<name>.log` and is recorded there.
    pub fn new(name: &str, program: impl Into<PathBuf>, scratch: &Scratch) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            log_path: scratch.path().join(format!("{name}.log")),
            scratch: Some(scratch.clone()),
        }
    }
}

impl Process {
    /// Starts the program with nothing on standard input. Must be called inside a tokio runtime.
    pub fn spawn(spec: ProcessSpec) -> Result<Self, ProcessError> {
        let ProcessSpec {
            name,
            program,
            args,
            env,
            log_path,
            scratch,
        } = spec;
        let opened = Log::open(&log_path);
        let (log, [output, errors]) = opened.map_err(|source| ProcessError::Log {
            name: name.clone(),
            path: log_path,
            source,
        })?;
        let mut command = Command::new(&program);
        for name in std::env::vars_os().map(|(name, _)| name) {
            if configures_tide(&name) {
                command.env_remove(name);
            }
        }
        let child = command
            .args(args)
            .envs(env)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ProcessError::Spawn {
                name: name.clone(),
                program,
                source,
            })?;
        let pid = child
            .id()
            .expect("a child that was not waited for has an id");
        let process = Self {
            name,
            child,
            pid,
            ended: None,
            log,
            scratch,
        };
        if let Some(scratch) = &process.scratch {
            scratch
                .adopt(pid, Ending::Kill)
                .map_err(|source| ProcessError::Record {
                    name: process.name.clone(),
                    source,
                })?;
        }
        Ok(process)
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id; after the end it may mean another process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// SIGKILL: it ends without a word. Returns at once; [`wait`](Self::wait) for the end.
    pub fn kill9(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::SIGKILL)
    }

    /// SIGSTOP: it keeps its connections and does nothing, until [`thaw`](Self::thaw).
    pub fn freeze(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT: it goes on as if no time had passed.
    pub fn thaw(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::SIGCONT)
    }

    /// SIGTERM: it is asked to end in good order.
    pub fn terminate(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::SIGTERM)
    }

    /// Any other signal, SIGHUP or SIGINT say. An error if it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        // A child that was not reaped keeps its id, so this can hit no other process.
        if let Some(status) = self.status()? {
            return Err(self.has_ended(status));
        }
        kill(Pid::from_raw(self.pid as i32), signal).map_err(|source| ProcessError::Signal {
            name: self.name.clone(),
            signal,
            source,
        })
    }

    /// Waits until it has ended, for at most `within`. Repeatable.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus, ProcessError> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        match timeout(within, self.child.wait()).await {
            Ok(Ok(status)) => {
                self.note_end(status);
                Ok(status)
            }
            Ok(Err(source)) => Err(ProcessError::Wait {
                name: self.name.clone(),
                source,
            }),
            Err(_) => Err(ProcessError::StillRunning {
                name: self.name.clone(),
                within,
                tail: self.log_tail(TAIL),
            }),
        }
    }

    /// Whether it has not ended; a frozen process is running.
    pub fn is_running(&mut self) -> Result<bool, ProcessError> {
        Ok(self.status()?.is_none())
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        self.log.path()
    }

    /// The last `lines` lines that this process (not an earlier one) wrote.
    pub fn log_tail(&self, lines: usize) -> String {
        self.log.tail(lines)
    }

    /// Waits until a line of its output contains `pattern`, and returns the first that does.
    ///
    /// Only what this process wrote counts, not what an earlier one left in the same file. Fails
    /// early if the process ends without having written it.
    pub async fn wait_for_log(
        &mut self,
        pattern: &str,
        within: Duration,
    ) -> Result<String, ProcessError> {
        let what = format!("`{pattern}` in the log of {}", self.name);
        let waited = wait::eventually(within, what, async || {
            // The end is looked at first: what was written before it is then all there is.
            let ended = self.status();
            if let Some(line) = self.log.find(pattern).map_err(|error| error.to_string())? {
                return Ok(Some(Ok(line)));
            }
            match ended {
                Ok(None) => Err(format!("a log that ends with {:?}", self.log_tail(1))),
                Ok(Some(status)) => Ok(Some(Err(self.has_ended(status)))),
                Err(error) => Ok(Some(Err(error))),
            }
        });
        match waited.await {
            Ok(outcome) => outcome,
            Err(source) => Err(ProcessError::Silent {
                name: self.name.clone(),
                tail: self.log_tail(TAIL),
                source,
            }),
        }
    }

    fn status(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        if self.ended.is_none() {
            let waited = self.child.try_wait();
            let status = waited.map_err(|source| ProcessError::Wait {
                name: self.name.clone(),
                source,
            })?;
            if let Some(status) = status {
                self.note_end(status);
            }
        }
        Ok(self.ended)
    }

    fn note_end(&mut self, status: ExitStatus) {
        self.ended = Some(status);
        if let Some(scratch) = &self.scratch {
            // A stale record is harmless: the start time tells it from a later process.
            let _ = scratch.disown(self.pid);
        }
    }

    fn has_ended(&self, status: ExitStatus) -> ProcessError {
        ProcessError::Ended {
            name: self.name.clone(),
            status,
            tail: self.log_tail(TAIL),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed without a thaw before: a frozen owner must not get to do one more thing. The
        // runtime reaps it.
        if !matches!(self.status(), Ok(Some(_))) {
            let _ = killpg(Pid::from_raw(self.pid as i32), Signal::SIGKILL);
        }
    }
}

/// The log's verbosity.
const LOG: &str = "TIDE_LOG";

/// Where programs are is no configuration: a child that starts children has to find them too. And
/// who asks for more words wants them from everybody.
fn configures_tide(variable: &OsStr) -> bool {
    variable.as_encoded_bytes().starts_with(b"TIDE_")
        && ![binaries::BIN_DIR, postgres::BIN_DIR, LOG].contains(&&*variable.to_string_lossy())
}

#[cfg(test)]
mod tests;
