//! The protocol in a world where calls are lost, their answers are lost, old calls arrive late, shards
//! restart, drivers die, and two of them work at the same time. The shards are real state machines;
//! drivers and clients take turns by a seed, which a failure prints.

mod checks;
mod clients;
mod leaving;
mod options;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use flotilla_shared::ids::{NodeId, ReplicaId, RequestId, SchemaVersion, Slot};
use flotilla_shared::registry::{JobKind, MetaReply, MoveOptions, Placement, ReplicaInfo, SlotSet, Table};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{
    Body, Claim, Level, Outcome, Read, Route, ShardCommand, ShardReply, Statement, Write, WriteResult,
};

use super::*;
use crate::state::moves::CHUNK_ROWS;
use crate::state::tests::moves::{PLACEMENT, SLOTS, bare_placement, cut, slot_of_key};
use crate::state::tests::{Log, Random, Replica};
use checks::Owners;
use clients::{Scan, Written};
use options::{is_even, some_options};

const SCHEMA: &[&str] = &[
    "CREATE TABLE t (k INTEGER NOT NULL, fixed INTEGER, v INTEGER, one INTEGER UNIQUE)",
    "CREATE INDEX t_k ON t (k)",
    "CREATE TABLE w (k INTEGER, id INTEGER, PRIMARY KEY (k, id)) WITHOUT ROWID",
];

/// Keys of rows that are there all the time.
const FIXED: i64 = 60;

/// More of them in a single slot of some worlds: more than one entry deletes or inserts.
const HEAVY: usize = CHUNK_ROWS + CHUNK_ROWS / 4;

/// The lowest byte of `v` in a packed row of `t`: behind two integers and a tag, each integer with a tag of its own.
const COUNT_BYTE: usize = 2 * 9 + 1;

/// Faults of one run; after them the job must come to its end.
const FAULTS: u32 = 40;

/// Calls of one run; more means that it does not come to its end.
const MAX_CALLS: u32 = 5000;

/// A call that arrives again, some time.
#[derive(Clone)]
enum Late {
    Step(GroupId, MoveStep),
    Meta(MetaCommand),
}

struct Inner {
    random: Random,
    registry: Arc<Registry>,
    shards: BTreeMap<GroupId, (Replica, Log)>,
    faults: u32,
    calls: u32,
    clock_us: i64,
    dropped: Vec<ReplicaId>,
    /// Two moves were under way at once.
    side_by_side: bool,
    late: Vec<Late>,
    /// Applied writes.
    written: Vec<Written>,
    next_request: u128,
    scanning: Vec<Scan>,
    scans: u32,
    /// Keys of rows in a slot that is too large for one entry, in some worlds.
    heavy: Vec<i64>,
    /// A row was damaged on its way.
    damaged: bool,
    owners: Owners,
}

struct World(Mutex<Inner>);

