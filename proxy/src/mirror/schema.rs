//! What the planner must know about a schema beyond the registry's tables: where views live, what
//! triggers and foreign keys may reach, and which tables resolve conflicts on their own.
//!
//! Read once per schema version from the mirror's own SQLite and the registry's objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flotilla_shared::ids::PlacementId;
use flotilla_shared::registry::{ForeignKey, HOME, Registry, Table, row_only};
use flotilla_shared::slot::Collation;
use flotilla_shared::value::Value;
use rusqlite::Connection;

use crate::lex::{Kind, Tokens};
use crate::mirror::fold::fold;

/// A trigger.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// Its table, in lower case.
    pub table: String,
    /// Its body looks at nothing but the row at hand.
    pub row_only: bool,
}

/// Facts about one schema version.
#[derive(Debug, Default)]
pub struct Schema {
    /// Tables by lower-case name.
    pub tables: HashMap<String, Table>,
    /// Placement of each view, by lower-case name.
    pub views: HashMap<String, PlacementId>,
    /// Triggers by lower-case name.
    pub triggers: HashMap<String, Trigger>,
    /// All foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Tables that refer to others or are referred to, where every foreign key of them is checked at the end of a
    /// statement; in lower case. RESTRICT is checked row by row.
    pub checked_at_end: BTreeSet<String>,
    /// Tables whose own definition says `ON CONFLICT`, in lower case.
    pub resolves_conflicts: Vec<String>,
    /// STRICT tables, in lower case.
    pub strict: BTreeSet<String>,
    /// Columns of each table's indexes, but for those on expressions, by lower-case name of the table.
    pub indexes: HashMap<String, Vec<Vec<String>>>,
    /// Collations of each primary key that compares otherwise than its columns do, in its order, by lower-case name
    /// of the table.
    pub key_collations: HashMap<String, Vec<Collation>>,
    /// Constant defaults of shard key columns, by lower-case table name and column index.
    pub key_defaults: HashMap<String, BTreeMap<usize, Value>>,
    /// Placements of which every shard has a copy.
    pub references: Vec<PlacementId>,
    /// Is any table outside the home placement?
    pub has_sharded: bool,
}

impl Schema {
    /// Reads a schema from the registry and from `db`, which holds the same objects.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(registry: &Registry, db: &Connection) -> rusqlite::Result<Self> {
        let mut schema = Self {
            tables: registry.tables.clone().into_iter().collect(),
            has_sharded: registry.tables.values().any(|table| table.placement != HOME),
            strict: strict_tables(registry),
            indexes: indexes(db)?,
            key_collations: key_collations(registry, db)?,
            foreign_keys: ForeignKey::read(db)?,
            checked_at_end: checked_at_end(db)?,
            references: registry.placements.values().filter(|p| p.is_reference()).map(|p| p.id).collect(),
            ..Self::default()
        };
        for (name, table) in registry.tables.iter().filter(|(_, table)| !table.key.is_empty()) {
            schema.key_defaults.insert(name.clone(), key_defaults(table, db)?);
        }
        for object in &registry.objects {
            let name = object.name.to_ascii_lowercase();
            match object.kind.as_str() {
                "view" => {
                    schema.views.insert(name, object.placement);
                }
                "trigger" => {
                    let trigger = Trigger { table: object.table.to_ascii_lowercase(), row_only: row_only(&object.sql) };
                    schema.triggers.insert(name, trigger);
                }
                "table" if says_on_conflict(&object.sql) => schema.resolves_conflicts.push(name),
                _ => (),
            }
        }
        Ok(schema)
    }

    /// Where a table or view lives; `None` for a name that is neither, such as that of a CTE or of a
    /// table-valued function.
    pub fn placement(&self, name: &str) -> Option<PlacementId> {
        match self.tables.get(name) {
            Some(table) => Some(table.placement),
            None if name == "sqlite_sequence" => Some(HOME),
            None => self.views.get(name).copied(),
        }
    }

    /// Does the foreign key stay on one shard: are both tables in one placement, and does it pair
    /// their shard keys column by column? Or has every shard a copy of both?
    pub fn is_local(&self, foreign_key: &ForeignKey) -> bool {
        let (Some(child), Some(parent)) = (self.tables.get(&foreign_key.child), self.tables.get(&foreign_key.parent))
        else {
            return false;
        };
        if self.is_reference(parent.placement) {
            return self.is_reference(child.placement);
        }
        child.placement == parent.placement && foreign_key.pairs_all(child.key_names(), parent.key_names())
    }

    /// May a row be added that refers to this parent: is the parent on the same shard, or a copy of it?
    pub fn may_refer(&self, foreign_key: &ForeignKey) -> bool {
        let parent = self.tables.get(&foreign_key.parent);
        parent.is_some_and(|parent| self.is_reference(parent.placement)) || self.is_local(foreign_key)
    }

    /// Has every shard a copy of this placement?
    pub fn is_reference(&self, placement: PlacementId) -> bool {
        self.references.contains(&placement)
    }
}

