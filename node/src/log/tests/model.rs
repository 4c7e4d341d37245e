//! Random operations against a model, with crashes everywhere.
//!
//! What is checked after every crash: the log shows exactly what it was told up to the last batch
//! that was acknowledged, or up to the one that was being written; nothing in between, nothing else.
//! Run one seed with `FLOTILLA_SEED=<n>`.

use super::*;

/// A log as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
struct ModelGroup {
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<Bytes>,
    first: u64,
    entries: Vec<Bytes>,
}

type Model = std::collections::BTreeMap<GroupId, ModelGroup>;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64* (Vigna 2016)
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// What the log says, all of it.
fn observed(wal: &Wal) -> Model {
    let group = |id| {
        let (first, end) = wal.bounds(id);
        let entries = wal.read(id, 0, u64::MAX, usize::MAX).expect("entries can be read");
        assert_eq!(entries.len() as u64, end - first);
        ModelGroup {
            vote: wal.mark(id, Kind::Vote),
            committed: wal.mark(id, Kind::Committed),
            purged: wal.mark(id, Kind::Purge),
            first: if entries.is_empty() { 0 } else { first },
            entries,
        }
    };
    let all = wal.groups().into_iter().map(|id| (id, group(id)));
    // A group whose entries were all cut off before anything else was known is as good as none.
    all.filter(|(_, g)| *g != ModelGroup::default()).collect()
}

