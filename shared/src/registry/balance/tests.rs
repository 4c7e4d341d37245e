//! Plans: no more moves than needed, shares by weight, and no way back and forth.

use std::ops::Range;

use super::*;
use crate::ids::{Epoch, PlacementId};
use crate::registry::Function;
use crate::slot::{Affinity, Collation, KeyColumn};

pub(in crate::registry) fn placement(shares: &[(u32, Range<u16>)], shards: &[u32]) -> Placement {
    let owned: BTreeMap<GroupId, SlotSet> =
        shares.iter().map(|(shard, slots)| (GroupId(*shard), slots.clone().map(Slot).collect())).collect();
    Placement {
        id: PlacementId(1),
        function: Function::Hash,
        key: vec![KeyColumn { affinity: Affinity::Integer, collation: Collation::Binary }],
        slots: 100,
        shards: shards.iter().copied().map(GroupId).collect(),
        epochs: owned.keys().map(|shard| (*shard, Epoch(1))).collect(),
        owned,
    }
}

fn weights(list: &[(u32, u32)]) -> BTreeMap<GroupId, u32> {
    list.iter().map(|(shard, weight)| (GroupId(*shard), *weight)).collect()
}

fn apply(placement: &mut Placement, transfer: &Transfer) {
    let from = placement.owned[&transfer.from].clone();
    assert!(transfer.slots.is_within(&from), "{transfer:?}");
    placement.owned.insert(transfer.from, from.minus(&transfer.slots));
    let to = placement.owned.get(&transfer.to).cloned().unwrap_or_default();
    placement.owned.insert(transfer.to, to.union(&transfer.slots));
}

fn counts(placement: &Placement) -> Vec<usize> {
    placement.shards.iter().map(|shard| placement.slots_of(*shard)).collect()
}

fn after(mut placement: Placement, goal: &Goal, options: &MoveOptions) -> Vec<usize> {
    let plan = |placement: &Placement| placement.plan(goal, options, &BTreeSet::new(), &Sizes::new());
    plan(&placement).iter().for_each(|transfer| apply(&mut placement, transfer));
    assert_eq!(plan(&placement), [], "nothing is left to do");
    counts(&placement)
}

const EVEN: Goal = Goal::Even { begun: false };

/// Shards end with equal shares, no slot moves without need, and what is even stays.
#[test]
fn slots_are_evened_out() {
    let after = |placement: Placement| after(placement, &EVEN, &MoveOptions::default());
    assert_eq!(after(placement(&[(1, 0..50), (2, 50..100)], &[1, 2, 3, 4])), [25, 25, 25, 25]);
    assert_eq!(after(placement(&[(1, 0..100)], &[1, 2, 3])), [34, 33, 33]);
    assert_eq!(after(placement(&[(1, 0..30), (2, 30..100)], &[1, 2, 3])), [33, 34, 33]);
    assert_eq!(after(placement(&[(1, 0..30), (2, 30..60), (3, 60..100)], &[1, 2])), [50, 50], "a shard is left");
    let even = placement(&[(1, 0..34), (2, 34..67), (3, 67..100)], &[1, 2, 3]);
    assert_eq!(even.transfers(), []);
    let moved: usize =
        placement(&[(1, 0..30), (2, 30..100)], &[1, 2, 3]).transfers().iter().map(|t| t.slots.len()).sum();
    assert_eq!(moved, 36);
}

/// Shares follow the weights; a weight of 0 takes all away.
#[test]
fn weights_are_respected() {
    let options = |list: &[(u32, u32)]| MoveOptions { weights: weights(list), ..MoveOptions::default() };
    let three = || placement(&[(1, 0..100)], &[1, 2, 3]);
    assert_eq!(after(three(), &EVEN, &options(&[(1, 2)])), [50, 25, 25]);
    assert_eq!(after(three(), &EVEN, &options(&[(1, 0)])), [0, 50, 50]);
    assert_eq!(after(three(), &EVEN, &options(&[(2, 5), (3, 4)])), [10, 50, 40]);
    let all = [(1, 1000), (2, 1), (3, 1)];
    assert_eq!(after(three(), &EVEN, &options(&all)).iter().sum::<usize>(), 100);
}

