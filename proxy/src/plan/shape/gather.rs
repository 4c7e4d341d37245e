//! The shape that is always right: the tables come to the statement.
//!
//! Of each table only the columns are pulled that SQLite reads for this statement (its authorizer
//! tells), and only rows that can matter: where every use of the table in the statement has conditions on this
//! table alone, rows that satisfy none of them are left out. Conditions are taken from WHERE and
//! from ON, but never in a way that an outer join would notice: nothing for the side that is filled
//! with NULL but the conditions of its own ON, and nothing at all where RIGHT or FULL joins take part.

use std::collections::BTreeSet;

use flotilla_shared::registry::{Table, quoted};
use flotilla_shared::slot::Affinity;

use super::text::{Swap, Template, Writer};
use super::{Why, declared};
use crate::analyze::core::{Core, Join, Span};
use crate::analyze::names::{Name, conjuncts, names};
use crate::analyze::resolve::Scope;
use crate::lex::{Kind, Tokens};
use crate::mirror::{Mirror, Prepared};

/// A table to pull.
#[derive(Clone, Debug, PartialEq)]
pub struct Pulled {
    /// Its name in lower case.
    pub table: String,
    /// What each shard is asked.
    pub select: Template,
    /// Makes the table in the merge database.
    pub create: String,
    /// The columns that are pulled, as names in quotes.
    pub columns: Vec<String>,
    /// Rows are left out by a condition.
    pub filtered: bool,
    /// Makes the indexes that the shards have, as far as their columns are pulled.
    pub indexes: Vec<String>,
}

/// Tables to pull, and what else the statement needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gather {
    /// The tables.
    pub tables: Vec<Pulled>,
    /// The statement uses views.
    pub views: bool,
    /// The statement without its hints about indexes; none when it has none.
    pub finish: Option<Template>,
    /// Why no more is pushed down.
    pub why: Why,
}

impl Gather {
    /// All rows of the columns that the statement reads.
    pub fn whole(mirror: &Mirror, prepared: &Prepared, why: Why) -> Self {
        let pull = |name: &String| pulled(mirror, prepared, name, None);
        Self {
            tables: tables(mirror, prepared).iter().map(pull).collect(),
            views: has_views(prepared),
            finish: without_hints(prepared),
            why,
        }
    }

    /// The same with conditions, where the statement's SELECTs show some.
    pub fn of(mirror: &Mirror, prepared: &Prepared, tokens: &Tokens<'_>, cores: Option<&[Core]>, why: Why) -> Self {
        let clear = |cores: &&[Core]| {
            !has_views(prepared)
                && !reads_without_from(tokens)
                && cores.iter().all(|core| core.from.is_none() || core.sources.is_some())
        };
        let Some(cores) = cores.filter(clear) else { return Self::whole(mirror, prepared, why) };
        let pull = |name: &String| {
            let condition = condition(mirror, tokens, cores, name);
            let plain = pulled(mirror, prepared, name, None);
            match condition.map(|condition| pulled(mirror, prepared, name, Some(&condition))) {
                // What SQLite does not take is not worth an argument.
                Some(filtered) if mirror.prepare(&filtered.select.sql).is_ok_and(|(p, _)| p.readonly) => filtered,
                _ => plain,
            }
        };
        Self {
            tables: tables(mirror, prepared).iter().map(pull).collect(),
            views: false,
            finish: without_hints(prepared),
            why,
        }
    }
}

/// The indexes that `INDEXED BY` names need not be among those of the merge database.
fn without_hints(prepared: &Prepared) -> Option<Template> {
    let tokens = Tokens::read(&prepared.sql).ok()?;
    let hints = hints(&tokens);
    if hints.is_empty() {
        return None;
    }
    let mut writer = Writer::new(&tokens);
    writer.copy_with(&(0..tokens.list.len()), &hints);
    Some(writer.finish())
}

/// The definition of a view without its hints.
pub fn view_without_hints(sql: &str) -> String {
    let Ok(tokens) = Tokens::read(sql) else { return sql.to_owned() };
    let mut text = sql.to_owned();
    for (span, _) in hints(&tokens).iter().rev() {
        text.replace_range(tokens.list[span.start].span.start..tokens.list[span.end - 1].span.end, "");
    }
    text
}

/// Where hints about indexes stand.
fn hints(tokens: &Tokens<'_>) -> Vec<Swap> {
    let hint = |at: usize| match tokens.is_word(at, "INDEXED") && tokens.is_word(at + 1, "BY") {
        true => Some((at..at + 3, String::new())),
        false => is_not_indexed(tokens, at).then(|| (at..at + 2, String::new())),
    };
    (0..tokens.list.len()).filter_map(hint).collect()
}

