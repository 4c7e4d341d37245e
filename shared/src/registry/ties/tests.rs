//! Schema statements on tables of every placement, with ties that stay on a shard and ties that may not.

use std::collections::BTreeMap;

use super::*;
use crate::ids::GroupId;
use crate::registry::{Function, SlotSet, read_tables};

const SCHEMA: &str = "
    CREATE TABLE parents (id INTEGER PRIMARY KEY, n);
    CREATE TABLE children (id INT NOT NULL REFERENCES parents (id), n, k INT, PRIMARY KEY (id, n));
    CREATE TABLE apart (id INTEGER PRIMARY KEY, n);
    CREATE TABLE codes (code TEXT PRIMARY KEY NOT NULL, n);
    CREATE TABLE coded (id INTEGER PRIMARY KEY, code REFERENCES codes);
    CREATE TABLE plain (id INTEGER PRIMARY KEY, n);
    CREATE TABLE other (id INTEGER PRIMARY KEY AUTOINCREMENT, n);
    CREATE VIEW shown AS SELECT * FROM parents;
    CREATE TRIGGER checks BEFORE INSERT ON parents WHEN new.n < 0 BEGIN SELECT raise(ABORT, 'no'); END;";

/// `parents` and `children` are colocated, `apart` and `coded` are sharded on their own, `codes` is a reference table.
fn registry() -> Registry {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(SCHEMA).unwrap();
    let mut query = db
        .prepare(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%'",
        )
        .unwrap();
    let object = |row: &rusqlite::Row<'_>| {
        Ok(SchemaObject { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)?, placement: HOME })
    };
    let objects: Vec<SchemaObject> = query.query_map([], object).unwrap().collect::<Result<_, _>>().unwrap();
    let mut registry = Registry::default();
    for mut table in read_tables(&objects).unwrap() {
        let placement = match table.name.as_str() {
            "parents" | "children" => 1,
            "apart" => 2,
            "coded" => 3,
            "codes" => 4,
            _ => 0,
        };
        table.placement = PlacementId(placement);
        table.key = if (1..=3).contains(&placement) { vec![0] } else { vec![] };
        registry.tables.insert(table.name.clone(), table);
    }
    for id in 1..=4 {
        let function = if id == 4 { Function::Reference } else { Function::Hash };
        let (id, slots) = (PlacementId(id), function.slots());
        let owned = BTreeMap::from([(GroupId(1), SlotSet::all(slots))]);
        let (key, shards, epochs) = (vec![], vec![GroupId(1)], BTreeMap::new());
        registry.placements.insert(id, Placement { id, function, key, slots, shards, owned, epochs });
    }
    registry.objects = objects;
    registry
}

#[track_caller]
fn refused(registry: &Registry, sql: &str, about: &str) {
    let error = registry.check_ties_of(sql).expect_err(sql);
    assert_eq!(error.code, Code::UnsafeRegistration, "{sql}: {error}");
    assert!(error.message.contains(about) && !error.hint.is_empty(), "{sql}: {error}");
}

