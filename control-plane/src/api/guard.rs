//! Lets nobody through to a service who may not be there, and tells services who asks.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use metrics::counter;
use tonic::{
    Status,
    body::Body,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};
use tracing::debug;

use super::status;
use crate::{
    access::{
        gate::{Gate, Peer},
        methods::{Method, Needs},
    },
    audit::{Audit, Refusal},
    metrics::DENIED_TOTAL,
};

/// Wraps a service into [`Guarded`].
#[derive(Clone)]
pub(super) struct GuardLayer {
    pub(super) gate: Gate,
    pub(super) audit: Audit,
}

/// A service behind the gate.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    guard: GuardLayer,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.guard.admit(&mut request) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}

impl GuardLayer {
    /// Writes into the request who asks; or says why it goes no further.
    fn admit<B>(&self, request: &mut Request<B>) -> Result<(), Box<Status>> {
        let path = request.uri().path();
        let Some(method) = Method::of(path) else {
            return Err(Box::new(status::unknown_method(path)));
        };
        let nobody = Peer::default();
        let peer = request.extensions().get::<Peer>().unwrap_or(&nobody);
        match self.gate.admit(method, request.headers(), peer) {
            Ok(asking) => {
                request.extensions_mut().insert(asking);
                Ok(())
            }
            Err(denied) => {
                counter!(DENIED_TOTAL, "reason" => denied.reason()).increment(1);
                debug!(
                    method = method.name,
                    reason = denied.reason(),
                    "a request was denied"
                );
                if matches!(method.needs, Needs::Command(_)) || method.is_agents() {
                    self.audit
                        .refused(Refusal::of(method.name, &denied, peer.address));
                }
                Err(Box::new(status::denied(&denied)))
            }
        }
    }
}
