//! What a statement really touches, as SQLite's authorizer tells while it prepares the statement:
//! through views, triggers, foreign keys, quoted names and rowid aliases.
//!
//! The recorder sits on every connection of the [mirror](super). It also refuses what no client may
//! run, at once and before SQLite acts on it: some pragmas take effect while they are prepared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_shared::closed::{is_check_pragma, is_closed_function, is_internal, is_read_pragma, is_setting_pragma};
use flotilla_shared::error::{Code, Error};
use flotilla_shared::sqlite::is_internal_function;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::analyze::names::DATES;

/// Tables that show the inside of a database file.
const INSIDE_TABLES: &[&str] = &["sqlite_dbpage", "dbstat", "sqlite_stmt", "bytecode", "tables_used"];

/// May the function read the clock?
fn reads_clock(function: &str) -> bool {
    let lower = function.to_ascii_lowercase();
    DATES.contains(&lower.as_str()) || lower.starts_with("current_")
}

/// What the authorizer saw.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Tables and views read, in lower case.
    pub reads: BTreeSet<String>,
    /// Columns read of each, in lower case; `rowid` for a rowid that no column stands for.
    pub columns: BTreeMap<String, BTreeSet<String>>,
    /// Tables and views written, in lower case.
    pub writes: BTreeSet<String>,
    /// The first table written: what the statement names as its target, in lower case.
    pub target: Option<String>,
    /// Columns that the statement itself updates in its target, in lower case.
    pub updated: BTreeSet<String>,
    /// Triggers and views on whose behalf something was touched, in lower case.
    pub accessors: BTreeSet<String>,
    /// A pragma that only reads.
    pub pragma: bool,
    /// It is the one that looks at rows.
    pub checks_rows: bool,
    /// It calls functions that may read the clock, if only because an argument may be `'now'`.
    pub clock: bool,
    /// A SELECT is part of it.
    pub select: bool,
    /// Why no client may run it.
    pub refused: Option<Error>,
    /// The same, for a function that statements of our own may call.
    pub internal_function: Option<Error>,
}

impl Record {
    fn write(&mut self, table: &str) {
        let table = table.to_ascii_lowercase();
        self.target.get_or_insert_with(|| table.clone());
        self.writes.insert(table);
    }

    /// Notes the call of a function; the answer refuses it.
    fn function(&mut self, name: &str) -> Option<Error> {
        if is_internal_function(name) {
            // What SQLite says of a function that it does not have.
            let unknown = || Error::new(Code::SqlError, format!("no such function: {name}"));
            self.internal_function.get_or_insert_with(unknown);
        }
        is_closed_function(name).then(|| {
            forbidden(
                format!("{name}() is not open to clients"),
                "it reaches beyond the database: use an ordinary function",
            )
        })
    }

    /// Notes one action; false refuses it.
    fn note(&mut self, context: &AuthContext<'_>) -> bool {
        use AuthAction as A;
        if let Some(accessor) = context.accessor.filter(|name| !name.is_empty()) {
            self.accessors.insert(accessor.to_ascii_lowercase());
        }
        let refused = match context.action {
            A::Read { table_name, column_name } => {
                let table = table_name.to_ascii_lowercase();
                self.checks_rows |= table.strip_prefix("pragma_").is_some_and(is_check_pragma);
                self.columns.entry(table.clone()).or_default().insert(column_name.to_ascii_lowercase());
                self.reads.insert(table);
                inside(table_name)
            }
            A::Insert { table_name } | A::Delete { table_name } => {
                self.write(table_name);
                inside(table_name)
            }
            A::Update { table_name, column_name } => {
                self.write(table_name);
                let lower = table_name.to_ascii_lowercase();
                if context.accessor.is_none() && self.target.as_ref() == Some(&lower) {
                    self.updated.insert(column_name.to_ascii_lowercase());
                }
                inside(table_name)
            }
            A::Select => {
                self.select = true;
                None
            }
            A::Pragma { pragma_name, pragma_value } => {
                self.pragma = true;
                self.checks_rows |= is_check_pragma(pragma_name);
                let reads = is_setting_pragma(pragma_name) && pragma_value.is_none();
                let known = reads || is_read_pragma(pragma_name) || is_check_pragma(pragma_name);
                (!known).then(|| forbidden(format!("PRAGMA {pragma_name} is not open to clients"), "table_info, index_list, foreign_key_list and other pragmas that only tell about the schema are"))
            }
            A::Function { function_name } => {
                self.clock |= reads_clock(function_name);
                self.function(function_name)
            }
            A::Attach { .. } | A::Detach { .. } => Some(forbidden(
                "ATTACH and DETACH are not open to clients",
                "all tables of the cluster are in one database",
            )),
            A::Transaction { .. } | A::Savepoint { .. } => Some(transaction()),
            A::CreateTempIndex { .. }
            | A::CreateTempTable { .. }
            | A::CreateTempTrigger { .. }
            | A::CreateTempView { .. } => Some(temporary()),
            A::CreateVtable { module_name, .. } | A::DropVtable { module_name, .. } => Some(
                Error::new(Code::NotImplemented, format!("virtual tables ({module_name}) are not supported yet"))
                    .hint("use an ordinary table"),
            ),
            A::CreateTable { table_name } => inside(table_name),
            A::Unknown { code, .. } => Some(forbidden(format!("an action that is not known ({code})"), "")),
            _ => None,
        };
        match refused {
            Some(error) => {
                self.refused.get_or_insert(error);
                false
            }
            None => true,
        }
    }
}

/// What the schema `temp` would hold.
pub fn temporary() -> Error {
    forbidden(
        "temporary objects are not open to clients",
        "a request has no session that could own them; use WITH, or a table of your own",
    )
}

/// Transactions live in one request.
fn transaction() -> Error {
    forbidden(
        "BEGIN, COMMIT, ROLLBACK and SAVEPOINT are not open to clients",
        "send {\"statements\": [...], \"transaction\": true}",
    )
}

/// A refusal that no retry changes.
pub fn forbidden(message: impl Into<String>, hint: &str) -> Error {
    Error::new(Code::Forbidden, message).hint(hint)
}

fn inside(table: &str) -> Option<Error> {
    let hidden = is_internal(table) || INSIDE_TABLES.iter().any(|name| name.eq_ignore_ascii_case(table));
    hidden.then(|| {
        forbidden(
            format!("table {table} is internal"),
            "choose another name; `_flotilla_` tables are not open to clients",
        )
    })
}

/// The recorder of one connection.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Record>>);

impl Recorder {
    /// What the connection's authorizer calls.
    pub fn authorize(&self, context: &AuthContext<'_>) -> Authorization {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if record.note(context) { Authorization::Allow } else { Authorization::Deny }
    }

    /// Takes what was noted since the last call.
    pub fn take(&self) -> Record {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
