//! What a statement's conditions say about the columns of its tables.
//!
//! Input: the [`Shape`] of a statement and the tables of the registry. Output: [`Predicates`], from
//! which [`route`](crate::plan::route) finds slots once the arguments are known. What is not surely
//! understood is left out, and then it restricts nothing.
//!
//! Names resolve as in SQLite. A qualified one belongs to the source known by that name. Any other
//! belongs to the source that has such a column: were there two, SQLite would have refused the
//! statement as ambiguous, unless they are joined by USING or NATURAL, and then it takes the leftmost.
//! A name that is no column (an alias of a result, a text in double quotes, `TRUE`) means nothing here.
//!
//! A comparison restricts a column only where SQLite compares as the column itself does:
//!
//! - by the column's affinity: so the other side is a constant without affinity, or a `CAST` where
//!   that makes no difference. `t = CAST('5' AS INTEGER)` on a TEXT column compares as numbers, so
//!   `'05'` is equal too, and hash and order of the column know nothing of it;
//! - by the column's collation: so nothing with `COLLATE` in it, on either side;
//! - two columns are one value only with the same affinity and collation.
//!
//! Joins: every row of the result meets WHERE and the conditions of all inner joins, so together they
//! restrict every source that is not on the right of a LEFT JOIN. A row of one that is matters where it
//! meets its own ON beside rows of the left that matter; WHERE is of no use for it, since without the
//! row SQLite would put NULLs in its place and ask WHERE again. So it is restricted by its ON together
//! with those conditions of the result that do not name it. Where its ON can only hold beside a real row
//! of an earlier LEFT JOIN (it compares a column of it by `=`), that one's ON holds as well.
//! Conditions of a LEFT JOIN never restrict its left side. But where the result's conditions can only
//! hold beside a real row of it (`WHERE r.k = 5`), no row with NULLs in its place is left, and then it
//! is the same as an inner join and treated as one.

use flotilla_shared::registry::Table;
use flotilla_shared::slot::{Affinity, KeyColumn};

use crate::analyze::expr::{Compare, Expr, Name, Node};
use crate::analyze::fold::Computed;
use crate::analyze::from::{Shape, Source, Tie};
use crate::analyze::term::Term;
use crate::lex::Tokens;

/// A column of a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColumnAt {
    /// The source, from 0.
    pub source: usize,
    /// The column, from 0.
    pub column: usize,
    /// How it compares.
    pub compare: KeyColumn,
}

/// One end of a range, and whether it belongs to it.
pub type End = Option<(Term, bool)>;

/// Something that holds for a row that matters.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The column is equal to one of the terms.
    Among {
        /// The column.
        column: ColumnAt,
        /// The terms.
        terms: Vec<Term>,
        /// NULL is equal to NULL.
        nulls: bool,
    },
    /// The column lies in a range, and so is not NULL.
    Within {
        /// The column.
        column: ColumnAt,
        /// Lower end.
        low: End,
        /// Upper end.
        high: End,
    },
    /// Two columns are equal, and so not NULL.
    Equal(ColumnAt, ColumnAt),
    /// One of these groups holds as a whole.
    Either(Vec<Vec<Condition>>),
    /// A constant is true.
    Holds(Term),
}

impl Condition {
    /// Does it name a column of the source?
    fn names(&self, source: usize) -> bool {
        match self {
            Self::Among { column, .. } | Self::Within { column, .. } => column.source == source,
            Self::Equal(a, b) => a.source == source || b.source == source,
            Self::Either(arms) => arms.iter().flatten().any(|condition| condition.names(source)),
            Self::Holds(_) => false,
        }
    }

    /// Can it only hold when the source's row is a real one and not NULLs in its place?
    fn needs_row(&self, source: usize) -> bool {
        match self {
            Self::Among { nulls: true, .. } | Self::Either(_) => false,
            other => other.names(source),
        }
    }
}

