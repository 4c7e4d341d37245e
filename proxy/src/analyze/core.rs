//! The SELECTs of a statement, each as ranges of tokens: what it selects, from where, by which
//! conditions, in which order.
//!
//! Input: tokens of a statement that SQLite has prepared, so its grammar is right. Output:
//! [`Core`]s, outermost first, which the [plan](crate::plan::read) cuts pieces of text from. Nothing is
//! evaluated. What is unusual (a parenthesized join, a table function) leaves [`Core::sources`] empty,
//! and then nothing is pushed down.

use std::ops::Range;

use crate::lex::{Kind, Tokens};

/// Tokens `start..end`.
pub type Span = Range<usize>;

/// One result of a SELECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The expression, or a star.
    pub expr: Span,
    /// Its name, where one is given.
    pub alias: Option<String>,
}

/// One term of ORDER BY.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderTerm {
    /// The expression, with any COLLATE.
    pub expr: Span,
    /// `ASC`, `DESC`, `NULLS FIRST`, `NULLS LAST`.
    pub suffix: Span,
}

/// How a source is joined to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// The first one, a comma, CROSS or INNER.
    Inner,
    /// Rows before it stay without a match.
    Left,
    /// Its rows stay without a match.
    Right,
    /// Both.
    Full,
}

/// What a SELECT reads from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The table's name in lower case; none for a subquery or a CTE.
    pub table: Option<String>,
    /// The name that may be a CTE's, in lower case: SQLite's scopes decide which it is.
    pub shadowed: Option<String>,
    /// The name by which its columns are qualified, in lower case.
    pub known_as: String,
    /// How it is joined.
    pub join: Join,
    /// NATURAL, or the columns of USING.
    pub merges_columns: bool,
    /// The columns of USING, in lower case.
    pub using: Vec<String>,
    /// The condition of ON.
    pub on: Option<Span>,
}

/// One SELECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Core {
    /// Where its SELECT is.
    pub start: usize,
    /// One past its last token.
    pub end: usize,
    /// It is inside parentheses.
    pub nested: bool,
    /// It is part of a UNION, INTERSECT or EXCEPT.
    pub compound: bool,
    /// SELECT DISTINCT.
    pub distinct: bool,
    /// What it selects.
    pub items: Vec<Item>,
    /// Everything behind FROM.
    pub from: Option<Span>,
    /// The same, taken apart.
    pub sources: Option<Vec<Source>>,
    /// WHERE.
    pub condition: Option<Span>,
    /// GROUP BY.
    pub group_by: Vec<Span>,
    /// HAVING.
    pub having: Option<Span>,
    /// It names windows.
    pub window: bool,
    /// ORDER BY.
    pub order_by: Vec<OrderTerm>,
    /// LIMIT.
    pub limit: Option<Span>,
    /// OFFSET.
    pub offset: Option<Span>,
}

/// All SELECTs of a statement, in the order of their words; `None` when its structure is not clear.
pub fn cores(tokens: &Tokens<'_>) -> Option<Vec<Core>> {
    let ctes = cte_names(tokens);
    let starts: Vec<usize> = (0..tokens.list.len()).filter(|at| tokens.is_word(*at, "SELECT")).collect();
    starts.into_iter().map(|start| Reader { tokens, ctes: &ctes }.core(start)).collect()
}

/// Names that may be those of common table expressions or windows: too many do no harm.
fn cte_names(tokens: &Tokens<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for at in 0..tokens.list.len() {
        let Some(name) = tokens.name(at) else { continue };
        let behind =
            if tokens.is_mark(at + 1, "(") { tokens.closing(at + 1).map_or(at + 1, |end| end + 1) } else { at + 1 };
        let body = |index: usize| {
            tokens.is_mark(index, "(") || tokens.is_word(index, "MATERIALIZED") || tokens.is_word(index, "NOT")
        };
        if tokens.is_word(behind, "AS") && body(behind + 1) {
            names.push(name.to_ascii_lowercase());
        }
    }
    names
}

/// Walks tokens and tells where parentheses and CASE … END leave it at the level where it began.
pub struct Walk<'a, 'b> {
    tokens: &'a Tokens<'b>,
    depth: usize,
    cases: usize,
}

