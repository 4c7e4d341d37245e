//! Ways to move slots, and what a job shall have done by them.

use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::{Goal, Measure, MoveOptions, Registry, Sizes, SlotSet};

use crate::state::tests::Random;
use crate::state::tests::moves::PLACEMENT;

/// Some way to move slots.
pub(super) fn some_options(random: &mut Random) -> MoveOptions {
    MoveOptions {
        weights: [(GroupId(1), [1, 1, 2, 0][random.below(4)])].into(),
        by: [Measure::Slots, Measure::Slots, Measure::Rows, Measure::Bytes][random.below(4)],
        max_bytes_per_second: [None, Some(2000)][random.below(2)],
        max_parallel: 1 + random.below(2) as u16,
    }
}

/// Has a job of these options done what it should?
pub(super) fn is_even(registry: &Registry, options: &MoveOptions) -> bool {
    let placement = &registry.placements[&PLACEMENT];
    let emptied = options.weights.iter().filter(|(_, weight)| **weight == 0);
    let empty = emptied.map(|(shard, _)| shard).all(|shard| placement.owned.get(shard).is_none_or(SlotSet::is_empty));
    let goal = Goal::Even { begun: true };
    let left = || placement.plan(&goal, options, &registry.leaving(PLACEMENT), &Sizes::new());
    empty && (options.by != Measure::Slots || left().is_empty())
}
