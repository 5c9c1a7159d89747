//! Logs on stderr, and traces to a collector if one is named.
//!
//! | variable | meaning |
//! |---|---|
//! | `TIDE_LOG` | what is logged, as `info` or `info,tide_catalog=debug`; default `info`, of brokers' clients nothing |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | the collector's gRPC endpoint; nothing is exported without it |
//!
//! The other `OTEL_…` variables of the OpenTelemetry SDK work as documented there.

use std::{env, io, time::Duration};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use serde::Deserialize;
use tracing::{Subscriber, warn};
use tracing_subscriber::{
    EnvFilter, Layer, filter, layer::SubscriberExt as _, registry::LookupSpan,
    util::SubscriberInitExt as _,
};

const LOG_VARIABLE: &str = "TIDE_LOG";
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// What brokers' clients have to say is said by the sinks, as the state of a pipeline.
const DEFAULT_FILTER: &str = "info,async_nats=off,lapin=off";
/// Logs whole messages, as warnings: never, whatever the filter says.
const TELLS_PAYLOADS: &str = "lapin::returned_messages=off";
/// An unreachable collector must not keep a process from ending.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);
/// What the exporter itself is made of: exporting its spans would make more of them.
const EXPORTER_TARGETS: [&str; 5] = ["h2", "hyper", "opentelemetry", "tonic", "tower"];

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter makes no sense.
    #[error("{LOG_VARIABLE} {filter:?} is invalid: {why}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// The exporter's settings make no sense.
    #[error("traces cannot be exported: {0}")]
    Exporter(ExporterBuildError),
    /// The process logs already.
    #[error("logging is set up already")]
    Twice,
}

/// What must be flushed before the process ends.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Sets logging up, and exporting of traces if `OTEL_EXPORTER_OTLP_ENDPOINT` is set. `filter`
/// wins over `TIDE_LOG`. Must be called inside a runtime, once a process.
pub fn init(
    service: &'static str,
    format: LogFormat,
    filter: Option<String>,
) -> Result<Telemetry, TelemetryError> {
    let filter = filter
        .or_else(|| non_empty_variable(LOG_VARIABLE))
        .unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let env_filter = parse_filter(&filter)?;
    let provider = non_empty_variable(ENDPOINT_VARIABLE)
        .map(|_| tracer_provider(service))
        .transpose()?;
    let traces = provider.as_ref().map(|provider| {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(service))
            .with_filter(filter::filter_fn(|metadata| {
                !is_exporter(metadata.target())
            }))
    });
    tracing_subscriber::registry()
        .with(env_filter)
        .with(log_layer(format))
        .with(traces)
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    Ok(Telemetry { provider })
}

impl Telemetry {
    /// Sends what is left. Call it on every way out of the process.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // It blocks its thread while tasks of the runtime do the sending.
        let flushed =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_WITHIN));
        match flushed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = %error, "the last traces were lost"),
            Err(error) => warn!(error = %error, "the last traces were lost"),
        }
    }
}

fn log_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            let colours = io::IsTerminal::is_terminal(&io::stderr())
                && non_empty_variable("NO_COLOR").is_none();
            layer.with_ansi(colours).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

fn tracer_provider(service: &'static str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .build()
        .map_err(TelemetryError::Exporter)?;
    // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are read by the resource itself.
    let resource = Resource::builder();
    let resource = if non_empty_variable("OTEL_SERVICE_NAME").is_none() {
        resource.with_service_name(service)
    } else {
        resource
    };
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let parsed = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| TelemetryError::Filter {
            filter: filter.to_owned(),
            why: error.to_string(),
        })?;
    let silence = TELLS_PAYLOADS
        .parse()
        .expect("it is a constant, and tested");
    Ok(parsed.add_directive(silence))
}

fn is_exporter(target: &str) -> bool {
    let root = target.split("::").next().unwrap_or(target);
    EXPORTER_TARGETS
        .iter()
        .any(|exporter| root == *exporter || root.starts_with("opentelemetry_"))
}

fn non_empty_variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_refused_by_name() {
        let error = parse_filter("tide=loud").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(r#"TIDE_LOG "tide=loud" is invalid"#),
            "{error}"
        );
        assert!(parse_filter("warn,tide_catalog=debug").is_ok());
    }

    #[test]
    fn whatever_is_asked_for_no_payload_is_logged() {
        for filter in [
            "trace",
            "lapin=trace",
            "lapin::returned_messages=warn",
            DEFAULT_FILTER,
        ] {
            let filter = parse_filter(filter).unwrap().to_string();
            assert!(filter.contains(TELLS_PAYLOADS), "{filter}");
            assert!(!filter.contains("returned_messages=warn"), "{filter}");
        }
    }

    #[test]
    fn the_exporter_does_not_trace_itself() {
        for target in [
            "tonic::transport",
            "h2",
            "opentelemetry_sdk",
            "hyper::client",
        ] {
            assert!(is_exporter(target), "{target}");
        }
        assert!(!is_exporter("tide_control_plane::api"));
    }

    #[tokio::test]
    async fn set_up_happens_once_and_without_a_collector_nothing_is_flushed() {
        let telemetry = init("test", LogFormat::Json, Some("off".to_owned())).unwrap();
        assert!(matches!(
            init("test", LogFormat::Text, None),
            Err(TelemetryError::Twice)
        ));
        telemetry.shutdown().await;
    }
}
