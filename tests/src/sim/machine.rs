//! The real state machine behind a wrapper that watches what is applied, and that can break promises.

use std::io;
use std::sync::Arc;

use flotilla_node::consensus::{Entry, LogId, Payload, SnapshotMeta, StoredMembership};
use flotilla_node::state::machine::{Compaction, LocalSource, SnapshotSource, StateSnapshot};
use flotilla_node::state::{StateMachine, Store};
use flotilla_shared::ids::RequestId;
use flotilla_shared::wire::Body;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use super::SimTypes;
use super::bugs::Bug;
use super::replica::Process;
use super::world::{World, pause};

/// A batch takes some virtual time in so many of 100 cases, so that other things happen meanwhile.
const SLOW_APPLY_PERCENT: u64 = 30;

/// The content hash is taken after so many of 100 batches.
const HASH_PERCENT: u64 = 15;

/// The state machine of one replica.
pub struct SimMachine {
    world: Arc<World>,
    process: Arc<Process>,
    inner: StateMachine<SimTypes>,
}

impl SimMachine {
    /// Wraps a replica's state machine.
    pub fn new(world: Arc<World>, process: Arc<Process>) -> Self {
        let inner = process.state.machine();
        Self { world, process, inner }
    }
}

/// What a bug makes of an entry on its way to the state machine.
fn distort(world: &World, node: u64, answers: bool, mut entry: Entry) -> Entry {
    let at_us = world.clock_us(node);
    let Payload::Normal(command) = &mut entry.payload else { return entry };
    match world.options.bug {
        Some(Bug::OwnRandomness) => command.seed ^= node,
        Some(Bug::OwnClock) => command.at_us = at_us + 1_000_000 * node as i64,
        Some(Bug::NoDedupe) => {
            if let Body::Writes(writes) = &mut command.body {
                for (number, write) in writes.iter_mut().enumerate() {
                    write.id = RequestId(u128::from(entry.log_id.index) << 64 | number as u128);
                }
            }
        }
        Some(Bug::SkipsWrites) if !answers && entry.log_id.index % 64 == 63 => {
            if let Body::Writes(writes) = &mut command.body {
                writes.pop();
            }
        }
        _ => (),
    }
    entry
}

impl RaftStateMachine<SimTypes> for SimMachine {
    type SnapshotData = SnapshotSource;
    type SnapshotBuilder = SimCompaction;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        RaftStateMachine::<SimTypes>::applied_state(&mut self.inner).await
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<SimTypes>, io::Error>> + Unpin + OptionalSend,
    {
        let slow = {
            let mut rng = self.world.rng();
            rng.percent(SLOW_APPLY_PERCENT).then(|| rng.micros(0, 3_000))
        };
        if let Some(slow) = slow {
            pause(slow).await;
        }
        let (world, process) = (&self.world, &self.process);
        let watched = entries.map(|item| {
            let (entry, responder) = item?;
            if process.is_alive() {
                world.check(world.history().applies(process.node, process.life, &entry));
            }
            Ok((distort(world, process.node, responder.is_some(), entry), responder))
        });
        RaftStateMachine::<SimTypes>::apply(&mut self.inner, watched).await?;
        if self.world.rng().percent(HASH_PERCENT) {
            self.process.compare_content(&self.world);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SimCompaction {
        let inner = RaftStateMachine::<SimTypes>::get_snapshot_builder(&mut self.inner).await;
        SimCompaction { world: Arc::clone(&self.world), process: Arc::clone(&self.process), inner }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, source: SnapshotSource) -> Result<(), io::Error> {
        let from_leader = matches!(source, SnapshotSource::File(_));
        if let (SnapshotSource::File(file), true) = (&source, self.world.has(Bug::SnapshotWithoutRequests)) {
            let db = rusqlite::Connection::open(file).map_err(io::Error::other)?;
            db.execute_batch("DELETE FROM _flotilla_requests; PRAGMA wal_checkpoint(TRUNCATE)")
                .map_err(io::Error::other)?;
        }
        RaftStateMachine::<SimTypes>::install_snapshot(&mut self.inner, meta, source).await?;
        if from_leader && self.process.is_alive() {
            let index = meta.last_log_id.map_or(0, |id| id.index);
            self.world.note(format_args!("{} takes over a snapshot at {index}", self.process.node));
            self.process.synced().replaced(self.process.store().path());
            let index = self.process.applied_index();
            self.world.check(self.world.history().holds(self.process.node, self.process.life, index));
            self.process.compare_content(&self.world);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<StateSnapshot>, io::Error> {
        RaftStateMachine::<SimTypes>::get_current_snapshot(&mut self.inner).await
    }
}

/// Compaction that notes what it synced.
pub struct SimCompaction {
    world: Arc<World>,
    process: Arc<Process>,
    inner: Compaction,
}

impl RaftSnapshotBuilder<SimTypes> for SimCompaction {
    type SnapshotData = SnapshotSource;

    async fn build_snapshot(&mut self) -> Result<StateSnapshot, io::Error> {
        let store: &Arc<Store> = self.process.store();
        if self.world.has(Bug::PurgeBeforeDurable) {
            let applied = self.process.state.lock().applied.clone();
            return Ok(Snapshot {
                meta: SnapshotMeta { last_log_id: applied.log_id, last_membership: applied.membership },
                snapshot: SnapshotSource::Local(LocalSource(Arc::clone(store))),
            });
        }
        let snapshot = RaftSnapshotBuilder::<SimTypes>::build_snapshot(&mut self.inner).await?;
        self.process.synced().note(store.path())?;
        let index = snapshot.meta.last_log_id.map_or(0, |id| id.index);
        self.world.note(format_args!("{} has made {index} durable", self.process.node));
        Ok(snapshot)
    }
}
