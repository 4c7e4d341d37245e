//! How the rows of several shards become the answer of a SELECT: decided once per text and schema.
//!
//! Three shapes, tried in this order; each is right wherever it applies, the first ones are faster:
//!
//! 1. [`Shape::Concat`]: every row of the answer is made on one shard, and nothing else is asked: the
//!    shards run the statement as written, and their rows follow each other;
//! 2. [`Shape::TwoPhase`]: rows are made on one shard each, and then sorted, limited, made distinct
//!    ([`sorted`]) or grouped ([`grouped`]): the shards do their part of that, and a last query over
//!    their results finishes it in the proxy's own SQLite;
//! 3. [`Shape::Gather`]: all else. The columns and rows that the statement needs are pulled into the
//!    proxy's own SQLite, where the statement runs as written.
//!
//! Rows are made on one shard ([`local`]) when the tables are colocated and joined by their shard
//! keys. Input: the statement and the [mirror](crate::mirror). The texts made here are prepared on the
//! mirror, or on an empty copy of the tables that they will find; a text that SQLite does not take
//! makes the shape inapplicable, never wrong.

pub mod gather;
pub mod grouped;
pub mod local;
pub mod sorted;
pub mod text;

use flotilla_shared::ids::PlacementId;
use flotilla_shared::registry::Table;
use flotilla_shared::slot::{Affinity, Collation};
use flotilla_shared::sqlite;

use crate::analyze::core::{Core, Span, cores};
use crate::analyze::names::{Names, names};
use crate::analyze::resolve::scope::meaning;
use crate::analyze::resolve::terms::{ResultColumn, Terms, is_star, place, results};
use crate::analyze::resolve::{Frame, Meaning, Place, check};
use crate::lex::Tokens;
use crate::mirror::{Mirror, Prepared};
use gather::Gather;
use text::Template;

/// Why a statement is not pushed down, for people.
pub type Why = &'static str;

/// The table that holds the shards' results.
pub const PARTS: &str = "_flotilla_parts";

/// How rows of several shards become one answer.
#[derive(Clone, Debug)]
pub enum Shape {
    /// One behind the other.
    Concat {
        /// The placement that decides which shards.
        placement: PlacementId,
    },
    /// Each shard's part, and a query over them.
    TwoPhase(Box<TwoPhase>),
    /// Tables are pulled.
    Gather(Gather),
}

/// A statement in two phases.
#[derive(Clone, Debug, PartialEq)]
pub struct TwoPhase {
    /// The placement that decides which shards.
    pub placement: PlacementId,
    /// What each shard runs.
    pub shard: Template,
    /// The columns of [`PARTS`], as declared.
    pub columns: Vec<String>,
    /// What finishes.
    pub finish: Template,
    /// What is pushed down, for people.
    pub pushed: &'static str,
}

impl TwoPhase {
    /// The statement that makes [`PARTS`].
    pub fn create(&self) -> String {
        create_parts(&self.columns)
    }
}

fn create_parts(columns: &[String]) -> String {
    format!("CREATE TABLE {PARTS} ({})", columns.join(", "))
}

/// The shape of a SELECT.
pub fn shape(mirror: &Mirror, prepared: &Prepared) -> Shape {
    let Ok(tokens) = Tokens::read(&prepared.sql) else {
        return Shape::Gather(Gather::whole(mirror, prepared, "the statement is not one that the planner reads"));
    };
    let cores = cores(&tokens);
    let made = match cores.as_deref() {
        _ if (0..tokens.list.len()).any(|index| tokens.is_in_table(index)) => Err("IN names a table"),
        Some([core, nested @ ..]) if core.start == 0 && !core.compound && !tokens.has_word("VALUES") => {
            Query::new(mirror, prepared, &tokens, core, nested).and_then(|query| query.shape())
        }
        Some(_) => Err("it holds several SELECTs"),
        None => Err("its structure is not clear to the planner"),
    };
    made.unwrap_or_else(|why| Shape::Gather(Gather::of(mirror, prepared, &tokens, cores.as_deref(), why)))
}

/// A SELECT whose rows are made on one shard each; so are those of the SELECTs inside it.
pub struct Query<'a> {
    mirror: &'a Mirror,
    prepared: &'a Prepared,
    tokens: &'a Tokens<'a>,
    core: &'a Core,
    nested: &'a [Core],
    frame: Frame<'a>,
    results: Vec<ResultColumn>,
    placement: PlacementId,
}

impl<'a> Query<'a> {
    fn new(
        mirror: &'a Mirror,
        prepared: &'a Prepared,
        tokens: &'a Tokens<'a>,
        core: &'a Core,
        nested: &'a [Core],
    ) -> Result<Self, Why> {
        let tables = &mirror.schema.tables;
        let frame = Frame::new(core, tables).ok_or("FROM holds more than tables and joins of them")?;
        if prepared.analysis.view.is_some() {
            return Err("it reads a view");
        }
        if core.window || tokens.has_word("OVER") {
            return Err("window functions need all rows");
        }
        let placement = local::placement(tokens, core, &frame.scope, &mirror.schema)?;
        local::nested(tokens, core, nested, &mirror.schema, placement)?;
        let results = results(tokens, core, &frame).ok_or("a star is not clear")?;
        check::agrees(tokens, prepared, &results, core, nested, tables)?;
        Ok(Self { mirror, prepared, tokens, core, nested, frame, results, placement })
    }

