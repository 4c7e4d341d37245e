//! The host: replicas of groups on this node.
//!
//! The [manifest](crate::manifest) says which. It is written before a replica starts, so a replica that ever voted is
//! never forgotten.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use std::{fs, io};

use flotilla_shared::budget::Budget;
use flotilla_shared::client::Cluster;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, NodeId, ReplicaId, RequestId};
use flotilla_shared::leaders::BalancerStatus;
use flotilla_shared::wire::{Identity, NodeStatus, ReplicaStatus};
use futures::future::join_all;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::consensus::{Types, raft_config};
use crate::handover::hand_over;
use crate::jobs::heard::Heard;
use crate::log::{GroupLog, RealDisk, Wal, WalOptions, WriterThread};
use crate::manifest::{BUILD, DATA_FORMAT, Manifest};
use crate::network::Network;
use crate::options::NodeOptions;
use crate::propose::{MAX_GROUP_WAITING_BYTES, MAX_WAITING, MAX_WAITING_BYTES, Proposal, propose_writes};
use crate::pulse::{Ear, Heart, Pulse};
use crate::read::Reads;
use crate::state::machine::StateHandle;
use crate::state::{Executor, StateMachine, Store};
use crate::streams::{self, MAX_STREAMS};

/// openraft's handle of one replica.
pub type Raft = openraft::Raft<Types, StateMachine<Types>>;

/// Blocking work of replicas on tokio's threads.
struct Threads;

impl Executor for Threads {
    fn block(&self, work: &mut dyn FnMut()) {
        tokio::task::block_in_place(work);
    }

    fn spawn(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }
}

/// One replica at work.
pub struct Replica {
    group: GroupId,
    id: ReplicaId,
    raft: Raft,
    state: StateHandle,
    proposals: mpsc::Sender<Proposal>,
    waiting: Arc<Budget>,
    reads: Reads,
    votes_from: Instant,
    caught_up: AtomicBool,
    ear: Ear,
}

impl Replica {
    /// Its group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Its raft id.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// openraft's handle.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Its database.
    pub fn state(&self) -> &StateHandle {
        &self.state
    }

    /// The queue of writes.
    pub fn proposals(&self) -> &mpsc::Sender<Proposal> {
        &self.proposals
    }

    /// Room for the bytes of writes that wait for it.
    pub fn waiting(&self) -> &Arc<Budget> {
        &self.waiting
    }

    /// The queues of reads.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// After a restart a replica keeps its vote back for one election timeout: it may have promised
    /// it to a leader that still relies on the lease, and the promise is not on disk.
    pub fn may_vote(&self) -> bool {
        Instant::now() >= self.votes_from
    }

    /// Since its node was started, has it held at some moment what its leader had committed?
    pub fn caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Relaxed)
    }

    /// Notes that it has.
    pub fn has_caught_up(&self) {
        self.caught_up.store(true, Ordering::Relaxed);
    }

    /// Notes that it follows a leader that has just spoken.
    pub fn hears_leader(&self) {
        self.ear.hears();
    }

    /// Does this replica lead, as far as it knows?
    pub fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    fn status(&self) -> ReplicaStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let members = metrics.membership_config.membership();
        let leader = metrics.current_leader.and_then(|id| members.get_node(&id).map(|peer| peer.node));
        let role = match (metrics.running_state.is_ok(), metrics.state) {
            (false, _) | (_, ServerState::Shutdown) => "stopped",
            (_, ServerState::Leader) => "leader",
            (_, ServerState::Follower) => "follower",
            (_, ServerState::Learner) => "learner",
            (_, ServerState::Candidate) => "candidate",
        };
        ReplicaStatus {
            group: self.group,
            replica: self.id,
            role: role.to_owned(),
            leader,
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: metrics.local_committed.map_or(0, |id| id.index),
            applied: metrics.last_applied.map_or(0, |id| id.index),
            purged: metrics.purged.map_or(0, |id| id.index),
            voters: members.voter_ids().map(ReplicaId).collect(),
        }
    }
}

impl Heart for Replica {
    async fn beat(&self) -> bool {
        let leads = self.leads();
        self.raft.runtime_config().tick(!leads && !self.ear.heard());
        !leads || self.raft.trigger().heartbeat().await.is_ok()
    }
}

/// All replicas of this node.
pub struct Host {
    options: NodeOptions,
    folder: PathBuf,
    wal: Wal,
    cluster: Arc<Cluster>,
    manifest: Mutex<Manifest>,
    replicas: RwLock<HashMap<GroupId, Arc<Replica>>>,
    changing: tokio::sync::Mutex<()>,
    stopping: AtomicBool,
    stopped: watch::Sender<bool>,
    streams: Arc<Semaphore>,
    waiting: Arc<Budget>,
    balancer: Mutex<Option<BalancerStatus>>,
    heard: Heard,
    pulse: Pulse,
    _writer: WriterThread,
}

