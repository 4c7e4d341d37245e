//! Which column a name is: rules 1 to 3 of the [module page](super).

use std::collections::HashMap;

use flotilla_shared::registry::Table;

use crate::analyze::core::{Core, Join, Source};
use crate::analyze::names::{Name, Names};
use crate::lex::{Kind, Tokens};

/// A column of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which source.
    pub source: usize,
    /// Which column; none for the rowid of a table without an alias for it.
    pub column: Option<usize>,
}

/// Is it one of the names that SQLite gives the rowid, where no column has that name?
pub fn is_rowid(name: &str) -> bool {
    ["rowid", "oid", "_rowid_"].iter().any(|alias| name.eq_ignore_ascii_case(alias))
}

/// The column of a table that a name is: none inside for a rowid that no column stands for, none at all
/// for a name that the table does not have.
pub fn column_of(table: &Table, name: &str) -> Option<Option<usize>> {
    match table.column(name) {
        Some(column) => Some(Some(column)),
        None => is_rowid(name).then_some(table.rowid_alias),
    }
}

/// The tables of a SELECT by the names of its sources.
pub struct Scope<'a> {
    sources: &'a [Source],
    tables: Vec<Option<&'a Table>>,
}

impl<'a> Scope<'a> {
    /// The scope of these sources.
    pub fn new(sources: &'a [Source], tables: &'a HashMap<String, Table>) -> Self {
        let find = |source: &Source| source.table.as_ref().and_then(|name| tables.get(name));
        Self { sources, tables: sources.iter().map(find).collect() }
    }

    /// The table of a source.
    pub fn table(&self, source: usize) -> Option<&'a Table> {
        self.tables[source]
    }

    /// Where a column belongs; none where that is not certain.
    pub fn place(&self, name: &Name) -> Option<Place> {
        let fits = |source: &usize| match &name.qualifier {
            Some(qualifier) => self.sources[*source].known_as == *qualifier,
            None => true,
        };
        // A column that USING or NATURAL merges with one that is not known here could be either.
        let merged = self.sources.iter().any(|source| source.merges_columns);
        if name.qualifier.is_none() && merged && self.tables.iter().any(Option::is_none) {
            return None;
        }
        let candidates = || (0..self.sources.len()).filter(fits);
        let mut columns = candidates().filter_map(|source| Some((source, self.tables[source]?.column(&name.column)?)));
        if let Some((source, column)) = columns.next() {
            // Columns of one name are merged, or SQLite would have refused the name: then the first one counts.
            let merged = columns.all(|(other, _)| self.is_merged(other, &name.column));
            return merged.then_some(Place { source, column: Some(column) });
        }
        let mut rowids = candidates().filter(|_| is_rowid(&name.column));
        match (rowids.next(), rowids.next()) {
            (Some(source), None) => Some(Place { source, column: self.tables[source]?.rowid_alias }),
            _ => None,
        }
    }

    /// Is a column of a source merged with that of a source before it, which is the one that its name means? Behind
    /// RIGHT and FULL it may be the other one.
    fn is_merged(&self, source: usize, column: &str) -> bool {
        let Source { join, merges_columns, using, .. } = &self.sources[source];
        let named = using.is_empty() || using.iter().any(|name| name.eq_ignore_ascii_case(column));
        *merges_columns && named && matches!(join, Join::Inner | Join::Left)
    }

    /// The only source that an expression needs, if all its names belong to one. An expression
    /// without names belongs to none.
    pub fn only_source(&self, names: &Names) -> Option<usize> {
        let mut only = None;
        for name in &names.columns {
            let place = self.place(name)?;
            if *only.get_or_insert(place.source) != place.source {
                return None;
            }
        }
        only
    }

    /// How many sources.
    pub fn count(&self) -> usize {
        self.sources.len()
    }

    /// Could a name belong here, or is it certain that it does not?
    pub fn knows(&self, name: &Name) -> bool {
        match &name.qualifier {
            Some(qualifier) => self.sources.iter().any(|source| source.known_as == *qualifier),
            None => {
                let has = |table: &&Table| column_of(table, &name.column).is_some();
                self.tables.iter().any(Option::is_none) || self.tables.iter().flatten().any(has)
            }
        }
    }
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A column, of the SELECT so many levels out.
    Column(usize, Place),
    /// The alias of a result, of the SELECT so many levels out.
    Alias(usize),
    /// A text, `TRUE` or `FALSE`.
    Literal,
}

/// A SELECT, as far as names inside it are looked up there.
pub struct Frame<'a> {
    /// Its sources.
    pub scope: Scope<'a>,
    /// The aliases of its results.
    aliases: Vec<&'a str>,
}

impl<'a> Frame<'a> {
    /// The frame of a SELECT; none when its FROM is not clear.
    pub fn new(core: &'a Core, tables: &'a HashMap<String, Table>) -> Option<Self> {
        let sources = match core.from {
            Some(_) => core.sources.as_deref()?,
            None => &[],
        };
        let aliases = core.items.iter().filter_map(|item| item.alias.as_deref()).collect();
        Some(Self { scope: Scope::new(sources, tables), aliases })
    }

    /// Is it the alias of a result?
    pub fn is_alias(&self, name: &str) -> bool {
        self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }
}

/// What a name means that stands in the first of these frames, each inside the next one.
pub fn meaning(tokens: &Tokens<'_>, frames: &[&Frame<'_>], name: &Name) -> Option<Meaning> {
    for (level, frame) in frames.iter().enumerate() {
        if let Some(place) = frame.scope.place(name) {
            return Some(Meaning::Column(level, place));
        }
        if frame.scope.knows(name) {
            return None;
        }
        if name.qualifier.is_none() && frame.is_alias(&name.column) {
            return Some(Meaning::Alias(level));
        }
    }
    let text = tokens.text(name.span.start);
    let truth = text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
    let literal = match tokens.list[name.span.start].kind {
        Kind::Word => truth,
        _ => text.starts_with('"'),
    };
    (name.qualifier.is_none() && literal).then_some(Meaning::Literal)
}