/// A source, as far as it is a table of the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The table's name in lower case; none for what is no table.
    pub table: Option<String>,
    /// The name under which the statement knows it.
    pub known_as: Option<String>,
    /// On the right of a LEFT JOIN: what holds for its rows that matter.
    outer: Option<Vec<Condition>>,
}

/// What is known of a statement's sources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predicates {
    /// The sources in the order of the text; the target of an UPDATE or DELETE is the first.
    pub sources: Vec<Instance>,
    /// What holds for every row of the result.
    result: Vec<Condition>,
    /// There is one source, and each condition fixes a column of its own to one term.
    pub is_plain: bool,
}

impl Predicates {
    /// Reads them; `table` finds tables by name in any case.
    pub fn read<'t>(tokens: &Tokens<'_>, table: impl Fn(&str) -> Option<&'t Table>) -> Option<Self> {
        let shape = Shape::read(tokens)?;
        let tables: Vec<Option<&Table>> = shape.sources.iter().map(|source| table(source.table.as_deref()?)).collect();
        let scope = Scope { tokens, sources: &shape.sources, tables: &tables };
        let mut result = Vec::new();
        if let Some(condition) = &shape.condition {
            scope.lower(condition, &mut result);
        }
        let mut outer: Vec<Option<Vec<Condition>>> = Vec::with_capacity(tables.len());
        for index in 0..tables.len() {
            let mut tie = scope.tie(index);
            // A condition that looks to its right is a case of its own in SQLite.
            let looks_right = (index + 1..tables.len()).any(|right| tie.iter().any(|one| one.names(right)));
            outer.push(match shape.sources[index].outer {
                true if looks_right => Some(vec![]),
                true => Some(tie),
                false => {
                    result.append(&mut tie);
                    None
                }
            });
        }
        let needed = |result: &Vec<Condition>, outer: &[Option<Vec<Condition>>]| {
            (0..outer.len()).find(|r| outer[*r].is_some() && result.iter().any(|one| one.needs_row(*r)))
        };
        while let Some(inner) = needed(&result, &outer) {
            result.extend(outer[inner].take().unwrap_or_default());
        }
        let own = outer.clone();
        for (index, conditions) in outer.iter_mut().enumerate() {
            let Some(conditions) = conditions else { continue };
            for left in (0..index).rev() {
                if let Some(also) = own[left].as_ref().filter(|_| conditions.iter().any(|one| one.needs_row(left))) {
                    conditions.extend(also.iter().cloned());
                }
            }
            conditions.extend(result.iter().filter(|condition| !condition.names(index)).cloned());
        }
        let sources = outer
            .into_iter()
            .enumerate()
            .map(|(index, outer)| Instance {
                table: tables[index].map(|table| table.name.to_ascii_lowercase()),
                known_as: shape.sources[index].known_as.clone(),
                outer,
            })
            .collect();
        let mut predicates = Self { sources, result, is_plain: false };
        predicates.is_plain = predicates.plain();
        Some(predicates)
    }

    /// What holds for the rows of a source that matter.
    pub fn of(&self, source: usize) -> &[Condition] {
        self.sources.get(source).and_then(|instance| instance.outer.as_deref()).unwrap_or(&self.result)
    }

    fn plain(&self) -> bool {
        let columns: Vec<usize> = self
            .result
            .iter()
            .filter_map(|condition| match condition {
                Condition::Among { column, terms, nulls: false } if terms.len() == 1 => Some(column.column),
                _ => None,
            })
            .collect();
        self.sources.len() == 1
            && columns.len() == self.result.len()
            && columns.iter().enumerate().all(|(n, column)| !columns[..n].contains(column))
    }
}

struct Scope<'a, 't> {
    tokens: &'a Tokens<'a>,
    sources: &'a [Source],
    tables: &'a [Option<&'t Table>],
}

