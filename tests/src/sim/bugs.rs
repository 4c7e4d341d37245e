//! Bugs that are put in on purpose: a checker is trusted once it has caught them.
//!
//! Each is a wrapper around the real thing that breaks one promise; the product's code has no hooks.

use std::any::Any;
use std::io;
use std::sync::Arc;

use flotilla_node::log::{Disk, DiskFile, SimDisk};

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log's disk says that it has synced, and has not.
    LyingSync,
    /// A vote is kept in memory only.
    VoteNotPersisted,
    /// The log calls an append durable as soon as it is queued.
    DurableTooEarly,
    /// The network tells the leader that an append succeeded before the follower has it.
    AckBeforeAppend,
    /// The state machine forgets request ids.
    NoDedupe,
    /// Request ids do not travel with a snapshot.
    SnapshotWithoutRequests,
    /// A page that was damaged on the way is not noticed.
    DamagedPage,
    /// Replicas draw their own randomness.
    OwnRandomness,
    /// Replicas use their own clock.
    OwnClock,
    /// Compaction says that the state is durable without having synced it.
    PurgeBeforeDurable,
    /// A replica that believes to lead answers linearizable reads at once.
    ReadWithoutConfirmation,
    /// A write is acknowledged before it is committed.
    AckBeforeCommit,
    /// A follower leaves out a write now and then.
    SkipsWrites,
    /// A restarted leader goes on leading in its old term, though its disk may hold less than what the
    /// others committed.
    LeaderRestored,
    /// A restarted replica votes at once, though it may have promised a leader its lease.
    VotesAtOnce,
}

impl Bug {
    /// What the checks say once they notice it.
    pub fn symptoms(self) -> &'static [&'static str] {
        match self {
            Self::LyingSync => &["the log of", "lost mark"],
            Self::VoteNotPersisted => &["voted for"],
            Self::DurableTooEarly => &["is lost", "was committed", "panic", "went back"],
            Self::AckBeforeAppend => &["was committed", "is lost", "panic"],
            Self::NoDedupe => &["was answered", "more than once"],
            Self::SnapshotWithoutRequests | Self::DamagedPage | Self::OwnRandomness => &["the content of replica"],
            Self::OwnClock | Self::SkipsWrites => &["the content of replica"],
            Self::PurgeBeforeDurable => &["the database needs entry"],
            Self::ReadWithoutConfirmation | Self::VotesAtOnce => &["a linearizable read"],
            Self::AckBeforeCommit => &["is lost"],
            Self::LeaderRestored => &["was committed"],
        }
    }

    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::LyingSync,
        Self::VoteNotPersisted,
        Self::DurableTooEarly,
        Self::AckBeforeAppend,
        Self::NoDedupe,
        Self::SnapshotWithoutRequests,
        Self::DamagedPage,
        Self::OwnRandomness,
        Self::OwnClock,
        Self::PurgeBeforeDurable,
        Self::ReadWithoutConfirmation,
        Self::AckBeforeCommit,
        Self::SkipsWrites,
        Self::LeaderRestored,
        Self::VotesAtOnce,
    ];
}

/// A disk whose syncs of files do nothing.
pub struct LyingDisk(pub SimDisk);

struct LyingFile(Arc<dyn DiskFile>);

impl Disk for LyingDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.0.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile(self.0.create(name, len)?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile(self.0.open(name)?)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
}

impl DiskFile for LyingFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
}
