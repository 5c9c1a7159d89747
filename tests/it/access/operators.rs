//! Operators: tokens and roles, what `tidectl` says about them, and what is recorded.

use anyhow::{Result, ensure};
use tide_sandbox::wait::eventually;
use tide_tests::{SOON, certificates::Authority, command::run, replica::Replica};

use super::{Guarded, LEASE, tokens_file};

const TOKENS: [(&str, &str, &str, &str); 3] = [
    ("vera", "viewer", "see", ""),
    ("otto", "operator", "do", ""),
    (
        "olaf",
        "admin",
        "old",
        "expires = \"2020-01-01T00:00:00Z\"\n",
    ),
];

#[tokio::test]
async fn every_role_may_do_its_own_and_every_refusal_says_what_to_do() -> Result<()> {
    // GIVEN
    let guarded = Guarded::start(2, &TOKENS).await?;
    let agent = guarded.authority.client("agent", "default/agent/relay-1")?;
    let elsewhere = Authority::new()?;
    let stranger = elsewhere.client("ana", "default/admin/ana")?;
    let nameless = guarded
        .authority
        .uri("nameless", "https://example.org/ana")?;
    let token = |token: &'static str| vec![("TIDE_TOKEN", token)];
    let shown = |issued: &tide_tests::certificates::Issued| {
        vec![
            ("TIDE_CLIENT_CERT", issued.certificate.clone()),
            ("TIDE_CLIENT_KEY", issued.key.clone()),
        ]
    };
    // THEN
    let list = ["agent", "list"];
    let drain = ["drain", "relay-1", "--detach"];
    for (words, environment, says, hint) in [
        (&list[..], token(""), "wants to know who asks", "--token"),
        (&list, token("guess"), "the token is not known", "withdrawn"),
        (
            &list,
            token("old"),
            "the token of olaf expired at 2020",
            "ask an administrator",
        ),
        (
            &drain,
            token("see"),
            "Drain needs the role operator, and vera is viewer",
            "with that role",
        ),
    ] {
        guarded
            .tidectl(words, &environment)
            .await?
            .explains(8, says, hint)?;
    }
    for (issued, code, says, hint) in [
        (
            &agent,
            8,
            "ListAgents needs the role viewer, and relay-1 is agent",
            "with that role",
        ),
        (&nameless, 8, "none of its URIs", "spiffe://"),
        (&stranger, 9, "control plane at https://", "--client-cert"),
    ] {
        let environment = shown(issued);
        let environment: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        guarded
            .tidectl(&list, &environment)
            .await?
            .explains(code, says, hint)?;
    }
    ensure!(guarded.tidectl(&list, &token("see")).await?.code == Some(0));
    // Nobody drained anything.
    let operations: i64 = sqlx::query_scalar("SELECT count(*) FROM tide.operations")
        .fetch_one(guarded.fleet.pool())
        .await?;
    ensure!(operations == 0);
    Ok(())
}

