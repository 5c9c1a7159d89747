//! Connection URLs in which any name or password survives.

use std::fmt::Write as _;

/// The URL of a database on 127.0.0.1.
pub(super) fn url(user: &str, password: Option<&str>, port: u16, database: &str) -> String {
    let user = encoded(user);
    let password = password
        .map(|text| format!(":{}", encoded(text)))
        .unwrap_or_default();
    format!(
        "postgres://{user}{password}@127.0.0.1:{port}/{}",
        encoded(database)
    )
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            write!(url, "%{byte:02X}").expect("writing to a string cannot fail");
        }
        url
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_url_is_encoded() {
        assert_eq!(
            url("o'neil", Some("p@ss/w:rd"), 1234, "my db"),
            "postgres://o%27neil:p%40ss%2Fw%3Ard@127.0.0.1:1234/my%20db"
        );
    }

    #[test]
    fn a_plain_url_stays_plain() {
        assert_eq!(
            url("postgres", None, 5, "app_1"),
            "postgres://postgres@127.0.0.1:5/app_1"
        );
    }
}
