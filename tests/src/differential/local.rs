//! The one SQLite database that Flotilla is compared with: the library that the program itself has.

use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Rows, Statement, StatementResult};
use rusqlite::Connection;

use super::compare::Outcome;
use super::schema::{Schema, Table};
use super::statement::{Case, Kind, Rule, literal};

/// A database in memory.
pub struct Local {
    db: Connection,
}

impl Local {
    /// An empty one, with the functions that Flotilla's own connections have.
    ///
    /// # Panics
    /// When SQLite cannot make one.
    pub fn new() -> Self {
        let db = flotilla_shared::sqlite::open_in_memory().expect("a database in memory");
        db.set_prepared_statement_cache_capacity(0);
        Self { db }
    }

    /// The database itself.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.db
    }

    /// Runs statements that must succeed.
    ///
    /// # Panics
    /// When they do not.
    pub fn setup(&self, sql: &str) {
        self.db.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The same rows in another order, in tables without keys, so that nothing is met in the same order
    /// unless the statement says so. A statement that has more than one right answer gives itself away.
    pub fn shadow(&self, schema: &Schema) -> Self {
        let shadow = Self::new();
        shadow.setup("PRAGMA reverse_unordered_selects = true");
        let mut rows = vec![];
        for table in &schema.tables {
            shadow.setup(&table.create_keyless());
            rows.extend(self.dump_table(table));
        }
        schema.views.iter().for_each(|view| shadow.setup(&view.unhinted));
        shadow.setup("BEGIN");
        rows.iter().rev().for_each(|row| shadow.setup(&row.sql));
        shadow.setup("COMMIT");
        shadow
    }

    /// Runs a statement.
    pub fn run(&self, statement: &Statement) -> Outcome {
        self.attempt(statement).unwrap_or_else(|message| Outcome::Failed { code: String::new(), message })
    }

    fn attempt(&self, statement: &Statement) -> Result<Outcome, String> {
        let mut prepared = self.db.prepare(&statement.sql).map_err(|error| error.to_string())?;
        statement.params.bind(&mut prepared).map_err(|error| error.to_string())?;
        let columns: Vec<String> = prepared.column_names().map(str::to_owned).collect();
        let types = prepared.columns().map(|c| c.decl_type().unwrap_or("").to_ascii_lowercase()).collect();
        let readonly = prepared.readonly();
        let mut values = vec![];
        let mut rows = prepared.raw_query();
        while let Some(row) = rows.next().map_err(|error| error.to_string())? {
            let line = (0..columns.len()).map(|at| row.get_ref(at).map(Value::from));
            values.push(line.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?);
        }
        drop(rows);
        let returns = !columns.is_empty();
        let rows = Rows { columns, types, values };
        if readonly {
            return Ok(Outcome::Rows(rows));
        }
        Ok(Outcome::Write(StatementResult {
            last_insert_id: self.db.last_insert_rowid(),
            rows_affected: self.db.changes(),
            rows: returns.then_some(rows),
        }))
    }

    /// INSERT statements, one per row, that make the content of these tables.
    pub fn dump(&self, schema: &Schema) -> Vec<Case> {
        schema.tables.iter().flat_map(|table| self.dump_table(table)).collect()
    }

    fn dump_table(&self, table: &Table) -> Vec<Case> {
        let names: Vec<&str> = table.writable().into_iter().map(|at| table.columns[at].name.as_str()).collect();
        let names = names.join(", ");
        let sql = format!("SELECT {names} FROM {}", table.name);
        let Outcome::Rows(rows) = self.run(&Statement { sql, params: Params::default() }) else { return vec![] };
        let insert = |row: Vec<Value>| {
            let list: Vec<String> = row.iter().map(literal).collect();
            Case::plain(Kind::Insert, format!("INSERT INTO {} ({names}) VALUES ({})", table.name, list.join(", ")))
        };
        rows.values.into_iter().map(insert).collect()
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}

impl Case {
    /// A statement without arguments, compared strictly.
    pub fn plain(kind: Kind, sql: String) -> Self {
        Self { kind, inline: sql.clone(), sql, params: Params::default(), rule: Rule::default() }
    }
}
