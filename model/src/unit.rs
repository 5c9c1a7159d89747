//! What agents own: a pipeline, or one of its shards.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{InvalidName, PipelineName};

/// Most shards a pipeline may have; the catalog checks the same.
pub const MAX_SHARDS: u16 = 64;

/// One part of a pipeline: the messages whose keys hash to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// From 1 to `count`.
    pub index: u16,
    /// How many there are; at least 2.
    pub count: u16,
}

impl Shard {
    /// A shard, if the numbers make one.
    pub fn new(index: u16, count: u16) -> Option<Self> {
        ((2..=MAX_SHARDS).contains(&count) && (1..=count).contains(&index))
            .then_some(Self { index, count })
    }
}

/// `2/4`: the second of four.
impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// The smallest thing that has an owner, a lock and a position: `orders`, or `orders#2/4` for the
/// second of four shards.
///
/// The number of shards is part of the name, so the shards of two layouts never share a lock or a
/// position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

/// Between a pipeline's name and its shard; no pipeline's name has it.
const SEPARATOR: char = '#';

impl UnitName {
    /// One shard of a pipeline.
    pub fn sharded(pipeline: &PipelineName, shard: Shard) -> Self {
        Self(format!("{pipeline}{SEPARATOR}{shard}"))
    }

    /// Everything that a pipeline of this many shards consists of.
    pub fn all(pipeline: &PipelineName, shards: u16) -> Vec<Self> {
        if shards <= 1 {
            return vec![pipeline.clone().into()];
        }
        let shard = |index| Shard {
            index,
            count: shards,
        };
        (1..=shards)
            .map(|index| Self::sharded(pipeline, shard(index)))
            .collect()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the pipeline that this is a part of, or all of, as text.
    pub fn pipeline_str(&self) -> &str {
        self.0
            .split_once(SEPARATOR)
            .map_or(&self.0, |(pipeline, _)| pipeline)
    }

    /// The pipeline that this is a part of, or all of.
    ///
    /// # Panics
    /// Never: the name was checked when this one was made.
    pub fn pipeline(&self) -> PipelineName {
        self.pipeline_str()
            .parse()
            .expect("a unit's name begins with a pipeline's")
    }

    /// Which part of the pipeline; none if it is all of it.
    pub fn shard(&self) -> Option<Shard> {
        let (_, shard) = self.0.split_once(SEPARATOR)?;
        parse_shard(shard)
    }
}

fn parse_shard(text: &str) -> Option<Shard> {
    let (index, count) = text.split_once('/')?;
    let shard = Shard::new(index.parse().ok()?, count.parse().ok()?)?;
    // One way to write it, so that equal units have equal names.
    (shard.to_string() == text).then_some(shard)
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for UnitName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<PipelineName> for UnitName {
    fn from(pipeline: PipelineName) -> Self {
        Self(pipeline.into())
    }
}

impl From<UnitName> for String {
    fn from(unit: UnitName) -> String {
        unit.0
    }
}

impl FromStr for UnitName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::try_from(name.to_owned())
    }
}

impl TryFrom<String> for UnitName {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        match name.split_once(SEPARATOR) {
            Some((pipeline, shard)) => {
                pipeline.parse::<PipelineName>()?;
                if parse_shard(shard).is_none() {
                    return Err(InvalidName::shard(name));
                }
                Ok(Self(name))
            }
            None => PipelineName::try_from(name).map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_without_shards_is_its_own_unit() {
        let unit: UnitName = "orders".parse().unwrap();
        assert_eq!((unit.pipeline().as_str(), unit.shard()), ("orders", None));
        assert_eq!(UnitName::all(&unit.pipeline(), 1), [unit]);
    }

    #[test]
    fn a_shard_names_its_pipeline_and_its_layout() {
        let unit: UnitName = "orders#2/4".parse().unwrap();
        assert_eq!(unit.pipeline().as_str(), "orders");
        assert_eq!(unit.shard(), Shard::new(2, 4));
        assert_eq!(UnitName::all(&unit.pipeline(), 4)[1], unit);
    }

    #[test]
    fn there_is_one_way_to_write_a_shard() {
        for name in [
            "orders#",
            "orders#0/4",
            "orders#5/4",
            "orders#1/1",
            "orders#02/4",
            "orders#1/65",
            "#1/2",
            "o#1/2#1/2",
        ] {
            assert!(name.parse::<UnitName>().is_err(), "{name}");
        }
    }
}
