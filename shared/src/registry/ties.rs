//! What ties rows to other rows: foreign keys and triggers. The registration of a table and the plan of
//! a write must both know what stays on one shard.

use rusqlite::Connection;

use super::{SchemaObject, Table};
use crate::error::Error;
use crate::lex::Tokens;
use crate::sqlite;

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The table that refers, in lower case.
    pub child: String,
    /// The table referred to, in lower case.
    pub parent: String,
    /// Column pairs: child, parent.
    pub pairs: Vec<(String, String)>,
}

impl ForeignKey {
    /// All foreign keys of a schema.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(db: &Connection) -> rusqlite::Result<Vec<Self>> {
        let mut query = db.prepare(
            "SELECT m.name, p.id, p.\"table\", p.\"from\",
                    coalesce(p.\"to\", (SELECT i.name FROM pragma_table_info(p.\"table\") i WHERE i.pk = p.seq + 1), '')
             FROM sqlite_schema m, pragma_foreign_key_list(m.name) p WHERE m.type = 'table' ORDER BY m.name, p.id, p.seq",
        )?;
        let mut keys: Vec<(i64, Self)> = Vec::new();
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (child, id, parent): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (child, parent) = (child.to_ascii_lowercase(), parent.to_ascii_lowercase());
            let pair = (row.get(3)?, row.get(4)?);
            match keys.last_mut() {
                Some((last, key)) if *last == id && key.child == child => key.pairs.push(pair),
                _ => keys.push((id, Self { child, parent, pairs: vec![pair] })),
            }
        }
        Ok(keys.into_iter().map(|(_, key)| key).collect())
    }

    /// Does it pair these columns, the child's with the parent's, one by one? Then rows that it ties
    /// have the same shard key.
    pub fn pairs_all<'a>(
        &self,
        child: impl ExactSizeIterator<Item = &'a str>,
        parent: impl ExactSizeIterator<Item = &'a str>,
    ) -> bool {
        child.len() == parent.len()
            && child.zip(parent).all(|(from, to)| {
                self.pairs.iter().any(|(f, t)| f.eq_ignore_ascii_case(from) && t.eq_ignore_ascii_case(to))
            })
    }
}

/// A name in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An empty database with these tables and indexes.
///
/// # Errors
/// What SQLite says.
pub fn schema_database(objects: &[SchemaObject]) -> Result<Connection, Error> {
    let db = sqlite::open_in_memory().map_err(|error| Error::from_sqlite(&error))?;
    for object in objects.iter().filter(|object| matches!(object.kind.as_str(), "table" | "index")) {
        db.execute_batch(&object.sql).map_err(|error| Error::from_sqlite(&error))?;
    }
    Ok(db)
}

/// All tables of a schema, read by SQLite.
///
/// # Errors
/// What SQLite says.
pub fn read_tables(objects: &[SchemaObject]) -> Result<Vec<Table>, Error> {
    let db = schema_database(objects)?;
    objects.iter().filter(|object| object.kind == "table").map(|object| Table::read(&db, &object.name)).collect()
}

/// Does the body of a trigger only compute with the row at hand: `SELECT` without `FROM`, as used
/// with `RAISE`? Then it may run wherever the row is.
pub fn row_only(sql: &str) -> bool {
    let Ok(tokens) = Tokens::read(sql) else { return false };
    let reaches = ["FROM", "INTO", "UPDATE", "DELETE", "JOIN"];
    let Some(body) = (0..tokens.list.len()).find(|index| tokens.is_word(*index, "BEGIN")) else { return false };
    // The head says UPDATE or DELETE itself, and its WHEN may hold a subquery.
    let head_selects = (0..body).any(|index| tokens.is_word(index, "SELECT"));
    !head_selects && !(body..tokens.list.len()).any(|index| reaches.iter().any(|word| tokens.is_word(index, word)))
}

/// Does the text name this table, as a word or in quotes? It may do so without meaning it.
pub fn mentions(sql: &str, table: &str) -> bool {
    let Ok(tokens) = Tokens::read(sql) else { return true };
    (0..tokens.list.len()).any(|index| tokens.name(index).is_some_and(|name| name.eq_ignore_ascii_case(table)))
}
