//! What ties rows to other rows: foreign keys and triggers. The registration of a table and the plan of
//! a write must both know what stays on one shard.
//!
//! A registration looks at the ties of one table. A schema statement may add one to tables that are sharded
//! already, or lead one elsewhere: by a new trigger or column, a parent that is dropped or renamed, or a table
//! that takes the name of a parent. [`Registry::check_ties`] compares all ties of the schema before and after the
//! statement, so what a registration would refuse is refused as well when it comes later. What was there before the
//! statement stays, as it must be possible to mend it.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::{HOME, Placement, Registry, SchemaObject, Table};
use crate::error::{Code, Error};
use crate::ids::PlacementId;
use crate::lex::{Kind, Tokens};
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

/// Does a trigger only compute with the row at hand: `SELECT` without `FROM`, as used with `RAISE`? Then
/// it may run wherever the row is.
pub fn row_only(sql: &str) -> bool {
    let Ok(tokens) = Tokens::read(sql) else { return false };
    // `x IN t` reads a table, too.
    let list = tokens.list.iter().enumerate();
    let mut names_after_in = list.filter(|(index, token)| {
        *index > 0 && tokens.is_word(index - 1, "IN") && matches!(token.kind, Kind::Word | Kind::Quoted | Kind::Text)
    });
    if names_after_in.next().is_some() {
        return false;
    }
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

/// Where a table lies, after a statement as before.
struct Lying {
    placement: PlacementId,
    is_reference: bool,
    /// Names of the key columns.
    key: Vec<String>,
}

/// A tie that may lead to another shard: why, and what to do.
type UnsafeTies = BTreeMap<String, &'static str>;

const COLOCATE: &str = "colocate both tables by the columns that it pairs, the parent first, before the child is created; or make the parent a reference table";

impl Registry {
    /// Refuses a schema statement that would tie rows of a sharded table or a reference table to rows that may be
    /// elsewhere. `before` and `after` have the whole schema, and no rows.
    ///
    /// # Errors
    /// [`Code::UnsafeRegistration`] for the first such tie; what SQLite says.
    pub fn check_ties(&self, before: &Connection, after: &Connection) -> Result<(), Error> {
        let known = self.unsafe_ties(before)?;
        match self.unsafe_ties(after)?.into_iter().find(|(why, _)| !known.contains_key(why)) {
            Some((why, hint)) => Err(Error::new(Code::UnsafeRegistration, why).hint(hint)),
            None => Ok(()),
        }
    }

    /// The same for a statement that no one has tried yet. One that SQLite refuses passes: the shard says why.
    ///
    /// # Errors
    /// As [`Self::check_ties`].
    pub fn check_ties_of(&self, sql: &str) -> Result<(), Error> {
        if self.tables.values().all(|table| table.placement == HOME) {
            return Ok(());
        }
        let (before, after) = (self.whole_schema()?, self.whole_schema()?);
        match after.execute_batch(sql) {
            Ok(()) => self.check_ties(&before, &after),
            Err(_) => Ok(()),
        }
    }

    /// An empty database with all objects that SQLite can make there.
    fn whole_schema(&self) -> Result<Connection, Error> {
        let db = sqlite::open_in_memory().map_err(|error| Error::from_sqlite(&error))?;
        for object in self.objects.iter().filter(|object| !object.name.to_ascii_lowercase().starts_with("sqlite_")) {
            db.execute_batch(&object.sql).ok();
        }
        Ok(db)
    }

    fn unsafe_ties(&self, db: &Connection) -> Result<UnsafeTies, Error> {
        let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
        let (lying, names) = self.lying(db)?;
        let mut found = UnsafeTies::new();
        for key in ForeignKey::read(db).map_err(sqlite)? {
            let (child, parent) = (lying.get(&key.child), lying.get(&key.parent));
            let exists = names.contains(&key.parent);
            let pairs = |child: &Lying, parent: &Lying| {
                key.pairs_all(child.key.iter().map(String::as_str), parent.key.iter().map(String::as_str))
            };
            let safe = match (child, parent) {
                (None, None) => true,
                (_, Some(parent)) if parent.is_reference => true,
                (Some(child), Some(parent)) => {
                    !child.is_reference && child.placement == parent.placement && pairs(child, parent)
                }
                (Some(_), None) => false,
                // The child may be colocated with the parent once it is there; until then it takes no rows.
                (None, Some(parent)) => {
                    parent.key.iter().all(|name| key.pairs.iter().any(|(_, to)| to.eq_ignore_ascii_case(name)))
                }
            };
            match (safe, exists) {
                (true, _) => (),
                (false, true) => {
                    let why = format!("the foreign key of {} to {} may lead to another shard", key.child, key.parent);
                    found.insert(why, COLOCATE);
                }
                (false, false) => {
                    let why =
                        format!("the foreign key of {} would lead to {}, which is no table", key.child, key.parent);
                    found.insert(why, "drop the table that refers to it first");
                }
            }
        }
        let mut query =
            db.prepare("SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger'").map_err(sqlite)?;
        let mut rows = query.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let [name, table, sql]: [String; 3] =
                [row.get(0).map_err(sqlite)?, row.get(1).map_err(sqlite)?, row.get(2).map_err(sqlite)?];
            if lying.contains_key(&table.to_ascii_lowercase()) && !row_only(&sql) {
                let why = format!(
                    "trigger {name} of {table} looks beyond the row at hand, and might touch rows of another shard"
                );
                found.insert(why, "let it only check its row with RAISE, or do the other write in the same request");
            }
        }
        Ok(found)
    }

    /// Where the tables of `db` lie that are not home tables, by lower-case name; and the names of all.
    fn lying(&self, db: &Connection) -> Result<(BTreeMap<String, Lying>, BTreeSet<String>), Error> {
        let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
        let mut query = db
            .prepare(
                "SELECT lower(name) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
            )
            .map_err(sqlite)?;
        let names = query.query_map([], |row| row.get(0)).and_then(Iterator::collect::<Result<BTreeSet<String>, _>>);
        let names = names.map_err(sqlite)?;
        let of = |table: &Table| table.name.to_ascii_lowercase();
        // One table that is new beside one that is gone is the same under a new name.
        let known: BTreeSet<String> = self.tables.values().map(of).collect();
        let mut new = names.iter().filter(|name| !known.contains(*name));
        let renamed = match (new.next(), new.next()) {
            (Some(name), None) => Some(name),
            _ => None,
        };
        let mut lying = BTreeMap::new();
        for table in self.tables.values().filter(|table| table.placement != HOME) {
            let Some(name) = names.get(&of(table)).or(renamed) else { continue };
            let now = Table::read(db, name)?;
            let is_reference = self.placements.get(&table.placement).is_some_and(Placement::is_reference);
            let key = table.key_names_in(&now).iter().map(|name| (*name).to_owned()).collect();
            lying.insert(name.clone(), Lying { placement: table.placement, is_reference, key });
        }
        Ok((lying, names))
    }
}

#[cfg(test)]
mod tests;
