//! Moves of slots, as the job that drives them and the shards speak of them.
//!
//! A [`MoveStep`] goes through a shard's log, once or many times; a [`MoveQuery`] is a read of its
//! leader. The order of the steps, and what a crash at each of them means, is told where the job is:
//! `node/src/jobs/rebalance.rs`.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, MoveId, PlacementId, Slot};
use crate::measure::{Measured, Position};
use crate::registry::{Placement, Registry, SlotSet};

/// A table whose rows move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedTable {
    /// Its name.
    pub name: String,
    /// Columns that hold what cannot be computed from others.
    pub columns: Vec<String>,
    /// Its shard key.
    pub key: Vec<String>,
}

/// The tables of one placement: they move together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovedSet {
    /// How a key becomes a slot; without owners and versions.
    pub placement: Placement,
    /// All of its tables.
    pub tables: Vec<MovedTable>,
}

impl MovedSet {
    /// The tables of a placement.
    pub fn of(registry: &Registry, placement: &Placement) -> Self {
        let tables = registry.tables.values().filter(|table| table.placement == placement.id);
        let tables = tables.map(|table| MovedTable {
            name: table.name.clone(),
            columns: table
                .columns
                .iter()
                .filter(|column| !column.generated)
                .map(|column| column.name.clone())
                .collect(),
            key: table.key_names().map(str::to_owned).collect(),
        });
        let bare =
            Placement { shards: vec![], owned: Default::default(), epochs: Default::default(), ..placement.clone() };
        Self { placement: bare, tables: tables.collect() }
    }
}

/// How far the copy of a move's rows is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cursor {
    /// Rows behind this one come next.
    Rows {
        /// Number of the table.
        table: u16,
        /// Slot of the last row.
        slot: Slot,
        /// What names the last row in its table; `None` at the start of the slot.
        after: Option<Vec<u8>>,
    },
    /// All rows are there. What comes next is what changed meanwhile.
    Rest {
        /// Rows that changed, behind this number.
        changes: u64,
        /// Remembered requests, from this number on.
        requests: u64,
    },
    /// Everything is there.
    End,
}

impl Cursor {
    /// Where a copy starts.
    pub fn start(slots: &SlotSet) -> Self {
        let slot = slots.iter().next().unwrap_or_default();
        Self::Rows { table: 0, slot, after: None }
    }
}

/// What names a row in its table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowName {
    /// Number of its table.
    pub table: u16,
    /// The value of the rowid or of the primary key, packed.
    #[serde(with = "as_bytes")]
    pub identity: Vec<u8>,
}

/// One row on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRow {
    /// What names it at the source.
    pub name: RowName,
    /// Its slot.
    pub slot: Slot,
    /// Its values, packed.
    #[serde(with = "as_bytes")]
    pub packed: Vec<u8>,
}

/// A piece of what moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Rows that changed: what was staged of them before is void. Those that are still there follow.
    pub changed: Vec<RowName>,
    /// Rows.
    pub rows: Vec<MovedRow>,
    /// Remembered requests, packed.
    pub requests: Vec<Vec<u8>>,
    /// The last noted change that is part of it, or of a piece before.
    pub last_change: u64,
    /// Where the next piece begins.
    pub next: Cursor,
}

impl Piece {
    /// How much it holds, whatever its kind.
    pub fn len(&self) -> usize {
        self.changed.len() + self.rows.len() + self.requests.len()
    }

