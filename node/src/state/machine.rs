//! The state machine as openraft sees it: batches in, answers out, snapshots by reference.

use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::Registry;
use flotilla_shared::wire::{Body, Command};
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::apply::Machine;
use super::pages::{Incoming, Outgoing};
use super::store::{Applied, Store, block, storage};
use crate::consensus::{CommittedLeaderId, Consensus, Entry, LogId, Payload, Peer, SnapshotMeta, StoredMembership};
use crate::propose::now_us;
use crate::stages::{NodeStages, Stage};

/// Entries of one SQLite transaction at most: a commit costs the same for one as for hundreds, and
/// beyond some hundreds the gain is gone while the first answer waits.
const MAX_BATCH_ENTRIES: usize = 256;

/// What openraft passes around as a snapshot.
#[derive(Debug)]
pub enum SnapshotSource {
    /// The replica's own database: nothing is copied until a follower asks for pages.
    Local(LocalSource),
    /// A complete, synced file that came from the leader.
    File(PathBuf),
}

/// A handle on the replica's own database.
#[derive(Clone)]
pub struct LocalSource(pub Arc<Store>);

impl std::fmt::Debug for LocalSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalSource({})", self.0.path().display())
    }
}

/// A snapshot of ours.
pub type StateSnapshot = Snapshot<CommittedLeaderId, u64, Peer, SnapshotSource>;

/// What the host keeps of a state machine that it has handed to openraft.
#[derive(Clone)]
pub struct StateHandle {
    machine: Arc<Mutex<Machine>>,
    store: Arc<Store>,
    group: GroupId,
    registry: watch::Sender<Arc<Registry>>,
    stages: NodeStages,
}

/// The state machine of one replica.
pub struct StateMachine<C> {
    handle: StateHandle,
    types: PhantomData<fn() -> C>,
}

impl StateHandle {
    /// Opens the database of a replica.
    ///
    /// # Errors
    /// What the disk or SQLite says.
    pub fn open(store: Arc<Store>, db: rusqlite::Connection, group: GroupId) -> io::Result<Self> {
        let machine = Machine::new(db, group)?;
        let registry = watch::channel(Arc::new(machine.registry().cloned().unwrap_or_default())).0;
        Ok(Self { machine: Arc::new(Mutex::new(machine)), store, group, registry, stages: NodeStages::default() })
    }

    /// The same, recording its times where all of the node are.
    #[must_use]
    pub fn counting(self, stages: NodeStages) -> Self {
        Self { stages, ..self }
    }

    /// Records how long the writes that this replica proposed took to get here, and how many there are.
    fn count_proposed<'a>(&self, proposed: impl Iterator<Item = &'a Entry>) -> usize {
        let (now_us, mut writes) = (now_us(), 0);
        for entry in proposed {
            let Payload::Normal(Command { at_us, body: Body::Writes(list), .. }) = &entry.payload else { continue };
            let took = Duration::from_micros(u64::try_from(now_us - at_us).unwrap_or(0));
            self.stages.observe_all(Stage::Replicate, took, list.len());
            writes += list.len();
        }
        writes
    }

    /// The state machine to hand to openraft.
    pub fn machine<C: Consensus>(&self) -> StateMachine<C> {
        StateMachine { handle: self.clone(), types: PhantomData }
    }

    /// The machine itself. Apply waits while it is held.
    pub fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database on disk.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The registry as applied here, in the `meta` group.
    pub fn registry(&self) -> watch::Receiver<Arc<Registry>> {
        self.registry.subscribe()
    }

    /// Applied index and content hash, of one moment.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn content_hash(&self) -> io::Result<(u64, u64)> {
        let machine = self.lock();
        let hash = super::hash::content_hash(machine.db(), machine.requests()).map_err(storage)?;
        Ok((machine.applied.log_id.map_or(0, |id| id.index), hash))
    }

    fn publish(&self, machine: &Machine) {
        if let Some(registry) = machine.registry()
            && self.registry.borrow().version != registry.version
        {
            self.registry.send_replace(Arc::new(registry.clone()));
        }
    }

    /// Puts a file from the leader in the place of the database. It may hold more than `meta` says: pages
    /// are read later than the leader was asked; the machine passes over entries that it knows.
    pub(super) fn install(&self, file: &std::path::Path, meta: &SnapshotMeta) -> io::Result<()> {
        if Store::peek(file)?.log_id < meta.last_log_id {
            return Err(io::Error::other("the snapshot holds less than it says"));
        }
        let db = self.store.replace(file)?;
        let machine = Machine::new(db, self.group)?;
        self.publish(&machine);
        *self.lock() = machine;
        Ok(())
    }
}

