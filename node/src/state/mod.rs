//! The state machine: one SQLite file per group.
//!
//! **Input**: committed entries, in order, from openraft. **Output**: one answer per entry, and rows
//! for reads ([`reads`]). What the pieces are, in the order in which an entry meets them:
//! [`machine`] takes a batch of entries from openraft; [`apply`] runs it inside one SQLite
//! transaction, with [`statements`] for clients, [`steps`] for jobs, [`copies`] for reference tables, [`scripts`] for transactions that change the schema, and
//! [`moves`] for slots on their way; [`world`] and [`vfs`] give it the
//! time and randomness of its entry and nothing else; [`guard`] refuses what no client may run;
//! [`requests`] remembers what was applied; [`ownership`] knows which slots are ours; [`store`] opens
//! the file and makes it durable; [`pages`] streams it to a follower.
//!
//! # Invariants
//! 1. A transaction holds the effects of a batch *and* its last log id, so the file always is the
//!    state after some entry, never between two.
//! 2. Apply does not sync what it applies (only where a long WAL starts over). A crash may lose the
//!    latest transactions; the log still has their entries, because entries are purged only up to an
//!    index that [`store::Store::make_durable`] has synced.
//! 3. Apply is a pure function of state and entry. A SQL error is an answer; an I/O error stops the
//!    replica.
//! 4. What cannot be undone statement by statement (a conflict clause that rolls the transaction
//!    back or keeps a part, a step limit, a deferred foreign key) makes the entry start over with that
//!    write marked as failed; a batch boundary is never visible in the result.
//! 5. What SQLite keeps in a connection (prepared statements, counters, statistics, the order of its
//!    hash tables) is not state: a replica that restarted lacks it, so nothing a write can see or store
//!    may depend on it.

pub mod apply;
pub mod copies;
pub mod generations;
pub mod guard;
pub mod hash;
pub mod machine;
pub mod moves;
pub mod ownership;
pub mod pages;
pub mod reads;
pub mod requests;
pub mod scripts;
pub mod slot_function;
pub mod statements;
pub mod steps;
pub mod store;
pub mod vfs;
pub mod world;

#[cfg(test)]
pub(crate) mod tests;

pub use machine::{SnapshotSource, StateMachine};
pub use store::{Executor, Inline, Store};
