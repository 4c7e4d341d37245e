//! What a statement is, which tables it touches, and which keys it names.
//!
//! Input: tokens and the [mirror's record](crate::mirror::Record). Output: [`Analysis`], kept with
//! the prepared statement for as long as the schema stands. The syntax is looked at only when the
//! [plan](crate::plan) asks for it, that is, when a table is spread over several shards. Nothing is
//! refused here; what is unclear stays unknown, and the plan decides what that means.

pub mod change;
pub mod core;
pub mod expr;
pub mod fold;
pub mod from;
pub mod grammar;
pub mod insert;
pub mod names;
pub mod predicate;
pub mod resolve;
pub mod syntax;
pub mod term;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use flotilla_shared::ids::PlacementId;
use flotilla_shared::registry::Registry;
use flotilla_shared::value::Value;

use crate::lex::Tokens;
use crate::mirror::{Record, Schema};
use change::ChangeShape;
use insert::InsertShape;
use predicate::Predicates;
use syntax::Syntax;

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reads rows.
    Select,
    /// Adds rows.
    Insert,
    /// Changes rows.
    Update,
    /// Removes rows.
    Delete,
    /// Changes the schema.
    Schema,
    /// Reads nothing but the schema: the mirror answers it.
    Local,
}

/// What a statement is.
#[derive(Debug)]
pub struct Analysis {
    /// What it does.
    pub verb: Verb,
    /// What it touches.
    pub record: Record,
    /// Tables and views that it touches, in lower case, with their placements.
    pub touched: Vec<(String, PlacementId)>,
    /// The placements of all these, each once.
    pub placements: Vec<PlacementId>,
    /// A view through which it reaches its tables.
    pub view: Option<String>,
    /// It touches both the schema and rows.
    pub mixes_schema: bool,
    /// Why its writes may reach rows beyond those that it names.
    pub reaches: Option<String>,
    /// Its target resolves conflicts by its own definition.
    pub target_resolves_conflicts: bool,
    /// Values that columns of the target's shard key have when an INSERT leaves them out, by index.
    pub key_defaults: BTreeMap<usize, Value>,
    /// Why its target's rows cannot be moved by inserting and deleting them.
    pub target_stays: Option<String>,
    insert: OnceLock<Option<InsertShape>>,
    syntax: OnceLock<Option<Syntax>>,
    predicates: OnceLock<Option<Predicates>>,
    change: OnceLock<Option<ChangeShape>>,
}

impl Analysis {
    /// The parts of an `INSERT … VALUES`; `sql` is the statement's own text.
    pub fn insert(&self, sql: &str) -> Option<&InsertShape> {
        self.insert.get_or_init(|| Tokens::read(sql).ok().and_then(|tokens| InsertShape::read(&tokens))).as_ref()
    }

    /// The syntax of a SELECT, UPDATE or DELETE; `sql` is the statement's own text.
    pub fn syntax(&self, sql: &str) -> Option<&Syntax> {
        self.syntax.get_or_init(|| Tokens::read(sql).ok().and_then(|tokens| Syntax::read(&tokens))).as_ref()
    }

    /// What the conditions of a SELECT, UPDATE or DELETE say; `sql` is the statement's own text, and
    /// `registry` one of the schema version that it was prepared with.
    pub fn predicates(&self, sql: &str, registry: &Registry) -> Option<&Predicates> {
        let read = || Predicates::read(&Tokens::read(sql).ok()?, |name| registry.table(name));
        self.predicates.get_or_init(read).as_ref()
    }

    /// The parts of an `INSERT … SELECT`, an UPDATE or a DELETE; `sql` is the statement's own text.
    pub fn change(&self, sql: &str) -> Option<&ChangeShape> {
        self.change.get_or_init(|| Tokens::read(sql).ok().and_then(|tokens| ChangeShape::read(&tokens))).as_ref()
    }

    /// Names of the tables touched, for messages.
    pub fn table_names(&self) -> String {
        let names: Vec<&str> = self.touched.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }
}

