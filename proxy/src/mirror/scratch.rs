//! Schema statements tried on a copy of the mirror, before a job is made of them.
//!
//! So plain SQL errors are answered at once and in SQLite's words, and a statement that changes
//! nothing (`IF NOT EXISTS`) needs no job. Input: a schema statement. Output: [`SchemaChange`].
//! Refused: names of our own, and what would make a sharded table unsafe.

use std::collections::BTreeSet;

use flotilla_shared::closed::is_internal;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::registry::{HOME, Registry, Table, unique_beyond_shard};
use flotilla_shared::sqlite;
use rusqlite::Connection;

use super::record::{self, Recorder};
use super::{Mirror, Prepared, open};
use crate::analyze::first_word;
use crate::lex::Tokens;

/// What a schema statement would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaChange {
    /// Nothing.
    Nothing,
    /// A change about `table`; none for a new table or what lives with the home tables.
    Change {
        /// The table.
        table: Option<String>,
    },
    /// Something on every shard that holds any table: `ANALYZE` or `REINDEX` without a name.
    Everywhere,
    /// A new table, made by this statement instead, which is then filled.
    Filled(String),
}

/// The parts of a `CREATE TABLE … AS SELECT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateAs {
    /// The table.
    pub name: String,
    /// The query.
    pub query: String,
}

impl CreateAs {
    /// Reads a statement; `None` for any other.
    pub fn read(sql: &str) -> Option<Self> {
        let tokens = Tokens::read(sql).ok()?;
        if !(tokens.is_word(0, "CREATE") && tokens.is_word(1, "TABLE")) {
            return None;
        }
        let at = if tokens.is_word(2, "IF") { 5 } else { 2 };
        let at = if tokens.is_mark(at + 1, ".") { at + 2 } else { at };
        let name = tokens.name(at)?;
        let query = tokens.list.get(at + 2).filter(|_| tokens.is_word(at + 1, "AS"))?;
        Some(Self { name, query: sql[query.span.start..].trim_end_matches([';', ' ', '\n', '\r', '\t']).to_owned() })
    }

    /// The statement that fills the table.
    pub fn fill(&self) -> String {
        format!("INSERT INTO \"{}\" {}", self.name.replace('"', "\"\""), self.query)
    }
}

/// Tries a schema statement on a copy.
///
/// # Errors
/// SQLite's own words, or a refusal.
pub fn check_schema_statement(mirror: &Mirror, prepared: &Prepared) -> Result<SchemaChange, Error> {
    let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
    let registry = mirror.registry();
    let tokens = Tokens::read(&prepared.sql)?;
    let at = first_word(&tokens);
    let db = open(registry).map_err(sqlite)?;
    let before = objects(&db).map_err(sqlite)?;
    db.prepare(&prepared.sql).and_then(|mut statement| statement.raw_execute()).map_err(sqlite)?;
    let after = objects(&db).map_err(sqlite)?;
    if db.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_temp_schema)", [], |row| row.get(0)).map_err(sqlite)? {
        return Err(record::temporary());
    }
    check_names(registry, &db, after.difference(&before))?;
    let verb = tokens.text(at).to_ascii_uppercase();
    if before == after && !matches!(verb.as_str(), "ANALYZE" | "REINDEX") {
        return Ok(SchemaChange::Nothing);
    }
    super::deterministic::check(&tokens)?;
    if let Some(create) = CreateAs::read(&prepared.sql) {
        let made = after.difference(&before).find(|(kind, name, ..)| kind == "table" && *name == create.name);
        let (.., sql) = made.ok_or_else(|| Error::new(Code::Internal, "a new table is not in the schema"))?;
        return Ok(SchemaChange::Filled(sql.clone()));
    }
    let table = match verb.as_str() {
        "ANALYZE" | "REINDEX" => match named_table(registry, &tokens, at + 1) {
            None if mirror.schema.has_sharded => return Ok(SchemaChange::Everywhere),
            table => table,
        },
        _ => changed_table(mirror, registry, &before, &after)?,
    };
    if let Some(table) = table.as_deref().and_then(|name| registry.table(name)) {
        keeps_key(registry, table, &db)?;
    }
    registry.check_ties(&open(registry).map_err(sqlite)?, &db)?;
    Ok(SchemaChange::Change { table })
}

/// Refuses what could be made but not used: names of our own, and empty ones, which no text can name in all places.
fn check_names<'a>(
    registry: &Registry,
    db: &Connection,
    changed: impl Iterator<Item = &'a (String, String, String, String)>,
) -> Result<(), Error> {
    for (kind, name, ..) in changed {
        if is_internal(name) {
            return Err(record::forbidden(format!("{name} is an internal name"), "choose another name"));
        }
        if name.is_empty() {
            return Err(record::forbidden(format!("a {kind} without a name is not supported"), "give it a name"));
        }
        let had = registry.table(name).is_some_and(|table| table.column("").is_some());
        if kind == "table" && !had && Table::read(db, name)?.column("").is_some() {
            return Err(record::forbidden(
                format!("a column without a name is not supported, as in {name}"),
                "give it a name",
            ));
        }
    }
    Ok(())
}