/// A foreign key that a registration would refuse is refused whatever statement brings it.
#[test]
fn foreign_keys() {
    let registry = registry();
    for (sql, about) in [
        ("ALTER TABLE apart ADD COLUMN p REFERENCES plain (id)", "of apart to plain may lead"),
        ("ALTER TABLE apart ADD COLUMN p REFERENCES parents (id)", "of apart to parents may lead"),
        ("ALTER TABLE apart ADD COLUMN p REFERENCES apart (id)", "of apart to apart may lead"),
        ("ALTER TABLE apart ADD COLUMN p REFERENCES nowhere (id)", "of apart would lead to nowhere"),
        ("ALTER TABLE children ADD COLUMN p REFERENCES parents (id)", "of children to parents may lead"),
        ("ALTER TABLE codes ADD COLUMN p REFERENCES parents (id)", "of codes to parents may lead"),
        ("ALTER TABLE codes ADD COLUMN p REFERENCES plain (id)", "of codes to plain may lead"),
        ("CREATE TABLE late (id INTEGER PRIMARY KEY, p REFERENCES parents (n))", "of late to parents may lead"),
        ("ALTER TABLE plain ADD COLUMN p REFERENCES parents (n)", "of plain to parents may lead"),
        ("DROP TABLE parents", "of children would lead to parents"),
        ("DROP TABLE codes", "of coded would lead to codes"),
    ] {
        refused(&registry, sql, about);
    }
    for sql in [
        "ALTER TABLE apart ADD COLUMN p REFERENCES codes (code)",
        "ALTER TABLE plain ADD COLUMN p REFERENCES codes (code)",
        "ALTER TABLE plain ADD COLUMN p REFERENCES other (id)",
        "CREATE TABLE late (id INT NOT NULL REFERENCES parents (id), n)",
        "CREATE TABLE late (id INTEGER PRIMARY KEY, p REFERENCES plain)",
        "ALTER TABLE parents RENAME TO elders",
        "ALTER TABLE children RENAME TO kids",
        "ALTER TABLE parents RENAME COLUMN id TO pid",
        "ALTER TABLE children RENAME COLUMN id TO pid",
        "ALTER TABLE children DROP COLUMN k",
        "ALTER TABLE apart ADD COLUMN more",
        "DROP TABLE children",
        "DROP TABLE coded",
        "DROP TABLE plain",
        "DROP TABLE children; DROP TABLE parents",
        "CREATE INDEX i ON children (n)",
    ] {
        registry.check_ties_of(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// A trigger on a sharded table or a reference table only checks its row.
#[test]
fn triggers() {
    let registry = registry();
    let on = |table: &str, body: &str| format!("CREATE TRIGGER t AFTER INSERT ON {table} BEGIN {body}; END");
    for body in [
        "INSERT INTO plain (n) VALUES (new.id)",
        "UPDATE apart SET n = 1",
        "DELETE FROM apart",
        "SELECT raise(ABORT, 'no') FROM plain",
        "SELECT raise(ABORT, 'no') WHERE new.id IN plain",
        "SELECT raise(ABORT, 'no') WHERE new.id NOT IN \"plain\"",
        "SELECT raise(ABORT, 'no') WHERE new.id IN main.plain",
    ] {
        refused(&registry, &on("apart", body), "trigger t of apart looks beyond the row");
        refused(&registry, &on("codes", body), "trigger t of codes looks beyond the row");
        registry.check_ties_of(&on("plain", body)).unwrap_or_else(|error| panic!("{body}: {error}"));
    }
    let when = "CREATE TRIGGER t BEFORE INSERT ON apart WHEN new.id IN plain BEGIN SELECT raise(ABORT, 'no'); END";
    refused(&registry, when, "looks beyond the row");
    for body in ["SELECT raise(ABORT, 'no')", "SELECT raise(ABORT, 'no') WHERE new.id IN (1, 2)"] {
        registry.check_ties_of(&on("apart", body)).unwrap_or_else(|error| panic!("{body}: {error}"));
    }
}

/// What is unsafe already can be altered and dropped, but gets no company.
#[test]
fn what_was_there_stays() {
    let mut registry = registry();
    registry.tables.get_mut("plain").unwrap().placement = PlacementId(2);
    let spill = "CREATE TRIGGER spill AFTER INSERT ON plain BEGIN INSERT INTO other (n) VALUES (new.n); END";
    let (kind, name, table) = ("trigger".into(), "spill".into(), "plain".into());
    registry.objects.push(SchemaObject { kind, name, table, sql: spill.into(), placement: HOME });
    for sql in
        ["ALTER TABLE plain ADD COLUMN more", "CREATE INDEX i ON plain (n)", "DROP TRIGGER spill", "DROP TABLE plain"]
    {
        registry.check_ties_of(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    refused(&registry, &spill.replace("spill", "again"), "trigger again of plain");
}
