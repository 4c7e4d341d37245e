//! Splits in a world where calls are lost, their answers are lost, old calls arrive late, shards restart and drivers
//! die, while clients with old and new maps write and repeat. The shards are real state machines; a failure prints
//! its seed.

use std::collections::BTreeMap;
use std::sync::Mutex;

use flotilla_shared::ids::{JobId, PlacementId, RequestId, SchemaVersion, Slot};
use flotilla_shared::registry::{Function, JobState, MetaReply, MoveOptions, Placement, SlotSet, Table};
use flotilla_shared::slot::{Affinity, Collation, KeyColumn};
use flotilla_shared::value::Value;
use flotilla_shared::wire::{Body, Claim, Outcome, Route, ShardCommand, ShardReply, Statement, Write, WriteResult};

use super::*;
use crate::state::tests::{Log, Random, Replica};

const PLACEMENT: PlacementId = PlacementId(7);

const KEYS: i64 = 100;

/// Faults of one run; after them the job must come to its end.
const FAULTS: u32 = 30;

/// Drivers of one run; more means that the job does not come to its end.
const MAX_ATTEMPTS: usize = 500;

#[derive(Clone)]
enum Late {
    Split(GroupId, Split),
    Meta(MetaCommand),
}

struct Inner {
    random: Random,
    registry: Registry,
    /// What some proxy still plans with.
    old: Registry,
    shards: BTreeMap<GroupId, (Replica, Log)>,
    faults: u32,
    late: Vec<Late>,
    /// Applied writes: request, key, result.
    written: Vec<(RequestId, i64, WriteResult)>,
    refused: u32,
}

struct World(Mutex<Inner>);

impl World {
    fn new(seed: u64, at: &[i64], to: Option<GroupId>) -> Self {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (k INTEGER NOT NULL, id INTEGER)").unwrap();
        let key = vec![KeyColumn { affinity: Affinity::Integer, collation: Collation::Binary }];
        let function = Function::range(&key, vec![vec![Value::Integer(30)], vec![Value::Integer(60)]]).unwrap();
        let shards: Vec<GroupId> = (1..=2).map(GroupId).collect();
        let owned = Placement::even_shares(3, &shards);
        let epochs = owned.keys().map(|shard| (*shard, Epoch(1))).collect();
        let placement =
            Placement { id: PLACEMENT, function, key, slots: 3, shards: shards.clone(), owned: owned.clone(), epochs };
        let table = Table { placement: PLACEMENT, key: vec![0], ..Table::read(&db, "t").unwrap() };
        let mut registry = Registry::default();
        registry.tables.insert("t".into(), table);
        registry.placements.insert(PLACEMENT, placement);
        registry.groups = shards.iter().map(|shard| (*shard, vec![])).collect();
        let at = at.iter().map(|point| vec![Value::Integer(*point)]).collect();
        let kind = JobKind::Split { table: "t".into(), at, to, options: MoveOptions::default() };
        let made = registry.apply(1, MetaCommand::CreateJob { request: RequestId(1), kind }).unwrap();
        assert_eq!(made, MetaReply::Job(JobId(1)));
        let shards = shards.iter().map(|shard| (*shard, (Replica::of(*shard), Log::new()))).collect();
        let mut inner = Inner {
            random: Random(seed),
            old: registry.clone(),
            registry,
            shards,
            faults: FAULTS,
            late: vec![],
            written: vec![],
            refused: 0,
        };
        for (shard, slots) in owned {
            let (replica, log) = inner.shards.get_mut(&shard).unwrap();
            let own = ShardCommand::Own { placement: PLACEMENT, epoch: Epoch(1), slots };
            let entries =
                [log.schema(1, &["CREATE TABLE t (k INTEGER NOT NULL, id INTEGER)"]), log.entry(Body::Shard(own))];
            replica.apply(&entries);
        }
        Self(Mutex::new(inner))
    }
}

