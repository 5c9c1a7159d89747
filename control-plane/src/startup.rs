//! What has to be right before anything is served, and what to say if it is not.

use std::{error::Error, fs, net::SocketAddr};

use tide_catalog::{CatalogError, connection::Server, schema};
use tide_daemon::{Failure, HttpServer};
use tide_model::{NodeId, fleet::DatabaseView};
use tokio::net::TcpListener;

use crate::{
    config::Config,
    database::{Database, answer},
};

/// How sessions are named in `pg_stat_activity`.
const APPLICATION: &str = "tide-control-plane";

/// Checks server and catalog, and reads the fleet for the first time.
pub(crate) async fn open_database(config: &Config) -> Result<(Database, DatabaseView), Failure> {
    let server = Server::parse(&config.postgres_url, APPLICATION).map_err(|error| {
        let hint = error.hint();
        Failure::usage(error).with_hint(hint)
    })?;
    server.check().await.map_err(failed)?;
    let mut connection = server.connect().await.map_err(failed)?;
    answer(schema::verify(&mut connection))
        .await
        .map_err(failed)?;
    drop(connection);
    let database = Database::new(server, config.group.clone());
    let first = database.view().await.map_err(failed)?;
    Ok((database, first))
}

/// Binds the address of gRPC.
pub(crate) async fn bind_grpc(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| unbound(error, address, "--listen"))?;
    let bound = listener.local_addr().map_err(Failure::failed)?;
    Ok((listener, bound))
}

/// How others reach what is served at `bound`: as configured, or as well as can be known here.
pub(crate) fn advertised(config: &Config, bound: SocketAddr) -> String {
    if let Some(url) = &config.advertise_url {
        return url.clone();
    }
    let scheme = if config.security.tls.is_some() {
        "https"
    } else {
        "http"
    };
    if bound.ip().is_unspecified() {
        return format!("{scheme}://{}:{}", host_name(), bound.port());
    }
    format!("{scheme}://{bound}")
}

/// This process among the replicas: no two of them listen on one port of one host.
pub(crate) fn node_id(bound: SocketAddr) -> Result<NodeId, Failure> {
    format!("{}:{}", host_name(), bound.port())
        .parse()
        .map_err(Failure::failed)
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// Binds the address of metrics and probes.
pub(crate) async fn bind_http(address: SocketAddr) -> Result<(HttpServer, SocketAddr), Failure> {
    let server = HttpServer::bind(address)
        .await
        .map_err(|error| unbound(error, address, "--metrics-addr"))?;
    let bound = server.local_addr().map_err(Failure::failed)?;
    Ok((server, bound))
}

pub(crate) fn failed(error: CatalogError) -> Failure {
    let hint = error.hint();
    Failure::failed(error).with_hint(hint)
}

fn unbound(error: impl Error, address: SocketAddr, flag: &str) -> Failure {
    Failure::failed(format!("could not listen on {address}: {error}")).with_hint(Some(format!(
        "is it in use? choose another one with {flag}"
    )))
}
