//! Clients: they write, repeat what was not answered under the same id, and read.
//!
//! Each does one request after the other. It asks whom it believes to lead, waits for a while, and asks
//! again until there is an answer; now and then it asks twice at once, or asks for an old answer again.
//! The statements make every loss and every second application visible.

use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::ids::RequestId;
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Level, Read, Statement, StatementResult, Write, WriteResult};
use openraft::ReadPolicy;
use tokio::sync::oneshot;

use super::bugs::Bug;
use super::checks::Intent;
use super::propose::{Answer, Proposal};
use super::world::{World, pause, spawn, within};

/// Counters that all clients share.
pub const COUNTERS: u64 = 3;

/// What the tables are.
pub fn schema(pad_bytes: u64) -> Vec<String> {
    vec![
        "CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)".into(),
        format!(
            "CREATE TABLE writes (client INTEGER, seq INTEGER, at TEXT DEFAULT CURRENT_TIMESTAMP,
             chance INTEGER DEFAULT (random()), pad BLOB DEFAULT (randomblob({pad_bytes})))"
        ),
        "CREATE INDEX writes_by_chance ON writes (chance)".into(),
    ]
}

/// Rows that are there before clients start.
pub fn first_rows() -> Write {
    let values: Vec<String> = (0..COUNTERS).map(|id| format!("({id}, 0)")).collect();
    let sql = format!("INSERT INTO counters (id, n) VALUES {}", values.join(", "));
    Write { id: RequestId(u128::MAX), route: None, statements: vec![Statement::bare(sql)] }
}

/// A client that writes and reads.
pub struct Client {
    world: Arc<World>,
    number: u64,
    leader: u64,
    /// Writes that were answered.
    done: Vec<Write>,
}

fn statement(sql: &str, values: &[u64]) -> Statement {
    let values = values.iter().map(|value| Value::Integer(*value as i64)).collect();
    Statement { sql: sql.to_owned(), params: Params::Positional(values) }
}

impl Client {
    /// A client that knows nothing.
    pub fn new(world: Arc<World>, number: u64) -> Self {
        Self { world, number, leader: 1, done: Vec::new() }
    }

    /// Makes all of its requests.
    pub async fn run(mut self) {
        for seq in 0..self.world.plan.requests {
            if self.world.is_broken() {
                return;
            }
            let dice = self.world.rng().below(100);
            match dice {
                0..65 => self.write(seq).await,
                65..93 => self.read().await,
                _ => self.ask_again().await,
            }
            let think = self.world.rng().millis(0, 40);
            pause(think).await;
        }
        while !self.world.is_calm() && !self.world.is_broken() {
            pause(Duration::from_millis(50)).await;
        }
        for _ in 0..5 {
            self.ask_again().await;
        }
        self.world.note(format_args!("client {} is done", self.number));
    }

    /// A new write, until it is answered.
    async fn write(&mut self, seq: u64) {
        let (write, intent) = self.compose(seq);
        self.world.history().sends(write.id, intent);
        self.submit(&write).await;
        self.done.push(write);
    }

    /// Sends an old write again: its answer must be what it was.
    async fn ask_again(&mut self) {
        let old = {
            let mut rng = self.world.rng();
            let at = rng.below(self.done.len() as u64) as usize;
            self.done.get(at).cloned()
        };
        if let Some(old) = old {
            self.submit(&old).await;
        }
    }

    fn compose(&self, seq: u64) -> (Write, Intent) {
        let (kind, counter) = {
            let mut rng = self.world.rng();
            (rng.below(100), rng.below(COUNTERS))
        };
        let row = statement("INSERT INTO writes (client, seq) VALUES (?, ?)", &[self.number, seq]);
        let count = statement("UPDATE counters SET n = n + 1 WHERE id = ? RETURNING n", &[counter]);
        let fails = statement("INSERT INTO counters (id, n) VALUES (?, 0)", &[counter]);
        let chance = statement(
            "INSERT INTO writes (client, seq) VALUES (?, ?) RETURNING chance, at, rowid",
            &[self.number, seq],
        );
        let (statements, counts, has_row, broken) = match kind {
            0..30 => (vec![row], false, true, false),
            30..55 => (vec![count], true, false, false),
            55..80 => (vec![row, count], true, true, false),
            80..90 => (vec![chance], false, true, false),
            90..96 => (vec![row, count, fails], true, true, true),
            _ => (vec![fails], false, false, true),
        };
        let id = RequestId::from_key(&format!("{}/{}/{seq}", self.world.options.seed, self.number));
        let counter = counts.then_some(counter);
        let intent = Intent { client: self.number, seq, counter, row: has_row, fails: broken };
        (Write { id, route: None, statements }, intent)
    }