impl<'a, 'b> Walk<'a, 'b> {
    /// A walk that begins outside of everything.
    pub fn new(tokens: &'a Tokens<'b>) -> Self {
        Self { tokens, depth: 0, cases: 0 }
    }

    /// Takes token `at`. `Some(true)`: it is on the level of the beginning; `None`: it closes a
    /// parenthesis that was open before.
    pub fn step(&mut self, at: usize) -> Option<bool> {
        let top = self.depth == 0 && self.cases == 0;
        if self.tokens.is_mark(at, "(") {
            self.depth += 1;
        } else if self.tokens.is_mark(at, ")") {
            if self.depth == 0 {
                return None;
            }
            self.depth -= 1;
        } else if self.tokens.is_word(at, "CASE") {
            self.cases += 1;
        } else if self.cases > 0 && self.tokens.is_word(at, "END") {
            self.cases -= 1;
            return Some(false);
        }
        Some(top)
    }
}

struct Reader<'a, 'b> {
    tokens: &'a Tokens<'b>,
    ctes: &'a [String],
}

/// Clauses in the order in which they come.
const CLAUSES: [&str; 7] = ["FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT"];

impl Reader<'_, '_> {
    fn is_clause(&self, at: usize, word: &str) -> bool {
        self.tokens.is_word(at, word)
            && match word {
                "FROM" => !self.tokens.is_word(at.wrapping_sub(1), "DISTINCT"),
                "GROUP" | "ORDER" => self.tokens.is_word(at + 1, "BY"),
                "WINDOW" => self.tokens.is_word(at + 2, "AS") && self.tokens.is_mark(at + 3, "("),
                _ => true,
            }
    }

    fn core(&self, start: usize) -> Option<Core> {
        let tokens = self.tokens;
        let mut walk = Walk::new(tokens);
        let mut found: Vec<(usize, usize)> = Vec::new();
        let mut end = tokens.list.len();
        let mut compound = false;
        for at in start + 1..tokens.list.len() {
            let Some(top) = walk.step(at) else {
                end = at;
                break;
            };
            if !top {
                continue;
            }
            if tokens.is_mark(at, ";") {
                end = at;
                break;
            }
            if ["UNION", "INTERSECT", "EXCEPT"].iter().any(|word| tokens.is_word(at, word)) {
                (end, compound) = (at, true);
                break;
            }
            let next = found.last().map_or(0, |(clause, _)| clause + 1);
            if let Some(clause) = (next..CLAUSES.len()).find(|clause| self.is_clause(at, CLAUSES[*clause])) {
                found.push((clause, at));
            }
        }
        let before = |at: usize| {
            at.checked_sub(1).is_some_and(|at| ["UNION", "INTERSECT", "EXCEPT"].iter().any(|w| tokens.is_word(at, w)))
        };
        compound |= before(start) || (tokens.is_word(start.wrapping_sub(1), "ALL") && before(start.wrapping_sub(1)));
        let place = |name: &str| {
            let nth = found.iter().position(|(clause, _)| CLAUSES[*clause] == name)?;
            let begin = found[nth].1 + if matches!(name, "GROUP" | "ORDER") { 2 } else { 1 };
            Some(begin..found.get(nth + 1).map_or(end, |(_, at)| *at))
        };
        let distinct = tokens.is_word(start + 1, "DISTINCT");
        let first = start + 1 + usize::from(distinct || tokens.is_word(start + 1, "ALL"));
        let items_end = found.first().map_or(end, |(_, at)| *at);
        let (limit, offset) = self.limit(place("LIMIT"));
        let from = place("FROM");
        Some(Core {
            start,
            end,
            nested: self.depth_of(start) > 0,
            compound,
            distinct,
            items: self.split(first..items_end).into_iter().map(|span| self.item(span)).collect(),
            sources: from.clone().and_then(|span| self.sources(span)),
            from,
            condition: place("WHERE"),
            group_by: place("GROUP").map(|span| self.split(span)).unwrap_or_default(),
            having: place("HAVING"),
            window: place("WINDOW").is_some(),
            order_by: place("ORDER")
                .map(|span| self.split(span))
                .unwrap_or_default()
                .into_iter()
                .map(|span| self.order_term(span))
                .collect(),
            limit,
            offset,
        })
    }

