//! The real log behind a wrapper that watches purges, and that can break promises.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_node::consensus::{Entry, LogId, Vote};
use flotilla_node::log::GroupLog;
use flotilla_node::state::Store;
use futures::Stream;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::SimTypes;
use super::bugs::Bug;
use super::world::World;

/// The log of one replica.
#[derive(Clone)]
pub struct SimLog {
    world: Arc<World>,
    node: u64,
    inner: GroupLog<SimTypes>,
    store: Arc<Store>,
    /// With [`Bug::VoteNotPersisted`], the vote that a restart forgets.
    unsaved_vote: Arc<Mutex<Option<Vote>>>,
}

impl SimLog {
    /// Wraps a replica's log.
    pub fn new(world: Arc<World>, node: u64, inner: GroupLog<SimTypes>, store: Arc<Store>) -> Self {
        Self { world, node, inner, store, unsaved_vote: Arc::default() }
    }

    fn unsaved_vote(&self) -> Option<Vote> {
        *self.unsaved_vote.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<SimTypes> for SimLog {
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.inner.entries_stream(range).await
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.inner.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        match self.unsaved_vote() {
            None => self.inner.read_vote().await,
            vote => Ok(vote),
        }
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.inner.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<SimTypes> for SimLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<SimTypes>, io::Error> {
        self.inner.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if self.world.has(Bug::VoteNotPersisted) {
            *self.unsaved_vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
            return Ok(());
        }
        self.inner.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.inner.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.inner.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<SimTypes>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        if self.world.has(Bug::DurableTooEarly) {
            self.inner.append(entries, IOFlushed::noop()).await?;
            callback.io_completed(Ok(()));
            return Ok(());
        }
        self.inner.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.inner.truncate_after(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.world.note(format_args!("{} purges up to {}", self.node, log_id.index));
        let durable = self.store.durable().log_id;
        if durable < Some(log_id) && !self.world.has(Bug::PurgeBeforeDurable) {
            let durable = durable.map_or(0, |id| id.index);
            self.world.violation(format_args!(
                "replica {} purges up to entry {}, and only {durable} is durable",
                self.node, log_id.index
            ));
        }
        self.inner.purge(log_id).await
    }
}
