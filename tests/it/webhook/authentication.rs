//! Who we are to a receiver.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tide_sandbox::http::Behaviour;
use tide_tests::proof;
use tokio::{net::TcpListener, task::JoinSet};

use super::{FIRST, publish_some, wait_for_words, with_secrets};

/// A token endpoint: the n-th token is `token-n`.
#[derive(Debug, Default)]
struct Issuer {
    granted: AtomicUsize,
    /// What it says instead, once each.
    instead: Mutex<Vec<(u16, &'static str)>>,
    forms: Mutex<Vec<String>>,
}

async fn token(State(issuer): State<Arc<Issuer>>, headers: HeaderMap, form: String) -> Response {
    // `tide:s3cret/+ &` as a form and then in base64.
    let in_header = headers
        .get(AUTHORIZATION)
        .is_some_and(|value| value == "Basic dGlkZTpzM2NyZXQlMkYlMkIlMjAlMjY=");
    let in_form = form.contains("client_id=tide&client_secret=s3cret%2F%2B%20%26");
    issuer.forms.lock().expect("nobody panicked").push(form);
    if let Some((status, body)) = issuer.instead.lock().expect("nobody panicked").pop() {
        return (StatusCode::from_u16(status).expect("a status"), body).into_response();
    }
    if !in_header && !in_form {
        let denied = json!({"error": "invalid_client", "error_description": "who are you?"});
        return (StatusCode::UNAUTHORIZED, axum::Json(denied)).into_response();
    }
    let number = issuer.granted.fetch_add(1, Ordering::SeqCst) + 1;
    let granted = json!({
        "access_token": format!("token-{number}"), "token_type": "Bearer", "expires_in": 3600,
    });
    axum::Json(granted).into_response()
}

async fn issuer(tasks: &mut JoinSet<()>) -> Result<(Arc<Issuer>, Value)> {
    let issuer = Arc::new(Issuer::default());
    let app = Router::new()
        .route("/token", post(token))
        .with_state(Arc::clone(&issuer));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let settings = json!({
        "oauth2_token_url": format!("http://{}/token", listener.local_addr()?),
        "oauth2_client_id": "tide",
        "oauth2_client_secret": "${env:SECRET}",
        "oauth2_scope": "events:write",
    });
    tasks.spawn(async move {
        let _ = axum::serve(listener, app).await;
    });
    Ok((issuer, settings))
}

const SECRET: &str = "s3cret/+ &";

#[tokio::test]
async fn a_name_with_its_password_or_a_token_goes_with_every_request_and_nowhere_else() -> Result<()>
{
    let (mut fleet, receiver) =
        with_secrets(&[("PASSWORD", "open:sesame"), ("TOKEN", "geheimnis")]).await?;
    for (pipeline, more) in [
        (
            "basic",
            json!({"username": "aladdin", "password": "${env:PASSWORD}"}),
        ),
        ("bearer", json!({"token": "${env:TOKEN}"})),
    ] {
        fleet
            .add_webhook_pipeline(pipeline, "events", &receiver, more)
            .await?;
    }
    receiver.script("/bearer", [Behaviour::Respond(401)]);
    publish_some(&mut fleet, 3).await?;
    let accounts = fleet.settle_and_check().await?;
    for request in receiver.requests() {
        let expected = match request.path.as_str() {
            "/basic" => "Basic YWxhZGRpbjpvcGVuOnNlc2FtZQ==",
            _ => "Bearer geheimnis",
        };
        ensure!(request.headers["authorization"] == expected, "{request:?}");
    }
    let said = fleet.agent(FIRST).whole_log();
    ensure!(said.contains("HTTP 401"), "{said}");
    ensure!(
        !said.contains("sesame") && !said.contains("geheimnis"),
        "{said}"
    );
    proof::exactly_once(&accounts)
}

#[tokio::test]
async fn a_token_is_fetched_once_kept_and_fetched_anew_when_it_is_refused() -> Result<()> {
    // GIVEN pipelines that authenticate at the token endpoint in either way
    let (mut fleet, receiver) = with_secrets(&[("SECRET", SECRET)]).await?;
    let mut tasks = JoinSet::new();
    let (issuer, mut settings) = issuer(&mut tasks).await?;
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, settings.clone())
        .await?;
    // WHEN the endpoint refuses one token in the middle
    let answers = [200, 200, 401, 200].map(Behaviour::Respond);
    receiver.script("/hook", answers);
    publish_some(&mut fleet, 5).await?;
    fleet.wait_for_deliveries("hook", 5).await?;
    // THEN there was one token before and one since, and the message was not held up
    let carried = || -> Vec<String> {
        let requests = receiver.requests();
        requests
            .iter()
            .map(|one| one.headers["authorization"].clone())
            .collect()
    };
    let (one, two) = ("Bearer token-1", "Bearer token-2");
    ensure!(
        carried() == [one, one, one, two, two, two],
        "{:?}",
        carried()
    );
    let log = fleet.agent(FIRST).whole_log();
    ensure!(!log.contains("HTTP 401"), "{log}");
    ensure!(
        issuer.forms.lock().expect("nobody panicked")[0]
            == "grant_type=client_credentials&scope=events%3Awrite"
    );
    // and a pipeline that authenticates in the form gets one of its own
    settings["oauth2_client_authentication"] = "client_secret_post".into();
    fleet
        .add_webhook_pipeline("form", "events", &receiver, settings)
        .await?;
    fleet.wait_for_deliveries("form", 5).await?;
    let last = receiver.requests().pop().context("no request")?;
    ensure!(
        last.headers["authorization"] == "Bearer token-3",
        "{last:?}"
    );
    let said = fleet.agent(FIRST).whole_log();
    ensure!(
        !said.contains("token-") && !said.contains("s3cret"),
        "{said}"
    );
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_token_that_is_refused_when_it_is_new_is_not_asked_for_again_and_again() -> Result<()> {
    let (mut fleet, receiver) = with_secrets(&[("SECRET", SECRET)]).await?;
    let mut tasks = JoinSet::new();
    let (issuer, settings) = issuer(&mut tasks).await?;
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, settings)
        .await?;
    receiver.by_default("/hook", Behaviour::Respond(401));
    publish_some(&mut fleet, 1).await?;
    wait_for_words(&fleet, "hook", "HTTP 401").await?;
    ensure!(receiver.requests().len() == 1, "{:?}", receiver.requests());
    ensure!(issuer.granted.load(Ordering::SeqCst) == 1);
    Ok(())
}