/// Words behind which `NOT indexed` is an expression over a column of that name; behind a table it is a hint.
const BEFORE_EXPRESSIONS: &str = "ALL AND BETWEEN BY CASE DISTINCT ELSE ESCAPE FROM GLOB HAVING IN IS LIKE LIMIT MATCH NOT \
    OFFSET ON OR REGEXP RETURNING SELECT SET THEN VALUES WHEN WHERE";

fn is_not_indexed(tokens: &Tokens<'_>, at: usize) -> bool {
    let behind_name = at.checked_sub(1).is_some_and(|before| match tokens.list[before].kind {
        Kind::Word => !BEFORE_EXPRESSIONS.split_ascii_whitespace().any(|word| tokens.is_word(before, word)),
        Kind::Quoted | Kind::Text => true,
        _ => false,
    });
    behind_name && tokens.is_word(at, "NOT") && tokens.is_word(at + 1, "INDEXED")
}

/// Columns that USING joins by, in lower case: SQLite does not report that it reads them on the right side.
/// `None` for NATURAL, which names none.
fn merged_columns(mirror: &Mirror, prepared: &Prepared) -> Option<BTreeSet<String>> {
    let views = mirror.registry().objects.iter().filter(|object| has_views(prepared) && object.kind == "view");
    let mut columns = BTreeSet::new();
    for sql in views.map(|view| view.sql.as_str()).chain([prepared.sql.as_str()]) {
        let tokens = Tokens::read(sql).ok()?;
        if tokens.has_word("NATURAL") {
            return None;
        }
        for at in (0..tokens.list.len()).filter(|at| tokens.is_word(*at, "USING")) {
            let close = tokens.closing(at + 1)?;
            columns.extend((at + 2..close).filter_map(|at| tokens.name(at)).map(|name| name.to_ascii_lowercase()));
        }
    }
    Some(columns)
}

fn has_views(prepared: &Prepared) -> bool {
    prepared.analysis.view.is_some()
}

fn tables(mirror: &Mirror, prepared: &Prepared) -> BTreeSet<String> {
    let record = &prepared.analysis.record;
    record.reads.iter().filter(|name| mirror.schema.tables.contains_key(*name)).cloned().collect()
}

/// `x IN table` reads a table that no FROM names.
fn reads_without_from(tokens: &Tokens<'_>) -> bool {
    (0..tokens.list.len()).any(|at| {
        tokens.is_word(at, "IN")
            && matches!(tokens.list.get(at + 1).map(|t| t.kind), Some(Kind::Word | Kind::Quoted | Kind::Text))
    })
}

fn pulled(mirror: &Mirror, prepared: &Prepared, name: &str, condition: Option<&Template>) -> Pulled {
    let table = &mirror.schema.tables[name];
    let strict = mirror.schema.strict.contains(name);
    let read = prepared.analysis.record.columns.get(name);
    let merged = merged_columns(mirror, prepared);
    let is_read = |column: &str| {
        let column = column.to_ascii_lowercase();
        read.is_some_and(|read| read.contains(&column)) || merged.as_ref().is_none_or(|merged| merged.contains(&column))
    };
    let mut columns: Vec<String> =
        table.columns.iter().filter(|column| is_read(&column.name)).map(|column| quoted(&column.name)).collect();
    if read.is_some_and(|read| read.contains("rowid")) {
        columns.splice(0..0, rowid(mirror, table));
    }
    let indexes = indexes(mirror, table, &columns);
    let results = if columns.is_empty() { "NULL".to_owned() } else { columns.join(", ") };
    let mut select = condition.cloned().unwrap_or_default();
    let head = format!("SELECT {results} FROM {}", quoted(&table.name));
    select.sql = if select.sql.is_empty() { head } else { format!("{head} WHERE {}", select.sql) };
    Pulled {
        table: name.to_owned(),
        select,
        create: create(table, strict),
        columns,
        filtered: condition.is_some(),
        indexes,
    }
}

/// The name by which the rowid of a table is pulled. That of a table that lives whole on one shard is the one
/// that SQLite would show; of a sharded one, each shard has its own. SQLite reports `rowid` for it, whatever
/// name was used, and also for a column that is called so.
fn rowid(mirror: &Mirror, table: &Table) -> Option<String> {
    if table.rowid_alias.is_some() || !table.key.is_empty() {
        return None;
    }
    let name = ["rowid", "_rowid_", "oid"].into_iter().find(|name| table.column(name).is_none())?;
    // Not every table has one.
    mirror.prepare(&format!("SELECT {name} FROM {}", quoted(&table.name))).ok()?;
    Some(name.to_owned())
}

