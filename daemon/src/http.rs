//! Metrics and probes over HTTP.
//!
//! | path | answers | for |
//! |---|---|---|
//! | `/metrics` | Prometheus' text format | scrapers |
//! | `/livez` | 200 if the process makes progress | restarting it |
//! | `/readyz` | 200 if it does its work | waiting for it |
//! | `/health` | 200 if the process says so, with details | people |
//!
//! A probe that fails is answered with 503. Bodies are JSON and say why not.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, UPKEEP_INTERVAL};

/// Answers under way have this long when the server stops.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// What a probe found.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Whether all is well.
    pub ok: bool,
    /// What the asker is told.
    pub body: Value,
}

impl Health {
    /// All is well.
    pub fn ok() -> Self {
        Self {
            ok: true,
            body: json!({"status": "ok"}),
        }
    }

    /// It is not, and why.
    pub fn failing(reason: impl std::fmt::Display) -> Self {
        Self {
            ok: false,
            body: json!({"status": "failing", "reason": reason.to_string()}),
        }
    }
}

/// The process' own verdicts. Asked on every request, so they must be cheap and must not block.
pub trait Probes: Send + Sync + 'static {
    /// Whether the process makes progress; if not, it should be restarted.
    fn live(&self) -> Health;

    /// Whether it does its work.
    fn ready(&self) -> Health;

    /// What a person wants to know first.
    fn health(&self) -> Health {
        self.ready()
    }

    /// Called before `/metrics` is rendered, to set gauges that are cheaper to read than to follow.
    fn record_gauges(&self) {}
}

/// A bound address that does not answer yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
}

impl HttpServer {
    /// Binds, so that a port in use is noticed at start-up. Port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener })
    }

    /// The address really bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the token is cancelled, and keeps the recorder's memory bounded meanwhile.
    pub async fn serve(
        self,
        metrics: Metrics,
        probes: Arc<dyn Probes>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let state = AppState {
            metrics: metrics.clone(),
            probes,
        };
        let server = axum::serve(self.listener, router(state))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let mut answers = std::pin::pin!(server.into_future());
        tokio::select! {
            ended = &mut answers => return ended,
            () = upkeep(metrics) => {}
            () = stop.cancelled() => {}
        }
        timeout(FINISH_WITHIN, answers).await.unwrap_or(Ok(()))
    }
}

#[derive(Clone)]
struct AppState {
    metrics: Metrics,
    probes: Arc<dyn Probes>,
}

fn router(state: AppState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route(
            "/livez",
            get(async |State(s): State<AppState>| s.probes.live()),
        )
        .route(
            "/readyz",
            get(async |State(s): State<AppState>| s.probes.ready()),
        )
        .route(
            "/health",
            get(async |State(s): State<AppState>| s.probes.health()),
        )
        .with_state(state)
}

async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    state.probes.record_gauges();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        state.metrics.render(),
    )
}

async fn upkeep(metrics: Metrics) {
    let mut ticks = interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.upkeep();
    }
}

impl IntoResponse for Health {
    fn into_response(self) -> Response {
        let status = if self.ok {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (status, Json(self.body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinSet,
    };

    use super::*;

    struct NotReady;

    impl Probes for NotReady {
        fn live(&self) -> Health {
            Health::ok()
        }

        fn ready(&self) -> Health {
            Health::failing("the database is away")
        }

        fn record_gauges(&self) {
            metrics::gauge!("tide_daemon_probe_test").set(7.0);
        }
    }

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_say_why_not() {
        let server = HttpServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = server.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let metrics = Metrics::install().unwrap();
        tasks.spawn(server.serve(metrics, Arc::new(NotReady), stop.clone()));

        let live = ask(address, "/livez").await;
        assert!(live.starts_with("HTTP/1.1 200"), "{live}");
        for path in ["/readyz", "/health"] {
            let answer = ask(address, path).await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(
                answer.contains(r#""reason":"the database is away""#),
                "{answer}"
            );
        }
        let metrics = ask(address, "/metrics").await;
        assert!(metrics.contains("tide_daemon_probe_test 7"), "{metrics}");
        assert!(ask(address, "/nothing").await.starts_with("HTTP/1.1 404"));

        // A connection that is open and silent does not hold the server.
        let _idle = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}
