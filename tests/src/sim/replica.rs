//! A node's process: it starts, hosts one replica, and dies.
//!
//! [`start`] does what `host.rs` of a node does, over simulated parts. [`crash`] ends a process between
//! two steps: its disk refuses everything from then on, its folder is copied for the next life, its
//! messages and answers reach nobody, and its tasks run out by themselves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flotilla_node::consensus::raft_config;
use flotilla_node::log::{Disk, GroupLog, Kind, Wal, WalOptions, Writer, drive, numbered};
use flotilla_node::options::NodeOptions;
use flotilla_node::state::machine::StateHandle;
use flotilla_node::state::{Inline, Store};
use flotilla_shared::ids::GroupId;
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, Instant as _};
use openraft_rt_sim::{SimInstant, SimRuntime};
use tokio::sync::mpsc;

use super::bugs::{Bug, LyingDisk};
use super::log::SimLog;
use super::machine::SimMachine;
use super::network::Network;
use super::power::{self, SyncedWal};
use super::propose::{Proposal, propose};
use super::world::{World, pause, spawn};
use super::{ELECTION_MAX_MS, ELECTION_MIN_MS, HEARTBEAT_MS, Raft, SimTypes};

/// The group under test.
pub const GROUP: GroupId = GroupId(1);

/// A second group in the same log, which writes so rarely that its records must be moved along.
const QUIET_GROUP: GroupId = GroupId(7);

/// Writes that may wait for the proposer.
const MAX_WAITING: usize = 64;

/// What a process holds before and beside consensus.
pub struct Process {
    /// Its node.
    pub node: u64,
    /// Which life of the node this is.
    pub life: u64,
    /// The database.
    pub state: StateHandle,
    wal: Wal,
    alive: AtomicBool,
    synced: Mutex<SyncedWal>,
    votes_from: SimInstant,
    /// Its disk was made to fail, so it must stop.
    pub doomed: AtomicBool,
}

/// A process that runs.
pub struct Life {
    /// Its parts.
    pub process: Arc<Process>,
    /// openraft's handle.
    pub raft: Raft,
    /// The queue of writes.
    pub proposals: mpsc::Sender<Proposal>,
}

impl Process {
    /// Has it not died?
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Its database on disk.
    pub fn store(&self) -> &Arc<Store> {
        self.state.store()
    }

    /// What is synced of SQLite's WAL.
    pub fn synced(&self) -> MutexGuard<'_, SyncedWal> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A restarted replica keeps its vote back for one election timeout, as the host does.
    pub fn may_vote(&self) -> bool {
        SimInstant::now() >= self.votes_from
    }

    /// Index of the last applied entry; 0 if there is none.
    pub fn applied_index(&self) -> u64 {
        self.state.lock().applied.log_id.map_or(0, |id| id.index)
    }

    /// Compares the content with what other replicas had at the same index.
    pub fn compare_content(&self, world: &World) {
        if !self.is_alive() || self.state.lock().applied.log_id.is_none() {
            return;
        }
        match self.state.content_hash() {
            Ok((index, hash)) => {
                world.note(format_args!("{} has content {hash:016x} at {index}", self.node));
                world.check(world.history().content(self.node, index, hash));
            }
            Err(error) => world.violation(format_args!("the content of {} cannot be read: {error}", self.node)),
        }
    }
}

/// Starts a process on a node that has none.
pub async fn start(world: &Arc<World>, node: u64) {
    let Some(process) = open(world, node) else { return };
    let mut log = GroupLog::<SimTypes>::new(process.wal.clone(), GROUP);
    let applied = process.state.lock().applied.log_id;
    if let Err(error) = log.drop_contradicted(applied).await {
        return world.violation(format_args!("the log of {node} cannot be put right: {error}"));
    }
    let log = SimLog::new(Arc::clone(world), node, log, Arc::clone(process.store()));
    let network = Network::new(Arc::clone(world), Arc::clone(&process));
    let machine = SimMachine::new(Arc::clone(world), Arc::clone(&process));
    let raft = match Raft::new(node, Arc::new(config(world)), network, log, machine).await {
        Ok(raft) => raft,
        Err(error) => return world.violation(format_args!("replica {node} does not start: {error}")),
    };
    let (proposals, queue) = mpsc::channel(MAX_WAITING);
    spawn(propose(Arc::clone(world), Arc::clone(&process), raft.clone(), queue));
    spawn(keep_quiet_group(Arc::clone(world), Arc::clone(&process)));
    world.note(format_args!("{node} is up in life {}, applied {}", process.life, process.applied_index()));
    let life = Arc::new(Life { process, raft, proposals });
    if let Some(place) = world.nodes().get_mut(&node) {
        place.life = Some(life);
    }
}

