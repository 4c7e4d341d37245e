//! Two drivers of one job: the first one waits before one of its calls, whichever it is, while the second one brings
//! the job to its end and other jobs follow; then the first one goes on. The shards are real state machines.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use flotilla_shared::client::Cluster;
use flotilla_shared::ids::{JobId, NodeId, PlacementId, ReplicaId, RequestId};
use flotilla_shared::registry::{MetaReply, Registration, ReplicaInfo, SlotSet, Spread};
use flotilla_shared::value::Value;
use flotilla_shared::wire::{Body, Outcome, Request, Response};
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::*;
use crate::jobs::calls::Calls;
use crate::jobs::take;
use crate::state::tests::{Log, Replica};

/// Attempts after which a job must have ended.
const ATTEMPTS: usize = 5;

struct Inner {
    registry: Registry,
    shards: BTreeMap<GroupId, (Replica, Log)>,
}

struct World(Mutex<Inner>);

/// Something that happens before one of the calls of a driver.
type Strike<'a> = (usize, &'a (dyn Fn(&World) + Sync));

/// What a driver's calls go through.
struct Caller<'a> {
    world: &'a World,
    /// The call before which it waits.
    waits_at: Option<usize>,
    /// What happens before another one.
    strikes: Option<Strike<'a>>,
    calls: AtomicUsize,
    waits: Notify,
    goes_on: Notify,
}

impl World {
    fn new(shards: u32) -> Self {
        let replica =
            |group: u32| ReplicaInfo { node: NodeId(1), replica: ReplicaId(u64::from(group) + 1), votes: true };
        let groups = (0..=shards).map(|group| (GroupId(group), vec![replica(group)])).collect();
        let mut registry = Registry::default();
        registry.apply(0, MetaCommand::Bootstrap { cluster: 7, nodes: vec![], groups }).unwrap();
        let shards = (1..=shards).map(|shard| (GroupId(shard), (Replica::of(GroupId(shard)), Log::new())));
        Self(Mutex::new(Inner { registry, shards: shards.collect() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn job(&self, id: JobId) -> Job {
        self.lock().registry.jobs[&id].clone()
    }

    fn create(&self, kind: JobKind) -> JobId {
        let mut inner = self.lock();
        let request = RequestId(u128::from(inner.registry.version) + 1);
        match inner.registry.apply(1, MetaCommand::CreateJob { request, kind }).unwrap() {
            MetaReply::Job(job) => job,
            other => panic!("{other:?}"),
        }
    }

    /// One attempt of a driver.
    async fn attempt(&self, id: JobId, caller: &Caller<'_>) -> Result<(), Error> {
        let (cluster, job) = (Cluster::new(vec![]), self.job(id));
        take(&Driver { cluster: &cluster, calls: caller, job: &job }).await
    }

    /// Another driver brings the job to its end.
    async fn finish(&self, id: JobId) {
        let mut last = Ok(());
        for _ in 0..ATTEMPTS {
            if self.job(id).ended() {
                return;
            }
            last = self.attempt(id, &Caller::new(self, None)).await;
        }
        assert!(self.job(id).ended(), "{last:?}");
    }

    async fn run(&self, kind: JobKind) -> JobState {
        let id = self.create(kind);
        self.finish(id).await;
        self.job(id).state
    }

    fn write(&self, shard: u32, sql: &str) {
        let mut inner = self.lock();
        let (replica, log) = inner.shards.get_mut(&GroupId(shard)).unwrap();
        replica.apply(&[log.writes(&[sql])]);
    }

    fn add_shard(&self, shard: u32) {
        let mut inner = self.lock();
        inner.registry.groups.insert(GroupId(shard), vec![]);
        inner.shards.insert(GroupId(shard), (Replica::of(GroupId(shard)), Log::new()));
    }

    /// Each shard holds what the registry says, and nothing else; each slot has one owner.
    fn check(&self, about: &str) {
        let inner = self.lock();
        let registry = &inner.registry;
        for (shard, (replica, _)) in &inner.shards {
            let here = |id: &PlacementId| registry.placements.get(id).is_some_and(|p| p.shards.contains(shard));
            let known: BTreeSet<String> =
                registry.objects.iter().filter(|o| here(&o.placement)).map(|o| o.name.clone()).collect();
            let sql = "SELECT name FROM sqlite_schema WHERE sql IS NOT NULL
                       AND name NOT LIKE '\\_flotilla%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
            let name = |row: Vec<Value>| match &row[0] {
                Value::Text(name) => name.clone(),
                other => panic!("{other:?}"),
            };
            let found: BTreeSet<String> = replica.query(sql).into_iter().map(name).collect();
            assert_eq!(found, known, "{shard}: {about}");
            for id in (1..=registry.counters.placement).map(PlacementId) {
                let (epoch, slots) = replica.owned(id);
                let placement = registry.placements.get(&id);
                let owned = placement.and_then(|p| p.owned.get(shard)).cloned().unwrap_or_default();
                assert_eq!(slots, owned, "placement {id} on {shard}: {about}");
                // A shard that owns nothing is not asked for its version.
                if placement.is_none() || !slots.is_empty() {
                    let known = placement.map(|p| p.epoch(*shard)).unwrap_or_default();
                    assert_eq!(epoch, known, "placement {id} on {shard}: {about}");
                }
            }
        }
        for placement in registry.placements.values().filter(|placement| !placement.is_reference()) {
            let owned: usize = placement.owned.values().map(SlotSet::len).sum();
            assert_eq!(owned, usize::from(placement.slots), "placement {}: {about}", placement.id);
        }
    }
}

impl<'a> Caller<'a> {
    fn new(world: &'a World, waits_at: Option<usize>) -> Self {
        let (waits, goes_on) = (Notify::new(), Notify::new());
        Self { world, waits_at, strikes: None, calls: AtomicUsize::new(0), waits, goes_on }
    }

    async fn comes_to_call(&self) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some((_, strike)) = self.strikes.filter(|(at, _)| *at == call) {
            strike(self.world);
        }
        if Some(call) == self.waits_at {
            self.waits.notify_one();
            self.goes_on.notified().await;
        }
    }
}

impl Calls for Caller<'_> {
    fn fresh_registry(&self, _: Instant) -> BoxFuture<'_, Result<Arc<Registry>, Error>> {
        Box::pin(async { Ok(Arc::new(self.world.lock().registry.clone())) })
    }

    fn change_registry(&self, command: MetaCommand, _: Instant) -> BoxFuture<'_, Result<MetaReply, Error>> {
        Box::pin(async {
            if !matches!(command, MetaCommand::StepJob { .. }) {
                self.comes_to_call().await;
            }
            let mut inner = self.world.lock();
            let mut registry = inner.registry.clone();
            let reply = registry.apply(2, command)?;
            inner.registry = registry;
            Ok(reply)
        })
    }

