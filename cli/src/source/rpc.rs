//! What every call to the control plane has in common: a deadline, a judgement, a conversion.

use std::time::Duration;

use tide_proto::convert::InvalidField;
use tokio::time::timeout;
use tonic::{Response, Status, transport::Uri};

use super::refusal;
use crate::{error::CliError, output::humanize};

/// Scheme, host and port: what may be printed of an address.
pub(super) fn label(address: &Uri) -> String {
    let scheme = address.scheme_str().unwrap_or("http");
    let host = address.host().unwrap_or_default();
    match address.port_u16() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

/// The answer to a call, or what its failure means.
pub(super) async fn answer<T>(
    server: &str,
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CliError> {
    match timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refusal::from_status(server, &status)),
        Err(_) => Err(silent(server, deadline)),
    }
}

/// Nothing came back in time.
pub(super) fn silent(server: &str, within: Duration) -> CliError {
    CliError::Unreachable {
        server: server.to_owned(),
        reason: format!("no answer within {}", humanize::duration(within)),
        hint: None,
        leader: None,
    }
}

/// A field that the protocol promises.
pub(super) fn present<T>(path: &'static str, field: Option<T>) -> Result<T, InvalidField> {
    field.ok_or_else(|| InvalidField {
        path,
        why: "is missing".to_owned(),
    })
}

/// A list in the model's words.
pub(super) fn converted<W, T>(messages: Vec<W>) -> Result<Vec<T>, CliError>
where
    T: TryFrom<W, Error = InvalidField>,
{
    let converted: Result<Vec<T>, InvalidField> =
        messages.into_iter().map(TryInto::try_into).collect();
    Ok(converted?)
}
