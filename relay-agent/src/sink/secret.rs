//! `${env:NAME}` and `${file:PATH}` in settings: resolved when a sink opens, shown nowhere.

use super::SinkError;

/// Replaces every reference in `text`.
pub(super) fn resolve(setting: &str, text: &str) -> Result<String, SinkError> {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        resolved.push_str(&rest[..start]);
        let Some(length) = rest[start..].find('}') else {
            return Err(SinkError::misconfigured(format!(
                "{setting}: a ${{ without its }}"
            )));
        };
        resolved.push_str(&look_up(setting, &rest[start + 2..start + length])?);
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
