//! One run, from the seed to the report.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use flotilla_node::consensus::Peer;
use flotilla_shared::ids::{JobId, NodeId, SchemaVersion};
use flotilla_shared::wire::{Body, Command, ShardCommand};
use openraft::async_runtime::WatchReceiver;
use openraft::{AsyncRuntime, ServerState};
use openraft_rt_sim::SimRuntime;

use super::checks::Counts;
use super::clients::{self, Client};
use super::faults;
use super::replica::{Process, check_running, start};
use super::world::{Options, World, pause, within};

/// How long clients may take once all is mended.
const FINISH: Duration = Duration::from_secs(60);

/// How long replicas may take to be equal once clients are done.
const CATCH_UP: Duration = Duration::from_secs(30);

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Rules that were broken.
    pub violations: Vec<String>,
    /// Hash of all events.
    pub fingerprint: u64,
    /// How many events there were.
    pub events: u64,
    /// How much was checked.
    pub counts: Counts,
    /// Virtual time that passed.
    pub virtual_ms: u64,
    /// The last events before the end.
    pub tail: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} failed:", self.seed)?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        writeln!(f, "  last events:")?;
        for line in self.tail.iter().skip(self.tail.len().saturating_sub(60)) {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "replay: FLOTILLA_SIM_SEED={} cargo test -p flotilla-tests --test simulation seeds", self.seed)?;
        write!(f, "   all events: cargo run --release -p flotilla-tests --bin sim -- --seed {} --trace", self.seed)
    }
}

thread_local! {
    /// Panics on this thread while a simulation runs on it: tasks swallow theirs.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let taken = PANICS.with_borrow_mut(|panics| panics.as_mut().map(|panics| panics.push(info.to_string())));
            if taken.is_none() {
                before(info);
            }
        }));
    });
}

/// Runs one simulation.
///
/// # Panics
/// When there is no folder for temporary files.
pub fn run(options: &Options) -> Report {
    watch_panics();
    // Nothing here needs to survive the machine, and memory syncs faster.
    let memory = Path::new("/dev/shm");
    let root = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let root = root.expect("a folder for temporary files");
    PANICS.set(Some(Vec::new()));
    let mut runtime = SimRuntime::with_seed(options.seed);
    let mut made = None;
    let ran = panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let world = World::new(options.clone(), root.path().to_owned());
            made = Some(Arc::clone(&world));
            play(&world).await;
            world.now_us() / 1000
        })
    }));
    let report = made.map(|world| {
        let report = report(&world, ran.as_ref().copied().unwrap_or(0));
        for node in world.nodes().values_mut() {
            node.life = None;
        }
        report
    });
    drop(runtime);
    let panics = PANICS.take().unwrap_or_default();
    let mut report = report.expect("the world was made");
    report.violations.extend(panics.into_iter().map(|message| format!("panic: {message}")));
    report
}

fn report(world: &World, virtual_ms: u64) -> Report {
    let journal = world.journal();
    let (fingerprint, events) = journal.fingerprint();
    Report {
        seed: world.options.seed,
        violations: journal.violations().to_vec(),
        fingerprint,
        events,
        counts: world.history().counts(),
        virtual_ms,
        tail: journal.tail().map(str::to_owned).collect(),
    }
}

async fn play(world: &Arc<World>) {
    for node in 1..=world.plan.replicas {
        start(world, node).await;
    }
    if within(FINISH, form_group(world)).await.is_none() {
        return world.violation(format_args!("no group was formed"));
    }
    let mut tasks = Vec::new();
    for number in 0..world.plan.clients {
        tasks.push(SimRuntime::spawn(Client::new(Arc::clone(world), number).run()));
    }
    let watching = SimRuntime::spawn(watch(Arc::clone(world)));
    faults::run(Arc::clone(world)).await;
    for task in tasks {
        if within(FINISH, task).await.is_none() && !world.is_broken() {
            world.violation(format_args!("clients get no answer though all is mended"));
        }
    }
    drop(watching);
    if !world.is_broken() {
        settle(world).await;
    }
}