    fn ask_group(&self, group: GroupId, request: Request, _: Instant) -> BoxFuture<'_, Result<Response, Error>> {
        Box::pin(async move {
            self.comes_to_call().await;
            let mut inner = self.world.lock();
            let (replica, log) = inner.shards.get_mut(&group).unwrap();
            match request {
                Request::Read { read, .. } => replica.read(&read).map(Response::Rows),
                Request::Shard { command, .. } => match replica.apply(&[log.entry(Body::Shard(command))]).remove(0) {
                    Outcome::Shard(reply) => reply.map(Response::Shard),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        })
    }
}

fn schema(sql: &str, table: Option<&str>) -> JobKind {
    JobKind::Schema { sql: sql.into(), table: table.map(str::to_owned) }
}

fn hash(table: &str) -> Registration {
    Registration {
        table: table.into(),
        key: vec!["k".into()],
        spread: Spread::Hash,
        nullable: true,
        colocate_with: None,
        shards: vec![],
    }
}

/// Table `t`, spread over three shards, with a row on each.
async fn sharded() -> World {
    let world = World::new(3);
    world.run(schema("CREATE TABLE t (k, v)", None)).await;
    assert_eq!(world.run(JobKind::Register(hash("t"))).await, JobState::Done);
    (1..=3).for_each(|shard| world.write(shard, "INSERT INTO t VALUES (1, 1)"));
    world.check("set up");
    world
}

/// What happens while the first driver waits, around the second one's work.
#[derive(Clone, Copy)]
struct Meanwhile<'a> {
    /// What the first driver meets by itself, before one of its calls.
    strikes: Option<Strike<'a>>,
    before: &'a dyn Fn(&World),
    after: &'a dyn Fn(&World),
    /// Later jobs.
    later: &'a [(&'a str, Option<&'a str>)],
}