    async fn submit(&mut self, write: &Write) {
        loop {
            if self.world.is_broken() {
                return;
            }
            let (twice, timeout) = {
                let mut rng = self.world.rng();
                (rng.percent(10), rng.millis(20, 600))
            };
            if twice {
                let (world, write, to) = (Arc::clone(&self.world), write.clone(), self.anyone());
                spawn(async move {
                    if let Some(Answer::Applied(result)) = attempt(&world, to, &write, timeout * 2).await {
                        world.check(world.history().answered(write.id, &result));
                    }
                });
            }
            match attempt(&self.world, self.leader, write, timeout).await {
                Some(Answer::Applied(result)) => {
                    self.world.note(format_args!("client {} got {}", self.number, brief(&result)));
                    return self.world.check(self.world.history().answered(write.id, &result));
                }
                Some(Answer::Elsewhere(Some(leader))) => self.leader = leader,
                _ => self.leader = self.anyone(),
            }
            let rest = self.world.rng().millis(1, 40);
            pause(rest).await;
        }
    }

    fn anyone(&self) -> u64 {
        self.world.rng().within(1, self.world.plan.replicas)
    }

    /// A linearizable read of a counter, once.
    async fn read(&mut self) {
        let (counter, lease, timeout) = {
            let mut rng = self.world.rng();
            (rng.below(COUNTERS), rng.percent(30), rng.millis(50, 600))
        };
        let floor = self.world.history().floor(counter);
        let to = if self.world.rng().percent(80) { self.leader } else { self.anyone() };
        pause(self.world.delay(to, to)).await;
        match within(timeout, read_at(&self.world, to, counter, lease)).await.flatten() {
            Some(value) => {
                pause(self.world.delay(to, to)).await;
                self.world.note(format_args!("client {} read {value} of counter {counter}", self.number));
                self.world.check(self.world.history().read(counter, floor, value));
            }
            None => self.leader = self.anyone(),
        }
    }
}

fn brief(result: &WriteResult) -> String {
    match result {
        Ok(results) => format!("{:?}", results.iter().map(|result| result.last_insert_id).collect::<Vec<_>>()),
        Err(error) => format!("{:?}", error.code),
    }
}

/// Asks one node once.
async fn attempt(world: &World, to: u64, write: &Write, timeout: Duration) -> Option<Answer> {
    pause(world.delay(to, to)).await;
    let life = world.life(to)?;
    let (reply, answer) = oneshot::channel();
    life.proposals.try_send(Proposal { write: write.clone(), reply }).ok()?;
    let plain = write.statements.len() == 1 && write.statements[0].sql.ends_with("(?, ?)");
    if world.has(Bug::AckBeforeCommit) && plain {
        let result = StatementResult { last_insert_id: 1, rows_affected: 1, rows: None };
        return Some(Answer::Applied(Ok(vec![result])));
    }
    let answer = within(timeout, answer).await?.ok()?;
    pause(world.delay(to, to)).await;
    // Some answers are lost although all is well.
    if world.rng().percent(3) { None } else { Some(answer) }
}

/// A lease read at a node that believes to lead: it needs no other node, so it is where an old leader
/// would give itself away.
pub async fn probe(world: &World, node: u64) {
    let counter = world.rng().below(COUNTERS);
    let floor = world.history().floor(counter);
    if let Some(value) = read_at(world, node, counter, true).await {
        world.check(world.history().read(counter, floor, value));
    }
}

/// Reads a counter at a replica that confirms its leadership.
async fn read_at(world: &World, to: u64, counter: u64, lease: bool) -> Option<i64> {
    let life = world.life(to)?;
    let policy = if lease { ReadPolicy::LeaseRead } else { ReadPolicy::ReadIndex };
    if !world.has(Bug::ReadWithoutConfirmation) {
        life.raft.ensure_linearizable(policy).await.ok()?;
    }
    let read = Read {
        route: None,
        statement: statement("SELECT n FROM counters WHERE id = ?", &[counter]),
        level: Level::Linearizable,
        freshness_ms: None,
    };
    // The timeout is of real time; the read takes none of the virtual one.
    let rows = life.process.store().readers().read(&read, Duration::from_secs(60));
    if !life.process.is_alive() {
        return None;
    }
    match rows {
        Ok(rows) => match rows.values.first()?.first()? {
            Value::Integer(value) => Some(*value),
            _ => None,
        },
        Err(error) => {
            if !world.has(Bug::ReadWithoutConfirmation) {
                world.violation(format_args!("a read at {to} failed: {error}"));
            }
            None
        }
    }
}
