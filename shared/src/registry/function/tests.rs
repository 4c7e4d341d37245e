//! Keys, split points and listed values against SQLite's own comparisons.

use std::collections::BTreeMap;
use std::ops::Bound;

use rusqlite::Connection;

use super::*;
use crate::ids::PlacementId;
use crate::slot::{Collation, HASH_SLOTS};

fn column(affinity: Affinity, collation: Collation) -> KeyColumn {
    KeyColumn { affinity, collation }
}

const INTEGER: KeyColumn = KeyColumn { affinity: Affinity::Integer, collation: Collation::Binary };

fn int(n: i64) -> Value {
    Value::Integer(n)
}

fn text(s: &str) -> Value {
    Value::Text(s.into())
}

fn placement(function: Function, key: &[KeyColumn]) -> Placement {
    let slots = function.slots();
    Placement {
        id: PlacementId(7),
        function,
        key: key.to_vec(),
        slots,
        shards: vec![],
        owned: BTreeMap::new(),
        epochs: BTreeMap::new(),
    }
}

fn range(key: &[KeyColumn], points: &[&[Value]]) -> Placement {
    placement(Function::range(key, points.iter().map(|point| point.to_vec()).collect()).unwrap(), key)
}

/// A key goes to the slot of the last split point that is not above it, by SQLite's own count.
#[test]
fn ranges_agree_with_sqlite() {
    let values = [
        Value::Null,
        int(-5),
        Value::Real(-4.5),
        int(0),
        text("7"),
        int(10),
        Value::Real(10.5),
        text("a"),
        text("B"),
        text("b  "),
        text("zz"),
        Value::Blob(vec![0]),
        Value::Blob(b"b".to_vec()),
    ];
    let points = [int(0), text("10"), text("b"), Value::Blob(vec![])];
    let db = Connection::open_in_memory().unwrap();
    for (declared, affinity) in [
        ("INTEGER", Affinity::Integer),
        ("TEXT", Affinity::Text),
        ("REAL", Affinity::Real),
        ("NUMERIC", Affinity::Numeric),
        ("BLOB", Affinity::Blob),
    ] {
        for (name, collation) in
            [("BINARY", Collation::Binary), ("NOCASE", Collation::NoCase), ("RTRIM", Collation::Rtrim)]
        {
            let key = [column(affinity, collation)];
            let placement = range(&key, &points.each_ref().map(std::slice::from_ref));
            db.execute_batch(&format!(
                "DROP TABLE IF EXISTS p; DROP TABLE IF EXISTS t;
                 CREATE TABLE p (k {declared} COLLATE {name}); CREATE TABLE t (k {declared} COLLATE {name});"
            ))
            .unwrap();
            for point in &points {
                db.execute("INSERT INTO p VALUES (?)", [point]).unwrap();
            }
            for value in &values {
                db.execute_batch("DELETE FROM t").unwrap();
                db.execute("INSERT INTO t VALUES (?)", [value]).unwrap();
                let wanted: u16 = match value {
                    // NULL sorts first.
                    Value::Null => 0,
                    _ => db.query_row("SELECT count(*) FROM p, t WHERE p.k <= t.k", [], |row| row.get(0)).unwrap(),
                };
                let slot = placement.slot(std::slice::from_ref(value)).unwrap();
                assert_eq!(slot, Slot(wanted), "{declared} {name} {value:?}");
                for bound in [Bound::Included(value), Bound::Unbounded] {
                    assert!(placement.slots_between(bound, Bound::Included(value)).contains(slot));
                    assert!(placement.slots_between(Bound::Included(value), bound).contains(slot));
                }
            }
        }
    }
}

/// No key that satisfies a comparison is outside the slots that its bounds leave: all pairs of bounds
/// over all keys of two columns.
#[test]
fn bounds_leave_every_row() {
    let key = [INTEGER, column(Affinity::Text, Collation::NoCase)];
    let placement = range(&key, &[&[int(3), text("M")], &[int(5)], &[int(5), text("c")], &[int(9), Value::Null]]);
    assert_eq!(placement.slots, 5);
    let firsts: Vec<Value> = (0..12).map(int).chain([Value::Real(4.5)]).collect();
    let seconds = [Value::Null, text("a"), text("C"), text("m"), text("z")];
    let mut narrowed = 0;
    for low in &firsts {
        for high in &firsts {
            for (with_low, with_high) in [(false, false), (false, true), (true, false), (true, true)] {
                let lower = if with_low { Bound::Included(low) } else { Bound::Excluded(low) };
                let upper = if with_high { Bound::Included(high) } else { Bound::Excluded(high) };
                let slots = placement.slots_between(lower, upper);
                narrowed += usize::from(slots.len() < 5);
                for first in &firsts {
                    let (a, b) = (compare(INTEGER, first, low), compare(INTEGER, first, high));
                    let within = (a.is_gt() || (with_low && a.is_eq())) && (b.is_lt() || (with_high && b.is_eq()));
                    for second in &seconds {
                        let slot = placement.slot(&[first.clone(), second.clone()]).unwrap();
                        assert!(!within || slots.contains(slot), "{lower:?} {upper:?} {first:?} {second:?}");
                    }
                }
            }
        }
    }
    assert!(narrowed > 300, "{narrowed}");
    let one = |first: i64, second: &str| placement.slot(&[int(first), text(second)]).unwrap().0;
    assert_eq!([one(3, "L"), one(3, "m"), one(5, ""), one(5, "C"), one(8, "z"), one(9, "")], [0, 1, 2, 3, 3, 4]);
}

