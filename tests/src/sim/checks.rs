//! What must hold, checked while it happens and at the end.
//!
//! Input: what clients sent and got, what replicas appended, voted, applied and purged. Output: the
//! rule that was broken, in words. Nothing here touches a replica or a clock.
//!
//! The rules: one leader per term; one vote per term and replica, over all of its lives; committed
//! entries never differ; the applied index never goes back in a life, and a restart finds at least
//! what must have survived; equal content hash at equal applied index; a purge stays below what is
//! durable; two answers to one request id are the same; no counter value is given out twice; a
//! linearizable read sees every increment that was acknowledged before it began; and at the end every
//! acknowledged write is there once, every failed one is not, and every other at most once.

use std::collections::BTreeMap;

use flotilla_node::consensus::{Entry, LogId, Vote};
use flotilla_shared::ids::RequestId;
use flotilla_shared::value::Value;
use flotilla_shared::wire::{StatementResult, WriteResult};

use super::journal::hash_on;

/// What a write is meant to do.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Who sends it.
    pub client: u64,
    /// Its number at that client.
    pub seq: u64,
    /// The counter that it increments.
    pub counter: Option<u64>,
    /// It inserts a row into the table of writes.
    pub row: bool,
    /// Its last statement breaks a constraint, so that nothing of it may remain.
    pub fails: bool,
}

/// A write and the first answer to it.
struct Sent {
    intent: Intent,
    answer: Option<WriteResult>,
}

/// A broken rule.
pub type Broken = Result<(), String>;

/// All that was seen in one run.
#[derive(Default)]
pub struct History {
    sent: BTreeMap<RequestId, Sent>,
    /// Counter values that were given out, with the write that got each.
    given: BTreeMap<(u64, i64), RequestId>,
    counters: BTreeMap<u64, Counter>,
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    committed: BTreeMap<u64, (LogId, u64)>,
    hashes: BTreeMap<u64, (u64, u64)>,
    applied: BTreeMap<(u64, u64), u64>,
    compared: u64,
}

#[derive(Default)]
struct Counter {
    started: i64,
    acknowledged: i64,
    /// Highest value that anyone was told.
    seen: i64,
}

/// How much was checked: a run that checks nothing proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were answered.
    pub acknowledged: u64,
    /// Entries that some replica applied.
    pub committed: u64,
    /// Terms that had a leader.
    pub terms: u64,
    /// Content hashes that were compared with another replica's.
    pub compared: u64,
}

impl History {
    /// A client is about to send a write for the first time.
    pub fn sends(&mut self, id: RequestId, intent: Intent) {
        if let Some(counter) = intent.counter.filter(|_| !intent.fails) {
            self.counters.entry(counter).or_default().started += 1;
        }
        self.sent.insert(id, Sent { intent, answer: None });
    }

    /// A write was answered.
    ///
    /// # Errors
    /// The answer contradicts an earlier one or the statement.
    pub fn answered(&mut self, id: RequestId, answer: &WriteResult) -> Broken {
        let sent = self.sent.get_mut(&id).ok_or("an answer to what nobody sent")?;
        let who = format!("write {}/{}", sent.intent.client, sent.intent.seq);
        if let Some(first) = &sent.answer {
            return match first == answer {
                true => Ok(()),
                false => Err(format!("{who} was answered {first:?} first and then {answer:?}")),
            };
        }
        sent.answer = Some(answer.clone());
        match (sent.intent.fails, answer) {
            (true, Err(_)) => return Ok(()),
            (false, Ok(_)) => (),
            (true, Ok(_)) => return Err(format!("{who} succeeded though it breaks a constraint")),
            (false, Err(error)) => return Err(format!("{who} failed: {error}")),
        }
        let Some(number) = sent.intent.counter else { return Ok(()) };
        let counter = self.counters.entry(number).or_default();
        counter.acknowledged += 1;
        let Some(value) = answer.as_ref().ok().and_then(|results| returned(results)) else {
            return Err(format!("{who} returned no counter value"));
        };
        counter.seen = counter.seen.max(value);
        match self.given.insert((number, value), id) {
            Some(other) if other != id => Err(format!("{who} got value {value} of counter {number}, as another did")),
            _ => Ok(()),
        }
    }

    /// The least value that a linearizable read of a counter may give if it begins now.
    pub fn floor(&self, counter: u64) -> i64 {
        self.counters.get(&counter).map_or(0, |counter| counter.acknowledged.max(counter.seen))
    }

    /// A read that began at `floor` gave `value`.
    ///
    /// # Errors
    /// The value is too low or too high.
    pub fn read(&mut self, counter: u64, floor: i64, value: i64) -> Broken {
        let entry = self.counters.entry(counter).or_default();
        entry.seen = entry.seen.max(value);
        if value < floor {
            return Err(format!("a linearizable read of counter {counter} gave {value}, after {floor} was known"));
        }
        if value > entry.started {
            return Err(format!("counter {counter} is {value} after only {} increments were sent", entry.started));
        }
        Ok(())
    }