const NOTHING: Meanwhile<'_> = Meanwhile { strikes: None, before: &|_| (), after: &|_| (), later: &[] };

/// Lets the first driver wait before each of its calls in turn. Tells how the jobs ended.
async fn walk(set_up: impl AsyncFn() -> World, kind: &JobKind, meanwhile: Meanwhile<'_>) -> Vec<JobState> {
    let mut ends = Vec::new();
    for at in 0.. {
        let world = set_up().await;
        let id = world.create(kind.clone());
        let first = Caller { strikes: meanwhile.strikes, ..Caller::new(&world, Some(at)) };
        let mut attempt = pin!(world.attempt(id, &first));
        let about = format!("{kind:?}, the first driver waits before call {at}");
        let waited = tokio::select! {
            biased;
            _ = &mut attempt => false,
            () = first.waits.notified() => true,
        };
        (meanwhile.before)(&world);
        world.finish(id).await;
        ends.push(world.job(id).state);
        if !waited {
            return ends;
        }
        (meanwhile.after)(&world);
        for (sql, table) in meanwhile.later {
            world.run(schema(sql, *table)).await;
        }
        world.check(&about);
        first.goes_on.notify_one();
        attempt.await.ok();
        world.check(&format!("{about}, and has gone on"));
        assert_eq!(world.job(id).state, ends[at], "{about}");
    }
    unreachable!("there are not so many calls")
}

/// Whenever a statement begins or ceases to be possible on the last shard, or on the first, and whichever jobs follow:
/// it is done everywhere or nowhere.
#[tokio::test]
async fn statements_are_done_everywhere_or_nowhere() {
    let unique = schema("CREATE UNIQUE INDEX i ON t (v)", Some("t"));
    let column = schema("ALTER TABLE t ADD COLUMN w", Some("t"));
    let later: [&[_]; 2] = [&[], &[("CREATE INDEX i ON t (k)", Some("t")), ("CREATE TABLE other (v)", None)]];
    let mut ends = BTreeMap::new();
    for shard in [1, 3] {
        let twice = move |world: &World| world.write(shard, "INSERT INTO t VALUES (2, 1)");
        let once = move |world: &World| world.write(shard, "DELETE FROM t WHERE k = 2");
        for later in later {
            for meanwhile in [
                Meanwhile { later, ..NOTHING },
                Meanwhile { before: &twice, later, ..NOTHING },
                Meanwhile { before: &twice, after: &once, later, ..NOTHING },
                Meanwhile { after: &twice, later, ..NOTHING },
                // The first driver fails, and undoes what it did.
                Meanwhile { strikes: Some((4, &twice)), later, ..NOTHING },
                Meanwhile { strikes: Some((4, &twice)), before: &once, later, ..NOTHING },
                // It is refused before it has begun.
                Meanwhile { strikes: Some((0, &twice)), before: &once, later, ..NOTHING },
            ] {
                for end in walk(sharded, &unique, meanwhile).await {
                    *ends.entry(format!("{end:?}")).or_insert(0) += 1;
                }
            }
        }
    }
    assert!(ends["Done"] > 20 && ends["Failed"] > 20, "{ends:?}");
    walk(sharded, &column, Meanwhile { later: later[1], ..NOTHING }).await;
}

/// What cannot be undone goes forward once the first shard has done it; its placement is forgotten with its last
/// table.
#[tokio::test]
async fn a_table_is_dropped_everywhere() {
    let later: [&[_]; 2] = [&[], &[("CREATE TABLE t (v)", None)]];
    for later in later {
        let ends = walk(sharded, &schema("DROP TABLE t", Some("t")), Meanwhile { later, ..NOTHING }).await;
        assert!(ends.iter().all(|end| *end == JobState::Done), "{ends:?}");
    }
    let world = sharded().await;
    assert_eq!(world.run(schema("DROP TABLE t", Some("t"))).await, JobState::Done);
    assert_eq!(world.lock().registry.placements.len(), 1);
    world.check("dropped");
}

