//! Writers that remember what was acknowledged, and the check that it is all there, once.
//!
//! The table has no constraint that would hide a row written twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

use super::cluster::Cluster;
use super::session::{Session, Trouble};

/// Pause after a write that could not be done just now.
const PAUSE: Duration = Duration::from_millis(20);

/// What one writer did.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Its number.
    pub writer: u64,
    /// Sequence numbers that were acknowledged.
    pub acknowledged: Vec<u64>,
    /// Sequence numbers that were sent but never acknowledged.
    pub unknown: Vec<u64>,
    /// Tries that gave no result.
    pub failures: u64,
    /// The longest time between two acknowledgements.
    pub longest_gap: Duration,
}

/// Writers at work.
pub struct Writers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Journal>>,
}

/// Makes the table that writers fill: `events`, sharded by `writer`.
pub async fn make_table(session: &mut Session) {
    let sql = "CREATE TABLE events (writer INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT)";
    session.create(sql, "events", "writer", None).await;
}

impl Writers {
    /// Starts writers `first..first + count`, each with rows of `row_bytes`. They repeat what failed
    /// with the same key, unless `retry` is false: then it counts as unknown.
    pub fn start(cluster: &Cluster, first: u64, count: u64, row_bytes: usize, retry: bool) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (first..first + count).map(|writer| {
            let session = cluster.session().starting_at(writer as usize);
            let work = Work { writer, row_bytes, retry, stop: Arc::clone(&stop), done: Arc::clone(&done) };
            tokio::spawn(work.run(session))
        });
        Self { tasks: tasks.collect(), stop, done }
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits for this many more acknowledgements.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn progress(&self, more: u64) {
        let wanted = self.acknowledged() + more;
        super::eventually("writes go on", super::wait::PATIENCE, async || match self.acknowledged() {
            now if now >= wanted => Ok(()),
            now => Err(format!("{now} of {wanted}")),
        })
        .await;
    }

    /// Ends the writers after the write that each is at.
    ///
    /// # Panics
    /// When a write was refused.
    pub async fn stop(self) -> Vec<Journal> {
        self.stop.store(true, Ordering::Relaxed);
        let mut journals = vec![];
        for task in self.tasks {
            journals.push(task.await.expect("a writer"));
        }
        journals
    }
}

struct Work {
    writer: u64,
    row_bytes: usize,
    retry: bool,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Work {
    async fn run(self, mut session: Session) -> Journal {
        let mut journal = Journal { writer: self.writer, ..Journal::default() };
        let mut last = Instant::now();
        for seq in 0.. {
            let key = format!("writer {} row {seq}", self.writer);
            let args = json!([self.writer, seq, body_of(self.writer, seq, self.row_bytes)]);
            let body = json!({ "query": "INSERT INTO events (writer, seq, body) VALUES (?, ?, ?)", "args": args });
            loop {
                let stopped = self.stop.load(Ordering::Relaxed);
                match session.attempt("/execute?timeout=5s", &body, Some(&key)).await {
                    Ok(_) => {
                        journal.acknowledged.push(seq);
                        journal.longest_gap = journal.longest_gap.max(last.elapsed());
                        last = Instant::now();
                        self.done.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Err(Trouble::Refused(why)) => panic!("writer {}: {why}", self.writer),
                    Err(Trouble::Again(_)) => {
                        journal.failures += 1;
                        if stopped || !self.retry {
                            journal.unknown.push(seq);
                            break;
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        journal
    }
}

/// A row's text: different for each row, so that one cannot pass for another.
pub fn body_of(writer: u64, seq: u64, bytes: usize) -> String {
    let word = format!("{writer}.{seq} ");
    word.repeat(bytes.div_ceil(word.len()))
}

/// Every acknowledged row is there once with its own text, every other at most once.
///
/// # Panics
/// When one is not.
pub async fn check(session: &mut Session, journals: &[Journal], row_bytes: usize) {
    for journal in journals {
        // Texts are compared where they lie; the first words of each tell enough of a large one.
        let sql = "SELECT seq, count(*), min(length(body)), max(length(body)), substr(min(body), 1, 24)
                   FROM events WHERE writer = ? GROUP BY seq ORDER BY seq";
        let rows = session.rows(sql, json!([journal.writer])).await;
        let mut there = std::collections::BTreeSet::new();
        for row in rows {
            let seq = row[0].as_u64().expect("a number");
            assert_eq!(row[1], 1, "row {seq} of writer {} is there {} times", journal.writer, row[1]);
            let body = body_of(journal.writer, seq, row_bytes);
            assert_eq!((&row[2], &row[3]), (&json!(body.len()), &json!(body.len())), "{row:?}");
            assert_eq!(row[4], Json::from(&body[..body.len().min(24)]), "{row:?}");
            there.insert(seq);
        }
        for seq in &journal.acknowledged {
            assert!(there.remove(seq), "row {seq} of writer {} was acknowledged and is lost", journal.writer);
        }
        for seq in there {
            assert!(journal.unknown.contains(&seq), "row {seq} of writer {} was never sent", journal.writer);
        }
    }
}
