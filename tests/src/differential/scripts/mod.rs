//! Scripts: what `flotilla sql` reads from a file, and lists of statements in one request, compared with what
//! one SQLite database does with the same text.
//!
//! A script has transactions, savepoints, changes of `foreign_keys`, tables that are rebuilt as migrations
//! rebuild them, the same schema text several times, and errors ([`text`]). What must be, in
//! [`mod@run`]: the script does what it does in SQLite, up to its first error; or it is refused and has changed
//! nothing; or a statement outside of a transaction is refused, and what stands before it is done. The exit
//! status says whether all was done.

pub mod run;
pub mod text;

pub use run::{ScriptOptions, ScriptReport, run_scripts};
pub use text::{Script, Way};
