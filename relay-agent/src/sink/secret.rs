//! `${env:NAME}` and `${file:PATH}` in settings: resolved when a sink opens, shown nowhere.

use super::SinkError;

/// Replaces every reference in `text`.
pub(super) fn resolve(setting: &str, text: &str) -> Result<String, SinkError> {
    resolve_as(setting, text, |secret| secret)
}

/// As [`resolve`], for a URL: what stands for a part of it is percent-encoded, so that a password
/// may hold any character; what stands for all of it is a URL already.
pub(super) fn resolve_url(setting: &str, text: &str) -> Result<String, SinkError> {
    if text.starts_with("${") {
        return resolve(setting, text);
    }
    resolve_as(setting, text, |secret| percent_encoded(&secret))
}

/// Every byte that is not unreserved in a URL (RFC 3986), and so in a form, as `%XX`.
pub(super) fn percent_encoded(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| match byte {
        byte if unreserved(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn resolve_as(
    setting: &str,
    text: &str,
    written: impl Fn(String) -> String,
) -> Result<String, SinkError> {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        resolved.push_str(&rest[..start]);
        let Some(length) = rest[start..].find('}') else {
            return Err(SinkError::misconfigured(format!(
                "{setting}: a ${{ without its }}"
            )));
        };
        resolved.push_str(&written(look_up(
            setting,
            &rest[start + 2..start + length],
        )?));
        rest = &rest[start + length + 1..];
    }
    resolved.push_str(rest);
    Ok(resolved)
}

fn look_up(setting: &str, reference: &str) -> Result<String, SinkError> {
    match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|_| {
            SinkError::misconfigured(format!("{setting}: environment variable {name} is not set"))
        }),
        Some(("file", path)) => std::fs::read_to_string(path)
            .map(|secret| secret.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| {
                SinkError::misconfigured(format!("{setting}: could not read {path}: {error}"))
            }),
        _ => Err(SinkError::misconfigured(format!(
            "{setting}: ${{{reference}}} is neither ${{env:NAME}} nor ${{file:PATH}}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_references_and_keeps_the_rest() {
        let path = std::env::temp_dir().join(format!("tide-secret-{}", std::process::id()));
        std::fs::write(&path, "s3cret\n").unwrap();
        let resolved = resolve("h", &format!("Bearer ${{file:{}}}!", path.display())).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(resolved, "Bearer s3cret!");
        assert_eq!(resolve("h", "plain $5").unwrap(), "plain $5");
        assert!(!resolve("h", "${env:PATH}").unwrap().is_empty());
    }

    #[test]
    fn a_part_of_a_url_may_hold_any_character() {
        let path = std::env::temp_dir().join(format!("tide-url-{}", std::process::id()));
        std::fs::write(&path, "p@ss:w/rd?\n").unwrap();
        let part = format!("postgres://u:${{file:{}}}@h/d", path.display());
        assert_eq!(
            resolve_url("u", &part).unwrap(),
            "postgres://u:p%40ss%3Aw%2Frd%3F@h/d"
        );
        let whole = format!("${{file:{}}}", path.display());
        assert_eq!(resolve_url("u", &whole).unwrap(), "p@ss:w/rd?");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn says_which_setting_cannot_be_resolved() {
        for text in [
            "${env:TIDE_NO_SUCH_VARIABLE}",
            "${file:/no/such/file}",
            "${vault:x}",
            "${env:X",
        ] {
            let error = resolve("headers.authorization", text).unwrap_err();
            assert!(
                error.to_string().starts_with("headers.authorization: "),
                "{error}"
            );
        }
    }
}