/// The index of the word that says what the statement is, behind any `EXPLAIN`.
pub fn first_word(tokens: &Tokens<'_>) -> usize {
    match (tokens.is_word(0, "EXPLAIN"), tokens.is_word(1, "QUERY")) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 3,
    }
}

/// The statement that an `EXPLAIN QUERY PLAN` is about.
pub fn explained(sql: &str) -> Option<&str> {
    let tokens = Tokens::read(sql).ok()?;
    let first = (first_word(&tokens) == 3).then(|| tokens.list.get(3))??;
    Some(&sql[first.span.start..])
}

/// Analyzes a statement that the mirror has prepared.
pub fn analyze(tokens: &Tokens<'_>, mut record: Record, schema: &Schema, readonly: bool, explain: bool) -> Analysis {
    name_rowid(&mut record, schema);
    add_unread(tokens, &mut record, schema);
    let names: BTreeSet<&String> = record.reads.iter().chain(&record.writes).collect();
    let mut touched: Vec<(String, PlacementId)> =
        names.iter().filter_map(|name| Some(((*name).clone(), schema.placement(name)?))).collect();
    let views = record.accessors.iter().filter(|name| schema.views.contains_key(*name));
    for view in views {
        if !touched.iter().any(|(name, _)| name == view) {
            touched.push((view.clone(), schema.views[view]));
        }
    }
    let mut placements: Vec<PlacementId> = touched.iter().map(|(_, placement)| *placement).collect();
    placements.sort_unstable();
    placements.dedup();
    let reads_schema = record.pragma || names.iter().any(|name| is_schema_table(name));
    let verb = verb(tokens, &record, readonly, explain, reads_schema && touched.is_empty());
    let target = record.target.clone().unwrap_or_default();
    Analysis {
        verb,
        view: touched.iter().map(|(name, _)| name).find(|name| schema.views.contains_key(*name)).cloned(),
        mixes_schema: reads_schema && !touched.is_empty() && verb != Verb::Schema,
        reaches: reaches(&record, schema, verb, tokens.has_word("REPLACE")),
        target_resolves_conflicts: schema.resolves_conflicts.contains(&target),
        key_defaults: schema.key_defaults.get(&target).cloned().unwrap_or_default(),
        target_stays: if verb == Verb::Update { stays(schema, &target) } else { None },
        record,
        touched,
        placements,
        insert: OnceLock::new(),
        syntax: OnceLock::new(),
        predicates: OnceLock::new(),
        change: OnceLock::new(),
    }
}

/// A table in a subquery whose value nobody uses is not read, and SQLite does not report it; nor does it
/// report what NATURAL and USING compare. But the table has to be there.
fn add_unread(tokens: &Tokens<'_>, record: &mut Record, schema: &Schema) {
    if tokens.count_word("SELECT") < 2 && !tokens.has_word("NATURAL") && !tokens.has_word("USING") {
        return;
    }
    let cores = core::cores(tokens).filter(|cores| cores.iter().all(|c| c.from.is_none() || c.sources.is_some()));
    let named: Vec<String> = match cores {
        Some(cores) => {
            cores.into_iter().flat_map(|core| core.sources.unwrap_or_default()).filter_map(|s| s.table).collect()
        }
        None => (0..tokens.list.len()).filter_map(|at| tokens.name(at)).map(|name| name.to_ascii_lowercase()).collect(),
    };
    record.reads.extend(named.into_iter().filter(|name| schema.tables.contains_key(name)));
}

/// SQLite reports an update of the rowid under that name, whatever name the statement used and
/// whichever column it is.
fn name_rowid(record: &mut Record, schema: &Schema) {
    let Some(table) = record.target.as_ref().and_then(|target| schema.tables.get(target)) else { return };
    if let Some(alias) = table.rowid_alias.filter(|_| table.column("rowid").is_none())
        && record.updated.remove("rowid")
    {
        record.updated.insert(table.columns[alias].name.to_ascii_lowercase());
    }
}