    /// Does it hold nothing?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes in one go: serde's own form of a vector goes byte by byte, several times on the way of a row.
mod as_bytes {
    use std::fmt;

    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// Count and content of the rows of one slot, whatever their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotDigest {
    /// The slot.
    pub slot: Slot,
    /// How many rows, of all tables.
    pub rows: u64,
    /// Bytes that they take packed.
    pub bytes: u64,
    /// The sum of their hashes.
    pub sum: u128,
}

/// A step of a move, or of the slot index that moves need, on one shard. Each may come again, at any
/// time, from any driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MoveStep {
    /// Makes the slot index of a placement's tables, or fills it further.
    Index {
        /// Numbers the time for which the index is needed; one that has ended is refused.
        generation: u64,
        /// The tables.
        set: MovedSet,
    },
    /// Takes an index away, piece by piece.
    DropIndex {
        /// This generation, and all before it.
        generation: u64,
    },
    /// At the source: what changes in these slots is noted from now on. Writes go on.
    Ahead {
        /// The move.
        id: MoveId,
        /// The tables.
        set: MovedSet,
        /// The slots.
        slots: SlotSet,
    },
    /// At the source: writes to the slots are refused from now on.
    Freeze {
        /// The move.
        id: MoveId,
    },
    /// At the target: makes room for what comes.
    Open {
        /// The move.
        id: MoveId,
        /// The tables.
        set: MovedSet,
        /// The slots.
        slots: SlotSet,
    },
    /// At the target: takes one piece, if it is the next one and its rows would go in.
    Stage {
        /// The move.
        id: MoveId,
        /// Where the piece begins.
        from: Cursor,
        /// The piece.
        piece: Piece,
    },
    /// At the source, the commit point: gives the slots up, if nothing has changed since its content was
    /// compared with what the target has; then deletes their rows, a chunk each time it comes.
    Release {
        /// The move.
        id: MoveId,
        /// The content that was compared.
        content: Content,
    },
    /// At the target: the rows go in, a chunk each time it comes; then the slots are its own.
    Activate {
        /// The move.
        id: MoveId,
        /// How many rows the source released.
        rows: u64,
    },
    /// At a shard that owns none of its slots: drops the tables of a placement. Copies of reference tables go
    /// with their rows.
    Forget {
        /// Its number among the moves.
        id: MoveId,
        /// The placement.
        placement: PlacementId,
        /// Its tables.
        tables: Vec<String>,
        /// These are copies.
        copies: bool,
    },
    /// Ends a move that was not released or not activated, at either side; what is staged is cleared away, a
    /// chunk each time it comes.
    Cancel {
        /// The move.
        id: MoveId,
    },
}

/// What a shard answers to a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveReply {
    /// Work on the index: is it done?
    Index {
        /// Nothing is left to do.
        done: bool,
    },
    /// What changes in the slots is noted here.
    Noting,
    /// The slots are frozen here.
    Frozen,
    /// What is staged here ends there.
    Staged(Cursor),
    /// The slots are given up.
    Released {
        /// The shard's version now.
        epoch: Epoch,
        /// How many rows.
        rows: u64,
        /// Their bytes.
        bytes: u64,
        /// None of the rows is left.
        done: bool,
    },
    /// Some rows are in; nobody reads them yet.
    Activating,
    /// The rows are in and the slots are taken.
    Activated {
        /// The shard's version now.
        epoch: Epoch,
    },
    /// The tables are gone.
    Forgotten {
        /// The shard's version now.
        epoch: Epoch,
    },
    /// The move has ended here; there is more to be cleared away.
    Cancelling,
    /// The move has left nothing here and never will.
    Cancelled,
}

/// What the driver of a move asks a shard's leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MoveQuery {
    /// How large are these slots? Answered for the first of them, until a bound is reached.
    Sizes {
        /// Their placement, which is indexed.
        placement: PlacementId,
        /// The slots.
        slots: SlotSet,
    },
    /// How large are all slots? Answered for the next rows, without an index.
    Measure {
        /// The tables.
        set: MovedSet,
        /// Where the piece begins.
        from: Position,
    },
    /// The next piece of a move, at its source.
    Export {
        /// The move.
        id: MoveId,
        /// Where it begins.
        from: Cursor,
    },
    /// What do the frozen slots hold, at the source, or what is staged of them, at the target?
    Content {
        /// The move.
        id: MoveId,
    },
}

/// What slots hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Those with rows, in order.
    pub slots: Vec<SlotDigest>,
    /// The last noted change that is part of it.
    pub changes: u64,
}

impl Content {
    /// Rows of all slots.
    pub fn rows(&self) -> u64 {
        self.slots.iter().map(|slot| slot.rows).sum()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.bytes).sum()
    }

    /// The first slot whose rows are not the same in both.
    pub fn differs(&self, other: &Self) -> Option<(SlotDigest, SlotDigest)> {
        let find = |list: &[SlotDigest], slot: Slot| {
            list.iter()
                .find(|digest| digest.slot == slot)
                .copied()
                .unwrap_or(SlotDigest { slot, ..SlotDigest::default() })
        };
        let slots = self.slots.iter().chain(&other.slots).map(|digest| digest.slot);
        slots.map(|slot| (find(&self.slots, slot), find(&other.slots, slot))).find(|(ours, theirs)| ours != theirs)
    }
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveAnswer {
    /// Sizes, slot by slot.
    Digests(Vec<SlotDigest>),
    /// Sizes of slots, as far as these rows tell.
    Measured(Measured),
    /// Content.
    Content(Content),
    /// A piece.
    Piece(Piece),
}
