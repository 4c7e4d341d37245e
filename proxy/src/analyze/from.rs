//! What a statement draws its rows from: the sources of its outermost FROM, how they are joined, and
//! where its WHERE is.
//!
//! Input: the tokens of a statement that SQLite has prepared. Output: [`Shape`]. Given up, so that
//! nothing is restricted: `RIGHT` and `FULL` joins, which make rows of nothing on either side; joins
//! in parentheses, which have name rules of their own; and several SELECTs put together.

use crate::analyze::expr::Expr;
use crate::analyze::grammar;
use crate::lex::{Kind, Tokens};

/// Sources that one FROM may have: SQLite joins no more.
const MAX_SOURCES: usize = 64;

/// How a source is tied to those on its left.
#[derive(Clone, Debug, PartialEq)]
pub enum Tie {
    /// Not at all, or by a condition elsewhere.
    None,
    /// `ON`.
    On(Expr),
    /// `USING`.
    Using(Vec<String>),
    /// `NATURAL`.
    Natural,
}

/// One source.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The table or view; none for a subquery, a CTE or a table-valued function.
    pub table: Option<String>,
    /// The name under which its columns are known.
    pub known_as: Option<String>,
    /// It stands on the right of a LEFT JOIN.
    pub outer: bool,
    /// How it is tied to its left.
    pub tie: Tie,
}

/// The sources of a statement, the target of an UPDATE or DELETE first, and its condition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    /// In the order of the text.
    pub sources: Vec<Source>,
    /// What stands behind WHERE.
    pub condition: Option<Expr>,
}

impl Shape {
    /// Reads the shape of a SELECT, UPDATE or DELETE.
    pub fn read(tokens: &Tokens<'_>) -> Option<Self> {
        let mut reader = Reader { tokens, at: 0, ctes: vec![] };
        if tokens.is_word(0, "WITH") {
            reader.with()?;
        }
        let mut shape = Self::default();
        let first = reader.at;
        if tokens.is_word(first, "SELECT") {
            // A compound of several SELECTs has no condition of its own.
            if let Some(from) = reader.clause("FROM")? {
                reader.at = from + 1;
                reader.from(&mut shape.sources)?;
            }
        } else if tokens.is_word(first, "DELETE") {
            reader.at += 2;
            reader.target(&mut shape.sources)?;
        } else if tokens.is_word(first, "UPDATE") {
            reader.at += if tokens.is_word(first + 1, "OR") { 3 } else { 1 };
            reader.target(&mut shape.sources)?;
            let from = reader.clause("FROM")?;
            if let Some(from) = from {
                reader.at = from + 1;
                reader.from(&mut shape.sources)?;
                // SQLite makes a subquery of these, whose conditions do not see the target's names.
                if shape.sources.iter().any(|source| source.tie != Tie::None) {
                    return None;
                }
            } else if let Some(at) = reader.clause("WHERE")? {
                reader.at = at;
            } else {
                return Some(shape);
            }
        } else {
            return None;
        }
        if tokens.is_word(reader.at, "WHERE") {
            let condition = grammar::read(tokens, reader.at + 1)?;
            reader.at = condition.end;
            shape.condition = Some(condition);
        }
        // What was read must end where SQLite's clause ends: else it was misread.
        (reader.ends() && shape.sources.len() <= MAX_SOURCES).then_some(shape)
    }
}

struct Reader<'a, 'b> {
    tokens: &'b Tokens<'a>,
    at: usize,
    ctes: Vec<String>,
}

impl Reader<'_, '_> {
    fn word(&self, ahead: usize, word: &str) -> bool {
        self.tokens.is_word(self.at + ahead, word)
    }

