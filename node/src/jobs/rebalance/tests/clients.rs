//! The clients of the simulated world: they write wherever they may, repeat what they asked for, and read
//! all shards.

use super::*;

/// Keys of rows that come and go: few, so that what is deleted is often there.
const OTHERS: usize = 100;

/// Reads of all shards that are under way at once: some of them for long, while slots change hands.
const SCANS: usize = 4;

/// What a client asked for under an id.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub id: RequestId,
    pub key: i64,
    /// What it does to the key's rows.
    pub what: What,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum What {
    /// Adds one to each table.
    Insert,
    /// Counts up in the one that is always there.
    Change,
    /// The same past the routing, on the shard that has it, as somebody may who inspects a shard.
    Past,
    /// Replaces that one by its like, in silence.
    Replace,
    /// Deletes those that were added to one table.
    Delete,
}

/// A write and its result.
#[derive(Clone)]
pub(super) struct Written {
    pub asked: Asked,
    pub result: WriteResult,
}

/// A read of all shards by one map, under way.
pub(super) struct Scan {
    map: Placement,
    left: Vec<GroupId>,
    rows: i64,
}

impl Inner {
    pub fn send(&mut self, shard: GroupId, asked: Asked) -> WriteResult {
        let Asked { id, key, what } = asked;
        let slots = Some(SlotSet::range(slot_of_key(key), slot_of_key(key)));
        let claims = vec![Claim { placement: PLACEMENT, epoch: Epoch(0), slots }];
        // The same texts each time: a shard prepares them once.
        let statement = |sql: &str, values: &[i64]| {
            let params = Params::Positional(values.iter().map(|value| Value::Integer(*value)).collect());
            Statement { sql: sql.to_owned(), params }
        };
        let statements = match what {
            What::Insert => vec![
                statement("INSERT INTO t VALUES (?, 0, 1, NULL)", &[key]),
                statement("INSERT INTO w VALUES (?, ?)", &[key, id.0 as i64]),
            ],
            What::Change | What::Past => vec![statement("UPDATE t SET v = v + 1 WHERE k = ? AND fixed", &[key])],
            What::Replace => {
                vec![statement("REPLACE INTO t SELECT k, fixed, v, one FROM t WHERE k = ? AND fixed", &[key])]
            }
            What::Delete => vec![statement("DELETE FROM w WHERE k = ?", &[key])],
        };
        let route = (what != What::Past).then_some(Route { schema: SchemaVersion(9), claims });
        let write = Write { id, route, statements };
        let entry = self.log(shard).entry(Body::Writes(vec![write]));
        match self.apply(shard, entry) {
            Outcome::Writes(mut results) => results.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub fn new_request(&mut self, key: i64, what: What) -> Asked {
        self.next_request += 1;
        Asked { id: RequestId(self.next_request), key, what }
    }

    /// Some key; while slots move, often one of theirs.
    fn some_key(&mut self, keys: usize) -> i64 {
        let moving = self.registry.moves().next().map(|moving| moving.transfer.slots.clone());
        let mut key = self.random.below(keys) as i64;
        if let Some(slots) = moving
            && self.chance(60)
        {
            for _ in 0..8 {
                if slots.contains(slot_of_key(key)) {
                    break;
                }
                key = self.random.below(keys) as i64;
            }
        }
        key
    }

    /// Whoever has the key, or anybody: clients have old maps.
    fn some_shard(&mut self, key: i64) -> GroupId {
        let owner = self.owners.of(slot_of_key(key));
        match owner {
            Some(owner) if self.chance(60) => owner,
            _ => GroupId(1 + self.random.below(4) as u32),
        }
    }

    /// A client writes wherever it may: at most one shard takes it, and none while the slot is frozen.
    pub fn client_writes(&mut self) {
        let (what, keys) = match self.random.below(11) {
            0..4 => (What::Insert, OTHERS),
            4 | 5 => (What::Change, FIXED as usize),
            6 | 7 => (What::Replace, FIXED as usize),
            8 => (What::Past, FIXED as usize),
            _ => (What::Delete, OTHERS),
        };
        let key = self.some_key(keys);
        let asked = self.new_request(key, what);
        let shard = match what {
            What::Past => self.owners.of(slot_of_key(key)),
            _ => Some(self.some_shard(key)),
        };
        let Some(shard) = shard else { return };
        if let Ok(result) = self.send(shard, asked) {
            let frozen = self.owners.frozen.get(&shard).filter(|_| what != What::Past);
            let is_frozen = frozen.is_some_and(|(_, slots)| slots.contains(slot_of_key(key)));
            assert!(!is_frozen, "{shard} took a write of key {key} while it was frozen");
            self.written.push(Written { asked, result: Ok(result) });
        }
    }

    /// A client repeats a write of which it did not get the answer: it is not applied again.
    pub fn client_repeats(&mut self) {
        let recent = self.written.len().min(20);
        if recent == 0 {
            return;
        }
        let Written { asked, result } = self.written[self.written.len() - 1 - self.random.below(recent)].clone();
        if asked.what == What::Past {
            // Nobody but the shard that took it knows its id.
            return;
        }
        let shard = self.some_shard(asked.key);
        // Applied again, a write that found nothing would not show it.
        let remembered = self.shards[&shard].0.remembers(asked.id);
        assert!(remembered || self.owners.of(slot_of_key(asked.key)) != Some(shard), "{shard} forgot {:?}", asked.id);
        match self.send(shard, asked) {
            Err(error) if error.code == Code::StaleRoute => (),
            again => assert_eq!(again, result, "request {:?} of key {} on {shard}", asked.id, asked.key),
        }
    }

    /// Reads of all shards, one after the other, some at a time, while slots move: each row is seen once.
    pub fn client_scans(&mut self) {
        let at = self.random.below(SCANS);
        let Scan { map, mut left, rows } = match at < self.scanning.len() {
            true => self.scanning.swap_remove(at),
            false => {
                let map = self.registry.placements[&PLACEMENT].clone();
                Scan { left: map.owners().collect(), map, rows: 0 }
            }
        };
        let shard = left.swap_remove(self.random.below(left.len()));
        let claim = Claim { placement: PLACEMENT, epoch: map.epoch(shard), slots: None };
        // Refused: the client would look at the map again.
        let Ok(found) = self.read(shard, claim, "SELECT count(*) FROM t WHERE fixed") else { return };
        let Value::Integer(found) = found else { panic!() };
        if left.is_empty() {
            self.scans += 1;
            assert_eq!(rows + found, FIXED + self.heavy.len() as i64, "by {:?}", map.epochs);
        } else {
            self.scanning.push(Scan { map, left, rows: rows + found });
        }
    }
}