    /// A replica appends in the name of this vote.
    ///
    /// # Errors
    /// Another replica led this term.
    pub fn leads(&mut self, node: u64, vote: &Vote) -> Broken {
        let term = vote.leader_id.term;
        match *self.leaders.entry(term).or_insert(node) {
            leader if leader == node => Ok(()),
            leader => Err(format!("term {term} has two leaders: {leader} and {node}")),
        }
    }

    /// A replica promised its vote, or stands for election itself.
    ///
    /// # Errors
    /// It promised it to another candidate of the same term before.
    pub fn votes(&mut self, voter: u64, term: u64, candidate: u64) -> Broken {
        match *self.votes.entry((voter, term)).or_insert(candidate) {
            first if first == candidate => Ok(()),
            first => Err(format!("replica {voter} voted for {first} and for {candidate} in term {term}")),
        }
    }

    /// A replica applies an entry, in its `life`.
    ///
    /// # Errors
    /// Another entry was applied at this index, or the index does not follow the one before.
    pub fn applies(&mut self, node: u64, life: u64, entry: &Entry) -> Broken {
        let index = entry.log_id.index;
        let hash = hash_on(0, &postcard::to_stdvec(entry).map_err(|error| error.to_string())?);
        let first = self.committed.entry(index).or_insert((entry.log_id, hash));
        if *first != (entry.log_id, hash) {
            return Err(format!(
                "replica {node} applies {} at index {index}, where {} was committed",
                entry.log_id, first.0
            ));
        }
        match self.applied.insert((node, life), index) {
            Some(before) if before + 1 != index => {
                Err(format!("replica {node} applies entry {index} right after entry {before}"))
            }
            _ => Ok(()),
        }
    }

    /// A replica starts a life, or took over a snapshot in it, with this entry applied.
    ///
    /// # Errors
    /// The applied index went back.
    pub fn holds(&mut self, node: u64, life: u64, index: u64) -> Broken {
        match self.applied.insert((node, life), index) {
            Some(before) if before > index => Err(format!("replica {node} went back from entry {before} to {index}")),
            _ => Ok(()),
        }
    }

    /// A replica's database had this content hash at this applied index.
    ///
    /// # Errors
    /// Another replica's had another.
    pub fn content(&mut self, node: u64, index: u64, hash: u64) -> Broken {
        let (first, other) = *self.hashes.entry(index).or_insert((hash, node));
        self.compared += u64::from(other != node);
        match first == hash {
            true => Ok(()),
            false => Err(format!("at entry {index} the content of replica {node} differs from that of {other}")),
        }
    }

    /// Writes that were never answered.
    pub fn unanswered(&self) -> u64 {
        self.sent.values().filter(|sent| sent.answer.is_none()).count() as u64
    }

    /// How much was checked.
    pub fn counts(&self) -> Counts {
        Counts {
            acknowledged: self.sent.len() as u64 - self.unanswered(),
            committed: self.committed.len() as u64,
            terms: self.leaders.len() as u64,
            compared: self.compared,
        }
    }

    /// What is in a replica's tables at the end: how often each row, and each counter.
    ///
    /// # Errors
    /// A write is missing, is there twice, or should not be there.
    pub fn settles(&self, rows: &BTreeMap<(u64, u64), u64>, counters: &BTreeMap<u64, i64>) -> Vec<String> {
        let mut broken = Vec::new();
        let mut known = 0;
        for sent in self.sent.values().filter(|sent| sent.intent.row) {
            let key = (sent.intent.client, sent.intent.seq);
            let count = rows.get(&key).copied().unwrap_or(0);
            known += u64::from(count > 0);
            let answer = sent.answer.as_ref();
            let wrong = match (count, answer) {
                (0, Some(Ok(_))) => "was acknowledged and is lost",
                (1.., Some(Err(_))) => "failed and is there",
                (1.., _) if sent.intent.fails => "breaks a constraint and is there",
                (2.., _) => "was applied more than once",
                _ => continue,
            };
            broken.push(format!("write {}/{} {wrong}", key.0, key.1));
        }
        if known != rows.len() as u64 {
            broken.push(format!("{} rows were sent by nobody", rows.len() as u64 - known));
        }
        for (number, counter) in &self.counters {
            let value = counters.get(number).copied().unwrap_or(-1);
            if value < counter.acknowledged || value > counter.started {
                broken.push(format!(
                    "counter {number} is {value} after {} acknowledged of {} increments",
                    counter.acknowledged, counter.started
                ));
            }
        }
        broken
    }
}

/// The integer that a statement returned, if it returned one.
fn returned(results: &[StatementResult]) -> Option<i64> {
    results.iter().find_map(|result| match result.rows.as_ref()?.values.first()?.first()? {
        Value::Integer(value) => Some(*value),
        _ => None,
    })
}
