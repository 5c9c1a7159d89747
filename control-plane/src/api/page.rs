//! Pages of lists. A token says after which item the next page begins, so a list that changes
//! between two pages neither repeats nor skips what stays. Tokens are opaque to clients.

use std::{fmt::Write as _, str::FromStr};

use tide_model::{OperationId, operation::Operation};
use time::OffsetDateTime;
use tonic::Status;

use super::status::invalid;

const DEFAULT_SIZE: u32 = 100;
const MAX_SIZE: u32 = 1_000;

/// How many items a page may have.
pub(super) fn size(asked: u32) -> u32 {
    match asked {
        0 => DEFAULT_SIZE,
        asked => asked.min(MAX_SIZE),
    }
}

/// One page of `items` by name, after the one that the token names, and the next page's token.
pub(super) fn by_name<'a, T>(
    items: impl Iterator<Item = &'a T>,
    name: impl Fn(&T) -> &str,
    asked: u32,
    token: &str,
) -> Result<(Vec<&'a T>, String), Status> {
    let after = decode(token)?;
    let mut page: Vec<&T> = items
        .filter(|item| {
            after
                .as_ref()
                .is_none_or(|after| name(item) > after.as_str())
        })
        .collect();
    // The database sorts by its own collation, pages by bytes.
    page.sort_by(|a, b| name(a).cmp(name(b)));
    let size = size(asked) as usize;
    let more = page.len() > size;
    page.truncate(size);
    let next = page.last().filter(|_| more).map(|last| encode(name(last)));
    Ok((page, next.unwrap_or_default()))
}

/// The operation after which a page begins.
pub(super) fn operation_after(
    token: &str,
) -> Result<Option<(OffsetDateTime, OperationId)>, Status> {
    let Some(text) = decode(token)? else {
        return Ok(None);
    };
    let parsed = text.split_once(' ').and_then(|(nanos, id)| {
        let nanos = i128::from_str(nanos).ok()?;
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
        Some((at, id.parse().ok()?))
    });
    parsed.map(Some).ok_or_else(foreign)
}

/// The token of the page after this operation.
pub(super) fn operation_token(last: &Operation) -> String {
    encode(&format!(
        "{} {}",
        last.created_at.unix_timestamp_nanos(),
        last.id
    ))
}

fn foreign() -> Status {
    invalid("page_token", "is not from an earlier page of this list")
}

fn encode(text: &str) -> String {
    let mut token = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        write!(token, "{byte:02x}").expect("writing to a String does not fail");
    }
    token
}

/// None for the first page.
fn decode(token: &str) -> Result<Option<String>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let bytes: Option<Vec<u8>> = token
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some((digit(high)? * 16 + digit(low)?) as u8),
            _ => None,
        })
        .collect();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Some)
        .ok_or_else(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(names: &[&str], asked: u32) -> Vec<Vec<String>> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut pages = Vec::new();
        let mut token = String::new();
        loop {
            let (page, next) = by_name(names.iter(), String::as_str, asked, &token).unwrap();
            pages.push(page.into_iter().cloned().collect());
            if next.is_empty() {
                return pages;
            }
            token = next;
        }
    }

    #[test]
    fn pages_hold_everything_once_in_order() {
        assert_eq!(
            pages(&["b", "a", "ü", "C"], 3),
            [vec!["C", "a", "b"], vec!["ü"]]
        );
        assert_eq!(pages(&["a", "b"], 2), [vec!["a", "b"]]);
        assert_eq!(pages(&[], 2), [Vec::<String>::new()]);
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(size(0), 100);
        assert_eq!(size(7), 7);
        assert_eq!(size(u32::MAX), 1_000);
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for token in ["x", "abc", "zz", "ff", "+1", "ü"] {
            assert!(decode(token).is_err(), "{token}");
        }
        assert!(operation_after(&encode("relay-1")).is_err());
    }

    #[test]
    fn the_place_of_an_operation_survives() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_000).unwrap();
        let id: OperationId = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap();
        let token = encode(&format!("{} {id}", at.unix_timestamp_nanos()));
        assert_eq!(operation_after(&token).unwrap(), Some((at, id)));
    }
}