/// The table as the merge database has it: all columns, since `*` and names must mean the same; their
/// affinities and collations; no constraint.
fn create(table: &Table, strict: bool) -> String {
    let columns = table.columns.iter().enumerate().map(|(index, column)| {
        let name = quoted(&column.name);
        match table.rowid_alias == Some(index) {
            true => format!("{name} INTEGER PRIMARY KEY"),
            false => {
                let any = strict && column.declared.eq_ignore_ascii_case("ANY");
                declared(&name, if any { Affinity::Blob } else { column.compare.affinity }, column.compare.collation)
            }
        }
    });
    format!("CREATE TABLE {} ({})", quoted(&table.name), columns.collect::<Vec<_>>().join(", "))
}

/// Indexes over the columns that are pulled: joins and correlated subqueries count on them.
fn indexes(mirror: &Mirror, table: &Table, columns: &[String]) -> Vec<String> {
    let name = table.name.to_ascii_lowercase();
    let own = mirror.schema.indexes.get(&name).map_or(&[][..], Vec::as_slice);
    let alias = table.rowid_alias.map(|alias| vec![table.columns[alias].name.clone()]);
    let mut sets: Vec<Vec<String>> = Vec::new();
    for set in table.unique.iter().chain(own).filter(|set| Some(*set) != alias.as_ref()) {
        let set: Vec<String> = set.iter().map(|column| quoted(column)).collect();
        let pulled = set.iter().all(|column| columns.iter().any(|c| c.eq_ignore_ascii_case(column)));
        if pulled && !sets.contains(&set) {
            sets.push(set);
        }
    }
    let create = |(n, set): (usize, Vec<String>)| {
        let index = quoted(&format!("_flotilla_{n}_{name}"));
        format!("CREATE INDEX {index} ON {} ({})", quoted(&table.name), set.join(", "))
    };
    sets.into_iter().enumerate().map(create).collect()
}

/// What rows of the table can matter: for each SELECT that reads it, its own conjuncts; any of these.
fn condition(mirror: &Mirror, tokens: &Tokens<'_>, cores: &[Core], name: &str) -> Option<Template> {
    let mut uses: Vec<Vec<(Span, Vec<Swap>)>> = Vec::new();
    for core in cores {
        let Some(sources) = core.sources.as_deref() else { continue };
        if sources.iter().any(|source| source.shadowed.as_deref() == Some(name)) {
            return None;
        }
        let scope = Scope::new(sources, &mirror.schema.tables);
        for (index, source) in sources.iter().enumerate().filter(|(_, source)| source.table.as_deref() == Some(name)) {
            if sources.iter().any(|other| matches!(other.join, Join::Right | Join::Full)) {
                return None;
            }
            let mut conditions: Vec<&Span> = Vec::new();
            match source.join {
                Join::Inner => {
                    conditions.extend(&core.condition);
                    conditions.extend(sources.iter().filter(|o| o.join == Join::Inner).filter_map(|o| o.on.as_ref()));
                }
                _ => conditions.extend(&source.on),
            }
            let parts = conditions.into_iter().flat_map(|span| conjuncts(tokens, span));
            let own: Vec<_> =
                parts.filter_map(|part| Some((part.clone(), on_its_own(tokens, &scope, index, &part)?))).collect();
            if own.is_empty() {
                return None;
            }
            uses.push(own);
        }
    }
    if uses.is_empty() {
        return None;
    }
    let mut writer = Writer::new(tokens);
    for (n, parts) in uses.iter().enumerate() {
        writer.push(if n == 0 { "(" } else { " OR (" });
        for (m, (span, swaps)) in parts.iter().enumerate() {
            writer.push(if m == 0 { "(" } else { " AND (" }).copy_with(span, swaps).push(")");
        }
        writer.push(")");
    }
    Some(writer.finish())
}

/// A conjunct that is about this source alone, with its qualifiers taken off.
fn on_its_own(tokens: &Tokens<'_>, scope: &Scope<'_>, source: usize, span: &Span) -> Option<Vec<Swap>> {
    let found = names(tokens, span);
    if found.subquery || found.volatile || found.columns.is_empty() || scope.only_source(&found) != Some(source) {
        return None;
    }
    let bare = |name: &Name| (name.span.clone(), quoted(&name.column));
    Some(found.columns.iter().filter(|name| name.qualifier.is_some()).map(bare).collect())
}
