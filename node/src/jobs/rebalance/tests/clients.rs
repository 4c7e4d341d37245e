//! The clients of the simulated world: they write wherever they may, repeat what they asked for, and read
//! all shards.

use super::*;

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
        let texts = match what {
            What::Insert => vec![
                format!("INSERT INTO t VALUES ({key}, 0, 1, NULL)"),
                format!("INSERT INTO w VALUES ({key}, {})", id.0 as i64),
            ],
            What::Change => vec![format!("UPDATE t SET v = v + 1 WHERE k = {key} AND fixed")],
            What::Replace => vec![format!("REPLACE INTO t SELECT k, fixed, v, one FROM t WHERE k = {key} AND fixed")],
            What::Delete => vec![format!("DELETE FROM w WHERE k = {key}")],
        };
        let statements = texts.into_iter().map(Statement::bare).collect();
        let write = Write { id, route: Some(Route { schema: SchemaVersion(9), claims }), statements };
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

    /// A client writes wherever it may: at most one shard takes it.
    pub fn client_writes(&mut self) {
        let (key, what) = match self.random.below(5) {
            0 | 1 => (self.random.below(200) as i64, What::Insert),
            2 => (self.random.below(FIXED as usize) as i64, What::Change),
            3 => (self.random.below(FIXED as usize) as i64, What::Replace),
            _ => (self.random.below(200) as i64, What::Delete),
        };
        let asked = self.new_request(key, what);
        let shard = GroupId(1 + self.random.below(4) as u32);
        if let Ok(result) = self.send(shard, asked) {
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
        let shard = GroupId(1 + self.random.below(4) as u32);
        match self.send(shard, asked) {
            Err(error) if error.code == Code::StaleRoute => (),
            again => assert_eq!(again, result, "request {:?} of key {} on {shard}", asked.id, asked.key),
        }
    }

    /// A read of all shards, one after the other, while slots move: each row is seen once.
    pub fn client_scans(&mut self) {
        let scan = self.scan.take().unwrap_or_else(|| {
            let map = self.registry.placements[&PLACEMENT].clone();
            Scan { left: map.owners().collect(), map, rows: 0 }
        });
        let Scan { map, mut left, rows } = scan;
        let shard = left.swap_remove(self.random.below(left.len()));
        let claim = Claim { placement: PLACEMENT, epoch: map.epoch(shard), slots: None };
        // Refused: the client would look at the map again.
        let Ok(found) = self.read(shard, claim, "SELECT count(*) FROM t WHERE fixed") else { return };
        let Value::Integer(found) = found else { panic!() };
        if left.is_empty() {
            self.scans += 1;
            assert_eq!(rows + found, FIXED, "by {:?}", map.epochs);
        } else {
            self.scan = Some(Scan { map, left, rows: rows + found });
        }
    }
}
