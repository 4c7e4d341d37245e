//! Sizes of slots, found without an index.

use flotilla_shared::measure::{Measured, Position};
use flotilla_shared::moves::{MoveAnswer, MoveQuery};
use flotilla_shared::registry::{Sizes, SlotSize};

use super::moves::{PLACEMENT, SLOTS, Shard, pair, set};
use super::*;

fn measured(shard: &Shard) -> (Sizes, usize) {
    let (mut measured, mut from, mut pieces) = (Sizes::new(), Some(Position::default()), 0);
    while let Some(position) = from {
        let MoveAnswer::Measured(Measured { sizes, next }) =
            shard.ask(&MoveQuery::Measure { set: set(), from: position }).unwrap()
        else {
            panic!()
        };
        for (slot, size) in sizes {
            *measured.entry(slot).or_default() += size;
        }
        (from, pieces) = (next, pieces + 1);
    }
    (measured, pieces)
}

/// Piece by piece, a measurement finds the rows and bytes that the slot index finds, of all kinds of tables.
#[test]
fn measured_as_indexed() {
    let (mut source, _) = pair();
    source.run(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 17000)
         INSERT INTO pair SELECT printf('N%05d', n), n % 9, CASE WHEN n % 100 = 0 THEN zeroblob(3000) END FROM n",
    );
    let (measured, pieces) = measured(&source);
    assert_eq!(pieces, 2);
    assert!(measured.values().map(|size| size.rows).sum::<u64>() > 17_000);
    // The index only counts as far as a move of several slots goes.
    source.run("DELETE FROM pair WHERE name >= 'N03000'");
    let (measured, _) = self::measured(&source);
    source.index();
    let mut indexed = Sizes::new();
    for slot in (0..SLOTS).map(flotilla_shared::ids::Slot) {
        let query = MoveQuery::Sizes { placement: PLACEMENT, slots: SlotSet::range(slot, slot) };
        let MoveAnswer::Digests(sizes) = source.ask(&query).unwrap() else { panic!() };
        let size = SlotSize { rows: sizes[0].rows, bytes: sizes[0].bytes };
        indexed.extend((size.rows > 0).then_some((slot, size)));
    }
    assert_eq!(measured, indexed);
}