/// A sharded table keeps its key, and every constraint on it can be checked by one shard.
fn keeps_key(registry: &Registry, table: &Table, db: &Connection) -> Result<(), Error> {
    // Dropped or renamed: there is nothing to check, or nothing changed but the name.
    let Ok(after) = Table::read(db, &table.name) else { return Ok(()) };
    if after.columns.len() < table.columns.len()
        && let Some(lost) = table.key_names().find(|name| after.column(name).is_none())
    {
        return Err(Error::new(Code::Conflict, format!("column {lost} is the shard key of {}", table.name))
            .hint("a shard key stays as long as its table"));
    }
    if table.key.is_empty() || after.columns.len() != table.columns.len() {
        return Ok(());
    }
    let beyond = |db: &Connection, table: &Table, key: &[usize]| {
        unique_beyond_shard(db, table, key).map_err(|error| Error::from_sqlite(&error))
    };
    let new = beyond(db, &after, &table.key)?;
    if new.is_empty() {
        return Ok(());
    }
    // What was made by an earlier version is not this statement's fault.
    let old = beyond(&open(registry).map_err(|error| Error::from_sqlite(&error))?, table, &table.key)?;
    match new.into_iter().find(|why| !old.contains(why)) {
        None => Ok(()),
        Some(why) => {
            let message = format!("no shard of {} alone can keep it unique: {why}", table.name);
            Err(Error::new(Code::UnsafeRegistration, message)
                .hint("let the unique columns include the shard key, compared as its column compares"))
        }
    }
}

/// Kind, name, table and text of all objects of a schema.
pub(super) type Objects = BTreeSet<(String, String, String, String)>;

pub(super) fn objects(db: &Connection) -> rusqlite::Result<Objects> {
    let mut query = db.prepare("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?;
    query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?.collect()
}

/// The table that a change is about: a known one that was altered or dropped, or that owns the
/// index or trigger; for a view, a table of its placement.
fn changed_table(
    mirror: &Mirror,
    registry: &Registry,
    before: &Objects,
    after: &Objects,
) -> Result<Option<String>, Error> {
    let known = |name: &str| registry.table(name).map(|table| table.name.clone());
    for (kind, name, table, _) in before.difference(after) {
        match kind.as_str() {
            "view" => return Ok(table_in_placement_of_view(mirror, registry, name)),
            _ if known(table).is_some() => return Ok(known(table)),
            _ => (),
        }
    }
    for (kind, name, table, _) in after.difference(before) {
        match kind.as_str() {
            "view" => return view_table(registry, after, name),
            "trigger" if known(table).is_none() => return Ok(table_in_placement_of_view(mirror, registry, table)),
            _ if known(table).is_some() => return Ok(known(table)),
            _ => (),
        }
    }
    Ok(None)
}

fn table_in_placement_of_view(mirror: &Mirror, registry: &Registry, view: &str) -> Option<String> {
    let placement = mirror.schema.views.get(&view.to_ascii_lowercase()).copied()?;
    (placement != HOME)
        .then(|| registry.tables.values().find(|table| table.placement == placement).map(|t| t.name.clone()))?
}

/// The table beside which a new view lives, if all that it reads is in one placement.
fn view_table(registry: &Registry, after: &Objects, view: &str) -> Result<Option<String>, Error> {
    let mut db = sqlite::open_in_memory().map_err(|error| Error::from_sqlite(&error))?;
    let rank = |kind: &str| ["table", "index", "view", "trigger"].iter().position(|k| *k == kind);
    let mut ordered: Vec<_> = after.iter().collect();
    ordered.sort_by_key(|(kind, ..)| rank(kind));
    for (_, _, _, sql) in ordered {
        db.execute_batch(sql).ok();
    }
    let recorder = Recorder::default();
    let notes = recorder.clone();
    db.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| notes.authorize(&context)))
        .map_err(|error| Error::from_sqlite(&error))?;
    // A view may be made before its tables; it lives with the home tables then.
    let select = format!("SELECT * FROM \"{}\"", view.replace('"', "\"\""));
    if db.prepare(&select).is_err() {
        return Ok(None);
    }
    let reads = recorder.take().reads;
    let tables: Vec<_> = reads.iter().filter_map(|name| registry.table(name)).collect();
    let placements: BTreeSet<_> = tables.iter().map(|table| table.placement).collect();
    if placements.len() > 1 {
        // No shard could answer it; it is kept with the home tables, and the proxy runs its query.
        return Ok(None);
    }
    Ok(tables.into_iter().find(|table| table.placement != HOME).map(|table| table.name.clone()))
}

/// The table that ANALYZE or REINDEX names, directly or by an index of it. None for everything, and for
/// all indexes of a collation.
fn named_table(registry: &Registry, tokens: &Tokens<'_>, at: usize) -> Option<String> {
    let at = if tokens.is_mark(at + 1, ".") { at + 2 } else { at };
    let name = tokens.name(at).filter(|name| !name.eq_ignore_ascii_case("main"))?;
    let index = registry.objects.iter().find(|o| o.kind == "index" && o.name.eq_ignore_ascii_case(&name));
    registry.table(&name).or_else(|| registry.table(&index?.table)).map(|table| table.name.clone())
}
