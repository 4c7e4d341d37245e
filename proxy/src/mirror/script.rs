//! Transactions that change the schema, tried on an empty copy before a job is made of them.
//!
//! Input: the statements of one transaction. Output: a [`Trial`]: where they run, what of them runs there, and what
//! foreign keys do meanwhile. The copy goes through them one by one, so that each is prepared with the schema that
//! those before it leave, and SQLite's authorizer tells what each touches.
//!
//! Beside tables that nobody sharded, all must be of one placement, and each statement touches either these or those.
//! Tables that the transaction makes belong to those that a statement brings them together with.
//!
//! | tables that a statement touches | where it runs | what it may do |
//! |---|---|---|
//! | such as nobody sharded, and new ones | the home shard | anything |
//! | of one reference placement | every shard | anything, but the tables' names stay |
//! | of one sharded placement | every shard, on its own rows | what is decided row by row ([`rows`]); names and shard keys stay |
//!
//! That is enough for a table to be made anew: under another name and renamed, or by way of a copy, or with the old
//! one renamed first. A temporary table is made as an ordinary one, and must be dropped again. `PRAGMA foreign_keys`
//! and `defer_foreign_keys` set or read what foreign keys do and run nowhere ([`settings`]); neither does
//! `PRAGMA foreign_key_check`, for that is looked at anyway. DROP TABLE in a transaction does not delete rows that refer to the table, as it would
//! outside of one: foreign keys do not act then, and are checked at the end.
//!
//! A single statement that drops or renames a sharded table runs as outside of a transaction, whatever PRAGMAs stand
//! around it, unless other tables refer to a table that it drops.
//!
//! Refused, before anything is changed: tables of several placements, a lost shard key, a constraint that no shard
//! alone can keep, other PRAGMAs, ANALYZE, and what SQLite refuses.

mod rows;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_shared::closed::is_internal;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::PlacementId;
use flotilla_shared::registry::{ForeignKey, HOME, Placement, Registry, Table, row_only};
use flotilla_shared::script::ForeignKeys;
use flotilla_shared::wire::Statement;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::record::{self, Record, Recorder};
use super::scratch::{Objects, objects};
use super::{Mirror, check_words, open, refusal};
use crate::lex::Tokens;

pub use settings::{Setting, Settings};

/// What a statement of a transaction is, for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It answers rows.
    Rows,
    /// It answers a count.
    Write,
    /// It changes the schema.
    Schema,
    /// `PRAGMA foreign_keys` and its like, which set something.
    Setting,
    /// `PRAGMA foreign_key_check`: no row, or the transaction fails.
    Check,
    /// `PRAGMA foreign_keys` without a value: a row with this setting.
    Read(Setting, bool),
}

impl Role {
    /// Is it a statement that shards run?
    pub fn runs(self) -> bool {
        matches!(self, Self::Rows | Self::Write | Self::Schema)
    }
}

/// A transaction that has been tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Where it runs.
    pub placement: PlacementId,
    /// What runs; nothing where a single statement is to run as outside of a transaction.
    pub statements: Vec<Statement>,
    /// Which of it runs on the home shard alone, where the others run on every shard of the placement.
    pub home: Vec<bool>,
    /// What each statement of the request is; those that run are in the same order.
    pub roles: Vec<Role>,
    /// What foreign keys do.
    pub foreign_keys: ForeignKeys,
}

/// Must a transaction be a job: does it change the schema, or say what foreign keys do?
pub fn is_script(statements: &[Statement]) -> bool {
    let words = ["CREATE", "ALTER", "DROP", "REINDEX", "PRAGMA"];
    statements.iter().any(|statement| {
        let tokens = Tokens::read(&statement.sql);
        tokens.is_ok_and(|tokens| words.iter().any(|word| tokens.is_word(0, word)))
    })
}