/// A shard is drained to whoever has the fewest slots; nothing else moves.
#[test]
fn a_shard_is_drained() {
    let uneven = || placement(&[(1, 0..10), (2, 10..40), (3, 40..100)], &[1, 2, 3]);
    assert_eq!(after(uneven(), &Goal::Drain(GroupId(3)), &MoveOptions::default()), [50, 50, 0]);
    let transfers = uneven().plan(
        &Goal::Drain(GroupId(2)),
        &MoveOptions { weights: weights(&[(1, 0)]), ..MoveOptions::default() },
        &BTreeSet::new(),
        &Sizes::new(),
    );
    assert_eq!(transfers.len(), 1);
    assert_eq!((transfers[0].from, transfers[0].to, transfers[0].slots.len()), (GroupId(2), GroupId(3), 30));
    let leaving = BTreeSet::from([GroupId(1)]);
    let transfers = uneven().plan(&Goal::Drain(GroupId(2)), &MoveOptions::default(), &leaving, &Sizes::new());
    assert!(transfers.iter().all(|transfer| transfer.to == GroupId(3)), "who leaves gets nothing: {transfers:?}");
}

/// Given slots go to one shard from wherever they are.
#[test]
fn slots_are_given() {
    let slots: SlotSet = [5, 45, 95].map(Slot).into_iter().collect();
    let uneven = placement(&[(1, 0..10), (2, 10..60), (3, 60..100)], &[1, 2, 3]);
    assert_eq!(after(uneven, &Goal::Give(slots, GroupId(3)), &MoveOptions::default()), [9, 49, 42]);
}

/// A random number generator that needs nothing.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A placement with rows in its slots, dealt out at random.
fn dealt(random: &mut Random) -> (Placement, Sizes, MoveOptions) {
    let shards: Vec<u32> = (1..=2 + random.below(5) as u32).collect();
    let mut dealt = placement(&[], &shards);
    dealt.slots = 200;
    let skew = 1 + random.below(60);
    let mut sizes = Sizes::new();
    for slot in (0..200).map(Slot) {
        let shard =
            GroupId(shards[(random.below(shards.len() as u64).min(random.below(shards.len() as u64))) as usize]);
        dealt.owned.entry(shard).or_default();
        let owned = dealt.owned[&shard].union(&SlotSet::range(slot, slot));
        dealt.owned.insert(shard, owned);
        let rows = if random.below(10) == 0 { random.below(skew * 20) } else { random.below(100) };
        sizes.insert(slot, SlotSize { rows, bytes: rows * (10 + random.below(50)) });
    }
    let weighted = shards.iter().filter(|_| random.0 & 64 == 0);
    let list: Vec<(u32, u32)> = weighted.map(|shard| (*shard, *shard % 4)).collect();
    let by = [Measure::Slots, Measure::Rows, Measure::Bytes][random.below(3) as usize];
    let mut options = MoveOptions { weights: weights(&list), by, ..MoveOptions::default() };
    if options.check(&dealt).is_err() {
        options.weights.clear();
    }
    (dealt, sizes, options)
}

