//! How large slots are, without an index: one bounded piece of all rows, in the order of what names them.
//!
//! Long values are not read for that: SQLite knows their length from the row's head.

use flotilla_shared::ids::Slot;
use flotilla_shared::measure::{Measured, Position};
use flotilla_shared::moves::MovedSet;
use flotilla_shared::registry::{SlotSize, quoted};
use rusqlite::{Connection, params_from_iter};

use super::Step;
use super::index::slot_call;
use super::layout::{Layout, list, pack, unpack};

/// Rows of one piece: some ten milliseconds of one read connection.
const PIECE_ROWS: usize = 16 << 10;

/// How many bytes a value takes packed, in SQL.
fn packed_size(column: &str) -> String {
    let column = format!("m.{}", quoted(column));
    format!(
        "CASE typeof({column}) WHEN 'null' THEN 1 WHEN 'integer' THEN 9 WHEN 'real' THEN 9 ELSE 5 + octet_length({column}) END"
    )
}

/// Measures the next rows.
pub(super) fn measure(db: &Connection, set: &MovedSet, from: &Position) -> Step<Measured> {
    let mut measured = Measured::default();
    let mut left = PIECE_ROWS;
    let mut after = from.after.clone();
    for number in usize::from(from.table)..set.tables.len() {
        let layout = Layout::of(db, &set.tables[number])?;
        let (width, columns) = (layout.identity.len(), layout.columns.len());
        let identity = list(&layout.identity, |_, (name, coll)| format!("m.{} COLLATE {coll}", quoted(name)), ", ");
        let marks = list(&layout.identity, |n, _| format!("?{}", n + 1), ", ");
        let behind = after.as_ref().map_or(String::new(), |_| format!("WHERE ({identity}) > ({marks})"));
        let mut query = db.prepare_cached(&format!(
            "SELECT {identity}, {}, {} FROM {} m {behind} ORDER BY {identity} LIMIT {left}",
            slot_call(set, number, "m"),
            list(&layout.columns, |_, name| packed_size(name), ", "),
            quoted(&layout.table),
        ))?;
        let bound = after.take();
        let mut rows = query.query(params_from_iter(unpack(bound.as_deref().unwrap_or_default())?))?;
        while let Some(row) = rows.next()? {
            let slot: i64 = row.get(width)?;
            let mut bytes: u64 = 0;
            for column in width + 1..=width + columns {
                bytes += row.get::<_, i64>(column)?.unsigned_abs();
            }
            if let Ok(slot) = u16::try_from(slot) {
                *measured.sizes.entry(Slot(slot)).or_default() += SlotSize { rows: 1, bytes };
            }
            left -= 1;
            if left == 0 {
                let after = Some(pack(row, 0, width)?);
                measured.next = Some(Position { table: number as u16, after });
                return Ok(measured);
            }
        }
    }
    Ok(measured)
}
