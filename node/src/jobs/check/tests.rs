//! Registrations against a schema that has every kind of trouble in it.

use flotilla_shared::ids::{NodeId, PlacementId, ReplicaId};
use flotilla_shared::registry::{
    Effect, JobKind, JobState, MetaCommand, MetaReply, ReplicaInfo, SchemaObject, read_tables,
};
use flotilla_shared::slot::HASH_SLOTS;
use flotilla_shared::value::Value;
use rusqlite::Connection;

use super::*;

const DDL: &str = "
    CREATE TABLE plain (id INTEGER PRIMARY KEY, a TEXT NOT NULL, b INT, g AS (b + 1));
    CREATE TABLE uniq (a INT NOT NULL, b INT NOT NULL, UNIQUE (a), UNIQUE (a, b));
    CREATE TABLE texts (k TEXT PRIMARY KEY, v);
    CREATE TABLE wr (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
    CREATE TABLE parents (p INT NOT NULL PRIMARY KEY, q);
    CREATE TABLE children (p INT NOT NULL REFERENCES parents(p) ON DELETE CASCADE, n INT NOT NULL, PRIMARY KEY (p, n));
    CREATE TABLE strays (id INTEGER PRIMARY KEY, p INT REFERENCES parents(p));
    CREATE TABLE tree (id INTEGER PRIMARY KEY, up INT REFERENCES tree(id));
    CREATE TABLE codes (code TEXT NOT NULL PRIMARY KEY, rowid, oid, _rowid_);
    CREATE TABLE zones (zone TEXT NOT NULL PRIMARY KEY, v);
    CREATE TABLE places (id INTEGER PRIMARY KEY, zone TEXT REFERENCES zones);
    CREATE TABLE orphans (id INTEGER PRIMARY KEY, x REFERENCES nowhere(x));
    CREATE TABLE checked (id INTEGER PRIMARY KEY, n);
    CREATE TRIGGER rows_only BEFORE INSERT ON checked WHEN new.n < 0 BEGIN SELECT raise(ABORT, 'no'); END;
    CREATE TABLE audited (id INTEGER PRIMARY KEY, n);
    CREATE TABLE audit (id INTEGER PRIMARY KEY, n);
    CREATE TRIGGER spill AFTER INSERT ON audited BEGIN INSERT INTO \"audit\" (n) VALUES (new.n); END;";

/// Three shards, all tables at home.
fn registry() -> Registry {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(DDL).unwrap();
    let mut query = db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
    let objects = query.query_map([], |row| {
        Ok(SchemaObject { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)?, placement: HOME })
    });
    let objects: Vec<SchemaObject> = objects.unwrap().collect::<Result<_, _>>().unwrap();
    let tables = read_tables(&objects).unwrap();
    let replica = |group: u32| ReplicaInfo { node: NodeId(1), replica: ReplicaId(u64::from(group) + 1), votes: true };
    let groups = (0..=3).map(|group| (GroupId(group), vec![replica(group)])).collect();
    let mut registry = Registry::default();
    registry.apply(0, MetaCommand::Bootstrap { cluster: 7, nodes: vec![], groups }).unwrap();
    end_with(&mut registry, vec![Effect::Schema { placements: vec![HOME], objects, tables }]);
    registry
}

fn end_with(registry: &mut Registry, effects: Vec<Effect>) {
    let request = flotilla_shared::ids::RequestId(u128::from(registry.version));
    let create = MetaCommand::CreateJob { request, kind: JobKind::CreateShard { nodes: vec![], replicas: 3 } };
    let MetaReply::Job(job) = registry.apply(0, create).unwrap() else { panic!("no job") };
    let end = MetaCommand::EndJob { job, state: JobState::Done, error: None, effects, results: vec![] };
    registry.apply(0, end).unwrap();
}

fn wanted(table: &str, key: &[&str]) -> Registration {
    Registration {
        table: table.into(),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        spread: Spread::Hash,
        nullable: false,
        colocate_with: None,
        shards: vec![],
    }
}

fn reference(table: &str) -> Registration {
    Registration { spread: Spread::Reference, ..wanted(table, &[]) }
}

/// Carries out a registration that must pass.
fn register(registry: &mut Registry, wanted: &Registration) {
    let Checked { key, lie, table } = check(registry, wanted).unwrap();
    let id = PlacementId(registry.placements.len() as u32);
    let (id, placement) = match lie {
        Lie::With(placement) => (placement.id, placement.clone()),
        Lie::New { function, shares, shards } => {
            let compare = key.iter().map(|index| table.columns[*index].compare).collect();
            let slots = function.slots();
            (id, Placement { id, function, key: compare, slots, shards, owned: shares, epochs: BTreeMap::new() })
        }
    };
    let register = Effect::Register { table: wanted.table.clone(), placement: id, key };
    end_with(registry, vec![Effect::Placement(placement), register]);
}

