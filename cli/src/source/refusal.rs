//! What a gRPC status means: nobody there, or somebody who said no and why.

use std::error::Error;

use tonic::{Code, Status};

use crate::error::CliError;

/// Response metadata that carries advice, percent-encoded because metadata is ASCII.
const HINT: &str = "tide-hint";

/// Response metadata in which a standby names the active control plane.
const LEADER: &str = "tide-leader";

/// What to do about a server that is there and does not talk to us.
const HUNG_UP: &str = "if it speaks TLS, write its address as https://HOST:PORT; otherwise see its log, or go \
                       straight through PostgreSQL: --source database --postgres-url URL";

const HUNG_UP_ON_TLS: &str = "if you showed a certificate, does its client CA accept that? check --client-cert; \
                              otherwise see its log";

/// Judges a failed call to the control plane at `server`.
pub(super) fn from_status(server: &str, status: &Status) -> CliError {
    let named = |key| {
        let value = status.metadata().get(key)?;
        Some(percent_decoded(value.as_bytes()))
    };
    let hint = named(HINT);
    // A server's answer has no source; a status made on this side of the network has one.
    if let Some(source) = status.source() {
        return on_the_way(server, source);
    }
    match status.code() {
        Code::Unavailable => CliError::Unreachable {
            server: server.to_owned(),
            reason: status.message().to_owned(),
            hint,
            leader: named(LEADER),
        },
        code => CliError::Refused {
            code,
            message: match status.message() {
                "" => format!("the control plane at {server} refused: {code}"),
                message => message.to_owned(),
            },
            hint,
        },
    }
}

/// Judges trouble between us and the control plane at `server`. What TLS complains about is not for
/// another source to mend: somebody might sit in between.
pub(super) fn on_the_way(server: &str, error: &dyn Error) -> CliError {
    let reason = innermost(error);
    let Some(hint) = distrust(&reason) else {
        // A server that waits for TLS, or for another certificate, may just hang up.
        let hung_up = [
            "clos",
            "reset",
            "broken pipe",
            "not connected",
            "cancel",
            "frame",
            "h2",
        ];
        let hung_up = hung_up.iter().any(|words| reason.contains(words));
        let advice = if server.starts_with("https://") {
            HUNG_UP_ON_TLS
        } else {
            HUNG_UP
        };
        return CliError::Unreachable {
            server: server.to_owned(),
            reason,
            hint: hung_up.then(|| advice.to_owned()),
            leader: None,
        };
    };
    CliError::Untrusted {
        server: server.to_owned(),
        reason,
        hint: hint.to_owned(),
    }
}

/// What to do about a TLS handshake that failed, if that is what it was.
fn distrust(reason: &str) -> Option<&'static str> {
    let says = |words: &str| reason.contains(words);
    if says("invalid peer certificate") {
        Some(if says("UnknownIssuer") || says("BadSignature") {
            "name the CA of its certificate with --ca-cert"
        } else if says("not valid for name") || says("NotValidForName") {
            "use the name that its certificate is made out to"
        } else if says("expired") || says("Expired") {
            "have its certificate renewed, and compare the clocks"
        } else {
            "have its certificate looked at"
        })
    } else if says("InvalidContentType") || says("corrupt message") {
        Some("it does not speak TLS there: write its address as http://HOST:PORT")
    } else if says("received fatal alert") {
        Some(
            "it does not accept the certificate of --client-cert: have one issued by its client CA",
        )
    } else {
        None
    }
}

/// The first cause of an error: what the layers above it say is that something failed.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    // The system appends its number to its words: "Connection refused (os error 111)".
    let text = innermost.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

/// Undoes percent-encoding; what is not encoded properly stays as it is.
fn percent_decoded(text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| Some(hex(digits[0])? << 4 | hex(digits[1])?));
        if let Some(escaped) = escaped {
            decoded.push(escaped);
            rest = &after[2..];
        } else {
            decoded.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;

    use super::*;

    #[test]
    fn hints_are_decoded_and_broken_ones_kept() {
        for (encoded, decoded) in [
            ("tidectl%20undrain%20relay-2", "tidectl undrain relay-2"),
            ("f%C3%BCr%0Ax", "für\nx"),
            ("100% sure", "100% sure"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
        ] {
            assert_eq!(percent_decoded(encoded.as_bytes()), decoded);
        }
    }

    #[test]
    fn a_refusal_keeps_the_server_s_words_and_advice() {
        let mut metadata = MetadataMap::new();
        metadata.insert("tide-hint", "add%20--force".parse().unwrap());
        let status = Status::with_metadata(Code::FailedPrecondition, "nowhere to go", metadata);
        let error = from_status("http://h:1", &status);
        assert_eq!(error.to_string(), "nowhere to go");
        assert_eq!(error.hint().as_deref(), Some("add --force"));
    }

    #[test]
    fn a_standby_counts_as_unreachable_and_names_the_leader() {
        let mut metadata = MetadataMap::new();
        metadata.insert("tide-hint", "ask http://ctl-b:7900".parse().unwrap());
        metadata.insert("tide-leader", "http://ctl-b:7900".parse().unwrap());
        let status = Status::with_metadata(Code::Unavailable, "this one is a standby", metadata);
        let error = from_status("http://ctl-a:7900", &status);
        assert!(error.is_unreachable());
        assert!(
            error.to_string().ends_with("this one is a standby"),
            "{error}"
        );
        assert_eq!(error.hint().as_deref(), Some("ask http://ctl-b:7900"));
        assert_eq!(error.leader(), Some("http://ctl-b:7900"));
    }

    #[test]
    fn trouble_on_the_way_is_no_refusal() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let status = Status::from_error(Box::new(broken));
        let error = from_status("http://h:1", &status);
        assert!(error.is_unreachable(), "{error:?}");
        assert_eq!(
            error.to_string(),
            "control plane at http://h:1 is unreachable: broken pipe"
        );
    }

    #[test]
    fn what_tls_says_is_told_apart_and_no_other_source_stands_in() {
        for (reason, hint) in [
            ("invalid peer certificate: UnknownIssuer", "--ca-cert"),
            (
                "invalid peer certificate: certificate expired: x",
                "renewed",
            ),
            (
                "received corrupt message of type InvalidContentType",
                "http://HOST",
            ),
            ("received fatal alert: UnknownCA", "--client-cert"),
        ] {
            let error = on_the_way("https://h:1", &std::io::Error::other(reason));
            assert!(error.hint().unwrap().contains(hint), "{error:?}");
            assert_eq!(error.exit(), crate::exit::Exit::Unreachable);
            assert!(!error.is_unreachable() && !error.is_transient());
        }
        // How a connection ends that was hung up on depends on who was quicker.
        for hung_up in [
            std::io::Error::from_raw_os_error(104),
            std::io::Error::from_raw_os_error(107),
            std::io::Error::other("broken pipe"),
            std::io::Error::other("operation was canceled"),
        ] {
            let error = on_the_way("http://h:1", &hung_up);
            assert!(error.is_unreachable());
            assert!(
                error.hint().unwrap().contains("https://HOST:PORT"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_empty_refusal_still_says_something() {
        let error = from_status("http://h:1", &Status::new(Code::Internal, ""));
        assert!(error.to_string().contains("http://h:1"), "{error}");
    }
}