impl Inner {
    fn split(&mut self, shard: GroupId, split: Split) -> Result<Epoch, Error> {
        let (replica, log) = self.shards.get_mut(&shard).unwrap();
        match replica.apply(&[log.entry(Body::Shard(ShardCommand::Split(split)))]).remove(0) {
            Outcome::Shard(Ok(ShardReply::Split(epoch))) => Ok(epoch),
            Outcome::Shard(Err(error)) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn meta(&mut self, command: MetaCommand) -> Result<(), Error> {
        let mut registry = self.registry.clone();
        registry.apply(2, command)?;
        self.registry = registry;
        Ok(())
    }

    /// A write by a map, some of whose keys are in other slots by another one. What is refused as stale did nothing.
    fn write(&mut self, id: RequestId, key: i64, old: bool) -> Option<WriteResult> {
        let map = if old { &self.old } else { &self.registry };
        let map = &map.placements[&PLACEMENT];
        let slot = map.slot(&[Value::Integer(key)]).unwrap();
        let shard = map.owner(slot).unwrap();
        let claim = Claim { placement: PLACEMENT, epoch: map.epoch(shard), slots: Some(SlotSet::range(slot, slot)) };
        let route = Some(Route { schema: SchemaVersion(9), claims: vec![claim] });
        let statements = vec![Statement::bare(format!("INSERT INTO t VALUES ({key}, {})", id.0))];
        let (replica, log) = self.shards.get_mut(&shard).unwrap();
        let entry = log.entry(Body::Writes(vec![Write { id, route, statements }]));
        let Outcome::Writes(mut results) = replica.apply(&[entry]).remove(0) else { panic!() };
        match results.remove(0) {
            Err(error) if error.code == Code::StaleRoute => None,
            result => Some(result),
        }
    }

    fn client(&mut self) {
        let old = self.random.below(2) == 0;
        match self.written.is_empty() || self.random.below(2) == 0 {
            true => {
                let id = RequestId(1000 + self.written.len() as u128 + (u128::from(self.refused) << 32));
                let key = self.random.below(KEYS as usize) as i64;
                match self.write(id, key, old) {
                    Some(result) => self.written.push((id, key, result)),
                    None => self.refused += 1,
                }
            }
            false => {
                let at = self.random.below(self.written.len());
                let (id, key, first) = self.written[at].clone();
                if let Some(result) = self.write(id, key, old) {
                    assert_eq!(result, first, "a retry gets the first result");
                }
            }
        }
    }

    fn fault(&mut self, percent: usize) -> bool {
        let happens = self.faults > 0 && self.random.below(100) < percent;
        self.faults -= u32::from(happens);
        happens
    }

    fn arrive(&mut self, late: Late) {
        match late {
            Late::Split(shard, split) => drop(self.split(shard, split)),
            Late::Meta(command) => drop(self.meta(command)),
        }
    }

    /// Slots that the registry has given out have one owner, but for one that was just split.
    fn check_owners(&self) {
        let map = &self.registry.placements[&PLACEMENT];
        let owned: Vec<SlotSet> = self
            .shards
            .values()
            .map(|(replica, _)| replica.handle().lock().owned(PLACEMENT).cloned().unwrap_or_default())
            .collect();
        assert!(!owned[0].meets(&owned[1]), "{owned:?}");
        let gone = map.all_slots().minus(&owned[0].union(&owned[1]));
        assert!(gone.len() <= 1, "{gone:?} of {owned:?}");
    }

    fn between(&mut self) {
        for _ in 0..self.random.below(4) {
            self.client();
        }
        if !self.late.is_empty() && self.random.below(3) == 0 {
            let at = self.random.below(self.late.len());
            let late = self.late.swap_remove(at);
            self.arrive(late);
        }
        if self.fault(5) {
            let shard = GroupId(1 + self.random.below(2) as u32);
            self.shards.get_mut(&shard).unwrap().0.reopen();
        }
        if self.random.below(6) == 0 {
            self.old = self.registry.clone();
        }
        self.check_owners();
    }

    /// A call that may be lost on the way there or back, or come again later.
    fn call<T>(&mut self, late: Late, run: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.between();
        if self.fault(10) {
            return Err(Error::new(Code::Unavailable, "lost on the way there"));
        }
        if self.fault(15) {
            self.late.push(late);
            if self.random.below(2) == 0 {
                return Err(Error::new(Code::OutcomeUnknown, "held up on the way there"));
            }
        }
        let reply = run(self);
        if self.fault(15) {
            return Err(Error::new(Code::OutcomeUnknown, "lost on the way back"));
        }
        reply
    }
}

/// A driver; it may have looked at the registry some time ago.
struct Driver<'a> {
    world: &'a World,
    slow: bool,
}

impl Ground for Driver<'_> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        let mut inner = self.world.0.lock().unwrap();
        inner.between();
        Ok(Arc::new(if self.slow { inner.old.clone() } else { inner.registry.clone() }))
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        let mut inner = self.world.0.lock().unwrap();
        inner.call(Late::Meta(command.clone()), |inner| inner.meta(command))
    }

    async fn split(&self, shard: GroupId, split: Split) -> Result<Epoch, Error> {
        let mut inner = self.world.0.lock().unwrap();
        inner.call(Late::Split(shard, split.clone()), |inner| inner.split(shard, split))
    }
}

async fn run_to_end(world: &World) -> Result<Splitting, Error> {
    let job = world.0.lock().unwrap().registry.jobs[&JobId(1)].clone();
    for attempt in 0..MAX_ATTEMPTS {
        // Another driver that has fallen behind does its best now and then; it must find no reason to fail the job.
        let slow = attempt % 3 == 2;
        let ended = run(&Driver { world, slow }, &job).await;
        if world.0.lock().unwrap().registry.jobs[&JobId(1)].progress.is_some() {
            return Ok(Splitting::Moves);
        }
        match ended {
            Err(error) if error.code.class() != Class::Refused => (),
            Err(error) if slow => panic!("the job would fail: {error:?}"),
            Ok(_) if slow => (),
            ended => return ended,
        }
    }
    panic!("the job does not come to its end");
}