/// Opens log and database, and checks that they hold what they must.
fn open(world: &Arc<World>, node: u64) -> Option<Arc<Process>> {
    let (disk, folder, life, quiet_mark) = {
        let nodes = world.nodes();
        let place = nodes.get(&node)?;
        (place.disk.clone(), place.folder.clone(), place.lives, place.quiet_mark)
    };
    let disk: Arc<dyn Disk> = match world.has(Bug::LyingSync) {
        true => Arc::new(LyingDisk(disk)),
        false => Arc::new(disk),
    };
    let (wal, writer) = match Wal::open(disk, wal_options(world)) {
        Ok(opened) => opened,
        Err(error) => {
            world.violation(format_args!("the log of {node} does not open: {error}"));
            return None;
        }
    };
    let found = wal.mark(QUIET_GROUP, Kind::Vote).map_or(0, |mark| quiet_number(&mark));
    if found < quiet_mark {
        world.violation(format_args!("the log of {node} lost mark {quiet_mark} of the quiet group: {found} is there"));
    }
    let opened = Store::open(&folder, Arc::new(Inline), 1).and_then(|(store, db)| StateHandle::open(store, db, GROUP));
    let state = match opened {
        Ok(state) => state,
        Err(error) => {
            world.violation(format_args!("the database of {node} does not open: {error}"));
            return None;
        }
    };
    let hold = if life > 0 { Duration::from_millis(ELECTION_MAX_MS) } else { Duration::ZERO };
    let process = Arc::new(Process {
        node,
        life,
        wal: wal.clone(),
        alive: AtomicBool::new(true),
        synced: Mutex::default(),
        votes_from: SimInstant::now() + hold,
        doomed: AtomicBool::new(false),
        state,
    });
    if let Err(error) = process.synced().note(process.store().path()) {
        world.violation(format_args!("the WAL of {node} cannot be read: {error}"));
    }
    spawn(run_writer(Arc::clone(world), node, writer));
    check_restart(world, &process, life);
    Some(process)
}

fn check_restart(world: &World, process: &Process, life: u64) {
    let (first, end) = process.wal.bounds(GROUP);
    let purged = process.wal.mark(GROUP, Kind::Purge).is_some();
    if process.state.lock().applied.log_id.is_some() {
        world.check(world.history().holds(process.node, life, process.applied_index()));
        process.compare_content(world);
    }
    let next = process.state.lock().applied.log_id.map_or(0, |id| id.index + 1);
    if (first < end || purged) && first > next {
        world.violation(format_args!(
            "the log of {} starts at entry {first}, and the database needs entry {next}",
            process.node
        ));
    }
}

fn wal_options(world: &World) -> WalOptions {
    WalOptions {
        segment_bytes: world.plan.segment_bytes,
        queue_bytes: world.plan.queue_bytes,
        cache_bytes: world.plan.cache_bytes,
        keep_segments: 2,
        fsync_delay: Duration::ZERO,
    }
}