fn is_schema_table(name: &str) -> bool {
    name.starts_with("pragma_")
        || matches!(name, "sqlite_master" | "sqlite_schema" | "sqlite_temp_master" | "sqlite_temp_schema")
}

fn verb(tokens: &Tokens<'_>, record: &Record, readonly: bool, explain: bool, local: bool) -> Verb {
    let word = tokens.text(first_word(tokens)).to_ascii_uppercase();
    match word.as_str() {
        _ if explain => Verb::Local,
        "CREATE" | "DROP" | "ALTER" | "ANALYZE" | "REINDEX" => Verb::Schema,
        _ if record.pragma || local => Verb::Local,
        _ if readonly => Verb::Select,
        "INSERT" | "REPLACE" => Verb::Insert,
        "UPDATE" => Verb::Update,
        "DELETE" => Verb::Delete,
        // Behind WITH: the first of these words outside parentheses.
        _ => main_verb(tokens).unwrap_or(Verb::Select),
    }
}

fn main_verb(tokens: &Tokens<'_>) -> Option<Verb> {
    let mut depth = 0usize;
    for index in 0..tokens.list.len() {
        match tokens.text(index).to_ascii_uppercase().as_str() {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            "INSERT" | "REPLACE" if depth == 0 => return Some(Verb::Insert),
            "UPDATE" if depth == 0 => return Some(Verb::Update),
            "DELETE" if depth == 0 => return Some(Verb::Delete),
            _ => (),
        }
    }
    None
}

/// Why rows of a table cannot be moved by inserting and deleting them: something else would happen
/// than in an UPDATE.
fn stays(schema: &Schema, table: &str) -> Option<String> {
    let trigger = schema.triggers.iter().find(|(_, trigger)| trigger.table == table).map(|(name, _)| name);
    let child = schema.foreign_keys.iter().find(|key| key.parent == table).map(|key| &key.child);
    match (trigger, child) {
        (Some(name), _) => Some(format!("trigger {name} would see a row inserted and one deleted")),
        (_, Some(child)) => Some(format!("rows of {child} refer to its rows")),
        _ if schema.resolves_conflicts.iter().any(|name| name == table) => {
            Some("the table resolves conflicts by its own definition".to_owned())
        }
        _ => None,
    }
}

/// Why a write may reach rows that its condition does not name.
fn reaches(record: &Record, schema: &Schema, verb: Verb, replaces: bool) -> Option<String> {
    let target = record.target.as_deref()?;
    for name in &record.accessors {
        if let Some(trigger) = schema.triggers.get(name).filter(|trigger| !trigger.row_only) {
            return Some(format!("trigger {name} of table {} reads or writes other rows", trigger.table));
        }
    }
    // A row that takes the place of another one removes it.
    let deletes = verb == Verb::Delete || replaces || schema.resolves_conflicts.iter().any(|name| name == target);
    let touches = |name: &str| record.reads.contains(name) || record.writes.contains(name);
    let updates = |column: &str| record.updated.contains(&column.to_ascii_lowercase());
    for key in &schema.foreign_keys {
        let as_child = key.child == target && (verb == Verb::Insert || key.pairs.iter().any(|(from, _)| updates(from)));
        let as_parent = key.parent == target && (deletes || key.pairs.iter().any(|(_, to)| updates(to)));
        // A new parent makes SQLite look whether a child waits for it; none does between statements.
        let looks_only = key.parent == target && !record.writes.contains(&key.child);
        let cascades = touches(&key.child) && touches(&key.parent) && !looks_only;
        let refers_only = !as_parent && !record.writes.contains(&key.parent) && schema.may_refer(key);
        if (as_child || as_parent || cascades) && !schema.is_local(key) && !refers_only {
            return Some(format!(
                "the foreign key of {} to {} may lead to another shard, because it does not hold the shard keys of both",
                key.child, key.parent
            ));
        }
    }
    None
}