impl World {
    fn new(seed: u64) -> Self {
        let mut registry = Registry::default();
        let db = rusqlite::Connection::open_in_memory().unwrap();
        SCHEMA.iter().for_each(|sql| db.execute_batch(sql).unwrap());
        for name in ["t", "w"] {
            let table = Table { placement: PLACEMENT, key: vec![0], ..Table::read(&db, name).unwrap() };
            registry.tables.insert(name.into(), table);
        }
        let all: Vec<GroupId> = (1..=4).map(GroupId).collect();
        let owned = Placement::even_shares(SLOTS, &all[..2]);
        let epochs = owned.keys().map(|shard| (*shard, Epoch(1))).collect();
        registry
            .placements
            .insert(PLACEMENT, Placement { shards: all.clone(), owned: owned.clone(), epochs, ..bare_placement() });
        let replica = |shard: GroupId| ReplicaInfo { node: NodeId(1), replica: ReplicaId(shard.0.into()), votes: true };
        registry.groups = all.iter().map(|shard| (*shard, vec![replica(*shard)])).collect();
        let mut inner = Inner {
            random: Random(seed),
            registry: Arc::new(registry),
            shards: all.iter().map(|shard| (*shard, (Replica::of(*shard), Log::new()))).collect(),
            faults: FAULTS,
            calls: 0,
            clock_us: 1,
            dropped: vec![],
            side_by_side: false,
            late: vec![],
            written: vec![],
            next_request: 1 << 64,
            scanning: vec![],
            scans: 0,
            heavy: vec![],
            damaged: false,
            owners: Owners::default(),
        };
        if inner.chance(10) {
            let slot = Slot(inner.random.below(usize::from(SLOTS)) as u16);
            inner.heavy = (1000..).filter(|key| slot_of_key(*key) == slot).take(HEAVY).collect();
        }
        for shard in all {
            let schema = inner.log(shard).schema(1, SCHEMA);
            inner.apply(shard, schema);
            if let Some(slots) = owned.get(&shard) {
                let own = ShardCommand::Own { placement: PLACEMENT, epoch: Epoch(1), slots: slots.clone() };
                let own = inner.log(shard).entry(Body::Shard(own));
                inner.apply(shard, own);
            }
        }
        for (shard, slots) in &owned {
            let here = (0..FIXED).chain(inner.heavy.iter().copied()).filter(|key| slots.contains(slot_of_key(*key)));
            let rows: Vec<String> = here.map(|key| format!("({key}, 1, 0, {key})")).collect();
            let entry = inner.log(*shard).writes(&[&format!("INSERT INTO t VALUES {}", rows.join(", "))]);
            inner.apply(*shard, entry);
        }
        Self(Mutex::new(inner))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    fn log(&mut self, shard: GroupId) -> &mut Log {
        &mut self.shards.get_mut(&shard).unwrap().1
    }

    fn apply(&mut self, shard: GroupId, entry: crate::consensus::Entry) -> Outcome {
        let outcome = self.shards[&shard].0.apply(&[entry]).remove(0);
        self.check_owned(shard);
        outcome
    }

    fn step(&mut self, shard: GroupId, step: MoveStep) -> Result<MoveReply, Error> {
        let entry = self.log(shard).entry(Body::Shard(ShardCommand::Move(Box::new(step.clone()))));
        match self.apply(shard, entry) {
            Outcome::Shard(Ok(ShardReply::Move(reply))) => {
                self.note_frozen(shard, &step, &reply);
                Ok(reply)
            }
            Outcome::Shard(Err(error)) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn meta(&mut self, command: MetaCommand) -> Result<MetaReply, Error> {
        // As a state machine does: a refusal leaves nothing.
        let mut registry = Registry::clone(&self.registry);
        let reply = registry.apply(self.clock_us, command)?;
        self.registry = Arc::new(registry);
        self.check_single_owners();
        self.side_by_side |= self.registry.moves().count() > 1;
        Ok(reply)
    }

    fn answers_for(&self, shard: GroupId, slot: Slot) -> bool {
        let slots = Some(SlotSet::range(slot, slot));
        self.read(shard, Claim { placement: PLACEMENT, epoch: Epoch(0), slots }, "SELECT 1").is_ok()
    }

    fn read(&self, shard: GroupId, claim: Claim, sql: &str) -> Result<Value, Error> {
        let route = Some(Route { schema: SchemaVersion(u64::MAX), claims: vec![claim] });
        let read = Read { route, statement: Statement::bare(sql), level: Level::None, freshness_ms: None };
        self.shards[&shard].0.read(&read).map(|rows| rows.values[0][0].clone())
    }

    /// A bit of a row turns over on its way.
    fn damage(&mut self, piece: &mut Piece) {
        let at = self.random.below(piece.rows.len());
        if let Some(byte) = piece.rows[at].packed.get_mut(COUNT_BYTE) {
            *byte ^= 1;
            self.damaged = true;
        }
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    fn fault(&mut self, percent: usize) -> bool {
        let happens = self.faults > 0 && self.chance(percent);
        self.faults -= u32::from(happens);
        happens
    }

    /// What happens between two calls.
    fn between(&mut self) {
        self.calls += 1;
        self.clock_us += 1000;
        assert!(self.calls < MAX_CALLS, "the job does not come to its end");
        if !self.late.is_empty() && self.chance(10) {
            let at = self.random.below(self.late.len());
            match self.late.swap_remove(at) {
                Late::Step(shard, step) => drop(self.step(shard, step)),
                Late::Meta(command) => drop(self.meta(command)),
            }
        }
        if self.fault(3) {
            let shard = GroupId(1 + self.random.below(4) as u32);
            self.shards.get_mut(&shard).unwrap().0.reopen();
        }
        // From release to activation there are few calls, and much to see.
        for _ in 0..if self.owners.incomplete { 5 } else { 1 } {
            match self.random.below(4) {
                0 => self.client_writes(),
                1 => self.client_repeats(),
                2 => self.client_scans(),
                _ => (),
            }
        }
    }
}

/// One driver of jobs, until it dies.
struct Mortal<'a> {
    world: &'a World,
    dead: AtomicBool,
}

impl Mortal<'_> {
    /// A call that may be lost on the way there or back, come again later, or be the driver's last.
    async fn call<T>(
        &self,
        late: Option<Late>,
        run: impl FnOnce(&mut Inner) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let turns = self.world.lock().random.below(3);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        let mut inner = self.world.lock();
        inner.between();
        let died = self.dead.load(Ordering::Relaxed) || inner.fault(2);
        if died || inner.fault(4) {
            self.dead.fetch_or(died, Ordering::Relaxed);
            return Err(Error::new(Code::Unavailable, "lost on the way there"));
        }
        if let Some(late) = late
            && inner.fault(8)
        {
            inner.late.push(late);
            if inner.chance(50) {
                return Err(Error::new(Code::OutcomeUnknown, "held up on the way there"));
            }
        }
        let reply = run(&mut inner);
        let died = inner.fault(2);
        if died || inner.fault(4) {
            self.dead.fetch_or(died, Ordering::Relaxed);
            return Err(Error::new(Code::OutcomeUnknown, "lost on the way back"));
        }
        reply
    }
}

impl Ground for Mortal<'_> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        self.call(None, |inner| Ok(Arc::clone(&inner.registry))).await
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        let late = Some(Late::Meta(command.clone()));
        self.call(late, |inner| inner.meta(command).map(drop)).await
    }