pub(super) fn meta_of(applied: &Applied) -> SnapshotMeta {
    SnapshotMeta { last_log_id: applied.log_id, last_membership: applied.membership.clone() }
}

impl<C: Consensus> RaftStateMachine<C> for StateMachine<C> {
    type SnapshotData = SnapshotSource;
    type SnapshotBuilder = Compaction;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let machine = self.handle.lock();
        Ok((machine.applied.log_id, machine.applied.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<C>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(MAX_BATCH_ENTRIES);
        while let Some(batch) = batches.next().await {
            let (mut entries, mut responders) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
            for item in batch {
                let (entry, responder) = item?;
                entries.push(entry);
                responders.push(responder);
            }
            let waited_for = entries.iter().zip(&responders).filter_map(|(entry, r)| r.as_ref().map(|_| entry));
            let (writes, begun) = (self.handle.count_proposed(waited_for), Instant::now());
            let outcomes = block(self.handle.store.executor(), || {
                let mut machine = self.handle.lock();
                self.handle.store.restart_wal(machine.db())?;
                let outcomes = machine.apply(&entries)?;
                self.handle.publish(&machine);
                io::Result::Ok(outcomes)
            })?;
            self.handle.stages.observe_all(Stage::Apply, begun.elapsed(), writes);
            for (responder, outcome) in responders.into_iter().zip(outcomes) {
                if let Some(responder) = responder {
                    responder.send(outcome);
                }
            }
            self.handle.store.check_wal();
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Compaction {
        Compaction { store: Arc::clone(&self.handle.store) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, source: SnapshotSource) -> Result<(), io::Error> {
        match source {
            SnapshotSource::File(file) => block(self.handle.store.executor(), || self.handle.install(&file, meta)),
            // Our own database is where a local snapshot already is.
            SnapshotSource::Local(source) if Arc::ptr_eq(&source.0, &self.handle.store) => Ok(()),
            // A replica in the same process: its pages take the same way as over the network.
            SnapshotSource::Local(source) => block(self.handle.store.executor(), || {
                let mut outgoing = Outgoing::open(&source.0)?;
                let mut incoming = Incoming::create(self.handle.store.folder(), 0)?;
                while let Some(chunk) = outgoing.next_chunk()? {
                    incoming.write(&chunk)?;
                }
                self.handle.install(&incoming.finish(outgoing.digest())?, meta)
            }),
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<StateSnapshot>, io::Error> {
        let durable = self.handle.store.durable();
        Ok(durable.log_id.is_some().then(|| Snapshot {
            meta: meta_of(&durable),
            snapshot: SnapshotSource::Local(LocalSource(Arc::clone(&self.handle.store))),
        }))
    }
}

/// Makes a "snapshot": nothing is copied; what is applied becomes durable, so that the log up to it
/// may be purged.
pub struct Compaction {
    store: Arc<Store>,
}

impl<C: Consensus> RaftSnapshotBuilder<C> for Compaction {
    type SnapshotData = SnapshotSource;

    async fn build_snapshot(&mut self) -> Result<StateSnapshot, io::Error> {
        let durable = block(self.store.executor(), || self.store.make_durable())?;
        Ok(Snapshot { meta: meta_of(&durable), snapshot: SnapshotSource::Local(LocalSource(Arc::clone(&self.store))) })
    }
}
