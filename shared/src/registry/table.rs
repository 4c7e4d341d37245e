//! Tables as the planner needs them, read from a schema by SQLite itself.

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::ids::PlacementId;
use crate::slot::{Affinity, Collation, KeyColumn};

/// One row of `sqlite_schema`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaObject {
    /// `table`, `index`, `view` or `trigger`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table it belongs to; its own name for tables and views.
    pub table: String,
    /// The statement that makes it.
    pub sql: String,
    /// Where its table lives.
    pub placement: PlacementId,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, as declared.
    pub name: String,
    /// Its declared type.
    pub declared: String,
    /// How it compares.
    pub compare: KeyColumn,
    /// `NOT NULL`, or part of the primary key of a WITHOUT ROWID table.
    pub not_null: bool,
    /// Position in the primary key from 1, or 0.
    pub primary_key: u32,
    /// Generated columns cannot be inserted into.
    pub generated: bool,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name, as declared.
    pub name: String,
    /// Where it lives.
    pub placement: PlacementId,
    /// Its shard key: indexes into `columns`. Empty for unregistered tables.
    pub key: Vec<usize>,
    /// Its columns, hidden ones left out.
    pub columns: Vec<Column>,
    /// The column that is an alias of the rowid (`INTEGER PRIMARY KEY`), if there is one.
    pub rowid_alias: Option<usize>,
    /// Sets of columns that a UNIQUE or PRIMARY KEY constraint covers.
    pub unique: Vec<Vec<String>>,
}

impl Table {
    /// The index of a column, by name in any case.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// Names of the key columns.
    pub fn key_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.key.iter().map(|index| self.columns[*index].name.as_str())
    }

    /// Names that the key columns have in `now`, the same table after a schema statement. With as many columns as
    /// before none was added or dropped, at most one has another name, and all are where they were.
    pub fn key_names_in<'a>(&'a self, now: &'a Self) -> Vec<&'a str> {
        match now.columns.len() == self.columns.len() {
            true => self.key.iter().map(|index| now.columns[*index].name.as_str()).collect(),
            false => self.key_names().collect(),
        }
    }

    /// Reads the table `name` from `db`, whose schema holds it.
    ///
    /// # Errors
    /// [`Code::NoSuchTable`], or what SQLite says.
    pub fn read(db: &Connection, name: &str) -> Result<Self, Error> {
        let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
        let mut query = db
            .prepare("SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1) WHERE hidden <> 1")
            .map_err(sqlite)?;
        let mut columns: Vec<Column> = query
            .query_map([name], |row| {
                let declared: String = row.get(1)?;
                Ok(Column {
                    name: row.get(0)?,
                    compare: KeyColumn {
                        affinity: Affinity::of_declared_type(&declared),
                        collation: Collation::Binary,
                    },
                    declared,
                    not_null: row.get(2)?,
                    primary_key: row.get(3)?,
                    generated: row.get::<_, i64>(4)? != 0,
                })
            })
            .and_then(Iterator::collect)
            .map_err(sqlite)?;
        if columns.is_empty() {
            return Err(Error::new(Code::NoSuchTable, format!("no such table: {name}")));
        }
        for column in &mut columns {
            if let Ok((_, Some(collation), ..)) = db.column_metadata(None, name, column.name.as_str()) {
                let collation = collation.to_string_lossy();
                column.compare.collation = Collation::from_name(&collation)
                    .ok_or_else(|| Error::new(Code::SqlError, format!("no such collation sequence: {collation}")))?;
            }
        }
        let unique = unique_sets(db, name, &columns).map_err(sqlite)?;
        let rowid_alias = rowid_alias(db, name, &columns).map_err(sqlite)?;
        Ok(Self { name: name.to_owned(), placement: crate::registry::HOME, key: vec![], columns, rowid_alias, unique })
    }
}

/// Column sets of all UNIQUE and PRIMARY KEY constraints and unique indexes.
fn unique_sets(db: &Connection, table: &str, columns: &[Column]) -> rusqlite::Result<Vec<Vec<String>>> {
    let mut sets: Vec<Vec<String>> = Vec::new();
    let mut primary: Vec<&Column> = columns.iter().filter(|column| column.primary_key > 0).collect();
    primary.sort_by_key(|column| column.primary_key);
    if !primary.is_empty() {
        sets.push(primary.iter().map(|column| column.name.clone()).collect());
    }
    let mut indexes = db.prepare("SELECT name FROM pragma_index_list(?1) WHERE \"unique\"")?;
    let names: Vec<String> = indexes.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for name in names {
        let mut info = db.prepare("SELECT coalesce(name, '(expression)') FROM pragma_index_info(?1)")?;
        let set: Vec<String> = info.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?;
        if !sets.contains(&set) {
            sets.push(set);
        }
    }
    Ok(sets)
}

/// The rowid alias: a primary key of one column for which SQLite made no index, in a rowid table.
fn rowid_alias(db: &Connection, table: &str, columns: &[Column]) -> rusqlite::Result<Option<usize>> {
    let primary: Vec<usize> = (0..columns.len()).filter(|i| columns[*i].primary_key > 0).collect();
    let [only] = primary[..] else { return Ok(None) };
    if !columns[only].declared.eq_ignore_ascii_case("INTEGER") {
        return Ok(None);
    }
    let without_rowid: bool = db.query_row(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE",
        [table],
        |row| row.get(0),
    )?;
    let indexed: bool =
        db.query_row("SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')", [table], |row| {
            row.get(0)
        })?;
    Ok((!without_rowid && !indexed).then_some(only))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Affinity, collation, keys and the rowid alias are what SQLite says.
    #[test]
    fn tables_are_read_from_sqlite() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, \"e mail\" VARCHAR(20) COLLATE NOCASE UNIQUE, n);
             CREATE TABLE w (a INT, b TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID;
             CREATE TABLE d (id INTEGER PRIMARY KEY DESC, g AS (id + 1));",
        )
        .unwrap();
        let users = Table::read(&db, "users").unwrap();
        assert_eq!(users.rowid_alias, Some(0));
        assert_eq!(users.columns[1].compare, KeyColumn { affinity: Affinity::Text, collation: Collation::NoCase });
        assert_eq!(users.columns[2].compare.affinity, Affinity::Blob);
        assert_eq!(users.unique, [vec!["id".to_owned()], vec!["e mail".to_owned()]]);
        let w = Table::read(&db, "w").unwrap();
        assert_eq!(w.rowid_alias, None);
        assert_eq!(w.unique, [vec!["b".to_owned(), "a".to_owned()]]);
        let d = Table::read(&db, "d").unwrap();
        assert_eq!(d.rowid_alias, None, "INTEGER PRIMARY KEY DESC is no alias");
        assert!(d.columns[1].generated);
        assert_eq!(Table::read(&db, "nope").unwrap_err().code, Code::NoSuchTable);
    }
}
