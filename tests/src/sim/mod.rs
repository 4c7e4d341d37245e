//! Deterministic simulation: a group of replicas in one thread, with virtual time and a seed.
//!
//! **Real**: the log ([`flotilla_node::log`]) over a simulated disk, the state machine
//! ([`flotilla_node::state`]) over SQLite and real files, page transfers, and openraft's consensus.
//! **Simulated**: time and tasks (`openraft-rt-sim`), the network ([`network`], [`lane`],
//! [`transfer`]), the disk under the log, what a crash leaves of SQLite's files ([`power`]), and the
//! clients ([`clients`]).
//!
//! The life of a run ([`run`]): the seed chooses a [`Plan`](world::Plan); 3 or 5 nodes start
//! ([`replica`]), form a group and get their tables; clients write and read while [`faults`] cuts
//! links, kills processes and takes the power; then all is mended, clients finish, replicas catch up,
//! and [`checks`] compares what is there with what was promised. Everything that happens is a line in
//! the [`journal`]; the same seed gives the same lines.
//!
//! Writing to SQLite takes no virtual time, so a crash falls between two batches, never into one:
//! SQLite's own atomic commit is taken for granted, as is its checkpoint.

pub mod bugs;
pub mod checks;
pub mod clients;
pub mod faults;
pub mod journal;
pub mod lane;
pub mod log;
pub mod machine;
pub mod network;
pub mod power;
pub mod propose;
pub mod random;
pub mod replica;
pub mod scenario;
pub mod suite;
pub mod transfer;
pub mod world;

pub use bugs::Bug;
pub use scenario::{Report, run};
pub use world::Options;

flotilla_node::consensus_types!(
    /// The types of a simulated replica: those of a node, on a simulated runtime.
    SimTypes,
    openraft_rt_sim::SimRuntime
);

/// openraft's handle of a simulated replica.
pub type Raft = openraft::Raft<SimTypes, machine::SimMachine>;

/// Pause between heartbeats: a quarter of a node's, like all times here.
pub const HEARTBEAT_MS: u64 = 40;

/// Shortest silence of a leader after which a follower stands for election.
pub const ELECTION_MIN_MS: u64 = 150;

/// Longest such silence, and how long a lease lasts.
pub const ELECTION_MAX_MS: u64 = 300;
