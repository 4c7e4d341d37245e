//! A table leaves a shard that does not answer.

use super::*;

/// A driver that hears nothing of one shard.
struct Deaf<'a> {
    driver: Mortal<'a>,
    to: Mutex<Option<GroupId>>,
}

impl Deaf<'_> {
    fn hears(&self, shard: GroupId) -> Result<(), Error> {
        match *self.to.lock().unwrap() == Some(shard) {
            true => Err(Error::new(Code::Unavailable, format!("{shard} has no leader"))),
            false => Ok(()),
        }
    }
}

impl Ground for Deaf<'_> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        self.driver.registry().await
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        self.driver.meta(command).await
    }

    async fn step(&self, shard: GroupId, step: MoveStep, patience: Duration) -> Result<MoveReply, Error> {
        self.hears(shard)?;
        self.driver.step(shard, step, patience).await
    }

    async fn ask(&self, shard: GroupId, query: MoveQuery) -> Result<MoveAnswer, Error> {
        self.hears(shard)?;
        self.driver.ask(shard, query).await
    }

    async fn drop_replica(&self, shard: GroupId, replica: ReplicaInfo) -> Result<(), Error> {
        self.driver.drop_replica(shard, replica).await
    }

    fn now_us(&self) -> i64 {
        self.driver.now_us()
    }

    async fn rest(&self, took: Duration) {
        self.driver.rest(took).await;
    }

    async fn wait(&self, time: Duration) {
        self.driver.wait(time).await;
    }
}

/// While the shard is down other jobs have their turns. If somebody wishes to end the job, it ends with the table where
/// it was as soon as the shard answers.
#[tokio::test]
async fn a_leave_that_waits_lets_others_go_on_and_can_be_cancelled() {
    let world = World::new(3);
    world.lock().faults = 0;
    let create = |request: u128, kind: JobKind| match world
        .lock()
        .meta(MetaCommand::CreateJob { request: RequestId(request), kind })
    {
        Ok(MetaReply::Job(job)) => job,
        other => panic!("{other:?}"),
    };
    let shard = GroupId(4);
    let options = MoveOptions::default();
    let leaves = create(1, JobKind::RemoveFromShard { table: "t".to_owned(), shard, options });
    let other = create(2, JobKind::Schema { sql: "CREATE TABLE other (v)".to_owned(), table: None });
    let driver = Mortal { world: &world, dead: AtomicBool::new(false) };
    let deaf = Deaf { driver, to: Mutex::new(Some(shard)) };
    let mut memory = Memory::default();
    let progress = || world.lock().registry.jobs[&leaves].progress.clone().unwrap();
    while progress().leave.is_none() {
        assert_eq!(attempt(&deaf, &mut memory, leaves).await, Ok(Attempt::More));
    }
    let waits = attempt(&deaf, &mut memory, leaves).await;
    assert!(matches!(waits, Ok(Attempt::Ahead(Some(_)))), "{waits:?}");
    let registry = Arc::clone(&world.lock().registry);
    let next = crate::jobs::next_job(&registry, true, true).map(|job| job.id);
    assert_eq!(next, Some(other));

    world.lock().meta(MetaCommand::Move { job: leaves, change: MoveChange::Wish(Wish::Cancel) }).unwrap();
    assert!(matches!(attempt(&deaf, &mut memory, leaves).await, Ok(Attempt::Ahead(Some(_)))));
    *deaf.to.lock().unwrap() = None;
    while !world.lock().registry.jobs[&leaves].ended() {
        attempt(&deaf, &mut memory, leaves).await.unwrap();
    }
    assert_eq!(world.lock().registry.jobs[&leaves].state, JobState::Cancelled);
    assert!(world.lock().registry.placements[&PLACEMENT].shards.contains(&shard));
    let there = "SELECT count(*) FROM sqlite_schema WHERE name IN ('t', 'w')";
    assert_eq!(world.lock().shards[&shard].0.value(there), Value::Integer(2));
}