/// Whatever is lost, late or repeated: the job ends with all points in, each slot owned by who owned its keys before,
/// the registry and the shards agree, and each write took effect once.
#[tokio::test]
async fn splits_come_to_their_end() {
    let mut refused = 0;
    for seed in 0..60 {
        let to = (seed % 2 == 0).then_some(GroupId(2));
        let world = World::new(seed, &[10, 20, 45, 60, 80], to);
        println!("seed {seed}");
        let ended = run_to_end(&world).await.unwrap();
        assert_eq!(ended, if to.is_some() { Splitting::Moves } else { Splitting::Done });
        let mut inner = world.0.into_inner().unwrap();
        if to.is_none() {
            let end = MetaCommand::EndJob {
                job: JobId(1),
                state: JobState::Done,
                error: None,
                effects: vec![],
                results: vec![],
            };
            inner.meta(end).unwrap();
        }
        for late in std::mem::take(&mut inner.late) {
            inner.arrive(late);
        }
        let map = inner.registry.placements[&PLACEMENT].clone();
        let points: Vec<&Value> = map.function.points().iter().map(|point| &point[0]).collect();
        assert_eq!(points, [10, 20, 30, 45, 60, 80].map(Value::Integer).iter().collect::<Vec<_>>());
        let owners: Vec<u32> =
            (0..KEYS).step_by(5).map(|key| map.owner(map.slot(&[Value::Integer(key)]).unwrap()).unwrap().0).collect();
        assert_eq!(owners, (0..KEYS).step_by(5).map(|key| if key < 60 { 1 } else { 2 }).collect::<Vec<_>>());
        for (shard, (replica, _)) in &inner.shards {
            assert_eq!(replica.handle().lock().owned(PLACEMENT), map.owned.get(shard), "{shard}");
        }
        for (id, key, first) in inner.written.clone() {
            assert_eq!(inner.write(id, key, false), Some(first), "a retry at the end");
        }
        let mut rows: Vec<(i64, i64)> = vec![];
        for (replica, _) in inner.shards.values() {
            rows.extend(replica.query("SELECT k, id FROM t").into_iter().map(|row| match row[..] {
                [Value::Integer(key), Value::Integer(id)] => (key, id),
                _ => panic!("{row:?}"),
            }));
        }
        rows.sort_unstable();
        let mut wanted: Vec<(i64, i64)> = inner.written.iter().map(|(id, key, _)| (*key, id.0 as i64)).collect();
        wanted.sort_unstable();
        assert_eq!(rows, wanted, "every row once");
        refused += inner.refused;
    }
    assert!(refused > 50, "old maps were hardly ever used: {refused}");
}

/// A shard that is no longer the owner says so, and the job looks again: it must not fail for what is only late.
#[tokio::test]
async fn an_old_map_is_no_refusal() {
    let world = World::new(1, &[40], None);
    {
        let mut inner = world.0.lock().unwrap();
        inner.faults = 0;
        let owned = &mut inner.registry.placements.get_mut(&PLACEMENT).unwrap().owned;
        let (one, two) = (owned[&GroupId(1)].clone(), owned[&GroupId(2)].clone());
        owned.extend([(GroupId(1), two), (GroupId(2), one)]);
    }
    let job = world.0.lock().unwrap().registry.jobs[&JobId(1)].clone();
    let error = run(&Driver { world: &world, slow: false }, &job).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error:?}");
}

/// Points that are there already are no work; what cannot be a point fails the job before anything is done; and while
/// slots of the table move the job waits.
#[tokio::test]
async fn little_to_do() {
    let world = World::new(1, &[30, 60], None);
    assert_eq!(run_to_end(&world).await, Ok(Splitting::Done));
    assert_eq!(world.0.lock().unwrap().registry.placements[&PLACEMENT].slots, 3);
    let world = World::new(1, &[40, 50, 40], None);
    assert_eq!(run_to_end(&world).await.unwrap_err().code, Code::BadRequest);
    assert_eq!(world.0.lock().unwrap().registry.placements[&PLACEMENT].slots, 3);

    let world = World::new(1, &[40], None);
    let give = |inner: &mut Inner| {
        let slots = SlotSet::range(Slot(0), Slot(0));
        let kind =
            JobKind::Give { table: "t".into(), slots: slots.clone(), to: GroupId(2), options: MoveOptions::default() };
        inner.meta(MetaCommand::CreateJob { request: RequestId(2), kind }).unwrap();
        let transfer = flotilla_shared::registry::Transfer { from: GroupId(1), to: GroupId(2), slots };
        let change =
            flotilla_shared::registry::MoveChange::Begin { placement: PLACEMENT, transfer, left: Default::default() };
        inner.meta(MetaCommand::Move { job: JobId(2), change }).unwrap();
    };
    give(&mut world.0.lock().unwrap());
    let job = world.0.lock().unwrap().registry.jobs[&JobId(1)].clone();
    let error = run(&Driver { world: &world, slow: false }, &job).await.unwrap_err();
    assert!(error.code == Code::Unavailable && error.message.contains("under way"), "{error:?}");
    assert_eq!(world.0.lock().unwrap().registry.placements[&PLACEMENT].slots, 3);
}
