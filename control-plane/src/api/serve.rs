//! The server around the services: limits, health, reflection, and an end that nobody can delay.

use std::{convert::Infallible, time::Duration};

use tide_model::GroupName;
use tide_proto::{
    agent::v1::agent_service_server::AgentServiceServer,
    fleet::v1::{
        fleet_service_server::FleetServiceServer, hold_service_server::HoldServiceServer,
        operation_service_server::OperationServiceServer,
    },
};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    codec::CompressionEncoding,
    codegen::http::{HeaderName, HeaderValue, Method},
    server::NamedService,
    service::interceptor::InterceptedService,
    transport::Server,
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_web::GrpcWebLayer;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::cors::CorsLayer;

use super::{
    accept::connections,
    agent::AgentApi,
    fleet::FleetApi,
    guard::GuardLayer,
    hold::HoldApi,
    observe::ObserveLayer,
    operation::OperationApi,
    status,
    stream::{Ends, Watches},
};
use crate::{
    access::{files::CredentialsReader, gate::Gate},
    audit::Audit,
    fleet::FleetHandle,
    leadership::{Leadership, Standing},
    operations::commands::Commands,
};

/// A connection that does not answer pings is closed, and its streams with it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A call must be answered within this; a stream must have begun.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls being answered at once, over all connections. Streams count until they have begun.
const MAX_CALLS: usize = 256;
/// Streams of one connection.
const MAX_STREAMS: u32 = 200;
/// A snapshot of an agent with many thousand pipelines fits.
const MAX_REPORT: usize = 16 << 20;
/// A plan with many thousand moves fits.
const MAX_REQUEST: usize = 4 << 20;
/// A token and a few names fit.
const MAX_HEADERS: u32 = 16 << 10;
/// A browser need not ask again for this long whether it may ask.
const PREFLIGHT: Duration = Duration::from_mins(10);
/// Windows that carry a snapshot without waiting for acknowledgements.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Answers under way have this long when the process ends.
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// What the services need.
pub(crate) struct Services {
    pub(crate) group: GroupName,
    pub(crate) fleet: FleetHandle,
    pub(crate) leadership: Leadership,
    pub(crate) commands: Commands,
    pub(crate) gate: Gate,
    pub(crate) audit: Audit,
    pub(crate) credentials: CredentialsReader,
    /// Pages of these origins may ask from a browser.
    pub(crate) cors_origins: Vec<HeaderValue>,
}

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The transport failed.
    #[error("serving gRPC failed")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors do not fit together.
    #[error("the protocol's descriptors are unusable")]
    Descriptors(#[from] tonic_reflection::server::Error),
}

type AgentServer = AgentServiceServer<AgentApi>;
type FleetServer = FleetServiceServer<FleetApi>;
type HoldServer = HoldServiceServer<HoldApi>;
type OperationServer = OperationServiceServer<OperationApi>;

