//! What must hold in the simulated world: after each entry of a shard, and at the end of a job.

use super::clients::{Asked, What};
use super::*;

/// Who owns what, as the shards' own tables said after the last entry of each.
#[derive(Default)]
pub(super) struct Owners {
    now: BTreeMap<GroupId, (Epoch, SlotSet)>,
    /// What each version of a shard was.
    versions: BTreeMap<(GroupId, Epoch), SlotSet>,
    /// Some slot has no owner.
    pub incomplete: bool,
    /// Slots that a shard has called frozen.
    pub frozen: BTreeMap<GroupId, (MoveId, SlotSet)>,
}

impl Owners {
    pub fn of(&self, slot: Slot) -> Option<GroupId> {
        self.now.iter().find(|(_, (_, slots))| slots.contains(slot)).map(|(shard, _)| *shard)
    }
}

impl Inner {
    /// After an entry of a shard: a version of it is one set of slots, for ever.
    pub fn check_owned(&mut self, shard: GroupId) {
        let owned = self.shards[&shard].0.owned(PLACEMENT);
        if self.owners.now.get(&shard) == Some(&owned) {
            return;
        }
        let (epoch, slots) = &owned;
        let before = self.owners.now.get(&shard).map_or(Epoch(0), |(before, _)| *before);
        assert!(*epoch >= before, "{shard} went back from version {before} to {epoch}");
        let known = self.owners.versions.entry((shard, *epoch)).or_insert_with(|| slots.clone());
        assert_eq!(known, slots, "version {epoch} of {shard}");
        self.owners.now.insert(shard, owned);
        self.check_single_owners();
    }

    /// A slot has one owner, or none while its move is between release and activation.
    pub fn check_single_owners(&mut self) {
        // Slots are handed out one shard after the other when the world is made.
        if self.registry.counters.job == 0 {
            return;
        }
        let mut ownerless = SlotSet::all(SLOTS);
        for (shard, (_, slots)) in &self.owners.now {
            assert!(slots.is_within(&ownerless), "slots of {shard} have two owners: {:?}", self.owners.now);
            ownerless = ownerless.minus(slots);
        }
        self.owners.incomplete = !ownerless.is_empty();
        for moving in self.registry.moves() {
            ownerless = ownerless.minus(&moving.transfer.slots);
        }
        assert!(ownerless.is_empty(), "{ownerless:?} have no owner and do not move: {:?}", self.owners.now);
    }

    /// From the answer to a freeze to the end of the move at its source nobody writes to its slots.
    pub fn note_frozen(&mut self, shard: GroupId, step: &MoveStep, reply: &MoveReply) {
        let (MoveStep::Ahead { id, .. }
        | MoveStep::Freeze { id }
        | MoveStep::Release { id, .. }
        | MoveStep::Cancel { id }) = step
        else {
            return;
        };
        let frozen = &mut self.owners.frozen;
        match reply {
            MoveReply::Frozen => {
                let moving = self.registry.moves().find(|moving| moving.id == *id);
                let moving = moving.expect("the registry knows a move that is frozen");
                frozen.insert(shard, (*id, moving.transfer.slots.clone()));
            }
            MoveReply::Released { .. } | MoveReply::Cancelled if frozen.get(&shard).is_some_and(|(of, _)| of == id) => {
                frozen.remove(&shard);
            }
            _ => (),
        }
    }

    /// All late calls have come; everything is where it belongs.
    pub fn check_end(&mut self) {
        for late in std::mem::take(&mut self.late) {
            match late {
                Late::Step(shard, step) => drop(self.step(shard, step)),
                Late::Meta(command) => drop(self.meta(command)),
            }
        }
        let map = self.registry.placements[&PLACEMENT].clone();
        let (mut rows, mut others) = (BTreeMap::<(i64, i64), (u32, i64)>::new(), vec![]);
        for shard in self.shards.keys().copied().collect::<Vec<_>>() {
            let claim = Claim { placement: PLACEMENT, epoch: map.epoch(shard), slots: None };
            if map.owned.contains_key(&shard) {
                assert!(self.read(shard, claim, "SELECT 1").is_ok(), "the map has the version of {shard}");
            }
            let mapped = map.owned.get(&shard).cloned().unwrap_or_default();
            assert_eq!(self.shards[&shard].0.owned(PLACEMENT).1, mapped, "slots of {shard}");
            // Readers of that replica see the same.
            let slot = Slot(self.random.below(usize::from(SLOTS)) as u16);
            assert_eq!(self.answers_for(shard, slot), mapped.contains(slot), "{shard} {slot}");
            let replica = &self.shards[&shard].0;
            let tables = replica.value("SELECT count(*) FROM sqlite_schema WHERE name IN ('t', 'w')");
            let knows = map.shards.contains(&shard);
            assert_eq!(tables, Value::Integer(if knows { 2 } else { 0 }), "tables of {shard}");
            if !knows {
                continue;
            }
            for row in replica.query("SELECT k, fixed, v FROM t") {
                let [Value::Integer(key), Value::Integer(fixed), Value::Integer(v)] = row[..] else {
                    panic!("{row:?}")
                };
                assert_eq!(map.owner(slot_of_key(key)), Some(shard), "key {key}");
                let one = rows.entry((key, fixed)).or_default();
                *one = (one.0 + 1, one.1 + v);
            }
            for row in replica.query("SELECT k, id FROM w") {
                let [Value::Integer(key), Value::Integer(id)] = row[..] else { panic!("{row:?}") };
                assert_eq!(map.owner(slot_of_key(key)), Some(shard), "key {key}");
                others.push((key, id));
            }
            let left =
                replica.value("SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_flotilla\\_slots%' ESCAPE '\\'");
            assert_eq!(left, Value::Integer(0), "no index is left on {shard}");
        }
        let fixed = (0..FIXED).chain(self.heavy.iter().copied());
        let mut wanted: BTreeMap<(i64, i64), (u32, i64)> = fixed.map(|key| ((key, 1), (1, 0))).collect();
        let mut wanted_others = vec![];
        for Written { asked: Asked { id, key, what }, .. } in &self.written {
            let added = wanted.entry((*key, i64::from(*what != What::Insert && *key < FIXED))).or_default();
            match what {
                What::Insert => {
                    *added = (added.0 + 1, added.1 + 1);
                    wanted_others.push((*key, id.0 as i64));
                }
                What::Change | What::Past => added.1 += 1,
                What::Replace => (),
                What::Delete => wanted_others.retain(|(other, _)| other != key),
            }
        }
        wanted.retain(|_, (count, _)| *count > 0);
        assert_eq!(rows, wanted, "every row once, with every change once");
        others.sort_unstable();
        wanted_others.sort_unstable();
        assert_eq!(others, wanted_others, "every row that was not deleted");
        // Nothing is frozen.
        for slot in (0..SLOTS).map(Slot) {
            let key = (0..).find(|key| slot_of_key(*key) == slot).unwrap();
            let asked = self.new_request(key, What::Insert);
            let result = self.send(map.owner(slot).unwrap(), asked);
            assert!(result.is_ok(), "{result:?}");
            self.written.push(Written { asked, result });
        }
    }
}