/// A bound that a REAL column could not store is compared as it is.
#[test]
fn real_columns_compare_exactly() {
    let key = [column(Affinity::Real, Collation::Binary)];
    let edge = 1_i64 << 53;
    let placement = range(&key, &[&[int(edge)]]);
    let slot = placement.slot(&[Value::Real(edge as f64)]).unwrap();
    assert_eq!(slot, Slot(1));
    // 2^53 < 2^53 + 1, though the latter rounds to the former.
    assert!(placement.slots_between(Bound::Unbounded, Bound::Excluded(&int(edge + 1))).contains(slot));
    assert!(!placement.slots_between(Bound::Unbounded, Bound::Excluded(&int(edge))).contains(slot));
}

/// Listed values are found as the column compares; the others go to the default or are refused.
#[test]
fn lists() {
    let key = [column(Affinity::Text, Collation::NoCase)];
    let lists = [
        (GroupId(1), vec![vec![text("de")], vec![text("FR")]]),
        (GroupId(2), vec![vec![text("us")], vec![int(7)], vec![Value::Null]]),
    ];
    let (function, owned) = Function::list(&key, &lists, None).unwrap();
    let strict = placement(function, &key);
    assert_eq!(strict.slots, 5);
    assert_eq!(owned.values().map(SlotSet::len).sum::<usize>(), 5);
    for (value, shard) in [(text("DE"), 1), (text("fr"), 1), (text("Us"), 2), (text("7"), 2), (Value::Null, 2)] {
        let slot = strict.slot(std::slice::from_ref(&value)).unwrap();
        assert!(owned[&GroupId(shard)].contains(slot), "{value:?}");
    }
    let error = strict.slot(&[text("jp")]).unwrap_err();
    assert_eq!(error.code, Code::UnlistedValue);
    assert!(error.message.contains("jp") && !error.hint.is_empty(), "{error:?}");

    let (function, owned) = Function::list(&key, &lists, Some(GroupId(3))).unwrap();
    let open = placement(function, &key);
    assert_eq!(open.slot(&[text("jp")]).unwrap(), Slot(5));
    assert!(owned[&GroupId(3)].contains(Slot(5)));
    // From 'e' on: FR, us and whatever is not listed.
    let slots = open.slots_between(Bound::Included(&text("E")), Bound::Unbounded);
    assert_eq!(slots.len(), 3);
    assert_eq!(strict.slots_between(Bound::Included(&text("E")), Bound::Excluded(&text("US"))).len(), 1);
    assert!(open.slots_between(Bound::Excluded(&text("a")), Bound::Excluded(&text("A"))).is_empty());
}

/// What is no map from keys to slots is refused by name.
#[test]
fn refusals() {
    let key = [column(Affinity::Text, Collation::NoCase)];
    let code = |points: Vec<Vec<Value>>| Function::range(&key, points).unwrap_err().code;
    assert_eq!(code(vec![]), Code::BadRequest);
    assert_eq!(code(vec![vec![]]), Code::BadRequest);
    assert_eq!(code(vec![vec![text("a"), text("b")]]), Code::BadRequest);
    assert_eq!(code(vec![vec![text("a")], vec![text("A")]]), Code::BadRequest, "equal under NOCASE");
    assert_eq!(code(vec![vec![int(1)], vec![text("1")]]), Code::BadRequest, "equal by affinity");
    assert_eq!(code((0..=MAX_POINTS as i64).map(|n| vec![int(n)]).collect()), Code::TooLarge);
    assert_eq!(code(vec![vec![text(&"x".repeat(MAX_POINTS_BYTES))]]), Code::TooLarge);
    let twice = [(GroupId(1), vec![vec![text("de")]]), (GroupId(2), vec![vec![text("DE")]])];
    assert_eq!(Function::list(&key, &twice, None).unwrap_err().code, Code::BadRequest);
    assert_eq!(Function::list(&key, &[], Some(GroupId(1))).unwrap_err().code, Code::BadRequest);
}

/// Placements without a key have one slot; a hash says nothing about an interval but that it is empty.
#[test]
fn the_others() {
    for function in [Function::Home, Function::Reference] {
        let placement = placement(function, &[]);
        assert_eq!(placement.slot(&[]).unwrap(), Slot(0));
        assert_eq!(placement.slots_between(Bound::Unbounded, Bound::Unbounded), SlotSet::all(1));
    }
    let hash = placement(Function::Hash, &[INTEGER]);
    assert_eq!(hash.slot(&[text("456")]).unwrap(), slot_of(&[INTEGER], &[int(456)], HASH_SLOTS));
    assert_eq!(hash.slots_between(Bound::Included(&int(1)), Bound::Unbounded).len(), usize::from(HASH_SLOTS));
    assert!(hash.slots_between(Bound::Included(&int(2)), Bound::Excluded(&int(2))).is_empty());
}