/// The configuration of a node, with shorter times and smaller bounds, so that everything happens often.
fn config(world: &World) -> Config {
    let plan = &world.plan;
    let options = NodeOptions {
        heartbeat_interval: Duration::from_millis(HEARTBEAT_MS),
        election_timeout_min: Duration::from_millis(ELECTION_MIN_MS),
        election_timeout_max: Duration::from_millis(ELECTION_MAX_MS),
        snapshot_threshold: plan.snapshot_threshold,
        ..NodeOptions::default()
    };
    let mut config = raft_config(&options, GROUP);
    // There is no host here, and so no pulse.
    config.enable_heartbeat = true;
    config.max_in_snapshot_log_to_keep = plan.kept_entries;
    config.replication_lag_threshold = plan.snapshot_threshold * 2 + plan.kept_entries;
    config.purge_batch_size = 4;
    config.max_payload_entries = 16;
    if world.has(Bug::VotesAtOnce) {
        // A long lease and quick elections: with the usual times the two overlap by some milliseconds only.
        (config.election_timeout_min, config.election_timeout_max) = (80, 900);
    }
    if world.has(Bug::LeaderRestored) {
        config.enable_leader_restore = Some(true);
    }
    config
}

async fn run_writer(world: Arc<World>, node: u64, writer: Writer) {
    drive::<SimRuntime>(writer, move || {
        let (low, high) = world.nodes().get(&node).map_or((0, 0), |node| node.fsync_us);
        world.rng().micros(low, high)
    })
    .await;
}

fn quiet_number(mark: &[u8]) -> u64 {
    mark.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Writes to the quiet group now and then, and notes what was called durable.
async fn keep_quiet_group(world: Arc<World>, process: Arc<Process>) {
    let mut number = process.wal.mark(QUIET_GROUP, Kind::Vote).map_or(0, |mark| quiet_number(&mark));
    while process.is_alive() {
        let rest = world.rng().millis(50, 1_500);
        pause(rest).await;
        number += 1;
        let saved = process.wal.save_vote(QUIET_GROUP, numbered(number, b"quiet")).await;
        if saved.is_ok()
            && process.is_alive()
            && let Some(place) = world.nodes().get_mut(&process.node)
        {
            place.quiet_mark = number;
        }
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// SIGKILL: what it wrote is there.
    Killed,
    /// Only what was synced is there, and any part of the rest.
    PowerLoss,
}

/// Ends the process on a node, if there is one.
pub fn crash(world: &Arc<World>, node: u64, death: Death) {
    let Some(life) = world.nodes().get_mut(&node).and_then(|place| place.life.take()) else { return };
    let process = Arc::clone(&life.process);
    process.alive.store(false, Ordering::Relaxed);
    let survives = match death {
        Death::Killed => process.applied_index(),
        Death::PowerLoss => process.store().durable().log_id.map_or(0, |id| id.index),
    };
    world.note(format_args!("{node} ends: {death:?}, applied {}", process.applied_index()));
    let mut rng = super::random::Rng::new(world.rng().any());
    let mut nodes = world.nodes();
    let Some(place) = nodes.get_mut(&node) else { return };
    place.lives += 1;
    let folder = world.root.join(format!("{node}-{}", place.lives));
    let copied = match death {
        Death::Killed => {
            place.disk = place.disk.kill();
            power::after_kill(&place.folder, &folder)
        }
        Death::PowerLoss => {
            place.disk = place.disk.crash(rng.any());
            power::after_power_loss(&place.folder, &folder, &process.synced(), &mut rng)
        }
    };
    place.folder = folder;
    let next_life = place.lives;
    drop(nodes);
    if let Err(error) = copied {
        world.violation(format_args!("the folder of {node} cannot be copied: {error}"));
    }
    if survives > 0 {
        world.check(world.history().holds(node, next_life, survives));
    }
    process.wal.close();
    spawn(async move {
        life.raft.shutdown().await.ok();
    });
}

/// Ends the process on a node and starts another after a while.
pub fn crash_and_restart(world: &Arc<World>, node: u64, death: Death, after: Duration) {
    if world.life(node).is_none() {
        return;
    }
    crash(world, node, death);
    let world = Arc::clone(world);
    spawn(async move {
        pause(after).await;
        start(&world, node).await;
    });
}

/// A process that stopped by itself, without reason, is a finding.
pub fn check_running(world: &World, life: &Life) {
    let stopped = life.raft.metrics().borrow_watched().running_state.clone();
    if let Err(fatal) = stopped
        && life.process.is_alive()
        && !life.process.doomed.load(Ordering::Relaxed)
    {
        world.violation(format_args!("replica {} has stopped: {fatal}", life.process.node));
    }
}
