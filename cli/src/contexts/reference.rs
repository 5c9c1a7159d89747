//! `${env:NAME}` and `${file:PATH}`: where a secret is, instead of the secret.

use std::{env, fs};

use crate::error::CliError;

/// Whether a text is one reference and nothing else.
pub fn is_reference(text: &str) -> bool {
    let inner = text
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'));
    inner.is_some_and(|inner| {
        let named = inner.split_once(':');
        !inner.contains('}') && named.is_some_and(|(kind, _)| kind == "env" || kind == "file")
    })
}

/// Replaces every reference in a setting. Errors name the reference, never what it stands for.
pub fn resolve(setting: &str, text: &str) -> Result<String, CliError> {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else {
            return Err(unusable(setting, "a ${ has no }"));
        };
        resolved.push_str(&rest[..start]);
        resolved.push_str(&looked_up(setting, &rest[start + 2..start + length])?);
        rest = &rest[start + length + 1..];
    }
    resolved.push_str(rest);
    Ok(resolved)
}

fn looked_up(setting: &str, reference: &str) -> Result<String, CliError> {
    match reference.split_once(':') {
        Some(("env", name)) => env::var(name)
            .map_err(|_| unusable(setting, &format!("environment variable {name} is not set"))),
        Some(("file", path)) => fs::read_to_string(path)
            .map(|secret| secret.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| unusable(setting, &format!("could not read {path}: {error}"))),
        _ => Err(unusable(
            setting,
            &format!("${{{reference}}} is neither ${{env:NAME}} nor ${{file:PATH}}"),
        )),
    }
}

fn unusable(setting: &str, why: &str) -> CliError {
    CliError::usage(
        format!("{setting}: {why}"),
        "write ${env:NAME} or ${file:PATH}, in single quotes",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_the_rest_kept() {
        assert!(is_reference("${env:A}") && is_reference("${file:/a}"));
        for text in [
            "",
            "a",
            "${a}",
            "${env:A}x",
            "${env:A}${env:B}",
            "${vault:a}",
        ] {
            assert!(!is_reference(text), "{text}");
        }
        let home = env::var("HOME").unwrap();
        let resolved = resolve("token", "<${env:HOME}>").unwrap();
        assert_eq!(resolved, format!("<{home}>"));
        for bad in [
            "${env:NO_SUCH_VARIABLE_HERE}",
            "${file:/nowhere/x}",
            "${x:y}",
            "${env:A",
        ] {
            let error = resolve("--token", bad).unwrap_err();
            assert!(error.to_string().starts_with("--token: "), "{error}");
        }
    }
}
