//! Lists in which each thing is named once.
//!
//! Of a shard that is named twice both shares would be given to the one shard, and one of them be lost; of a node,
//! two replicas would count as two votes. Who names a thing twice means something else, so it is refused, by the
//! registry itself: whatever a proxy lets pass.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::{JobKind, MAX_POINTS, Registration, ReplicaChange, ReplicaGoal, Spread};
use crate::error::{Code, Error};
use crate::ids::NodeId;
use crate::value::Value;

/// Refuses a list that names a thing twice.
///
/// # Errors
/// [`Code::BadRequest`], which names it.
pub(super) fn distinct<T: Display + Ord>(list: &[T], what: &str) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    match list.iter().find(|one| !seen.insert(*one)) {
        Some(twice) => Err(named_twice(format!("{what} {twice}"))),
        None => Ok(()),
    }
}

fn named_twice(what: String) -> Error {
    Error::new(Code::BadRequest, format!("{what} is there twice")).hint("name each one once")
}

/// Values have no order without a column. More than [`MAX_POINTS`] are refused anyway, so few are compared.
fn distinct_keys<'a>(keys: impl Iterator<Item = &'a Vec<Value>>, what: &str) -> Result<(), Error> {
    let keys: Vec<&Vec<Value>> = keys.take(MAX_POINTS).collect();
    match keys.iter().enumerate().find(|(at, key)| keys[..*at].contains(key)) {
        Some((_, twice)) => {
            let values: Vec<String> = twice.iter().map(|value| value.to_json().to_string()).collect();
            Err(named_twice(format!("{what} {}", values.join(", "))))
        }
        None => Ok(()),
    }
}

impl Registration {
    fn check_lists(&self) -> Result<(), Error> {
        distinct(&self.shards, "shard")?;
        let key: Vec<String> = self.key.iter().map(|name| name.to_ascii_lowercase()).collect();
        distinct(&key, "key column").map_err(|error| Error { code: Code::UnsafeRegistration, ..error })?;
        match &self.spread {
            Spread::Range { points } => distinct_keys(points.iter(), "split point"),
            Spread::List { values, .. } => {
                let shards: Vec<_> = values.iter().map(|(shard, _)| *shard).collect();
                distinct(&shards, "shard")?;
                distinct_keys(values.iter().flat_map(|(_, values)| values), "listed value")
            }
            Spread::Hash | Spread::Reference => Ok(()),
        }
    }
}

impl JobKind {
    /// Does each list that a job is asked for with name a thing once? Values that only a column calls equal
    /// are found when the job knows the column. A point at which ranges are to be split may be there already, and so
    /// may be named twice: nothing comes of the second.
    pub(super) fn check_lists(&self) -> Result<(), Error> {
        match self {
            Self::Register(registration) => registration.check_lists(),
            Self::Join { groups, .. } => distinct(groups, "group"),
            Self::CreateShard { nodes, .. } => distinct(nodes, "node"),
            Self::Replicas { goal: ReplicaGoal::Repair { nodes }, .. } => distinct(nodes, "node"),
            Self::Replicas { goal: ReplicaGoal::Group { changes, .. }, .. } => distinct_changes(changes),
            Self::Write(write) => distinct(&write.placements, "placement"),
            _ => Ok(()),
        }
    }
}

/// No node gets a replica twice, nor loses one twice, nor is promoted twice: the changes are made in order, and the
/// second one would meet what the first has made.
fn distinct_changes(changes: &[ReplicaChange]) -> Result<(), Error> {
    let nodes = |of: fn(&ReplicaChange) -> Option<NodeId>| changes.iter().filter_map(of).collect::<Vec<NodeId>>();
    let comes = nodes(|change| match change {
        ReplicaChange::Add { node, .. } | ReplicaChange::Replace { to: node, .. } => Some(*node),
        _ => None,
    });
    let goes = nodes(|change| match change {
        ReplicaChange::Remove { node } | ReplicaChange::Replace { from: node, .. } => Some(*node),
        _ => None,
    });
    let votes = nodes(|change| match change {
        ReplicaChange::Promote { node } => Some(*node),
        _ => None,
    });
    [comes, goes, votes].iter().try_for_each(|nodes| distinct(nodes, "node"))
}

#[cfg(test)]
mod tests;
