//! What clients may not run: SQLite's authorizer, limits and the step count.
//!
//! Decisions depend on the statement and constants alone, so all replicas agree. SQLite asks when it
//! prepares a statement, and again when a cached one must be prepared anew; so the mode is set around
//! running, not only around preparing. A cached statement that is still valid is *not* asked about:
//! therefore the statements of each mode live under texts of their own ([`Guard::prepare`]), or the
//! text `COMMIT` of a client would find the one that we prepared for ourselves.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use flotilla_shared::closed::{is_check_pragma, is_closed_function, is_internal, is_read_pragma};
use flotilla_shared::error::{Code, Error};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{CachedStatement, Connection, Statement, ffi};

/// Longest SQL text, in bytes.
pub const MAX_SQL_BYTES: i32 = 1 << 20;

/// Longest text of a statement that stays prepared. Prepared it takes some ten times as much, and a connection keeps
/// hundreds; longer ones mostly hold values, and do not come again. A thousand rows of arguments fit.
const MAX_KEPT_SQL_BYTES: usize = 16 << 10;

/// Largest value and row, in bytes: a few of them must fit a log entry and a frame.
pub const MAX_VALUE_BYTES: i32 = 16 << 20;

/// Steps of SQLite's virtual machine that one statement inside apply may take: some tens of seconds.
/// Counted, not timed, so that every replica stops at the same step.
pub const MAX_STEPS: u32 = 1_000_000_000;

/// Steps between two looks at the count.
pub const STEPS_PER_CHECK: i32 = 1_000_000;

/// What SQLite itself runs inside `ALTER TABLE … ADD COLUMN`, to check existing rows.
const SCHEMA_PRAGMA: &str = "quick_check";

/// Who runs statements just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// We do.
    Open,
    /// A client's write.
    Write,
    /// A schema job.
    Schema,
    /// A client's read. May name writes, so that the answer can be that it is not a read; its
    /// connection cannot write.
    Read,
}

impl Mode {
    /// What a statement's text begins with in the cache of prepared statements.
    fn mark(self) -> &'static str {
        match self {
            Self::Open => "",
            Self::Write => "/*w*/",
            Self::Schema => "/*s*/",
            Self::Read => "/*r*/",
        }
    }
}

/// The guard of one connection.
#[derive(Clone)]
pub struct Guard(Arc<State>);

struct State {
    mode: AtomicU8,
    checks: AtomicU32,
    max_steps: AtomicU32,
    denied: AtomicBool,
    /// The statement being prepared drops something; SQLite's own part of that reads root pages.
    dropping: AtomicBool,
}

impl Guard {
    /// Sets limits and puts the guard before a connection.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn install(db: &mut Connection) -> rusqlite::Result<Self> {
        db.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_SQL_BYTES)?;
        db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
        db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        db.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
        db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        let state = Arc::new(State {
            mode: AtomicU8::new(Mode::Open as u8),
            checks: AtomicU32::new(0),
            max_steps: AtomicU32::new(MAX_STEPS),
            denied: AtomicBool::new(false),
            dropping: AtomicBool::new(false),
        });
        let asked = Arc::clone(&state);
        db.authorizer(Some(move |context: AuthContext<'_>| match asked.allows(&context) {
            true => Authorization::Allow,
            false => {
                asked.denied.store(true, Ordering::Relaxed);
                Authorization::Deny
            }
        }))?;
        Ok(Self(state))
    }

    /// Stops a client's statement after [`MAX_STEPS`]. For the connection on which entries are
    /// applied. Our own statements are not counted: nothing ever resets their count.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn limit_steps(&self, db: &mut Connection) -> rusqlite::Result<()> {
        let state = Arc::clone(&self.0);
        db.progress_handler(
            STEPS_PER_CHECK,
            Some(move || {
                let max_checks = state.max_steps.load(Ordering::Relaxed) / STEPS_PER_CHECK as u32;
                state.mode.load(Ordering::Relaxed) != Mode::Open as u8
                    && state.checks.fetch_add(1, Ordering::Relaxed) >= max_checks
            }),
        )
    }

    /// Another limit than [`MAX_STEPS`], so that a test need not wait for it.
    #[cfg(test)]
    pub fn set_max_steps(&self, steps: u32) {
        self.0.max_steps.store(steps, Ordering::Relaxed);
    }

    /// Runs `work` in a mode.
    pub fn within<T>(&self, mode: Mode, work: impl FnOnce() -> T) -> T {
        self.0.denied.store(false, Ordering::Relaxed);
        self.0.dropping.store(false, Ordering::Relaxed);
        self.0.checks.store(0, Ordering::Relaxed);
        let before = self.0.mode.swap(mode as u8, Ordering::Relaxed);
        let result = work();
        self.0.mode.store(before, Ordering::Relaxed);
        result
    }

    /// Prepares a client's statement, or finds it prepared in this mode, and starts its step count.
    ///
    /// # Errors
    /// What SQLite says; [`Self::explain`] turns it into an answer.
    pub fn prepare<'db>(&self, db: &'db Connection, mode: Mode, sql: &str) -> rusqlite::Result<Prepared<'db>> {
        if is_blank(sql) {
            // SQLite prepares it as nothing at all, and its words about that are those of an earlier error.
            let misuse = ffi::Error::new(ffi::SQLITE_MISUSE);
            return Err(rusqlite::Error::SqliteFailure(misuse, Some("there is no statement".into())));
        }
        let statement = db.prepare_cached(&format!("{}{sql}", mode.mark()))?;
        // A cached statement has counted what it ran before; the limit must fall on the same step on
        // every replica.
        statement.reset_status(rusqlite::StatementStatus::VmStep);
        self.0.checks.store(0, Ordering::Relaxed);
        Ok(Prepared { statement: Some(statement), keep: sql.len() <= MAX_KEPT_SQL_BYTES })
    }

    /// What to answer for an error of a statement that ran [`Self::within`] a mode.
    pub fn explain(&self, error: &rusqlite::Error) -> Error {
        let reply = Error::from_sqlite(error);
        match self.0.denied.load(Ordering::Relaxed) {
            true => Error::new(Code::Forbidden, reply.message)
                .hint("ATTACH, transactions, most PRAGMAs and internal tables are not open to clients"),
            false => reply,
        }
    }
}