#[tokio::test]
async fn a_command_is_recorded_under_the_proven_name_whatever_the_client_says() -> Result<()> {
    // GIVEN
    let guarded = Guarded::start(2, &TOKENS).await?;
    let ida = guarded.authority.client("ida", "default/admin/ida")?;
    // WHEN somebody drains in the name of somebody else, and again what does not exist
    let otto = [("TIDE_TOKEN", "do")];
    let lie = ["--actor", "ana", "--reason", "kernel"];
    let drained = guarded
        .tidectl(
            &[&["drain", "relay-1", "--detach"], &lie[..]].concat(),
            &otto,
        )
        .await?;
    ensure!(drained.code == Some(0), "{drained:?}");
    let unknown = guarded.tidectl(&["drain", "relay-9"], &otto).await?;
    ensure!(unknown.code == Some(1), "{unknown:?}");
    let certified = [
        ("TIDE_CLIENT_CERT", ida.certificate.as_str()),
        ("TIDE_CLIENT_KEY", &ida.key),
    ];
    let undrained = guarded
        .tidectl(&["undrain", "relay-1", "--break"], &certified)
        .await?;
    ensure!(undrained.code == Some(0), "{undrained:?}");
    let denied = guarded
        .tidectl(&["drain", "relay-2"], &[("TIDE_TOKEN", "see")])
        .await?;
    ensure!(denied.code == Some(8), "{denied:?}");
    // THEN
    eventually(SOON, "the refusal to be recorded", async || {
        let recorded = guarded.audit("command.%").await?;
        let expected = [
            "command.drain relay-1 otto ok token",
            "command.drain relay-9 otto agent token",
            "command.undrain relay-1 ida ok certificate",
            "command.denied Drain vera ROLE_INSUFFICIENT token",
        ];
        if recorded == expected {
            Ok(Some(()))
        } else {
            anyhow::bail!("{recorded:?}")
        }
    })
    .await?;
    let (actor, reason): (String, String) =
        sqlx::query_as("SELECT actor, reason FROM tide.operations WHERE kind = 'drain'")
            .fetch_one(guarded.fleet.pool())
            .await?;
    ensure!((actor.as_str(), reason.as_str()) == ("otto", "kernel"));
    let claimed: Vec<Option<String>> = sqlx::query_scalar(
        "SELECT detail ->> 'claimed_actor' FROM tide.events WHERE kind = 'command.drain' AND outcome = 'ok'",
    )
    .fetch_all(guarded.fleet.pool())
    .await?;
    ensure!(claimed == [Some("ana".to_owned())], "{claimed:?}");
    Ok(())
}

