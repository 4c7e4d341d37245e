//! Who shall lead: whether leaders are spread by themselves, and the zone that each group prefers.
//!
//! These are wishes of the operator, nothing that safety rests on: the leader of `meta` follows them as
//! far as replicas are up and have caught up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MetaReply, Registry};
use crate::error::{Code, Error};
use crate::ids::{GroupId, NodeId};

/// Characters of a zone's name; it travels with every node and ends up in labels.
pub const MAX_ZONE_CHARS: usize = 64;

/// Wishes about leaders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRules {
    /// Leaders stay where they are, but for what operators ask.
    pub still: bool,
    /// The zone in which a group's leader shall be.
    pub preferred: BTreeMap<GroupId, String>,
}

/// A change of the wishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaderRule {
    /// Spread leaders over the nodes, or leave them alone.
    Balance(bool),
    /// Prefer a zone, or none.
    Prefer {
        /// The group.
        group: GroupId,
        /// The zone.
        zone: Option<String>,
    },
}

/// Refuses what is no name of a zone.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn check_zone(zone: &str) -> Result<(), Error> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match (1..=MAX_ZONE_CHARS).contains(&zone.len()) && zone.chars().all(fits) {
        true => Ok(()),
        false => {
            Err(Error::new(Code::BadRequest, format!("`{}` is no zone", zone.chars().take(80).collect::<String>()))
                .hint(format!("a zone has 1 to {MAX_ZONE_CHARS} letters, digits, `-`, `_` or `.`, such as eu-west-1a")))
        }
    }
}

impl Registry {
    /// Applies a wish.
    pub(super) fn change_leaders(&mut self, rule: LeaderRule) -> Result<MetaReply, Error> {
        match rule {
            LeaderRule::Balance(on) => self.leaders.still = !on,
            LeaderRule::Prefer { group, .. } if !self.groups.contains_key(&group) => {
                return Err(Error::new(Code::NoSuchObject, format!("there is no {group}")).hint("see GET /shard"));
            }
            LeaderRule::Prefer { group, zone: Some(zone) } => {
                check_zone(&zone)?;
                self.leaders.preferred.insert(group, zone);
            }
            LeaderRule::Prefer { group, zone: None } => drop(self.leaders.preferred.remove(&group)),
        }
        Ok(MetaReply::Ok)
    }

    /// The zone of a node.
    pub fn zone_of(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node)?.zone.as_deref()
    }

    /// Up to `count` nodes for new replicas of one group, beside those on `taken`: from the zones that
    /// hold the fewest of them, then the nodes with the fewest replicas, then the lowest ids. Nodes
    /// without a zone count as one zone, so without zones only the load decides. `fits` says who may.
    pub fn nodes_for_replicas(&self, taken: &[NodeId], count: usize, fits: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let load = |node: NodeId| self.load(node);
        let mut chosen: Vec<NodeId> = taken.to_vec();
        while chosen.len() < taken.len() + count {
            let in_zone = |zone| chosen.iter().filter(|node| self.zone_of(**node) == zone).count();
            let free = self.nodes.iter().filter(|(node, info)| !info.removed && !chosen.contains(node) && fits(**node));
            let best = free.min_by_key(|(node, info)| (in_zone(info.zone.as_deref()), load(**node), **node));
            let Some((node, _)) = best else { break };
            chosen.push(*node);
        }
        chosen.split_off(taken.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ReplicaId;
    use crate::registry::{NodeInfo, ReplicaInfo};

    /// Nodes 1, 2, … in these zones, and a first group on some of them.
    fn registry(zones: &[Option<&str>], first: &[u64]) -> Registry {
        let info = |zone: &Option<&str>| NodeInfo {
            instance: 0,
            raft_addr: String::new(),
            http_addr: String::new(),
            zone: zone.map(str::to_owned),
            removed: false,
        };
        let replicas = first
            .iter()
            .map(|node| ReplicaInfo { node: NodeId(*node), replica: ReplicaId(*node), votes: true })
            .collect();
        Registry {
            nodes: zones.iter().enumerate().map(|(at, zone)| (NodeId(at as u64 + 1), info(zone))).collect(),
            groups: [(GroupId(1), replicas)].into(),
            ..Registry::default()
        }
    }

    fn chosen(registry: &Registry, taken: &[u64], count: usize) -> Vec<u64> {
        let taken: Vec<NodeId> = taken.iter().copied().map(NodeId).collect();
        registry.nodes_for_replicas(&taken, count, |_| true).into_iter().map(|node| node.0).collect()
    }

    /// New replicas go to as many zones as there are, then to the nodes with the fewest replicas.
    #[test]
    fn replicas_are_spread_over_zones() {
        let zoned = registry(&[Some("a"), Some("a"), Some("b"), Some("b"), Some("c")], &[1, 3, 5]);
        assert_eq!(chosen(&zoned, &[], 3), [2, 4, 5]);
        assert_eq!(chosen(&zoned, &[1, 5], 1), [4]);
        assert_eq!(chosen(&zoned, &[], 5), [2, 4, 5, 1, 3]);
        assert_eq!(chosen(&zoned, &[1, 2, 3, 4, 5], 1), [0; 0]);
        let plain = registry(&[None, None, None, None], &[1, 2]);
        assert_eq!(chosen(&plain, &[], 3), [3, 4, 1]);
        let mut left = plain;
        left.nodes.get_mut(&NodeId(3)).unwrap().removed = true;
        assert_eq!(chosen(&left, &[], 3), [4, 1, 2]);
    }

    /// Wishes are kept, replaced and taken back; what names no group or no zone is refused.
    #[test]
    fn wishes() {
        let mut registry = registry(&[Some("a")], &[1]);
        let prefer =
            |group, zone: Option<&str>| LeaderRule::Prefer { group: GroupId(group), zone: zone.map(str::to_owned) };
        registry.change_leaders(prefer(1, Some("eu-1.a_b"))).unwrap();
        assert_eq!(registry.leaders.preferred[&GroupId(1)], "eu-1.a_b");
        for zone in ["", "a b", "ä", "\"", &"a".repeat(65)] {
            assert_eq!(registry.change_leaders(prefer(1, Some(zone))).unwrap_err().code, Code::BadRequest, "{zone}");
        }
        assert_eq!(registry.change_leaders(prefer(2, None)).unwrap_err().code, Code::NoSuchObject);
        registry.change_leaders(prefer(1, None)).unwrap();
        assert!(registry.leaders.preferred.is_empty() && !registry.leaders.still);
        registry.change_leaders(LeaderRule::Balance(false)).unwrap();
        assert!(registry.leaders.still);
    }
}
