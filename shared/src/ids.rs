//! Identifiers, one newtype each, so that mixing two does not compile.
//!
//! They come from the registry (nodes, groups, placements, jobs), from a proxy or client
//! ([`RequestId`]) or from hashing a key ([`Slot`]). All of them travel in frames and log entries.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// A process that hosts replicas. Given by the operator or by the registry, from 1.
    NodeId(u64)
}
id! {
    /// One replica of one group: the raft id. Handed out once by the registry, never reused, because
    /// a voter that lost its disk and came back under its old id could vote twice in one term.
    ReplicaId(u64)
}
id! {
    /// A partition of a placement: the unit of ownership, locking and movement.
    Slot(u16)
}
id! {
    /// Which shard owns which slot, for one colocation set of tables.
    PlacementId(u32)
}
id! {
    /// Long work recorded in the registry.
    JobId(u64)
}
id! {
    /// One move of slots from a shard to another; a later move has a larger id.
    MoveId(u64)
}
id! {
    /// Version of what one shard owns of one placement; raised with every change of ownership.
    Epoch(u64)
}
id! {
    /// Version of the schema, raised by every schema statement.
    SchemaVersion(u64)
}

/// One Raft group: 0 is the metadata group, every other number a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GroupId(pub u32);

/// The group that replicates the registry.
pub const META: GroupId = GroupId(0);

impl GroupId {
    /// Is this a shard, not the metadata group?
    pub fn is_shard(self) -> bool {
        self != META
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            META => f.write_str("meta"),
            GroupId(n) => write!(f, "shard{n}"),
        }
    }
}

/// A text that names no group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no group; a group is `meta` or `shard1`, `shard2`, …")]
pub struct BadGroupId(pub String);

impl FromStr for GroupId {
    type Err = BadGroupId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "meta" {
            return Ok(META);
        }
        match text.strip_prefix("shard").unwrap_or(text).parse() {
            Ok(n) if n > 0 => Ok(Self(n)),
            _ => Err(BadGroupId(text.to_owned())),
        }
    }
}

impl From<GroupId> for String {
    fn from(group: GroupId) -> Self {
        group.to_string()
    }
}

impl TryFrom<String> for GroupId {
    type Error = BadGroupId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Names one write for ever: a retry carries the same id and gets the first result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u128);

impl RequestId {
    /// A fresh id, from a generator that the operating system seeds. The clock goes in as well: the copies of a
    /// suspended machine go on with the same generator, but not at the same nanosecond.
    ///
    /// # Panics
    /// When the operating system has no randomness to give; nothing safe could be done then.
    pub fn random() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(rand::random::<u128>() ^ since_1970.as_nanos())
    }

    /// The id that a client's `Idempotency-Key` stands for.
    pub fn from_key(key: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(key.as_bytes()))
    }

    /// The id of part `part` of this request: a statement of a batch, or one shard's share of a
    /// statement. The same request split the same way gives the same ids.
    pub fn part(self, part: u64) -> Self {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.0.to_le_bytes());
        bytes[16..].copy_from_slice(&part.to_le_bytes());
        Self(xxhash_rust::xxh3::xxh3_128(&bytes))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Group names round-trip, bare numbers are accepted, nonsense is not.
    #[test]
    fn group_names() {
        assert_eq!("meta".parse(), Ok(META));
        assert_eq!("shard12".parse(), Ok(GroupId(12)));
        assert_eq!("12".parse(), Ok(GroupId(12)));
        assert_eq!(GroupId(3).to_string(), "shard3");
        assert!("shard0".parse::<GroupId>().is_err());
        assert!("users".parse::<GroupId>().is_err());
    }

    /// Parts of one request differ from each other and from the request, and are stable.
    #[test]
    fn request_parts() {
        let id = RequestId::from_key("abc");
        assert_eq!(id.part(1), RequestId::from_key("abc").part(1));
        assert_ne!(id.part(1), id.part(2));
        assert_ne!(id.part(0), id);
    }
}
