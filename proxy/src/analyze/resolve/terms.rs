//! Results of a SELECT, and what a term of ORDER BY or GROUP BY is: rules 4 to 7 of the
//! [module page](super).

use super::same::same;
use super::scope::{Frame, Meaning, Place, meaning};
use crate::analyze::core::{Core, Span};
use crate::analyze::grammar::{is_query, operand_end};
use crate::analyze::names::{Name, names};
use crate::lex::{Kind, Tokens};

/// A column of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultColumn {
    /// The name by which ORDER BY finds it.
    pub name: Option<String>,
    /// The expression, where it is written.
    pub expr: Option<Span>,
    /// The column that it is, if it is nothing more.
    pub place: Option<Place>,
}

/// What a term of ORDER BY or GROUP BY is.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// A column of the answer, by its index from 0.
    Result(usize),
    /// An expression of its own.
    Expr(Span),
}

/// A term of ORDER BY.
#[derive(Clone, Debug, PartialEq)]
pub struct Sorting {
    /// What it sorts by.
    pub term: Term,
    /// The collation that is named for all of it.
    pub collation: Option<String>,
}

/// Which clause a term belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clause {
    Order,
    Group,
}

/// The results of a SELECT whose names are looked up in `frame`; none when a star is not clear.
pub fn results(tokens: &Tokens<'_>, core: &Core, frame: &Frame<'_>) -> Option<Vec<ResultColumn>> {
    let mut columns = Vec::with_capacity(core.items.len());
    for item in &core.items {
        if !is_star(tokens, &item.expr) {
            let place = place(tokens, frame, &item.expr);
            columns.push(ResultColumn { name: item.alias.clone(), expr: Some(item.expr.clone()), place });
            continue;
        }
        let qualifier = match item.expr.len() {
            1 => None,
            len => Some(tokens.name(item.expr.start + len - 3)?),
        };
        star(core, frame, qualifier.as_deref(), &mut columns)?;
    }
    Some(columns)
}

/// Adds the columns of a star.
fn star(core: &Core, frame: &Frame<'_>, qualifier: Option<&str>, columns: &mut Vec<ResultColumn>) -> Option<()> {
    let sources = core.sources.as_deref()?;
    for (index, source) in sources.iter().enumerate() {
        if qualifier.is_some_and(|name| !source.known_as.eq_ignore_ascii_case(name)) {
            continue;
        }
        // Which columns NATURAL merges is not written here.
        if qualifier.is_none() && source.merges_columns && source.using.is_empty() {
            return None;
        }
        for (at, column) in frame.scope.table(index)?.columns.iter().enumerate() {
            // A star over all sources shows a merged column once, at its first source.
            if qualifier.is_none() && source.using.iter().any(|name| name.eq_ignore_ascii_case(&column.name)) {
                continue;
            }
            let place = Some(Place { source: index, column: Some(at) });
            columns.push(ResultColumn { name: Some(column.name.clone()), expr: None, place });
        }
    }
    Some(())
}

/// Is a result `*` or `t.*`?
pub fn is_star(tokens: &Tokens<'_>, span: &Span) -> bool {
    let last = span.end - 1;
    tokens.is_mark(last, "*") && (span.len() == 1 || tokens.is_mark(last - 1, "."))
}

/// The column that an expression is, if it is nothing more.
pub fn place(tokens: &Tokens<'_>, frame: &Frame<'_>, span: &Span) -> Option<Place> {
    match meaning(tokens, &[frame], &only_name(tokens, span)?)? {
        Meaning::Column(_, place) => Some(place),
        _ => None,
    }
}

/// The name that an expression is, parentheses aside.
fn only_name(tokens: &Tokens<'_>, span: &Span) -> Option<Name> {
    let span = without_parentheses(tokens, span);
    let mut found = names(tokens, &span).columns;
    found.pop().filter(|name| found.is_empty() && name.span == span)
}

/// An expression without parentheses around all of it.
pub fn without_parentheses(tokens: &Tokens<'_>, span: &Span) -> Span {
    let mut span = span.clone();
    while span.len() > 2
        && tokens.is_mark(span.start, "(")
        && tokens.closing(span.start) == Some(span.end - 1)
        && !is_query(tokens, span.start + 1)
    {
        span = span.start + 1..span.end - 1;
    }
    span
}

