//! Brokers that speak TLS, with a certificate that only `SSL_CERT_FILE` makes good.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, ensure};
use tide_sandbox::{
    brokers::{Nats, RabbitMq, Redis, RedisOptions},
    leftovers::Scratch,
    ports,
};

use super::{contract, nats::NatsBench, rabbitmq::RabbitmqBench, redis::RedisBench};

/// A certificate for 127.0.0.1 that vouches for itself, and its key.
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn make(scratch: &Scratch) -> Result<Self> {
        let directory = scratch.directory("tls")?;
        let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=tide-test"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-out")
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()?;
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        ensure!(made.status.success(), "openssl: {said}");
        Ok(Self { certificate, key })
    }

    fn paths(&self) -> [String; 2] {
        [&self.certificate, &self.key].map(|path| path.display().to_string())
    }
}

#[tokio::test]
async fn nats_over_tls() -> Result<()> {
    let scratch = Scratch::create("tls").await?;
    let made = Certificate::make(&scratch)?;
    let [certificate, key] = made.paths();
    // The reader goes on without.
    let more =
        format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}\nallow_non_tls: true");
    let server = Nats::start_with(&scratch, None, &more).await?;
    let url = server.url().replace("nats://", "tls://");
    let mut bench = NatsBench(server);
    contract::delivers_only_to_whom_it_trusts(&mut bench, &url, &certificate).await
}

#[tokio::test]
async fn redis_over_tls() -> Result<()> {
    let scratch = Scratch::create("tls").await?;
    let made = Certificate::make(&scratch)?;
    let [certificate, key] = made.paths();
    let port = ports::reserve()?;
    let number = port.number().to_string();
    let arguments = [
        ["--tls-port", &number],
        ["--tls-cert-file", &certificate],
        ["--tls-key-file", &key],
        ["--tls-ca-cert-file", &certificate],
        ["--tls-auth-clients", "no"],
    ];
    let options = RedisOptions {
        password: None,
        arguments: arguments.concat().into_iter().map(Into::into).collect(),
    };
    let mut bench = RedisBench(Redis::start(&scratch, options).await?);
    let url = format!("rediss://127.0.0.1:{number}");
    contract::delivers_only_to_whom_it_trusts(&mut bench, &url, &certificate).await
}

#[tokio::test]
async fn rabbitmq_over_tls() -> Result<()> {
    let scratch = Scratch::create("tls").await?;
    let made = Certificate::make(&scratch)?;
    let [certificate, key] = made.paths();
    let port = ports::reserve()?;
    let number = port.number();
    let more = format!(
        "listeners.ssl.1 = 127.0.0.1:{number}\n\
         ssl_options.certfile = {certificate}\n\
         ssl_options.cacertfile = {certificate}\n\
         ssl_options.keyfile = {key}\n\
         ssl_options.verify = verify_none"
    );
    let mut bench = RabbitmqBench(RabbitMq::start(&scratch, &more).await?);
    let url = format!("amqps://127.0.0.1:{number}");
    contract::delivers_only_to_whom_it_trusts(&mut bench, &url, &certificate).await
}
