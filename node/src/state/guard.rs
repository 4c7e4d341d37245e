//! What clients may not run: SQLite's authorizer, limits and the step count.
//!
//! Decisions depend on the statement and constants alone, so all replicas agree. Our own statements
//! run with the guard [`Mode::Open`]; SQLite asks again whenever it prepares a cached statement anew,
//! so the mode is set around running, not only around preparing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ffi};

/// Longest SQL text, in bytes.
pub const MAX_SQL_BYTES: i32 = 1 << 20;

/// Largest value and row, in bytes: a few of them must fit a log entry and a frame.
pub const MAX_VALUE_BYTES: i32 = 16 << 20;

/// Steps of SQLite's virtual machine that one statement inside apply may take: some tens of seconds.
/// Counted, not timed, so that every replica stops at the same step.
pub const MAX_STEPS: u32 = 1_000_000_000;

/// Steps between two looks at the count.
pub const STEPS_PER_CHECK: i32 = 1_000_000;

/// Prefix of our own tables.
pub const INTERNAL_PREFIX: &str = "_flotilla_";

/// PRAGMAs that only tell about the schema.
const READ_PRAGMAS: &[&str] = &[
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "function_list",
    "collation_list",
    "module_list",
    "pragma_list",
];

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
    /// A client's read.
    Read,
}

/// The guard of one connection.
#[derive(Clone)]
pub struct Guard {
    mode: Arc<AtomicU8>,
    checks: Arc<AtomicU32>,
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
        let guard = Self { mode: Arc::new(AtomicU8::new(Mode::Open as u8)), checks: Arc::default() };
        let mode = Arc::clone(&guard.mode);
        db.authorizer(Some(move |context: AuthContext<'_>| {
            let mode = mode.load(Ordering::Relaxed);
            if mode == Mode::Open as u8 || allowed(mode, &context) { Authorization::Allow } else { Authorization::Deny }
        }))?;
        Ok(guard)
    }

    /// Stops a statement after [`MAX_STEPS`]. For the connection on which entries are applied.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn limit_steps(&self, db: &mut Connection) -> rusqlite::Result<()> {
        let checks = Arc::clone(&self.checks);
        db.progress_handler(
            STEPS_PER_CHECK,
            Some(move || checks.fetch_add(1, Ordering::Relaxed) >= MAX_STEPS / STEPS_PER_CHECK as u32),
        )
    }

    /// Runs `work` in a mode, with a fresh step count.
    pub fn within<T>(&self, mode: Mode, work: impl FnOnce() -> T) -> T {
        self.checks.store(0, Ordering::Relaxed);
        let before = self.mode.swap(mode as u8, Ordering::Relaxed);
        let result = work();
        self.mode.store(before, Ordering::Relaxed);
        result
    }
}

/// Makes a cached statement count its steps from zero, so that the limit falls on the same step on
/// every replica, whatever the statement has run before.
pub fn reset_step_count(statement: &rusqlite::Statement<'_>) {
    statement.reset_status(rusqlite::StatementStatus::VmStep);
}

/// Is this error the step limit?
pub fn is_step_limit(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _) if failure.extended_code == ffi::SQLITE_INTERRUPT)
}

fn is_internal(table: &str) -> bool {
    let bytes = table.as_bytes();
    let prefix = INTERNAL_PREFIX.as_bytes();
    (bytes.len() >= prefix.len() && bytes[..prefix.len()].eq_ignore_ascii_case(prefix))
        || table.eq_ignore_ascii_case("sqlite_dbpage")
        || table.eq_ignore_ascii_case("dbstat")
}

fn allowed(mode: u8, context: &AuthContext<'_>) -> bool {
    use AuthAction as A;
    let schema = mode == Mode::Schema as u8;
    let writes = schema || mode == Mode::Write as u8;
    match context.action {
        A::Select | A::Recursive => true,
        A::Read { table_name, .. } => !is_internal(table_name),
        A::Function { function_name } => !function_name.eq_ignore_ascii_case("load_extension"),
        A::Pragma { pragma_name, .. } => READ_PRAGMAS.iter().any(|name| name.eq_ignore_ascii_case(pragma_name)),
        A::Insert { table_name } | A::Delete { table_name } | A::Update { table_name, .. } => {
            writes && !is_internal(table_name)
        }
        A::CreateTable { table_name } | A::DropTable { table_name } | A::Analyze { table_name } => {
            schema && !is_internal(table_name)
        }
        A::AlterTable { table_name, .. } => schema && !is_internal(table_name),
        A::CreateIndex { table_name, .. }
        | A::DropIndex { table_name, .. }
        | A::CreateTrigger { table_name, .. }
        | A::DropTrigger { table_name, .. } => schema && !is_internal(table_name),
        A::CreateView { .. } | A::DropView { .. } | A::Reindex { .. } => schema,
        _ => false,
    }
}
