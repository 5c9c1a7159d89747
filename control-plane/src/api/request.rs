//! Fields that several requests share.

use std::{str::FromStr, time::Duration};

use tide_catalog::intent::Actor;
use tide_proto::convert;
use tonic::{Request, Status};

use super::status::{invalid, invalid_field};
use crate::access::{Asking, Caller};

/// Enough for a name; it is shown in every table.
const MAX_ACTOR: usize = 200;
/// Enough for a sentence with a link.
const MAX_REASON: usize = 2_000;
/// A drain that takes longer needs no deadline.
const MAX_DEADLINE: Duration = Duration::from_hours(24 * 365);

/// A name or an id.
pub(super) fn parse<T>(field: &'static str, text: &str) -> Result<T, Status>
where
    T: FromStr<Err: std::fmt::Display>,
{
    if text.is_empty() {
        return Err(invalid(field, "is missing"));
    }
    text.parse()
        .map_err(|error| invalid(field, format_args!("is invalid: {error}")))
}

/// Who asks, as the guard found out.
pub(super) fn asking<T>(request: &Request<T>) -> Asking {
    let found = request.extensions().get::<Asking>();
    found
        .expect("the guard lets no request through without it")
        .clone()
}

/// Who asks and why. What is proven counts, whatever the request says.
pub(super) fn actor(caller: &Caller, claimed: &str, reason: String) -> Result<Actor, Status> {
    let name = match caller {
        Caller::Known(principal) => principal.name.clone(),
        Caller::Anyone => claimed.to_owned(),
    };
    if name.trim().is_empty() {
        return Err(invalid("actor", "is missing"));
    }
    if name.len() > MAX_ACTOR {
        return Err(invalid(
            "actor",
            format_args!("is longer than {MAX_ACTOR} bytes"),
        ));
    }
    if reason.len() > MAX_REASON {
        return Err(invalid(
            "reason",
            format_args!("is longer than {MAX_REASON} bytes"),
        ));
    }
    for (field, text) in [("actor", &name), ("reason", &reason)] {
        if text.contains('\0') {
            return Err(invalid(field, "contains a NUL"));
        }
    }
    Ok(Actor { name, reason })
}

/// When to give up; none for never.
pub(super) fn deadline(
    deadline: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Status> {
    let Some(deadline) = deadline else {
        return Ok(None);
    };
    let deadline = convert::to_duration("deadline", deadline).map_err(|e| invalid_field(&e))?;
    if deadline.is_zero() || deadline > MAX_DEADLINE {
        return Err(invalid("deadline", "is not between now and a year"));
    }
    Ok(Some(deadline))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::access::{Principal, Proof, Role};

    fn wire(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    #[test]
    fn deadlines_are_bounded() {
        assert_eq!(deadline(None).unwrap(), None);
        assert_eq!(
            deadline(Some(wire(90))).unwrap(),
            Some(Duration::from_secs(90))
        );
        for seconds in [0, -1, i64::MAX, 366 * 86_400] {
            let status = deadline(Some(wire(seconds))).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{seconds}");
        }
    }

    #[test]
    fn somebody_must_ask() {
        for name in ["", "  ", "a\0b"] {
            let status = actor(&Caller::Anyone, name, String::new()).unwrap_err();
            assert!(status.message().starts_with("field actor"), "{status}");
        }
        assert!(actor(&Caller::Anyone, "ana", "x".repeat(2_001)).is_err());
        assert!(actor(&Caller::Anyone, "ana", String::new()).is_ok());
    }

    #[test]
    fn nobody_can_act_under_another_name_than_their_own() {
        let ana = Caller::Known(Principal {
            name: "ana".to_owned(),
            role: Role::Operator,
            proof: Proof::Token,
            group: None,
        });
        for claimed in ["", "tom"] {
            assert_eq!(actor(&ana, claimed, String::new()).unwrap().name, "ana");
        }
    }
}
