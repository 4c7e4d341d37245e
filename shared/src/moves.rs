//! Moves of slots, as the job that drives them and the shards speak of them.
//!
//! A [`MoveStep`] goes through a shard's log, once or many times; a [`MoveQuery`] is a read of its
//! leader. The order of the steps, and what a crash at each of them means, is told where the job is:
//! `node/src/jobs/rebalance.rs`.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, MoveId, PlacementId, Slot};
use crate::registry::{Placement, SlotSet};

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
    /// All rows are there; remembered requests from this number on come next.
    Requests(u64),
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

/// One row on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRow {
    /// Number of its table.
    pub table: u16,
    /// Its slot.
    pub slot: Slot,
    /// Its values, packed.
    pub packed: Vec<u8>,
}

/// A piece of what moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Rows.
    pub rows: Vec<MovedRow>,
    /// Remembered requests, packed.
    pub requests: Vec<Vec<u8>>,
    /// Where the next piece begins.
    pub next: Cursor,
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
    /// At the source: writes to these slots are refused from now on.
    Freeze {
        /// The move.
        id: MoveId,
        /// The tables.
        set: MovedSet,
        /// The slots.
        slots: SlotSet,
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
    /// At the target: takes one piece, if it is the next one.
    Stage {
        /// The move.
        id: MoveId,
        /// Where the piece begins.
        from: Cursor,
        /// The piece.
        piece: Piece,
    },
    /// At the target: would the rows go in? Changes nothing.
    Try {
        /// The move.
        id: MoveId,
    },
    /// At the source, the commit point: deletes the rows and gives the slots up, if its rows are those
    /// that the target has.
    Release {
        /// The move.
        id: MoveId,
        /// What the target has.
        staged: Vec<SlotDigest>,
    },
    /// At the target: the rows go in, the slots are its own.
    Activate {
        /// The move.
        id: MoveId,
        /// How many rows the source released.
        rows: u64,
    },
    /// Ends a move that was not released or not activated, at either side.
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
    /// The slots are frozen here.
    Frozen,
    /// What is staged here ends there.
    Staged(Cursor),
    /// The rows would go in.
    Tried,
    /// The rows and slots are given up.
    Released {
        /// The shard's version now.
        epoch: Epoch,
        /// How many rows.
        rows: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The rows are in and the slots are taken.
    Activated {
        /// The shard's version now.
        epoch: Epoch,
    },
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
    /// The next piece of a frozen move.
    Export {
        /// The move.
        id: MoveId,
        /// Where it begins.
        from: Cursor,
    },
    /// What is staged?
    Digests {
        /// The move.
        id: MoveId,
    },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveAnswer {
    /// Sizes or content, slot by slot.
    Digests(Vec<SlotDigest>),
    /// A piece.
    Piece(Piece),
}
