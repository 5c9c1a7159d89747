use serde_json::{Value, json};

use super::*;
use crate::{PipelineSpec, SinkSpec};

fn parse(more: &Value) -> Result<WebhookSpec, String> {
    let mut config = json!({"sink_type": "webhook", "url": "https://example.com/events"});
    let settings = config.as_object_mut().unwrap();
    settings.extend(more.as_object().cloned().unwrap());
    match PipelineSpec::parse("p".parse().unwrap(), "o".to_owned(), &config) {
        Ok(PipelineSpec {
            sink: SinkSpec::Webhook(spec),
            ..
        }) => Ok(spec),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn everything_at_once_is_valid() {
    let spec = parse(&json!({
        "signing_secrets": ["${env:NEW}", "whsec_${file:/run/secrets/old}"],
        "oauth2_token_url": "https://login.example/token",
        "oauth2_client_id": "tide",
        "oauth2_client_secret": "${env:SECRET}",
        "oauth2_scope": "events.write",
        "oauth2_audience": "https://example.com",
        "oauth2_client_authentication": "client_secret_post",
        "allow_networks": ["10.1.0.0/16", "127.0.0.1", "fd00::/8"],
        "ca_certificate": "${file:/etc/tide/ca.pem}",
        "client_certificate": "${file:/etc/tide/client.pem}",
        "client_key": "${file:/etc/tide/client.key}",
        "headers": {"x-on": "yes"},
    }))
    .unwrap();
    assert_eq!(spec.signing_secrets.len(), 2);
    assert!(spec.client.is_some());
    assert_eq!(spec.allow_networks[1].to_string(), "127.0.0.1/32");
    let Some(WebhookAuthentication::OAuth2(oauth2)) = spec.authentication else {
        panic!("{spec:?}");
    };
    assert!(oauth2.in_form);
}

#[test]
fn the_simplest_one_signs_nothing_and_goes_to_public_addresses_only() {
    let spec = parse(&json!({})).unwrap();
    assert_eq!((spec.authentication, spec.client), (None, None));
    assert!(spec.signing_secrets.is_empty() && spec.allow_networks.is_empty());
    assert_eq!(spec.timeout, Duration::from_secs(30));
}

#[test]
fn every_mistake_is_named() {
    for (config, message) in [
        (
            json!({"url": "https://user:geheim@example.com/"}),
            "key \"url\" holds credentials (put them into \"username\" and \"password\", or \"token\")",
        ),
        (
            json!({"url": "http:///x"}),
            "key \"url\" is \"http:///x\" (an http:// or https:// URL with a host)",
        ),
        (
            json!({"signing_secrets": "${env:A}"}),
            "key \"signing_secrets\" is a string, expected an array of strings",
        ),
        (
            json!({"signing_secrets": ["whsec_Z2VoZWlt"]}),
            "key \"signing_secrets\" holds a secret in plain text (write it as ${env:NAME} or ${file:PATH})",
        ),
        (
            json!({"signing_secrets": ["${env:A}geheim"]}),
            "key \"signing_secrets\" holds a secret in plain text (write it as ${env:NAME} or ${file:PATH})",
        ),
        (
            json!({"token": "geheim"}),
            "key \"token\" holds a secret in plain text (write it as ${env:NAME} or ${file:PATH})",
        ),
        (
            json!({"username": "u", "password": "geheim"}),
            "key \"password\" holds a secret in plain text (write it as ${env:NAME} or ${file:PATH})",
        ),
        (
            json!({"password": "${env:P}"}),
            "key \"username\" is missing (\"password\" needs one)",
        ),
        (
            json!({"token": "${env:T}", "username": "u", "password": "${env:P}"}),
            "key \"token\" is one way to log in too many (either username and password, or token, or oauth2_token_url and its companions)",
        ),
        (
            json!({"token": "${env:T}", "headers": {"Authorization": "x"}}),
            "key \"headers.Authorization\" is one way to log in too many (leave it out, or the other settings that log in)",
        ),
        (
            json!({"headers": {"Webhook-Id": "x"}}),
            "key \"headers.Webhook-Id\" is set by Tide (leave it out)",
        ),
        (
            json!({"oauth2_scope": "x"}),
            "key \"oauth2_scope\" belongs to \"oauth2_token_url\", which is missing",
        ),
        (
            json!({"oauth2_token_url": "https://l", "oauth2_client_id": "x"}),
            "key \"oauth2_client_secret\" is missing (\"oauth2_token_url\" needs one)",
        ),
        (
            json!({"allow_networks": ["10.1.2.3/16"]}),
            "key \"allow_networks\" holds \"10.1.2.3/16\" (networks and addresses such as 10.1.0.0/16, 127.0.0.1 or fd00::/8)",
        ),
        (
            json!({"client_certificate": "x"}),
            "key \"client_key\" is missing (\"client_certificate\" needs one)",
        ),
        (
            json!({"client_certificate": "x", "client_key": "-----BEGIN PRIVATE KEY-----"}),
            "key \"client_key\" holds a secret in plain text (write it as ${env:NAME} or ${file:PATH})",
        ),
        (
            json!({"url": "http://h/", "ca_certificate": "x"}),
            "key \"ca_certificate\" needs an https:// URL (nothing would be encrypted, and nobody would look at it)",
        ),
    ] {
        let error = parse(&config).unwrap_err();
        assert_eq!(error, message);
        assert!(!error.contains("geheim"), "{error}");
    }
}
