//! What all parts of a simulation share: chance, time, the record, the nodes and the links.
//!
//! Everything runs on one thread, so the locks never wait; none is held across an `await`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_node::log::SimDisk;
use openraft::{AsyncRuntime, Instant as _};
use openraft_rt_sim::{SimInstant, SimRuntime};

use super::bugs::Bug;
use super::checks::{Broken, History};
use super::journal::Journal;
use super::network::Links;
use super::random::Rng;
use super::replica::Life;

/// Virtual time is a day in when a run begins; this is when that is for the log entries.
const EPOCH_US: i64 = 1_700_000_000_000_000;

/// What one run is asked to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Prints every event.
    pub trace: bool,
    /// A promise that is broken on purpose.
    pub bug: Option<Bug>,
}

impl Options {
    /// A quiet run without bugs.
    pub fn new(seed: u64) -> Self {
        Self { seed, trace: false, bug: None }
    }

    /// The same with a bug.
    pub fn with_bug(seed: u64, bug: Bug) -> Self {
        Self { bug: Some(bug), ..Self::new(seed) }
    }
}

/// The settings that a seed chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Replicas of the group: 3 or 5.
    pub replicas: u64,
    /// Entries between two compactions.
    pub snapshot_threshold: u64,
    /// Entries that compaction leaves in the log.
    pub kept_entries: u64,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// Bytes of log entries kept in memory.
    pub cache_bytes: usize,
    /// Bytes that may wait for the log's writer.
    pub queue_bytes: usize,
    /// Appends are sent without waiting for the answer to the one before.
    pub pipelined: bool,
    /// Usual delay of a message, in microseconds.
    pub delay_us: (u64, u64),
    /// Usual time of a sync, in microseconds.
    pub fsync_us: (u64, u64),
    /// Bytes of random padding in every row.
    pub pad_bytes: u64,
    /// Clients.
    pub clients: u64,
    /// Requests of each.
    pub requests: u64,
    /// How long faults go on.
    pub faults_ms: u64,
    /// Shortest and longest pause between two faults.
    pub calm_ms: (u64, u64),
}

impl Plan {
    fn of(rng: &mut Rng) -> Self {
        // Some groups compact so often that whoever is away for a moment must get pages.
        let snapshot_threshold = if rng.percent(40) { rng.within(6, 20) } else { rng.within(20, 60) };
        let large = rng.percent(15);
        Self {
            replicas: if rng.percent(20) { 5 } else { 3 },
            snapshot_threshold,
            kept_entries: rng.within(0, 10),
            segment_bytes: rng.pick(&[4 << 10, 8 << 10, 32 << 10, 256 << 10]),
            cache_bytes: rng.pick(&[1 << 10, 8 << 10, 1 << 20]),
            queue_bytes: rng.pick(&[4 << 10, 64 << 10, 1 << 20]),
            pipelined: rng.percent(75),
            delay_us: rng.pick(&[(100, 500), (500, 3_000), (1_000, 15_000)]),
            fsync_us: rng.pick(&[(0, 0), (50, 400), (500, 5_000), (2_000, 20_000)]),
            pad_bytes: if large { 3_000 } else { rng.within(0, 200) },
            clients: rng.within(2, 5),
            requests: rng.within(30, 70),
            faults_ms: rng.within(2_000, 6_000),
            calm_ms: rng.pick(&[(20, 200), (50, 500), (200, 900)]),
        }
    }
}

/// A machine: what stays when its process dies.
pub struct SimNode {
    /// The disk of its log.
    pub disk: SimDisk,
    /// The folder of its SQLite file.
    pub folder: PathBuf,
    /// How many processes it has run.
    pub lives: u64,
    /// The process.
    pub life: Option<Arc<Life>>,
    /// What its clock is off by.
    pub skew_us: i64,
    /// Time of a sync.
    pub fsync_us: (u64, u64),
    /// What the log of the quiet group must hold: the last mark that was called durable.
    pub quiet_mark: u64,
}