    fn depth_of(&self, at: usize) -> usize {
        let opens = (0..at).filter(|index| self.tokens.is_mark(*index, "(")).count();
        let closes = (0..at).filter(|index| self.tokens.is_mark(*index, ")")).count();
        opens.saturating_sub(closes)
    }

    /// Splits at commas.
    fn split(&self, span: Span) -> Vec<Span> {
        let mut walk = Walk::new(self.tokens);
        let (mut parts, mut begin) = (Vec::new(), span.start);
        for at in span.clone() {
            if walk.step(at) == Some(true) && self.tokens.is_mark(at, ",") {
                parts.push(begin..at);
                begin = at + 1;
            }
        }
        parts.push(begin..span.end);
        parts
    }

    fn item(&self, span: Span) -> Item {
        let tokens = self.tokens;
        let last = span.end - 1;
        let named = |expr_end: usize| Item { expr: span.start..expr_end, alias: tokens.name(last) };
        if span.len() >= 3 && tokens.is_word(last - 1, "AS") {
            return named(last - 1);
        }
        let is_name = match tokens.list[last].kind {
            Kind::Word => !["NULL", "ISNULL", "NOTNULL", "END"].iter().any(|word| tokens.is_word(last, word)),
            Kind::Quoted | Kind::Text => true,
            _ => false,
        };
        if span.len() >= 2 && is_name && self.ends_operand(last - 1) {
            return named(last);
        }
        Item { expr: span, alias: None }
    }

    /// Can an expression end with this token?
    fn ends_operand(&self, at: usize) -> bool {
        match self.tokens.list[at].kind {
            Kind::Word => !OPERATORS.split(' ').any(|word| self.tokens.is_word(at, word)),
            Kind::Mark => self.tokens.is_mark(at, ")"),
            _ => true,
        }
    }

    fn order_term(&self, span: Span) -> OrderTerm {
        let tokens = self.tokens;
        let mut end = span.end;
        if end >= span.start + 2 && tokens.is_word(end - 2, "NULLS") {
            end -= 2;
        }
        if end > span.start + 1 && (tokens.is_word(end - 1, "ASC") || tokens.is_word(end - 1, "DESC")) {
            end -= 1;
        }
        let suffix = end..span.end;
        OrderTerm { expr: span.start..end, suffix }
    }

    fn limit(&self, span: Option<Span>) -> (Option<Span>, Option<Span>) {
        let Some(span) = span else { return (None, None) };
        let mut walk = Walk::new(self.tokens);
        for at in span.clone() {
            if walk.step(at) == Some(true) {
                if self.tokens.is_word(at, "OFFSET") {
                    return (Some(span.start..at), Some(at + 1..span.end));
                }
                if self.tokens.is_mark(at, ",") {
                    return (Some(at + 1..span.end), Some(span.start..at));
                }
            }
        }
        (Some(span), None)
    }

    /// Takes FROM apart.
    fn sources(&self, span: Span) -> Option<Vec<Source>> {
        let tokens = self.tokens;
        let mut sources = Vec::new();
        let (mut at, mut join, mut natural) = (span.start, Join::Inner, false);
        loop {
            let (mut source, behind) = self.source(at, span.end)?;
            (source.join, source.merges_columns) = (join, natural);
            at = behind;
            if tokens.is_word(at, "ON") && at < span.end {
                let begin = at + 1;
                let mut walk = Walk::new(tokens);
                at = begin;
                while at < span.end {
                    if walk.step(at) == Some(true) && self.starts_join(at) {
                        break;
                    }
                    at += 1;
                }
                source.on = Some(begin..at);
            } else if tokens.is_word(at, "USING") && at < span.end {
                let close = tokens.closing(at + 1)?;
                source.using =
                    (at + 2..close).filter_map(|at| tokens.name(at)).map(|n| n.to_ascii_lowercase()).collect();
                source.merges_columns = true;
                at = close + 1;
            }
            sources.push(source);
            if at >= span.end {
                return Some(sources);
            }
            (at, join, natural) = self.join(at, span.end)?;
        }
    }