impl Scope<'_, '_> {
    /// Adds what follows from `expr` being true.
    fn lower(&self, expr: &Expr, out: &mut Vec<Condition>) {
        match &expr.node {
            Node::And(all) => all.iter().for_each(|one| self.lower(one, out)),
            _ if expr.constant => out.extend(Computed::term(self.tokens, expr).map(Condition::Holds)),
            Node::Or(arms) => out.extend(self.either(arms)),
            Node::Compare(compare, left, right) => self.compare(*compare, left, right, out),
            Node::Between(middle, low, high) => {
                self.compare(Compare::AtLeast, middle, low, out);
                self.compare(Compare::AtMost, middle, high, out);
            }
            Node::In(left, list) => self.among(left, list, out),
            _ => (),
        }
    }

    fn compare(&self, compare: Compare, left: &Expr, right: &Expr, out: &mut Vec<Condition>) {
        if let (Node::Row(lefts), Node::Row(rights)) = (&left.node, &right.node) {
            if lefts.len() == rights.len() {
                match compare {
                    Compare::Equal | Compare::Is => {
                        lefts.iter().zip(rights).for_each(|(left, right)| self.compare(compare, left, right, out));
                    }
                    // (a, b) < (x, y) says of a alone that it is at most x.
                    Compare::Less | Compare::AtMost => self.compare(Compare::AtMost, &lefts[0], &rights[0], out),
                    Compare::More | Compare::AtLeast => self.compare(Compare::AtLeast, &lefts[0], &rights[0], out),
                }
            }
            return;
        }
        if let (Compare::Equal, Some(a), Some(b)) = (compare, self.column(left), self.column(right)) {
            if a.compare == b.compare {
                out.push(Condition::Equal(a, b));
            }
            return;
        }
        let (column, term, compare) = match (self.against(left, right), self.against(right, left)) {
            (Some((column, term)), _) => (column, term, compare),
            (None, Some((column, term))) => (column, term, compare.flipped()),
            (None, None) => return,
        };
        out.push(match compare {
            Compare::Equal => Condition::Among { column, terms: vec![term], nulls: false },
            Compare::Is => Condition::Among { column, terms: vec![term], nulls: true },
            Compare::Less => Condition::Within { column, low: None, high: Some((term, false)) },
            Compare::AtMost => Condition::Within { column, low: None, high: Some((term, true)) },
            Compare::More => Condition::Within { column, low: Some((term, false)), high: None },
            Compare::AtLeast => Condition::Within { column, low: Some((term, true)), high: None },
        });
    }

    fn among(&self, left: &Expr, list: &[Expr], out: &mut Vec<Condition>) {
        let width = |item: &Expr| if let Node::Row(items) = &item.node { items.len() } else { 0 };
        let is_rows = list.iter().any(|item| width(item) > 0);
        if !is_rows {
            // Only the left side's affinity counts here, but a single item is turned into `=`.
            let column = self.column(left);
            let terms = column.and_then(|column| list.iter().map(|item| self.term(column, item)).collect());
            if let (Some(column), Some(terms)) = (column, terms) {
                out.push(Condition::Among { column, terms, nulls: false });
            }
            return;
        }
        // Rows of VALUES. Where one of them has an affinity, it is not plain which one counts.
        let lefts = match &left.node {
            Node::Row(items) => &items[..],
            _ => std::slice::from_ref(left),
        };
        let mut arms = Vec::with_capacity(list.len());
        for item in list {
            let Node::Row(items) = &item.node else { return };
            if items.len() != lefts.len() || items.iter().any(|item| matches!(item.node, Node::Cast(_))) {
                return;
            }
            let mut arm = Vec::new();
            for (left, right) in lefts.iter().zip(items) {
                if self.column(right).is_none() {
                    self.compare(Compare::Equal, left, right, &mut arm);
                }
            }
            arms.push(arm);
        }
        out.extend(joined(arms));
    }

    fn either(&self, arms: &[Expr]) -> Option<Condition> {
        let lowered = arms.iter().map(|arm| {
            let mut conditions = Vec::new();
            self.lower(arm, &mut conditions);
            conditions
        });
        joined(lowered.collect())
    }

