//! Taking requests, recording them and doing what the script says.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request as Incoming, State},
    http::{HeaderMap, StatusCode, header::RETRY_AFTER},
    response::Response,
};
use time::OffsetDateTime;
use tokio::time::sleep;

use super::{
    Behaviour, Outcome, Request, Shared,
    connection::{Hold, Listener},
    journal::Place,
};
use crate::envelope::Envelope;

/// More than any batch an agent would send.
const LARGEST_BODY: usize = 256 * 1024 * 1024;

pub(super) async fn serve(listener: Listener, shared: Arc<Shared>) {
    let app = Router::new().fallback(receive).with_state(shared);
    let service = app.into_make_service_with_connect_info::<Hold>();
    // Serving never ends by itself: the owner drops it.
    let _ = axum::serve(listener, service).await;
}

/// The record of one request under way; a handler that is dropped leaves it abandoned.
struct Ticket {
    shared: Arc<Shared>,
    place: Place,
    settled: bool,
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(hold): ConnectInfo<Hold>,
    request: Incoming,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return answer(StatusCode::BAD_REQUEST.as_u16());
    };
    let path = head.uri.path().to_owned();
    let envelopes = Envelope::parse_all(&body).map_err(|error| error.to_string());
    // What is no envelope must not use up the script.
    let behaviour = match envelopes {
        Ok(_) => shared.next_behaviour(&path),
        Err(_) => Behaviour::Respond(400),
    };
    let ticket = Ticket::issue(
        shared,
        Request {
            path,
            order: 0,
            headers: plain(&head.headers),
            body: body.into(),
            envelopes,
            at: OffsetDateTime::now_utc(),
            outcome: Outcome::Pending,
        },
    );
    behave(behaviour, ticket, &hold).await
}

async fn behave(behaviour: Behaviour, ticket: Ticket, hold: &Hold) -> Response {
    match behaviour {
        Behaviour::Respond(status) => ticket.answer(status),
        Behaviour::RetryAfter { status, seconds } => {
            let mut response = ticket.answer(status);
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
            response
        }
        Behaviour::RetryAt { status, at } => {
            let mut response = ticket.answer(status);
            let date = httpdate::fmt_http_date(at.into());
            let value = date.try_into().expect("a date is a valid header");
            response.headers_mut().insert(RETRY_AFTER, value);
            response
        }
        Behaviour::Delay(delay) => {
            sleep(delay).await;
            ticket.answer(200)
        }
        Behaviour::Hang => {
            let mut releases = ticket.shared.releases.subscribe();
            // The sender lives in what the ticket holds, so this only ends by a release.
            let _ = releases.changed().await;
            ticket.answer(200)
        }
        Behaviour::FailAfterAccept => {
            ticket.settle(Outcome::Severed);
            hold.sever();
            std::future::pending().await
        }
    }
}

impl Ticket {
    /// Records a request; its order is drawn under the lock that appends it.
    fn issue(shared: Arc<Shared>, request: Request) -> Self {
        let mut entered = None;
        shared
            .journal
            .send_modify(|journal| entered = Some(journal.enter(request)));
        Self {
            shared,
            place: entered.expect("the journal was modified"),
            settled: false,
        }
    }

    fn answer(self, status: u16) -> Response {
        self.settle(Outcome::Answered(status));
        answer(status)
    }

    fn settle(mut self, outcome: Outcome) {
        self.note(outcome);
        self.settled = true;
    }

    fn note(&self, outcome: Outcome) {
        self.shared
            .journal
            .send_modify(|journal| journal.settle(self.place, outcome));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.note(Outcome::Abandoned);
        }
    }
}

fn answer(status: u16) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() =
        StatusCode::from_u16(status).expect("scripts hold statuses that exist");
    response
}

fn plain(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut plain: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        plain
            .entry(name.as_str().to_owned())
            .and_modify(|joined| {
                joined.push_str(", ");
                joined.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    plain
}