/// Whatever is dealt out: piece by piece, with plans made anew now and then, no slot moves twice; the end is
/// even as far as slots allow, empty where it must be, and planning again moves nothing.
#[test]
fn plans_come_to_an_end() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let (mut placement, sizes, options) = dealt(&mut random);
        let nobody = BTreeSet::new();
        let load = |placement: &Placement, shard: GroupId| {
            let size = placement.owned.get(&shard).map(|owned| total_size(&sizes, owned)).unwrap_or_default();
            match options.by {
                Measure::Slots => placement.slots_of(shard) as u64,
                Measure::Rows => size.rows,
                Measure::Bytes => size.bytes,
            }
        };
        let mut seen: BTreeSet<Slot> = BTreeSet::new();
        let drivers_die = random.below(2) == 0;
        let mut goal = EVEN;
        loop {
            let plan = placement.plan(&goal, &options, &nobody, &sizes);
            let planned = seen.len() + plan.iter().map(|transfer| transfer.slots.len()).sum::<usize>();
            if plan.is_empty() {
                break;
            }
            assert!(goal == EVEN || drivers_die, "seed {seed}: a plan that was carried out leaves {plan:?}");
            'plan: for transfer in plan {
                let mut rest = transfer.slots.clone();
                while !rest.is_empty() {
                    let slots: SlotSet = rest.iter().take(1 + random.below(8) as usize).collect();
                    slots.iter().for_each(|slot| assert!(seen.insert(slot), "seed {seed}: {slot} moves twice"));
                    rest = rest.minus(&slots);
                    apply(&mut placement, &Transfer { slots, ..transfer.clone() });
                    if drivers_die && random.below(8) == 0 {
                        break 'plan;
                    }
                }
            }
            assert!(drivers_die || seen.len() == planned);
            goal = Goal::Even { begun: true };
        }
        let weight = |shard: &GroupId| u64::from(options.weights.get(shard).copied().unwrap_or(1));
        let sum: u64 = placement.shards.iter().map(weight).sum();
        let total: u64 = placement.shards.iter().map(|shard| load(&placement, *shard)).sum();
        for shard in &placement.shards {
            if weight(shard) == 0 {
                assert_eq!(placement.slots_of(*shard), 0, "seed {seed}: {shard} has weight 0");
                continue;
            }
            let (has, share) = (load(&placement, *shard), total * weight(shard) / sum);
            let tolerance = match options.by {
                Measure::Slots => 1,
                _ => share * EVEN_WITHIN_PERCENT / 100 + 1,
            };
            let owned = &placement.owned.get(shard).cloned().unwrap_or_default();
            let excess = has.saturating_sub(share);
            // A slot too large to be shared out stays: each that could go would make another shard as uneven.
            let least = owned.iter().map(|slot| sizes[&slot]).map(|size| match options.by {
                Measure::Bytes => size.bytes,
                _ => size.rows,
            });
            let least = least.filter(|load| *load > 0).min().unwrap_or(0);
            assert!(
                excess <= tolerance || (least > tolerance && options.by != Measure::Slots),
                "seed {seed}: {shard} has {has} of {share} by {:?}, least {least}",
                options.by
            );
        }
    }
}

/// What is nearly even stays as it is, by rows and by bytes; by slots it is exact.
#[test]
fn nearly_even_stays() {
    let mut sizes: Sizes = (0..100).map(|n| (Slot(n), SlotSize { rows: 100, bytes: 1000 })).collect();
    let halves = placement(&[(1, 0..52), (2, 52..100)], &[1, 2]);
    for (by, stays) in [(Measure::Slots, false), (Measure::Rows, true), (Measure::Bytes, true)] {
        let options = MoveOptions { by, ..MoveOptions::default() };
        assert_eq!(halves.plan(&EVEN, &options, &BTreeSet::new(), &sizes).is_empty(), stays, "{by:?}");
    }
    sizes.insert(Slot(0), SlotSize { rows: 300, bytes: 1000 });
    let options = MoveOptions { by: Measure::Rows, ..MoveOptions::default() };
    let transfers = halves.plan(&EVEN, &options, &BTreeSet::new(), &sizes);
    assert_eq!(transfers.len(), 1);
    assert_eq!(transfers[0].slots, SlotSet::range(Slot(0), Slot(0)), "the fewest slots: the large one");
}

/// Options that do not fit are refused by name.
#[test]
fn options_are_checked() {
    let two = placement(&[(1, 0..100)], &[1, 2]);
    let message = |options: MoveOptions| options.check(&two).unwrap_err().message;
    let with = |list: &[(u32, u32)]| MoveOptions { weights: weights(list), ..MoveOptions::default() };
    assert!(MoveOptions::default().check(&two).is_ok());
    assert!(message(with(&[(3, 1)])).contains("shard3"));
    assert!(message(with(&[(1, 0), (2, 0)])).contains("`weights`"));
    assert!(message(with(&[(1, MAX_WEIGHT + 1)])).contains("weight"));
    assert!(message(MoveOptions { max_parallel: 0, ..MoveOptions::default() }).contains("`max_parallel`"));
    assert!(message(MoveOptions { max_bytes_per_second: Some(0), ..MoveOptions::default() }).contains("`max_bytes"));
}
