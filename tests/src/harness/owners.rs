//! Who owns which slots: by the registry, and by each replica's own table, read from its SQLite file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_node::state::generations;
use flotilla_node::state::ownership::{Owned, Ownership};
use flotilla_shared::client::Cluster as Nodes;
use flotilla_shared::ids::{Epoch, GroupId, PlacementId};
use flotilla_shared::registry::{Placement, Registry, SlotSet};
use rusqlite::{Connection, OpenFlags};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::wait::{PATIENCE, eventually};

/// How long the registry may take to be read: an election and some more.
const READING: Duration = Duration::from_secs(20);

impl Cluster {
    /// The registry as of now, from the leader of `meta`.
    ///
    /// # Panics
    /// When nobody leads it.
    pub async fn registry(&self) -> Arc<Registry> {
        let nodes = Nodes::new(self.nodes.iter().map(|node| node.raft.clone()).collect());
        nodes.refresh(Instant::now() + READING).await.expect("the registry")
    }

    /// The placement of a table.
    ///
    /// # Panics
    /// When there is none.
    pub async fn placement(&self, table: &str) -> Placement {
        let registry = self.registry().await;
        registry.placement_of(table).unwrap_or_else(|| panic!("{table} has no placement")).clone()
    }

    /// The database of a replica.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn database(&self, node: usize, group: &str) -> Option<Connection> {
        let folders = std::fs::read_dir(self.nodes[node].data.join("groups")).ok()?;
        let mut folders = folders.filter_map(|entry| Some(entry.ok()?.path()));
        let of_group = format!("{group}-");
        let folder =
            folders.find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&of_group)))?;
        let generation = generations::read_current(&folder).expect("a generation")?;
        let path = generations::generation_path(&folder, generation);
        match Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY) {
            Ok(db) => Some(db),
            // A replica that was taken out is dropped at any moment.
            Err(_) if !path.exists() => None,
            Err(why) => panic!("{}: {why}", path.display()),
        }
    }

    /// What a replica owns of a placement, by its own table.
    ///
    /// # Panics
    /// When its database cannot be read.
    pub fn owned(&self, node: usize, group: &str, placement: PlacementId) -> Option<Owned> {
        let db = self.database(node, group)?;
        let mut all = Ownership::load(&db).unwrap_or_else(|why| panic!("{group} on node {}: {why}", node + 1));
        Some(all.placements.remove(&placement).unwrap_or_default())
    }

    /// While a move waits: each slot has one owner, or none if it is of the move.
    ///
    /// # Panics
    /// When a slot has two owners, or none without reason.
    pub async fn check_owners_now(&self, table: &str) {
        let registry = self.registry().await;
        let placement = registry.placement_of(table).expect("a placement");
        let moving: Vec<&SlotSet> = registry.moves().map(|moving| &moving.transfer.slots).collect();
        // The replica that is furthest speaks for its shard.
        let owned: BTreeMap<String, Owned> = self
            .shard_names()
            .filter_map(|shard| {
                let replicas = (0..self.nodes.len()).filter_map(|node| self.owned(node, &shard, placement.id));
                Some((shard.clone(), replicas.max_by_key(|owned| owned.epoch)?))
            })
            .collect();
        for slot in placement.all_slots().iter() {
            let owners: Vec<&String> =
                owned.iter().filter(|(_, owned)| owned.slots.contains(slot)).map(|(shard, _)| shard).collect();
            let on_its_way = moving.iter().any(|slots| slots.contains(slot));
            assert!(owners.len() == 1 || (owners.is_empty() && on_its_way), "slot {slot} of {table} has {owners:?}");
        }
    }

    /// After a job: each slot has one owner, all replicas of each shard and the registry say the same,
    /// and nothing is left of a move or of a slot index.
    ///
    /// # Panics
    /// When it is otherwise, or does not come to that within [`PATIENCE`].
    pub async fn check_owners_at_rest(&mut self, table: &str) {
        let registry = self.registry().await;
        assert_eq!(registry.moves().next(), None, "a move is under way");
        let placement = registry.placement_of(table).expect("a placement");
        let slots: usize = placement.owned.values().map(SlotSet::len).sum();
        let all = placement.owned.values().fold(SlotSet::default(), |all, owned| all.union(owned));
        assert_eq!((slots, all), (placement.slot_count(), placement.all_slots()), "each slot once");
        for shard in self.shard_names().collect::<Vec<_>>() {
            let group: GroupId = shard.parse().expect("a shard");
            let by_map = (placement.epoch(group), placement.owned.get(&group).cloned().unwrap_or_default());
            for node in 0..self.nodes.len() {
                if self.database(node, &shard).is_some() {
                    let what = format!("node {} agrees on what {shard} owns of {table}", node + 1);
                    eventually(&what, PATIENCE, async || self.agrees(node, &shard, placement.id, &by_map)).await;
                }
            }
        }
        self.contents().await;
    }

    fn agrees(
        &self,
        node: usize,
        shard: &str,
        placement: PlacementId,
        by_map: &(Epoch, SlotSet),
    ) -> Result<(), String> {
        let Owned { epoch, slots } = self.owned(node, shard, placement).unwrap_or_default();
        if (epoch, &slots) != (by_map.0, &by_map.1) {
            return Err(format!("it has version {epoch} and {slots:?}, the registry has {by_map:?}"));
        }
        let db = self.database(node, shard).ok_or("the replica is gone")?;
        match left_of_moves(&db).map_err(|why| why.to_string())? {
            left if left.is_empty() => Ok(()),
            left => Err(format!("left of a move: {left:?}")),
        }
    }
}

/// Slot indexes, and tables of moves with rows.
fn left_of_moves(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let named = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ?1";
    let tables = |pattern: &str| -> rusqlite::Result<Vec<String>> {
        db.prepare(named)?.query_map([pattern], |row| row.get(0))?.collect()
    };
    let mut left = tables("_flotilla_slots_*")?;
    for table in tables("_flotilla_staged*")?.into_iter().chain(tables("_flotilla_changed*")?) {
        if db.query_row(&format!("SELECT EXISTS (SELECT 1 FROM {table})"), [], |row| row.get(0))? {
            left.push(table);
        }
    }
    Ok(left)
}