    fn starts_join(&self, at: usize) -> bool {
        let word = |word: &&str| self.tokens.is_word(at, word);
        self.tokens.is_mark(at, ",")
            || word(&"JOIN")
            || (JOIN_WORDS.iter().any(word)
                && (at + 1..at + 4).any(|next| self.tokens.is_word(next, "JOIN"))
                && (at + 1..at + 4)
                    .take_while(|n| !self.tokens.is_word(*n, "JOIN"))
                    .all(|n| JOIN_WORDS.iter().any(|w| self.tokens.is_word(n, w))))
    }

    /// The operator at `at`: where it ends, its kind, and whether it is NATURAL.
    fn join(&self, mut at: usize, end: usize) -> Option<(usize, Join, bool)> {
        if self.tokens.is_mark(at, ",") {
            return Some((at + 1, Join::Inner, false));
        }
        let (mut join, mut natural) = (Join::Inner, false);
        while at < end && !self.tokens.is_word(at, "JOIN") {
            match self.tokens.text(at).to_ascii_uppercase().as_str() {
                "NATURAL" => natural = true,
                "LEFT" if join == Join::Right => join = Join::Full,
                "RIGHT" if join == Join::Left => join = Join::Full,
                "LEFT" => join = Join::Left,
                "RIGHT" => join = Join::Right,
                "FULL" => join = Join::Full,
                "INNER" | "CROSS" | "OUTER" => (),
                _ => return None,
            }
            at += 1;
        }
        (at < end).then_some((at + 1, join, natural))
    }

    /// A table, CTE or subquery with its alias, and where it ends.
    fn source(&self, start: usize, end: usize) -> Option<(Source, usize)> {
        let tokens = self.tokens;
        let plain = |table: Option<String>, known_as: String| Source {
            table,
            shadowed: None,
            known_as,
            join: Join::Inner,
            merges_columns: false,
            using: vec![],
            on: None,
        };
        let mut source;
        let mut at;
        if tokens.is_mark(start, "(") {
            let query = ["SELECT", "WITH", "VALUES"].iter().any(|word| tokens.is_word(start + 1, word));
            if !query {
                return None;
            }
            at = tokens.closing(start)? + 1;
            source = plain(None, String::new());
        } else {
            at = start;
            let mut name = tokens.name(at)?.to_ascii_lowercase();
            at += 1;
            let qualified = tokens.is_mark(at, ".");
            if qualified {
                name = tokens.name(at + 1)?.to_ascii_lowercase();
                at += 2;
            }
            if tokens.is_mark(at, "(") && at < end {
                return None;
            }
            let table = (qualified || !self.ctes.contains(&name)).then(|| name.clone());
            source = plain(table, name.clone());
            source.shadowed = source.table.is_none().then_some(name);
        }
        let reserved = ["ON", "USING", "INDEXED", "NOT", "JOIN"];
        if at < end && tokens.is_word(at, "AS") {
            source.known_as = tokens.name(at + 1)?.to_ascii_lowercase();
            at += 2;
        } else if at < end
            && !reserved.iter().any(|word| tokens.is_word(at, word))
            && !self.starts_join(at)
            && let Some(alias) = tokens.name(at)
        {
            source.known_as = alias.to_ascii_lowercase();
            at += 1;
        }
        if tokens.is_word(at, "INDEXED") && tokens.is_word(at + 1, "BY") {
            at += 3;
        } else if tokens.is_word(at, "NOT") && tokens.is_word(at + 1, "INDEXED") {
            at += 2;
        }
        Some((source, at))
    }
}

const JOIN_WORDS: [&str; 7] = ["NATURAL", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "OUTER"];

/// Words behind which an operand still has to come.
const OPERATORS: &str = "AND OR NOT IS IN LIKE GLOB MATCH REGEXP BETWEEN COLLATE ESCAPE CASE WHEN THEN ELSE DISTINCT FROM AS ALL SELECT EXISTS";

#[cfg(test)]
mod tests;