/// Tries a transaction.
///
/// # Errors
/// SQLite's own words, or a refusal; the message says which statement it is about.
pub fn try_script(registry: &Registry, statements: &[Statement], asked: Option<ForeignKeys>) -> Result<Trial, Error> {
    let mut roles = Vec::with_capacity(statements.len());
    let mut run = Vec::with_capacity(statements.len());
    let (mut settings, mut drops) = (Settings::new(asked), false);
    for (n, statement) in statements.iter().enumerate() {
        let tokens = Tokens::read(&statement.sql).map_err(|error| at(n, error))?;
        match settings.take(&tokens).map_err(|error| at(n, error))? {
            Some(role) => roles.push(role),
            None => {
                drops |= tokens.is_word(0, "DROP") && tokens.is_word(1, "TABLE");
                roles.push(Role::Write);
                run.push(n);
            }
        }
    }
    let foreign_keys = asked.unwrap_or(match settings.unenforced || drops {
        true => ForeignKeys::Checked,
        false => ForeignKeys::Enforced,
    });
    if foreign_keys == ForeignKeys::Unchecked && roles.contains(&Role::Check) {
        return Err(unroutable("PRAGMA foreign_key_check in a transaction that asks for no check".into()));
    }
    if let [n] = run[..]
        && stands_alone(registry, &statements[n]).map_err(|error| at(n, error))?
    {
        roles[n] = Role::Schema;
        return Ok(Trial { placement: HOME, statements: vec![], home: vec![], roles, foreign_keys });
    }
    let mut first = Course::begin(registry, foreign_keys, BTreeMap::new())?;
    let (mut written, mut temporary) = (Vec::with_capacity(run.len()), vec![]);
    for n in &run {
        let (statement, name) = made_ordinary(&statements[*n]).map_err(|error| at(*n, error))?;
        temporary.extend(name);
        roles[*n] = first.meet(&statement).map_err(|error| at(*n, error))?.0;
        written.push(statement);
    }
    let mut course = Course::begin(registry, foreign_keys, first.scopes())?;
    let mut places = Vec::with_capacity(run.len());
    for (n, statement) in run.iter().zip(&written) {
        places.push(course.take(statement).map_err(|error| at(*n, error))?);
    }
    if let Some(left) = temporary.iter().find(|name| course.tables.contains_key(*name)) {
        return Err(unroutable(format!("temporary table {left} is still there at the end of the transaction"))
            .hint("drop it again in the transaction; a request has no session that could own it"));
    }
    let placement = course.end()?;
    let home = places.iter().map(|place| placement != HOME && *place == HOME).collect();
    Ok(Trial { placement, statements: written, home, roles, foreign_keys })
}

/// Does a statement take a sharded table away, or its name, and do what it does outside of a transaction, even if
/// foreign keys do not act? No script may do that. A retry finds the table gone.
fn stands_alone(registry: &Registry, statement: &Statement) -> Result<bool, Error> {
    let tokens = Tokens::read(&statement.sql)?;
    let is = |index: usize, word: &str| tokens.is_word(index, word);
    let drops = is(0, "DROP") && is(1, "TABLE");
    let name_at = if drops && is(2, "IF") { 4 } else { 2 };
    let name_at = if tokens.is_mark(name_at + 1, ".") { name_at + 2 } else { name_at };
    let renames = is(0, "ALTER") && is(1, "TABLE") && is(name_at + 1, "RENAME") && is(name_at + 2, "TO");
    let Some(name) = tokens.name(name_at).filter(|_| drops || renames) else { return Ok(false) };
    if registry.table(&name).is_some_and(|table| table.placement == HOME) {
        return Ok(false);
    }
    let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
    let keys = ForeignKey::read(&open(registry).map_err(sqlite)?).map_err(sqlite)?;
    let refers = |key: &ForeignKey| key.parent.eq_ignore_ascii_case(&name) && !key.child.eq_ignore_ascii_case(&name);
    Ok(renames || !keys.iter().any(refers))
}

/// A temporary table as an ordinary one, and its name.
fn made_ordinary(statement: &Statement) -> Result<(Statement, Option<String>), Error> {
    let tokens = Tokens::read(&statement.sql)?;
    let temporary = tokens.is_word(1, "TEMP") || tokens.is_word(1, "TEMPORARY");
    if !(tokens.is_word(0, "CREATE") && temporary && tokens.is_word(2, "TABLE")) {
        return Ok((statement.clone(), None));
    }
    let at = if tokens.is_word(3, "IF") { 6 } else { 3 };
    let name = tokens.name(at).map(|name| name.to_ascii_lowercase());
    let sql = format!("CREATE {}", &statement.sql[tokens.list[2].span.start..]);
    Ok((Statement { sql, params: statement.params.clone() }, name))
}

/// Says which statement an error is about.
fn at(index: usize, error: Error) -> Error {
    Error { message: format!("statement {}: {}", index + 1, error.message), ..error }
}