    fn any_word(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.word(0, word))
    }

    /// Does a clause behind WHERE begin here, or the statement end?
    fn ends(&self) -> bool {
        self.at >= self.tokens.list.len()
            || self.tokens.is_mark(self.at, ";")
            || self.any_word(&["GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "RETURNING"])
    }

    /// Passes over the definitions of WITH, keeping their names.
    fn with(&mut self) -> Option<()> {
        self.at += if self.word(1, "RECURSIVE") { 2 } else { 1 };
        loop {
            self.ctes.push(self.tokens.name(self.at)?);
            self.at += 1;
            if self.tokens.is_mark(self.at, "(") {
                self.at = self.tokens.closing(self.at)? + 1;
            }
            while !self.tokens.is_mark(self.at, "(") {
                if !self.any_word(&["AS", "NOT", "MATERIALIZED"]) {
                    return None;
                }
                self.at += 1;
            }
            self.at = self.tokens.closing(self.at)? + 1;
            if !self.tokens.is_mark(self.at, ",") {
                return Some(());
            }
            self.at += 1;
        }
    }

    /// Where a clause of this statement begins, if it has it; nothing at all for a compound.
    fn clause(&self, word: &str) -> Option<Option<usize>> {
        let (mut depth, mut found) = (0usize, None);
        for index in self.at..self.tokens.list.len() {
            if self.tokens.list[index].kind == Kind::Mark {
                match self.tokens.text(index) {
                    "(" => depth += 1,
                    ")" => depth = depth.saturating_sub(1),
                    _ => (),
                }
            }
            let is = |word: &str| self.tokens.is_word(index, word);
            if depth == 0 && (is("UNION") || is("INTERSECT") || is("EXCEPT")) {
                return None;
            }
            // `IS DISTINCT FROM` is an operator.
            if depth == 0 && found.is_none() && is(word) && !self.tokens.is_word(index.wrapping_sub(1), "DISTINCT") {
                found = Some(index);
            }
        }
        Some(found)
    }

    /// What is written: a table, also where a CTE has its name.
    fn target(&mut self, sources: &mut Vec<Source>) -> Option<()> {
        let ctes = std::mem::take(&mut self.ctes);
        self.table(sources)?;
        self.ctes = ctes;
        Some(())
    }

    /// A table by name, with its alias and index hint.
    fn table(&mut self, sources: &mut Vec<Source>) -> Option<()> {
        let mut name = self.tokens.name(self.at)?;
        self.at += 1;
        if self.tokens.is_mark(self.at, ".") {
            // Of other schemas there are none.
            if !name.eq_ignore_ascii_case("main") {
                return None;
            }
            name = self.tokens.name(self.at + 1)?;
            self.at += 2;
        }
        let function = self.tokens.is_mark(self.at, "(");
        if function {
            self.at = self.tokens.closing(self.at)? + 1;
        }
        let known_as = self.alias()?.unwrap_or_else(|| name.clone());
        if self.word(0, "INDEXED") && self.word(1, "BY") {
            self.at += 3;
        } else if self.word(0, "NOT") && self.word(1, "INDEXED") {
            self.at += 2;
        }
        let opaque = function || self.ctes.iter().any(|cte| cte.eq_ignore_ascii_case(&name));
        let table = (!opaque).then_some(name);
        sources.push(Source { table, known_as: Some(known_as), outer: false, tie: Tie::None });
        Some(())
    }

    fn alias(&mut self) -> Option<Option<String>> {
        const NO_ALIAS: &[&str] = &[
            "CROSS",
            "EXCEPT",
            "FROM",
            "FULL",
            "GROUP",
            "HAVING",
            "INDEXED",
            "INNER",
            "INTERSECT",
            "JOIN",
            "LEFT",
            "LIMIT",
            "NATURAL",
            "NOT",
            "ON",
            "ORDER",
            "OUTER",
            "RETURNING",
            "RIGHT",
            "SET",
            "UNION",
            "USING",
            "WHERE",
        ];
        if self.word(0, "WINDOW") {
            // It may be a name or a clause; who calls a table so gets no restriction.
            return if self.word(2, "AS") { Some(None) } else { None };
        }
        if self.word(0, "AS") {
            self.at += 1;
        } else {
            let kind = self.tokens.list.get(self.at).map(|token| token.kind);
            let named = matches!(kind, Some(Kind::Word | Kind::Quoted | Kind::Text));
            if !named || self.any_word(NO_ALIAS) {
                return Some(None);
            }
        }
        let name = self.tokens.name(self.at)?;
        self.at += 1;
        Some(Some(name))
    }

    fn from(&mut self, sources: &mut Vec<Source>) -> Option<()> {
        let (mut outer, mut natural) = (false, false);
        loop {
            if self.tokens.is_mark(self.at, "(") {
                // A join in parentheses is given up.
                if !grammar::is_query(self.tokens, self.at + 1) {
                    return None;
                }
                self.at = self.tokens.closing(self.at)? + 1;
                let known_as = self.alias()?;
                sources.push(Source { table: None, known_as, outer: false, tie: Tie::None });
            } else {
                self.table(sources)?;
            }
            let tie = self.tie(natural)?;
            let source = sources.last_mut()?;
            (source.outer, source.tie) = (outer, tie);
            (outer, natural) = (false, false);
            if self.tokens.is_mark(self.at, ",") {
                self.at += 1;
                continue;
            }
            let first = self.at;
            while self.any_word(&["CROSS", "INNER", "LEFT", "NATURAL", "OUTER"]) {
                outer |= self.word(0, "LEFT");
                natural |= self.word(0, "NATURAL");
                self.at += 1;
            }
            if self.word(0, "JOIN") {
                self.at += 1;
            } else {
                return (self.at == first && !self.any_word(&["RIGHT", "FULL"])).then_some(());
            }
        }
    }

    fn tie(&mut self, natural: bool) -> Option<Tie> {
        if self.word(0, "ON") {
            let condition = grammar::read(self.tokens, self.at + 1)?;
            self.at = condition.end;
            return Some(Tie::On(condition));
        }
        if self.word(0, "USING") {
            let close = self.tokens.closing(self.at + 1)?;
            let names = (self.at + 2..close).filter(|index| !self.tokens.is_mark(*index, ","));
            let names = names.map(|index| self.tokens.name(index)).collect::<Option<_>>()?;
            self.at = close + 1;
            return Some(Tie::Using(names));
        }
        Some(if natural { Tie::Natural } else { Tie::None })
    }
}