    fn shape(&self) -> Result<Shape, Why> {
        let core = self.core;
        let groups = !core.group_by.is_empty() || core.having.is_some() || self.aggregates();
        let orders = core.distinct || !core.order_by.is_empty() || core.limit.is_some();
        match (groups, orders) {
            (false, false) => Ok(Shape::Concat { placement: self.placement }),
            (true, _) => grouped::plan(self).map(|plan| Shape::TwoPhase(Box::new(plan))),
            (false, true) => sorted::plan(self).map(|plan| Shape::TwoPhase(Box::new(plan))),
        }
    }

    fn names(&self, span: &Span) -> Names {
        names(self.tokens, span)
    }

    fn aggregates(&self) -> bool {
        let core = self.core;
        let spans = core.items.iter().map(|item| &item.expr).chain(core.order_by.iter().map(|term| &term.expr));
        spans.chain(&core.having).flat_map(|span| self.outside(span)).any(|span| {
            self.names(&span).functions.iter().any(|(at, name)| grouped::is_aggregate(self.tokens, *at, name))
        })
    }

    /// The column that an expression is, if it is nothing more.
    fn column(&self, span: &Span) -> Option<(&'a Table, usize)> {
        let place = place(self.tokens, &self.frame, span)?;
        Some((self.frame.scope.table(place.source)?, place.column?))
    }

    /// The collation by which values of an expression compare, where that is certain.
    fn collation(&self, span: &Span) -> Option<Collation> {
        if let Some((table, column)) = self.column(span) {
            return Some(table.columns[column].compare.collation);
        }
        if span.clone().any(|at| self.tokens.is_word(at, "COLLATE")) {
            return None;
        }
        self.names(span)
            .columns
            .iter()
            .all(|name| {
                let table = |source: usize| self.frame.scope.table(source);
                match meaning(self.tokens, &[&self.frame], name) {
                    Some(Meaning::Column(_, Place { source, column: Some(column) })) => {
                        table(source).is_some_and(|t| t.columns[column].compare.collation == Collation::Binary)
                    }
                    Some(Meaning::Column(_, Place { source, column: None })) => table(source).is_some(),
                    Some(Meaning::Literal) => true,
                    Some(Meaning::Alias(_)) | None => false,
                }
            })
            .then_some(Collation::Binary)
    }

    /// Do the conditions name nothing but columns of the tables?
    fn conditions_are_plain(&self) -> bool {
        let sources = self.core.sources.as_deref().unwrap_or_default();
        let spans = self.core.condition.iter().chain(sources.iter().filter_map(|source| source.on.as_ref()));
        spans.into_iter().all(|span| self.outside(span).iter().all(|piece| self.resolves(&self.names(piece))))
    }

    /// Does a condition, which shards look at, ask for the time, and also what the last query computes from
    /// groups? These are two clocks.
    fn reads_clock_twice(&self) -> bool {
        let core = self.core;
        let joins = core.sources.iter().flatten().filter_map(|source| source.on.as_ref());
        let computed = core.items.iter().map(|item| &item.expr).chain(core.order_by.iter().map(|term| &term.expr));
        let is_volatile = |span: &Span| self.names(span).volatile;
        self.prepared.analysis.record.clock
            && core.condition.iter().chain(joins).any(is_volatile)
            && computed.chain(&core.having).chain(&core.limit).chain(&core.offset).any(is_volatile)
    }

    /// What of an expression is not inside a SELECT of its own.
    fn outside(&self, span: &Span) -> Vec<Span> {
        check::outside(span, self.nested)
    }

    fn resolves(&self, names: &Names) -> bool {
        names.columns.iter().all(|name| {
            matches!(meaning(self.tokens, &[&self.frame], name), Some(Meaning::Column(..) | Meaning::Literal))
        })
    }

    /// What terms of ORDER BY and GROUP BY are told from.
    fn terms(&self) -> Terms<'_> {
        Terms { tokens: self.tokens, frame: &self.frame, results: &self.results }
    }

    /// Is there a star among the results?
    fn has_star(&self) -> bool {
        self.core.items.iter().any(|item| is_star(self.tokens, &item.expr))
    }

    /// The text for one shard is one that the mirror takes.
    fn is_readable(&self, template: &Template) -> bool {
        self.mirror.prepare_own(&template.sql).is_ok_and(|prepared| prepared.readonly)
    }
}

/// A declaration that compares by this collation and leaves values as they are.
fn declared(name: &str, affinity: Affinity, collation: Collation) -> String {
    let affinity = match affinity {
        Affinity::Integer => "INT",
        Affinity::Text => "TEXT",
        Affinity::Blob => "",
        Affinity::Real => "REAL",
        Affinity::Numeric => "NUMERIC",
    };
    format!("{name} {affinity} COLLATE {}", collation_name(collation))
}

fn collation_name(collation: Collation) -> &'static str {
    match collation {
        Collation::Binary => "BINARY",
        Collation::NoCase => "NOCASE",
        Collation::Rtrim => "RTRIM",
    }
}

/// Does a query prepare where only the parts are?
fn finishes(columns: &[String], finish: &Template) -> bool {
    let prepare = || -> rusqlite::Result<()> {
        let db = sqlite::open_in_memory()?;
        // A name that is left over must not pass for a text.
        db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        db.execute_batch(&create_parts(columns))?;
        db.prepare(&finish.sql).map(drop)
    };
    prepare().is_ok()
}