/// Makes a group of the replicas, with tables and first rows.
async fn form_group(world: &Arc<World>) {
    let peer = |node| Peer { node: NodeId(node), addr: format!("node{node}") };
    let members: BTreeMap<u64, Peer> = (1..=world.plan.replicas).map(|node| (node, peer(node))).collect();
    if let Some(life) = world.life(1)
        && let Err(error) = life.raft.initialize(members).await
    {
        world.violation(format_args!("the group is not initialized: {error}"));
    }
    let schema = ShardCommand::Schema {
        job: JobId(1),
        version: SchemaVersion(1),
        sql: clients::schema(world.plan.pad_bytes),
        dry_run: false,
    };
    let bodies = [Body::Shard(schema), Body::Writes(vec![clients::first_rows()])];
    for body in bodies {
        loop {
            pause(Duration::from_millis(20)).await;
            let Some(life) = faults::leader(world).and_then(|node| world.life(node)) else { continue };
            let command = Command { at_us: world.clock_us(life.process.node), seed: 1, body: body.clone() };
            if life.raft.client_write(command).await.is_ok() {
                break;
            }
        }
    }
}

/// Looks at all replicas now and then.
async fn watch(world: Arc<World>) {
    while !world.is_broken() {
        let rest = world.rng().millis(5, 60);
        pause(rest).await;
        for life in world.lives() {
            check_running(&world, &life);
            let metrics = life.raft.metrics().borrow_watched().clone();
            if metrics.state == ServerState::Leader && life.process.is_alive() {
                world.check(world.history().leads(life.process.node, &metrics.vote));
                clients::probe(&world, life.process.node).await;
            }
        }
        let node = world.rng().within(1, world.plan.replicas);
        if let Some(life) = world.life(node) {
            life.process.compare_content(&world);
        }
    }
}

/// Waits until all replicas are equal, and compares them with what was promised.
async fn settle(world: &Arc<World>) {
    if within(CATCH_UP, caught_up(world)).await.is_none() {
        let applied: Vec<_> = world.lives().iter().map(|life| life.process.applied_index()).collect();
        return world.violation(format_args!("replicas do not catch up though all is mended: {applied:?}"));
    }
    let unanswered = world.history().unanswered();
    if unanswered > 0 {
        world.violation(format_args!("{unanswered} writes were never answered"));
    }
    for life in world.lives() {
        life.process.compare_content(world);
        match tables(&life.process) {
            Ok((rows, counters)) => {
                for broken in world.history().settles(&rows, &counters) {
                    world.violation(format_args!("at replica {}: {broken}", life.process.node));
                }
            }
            Err(error) => world.violation(format_args!("replica {} cannot be read: {error}", life.process.node)),
        }
    }
}

async fn caught_up(world: &World) {
    loop {
        let lives = world.lives();
        let applied: Vec<u64> = lives.iter().map(|life| life.process.applied_index()).collect();
        let last: Vec<Option<u64>> =
            lives.iter().map(|life| life.raft.metrics().borrow_watched().last_log_index).collect();
        let first = applied.first().copied();
        let equal = applied.iter().all(|index| Some(*index) == first) && last.iter().all(|index| *index == first);
        if equal && lives.len() as u64 == world.plan.replicas && faults::leader(world).is_some() {
            return;
        }
        pause(Duration::from_millis(20)).await;
    }
}

type Tables = (BTreeMap<(u64, u64), u64>, BTreeMap<u64, i64>);

fn tables(process: &Process) -> rusqlite::Result<Tables> {
    let machine = process.state.lock();
    let db = machine.db();
    let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(rusqlite::Error::InvalidColumnName(sound));
    }
    let mut query = db.prepare("SELECT client, seq, count(*) FROM writes GROUP BY client, seq")?;
    let rows = query.query_map([], |row| {
        let (client, seq, count): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(((client as u64, seq as u64), count as u64))
    })?;
    let rows = rows.collect::<rusqlite::Result<_>>()?;
    let mut query = db.prepare("SELECT id, n FROM counters")?;
    let counters = query.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?;
    let counters = counters.collect::<rusqlite::Result<_>>()?;
    Ok((rows, counters))
}
