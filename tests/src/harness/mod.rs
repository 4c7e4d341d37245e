//! A cluster of real processes on this machine, to be used and abused by tests.
//!
//! The life of a test: [`Cluster::start`] builds the `flotilla` program once ([`binary`]), chooses
//! free ports ([`ports`]), starts `flotilla node` and `flotilla proxy` processes ([`process`]) with
//! their logs in files, and waits until all are ready. The test talks to proxies through [`Session`]s
//! ([`http`], [`session`]), kills, stops and restarts what it likes, and looks at what is left
//! ([`cluster`], [`content`]). [`dev`] is a cluster in one process, [`script`] one that `deploy/cluster.sh` starts. [`relay`] delays and cuts what nodes
//! send to each other, [`writers`] remember what was acknowledged, [`tpch`] makes the rows of `flotilla
//! bench tpch` and [`load`] brings them in. [`accounts`] are read and changed while their slots move, [`owners`]
//! tells who owns these by each replica's own table. In a [`walk`] along the steps of a job its driver waits at each.
//!
//! A cluster has the machine for itself: those of one test program run one after the other, because
//! tests measure and time out. When a test fails the ends of all logs are printed. Processes end with
//! their [`Cluster`]; only those that it started are signalled.

pub mod accounts;
pub mod binary;
pub mod cluster;
pub mod content;
pub mod dev;
pub mod http;
pub mod load;
pub mod owners;
pub mod ports;
pub mod process;
#[path = "../../../deploy/src/commands/bench/own/relay.rs"]
pub mod relay;
pub mod script;
pub mod session;
#[path = "../../../deploy/src/commands/bench/tpch/data.rs"]
pub mod tpch;
pub mod wait;
pub mod walk;
pub mod writers;

pub use cluster::{Cluster, Layout};
pub use dev::Dev;
pub use http::{Client, Reply};
pub use process::Process;
pub use session::{Session, Trouble};
pub use wait::eventually;
