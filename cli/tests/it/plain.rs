//! What needs no server.

use crate::fixture::{Run, finish, tidectl};

async fn run(words: &[&str]) -> Run {
    finish(tidectl(words), "").await
}

#[tokio::test]
async fn without_a_command_it_shows_its_help_and_fails() {
    run(&[]).await.expect(2).says("Usage: tidectl");
    run(&["--help"]).await.expect(0).prints("Exit codes:");
    run(&["drain", "--help"])
        .await
        .expect(0)
        .prints("--deadline <DURATION>");
}

#[tokio::test]
async fn a_mistyped_flag_is_a_usage_error_with_a_suggestion() {
    run(&["drain", "relay-1", "--detatch"])
        .await
        .expect(2)
        .says("'--detach'");
    run(&["drian", "relay-1"]).await.expect(2).says("'drain'");
    run(&["agent", "show", "two words"])
        .await
        .expect(2)
        .says("invalid agent name");
}

#[tokio::test]
async fn it_knows_its_version_and_the_catalog_s() {
    let version = env!("CARGO_PKG_VERSION");
    let catalog = tide_catalog::schema::version();
    run(&["version"])
        .await
        .expect(0)
        .prints(&format!("tidectl {version} (catalog version {catalog})"));
    let json = run(&["version", "-o", "json"]).await.expect(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (json["version"].as_str(), json["catalog_version"].as_i64()),
        (Some(version), Some(catalog))
    );
}

#[tokio::test]
async fn every_shell_gets_its_completion() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        run(&["completion", shell])
            .await
            .expect(0)
            .prints("undrain");
    }
    run(&["completion", "tcsh"])
        .await
        .expect(2)
        .says("possible values");
}

#[tokio::test]
async fn help_never_shows_a_password_from_the_environment() {
    let mut command = tidectl(&["status", "--help"]);
    command.env("TIDE_POSTGRES_URL", "postgres://ana:geheim@db/shop");
    let run = finish(command, "")
        .await
        .expect(0)
        .prints("TIDE_POSTGRES_URL");
    assert!(!run.stdout.contains("geheim"), "{run:?}");
}

#[tokio::test]
async fn an_empty_setting_is_none() {
    let mut command = tidectl(&["status"]);
    command.env("TIDE_POSTGRES_URL", "");
    finish(command, "").await.expect(2).says("no URL is given");
}
