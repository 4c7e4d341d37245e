//! Ways to move slots, and what a job shall have done by them.

use flotilla_shared::registry::{Goal, Measure, Sizes};

use super::*;

/// Some way to move slots.
pub(super) fn some_options(random: &mut Random) -> MoveOptions {
    MoveOptions {
        weights: [(GroupId(1), [1, 1, 2, 0][random.below(4)])].into(),
        by: [Measure::Slots, Measure::Slots, Measure::Rows, Measure::Bytes][random.below(4)],
        max_bytes_per_second: [None, Some(2000)][random.below(2)],
        max_parallel: 1 + random.below(2) as u16,
    }
}

/// Has a job of these options done what it should?
pub(super) fn is_even(registry: &Registry, options: &MoveOptions) -> bool {
    let placement = &registry.placements[&PLACEMENT];
    let emptied = options.weights.iter().filter(|(_, weight)| **weight == 0);
    let empty = emptied.map(|(shard, _)| shard).all(|shard| placement.owned.get(shard).is_none_or(SlotSet::is_empty));
    let goal = Goal::Even { begun: true };
    let left = || placement.plan(&goal, options, &registry.leaving(PLACEMENT), &Sizes::new());
    empty && (options.by != Measure::Slots || left().is_empty())
}

impl Inner {
    /// Lets time pass; others go on meanwhile.
    pub(super) fn wait(&mut self, time: Duration) {
        self.clock_us += time.as_micros() as i64;
        self.between();
    }
}

/// A piece that was staged: of which move, when, and how many bytes of rows.
struct Copied {
    id: MoveId,
    at_us: i64,
    bytes: u64,
}

/// A driver that writes down what it copies ahead of a freeze, and that does not wait under one.
struct Watched<'a> {
    driver: Mortal<'a>,
    copied: Mutex<Vec<Copied>>,
    is_frozen: AtomicBool,
}

impl Ground for Watched<'_> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        self.driver.registry().await
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        self.driver.meta(command).await
    }

    async fn step(&self, shard: GroupId, step: MoveStep, patience: Duration) -> Result<MoveReply, Error> {
        match &step {
            MoveStep::Stage { id, from: Cursor::Rows { .. }, piece } => {
                let bytes = piece.rows.iter().map(|row| row.packed.len() as u64).sum();
                self.copied.lock().unwrap().push(Copied { id: *id, at_us: self.now_us(), bytes });
            }
            MoveStep::Freeze { .. } => self.is_frozen.store(true, Ordering::Relaxed),
            MoveStep::Activate { .. } | MoveStep::Cancel { .. } => self.is_frozen.store(false, Ordering::Relaxed),
            _ => (),
        }
        self.driver.step(shard, step, patience).await
    }

    async fn ask(&self, shard: GroupId, query: MoveQuery) -> Result<MoveAnswer, Error> {
        match self.driver.ask(shard, query).await? {
            MoveAnswer::Piece(piece) => Ok(MoveAnswer::Piece(cut(piece, 1))),
            answer => Ok(answer),
        }
    }

    async fn drop_replica(&self, shard: GroupId, replica: ReplicaInfo) -> Result<(), Error> {
        self.driver.drop_replica(shard, replica).await
    }

    fn now_us(&self) -> i64 {
        self.driver.now_us()
    }

    async fn rest(&self, _: Duration) {}

    async fn wait(&self, time: Duration) {
        assert!(!self.is_frozen.load(Ordering::Relaxed), "writers wait for the driver, and it waits");
        self.driver.wait(time).await;
    }
}

/// Slots with more bytes than may move in a second: their pieces are copied no faster than that, and the
/// driver never waits while slots are frozen.
#[test]
fn the_rate_holds_within_a_move() {
    const RATE: u64 = 20;
    let world = World::new(7);
    world.lock().faults = 0;
    let options = MoveOptions { max_bytes_per_second: Some(RATE), ..MoveOptions::default() };
    let kind = JobKind::Rebalance { table: "t".to_owned(), options };
    let create = MetaCommand::CreateJob { request: RequestId(1), kind };
    let Ok(MetaReply::Job(job)) = world.lock().meta(create) else { panic!() };
    let driver = Mortal { world: &world, dead: AtomicBool::new(false) };
    let watched = Watched { driver, copied: Mutex::default(), is_frozen: AtomicBool::new(false) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut memory = Memory::default();
        while !world.lock().registry.jobs[&job].ended() {
            if let Ok(Attempt::Wait(time)) = attempt(&watched, &mut memory, job).await {
                world.lock().wait(time);
            }
        }
    });
    assert_eq!(world.lock().registry.jobs[&job].state, JobState::Done);
    let (mut several, mut begun) = (0, BTreeMap::new());
    for Copied { id, at_us, bytes } in watched.copied.lock().unwrap().iter() {
        let (first_us, before) = begun.entry(*id).or_insert((*at_us, 0));
        let least_us = (*before * 1_000_000 / RATE) as i64;
        assert!(at_us - *first_us >= least_us, "move {id}: {before} bytes within {} us", at_us - *first_us);
        several += u32::from(*before > 0);
        *before += bytes;
    }
    assert!(several > 10, "pieces that had to wait: {several}");
    world.lock().check_end();
}