#[tokio::test]
async fn what_the_token_endpoint_says_is_what_the_pipeline_says() -> Result<()> {
    let (mut fleet, receiver) = with_secrets(&[("SECRET", SECRET), ("WRONG", "geheimnis")]).await?;
    let mut tasks = JoinSet::new();
    let (issuer, mut settings) = issuer(&mut tasks).await?;
    // GIVEN a token endpoint that has no time
    issuer
        .instead
        .lock()
        .expect("nobody panicked")
        .push((503, "later"));
    fleet
        .add_webhook_pipeline("hook", "events", &receiver, settings.clone())
        .await?;
    publish_some(&mut fleet, 1).await?;
    // THEN it is asked again soon
    fleet.wait_for_deliveries("hook", 1).await?;
    fleet.agent(FIRST).log("token endpoint: HTTP 503").await?;
    // GIVEN a secret that it does not know THEN it says so, without the secret
    settings["oauth2_client_secret"] = "${env:WRONG}".into();
    fleet
        .add_webhook_pipeline("wrong", "events", &receiver, settings.clone())
        .await?;
    let words = "token endpoint: HTTP 401: invalid_client: who are you?";
    wait_for_words(&fleet, "wrong", words).await?;
    let log = fleet.agent(FIRST).whole_log();
    ensure!(!log.contains("geheimnis"), "{log}");
    // GIVEN an endpoint of tokens that is not public THEN it is not asked
    settings["oauth2_token_url"] = "http://169.254.169.254/token".into();
    fleet
        .add_webhook_pipeline("metadata", "events", &receiver, settings)
        .await?;
    let words = "oauth2_token_url: 169.254.169.254 is a metadata service";
    wait_for_words(&fleet, "metadata", words).await?;
    ensure!(receiver.requests().len() == 1, "{:?}", receiver.requests());
    Ok(())
}
