//! A session for the commands that go straight to PostgreSQL.

use crate::{context::Context, error::CliError, source::Session};

/// Opens a session to a catalog that this binary knows.
pub(super) async fn session(context: &Context) -> Result<Session, CliError> {
    Session::open(context.settings.server()?, context.settings.timeout).await
}