#[track_caller]
fn refused(registry: &Registry, wanted: &Registration, code: Code, about: &str) {
    let error = check(registry, wanted).unwrap_err();
    assert_eq!(error.code, code, "{error}");
    assert!(error.message.contains(about), "{error}");
    assert!(!error.hint.is_empty(), "{error}");
}

/// Columns that are no key are refused with their reason; a nullable one only if nobody said so.
#[test]
fn keys() {
    let registry = registry();
    let refused = |wanted: &Registration, about: &str| refused(&registry, wanted, Code::UnsafeRegistration, about);
    refused(&wanted("plain", &["nope"]), "no column nope");
    refused(&wanted("plain", &["g"]), "generated");
    refused(&wanted("plain", &[]), "at least one column");
    refused(&wanted("children", &["p", "p"]), "twice");
    refused(&wanted("texts", &["k"]), "key column k may hold NULL");
    refused(&Registration { key: vec!["v".into()], ..reference("texts") }, "no shard key");
    let check = |wanted: &Registration| check(&registry, wanted).map(|checked| checked.key).unwrap();
    assert_eq!(check(&Registration { nullable: true, ..wanted("texts", &["k"]) }), [0]);
    assert_eq!(check(&wanted("plain", &["ID"])), [0], "an alias of the rowid is never NULL");
    assert_eq!(check(&wanted("wr", &["k"])), [0], "nor is the key of a table without rowids");
    assert_eq!(super::check(&registry, &wanted("none", &["a"])).unwrap_err().code, Code::NoSuchTable);
}

/// A UNIQUE set that compares the key more coarsely than the key's column is refused.
#[test]
fn unique_sets_of_other_collations() {
    let mut registry = registry();
    let ddl = "CREATE TABLE loose (k TEXT NOT NULL, v, PRIMARY KEY (k COLLATE NOCASE));
               CREATE TABLE fine (k TEXT COLLATE NOCASE NOT NULL, v, PRIMARY KEY (k COLLATE BINARY)) WITHOUT ROWID;
               CREATE TABLE late (k TEXT NOT NULL PRIMARY KEY, v);
               CREATE UNIQUE INDEX one ON late (v, k COLLATE NOCASE DESC) WHERE v > 0;";
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(ddl).unwrap();
    let mut query = db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
    let objects = query.query_map([], |row| {
        Ok(SchemaObject { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)?, placement: HOME })
    });
    let more: Vec<SchemaObject> = objects.unwrap().collect::<Result<_, _>>().unwrap();
    let objects = [registry.objects.clone(), more].concat();
    let tables = read_tables(&objects).unwrap();
    end_with(&mut registry, vec![Effect::Schema { placements: vec![HOME], objects, tables }]);
    for (table, words) in [("loose", "UNIQUE (k COLLATE NOCASE)"), ("late", "UNIQUE (v, k COLLATE NOCASE)")] {
        refused(&registry, &wanted(table, &["k"]), Code::UnsafeRegistration, words);
    }
    check(&registry, &wanted("fine", &["k"])).unwrap();
}

/// A UNIQUE set that lacks a key column is refused; a reference table may have any.
#[test]
fn unique_sets() {
    let registry = registry();
    refused(&registry, &wanted("uniq", &["b"]), Code::UnsafeRegistration, "UNIQUE (a)");
    refused(&registry, &wanted("uniq", &["a", "b"]), Code::UnsafeRegistration, "UNIQUE (a)");
    assert!(check(&registry, &wanted("uniq", &["a"])).is_ok());
    assert!(check(&registry, &reference("uniq")).is_ok());
}

/// A foreign key is refused unless its tables are colocated by its columns or the parent is on every
/// shard.
#[test]
fn foreign_keys() {
    let mut registry = registry();
    let across = |registry: &Registry, wanted: &Registration, about: &str| {
        refused(registry, wanted, Code::UnsafeRegistration, about);
    };
    across(&registry, &wanted("parents", &["p"]), "children to parents");
    across(&registry, &wanted("children", &["p"]), "children to parents");
    across(&registry, &reference("children"), "children to parents");
    across(&registry, &wanted("tree", &["id"]), "tree to tree");
    across(&registry, &wanted("orphans", &["id"]), "orphans to nowhere");
    assert!(check(&registry, &reference("tree")).is_ok(), "every copy has all of it");
    // The parent first, before there are children; then the child beside it.
    let with_parent =
        |table: &str, key: &[&str]| Registration { colocate_with: Some("parents".into()), ..wanted(table, key) };
    let mut before = registry.clone();
    let strays = |object: &SchemaObject| !["children", "strays"].contains(&object.table.as_str());
    before.objects.retain(strays);
    register(&mut before, &wanted("parents", &["p"]));
    let (placement, key) = (before.tables["parents"].placement, before.tables["parents"].key.clone());
    before.objects = registry.objects.clone();
    assert!(check(&before, &with_parent("children", &["p"])).is_ok());
    across(&before, &with_parent("children", &["n"]), "children to parents");
    across(&before, &wanted("children", &["p"]), "children to parents");
    across(&before, &with_parent("strays", &["id"]), "strays to parents");
    assert_eq!((placement, key), (PlacementId(1), vec![0]));
    // A parent that is everywhere may be referred to from anywhere.
    across(&registry, &wanted("places", &["id"]), "places to zones");
    register(&mut registry, &reference("zones"));
    assert!(check(&registry, &wanted("places", &["id"])).is_ok());
    register(&mut registry, &reference("places"));
    assert!(check(&registry, &reference("zones")).is_err_and(|error| error.code == Code::AlreadyRegistered));
}

