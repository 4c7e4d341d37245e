//! How large the slots of a placement are: asked piece by piece, of each shard that owns some.
//!
//! A piece is one bounded read of the shard's leader, so writes are not held up, and no slot index is needed:
//! all rows are looked at once. What is written meanwhile may or may not be counted, so the sizes are good
//! for a plan and for a forecast, and for nothing that must be exact.

use serde::{Deserialize, Serialize};

use crate::ids::GroupId;
use crate::moves::{MoveAnswer, MoveQuery, MovedSet};
use crate::registry::{Placement, Registry, Sizes};

/// Where a piece begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Number of the table.
    pub table: u16,
    /// What names the last row of the piece before, packed; `None` at the start of the table.
    pub after: Option<Vec<u8>>,
}

/// What a piece of the rows adds to the sizes of slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// By slot.
    pub sizes: Sizes,
    /// Where the next piece begins; nothing is left without.
    pub next: Option<Position>,
}

/// A measurement under way.
#[derive(Clone, Debug)]
pub struct Measuring {
    set: MovedSet,
    left: Vec<GroupId>,
    from: Position,
    sizes: Sizes,
}

impl Measuring {
    /// A measurement of all slots of a placement.
    pub fn new(registry: &Registry, placement: &Placement) -> Self {
        Self {
            set: MovedSet::of(registry, placement),
            left: placement.owners().collect(),
            from: Position::default(),
            sizes: Sizes::new(),
        }
    }

    /// What to ask, and whom; `None` when all is known.
    pub fn question(&self) -> Option<(GroupId, MoveQuery)> {
        let shard = *self.left.last()?;
        Some((shard, MoveQuery::Measure { set: self.set.clone(), from: self.from.clone() }))
    }

    /// Takes the answer to the last question; tells whether it was one.
    pub fn take(&mut self, answer: MoveAnswer) -> bool {
        let MoveAnswer::Measured(Measured { sizes, next }) = answer else { return false };
        for (slot, size) in sizes {
            *self.sizes.entry(slot).or_default() += size;
        }
        if next.is_none() {
            self.left.pop();
        }
        self.from = next.unwrap_or_default();
        true
    }

    /// What is known by now.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }
}
