//! Loads TPC-H tables into a cluster and into a SQLite database.

use flotilla_shared::value::Value;
use rusqlite::Connection;
use serde_json::{Value as Json, json};

use super::tpch::{Row, TableData};

/// Rows of one statement, where rows of a table may go together.
const ROWS_PER_INSERT: usize = 40;

/// Groups consecutive rows that may share one INSERT: all of an unsharded table, of a sharded one
/// those with the same key.
pub fn inserts(table: &TableData) -> Vec<Json> {
    let mut statements = vec![];
    let shard_key = table.columns.iter().position(|column| *column == table.shard_key);
    let together = |a: &Row, b: &Row| shard_key.is_none_or(|key| a[key] == b[key]);
    for chunk in table.rows.chunk_by(together).flat_map(|rows| rows.chunks(ROWS_PER_INSERT)) {
        let one = format!("({})", vec!["?"; table.columns.len()].join(", "));
        let sql = format!("INSERT INTO {} VALUES {}", table.name, vec![one; chunk.len()].join(", "));
        let args: Vec<Json> = chunk.iter().flatten().map(Value::to_json).collect();
        statements.push(json!({ "query": sql, "args": args }));
    }
    statements
}

/// The same rows in one SQLite database.
///
/// # Panics
/// When SQLite refuses them.
pub fn fill(db: &mut Connection, data: &[TableData]) {
    let all = db.transaction().expect("a transaction");
    for table in data {
        all.execute_batch(table.create).expect("a table");
        let places = vec!["?"; table.columns.len()].join(", ");
        let mut insert = all.prepare(&format!("INSERT INTO {} VALUES ({places})", table.name)).expect("an insert");
        for row in &table.rows {
            insert.execute(rusqlite::params_from_iter(row)).expect("a row");
        }
    }
    all.commit().expect("a commit");
}
