//! Registries made by hand, a node made of in-memory databases ([`fake`]), and generated values
//! ([`fuzz`]), for tests.

pub mod fake;
pub mod fuzz;

use std::sync::Arc;

use flotilla_shared::ids::{Epoch, GroupId, NodeId, PlacementId, ReplicaId, SchemaVersion};
use flotilla_shared::registry::{
    Function, HOME, HOME_SHARD, NodeInfo, Placement, Registry, ReplicaInfo, SchemaObject, SlotSet, Spread, Table,
};
use flotilla_shared::slot::{HASH_SLOTS, KeyColumn};
use flotilla_shared::sqlite;

/// Moves a table of a registry into a placement of its own, evenly over all shards but for a list.
pub fn place(registry: &mut Arc<Registry>, name: &str, key: &[&str], number: u32, spread: &Spread) {
    let registry = Arc::make_mut(registry);
    let all: Vec<GroupId> = registry.shards().collect();
    let id = PlacementId(number);
    let table = registry.tables.get_mut(name).unwrap();
    table.placement = id;
    table.key = key.iter().map(|column| table.column(column).unwrap()).collect();
    let compare: Vec<KeyColumn> = table.key.iter().map(|index| table.columns[*index].compare).collect();
    let even = |function: Function| {
        let owned = Placement::even_shares(function.slots(), &all);
        (function, owned)
    };
    let (function, owned) = match spread {
        Spread::Hash => even(Function::Hash),
        Spread::Range { points } => even(Function::range(&compare, points.clone()).unwrap()),
        Spread::List { values, default } => Function::list(&compare, values, *default).unwrap(),
        Spread::Reference => (Function::Reference, all.iter().map(|shard| (*shard, SlotSet::all(1))).collect()),
    };
    let slots = function.slots();
    let epochs = all.iter().map(|shard| (*shard, Epoch(3))).collect();
    let placement = Placement { id, function, key: compare, slots, shards: all, owned, epochs };
    registry.placements.insert(id, placement);
    for object in registry.objects.iter_mut().filter(|object| object.table.eq_ignore_ascii_case(name)) {
        object.placement = id;
    }
}

/// A registry of `shards` shards with the schema `ddl`; `sharded` lists tables with their keys,
/// tables with the same number are colocated.
pub fn registry(shards: u32, ddl: &str, sharded: &[(&str, &[&str], u32)]) -> Arc<Registry> {
    let all: Vec<GroupId> = (1..=shards).map(GroupId).collect();
    let mut registry = Registry { version: 1, cluster: 7, schema_version: SchemaVersion(1), ..Registry::default() };
    registry.nodes.insert(
        NodeId(1),
        NodeInfo {
            instance: 1,
            raft_addr: "127.0.0.1:1".into(),
            http_addr: "127.0.0.1:2".into(),
            zone: None,
            removed: false,
        },
    );
    for group in 0..=shards {
        registry.groups.insert(
            GroupId(group),
            vec![ReplicaInfo { node: NodeId(1), replica: ReplicaId(u64::from(group) + 1), votes: true }],
        );
    }
    registry.placements.insert(
        HOME,
        Placement {
            id: HOME,
            function: Function::Home,
            key: vec![],
            slots: 1,
            shards: vec![HOME_SHARD],
            owned: [(HOME_SHARD, SlotSet::all(1))].into(),
            epochs: [(HOME_SHARD, Epoch(1))].into(),
        },
    );
    let db = sqlite::open_in_memory().unwrap();
    db.execute_batch(ddl).unwrap();
    let mut rows = db
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
        .unwrap();
    let objects = rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))).unwrap();
    for object in objects {
        let (kind, name, table, sql): (String, String, String, String) = object.unwrap();
        registry.objects.push(SchemaObject { kind: kind.clone(), name: name.clone(), table, sql, placement: HOME });
        if kind == "table" {
            registry.tables.insert(name.to_lowercase(), Table::read(&db, &name).unwrap());
        }
    }
    for (name, key, number) in sharded {
        let id = PlacementId(*number);
        let table = registry.tables.get_mut(*name).unwrap();
        table.placement = id;
        table.key = key.iter().map(|column| table.column(column).unwrap()).collect();
        let compare = table.key.iter().map(|index| table.columns[*index].compare).collect();
        registry.placements.entry(id).or_insert_with(|| Placement {
            id,
            function: Function::Hash,
            key: compare,
            slots: HASH_SLOTS,
            shards: all.clone(),
            owned: Placement::even_shares(HASH_SLOTS, &all),
            epochs: all.iter().map(|shard| (*shard, Epoch(3))).collect(),
        });
        for object in registry.objects.iter_mut().filter(|object| object.table.eq_ignore_ascii_case(name)) {
            object.placement = id;
        }
    }
    Arc::new(registry)
}