#[tokio::test]
async fn tokens_come_and_go_with_their_file() -> Result<()> {
    // GIVEN
    let mut guarded = Guarded::start(1, &TOKENS).await?;
    let file = guarded.authority.path("tokens.toml");
    let code = async |guarded: &Guarded, token: &'static str| -> Result<Option<i32>> {
        Ok(guarded
            .tidectl(&["agent", "list"], &[("TIDE_TOKEN", token)])
            .await?
            .code)
    };
    ensure!(code(&guarded, "see").await? == Some(0));
    // WHEN it is broken, THEN the last good one stays in force
    std::fs::write(&file, "[[token]]\nname = 1\n")?;
    guarded
        .replica
        .process
        .wait_for_log("the last ones stay in force", SOON)
        .await?;
    ensure!(code(&guarded, "see").await? == Some(0));
    // WHEN one is withdrawn and another one given, THEN that is so
    std::fs::write(&file, tokens_file(&[("nora", "viewer", "new", "")]))?;
    guarded
        .replica
        .process
        .wait_for_log("credentials read again", SOON)
        .await?;
    ensure!(code(&guarded, "see").await? == Some(8));
    ensure!(code(&guarded, "new").await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_connection_is_told_with_its_remedy() -> Result<()> {
    // GIVEN a control plane with TLS and one without
    let guarded = Guarded::start(0, &TOKENS).await?;
    let plain = Replica::start(&guarded.fleet, "plain", LEASE).await?;
    let token = [("TIDE_TOKEN", "see")];
    let to = async |address: &str, ca: &str| {
        let words = [
            "agent",
            "list",
            "--source",
            "control-plane",
            "--control-plane",
            address,
            "--ca-cert",
            ca,
        ];
        run("tidectl", &words, &token, SOON).await
    };
    let (secure, ca) = (guarded.replica.url(), guarded.authority.ca());
    let other = Authority::new()?;
    // THEN
    to(&secure, &other.ca())
        .await?
        .explains(9, "UnknownIssuer", "--ca-cert")?;
    let to_plain = plain.url().replace("http://", "https://");
    to(&to_plain, &ca)
        .await?
        .explains(9, "cannot be trusted", "http://HOST:PORT")?;
    let plain_to_secure = secure.replace("https://", "http://");
    to(&plain_to_secure, &ca).await?.explains(
        9,
        "control plane at http://",
        "https://HOST:PORT",
    )?;
    to(&secure, "/nowhere/ca.pem")
        .await?
        .explains(2, "could not read /nowhere/ca.pem", "PEM")?;
    // A token is not sent in plain text.
    to("http://192.0.2.1:7900", &ca)
        .await?
        .explains(2, "in plain text", "https://")?;
    Ok(())
}

#[tokio::test]
async fn contexts_lead_to_their_fleet_and_keep_no_secret() -> Result<()> {
    // GIVEN
    let guarded = Guarded::start(1, &TOKENS).await?;
    let home = tempfile::tempdir()?;
    let home_path = home.path().display().to_string();
    let token = guarded.authority.path("token");
    std::fs::write(&token, "see\n")?;
    let tidectl = async |words: &[&str], more: &[(&str, &str)]| {
        let environment = [&[("XDG_CONFIG_HOME", home_path.as_str())], more].concat();
        run("tidectl", words, &environment, SOON).await
    };
    // WHEN
    let url = format!("control-plane={}", guarded.replica.url());
    let ca = format!("ca-cert={}", guarded.authority.ca());
    let reference = format!("token=${{file:{}}}", token.display());
    let set = tidectl(&["context", "set", "prod", &url, &ca, &reference], &[]).await?;
    ensure!(set.code == Some(0), "{set:?}");
    let set = tidectl(
        &["context", "set", "dev", "control-plane=http://127.0.0.1:1"],
        &[],
    )
    .await?;
    ensure!(set.code == Some(0), "{set:?}");
    // THEN the first one is current, and leads to its fleet with its token
    let listed = tidectl(&["agent", "list"], &[]).await?;
    ensure!(
        listed.code == Some(0) && listed.stdout.contains("relay-1"),
        "{listed:?}"
    );
    // A variable leads elsewhere, and a context that is typed wins over it.
    let elsewhere = [("TIDE_CONTROL_PLANE", "http://127.0.0.1:1")];
    ensure!(tidectl(&["agent", "list"], &elsewhere).await?.code == Some(9));
    let typed = tidectl(&["--context", "prod", "agent", "list"], &elsewhere).await?;
    ensure!(typed.code == Some(0), "{typed:?}");
    // Its token goes to no other control plane.
    let other = ["--context", "prod", "agent", "list", "--control-plane"];
    let stolen = tidectl(&[&other[..], &[&guarded.replica.url()]].concat(), &[]).await?;
    ensure!(
        stolen.code == Some(9),
        "its CA is not used either: {stolen:?}"
    );
    // Choosing, showing, forgetting.
    ensure!(tidectl(&["context", "use", "dev"], &[]).await?.code == Some(0));
    ensure!(tidectl(&["agent", "list"], &[]).await?.code == Some(9));
    let shown = tidectl(&["context", "show", "prod", "-o", "json"], &[]).await?;
    ensure!(shown.stdout.contains("${file:"), "{shown:?}");
    tidectl(&["context", "use", "prods"], &[]).await?.explains(
        1,
        "context prods does not exist",
        "did you mean prod",
    )?;
    let secret = tidectl(&["context", "set", "prod", "token=s3cret"], &[]).await?;
    ensure!(
        secret.code == Some(2) && secret.stderr.contains("is a secret"),
        "{secret:?}"
    );
    ensure!(tidectl(&["context", "remove", "dev"], &[]).await?.code == Some(0));
    let file = std::fs::read_to_string(home.path().join("tide/contexts.toml"))?;
    ensure!(!file.contains("dev") && !file.contains("see\""), "{file}");
    Ok(())
}

#[tokio::test]
async fn strangers_are_not_served_unless_somebody_says_so() -> Result<()> {
    let url = [("TIDE_POSTGRES_URL", "postgres://nobody@127.0.0.1:1/none")];
    let listen = ["--listen", "0.0.0.0:0"];
    let refused = run("tide-control-plane", &listen, &url, SOON).await?;
    refused.explains(
        2,
        "without TLS and without asking who is there",
        "--insecure",
    )?;
    // Told so, it goes on to what comes next: a database that is not there.
    let insecure = [&listen[..], &["--insecure"]].concat();
    let told = run("tide-control-plane", &insecure, &url, SOON).await?;
    told.explains(
        1,
        "could not connect to PostgreSQL",
        "is the server running",
    )?;
    let missing = [
        "--tls-cert",
        "/nowhere/a.pem",
        "--tls-key",
        "/nowhere/a.key",
    ];
    let refused = run("tide-control-plane", &missing, &url, SOON).await?;
    ensure!(
        refused.code == Some(2) && refused.stderr.contains("could not read /nowhere/a.pem"),
        "{refused:?}"
    );
    Ok(())
}
