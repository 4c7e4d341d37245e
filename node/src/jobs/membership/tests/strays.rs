//! A driver that fell behind meets what others have made since.

use flotilla_shared::registry::ReplicaChange;

use super::*;

/// The first look at the registry is an old one.
struct Behind<'a> {
    world: &'a World,
    old: Mutex<Option<Registry>>,
}

impl Ground for Behind<'_> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        let old = self.old.lock().unwrap().take();
        match old {
            Some(old) => Ok(Arc::new(old)),
            None => self.world.registry().await,
        }
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        self.world.meta(command).await
    }

    async fn sight(&self, registry: &Registry) -> Sight {
        self.world.sight(registry).await
    }

    async fn node(&self, info: &NodeInfo, request: Request) -> Result<(), Error> {
        self.world.node(info, request).await
    }

    async fn change(&self, group: GroupId, change: MemberChange) -> Result<GroupMembers, Error> {
        self.world.change(group, change).await
    }

    async fn hand_over(&self, group: GroupId) -> Result<(), Error> {
        self.world.hand_over(group).await
    }

    fn now_us(&self) -> i64 {
        self.world.now_us()
    }

    async fn pause(&self) {
        self.world.pause().await;
    }
}

fn finish<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
}

/// A driver with an old registry is about to make a replica on a node. There another job's replica votes by now, which
/// the old registry does not know: it stays.
#[test]
fn a_voter_that_was_made_meanwhile_stays() {
    let world = World::new(5);
    world.lock().faults = 0;
    let (group, node) = (GroupId(1), NodeId(6));
    let start = |request: u128| {
        let goal = ReplicaGoal::Group { group, changes: vec![ReplicaChange::Add { node, votes: true }] };
        let kind = JobKind::Replicas { goal, patience_ms: 60_000 };
        let mut inner = world.lock();
        inner.meta(MetaCommand::CreateJob { request: RequestId(request), kind }).unwrap();
        inner.running().next().unwrap()
    };
    let first = start(1);
    finish(attempt(&world, first)).unwrap();
    let old = world.lock().registry.clone();
    assert!(old.jobs[&first].members.as_ref().unwrap().exchange.is_some(), "it has begun");
    world.lock().meta(MetaCommand::Members { job: first, step: MemberStep::Wish(Wish::Cancel) }).unwrap();
    drive(&world);
    start(2);
    drive(&world);
    let made = world.lock().registry.replica_on(group, node).unwrap();
    assert!(world.lock().groups[&group].voters.contains(&made));

    finish(attempt(&Behind { world: &world, old: Mutex::new(Some(old)) }, first)).ok();
    assert_eq!(world.lock().nodes[&node].hosted.get(&group), Some(&made));
    assert!(world.lock().groups[&group].voters.contains(&made));
    world.lock().check_end();
}
