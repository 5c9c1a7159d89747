//! The running server of a cluster: a direct child that is signalled and waited for.

use std::{
    convert::Infallible,
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use nix::{errno::Errno, sys::signal::Signal};
use tokio::time::{Instant, sleep};

use super::{Mode, PATIENCE, PostgresError, cluster::Cluster};
use crate::{
    leftovers::{Ending, Scratch},
    proc::{self, Identity},
    process::Log,
    wait,
};

/// The pause between two looks at the pid file.
const POLL: Duration = Duration::from_millis(5);
/// How long backends may outlive a killed postmaster before they are killed too.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);
/// How many lines of the server's log an error shows.
const TAIL: usize = 20;

#[derive(Debug)]
pub(super) struct Server {
    child: Option<Child>,
    log: Log,
    scratch: Scratch,
}

impl Server {
    /// Starts the server and waits until it says that it accepts connections.
    pub(super) async fn start(cluster: &Cluster) -> Result<Self, PostgresError> {
        use std::os::unix::process::CommandExt as _;
        let path = cluster.log_path();
        let (log, [output, errors]) =
            Log::open(&path).map_err(|source| PostgresError::Write { path, source })?;
        let program = cluster.binaries.join("postgres");
        let child = cluster
            .account
            .command(&program)
            .arg("-D")
            .arg(cluster.data())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| PostgresError::Run { program, source })?;
        let pid = child.id();
        // From here on, whatever goes wrong, dropping it ends the child.
        let mut server = Self {
            child: Some(child),
            log,
            scratch: cluster.scratch.clone(),
        };
        server
            .scratch
            .adopt(pid, Ending::Quit)
            .map_err(PostgresError::Scratch)?;
        server.ready(cluster.data(), pid).await?;
        Ok(server)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(super) fn log_tail(&self, lines: usize) -> String {
        self.log.tail(lines)
    }

    /// Signals the postmaster, then its children: a stopped postmaster starts no more of them.
    pub(super) fn signal_all(&self, signal: Signal) -> Result<(), PostgresError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let postmaster = Identity::of(pid).into_iter();
        postmaster
            .chain(proc::children_of(pid))
            .try_for_each(|process| process.signal(signal))
            .map_err(|source| PostgresError::Signal { signal, source })
    }

    /// Stops the server, if it runs, and waits until every process of it has gone.
    pub(super) async fn stop(&mut self, mode: Mode) -> Result<(), PostgresError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let backends = proc::children_of(pid);
        match mode {
            Mode::Fast => self.signal(Signal::SIGINT)?,
            Mode::Immediate => self.signal(Signal::SIGQUIT)?,
            Mode::Kill => self.signal(Signal::SIGKILL)?,
        }
        // A frozen server gets the signal only when it goes on.
        self.signal_all(Signal::SIGCONT)?;
        let child = &mut self.child;
        let ended = wait::eventually(PATIENCE, "the server to stop", async || match child {
            Some(running) => running.try_wait(),
            None => Ok(None),
        });
        if ended.await.is_err() {
            return Err(PostgresError::NotStopped {
                log: self.log.tail(TAIL),
            });
        }
        self.child = None;
        let _ = self.scratch.disown(pid);
        // A killed postmaster takes nobody along; a new one refuses to start beside its backends.
        let gone = wait::eventually(ORPHAN_GRACE, "the backends to go", async || {
            Ok::<_, Infallible>((!backends.iter().any(|one| one.is_alive())).then_some(()))
        });
        if gone.await.is_err() {
            for backend in &backends {
                let signalled = backend.signal(Signal::SIGKILL);
                signalled.map_err(|source| PostgresError::Signal {
                    signal: Signal::SIGKILL,
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), PostgresError> {
        let postmaster = self.pid().and_then(Identity::of);
        let signalled: Result<(), Errno> = postmaster.map_or(Ok(()), |one| one.signal(signal));
        signalled.map_err(|source| PostgresError::Signal { signal, source })
    }

    async fn ready(&mut self, data: &Path, pid: u32) -> Result<(), PostgresError> {
        let deadline = Instant::now() + PATIENCE;
        while !says_ready(data, pid) {
            let Some(child) = &mut self.child else { break };
            if child.try_wait().map_err(PostgresError::Wait)?.is_some() {
                return Err(PostgresError::Died {
                    log: self.log.tail(TAIL),
                });
            }
            if Instant::now() >= deadline {
                return Err(PostgresError::NotReady {
                    log: self.log.tail(TAIL),
                });
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    /// Stops the server at once, blocking for the few milliseconds that it takes.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = child.id();
        if let Some(postmaster) = Identity::of(pid) {
            // A server that cannot be signalled is gone: waiting for it then returns at once.
            let _ = postmaster.signal(Signal::SIGQUIT);
            for process in proc::children_of(pid).into_iter().chain([postmaster]) {
                let _ = process.signal(Signal::SIGCONT);
            }
        }
        let _ = child.wait();
        let _ = self.scratch.disown(pid);
    }
}

/// Whether the pid file is this server's and its eighth line says `ready`.
///
/// A killed server leaves its file behind, with its own id and `ready` in it.
fn says_ready(data: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else {
        return false;
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
}