/// Takes off parentheses and a COLLATE that applies to the whole of an expression; of several, the last
/// one counts.
pub fn without_collation(tokens: &Tokens<'_>, span: &Span) -> (Span, Option<String>) {
    let (mut span, mut collation) = (without_parentheses(tokens, span), None);
    while span.len() >= 3 && tokens.is_word(span.end - 2, "COLLATE") {
        let Some(mut end) = operand_end(tokens, span.start) else { break };
        while end < span.end - 2 && tokens.is_word(end, "COLLATE") {
            end += 2;
        }
        if end != span.end - 2 {
            break;
        }
        let name = tokens.name(span.end - 1);
        collation = collation.or(name);
        span = without_parentheses(tokens, &(span.start..end));
    }
    (span, collation)
}

/// The results of a SELECT and where names are looked up: what its terms are told from.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// The statement.
    pub tokens: &'a Tokens<'a>,
    /// Where names are looked up.
    pub frame: &'a Frame<'a>,
    /// The results.
    pub results: &'a [ResultColumn],
}

impl Terms<'_> {
    /// What a term of ORDER BY is, `ASC` and the like taken off; none when it is not certain.
    pub fn order(&self, span: &Span) -> Option<Sorting> {
        let (inner, collation) = without_collation(self.tokens, span);
        Some(Sorting { term: self.term(inner, Clause::Order)?, collation })
    }

    /// What a term of GROUP BY is; none when it is not certain. A COLLATE stays part of it.
    pub fn group(&self, span: &Span) -> Option<Term> {
        let (inner, collation) = without_collation(self.tokens, span);
        let term = self.term(inner, Clause::Group)?;
        match (collation, term) {
            (None, term) => Some(term),
            (Some(_), Term::Expr(_)) => Some(Term::Expr(span.clone())),
            (Some(_), Term::Result(_)) => None,
        }
    }

    fn term(&self, span: Span, clause: Clause) -> Option<Term> {
        if let Some(name) = self.identifier(&span) {
            let by_name = self
                .results
                .iter()
                .position(|result| result.name.as_ref().is_some_and(|alias| alias.eq_ignore_ascii_case(&name.column)));
            // GROUP BY takes a column first; what is unclear there stays so.
            if let Some(index) = by_name.filter(|_| clause == Clause::Order || !self.frame.scope.knows(&name)) {
                return Some(Term::Result(index));
            }
        }
        match self.ordinal(&span) {
            Ordinal::Unclear => return None,
            Ordinal::Is(index) => return (1..=self.results.len()).contains(&index).then(|| Term::Result(index - 1)),
            Ordinal::No => (),
        }
        // SQLite marks these when it resolves them, and looks through the mark.
        let hint = ["likely", "unlikely", "likelihood"].iter().any(|hint| self.tokens.is_word(span.start, hint));
        if hint && self.tokens.is_mark(span.start + 1, "(") {
            return None;
        }
        let found = names(self.tokens, &span);
        if !found.columns.iter().all(|name| self.is_clear(name)) {
            return None;
        }
        let own = place(self.tokens, self.frame, &span);
        let equal = |result: &ResultColumn| match &result.expr {
            Some(expr) => same(self.tokens, self.frame, expr, &span),
            None => own.is_some() && own == result.place,
        };
        Some(self.results.iter().position(equal).map_or(Term::Expr(span), Term::Result))
    }

    /// Is a name a column of this SELECT, or a literal?
    fn is_clear(&self, name: &Name) -> bool {
        matches!(meaning(self.tokens, &[self.frame], name), Some(Meaning::Column(..) | Meaning::Literal))
    }

    /// The one name without a qualifier that a term is.
    fn identifier(&self, span: &Span) -> Option<Name> {
        only_name(self.tokens, span).filter(|name| name.qualifier.is_none())
    }

    fn ordinal(&self, span: &Span) -> Ordinal {
        let (tokens, mut span, mut negative) = (self.tokens, span.clone(), false);
        loop {
            span = without_parentheses(tokens, &span);
            match tokens.text(span.start) {
                "+" | "-" if span.len() > 1 && tokens.list[span.start].kind == Kind::Mark => {
                    negative ^= tokens.is_mark(span.start, "-");
                    span.start += 1;
                }
                _ => break,
            }
        }
        if span.len() != 1 || tokens.list[span.start].kind != Kind::Number {
            return Ordinal::No;
        }
        // Reals and integers over 31 bits are constants; hexadecimal digits and `_` are left to SQLite.
        match tokens.text(span.start).parse::<i32>() {
            Ok(number) if !negative => Ordinal::Is(number as usize),
            _ => Ordinal::Unclear,
        }
    }
}

/// Is a term the number of a result?
enum Ordinal {
    No,
    Is(usize),
    Unclear,
}