struct Run {
    log: Log,
    dice: Dice,
    /// What the log was told.
    model: Model,
    /// What it was told when it took the last batch that it acknowledged.
    acknowledged: Model,
    /// When it took the batch that it is writing, if it is.
    in_flight: Option<Model>,
    counter: u64,
    told: Told,
    told_expected: usize,
    told_pending: usize,
    pending_votes: Vec<futures::future::BoxFuture<'static, Result<(), LogError>>>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            log: Log::open(&SimDisk::new()),
            dice: Dice(seed * 2 + 1),
            model: Model::new(),
            acknowledged: Model::new(),
            in_flight: None,
            counter: 0,
            told: Told::default(),
            told_expected: 0,
            told_pending: 0,
            pending_votes: Vec::new(),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.counter += 1;
        let len = match self.dice.roll(30) {
            0 => 6000,
            1..=5 => self.dice.roll(900),
            _ => self.dice.roll(60),
        };
        let mut bytes = self.counter.to_le_bytes().to_vec();
        bytes.resize(8 + len as usize, self.counter as u8);
        bytes
    }

    fn change(&mut self) {
        // The last group is cold.
        let id = match self.dice.roll(40) {
            0 => GroupId(4),
            n => GroupId((n % 3) as u32),
        };
        let (wal, value) = (self.log.wal.clone(), self.bytes());
        let kind = self.dice.roll(20);
        if kind == 0 && self.dice.roll(5) == 0 {
            self.model.remove(&id);
            self.wait_for(async move { wal.remove_group(id).await });
            return;
        }
        let more = self.dice.roll(4) + 1;
        let cut = self.dice.roll(6);
        let group = self.model.entry(id).or_default();
        let end = group.first + group.entries.len() as u64;
        let purged_index = group.purged.as_ref().map(|p| record::leading_number(p));
        match kind {
            0..=2 => {
                group.vote = Some(value.clone().into());
                self.wait_for(async move { wal.save_vote(id, value.into()).await });
            }
            3 => {
                group.committed = Some(value.clone().into());
                wal.save_committed(id, value.into()).unwrap();
            }
            4..=5 => {
                let keep = (group.entries.len() as u64).saturating_sub(cut);
                group.entries.truncate(keep as usize);
                now(wal.truncate_from(id, group.first + keep)).unwrap();
            }
            6..=8 => {
                let lowest = purged_index.map_or(0, |p| p + 1);
                // Mostly inside, sometimes behind the last entry.
                let upto = if group.entries.is_empty() { lowest + cut } else { end.saturating_sub(cut).max(lowest) };
                let purge = numbered(upto, &value[..4]);
                group.purged = Some(purge.clone());
                let gone = (upto + 1).saturating_sub(group.first).min(group.entries.len() as u64);
                group.entries.drain(..gone as usize);
                group.first = upto + 1;
                now(wal.purge(id, purge)).unwrap();
            }
            _ => {
                let next = if group.entries.is_empty() { purged_index.map_or(0, |p| p + 1) } else { end };
                if group.entries.is_empty() {
                    group.first = next;
                }
                let entries: Vec<_> = (next..next + more).map(|index| numbered(index, &value)).collect();
                group.entries.extend(entries.iter().cloned());
                self.told_pending += 1;
                now(wal.append(id, entries, self.told.done())).unwrap();
            }
        }
    }

    fn wait_for(&mut self, future: impl Future<Output = Result<(), LogError>> + Send + 'static) {
        let mut future = future.boxed();
        assert!(future.as_mut().now_or_never().is_none(), "not durable yet");
        self.pending_votes.push(future);
    }

    /// One batch, up to a random point; true if the machine must be restarted.
    fn step(&mut self) -> bool {
        let fate = self.dice.roll(16);
        match fate {
            0 => self.log.disk.fail_next_sync(),
            1 => self.log.disk.fail_next_write(),
            _ => {}
        }
        let Some(mut batch) = self.log.writer.take_batch() else { return fate < 2 };
        self.in_flight = Some(self.model.clone());
        // Operations that come while the batch is being written belong to the next one.
        let told = std::mem::take(&mut self.told_pending);
        let votes = std::mem::take(&mut self.pending_votes);
        while self.dice.roll(3) == 0 {
            self.change();
        }
        let writer = &mut self.log.writer;
        match fate {
            2 => drop(writer.write(&mut batch)),
            3 => {
                writer.write(&mut batch).unwrap();
                writer.sync().unwrap();
                self.acknowledged = self.in_flight.take().unwrap();
            }
            _ => {
                if let Err(error) = writer.write_batch(batch) {
                    assert!(fate < 2, "{error}");
                    assert!(votes.into_iter().all(|vote| now(vote).is_err()));
                } else {
                    assert!(fate > 1, "the error was injected into nothing");
                    self.acknowledged = self.in_flight.take().unwrap();
                    self.told_expected += told;
                    assert!(votes.into_iter().all(|vote| now(vote).is_ok()));
                }
            }
        }
        assert_eq!(self.told.yes(), self.told_expected);
        fate < 4
    }

    fn restart(&mut self) {
        let seed = self.dice.roll(u64::MAX >> 34);
        let disk = if self.dice.roll(4) == 0 { self.log.disk.kill() } else { self.log.disk.crash(seed) };
        self.log = Log::open(&disk);
        let found = observed(&self.log.wal);
        let candidates: Vec<Model> =
            std::iter::once(&self.acknowledged).chain(self.in_flight.as_ref()).map(normal).collect();
        assert!(candidates.contains(&found), "found {found:#?}\nexpected one of {candidates:#?}");
        self.acknowledged = found.clone();
        self.model = found;
        self.in_flight = None;
        self.pending_votes.clear();
        self.told = Told::default();
        (self.told_expected, self.told_pending) = (0, 0);
    }
}

/// The part of a model that a log can know.
fn normal(model: &Model) -> Model {
    let mut model = model.clone();
    for group in model.values_mut().filter(|g| g.entries.is_empty()) {
        group.first = 0;
    }
    model.retain(|_, group| *group != ModelGroup::default());
    model
}

fn run(seed: u64, steps: usize) {
    println!("FLOTILLA_SEED={seed}");
    let mut run = Run::new(seed);
    for _ in 0..steps {
        match run.dice.roll(10) {
            0..=5 => run.change(),
            6..=8 => {
                if run.step() {
                    run.restart();
                }
            }
            _ if run.dice.roll(8) == 0 => run.restart(),
            _ => {
                assert_eq!(observed(&run.log.wal), normal(&run.model));
                assert!(run.log.wal.shared.core().index.counts_agree());
            }
        }
    }
    run.restart();
}

/// Acknowledged operations survive any crash, and what survives is a prefix that ends at a batch.
#[test]
fn model() {
    if let Some(seed) = std::env::var("FLOTILLA_SEED").ok().and_then(|seed| seed.parse().ok()) {
        run(seed, 2000);
        return;
    }
    for seed in 0..60 {
        run(seed, 500);
    }
}