    /// What ties a source to those on its left.
    fn tie(&self, index: usize) -> Vec<Condition> {
        let mut out = Vec::new();
        let mut pair = |name: &str| {
            // A source of unknown columns further left may have the name as well.
            let known = self.tables[..index].iter().all(Option::is_some);
            let left = (0..index).find_map(|left| self.at(left, name)).filter(|_| known);
            if let (Some(left), Some(right)) = (left, self.at(index, name))
                && left.compare == right.compare
            {
                out.push(Condition::Equal(left, right));
            }
        };
        match &self.sources[index].tie {
            Tie::None => (),
            Tie::On(condition) => self.lower(condition, &mut out),
            Tie::Using(names) => names.iter().for_each(|name| pair(name)),
            Tie::Natural => {
                self.tables[index].iter().flat_map(|table| &table.columns).for_each(|column| pair(&column.name));
            }
        }
        out
    }

    /// A column and what it is compared with.
    fn against(&self, left: &Expr, right: &Expr) -> Option<(ColumnAt, Term)> {
        let column = self.column(left)?;
        Some((column, self.term(column, right)?))
    }

    fn term(&self, column: ColumnAt, expr: &Expr) -> Option<Term> {
        let numeric = |affinity| !matches!(affinity, Affinity::Text | Affinity::Blob);
        match expr.node {
            Node::Cast(affinity) if numeric(affinity) && !numeric(column.compare.affinity) => None,
            _ if !expr.constant => None,
            _ => Computed::term(self.tokens, expr),
        }
    }

    fn column(&self, expr: &Expr) -> Option<ColumnAt> {
        let Node::Column(Name { of, column }) = &expr.node else { return None };
        let places = 0..self.sources.len();
        let Some(of) = of else {
            let opaque = self.tables.iter().any(Option::is_none);
            let merged = self.sources.iter().any(|source| matches!(source.tie, Tie::Using(_) | Tie::Natural));
            let mut found = places.filter_map(|source| self.at(source, column));
            return if opaque && merged { None } else { found.next() };
        };
        let is = |source: &usize| self.sources[*source].known_as.as_ref().is_some_and(|n| n.eq_ignore_ascii_case(of));
        let mut named = places.filter(is);
        match (named.next(), named.next()) {
            (Some(source), None) => self.at(source, column).or_else(|| self.rowid(source, column)),
            _ => None,
        }
    }

    /// A declared column of a source, or the rowid where there is no other source.
    fn at(&self, source: usize, name: &str) -> Option<ColumnAt> {
        let table = self.tables[source]?;
        match table.column(name) {
            Some(column) => Some(ColumnAt { source, column, compare: table.columns[column].compare }),
            None if self.sources.len() == 1 => self.rowid(source, name),
            None => None,
        }
    }

    /// The rowid of a source, by a name that no column takes.
    fn rowid(&self, source: usize, name: &str) -> Option<ColumnAt> {
        let table = self.tables[source]?;
        let column = table.rowid_alias.filter(|alias| crate::plan::keys::is_column(table, *alias, name))?;
        Some(ColumnAt { source, column, compare: table.columns[column].compare })
    }
}

/// One of several groups holds. Where each fixes the same column, that is one list of terms; where one
/// says nothing, neither do all.
fn joined(arms: Vec<Vec<Condition>>) -> Option<Condition> {
    if arms.iter().any(Vec::is_empty) {
        return None;
    }
    let single = |arm: &Vec<Condition>| match &arm[..] {
        [Condition::Among { column, nulls: false, .. }] => Some(*column),
        _ => None,
    };
    let first = arms.first().and_then(single);
    let Some(column) = first.filter(|_| arms.iter().all(|arm| single(arm) == first)) else {
        return Some(Condition::Either(arms));
    };
    let terms = arms.into_iter().flatten().flat_map(|condition| match condition {
        Condition::Among { terms, .. } => terms,
        _ => vec![],
    });
    Some(Condition::Among { column, terms: terms.collect(), nulls: false })
}