    async fn step(&self, shard: GroupId, step: MoveStep, _: Duration) -> Result<MoveReply, Error> {
        let late = Some(Late::Step(shard, step.clone()));
        self.call(late, |inner| inner.step(shard, step)).await
    }

    async fn ask(&self, shard: GroupId, query: MoveQuery) -> Result<MoveAnswer, Error> {
        self.call(None, |inner| match inner.shards[&shard].0.handle().answer(&query)? {
            // As if the piece were full: rows change between two of them.
            MoveAnswer::Piece(piece) => {
                let most = if inner.heavy.is_empty() { 24 } else { 400 };
                let mut piece = cut(piece, 1 + inner.random.below(most));
                if !piece.rows.is_empty() && inner.fault(1) {
                    inner.damage(&mut piece);
                }
                Ok(MoveAnswer::Piece(piece))
            }
            answer => Ok(answer),
        })
        .await
    }

    async fn drop_replica(&self, _: GroupId, replica: ReplicaInfo) -> Result<(), Error> {
        self.call(None, |inner| {
            inner.dropped.push(replica.replica);
            Ok(())
        })
        .await
    }

    fn now_us(&self) -> i64 {
        self.world.lock().clock_us
    }

    async fn rest(&self, _: Duration) {}

    async fn wait(&self, time: Duration) {
        self.world.lock().wait(time);
    }
}

/// Drivers follow each other until all jobs have ended. Each takes the job that is due, as nodes do.
async fn drive(world: &World, jobs: &[JobId]) {
    let ended = || jobs.iter().all(|job| world.lock().registry.jobs[job].ended());
    while !ended() {
        let driver = Mortal { world, dead: AtomicBool::new(false) };
        let (mut moved, mut ahead, mut memory) = (false, false, Memory::default());
        while !driver.dead.load(Ordering::Relaxed) {
            let registry = Arc::clone(&world.lock().registry);
            let Some(job) = super::super::next_job(&registry, moved, ahead) else { break };
            moved = true;
            let attempted = attempt(&driver, &mut memory, job.id).await;
            ahead = matches!(attempted, Ok(Attempt::Ahead(_)));
            if let Ok(Attempt::Wait(time)) = attempted {
                world.lock().wait(time);
            }
        }
        let mut inner = world.lock();
        inner.between();
        for job in jobs {
            let halted = inner.registry.jobs[job].state == JobState::Paused;
            if halted && inner.chance(30) {
                inner.meta(MetaCommand::Move { job: *job, change: MoveChange::Wish(Wish::Run) }).ok();
            }
        }
    }
}