/// Read from the text: `PRAGMA table_list` first expands every view, and views that multiply take for
/// ever.
fn strict_tables(registry: &Registry) -> BTreeSet<String> {
    let tables = registry.objects.iter().filter(|object| object.kind == "table" && is_strict(&object.sql));
    tables.map(|object| object.name.to_ascii_lowercase()).collect()
}

/// Is STRICT among the options behind the closing parenthesis?
fn is_strict(sql: &str) -> bool {
    let Ok(tokens) = Tokens::read(sql) else { return false };
    let end = (0..tokens.list.len()).rev().find(|index| tokens.is_mark(*index, ")"));
    end.is_some_and(|end| (end..tokens.list.len()).any(|index| tokens.is_word(index, "STRICT")))
}

fn indexes(db: &Connection) -> rusqlite::Result<HashMap<String, Vec<Vec<String>>>> {
    let mut query = db.prepare(
        "SELECT lower(m.tbl_name), m.name, i.name FROM sqlite_schema m, pragma_index_info(m.name) i
         WHERE m.type = 'index' AND m.sql IS NOT NULL ORDER BY m.name, i.seqno",
    )?;
    let mut found: Vec<(String, String, Vec<Option<String>>)> = Vec::new();
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (table, name, column): (String, String, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        match found.last_mut() {
            Some((_, last, columns)) if *last == name => columns.push(column),
            _ => found.push((table, name, vec![column])),
        }
    }
    let mut indexes: HashMap<String, Vec<Vec<String>>> = HashMap::new();
    for (table, _, columns) in found {
        if let Some(columns) = columns.into_iter().collect() {
            indexes.entry(table).or_default().push(columns);
        }
    }
    Ok(indexes)
}

fn checked_at_end(db: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut query = db.prepare(
        "SELECT lower(m.name), lower(k.\"table\"), 'RESTRICT' IN (k.on_delete, k.on_update)
         FROM sqlite_schema m, pragma_foreign_key_list(m.name) k WHERE m.type = 'table'",
    )?;
    let (mut tied, mut restricted) = (BTreeSet::new(), BTreeSet::new());
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let tables = [row.get::<_, String>(0)?, row.get(1)?];
        if row.get(2)? {
            restricted.extend(tables.clone());
        }
        tied.extend(tables);
    }
    Ok(tied.difference(&restricted).cloned().collect())
}

/// A PRIMARY KEY may name collations of its own.
fn key_collations(registry: &Registry, db: &Connection) -> rusqlite::Result<HashMap<String, Vec<Collation>>> {
    let mut query = db.prepare(
        "SELECT x.name, x.coll FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x
         WHERE l.origin = 'pk' AND x.key ORDER BY x.seqno",
    )?;
    let mut found = HashMap::new();
    for (name, table) in &registry.tables {
        let (mut collations, mut differs) = (Vec::new(), false);
        let mut rows = query.query([&table.name])?;
        while let Some(row) = rows.next()? {
            let (column, collation): (String, String) = (row.get(0)?, row.get(1)?);
            let own = table.column(&column).map(|index| table.columns[index].compare.collation);
            let collation = Collation::from_name(&collation).or(own).unwrap_or(Collation::Binary);
            differs |= own != Some(collation);
            collations.push(collation);
        }
        if differs {
            found.insert(name.clone(), collations);
        }
    }
    Ok(found)
}

fn key_defaults(table: &Table, db: &Connection) -> rusqlite::Result<BTreeMap<usize, Value>> {
    let mut query = db.prepare("SELECT name, dflt_value FROM pragma_table_xinfo(?1) WHERE dflt_value IS NOT NULL")?;
    let mut rows = query.query([&table.name])?;
    let mut defaults = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (name, text): (String, String) = (row.get(0)?, row.get(1)?);
        let index = table.column(&name).filter(|index| table.key.contains(index));
        defaults.extend(index.and_then(|index| Some((index, fold(&text, &[])?))));
    }
    Ok(defaults)
}

fn says_on_conflict(sql: &str) -> bool {
    let Ok(tokens) = Tokens::read(sql) else { return true };
    (0..tokens.list.len()).any(|index| {
        tokens.list[index].kind == Kind::Word && tokens.is_word(index, "ON") && tokens.is_word(index + 1, "CONFLICT")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The option is told from a column or a comment of that name.
    #[test]
    fn strictness() {
        for sql in ["CREATE TABLE t (a INT) STRICT", "CREATE TABLE t(a INT PRIMARY KEY)WITHOUT ROWID, strict -- x"] {
            assert!(is_strict(sql), "{sql}");
        }
        for sql in
            ["CREATE TABLE t (strict INT)", "CREATE TABLE strict (a) WITHOUT ROWID", "CREATE TABLE t (a) -- STRICT"]
        {
            assert!(!is_strict(sql), "{sql}");
        }
    }
}