/// A trigger that looks at nothing but its row may stay; any other is refused, also from the side of
/// the table that it writes.
#[test]
fn triggers() {
    let registry = registry();
    assert!(check(&registry, &wanted("checked", &["id"])).is_ok());
    assert!(check(&registry, &reference("checked")).is_ok());
    for wanted in [wanted("audited", &["id"]), reference("audited"), wanted("audit", &["id"]), reference("audit")] {
        refused(&registry, &wanted, Code::UnsafeRegistration, "trigger spill");
    }
}

/// Ranges, lists and shares lie as asked; what names no shard, or no map of keys, is refused.
#[test]
fn spreads() {
    let mut registry = registry();
    let text = |s: &str| Value::Text(s.into());
    let spread = |spread: Spread| Registration { spread, ..wanted("plain", &["id"]) };
    let points = |list: &[i64]| list.iter().map(|n| vec![Value::Integer(*n)]).collect::<Vec<_>>();
    let lie = |wanted: &Registration| match check(&registry, wanted).unwrap().lie {
        Lie::New { function, shares, shards } => (function.slots(), shares, shards),
        Lie::With(_) => panic!("not asked for"),
    };
    let (slots, shares, shards) = lie(&spread(Spread::Range { points: points(&[30, 10, 20]) }));
    assert_eq!((slots, shards.len()), (4, 3));
    assert_eq!(shares.values().map(SlotSet::len).collect::<Vec<_>>(), [2, 1, 1]);
    let two = Registration { shards: vec![GroupId(3), GroupId(2)], ..spread(Spread::Range { points: points(&[5]) }) };
    let (_, shares, _) = lie(&two);
    assert!(shares[&GroupId(3)].contains(flotilla_shared::ids::Slot(0)), "in the order given");
    let values = vec![(GroupId(2), points(&[1, 2])), (GroupId(3), points(&[3]))];
    let (slots, shares, shards) = lie(&spread(Spread::List { values: values.clone(), default: Some(GroupId(3)) }));
    assert_eq!((slots, shards), (4, vec![GroupId(2), GroupId(3)]));
    assert_eq!(shares[&GroupId(3)].len(), 2);
    assert_eq!(lie(&wanted("plain", &["id"])).0, HASH_SLOTS);
    let (slots, shares, _) = lie(&reference("plain"));
    assert_eq!((slots, shares.len()), (1, 3));

    let bad = |wanted: &Registration, code: Code| assert_eq!(check(&registry, wanted).unwrap_err().code, code);
    bad(&spread(Spread::Range { points: points(&[5, 5]) }), Code::BadRequest);
    bad(&spread(Spread::Range { points: vec![] }), Code::BadRequest);
    bad(&spread(Spread::List { values, default: Some(GroupId(9)) }), Code::NoSuchObject);
    bad(&Registration { shards: vec![GroupId(0)], ..wanted("plain", &["id"]) }, Code::NoSuchObject);
    bad(&reference("codes"), Code::UnsafeRegistration);

    let list = Spread::List { values: vec![(GroupId(1), vec![vec![text("de")]])], default: None };
    register(&mut registry, &Registration { spread: list, ..wanted("wr", &["k"]) });
    let beside = |key: &str| Registration { colocate_with: Some("wr".into()), ..wanted("plain", &[key]) };
    assert!(matches!(check(&registry, &beside("b")), Err(error) if error.code == Code::UnsafeRegistration));
    refused(
        &registry,
        &Registration { colocate_with: Some("plain".into()), ..wanted("uniq", &["a"]) },
        Code::UnsafeRegistration,
        "not sharded",
    );
    register(&mut registry, &reference("checked"));
    refused(
        &registry,
        &Registration { colocate_with: Some("checked".into()), ..wanted("uniq", &["a"]) },
        Code::UnsafeRegistration,
        "every shard",
    );
}