impl Host {
    /// Opens the data folder and starts the replicas that its manifest names.
    ///
    /// # Errors
    /// What the disk says, a damaged log, a folder in use.
    pub async fn open(options: NodeOptions, cluster: Arc<Cluster>) -> io::Result<Arc<Self>> {
        let folder = options.data.clone();
        fs::create_dir_all(folder.join("groups"))?;
        let disk = RealDisk::new(folder.join("wal"))?;
        // Before anything of a folder is changed that a later program has written.
        Manifest::read(&folder)?;
        let wal_options = WalOptions { fsync_delay: options.fsync_delay, ..WalOptions::default() };
        let (wal, writer) = Wal::open(Arc::new(disk), wal_options).map_err(io::Error::other)?;
        // Read again, now that no other process has the folder.
        let mut manifest = Manifest::read(&folder)?;
        if (manifest.format, manifest.build.as_str()) != (DATA_FORMAT, BUILD) {
            if manifest.instance == 0 {
                manifest.instance = RequestId::random().0;
            }
            (manifest.format, manifest.build) = (DATA_FORMAT, BUILD.to_owned());
            manifest.write(&folder)?;
        }
        let host = Arc::new(Self {
            folder,
            wal,
            cluster,
            manifest: Mutex::new(manifest.clone()),
            replicas: RwLock::default(),
            changing: tokio::sync::Mutex::new(()),
            stopping: AtomicBool::new(false),
            stopped: watch::channel(false).0,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            waiting: Budget::new(MAX_WAITING_BYTES),
            balancer: Mutex::default(),
            heard: Heard::default(),
            pulse: Pulse::start(options.heartbeat_interval),
            _writer: writer.spawn()?,
            options,
        });
        host.clear_left_over(&manifest).await?;
        for (group, replica) in manifest.replicas {
            host.start(group, replica, true).await?;
        }
        Ok(host)
    }

    /// A crash while a replica was dropped leaves its log or its folder. The next replica of that group
    /// must not find the votes and entries of the one before.
    async fn clear_left_over(&self, manifest: &Manifest) -> io::Result<()> {
        for group in self.wal.groups() {
            if !manifest.replicas.iter().any(|(known, _)| *known == group) {
                self.wal.remove_group(group).await.map_err(io::Error::other)?;
            }
        }
        let known: Vec<PathBuf> = manifest.replicas.iter().map(|(group, id)| self.group_folder(*group, *id)).collect();
        for entry in fs::read_dir(self.folder.join("groups"))? {
            let path = entry?.path();
            if !known.contains(&path) {
                tracing::info!(folder = %path.display(), "removing what a dropped replica left");
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// The settings.
    pub fn options(&self) -> &NodeOptions {
        &self.options
    }

    /// The client that this node uses to talk to others.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Places for reads that are answered in pieces.
    pub fn streams(&self) -> &Arc<Semaphore> {
        &self.streams
    }

    /// Room for the bytes of writes that wait.
    pub fn waiting(&self) -> &Arc<Budget> {
        &self.waiting
    }

    /// Which nodes were heard of.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// The shared log.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        let manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        Identity {
            node: if manifest.cluster == 0 { self.options.id } else { manifest.node },
            instance: manifest.instance,
            cluster: manifest.cluster,
            raft_addr: self.options.raft.clone(),
            http_addr: self.options.http.clone(),
            zone: self.options.zone.clone(),
            groups: self.options.groups.clone(),
        }
    }

    /// The replica of a group, if it is hosted here.
    pub fn replica(&self, group: GroupId) -> Option<Arc<Replica>> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// All replicas hosted here.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        let mut replicas: Vec<_> =
            self.replicas.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        replicas.sort_by_key(|replica| replica.group);
        replicas
    }

    /// The replica of a group.
    ///
    /// # Errors
    /// [`Code::NotLeader`]: a node that hosts none certainly does not lead.
    pub fn hosted(&self, group: GroupId) -> Result<Arc<Replica>, Error> {
        self.replica(group).ok_or_else(|| Error {
            message: format!("this node hosts no replica of {group}"),
            ..Error::not_leader(self.cluster.leader(group))
        })
    }

