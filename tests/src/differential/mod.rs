//! The differential suite: the same statements on Flotilla and on one SQLite database, with equal
//! results or a refusal by name.
//!
//! The life of a run, in [`mod@run`]: for each number of shards a cluster of real processes is started. A
//! run has rounds; a round has a schema by chance ([`schema`]), rows, and then batches of reads
//! ([`query`], out of [`expr`], [`source`], [`sets`] and [`window`]) and of writes ([`mod@write`]), each a [`Case`]
//! ([`statement`]) that says how its result is compared. Reads go to the cluster ([`remote`]) and to
//! SQLite ([`local`]); writes go to the cluster first, and to SQLite unless they were refused; then the
//! content of all tables is compared. What is equal is said in [`mod@compare`]. A difference is cut down to
//! a script that shows it ([`shrink`]), and [`report`] counts what was refused, by kind and code. Faults
//! on purpose ([`bugs`]) prove that the comparison notices them.
//!
//! Everything follows from the seed, except what concurrency does inside the cluster.

pub mod bugs;
pub mod compare;
pub mod expr;
pub mod local;
pub mod mover;
pub mod query;
pub mod remote;
pub mod report;
pub mod run;
pub mod schema;
pub mod sets;
pub mod shrink;
pub mod source;
pub mod statement;
pub mod window;
pub mod write;

pub use compare::{Outcome, Verdict, compare};
pub use local::Local;
pub use remote::Remote;
pub use report::Report;
pub use run::{Options, run};
pub use statement::{Case, Kind, Order, Rule};