/// A client's statement, ready to run.
pub struct Prepared<'db> {
    /// There until the end.
    statement: Option<CachedStatement<'db>>,
    keep: bool,
}

impl<'db> Deref for Prepared<'db> {
    type Target = Statement<'db>;

    fn deref(&self) -> &Statement<'db> {
        self.statement.as_ref().expect("there until it is dropped")
    }
}

impl<'db> DerefMut for Prepared<'db> {
    fn deref_mut(&mut self) -> &mut Statement<'db> {
        self.statement.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if !self.keep
            && let Some(statement) = self.statement.take()
        {
            statement.discard();
        }
    }
}

/// Is there nothing but space, semicolons and comments?
fn is_blank(sql: &str) -> bool {
    let mut rest = sql.split('\0').next().unwrap_or_default();
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\x0c', '\r', ';', '\u{feff}']);
        rest = match (rest.strip_prefix("--"), rest.strip_prefix("/*")) {
            (Some(comment), _) => comment.split_once('\n').map_or("", |(_, after)| after),
            (_, Some(comment)) => comment.split_once("*/").map_or("", |(_, after)| after),
            _ => return rest.is_empty(),
        };
    }
}

/// Is this error the step limit?
pub fn is_step_limit(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _) if failure.extended_code == ffi::SQLITE_INTERRUPT)
}

fn is_any(name: &str, names: &[&str]) -> bool {
    names.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Tables that show pages; and our own.
fn is_closed(table: &str) -> bool {
    is_internal(table) || is_any(table, &["sqlite_dbpage", "dbstat"])
}

/// Where a table's root page is depends on which pages were free, which replicas need not share.
fn is_root_page(table: &str, column: &str) -> bool {
    column.eq_ignore_ascii_case("rootpage")
        && is_any(table, &["sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"])
}

/// Statistics steer plans, and a replica that restarts reads them at another time than one that did
/// not; two plans may insert rows in two orders.
fn is_statistics(table: &str) -> bool {
    is_any(table, &["sqlite_stat1", "sqlite_stat3", "sqlite_stat4"])
}

impl State {
    fn allows(&self, context: &AuthContext<'_>) -> bool {
        use AuthAction as A;
        let mode = self.mode.load(Ordering::Relaxed);
        if mode == Mode::Open as u8 {
            return true;
        }
        let read = mode == Mode::Read as u8;
        let schema = read || mode == Mode::Schema as u8;
        match context.action {
            A::Select | A::Recursive => true,
            A::Read { table_name, column_name } => {
                let root_page = is_root_page(table_name, column_name);
                !is_closed(table_name) && (read || !root_page || self.dropping.load(Ordering::Relaxed))
            }
            A::Function { function_name } => !is_closed_function(function_name),
            A::Pragma { pragma_name, .. } => match read {
                true => is_read_pragma(pragma_name) || is_check_pragma(pragma_name),
                false => schema && pragma_name.eq_ignore_ascii_case(SCHEMA_PRAGMA),
            },
            A::Insert { table_name } | A::Delete { table_name } | A::Update { table_name, .. } => {
                !is_closed(table_name) && (read || !is_statistics(table_name))
            }
            A::CreateTable { table_name } | A::AlterTable { table_name, .. } => schema && !is_closed(table_name),
            A::CreateIndex { index_name: name, table_name } | A::CreateTrigger { trigger_name: name, table_name } => {
                schema && !is_internal(name) && !is_closed(table_name)
            }
            A::CreateView { view_name } => schema && !is_internal(view_name),
            A::DropTable { table_name } | A::DropIndex { table_name, .. } | A::DropTrigger { table_name, .. } => {
                self.dropping.store(true, Ordering::Relaxed);
                schema && !is_closed(table_name)
            }
            A::DropView { .. } | A::Reindex { .. } => schema,
            A::Analyze { .. } => read,
            _ => false,
        }
    }
}