/// A table on its way through the transaction.
#[derive(Clone, Debug)]
struct Traced {
    placement: PlacementId,
    /// Its shard key; empty while that is not known.
    key: Vec<String>,
}

/// The schema on its way through the transaction.
struct Course<'a> {
    registry: &'a Registry,
    db: Connection,
    recorder: Recorder,
    now: Objects,
    /// Tables by lower-case name, as they are now.
    tables: BTreeMap<String, Traced>,
    /// Where tables belong that the transaction makes, by lower-case name; home tables are left out.
    made: BTreeMap<String, PlacementId>,
    /// Do foreign keys act?
    enforced: bool,
    /// Tables that each statement has touched.
    met: Vec<BTreeSet<String>>,
    /// The placement of sharded tables that were touched, and one of these.
    sharded: Option<(PlacementId, String)>,
}

impl<'a> Course<'a> {
    fn begin(
        registry: &'a Registry,
        foreign_keys: ForeignKeys,
        made: BTreeMap<String, PlacementId>,
    ) -> Result<Self, Error> {
        let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
        let mut db = open(registry).map_err(sqlite)?;
        let enforced = foreign_keys == ForeignKeys::Enforced;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, enforced).map_err(sqlite)?;
        let now = objects(&db).map_err(sqlite)?;
        let recorder = Recorder::default();
        let notes = recorder.clone();
        db.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| notes.authorize(&context)))
            .map_err(sqlite)?;
        let traced =
            |table: &Table| Traced { placement: table.placement, key: table.key_names().map(str::to_owned).collect() };
        let tables = registry.tables.iter().map(|(name, table)| (name.clone(), traced(table))).collect();
        Ok(Self { registry, db, recorder, now, tables, made, enforced, met: vec![], sharded: None })
    }

    /// One statement, and where it runs.
    fn take(&mut self, statement: &Statement) -> Result<PlacementId, Error> {
        let (role, names) = self.meet(statement)?;
        let mut scope: Option<(PlacementId, &String)> = None;
        for name in &names {
            let placement = self.scope(name);
            match &scope {
                Some((known, other)) if *known != placement => return Err(mixed(other, name)),
                _ => scope = Some((placement, name)),
            }
        }
        let Some((placement, name)) = scope.filter(|(placement, _)| *placement != HOME) else { return Ok(HOME) };
        match &self.sharded {
            Some((known, other)) if *known != placement => return Err(mixed(other, name)),
            Some(_) => (),
            None => self.sharded = Some((placement, name.clone())),
        }
        if role != Role::Schema && self.is_sharded() {
            self.check_rows(statement)?;
        }
        Ok(placement)
    }

    /// What a statement is, and the tables that it touches.
    fn meet(&mut self, statement: &Statement) -> Result<(Role, BTreeSet<String>), Error> {
        let (role, record) = self.prepare(statement)?;
        let read_or_written = record.reads.into_iter().chain(record.writes);
        let mut names: BTreeSet<String> = read_or_written.filter(|name| self.tables.contains_key(name)).collect();
        if role == Role::Schema {
            names.extend(self.follow()?);
        }
        self.met.push(names.clone());
        Ok((role, names))
    }

    /// Where a table belongs.
    fn scope(&self, name: &str) -> PlacementId {
        let known = self.registry.tables.get(name).map(|table| table.placement);
        known.or_else(|| self.made.get(name).copied()).unwrap_or(HOME)
    }

    /// Where tables belong that the transaction makes: to the sharded tables that a statement brings them together
    /// with, or else to the home tables.
    fn scopes(&self) -> BTreeMap<String, PlacementId> {
        let mut made = BTreeMap::new();
        loop {
            let before = made.len();
            for names in &self.met {
                let known = |name: &String| self.registry.tables.get(name).map(|table| table.placement);
                let sharded = names.iter().filter_map(|name| known(name).or_else(|| made.get(name).copied()));
                let Some(placement) = sharded.into_iter().find(|placement| *placement != HOME) else { continue };
                made.extend(names.iter().filter(|name| known(name).is_none()).map(|name| (name.clone(), placement)));
            }
            if made.len() == before {
                return made;
            }
        }
    }

    /// Prepares a statement, and runs it if it changes the schema: there are no rows here. What it touches.
    fn prepare(&self, statement: &Statement) -> Result<(Role, Record), Error> {
        let tokens = Tokens::read(&statement.sql)?;
        check_words(&tokens)?;
        let is = |words: &[&str]| words.iter().any(|word| tokens.is_word(0, word));
        let changes_schema = is(&["CREATE", "ALTER", "DROP", "REINDEX"]);
        if !changes_schema && is(&["EXPLAIN", "ANALYZE", "ATTACH", "DETACH", "VACUUM"]) {
            return Err(unroutable(format!("{} cannot be part of a transaction", tokens.text(0))));
        }
        self.recorder.take();
        let prepared = self.db.prepare(&statement.sql);
        let record = self.recorder.take();
        let mut prepared = match prepared {
            Ok(_) if record.refused.is_some() => return Err(record.refused.expect("just seen")),
            Ok(prepared) => prepared,
            Err(error) => return Err(refusal(record, &error, &tokens)),
        };
        let names: Vec<_> =
            (1..=prepared.parameter_count()).map(|n| prepared.parameter_name(n).map(str::to_owned)).collect();
        statement.params.check(&names)?;
        if changes_schema {
            prepared.raw_execute().map_err(|error| Error::from_sqlite(&error))?;
            return Ok((Role::Schema, record));
        }
        let reads = prepared.readonly() && prepared.column_count() > 0;
        Ok((if reads { Role::Rows } else { Role::Write }, record))
    }

    /// Where the transaction runs, as far as is known.
    fn placement(&self) -> Option<&'a Placement> {
        self.registry.placements.get(&self.sharded.as_ref()?.0)
    }

    fn is_sharded(&self) -> bool {
        self.placement().is_some_and(|placement| placement.id != HOME && !placement.is_reference())
    }

    /// The tables that a schema statement has changed.
    fn follow(&mut self) -> Result<BTreeSet<String>, Error> {
        let after = objects(&self.db).map_err(|error| Error::from_sqlite(&error))?;
        let before = std::mem::replace(&mut self.now, after.clone());
        if let Some((_, name, ..)) = after.difference(&before).find(|(_, name, ..)| is_internal(name)) {
            return Err(record::forbidden(format!("{name} is an internal name"), "choose another name"));
        }
        let names = |objects: &Objects| -> BTreeSet<String> {
            let tables = objects.iter().filter(|(kind, ..)| kind == "table");
            tables.map(|(_, name, ..)| name.to_ascii_lowercase()).collect()
        };
        let (old, new) = (names(&before), names(&after));
        let gone: Vec<&String> = old.difference(&new).collect();
        let changed = before.difference(&after).chain(after.difference(&before));
        let changed = changed.map(|(.., table, _)| table.to_ascii_lowercase());
        let changed: BTreeSet<String> = changed.filter(|name| old.contains(name) || new.contains(name)).collect();
        for name in new.difference(&old) {
            // A statement that takes one table away and makes another renames it.
            let renamed = gone.first().and_then(|old| self.tables.get(*old));
            let key = renamed.map(|traced| traced.key.clone()).unwrap_or_default();
            self.tables.insert(name.clone(), Traced { placement: self.scope(name), key });
        }
        for name in gone {
            self.tables.remove(name);
        }
        Ok(changed)
    }

    /// The end of the transaction: where it runs.
    fn end(self) -> Result<PlacementId, Error> {
        let Some(placement) = self.placement() else { return Ok(HOME) };
        let of = |table: &&Table| table.placement == placement.id;
        for before in self.registry.tables.values().filter(of) {
            let name = before.name.to_ascii_lowercase();
            let Some(traced) = self.tables.get(&name) else {
                return Err(unroutable(format!("the transaction would take table {} away", before.name))
                    .hint("drop or rename a sharded table in a statement of its own"));
            };
            self.keeps_key(before, traced)?;
        }
        self.stays_on_its_shard(placement)?;
        let more = self.tables.iter().find(|(name, traced)| {
            let known = self.registry.tables.get(*name).is_some_and(|table| table.placement == placement.id);
            !known && traced.placement == placement.id
        });
        match more {
            Some((name, _)) => Err(unroutable(format!("the transaction leaves table {name} beside sharded tables"))
                .hint("drop it again, or create it in a statement of its own")),
            None => Ok(placement.id),
        }
    }

    /// Has a sharded table its key, and can one shard check each constraint on it?
    fn keeps_key(&self, before: &Table, traced: &Traced) -> Result<(), Error> {
        let after = Table::read(&self.db, &before.name)?;
        let lost = |name: &str| {
            let message = format!("column {name} is the shard key of {}, and would not be any more", before.name);
            Error::new(Code::Conflict, message).hint("a shard key stays as long as its table, and compares as before")
        };
        for (n, index) in before.key.iter().enumerate() {
            let name = &before.columns[*index].name;
            let compares = |column: usize| after.columns[column].compare == before.columns[*index].compare;
            if !after.column(name).is_some_and(compares) {
                return Err(lost(name));
            }
            if !traced.key.get(n).is_some_and(|key| key.eq_ignore_ascii_case(name)) {
                return Err(lost(name));
            }
        }
        let alone = |set: &&Vec<String>| {
            before.key_names().all(|name| set.iter().any(|column| column.eq_ignore_ascii_case(name)))
                || before.unique.iter().any(|old| old == *set)
        };
        match after.unique.iter().find(|set| !alone(set)).filter(|_| !before.key.is_empty()) {
            Some(set) => Err(Error::new(
                Code::UnsafeRegistration,
                format!("no shard alone can keep ({}) unique in {}", set.join(", "), before.name),
            )
            .hint("let the unique columns include the shard key")),
            None => Ok(()),
        }
    }

    /// Does what the transaction has made tie rows to those of other shards: a foreign key, or a trigger that looks
    /// beyond its row? Every later write would be refused.
    fn stays_on_its_shard(&self, placement: &Placement) -> Result<(), Error> {
        let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
        let before = ForeignKey::read(&open(self.registry).map_err(sqlite)?).map_err(sqlite)?;
        let schema = Mirror::build(self.registry_now()?)?.schema;
        let is_here = |name: &str| self.tables.get(name).is_some_and(|table| table.placement == placement.id);
        let new = schema.foreign_keys.iter().filter(|key| !before.contains(key));
        if let Some(key) =
            new.filter(|key| is_here(&key.child) || is_here(&key.parent)).find(|key| !schema.may_refer(key))
        {
            let message = format!("the foreign key of {} to {} may lead to another shard", key.child, key.parent);
            return Err(Error::new(Code::UnsafeRegistration, message)
                .hint("let it pair the shard keys of two tables that are colocated, or refer to a reference table"));
        }
        let beyond = |(kind, _, table, sql): &&(String, String, String, String)| {
            kind == "trigger" && is_here(&table.to_ascii_lowercase()) && !row_only(sql)
        };
        match self.now.iter().find(beyond).filter(|_| !placement.is_reference()) {
            Some((_, name, ..)) => {
                let message =
                    format!("trigger {name} looks beyond the row at hand, and might touch rows of another shard");
                Err(Error::new(Code::UnsafeRegistration, message)
                    .hint("one that only checks its row with RAISE may stay"))
            }
            None => Ok(()),
        }
    }

    /// The registry as the transaction has left it so far.
    fn registry_now(&self) -> Result<Arc<Registry>, Error> {
        let mut registry = self.registry.clone();
        let placement_of = |table: &str| self.tables.get(&table.to_ascii_lowercase()).map_or(HOME, |t| t.placement);
        let rank = |kind: &str| ["table", "index", "view", "trigger"].iter().position(|known| *known == kind);
        let mut ordered: Vec<_> = self.now.iter().filter(|(.., sql)| !sql.is_empty()).collect();
        ordered.sort_by_key(|(kind, ..)| rank(kind));
        registry.objects = ordered
            .into_iter()
            .map(|(kind, name, table, sql)| flotilla_shared::registry::SchemaObject {
                kind: kind.clone(),
                name: name.clone(),
                table: table.clone(),
                sql: sql.clone(),
                placement: placement_of(table),
            })
            .collect();
        registry.tables.clear();
        for (name, traced) in &self.tables {
            let mut table = Table::read(&self.db, name)?;
            table.placement = traced.placement;
            table.key = traced.key.iter().filter_map(|column| table.column(column)).collect();
            registry.tables.insert(name.clone(), table);
        }
        Ok(Arc::new(registry))
    }
}

fn mixed(one: &str, other: &str) -> Error {
    unroutable(format!("{one} and {other} are sharded in different ways"))
        .hint("a transaction that changes the schema touches unsharded tables and those of one placement, and each of its statements one of these")
}

fn unroutable(message: String) -> Error {
    Error::new(Code::Unroutable, message).hint("nothing was changed; send it in a request of its own")
}

#[cfg(test)]
mod tests;