/// The last of several tables takes the placement along, no other one does.
#[tokio::test]
async fn colocated_tables_keep_their_placement() {
    let world = sharded().await;
    world.run(schema("CREATE TABLE u (k, v)", None)).await;
    let beside = Registration { colocate_with: Some("t".into()), ..hash("u") };
    assert_eq!(world.run(JobKind::Register(beside)).await, JobState::Done);
    world.run(schema("DROP TABLE t", Some("t"))).await;
    assert_eq!(world.lock().registry.placements.len(), 2);
    world.check("one is left");
    world.run(schema("DROP TABLE u", Some("u"))).await;
    assert_eq!(world.lock().registry.placements.len(), 1);
    world.check("none is left");
}

async fn unregistered() -> World {
    let world = World::new(3);
    world.run(schema("CREATE TABLE new (k, v)", None)).await;
    world
}

async fn with_reference() -> World {
    let world = sharded().await;
    world.run(schema("CREATE TABLE p (k PRIMARY KEY, v)", None)).await;
    world.run(schema("CREATE TABLE a (k PRIMARY KEY, p REFERENCES p)", None)).await;
    world.write(1, "INSERT INTO p VALUES (1, 1)");
    world.write(1, "INSERT INTO a VALUES (1, 1)");
    for table in ["p", "a"] {
        let wanted = Registration { key: vec![], spread: Spread::Reference, ..hash(table) };
        assert_eq!(world.run(JobKind::Register(wanted)).await, JobState::Done);
    }
    world.run(schema("CREATE TABLE new (k, v)", None)).await;
    world.add_shard(4);
    world.check("with copies");
    world
}

/// A table is in the way on a shard: what was made is taken back, on each shard and in whatever order.
fn in_the_way(shard: u32) -> impl Fn(&World) {
    move |world: &World| {
        let mut inner = world.lock();
        let (replica, log) = inner.shards.get_mut(&GroupId(shard)).unwrap();
        replica.apply(&[log.schema(0, &["CREATE TABLE new (stray)"])]);
    }
}

fn out_of_the_way(shard: u32) -> impl Fn(&World) {
    move |world: &World| {
        let mut inner = world.lock();
        let (replica, log) = inner.shards.get_mut(&GroupId(shard)).unwrap();
        let stray = "SELECT count(*) FROM pragma_table_info('new') WHERE name = 'stray'";
        if replica.value(stray) == Value::Integer(1) {
            replica.apply(&[log.schema(0, &["DROP TABLE new"])]);
        }
    }
}

/// A shard is made while a registration is under way, rows come, or a table is in its way: the slots that the
/// registry names are those that the shards own, and a registration that fails leaves nothing.
#[tokio::test]
async fn registrations_are_decided_once() {
    let rows = |world: &World| world.write(1, "INSERT INTO new VALUES (7, 7)");
    let range = Spread::Range { points: vec![vec![Value::Integer(5)], vec![Value::Integer(9)]] };
    let values = vec![(GroupId(2), vec![vec![Value::Integer(1)]]), (GroupId(3), vec![vec![Value::Integer(2)]])];
    let list = Spread::List { values, default: None };
    for spread in [Spread::Hash, range, list, Spread::Reference] {
        let key = if spread == Spread::Reference { vec![] } else { vec!["k".into()] };
        let kind = JobKind::Register(Registration { spread, key, ..hash("new") });
        for before in [&(|world: &World| world.add_shard(4)) as &dyn Fn(&World), &rows] {
            let ends = walk(unregistered, &kind, Meanwhile { before, ..NOTHING }).await;
            assert!(ends.iter().all(|end| *end == JobState::Done), "{ends:?}");
        }
        let (stray, gone) = (in_the_way(3), out_of_the_way(3));
        let ends = walk(unregistered, &kind, Meanwhile { before: &stray, after: &gone, ..NOTHING }).await;
        assert!(ends.contains(&JobState::Failed), "{ends:?}");
    }
}