    /// State for `/status`.
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            identity: self.identity(),
            replicas: self.replicas().iter().map(|replica| replica.status()).collect(),
            stopping: self.stopping.load(Ordering::Relaxed),
            balancer: self.balancer.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Notes what the balancer of leaders does.
    pub fn balancing(&self, change: impl FnOnce(&mut Option<BalancerStatus>)) {
        change(&mut self.balancer.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes which cluster this node belongs to.
    ///
    /// # Errors
    /// [`Code::WrongPeer`] when it belongs to another one, or what the disk says.
    pub fn adopt(&self, cluster: u128, node: NodeId) -> Result<(), Error> {
        self.change_manifest(|manifest| {
            if manifest.cluster != 0 && (manifest.cluster, manifest.node) != (cluster, node) {
                return Err(Error::new(
                    Code::WrongPeer,
                    format!("this node is node {} of cluster {:x}", manifest.node, manifest.cluster),
                ));
            }
            (manifest.cluster, manifest.node) = (cluster, node);
            Ok(())
        })
    }

    /// Makes and starts a replica unless it is here.
    ///
    /// # Errors
    /// [`Code::Conflict`] when another replica of the group is here, or what the disk says.
    pub async fn create_replica(self: &Arc<Self>, group: GroupId, id: ReplicaId) -> Result<(), Error> {
        let _changing = self.changing.lock().await;
        // Asked by a driver that fell behind: nobody would ever drop it.
        if self.cluster.registry().is_gone(group) {
            return Err(Error::new(Code::NoSuchObject, format!("{group} has left the cluster")));
        }
        if let Some(present) = self.replica(group) {
            return match present.id == id {
                true => Ok(()),
                false => Err(Error::new(Code::Conflict, format!("replica {} of {group} is here already", present.id))),
            };
        }
        self.change_manifest(|manifest| {
            manifest.replicas.push((group, id));
            Ok(())
        })?;
        self.start(group, id, false).await.map_err(|error| Error::new(Code::Storage, error.to_string()))
    }

    /// Stops a replica and deletes what it holds.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn drop_replica(&self, group: GroupId, id: ReplicaId) -> Result<(), Error> {
        let _changing = self.changing.lock().await;
        let Some(replica) = self.replica(group).filter(|replica| replica.id == id) else { return Ok(()) };
        self.replicas.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
        replica.raft.shutdown().await.ok();
        self.change_manifest(|manifest| {
            manifest.replicas.retain(|(_, replica)| *replica != id);
            Ok(())
        })?;
        self.wal.remove_group(group).await.map_err(|error| Error::new(Code::Storage, error.to_string()))?;
        fs::remove_dir_all(self.group_folder(group, id)).map_err(|error| Error::new(Code::Storage, error.to_string()))
    }

    fn group_folder(&self, group: GroupId, id: ReplicaId) -> PathBuf {
        self.folder.join("groups").join(format!("{group}-{id}"))
    }

    async fn start(self: &Arc<Self>, group: GroupId, id: ReplicaId, restarted: bool) -> io::Result<()> {
        let folder = self.group_folder(group, id);
        let (store, db) = Store::open(&folder, Arc::new(Threads), self.options.readers)?;
        let stages = self.wal.stats().stages.clone();
        let state = StateHandle::open(store, db, group)?.counting(stages.clone());
        let config = raft_config(&self.options, group).validate().map_err(io::Error::other)?;
        let network = Network::new(Arc::clone(&self.cluster), group);
        let mut log: GroupLog<Types> = GroupLog::new(self.wal.clone(), group);
        let applied = state.lock().applied.log_id;
        log.drop_contradicted(applied).await?;
        let raft = Raft::new(id.0, Arc::new(config), network, log, state.machine()).await.map_err(io::Error::other)?;
        let (proposals, waiting_writes) = mpsc::channel(MAX_WAITING);
        tokio::spawn(propose_writes(raft.clone(), waiting_writes, stages.clone()));
        let reads = Reads::start(group, &raft, state.store(), &stages, &self.cluster);
        let hold = if restarted { self.options.election_timeout_max } else { Duration::ZERO };
        let votes_from = Instant::now() + hold;
        // A replica that is new to a group is waited for by the job that adds it, not by /readyz.
        let caught_up = AtomicBool::new(!restarted);
        let ear = Ear::new(self.options.heartbeat_interval, self.options.election_timeout_min);
        let waiting = Budget::new(MAX_GROUP_WAITING_BYTES);
        let replica = Replica { group, id, raft, state, proposals, waiting, reads, votes_from, caught_up, ear };
        let replica = Arc::new(replica);
        self.pulse.join(&replica);
        tracing::info!(%group, replica = %id, "replica started");
        self.replicas.write().unwrap_or_else(PoisonError::into_inner).insert(group, replica);
        Ok(())
    }

    fn change_manifest(&self, change: impl FnOnce(&mut Manifest) -> Result<(), Error>) -> Result<(), Error> {
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = manifest.clone();
        change(&mut changed)?;
        changed.write(&self.folder).map_err(|error| Error::new(Code::Storage, error.to_string()))?;
        *manifest = changed;
        Ok(())
    }

    /// How long a follower may have been silent to be trusted with leadership.
    pub fn silence_limit(&self) -> Duration {
        self.options.election_timeout_min
    }

    /// Hands leadership to other replicas where there are any, then stops all replicas.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let replicas = self.replicas();
        let leading = replicas.iter().filter(|replica| replica.leads());
        // Where nobody can take over, the group elects when this node is gone.
        join_all(leading.map(|replica| hand_over(replica, None, self.silence_limit()))).await;
        streams::drain(&self.streams).await;
        join_all(replicas.iter().map(|replica| replica.raft.shutdown())).await;
        self.stopped.send_replace(true);
    }

    /// Waits until the replicas have been stopped; then nothing that still waits will be answered.
    pub async fn stopped(&self) {
        // The sender lives as long as the host.
        self.stopped.subscribe().wait_for(|stopped| *stopped).await.ok();
    }
}
