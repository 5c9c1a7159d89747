//! Bearer tokens. The file holds hashes, so reading it lets nobody in:
//!
//! ```toml
//! [[token]]
//! name = "ana"                          # recorded with everything she does
//! role = "operator"                     # viewer, operator, admin, or agent
//! sha256 = "9f86d081…"                  # printf %s "$TOKEN" | sha256sum
//! expires = "2027-06-01T00:00:00Z"      # optional
//! ```

use std::fmt;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Denied, Principal, Proof, Role};

/// Longer ones are not worth hashing.
const LONGEST: usize = 4_096;
/// As much as a name in a table has room for.
const LONGEST_NAME: usize = 200;

/// The tokens that are good, or were.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Vec<Entry>);

#[derive(Clone)]
struct Entry {
    principal: Principal,
    hash: [u8; 32],
    expires: Option<OffsetDateTime>,
}

/// A tokens file that cannot be used. Quotes nothing of it but names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTokens {
    /// No TOML, or not of this shape.
    #[error("line {line}: {message}")]
    Syntax { line: usize, message: String },
    /// One of the entries.
    #[error("token of {name:?}: {why}")]
    Entry { name: String, why: &'static str },
    /// Nobody could come in.
    #[error("it holds no token")]
    Empty,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    role: Role,
    sha256: String,
    expires: Option<String>,
}

impl Tokens {
    /// Reads a tokens file.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidTokens> {
        let file: File = toml::from_str(text).map_err(|error| {
            let before = error.span().map_or("", |span| &text[..span.start]);
            InvalidTokens::Syntax {
                line: before.matches('\n').count() + 1,
                message: error.message().to_owned(),
            }
        })?;
        let mut entries: Vec<Entry> = Vec::new();
        for written in file.token {
            let entry = Entry::of(&written).map_err(|why| InvalidTokens::Entry {
                name: written.name.clone(),
                why,
            })?;
            if entries.iter().any(|known| known.hash == entry.hash) {
                return Err(InvalidTokens::Entry {
                    name: written.name,
                    why: "its hash is there twice, so nobody could say who asks",
                });
            }
            entries.push(entry);
        }
        if entries.is_empty() {
            return Err(InvalidTokens::Empty);
        }
        Ok(Self(entries))
    }

    /// Whose token it is. Takes as long for a wrong one as for a right one: every entry is compared,
    /// and each comparison looks at every byte.
    pub(crate) fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Principal, Denied> {
        if token.len() > LONGEST {
            return Err(Denied::UnknownToken);
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for entry in &self.0 {
            if bool::from(entry.hash.ct_eq(&hash)) {
                found = Some(entry);
            }
        }
        let entry = found.ok_or(Denied::UnknownToken)?;
        match entry.expires {
            Some(at) if at <= now => Err(Denied::ExpiredToken {
                name: entry.principal.name.clone(),
                at: at.format(&Rfc3339).unwrap_or_default(),
            }),
            _ => Ok(entry.principal.clone()),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Entry {
    fn of(written: &Written) -> Result<Self, &'static str> {
        let name = written.name.trim();
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err("name is empty, too long, or holds control characters");
        }
        let hash = hash(&written.sha256).ok_or("sha256 is not 64 hexadecimal digits")?;
        let expires = written
            .expires
            .as_deref()
            .map(|text| OffsetDateTime::parse(text, &Rfc3339))
            .transpose()
            .map_err(|_| "expires is not a time such as 2027-06-01T00:00:00Z")?;
        Ok(Self {
            principal: Principal {
                name: name.to_owned(),
                role: written.role,
                proof: Proof::Token,
                group: None,
            },
            hash,
            expires,
        })
    }
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0))
        .collect();
    (digits.len() == 64)
        .then(|| bytes.try_into().ok())
        .flatten()
}

/// Names only.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|entry| &entry.principal.name);
        f.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf %s letmein | sha256sum`
    const LETMEIN: &str = "1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032";

    fn file(more: &str) -> String {
        format!("[[token]]\nname = \"ana\"\nrole = \"operator\"\nsha256 = \"{LETMEIN}\"\n{more}")
    }

    fn at(text: &str) -> OffsetDateTime {
        OffsetDateTime::parse(text, &Rfc3339).unwrap()
    }

    #[test]
    fn a_token_names_its_owner_until_it_expires() {
        let tokens = Tokens::parse(&file("expires = \"2027-01-01T00:00:00Z\"\n")).unwrap();
        let ana = tokens
            .verify("letmein", at("2026-12-31T23:59:59Z"))
            .unwrap();
        assert_eq!((ana.name.as_str(), ana.role), ("ana", Role::Operator));
        let expired = tokens.verify("letmein", at("2027-01-01T00:00:00Z"));
        assert_eq!(expired.unwrap_err().reason(), "TOKEN_EXPIRED");
        for wrong in ["", "letmei", "letmein ", "Letmein", LETMEIN] {
            let denied = tokens.verify(wrong, at("2026-01-01T00:00:00Z"));
            assert_eq!(denied, Err(Denied::UnknownToken), "{wrong}");
        }
        let long = "x".repeat(LONGEST + 1);
        assert!(tokens.verify(&long, at("2026-01-01T00:00:00Z")).is_err());
    }

    #[test]
    fn a_bad_file_is_refused_with_its_place_and_without_its_contents() {
        for (text, words) in [
            ("", "it holds no token"),
            ("[[token]]\nname = \"ana\"\n", "line 1: missing field"),
            (&file("colour = 1\n"), "unknown field `colour`"),
            (
                &file("expires = \"tomorrow\"\n"),
                "\"ana\": expires is not a time",
            ),
            (&file("").replace("1c8b", "xyzw"), "64 hexadecimal digits"),
            (&file("").replace("1c8b", "1c"), "64 hexadecimal digits"),
            (
                &file("").replace("operator", "root"),
                "unknown variant `root`",
            ),
            (&file("").replace("ana", " "), "name is empty"),
            (&file(&file("").replace("ana", "tom")), "there twice"),
        ] {
            let error = Tokens::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("1c8bfe8f"), "{error}");
        }
    }
}
