//! The differential suite: the same statements on Flotilla and on one SQLite database, with equal
//! results or a refusal by name.
//!
//! The life of a run, in [`mod@run`]: for each number of shards a cluster of real processes is started. A
//! run has rounds; a round has a schema by chance ([`schema`], of [`columns`], [`special`] tables,
//! [`values`] and [`indexes`]), rows, and then batches of reads ([`query`], out of [`expr`], [`source`],
//! [`sets`] and [`window`]; [`alike`], [`naming`], [`sums`] and [`limits`] for what is easily taken for
//! something else) and of writes ([`mod@write`] and [`targets`]), each a [`Case`]
//! ([`statement`]) that says how its result is compared. Reads go to the cluster ([`remote`]) and to
//! SQLite ([`local`]); writes go to the cluster first, and to SQLite unless they were refused; then the
//! content of all tables is compared. What is equal is said in [`mod@compare`]. A difference is cut down to
//! a script that shows it ([`shrink`]), and [`report`] counts what was refused, by kind and code. Faults
//! on purpose ([`bugs`]) prove that the comparison notices them. Whole [`scripts`] are compared by what
//! is there after them.
//!
//! Everything follows from the seed, except what concurrency does inside the cluster.

pub mod alike;
pub mod bugs;
pub mod columns;
pub mod compare;
pub mod expr;
pub mod indexes;
pub mod limits;
pub mod local;
pub mod mover;
pub mod naming;
pub mod query;
pub mod remote;
pub mod report;
pub mod run;
pub mod schema;
pub mod scripts;
pub mod sets;
pub mod shrink;
pub mod source;
pub mod special;
pub mod statement;
pub mod sums;
pub mod targets;
pub mod values;
pub mod window;
pub mod write;

pub use compare::{Outcome, Verdict, compare};
pub use local::Local;
pub use remote::Remote;
pub use report::Report;
pub use run::{Options, run};
pub use statement::{Case, Kind, Order, Rule};