/// Serves until the token is cancelled, and then no longer than it takes to finish.
pub(crate) async fn serve(
    services: Services,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let Services {
        group,
        fleet,
        leadership,
        commands,
        gate,
        audit,
        credentials,
        cors_origins,
    } = services;
    let watches = Watches::new();
    let ends = Ends {
        stop: stop.clone(),
        leadership: leadership.clone(),
    };
    let agents = AgentApi::new(
        fleet.clone(),
        group,
        leadership.clone(),
        audit.clone(),
        stop.clone(),
    );
    let reads = FleetApi::new(fleet.clone(), watches.clone(), ends.clone());
    let holds = HoldApi::new(commands.clone(), audit.clone());
    let operations = OperationApi::new(commands, fleet.clone(), watches, ends, audit.clone());
    // A standby refuses everything; whether a lead is confirmed is for the commands to ask.
    let active_only = {
        let leadership = leadership.clone();
        move |request: Request<()>| match leadership.serves() {
            Ok(()) => Ok(request),
            Err(refusal) => Err(status::not_leading(&refusal)),
        }
    };
    let (health, health_server) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tide_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let gzip = CompressionEncoding::Gzip;
    let server = Server::builder()
        .timeout(CALL_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(Some(MAX_HEADERS))
        .accept_http1(true)
        .layer(cors(cors_origins))
        .layer(GrpcWebLayer::new())
        .layer(ObserveLayer)
        .layer(GuardLayer { gate, audit })
        .layer(GlobalConcurrencyLimitLayer::new(MAX_CALLS))
        .add_service(health_server)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(InterceptedService::new(
            AgentServer::new(agents)
                .accept_compressed(gzip)
                .max_decoding_message_size(MAX_REPORT),
            active_only.clone(),
        ))
        .add_service(InterceptedService::new(
            FleetServer::new(reads)
                .accept_compressed(gzip)
                .send_compressed(gzip)
                .max_decoding_message_size(MAX_REQUEST),
            active_only.clone(),
        ))
        .add_service(InterceptedService::new(
            HoldServer::new(holds).max_decoding_message_size(MAX_REQUEST),
            active_only.clone(),
        ))
        .add_service(InterceptedService::new(
            OperationServer::new(operations)
                .accept_compressed(gzip)
                .send_compressed(gzip)
                .max_decoding_message_size(MAX_REQUEST),
            active_only,
        ))
        .serve_with_incoming_shutdown(
            Box::pin(connections(listener, credentials)),
            stop.clone().cancelled_owned(),
        );
    tokio::select! {
        ended = server => Ok(ended?),
        // Our own streams end by themselves; those of health and reflection might not.
        () = async { stop.cancelled().await; sleep(FINISH_WITHIN).await } => Ok(()),
        never = report_health(health, fleet, leadership, stop.clone()) => match never {},
    }
}

/// Which pages may ask from a browser, and what their scripts may see of the answer. No credentials
/// of the browser's own are ever looked at, so that no page can borrow them.
fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    let headers = |names: &[&'static str]| -> Vec<HeaderName> {
        names.iter().copied().map(HeaderName::from_static).collect()
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::POST])
        .allow_headers(headers(&[
            "authorization",
            "content-type",
            "grpc-timeout",
            "x-grpc-web",
            "x-user-agent",
        ]))
        .expose_headers(headers(&[
            "grpc-message",
            "grpc-status",
            "grpc-status-details-bin",
            "tide-hint",
            "tide-leader",
        ]))
        .max_age(PREFLIGHT)
}

/// Operations need the database; reading the last view and hearing agents do not. A standby lives,
/// and serves none of them.
async fn report_health(
    health: HealthReporter,
    fleet: FleetHandle,
    leadership: Leadership,
    stop: CancellationToken,
) -> Infallible {
    let mut database = fleet.database_healths();
    let mut standings = leadership.standings();
    let mut reported = None;
    loop {
        let answers = database.borrow_and_update().trouble.is_none();
        let active = *standings.borrow_and_update() == Standing::Serving;
        let now = (serving(active), serving(active && answers));
        if reported.replace(now) != Some(now) {
            report(&health, ServingStatus::Serving, now.0, now.1).await;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = database.changed() => if changed.is_err() { break },
            changed = standings.changed() => if changed.is_err() { break },
        }
    }
    let not = ServingStatus::NotServing;
    report(&health, not, not, not).await;
    std::future::pending().await
}

async fn report(
    health: &HealthReporter,
    process: ServingStatus,
    reads: ServingStatus,
    operations: ServingStatus,
) {
    health.set_service_status("", process).await;
    health.set_service_status(AgentServer::NAME, reads).await;
    health.set_service_status(FleetServer::NAME, reads).await;
    for name in [HoldServer::NAME, OperationServer::NAME] {
        health.set_service_status(name, operations).await;
    }
}

fn serving(yes: bool) -> ServingStatus {
    if yes {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}