/// The same for a table that joins another one's placement.
#[tokio::test]
async fn colocated_registrations_leave_nothing_behind() {
    let set_up = async || {
        let world = sharded().await;
        world.run(schema("CREATE TABLE new (k, v)", None)).await;
        world
    };
    let kind = JobKind::Register(Registration { colocate_with: Some("t".into()), ..hash("new") });
    walk(&set_up, &kind, NOTHING).await;
    let rows = |world: &World| world.write(1, "INSERT INTO new VALUES (7, 7)");
    let gone = |world: &World| world.write(1, "DELETE FROM new");
    let ends = walk(&set_up, &kind, Meanwhile { before: &rows, after: &gone, ..NOTHING }).await;
    assert!(ends.contains(&JobState::Failed) && ends.contains(&JobState::Done), "{ends:?}");
    let (stray, gone) = (in_the_way(3), out_of_the_way(3));
    walk(&set_up, &kind, Meanwhile { before: &stray, after: &gone, ..NOTHING }).await;
}

/// A shard that was made later gets a table, with copies of all reference tables whose rows refer to one another; or
/// it gets nothing, and can be asked again.
#[tokio::test]
async fn a_shard_gets_all_of_a_table_or_nothing() {
    let add = JobKind::AddToShard { table: "t".into(), shard: GroupId(4) };
    let ends = walk(with_reference, &add, NOTHING).await;
    assert!(ends.iter().all(|end| *end == JobState::Done), "{ends:?}");
    let leaves = |world: &World| {
        let options = flotilla_shared::registry::MoveOptions::default();
        world.create(JobKind::RemoveShard { shard: GroupId(4), options });
    };
    let ends = walk(with_reference, &add, Meanwhile { before: &leaves, ..NOTHING }).await;
    assert!(ends.contains(&JobState::Failed) && ends.contains(&JobState::Done), "{ends:?}");
    let world = with_reference().await;
    in_the_way(4)(&world);
    let wanted = Registration { shards: vec![GroupId(4)], ..hash("new") };
    assert_eq!(world.run(JobKind::Register(wanted.clone())).await, JobState::Failed);
    out_of_the_way(4)(&world);
    world.check("failed");
    assert_eq!(world.run(JobKind::Register(wanted)).await, JobState::Done);
    world.check("done");
}

/// Statements are undone by statements, if they take nothing away.
#[test]
fn inverses() {
    let world = World::new(1);
    let block = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for sql in
        ["CREATE TABLE t (k PRIMARY KEY, v)", "CREATE TABLE p (k PRIMARY KEY)", "CREATE VIEW w AS SELECT v FROM t"]
    {
        block.block_on(world.run(schema(sql, None)));
    }
    let registry = world.lock().registry.clone();
    let inverse = |sql: &str| inverse(&registry, sql).map(|list| list.join("; "));
    for (sql, wanted) in [
        ("CREATE TABLE n (x INTEGER PRIMARY KEY AUTOINCREMENT, y UNIQUE)", r#"DROP TABLE IF EXISTS "n""#),
        ("CREATE TABLE n AS SELECT * FROM t", r#"DROP TABLE IF EXISTS "n""#),
        ("CREATE TABLE IF NOT EXISTS t (z)", ""),
        ("CREATE INDEX i ON t (v)", r#"DROP INDEX IF EXISTS "i""#),
        ("CREATE VIEW x AS SELECT 1", r#"DROP VIEW IF EXISTS "x""#),
        ("ALTER TABLE t ADD COLUMN n REFERENCES p", r#"ALTER TABLE "t" DROP COLUMN "n""#),
        ("ALTER TABLE t ADD COLUMN n CHECK (n > 0)", r#"ALTER TABLE "t" DROP COLUMN "n""#),
    ] {
        assert_eq!(inverse(sql).as_deref(), Some(wanted), "{sql}");
    }
    for sql in [
        "DROP TABLE t",
        "DROP VIEW w",
        "ALTER TABLE p RENAME TO q",
        "ALTER TABLE p RENAME COLUMN k TO j",
        "CREATE INDEX i ON t (flotilla_slot(v))",
    ] {
        assert_eq!(inverse(sql), None, "{sql}");
    }
}
