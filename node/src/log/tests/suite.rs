//! The consensus library's own tests of a log store, on a real disk with the writer thread, and in
//! the simulation with the writer task. The state machine is as small as the tests allow.

use std::io;
use std::marker::PhantomData;

use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{LeaderIdOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{
    AsyncRuntime, OptionalSend, RaftLogReader, RaftSnapshotBuilder, RaftTypeConfig, Snapshot, SnapshotMeta,
    StorageError,
};
use openraft_rt_sim::SimRuntime;

use super::*;

openraft::declare_raft_types!(pub Threads: D = String, R = String);
openraft::declare_raft_types!(pub Simulated: D = String, R = String, AsyncRuntime = SimRuntime);

struct MachineState<C: RaftTypeConfig> {
    applied: Option<LogIdOf<C>>,
    membership: StoredMembershipOf<C>,
    snapshot: Option<SnapshotMetaOf<C>>,
}

struct Machine<C: RaftTypeConfig>(Arc<Mutex<MachineState<C>>>);

impl<C: RaftTypeConfig> Machine<C> {
    fn new() -> Self {
        let membership = StoredMembershipOf::<C>::default();
        Self(Arc::new(Mutex::new(MachineState { applied: None, membership, snapshot: None })))
    }
}

impl<C: RaftTypeConfig> RaftSnapshotBuilder<C> for Machine<C> {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<C, ()>, io::Error> {
        let mut state = self.0.lock().unwrap();
        let meta = SnapshotMeta { last_log_id: state.applied.clone(), last_membership: state.membership.clone() };
        state.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

impl<C: RaftTypeConfig<R = String>> RaftStateMachine<C> for Machine<C> {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogIdOf<C>>, StoredMembershipOf<C>), io::Error> {
        let state = self.0.lock().unwrap();
        Ok((state.applied.clone(), state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<C>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let mut state = self.0.lock().unwrap();
            state.applied = Some(entry.log_id());
            if let Some(membership) = entry.get_membership() {
                state.membership = StoredMembershipOf::<C>::new(Some(entry.log_id()), membership);
            }
            if let Some(responder) = responder {
                responder.send(String::new());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        Self(self.0.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<C>, (): ()) -> Result<(), io::Error> {
        let mut state = self.0.lock().unwrap();
        state.applied = meta.last_log_id.clone();
        state.membership = meta.last_membership.clone();
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<C, ()>>, io::Error> {
        let state = self.0.lock().unwrap();
        Ok(state.snapshot.clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct OnThread;

impl StoreBuilder<Threads, GroupLog<Threads>, Machine<Threads>, (WriterThread, Mutex<tempfile::TempDir>)> for OnThread {
    async fn build(
        &self,
    ) -> Result<((WriterThread, Mutex<tempfile::TempDir>), GroupLog<Threads>, Machine<Threads>), StorageError<Threads>>
    {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(folder.path().join("wal")).unwrap());
        let (wal, writer) = Wal::open(disk, options()).unwrap();
        let guard = (writer.spawn().unwrap(), Mutex::new(folder));
        Ok((guard, GroupLog::new(wal, A), Machine::new()))
    }
}

/// The suite on files, with the writer thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_on_thread() {
    Suite::test_all(OnThread).await.unwrap();
}

struct AsTask<R>(PhantomData<fn() -> R>);

impl<R: AsyncRuntime> StoreBuilder<Simulated, GroupLog<Simulated>, Machine<Simulated>> for AsTask<R> {
    async fn build(&self) -> Result<((), GroupLog<Simulated>, Machine<Simulated>), StorageError<Simulated>> {
        let (wal, writer) = Wal::open(Arc::new(SimDisk::new()), options()).unwrap();
        drop(R::spawn(drive::<R>(writer, || Duration::from_millis(3))));
        Ok(((), GroupLog::new(wal, A), Machine::new()))
    }
}

/// The suite in virtual time, with the writer as a task.
#[test]
fn suite_as_task() {
    SimRuntime::with_seed(1).block_on(async {
        Suite::test_all(AsTask::<SimRuntime>(PhantomData)).await.unwrap();
    });
}

/// Entries, vote, purge and committed mark of a real configuration survive a restart, and a stream
/// over a log larger than one piece gives all of it.
#[tokio::test]
async fn restart() {
    type Entry = <Threads as RaftTypeConfig>::Entry;
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let disk = Arc::new(RealDisk::new(folder.path().join("wal")).unwrap());
        let (wal, writer) = Wal::open(disk, WalOptions { cache_bytes: 0, ..WalOptions::default() }).unwrap();
        (GroupLog::<Threads>::new(wal, A), writer.spawn().unwrap())
    };
    let id = |index| {
        let leader = <LeaderIdOf<Threads> as openraft::vote::RaftLeaderIdExt>::new_committed(2, 7);
        LogIdOf::<Threads>::new(leader, index)
    };
    let entry = |index| Entry::new_normal(id(index), "x".repeat(100_000));
    let vote = openraft::Vote::new(3, 7);
    {
        let (mut log, _thread) = open();
        let (tx, rx) = <Threads as openraft::type_config::TypeConfigExt>::oneshot();
        log.append((1..=40).map(entry), openraft::storage::IOFlushed::signal(tx)).await.unwrap();
        rx.await.unwrap().unwrap();
        log.purge(id(4)).await.unwrap();
        log.save_committed(Some(id(33))).await.unwrap();
        log.save_vote(&vote).await.unwrap();
    }
    let (mut log, _thread) = open();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(33)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(4)), Some(id(40))));
    let limited = log.limited_get_log_entries(5, 41).await.unwrap();
    assert_eq!(limited.len(), 10, "1 MiB of entries of 100 kB");
    let all: Vec<_> = log.entries_stream(0..=38).await.map(Result::unwrap).collect().await;
    assert_eq!(all, (5..=38).map(entry).collect::<Vec<_>>());
}
