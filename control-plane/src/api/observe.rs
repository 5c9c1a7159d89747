//! Counts every call and gives it a span.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use metrics::counter;
use tonic::{
    Code, Status,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};
use tracing::{Instrument as _, debug, info_span};

use crate::{access::methods::Method, metrics::REQUESTS_TOTAL};

/// Wraps a service into [`Observed`].
#[derive(Debug, Clone, Copy)]
pub(super) struct ObserveLayer;

/// A service whose calls are counted when they are answered; of streams that is their beginning.
#[derive(Debug, Clone)]
pub(super) struct Observed<S> {
    inner: S,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner }
    }
}

impl<S, B, R> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = method(request.uri().path());
        let answered = self.inner.call(request);
        let Some(method) = method else {
            return Box::pin(answered);
        };
        let answered = async move {
            let response = answered.await;
            let code = match &response {
                // A call that was refused is all headers; what follows an answer is in trailers.
                Ok(response) => Status::from_header_map(response.headers())
                    .map_or(Code::Ok, |status| status.code()),
                Err(_) => Code::Internal,
            };
            debug!(?code, "answered");
            counter!(REQUESTS_TOTAL, "method" => method, "code" => format!("{code:?}"))
                .increment(1);
            response
        };
        Box::pin(answered.instrument(info_span!("rpc", method)))
    }
}

/// The method that a path names, if it is one of Tide's: only these become labels.
fn method(path: &str) -> Option<&'static str> {
    let method = Method::of(path)?;
    method.is_ours().then_some(method.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_methods_become_labels() {
        assert_eq!(
            method("/tide.fleet.v1.OperationService/Drain"),
            Some("Drain")
        );
        for path in [
            "/tide.fleet.v1.OperationService/Nonsense",
            "/grpc.health.v1.Health/Check",
            "nonsense",
        ] {
            assert_eq!(method(path), None, "{path}");
        }
    }
}
