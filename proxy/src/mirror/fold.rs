//! Constant expressions, computed by SQLite itself.
//!
//! Input: an expression with numbered parameters, and its arguments. Output: its value, or `None` when
//! it is not the same each time it is computed (`random()`, the clock), reads a table, or fails: then a
//! shard says why.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_shared::sqlite;
use flotilla_shared::value::Value;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, params_from_iter};

/// Functions whose value is not that of their arguments alone. Those of date and time are among them
/// because `'now'` may come as an argument.
const VOLATILE: &[&str] = &[
    "random",
    "randomblob",
    "changes",
    "total_changes",
    "last_insert_rowid",
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "time",
    "datetime",
    "julianday",
    "unixepoch",
    "strftime",
    "timediff",
    "load_extension",
];

/// Steps that one expression may take: it holds no query, so it is done long before.
const MAX_STEPS: i32 = 100_000;

/// Largest value, in bytes: what the nodes accept as well.
const MAX_VALUE_BYTES: i32 = 16 << 20;

struct Folder {
    db: Connection,
    refused: Arc<AtomicBool>,
}

thread_local! {
    static FOLDER: OnceCell<Option<Folder>> = const { OnceCell::new() };
}

impl Folder {
    fn open() -> rusqlite::Result<Self> {
        let mut db = sqlite::open_in_memory()?;
        db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
        db.progress_handler(MAX_STEPS, Some(|| true))?;
        let refused = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&refused);
        db.authorizer(Some(move |context: AuthContext<'_>| match is_constant(&context.action) {
            true => Authorization::Allow,
            false => {
                note.store(true, Ordering::Relaxed);
                Authorization::Deny
            }
        }))?;
        Ok(Self { db, refused })
    }

    fn value(&self, expression: &str, args: &[Value]) -> Option<Value> {
        self.refused.store(false, Ordering::Relaxed);
        let mut statement = self.db.prepare_cached(&format!("SELECT ({expression})")).ok()?;
        if self.refused.load(Ordering::Relaxed) || statement.column_count() != 1 {
            return None;
        }
        statement.query_row(params_from_iter(args), |row| Ok(Value::from(row.get_ref(0)?))).ok()
    }
}

fn is_constant(action: &AuthAction<'_>) -> bool {
    match action {
        AuthAction::Select => true,
        AuthAction::Function { function_name } => !VOLATILE.iter().any(|name| name.eq_ignore_ascii_case(function_name)),
        _ => false,
    }
}

/// The value of a constant expression.
pub fn fold(expression: &str, args: &[Value]) -> Option<Value> {
    FOLDER.with(|cell| cell.get_or_init(|| Folder::open().ok()).as_ref()?.value(expression, args))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What depends on its arguments alone has a value; all else has none.
    #[test]
    fn constants() {
        let (text, number) = (Value::Text("Ab".into()), Value::Integer(-7));
        for (expression, args, wanted) in [
            ("1 + 1", vec![], Value::Integer(2)),
            ("lower(?1) || 'x'", vec![text], Value::Text("abx".into())),
            ("abs(?1)", vec![number.clone()], Value::Integer(7)),
            ("nullif(1, 1)", vec![], Value::Null),
            ("CASE WHEN ?1 < 0 THEN 'n' END", vec![number], Value::Text("n".into())),
        ] {
            assert_eq!(fold(expression, &args), Some(wanted), "{expression}");
        }
        for expression in
            ["random()", "datetime('now')", "CURRENT_TIMESTAMP", "(SELECT 1 FROM sqlite_schema)", "nope", "abs(1, 2)"]
        {
            assert_eq!(fold(expression, &[]), None, "{expression}");
        }
    }
}