/// One simulation.
pub struct World {
    /// What was asked for.
    pub options: Options,
    /// What the seed chose.
    pub plan: Plan,
    /// Where SQLite files are.
    pub root: PathBuf,
    started: SimInstant,
    rng: Mutex<Rng>,
    journal: Mutex<Journal>,
    history: Mutex<History>,
    nodes: Mutex<BTreeMap<u64, SimNode>>,
    links: Mutex<Links>,
    /// Faults have ended.
    calm: AtomicBool,
    /// The next page transfer ends in a crash.
    pub ambush: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world at rest. Call it inside the runtime.
    pub fn new(options: Options, root: PathBuf) -> Arc<Self> {
        let mut rng = Rng::new(options.seed);
        let mut plan = Plan::of(&mut rng);
        match options.bug {
            Some(Bug::AckBeforeAppend) => plan.pipelined = false,
            Some(Bug::DurableTooEarly) => plan.fsync_us = (5_000, 30_000),
            _ => (),
        }
        let journal = Journal::new(options.trace);
        let links = Links::new(plan.replicas, plan.delay_us);
        let nodes = (1..=plan.replicas).map(|id| {
            let folder = root.join(format!("{id}-0"));
            let (disk, fsync_us) = (SimDisk::new(), plan.fsync_us);
            (id, SimNode { disk, folder, lives: 0, life: None, skew_us: 0, fsync_us, quiet_mark: 0 })
        });
        let world = Self {
            started: SimInstant::now(),
            nodes: Mutex::new(nodes.collect()),
            rng: Mutex::new(rng),
            journal: Mutex::new(journal),
            history: Mutex::default(),
            links: Mutex::new(links),
            calm: AtomicBool::new(false),
            ambush: AtomicBool::new(false),
            options,
            plan,
            root,
        };
        world.note(format_args!("{:?}", world.plan));
        Arc::new(world)
    }

    /// Is this bug put in?
    pub fn has(&self, bug: Bug) -> bool {
        self.options.bug == Some(bug)
    }

    /// Chance.
    pub fn rng(&self) -> MutexGuard<'_, Rng> {
        locked(&self.rng)
    }

    /// The record.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        locked(&self.journal)
    }

    /// What was seen.
    pub fn history(&self) -> MutexGuard<'_, History> {
        locked(&self.history)
    }

    /// The machines.
    pub fn nodes(&self) -> MutexGuard<'_, BTreeMap<u64, SimNode>> {
        locked(&self.nodes)
    }

    /// The network.
    pub fn links(&self) -> MutexGuard<'_, Links> {
        locked(&self.links)
    }

    /// Virtual microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        (SimInstant::now() - self.started).as_micros() as u64
    }

    /// The wall clock of a node, which may be wrong.
    pub fn clock_us(&self, node: u64) -> i64 {
        let skew_us = self.nodes().get(&node).map_or(0, |node| node.skew_us);
        EPOCH_US + self.now_us() as i64 + skew_us
    }

    /// Notes an event.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        let at_us = self.now_us();
        self.journal().note(at_us, event);
    }

    /// Notes that a rule was broken.
    pub fn violation(&self, what: fmt::Arguments<'_>) {
        let at_us = self.now_us();
        self.journal().violation(at_us, what);
    }

    /// Notes a broken rule, if it was.
    pub fn check(&self, result: Broken) {
        if let Err(what) = result {
            self.violation(format_args!("{what}"));
        }
    }

    /// Was a rule broken? The run may end then.
    pub fn is_broken(&self) -> bool {
        !self.journal().violations().is_empty()
    }

    /// Have faults ended?
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Faults have ended.
    pub fn set_calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// The process that runs on a node.
    pub fn life(&self, node: u64) -> Option<Arc<Life>> {
        self.nodes().get(&node)?.life.clone()
    }

    /// All processes that run.
    pub fn lives(&self) -> Vec<Arc<Life>> {
        self.nodes().values().filter_map(|node| node.life.clone()).collect()
    }
}

/// Waits in virtual time.
pub async fn pause(duration: Duration) {
    SimRuntime::sleep(duration).await;
}

/// Runs a task; nobody waits for it.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(SimRuntime::spawn(task));
}

/// What a future gives within a time.
pub async fn within<T>(duration: Duration, future: impl Future<Output = T> + Send) -> Option<T> {
    SimRuntime::timeout(duration, future).await.ok()
}
