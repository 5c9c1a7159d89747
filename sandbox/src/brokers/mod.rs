//! Real message brokers, thrown away afterwards: NATS with JetStream, Redis, RabbitMQ.
//!
//! Each runs on ports of its own, keeps its data over a restart, and reads back what it
//! got as [`Delivery`](crate::envelope::Delivery)s, after checking that the broker's own headers
//! say the same as the envelope.

mod error;
mod nats;
mod rabbitmq;
mod readback;
mod redis;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    leftovers::Scratch,
    ports::{self, Port},
    process::{Process, ProcessSpec},
    wait,
};

pub use self::{
    error::BrokerError,
    nats::{Nats, StreamReader},
    rabbitmq::RabbitMq,
    readback::Held,
    redis::{Redis, RedisOptions},
};

/// How long one may take to answer; RabbitMQ takes some seconds even on an idle machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The process of a broker, and how to start it again. Dropping it kills it.
#[derive(Debug)]
pub struct Broker {
    process: Process,
    spec: ProcessSpec,
    port: Port,
}

impl Broker {
    /// Starts a program that will listen on a port of its own.
    fn start(
        program: &'static str,
        package: &'static str,
        scratch: &Scratch,
        port: Port,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        env: Vec<(String, String)>,
    ) -> Result<Self, BrokerError> {
        if !Path::new(program).is_file() {
            return Err(BrokerError::Missing { program, package });
        }
        let directory = scratch.directory(package).map_err(BrokerError::Directory)?;
        let spec = ProcessSpec {
            args: arguments.into_iter().map(Into::into).collect(),
            env,
            log_path: directory.join("log"),
            ..ProcessSpec::new(package, program, scratch)
        };
        let process = Process::spawn(spec.clone()).map_err(BrokerError::Process)?;
        Ok(Self {
            process,
            spec,
            port,
        })
    }

    /// The port that clients connect to, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process, to freeze it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it with SIGKILL. What it had acknowledged is on disk.
    pub async fn kill(&mut self) -> Result<(), BrokerError> {
        self.process.kill9().map_err(BrokerError::Process)?;
        let ended = self.process.wait(PATIENCE).await;
        ended.map(drop).map_err(BrokerError::Process)
    }

    /// Starts it again where it was.
    fn start_again(&mut self) -> Result<(), BrokerError> {
        self.process = Process::spawn(self.spec.clone()).map_err(BrokerError::Process)?;
        Ok(())
    }

    /// Waits until `ask` succeeds; fails early if the process ends.
    async fn answering(
        &mut self,
        mut ask: impl AsyncFnMut() -> Result<(), BrokerError>,
    ) -> Result<(), BrokerError> {
        let process = &mut self.process;
        let answered = wait::eventually(PATIENCE, "the broker to answer", async || {
            if !process.is_running().map_err(|error| error.to_string())? {
                return Ok(Some(false));
            }
            ask()
                .await
                .map(|()| Some(true))
                .map_err(|error| error.chain())
        });
        let what = match answered.await {
            Ok(true) => return Ok(()),
            Ok(false) => "it has ended".to_owned(),
            Err(timed_out) => timed_out.to_string(),
        };
        Err(BrokerError::Silent {
            what,
            log: self.process.log_tail(20),
        })
    }
}

fn reserve() -> Result<Port, BrokerError> {
    ports::reserve().map_err(BrokerError::Port)
}

fn write(path: PathBuf, text: &str) -> Result<PathBuf, BrokerError> {
    match std::fs::write(&path, text) {
        Ok(()) => Ok(path),
        Err(source) => Err(BrokerError::Write { path, source }),
    }
}