/// Two jobs at once from their request to their end, with two drivers; sometimes one is paused or cancelled.
fn carry_out(world: &World, kinds: [JobKind; 2]) -> Vec<(JobState, Option<Error>)> {
    let create = |kind: JobKind| {
        let request = {
            let mut inner = world.lock();
            inner.next_request += 1;
            inner.next_request
        };
        match world.lock().meta(MetaCommand::CreateJob { request: RequestId(request), kind }) {
            Ok(MetaReply::Job(job)) => job,
            other => panic!("{other:?}"),
        }
    };
    let jobs = kinds.map(create);
    let wish = {
        let mut inner = world.lock();
        let after = inner.random.below(80) as u32 + inner.calls;
        let job = jobs[inner.random.below(2)];
        match inner.random.below(4) {
            0 => Some((after, job, Wish::Cancel)),
            1 => Some((after, job, Wish::Pause)),
            _ => None,
        }
    };
    let somebody = async {
        while let Some((after, job, wish)) = wish {
            if world.lock().registry.jobs[&job].ended() {
                return;
            }
            if world.lock().calls >= after {
                world.lock().meta(MetaCommand::Move { job, change: MoveChange::Wish(wish) }).ok();
                return;
            }
            let mut waited = false;
            std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                if std::mem::replace(&mut waited, true) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { futures::join!(drive(world, &jobs), drive(world, &jobs), somebody) });
    let inner = world.lock();
    jobs.iter().map(|job| &inner.registry.jobs[job]).map(|job| (job.state, job.error.clone())).collect()
}

/// A job beside another one that evens out, under faults: both come to a good end unless somebody cancelled them, or
/// a row was damaged on its way. Tells whether the first was done.
fn done(world: &World, kind: impl FnOnce(MoveOptions) -> JobKind) -> bool {
    let options = {
        let mut inner = world.lock();
        (inner.calls, inner.faults, inner.damaged) = (0, FAULTS, false);
        inner.scanning.clear();
        some_options(&mut inner.random)
    };
    let even = JobKind::Rebalance { table: "w".to_owned(), options: options.clone() };
    let ended = carry_out(world, [kind(options.clone()), even]);
    let was_done = |(state, _): &(JobState, Option<Error>)| *state == JobState::Done;
    let wished = |(state, _): &(JobState, Option<Error>)| *state == JobState::Cancelled;
    let damaged = world.lock().damaged;
    let noticed = |(_, error): &(JobState, Option<Error>)| {
        damaged && error.as_ref().is_some_and(|error| error.code == Code::MoveMismatch)
    };
    assert!(ended.iter().all(|job| was_done(job) || wished(job) || noticed(job)), "{ended:?}");
    // Whoever is halted and goes on comes last.
    assert!(is_even(&world.lock().registry, &options) || !ended.iter().all(was_done), "{ended:?}");
    was_done(&ended[0])
}

fn run(seed: u64) -> (u32, bool) {
    let world = World::new(seed);
    let table = || "t".to_owned();
    done(&world, |options| JobKind::Rebalance { table: table(), options });
    world.lock().check_end();
    let second = GroupId(2);
    if done(&world, |options| JobKind::RemoveFromShard { table: table(), shard: second, options }) {
        let mut inner = world.lock();
        assert!(!inner.registry.placements[&PLACEMENT].shards.contains(&second));
        if inner.chance(50) {
            // It gets the table again before what is late has come.
            let schema = inner.log(second).schema(2, SCHEMA);
            inner.apply(second, schema);
            let registry = Arc::make_mut(&mut inner.registry);
            let placement = registry.placements.get_mut(&PLACEMENT).unwrap();
            placement.shards.push(second);
            placement.shards.sort();
        }
    }
    world.lock().check_end();
    let third = GroupId(3);
    let gone = done(&world, |options| {
        let options = MoveOptions { weights: [].into(), ..options };
        JobKind::RemoveShard { shard: third, options }
    });
    let mut inner = world.lock();
    if gone {
        assert!(!inner.registry.groups.contains_key(&third) && inner.registry.next_shard() == GroupId(5));
        assert!(inner.dropped.contains(&ReplicaId(3)), "its replicas are dropped");
    }
    inner.check_end();
    (inner.scans, inner.side_by_side)
}

/// From two shards to four, then one is to forget the tables, then one is to go, under all faults: each slot has
/// one owner at each moment,
/// each row is there once, each read of all shards is exact, no write is applied twice.
#[test]
fn any_faults() {
    let given = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, count) = match given("FLOTILLA_SEED") {
        Some(seed) => (seed, 1),
        None => (0, given("FLOTILLA_SEEDS").unwrap_or(SEEDS)),
    };
    let (next, found) = (AtomicU64::new(first), Mutex::new((0, 0)));
    let take = || {
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && seed < first + count
        {
            let (scans, both) = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|why| {
                eprintln!("FLOTILLA_SEED={seed}");
                std::panic::resume_unwind(why);
            });
            let mut found = found.lock().unwrap();
            *found = (found.0 + scans, found.1 + u64::from(both));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(take);
        }
    });
    let (scans, side_by_side) = found.into_inner().unwrap();
    println!("{count} seeds, {scans} reads of all shards, {side_by_side} with moves side by side");
    assert!(count == 1 || side_by_side > count / 10, "moves do go side by side");
    assert!(count == 1 || u64::from(scans) > count, "scans do come to an end");
}

/// Seeds of one run of the suite; FLOTILLA_SEEDS asks for more, FLOTILLA_SEED for one.
const SEEDS: u64 = 500;

/// As many seeds at a time: tests run on small machines.
const THREADS: usize = 2;
