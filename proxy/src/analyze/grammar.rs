//! Conditions, read from the tokens by SQLite's own grammar.
//!
//! Input: a range of [`Tokens`] of a statement that SQLite has prepared, so it is known to be well
//! formed. Output: [`Expr`], a tree of the forms that can restrict a key, in which everything else is
//! [`Node::Other`]. What does not fit the grammar below gives none, and then nothing is restricted.
//!
//! The general parser is not used for this, because its precedence is not SQLite's everywhere (`NOT`
//! and `IS`, `BETWEEN` beside `=`, `COLLATE`) and it does not say where in the text a constant lies.
//! Here the levels are those of SQLite's parse.y, lowest first: `OR`; `AND`; `NOT`; `= == <> != IS IN
//! LIKE GLOB MATCH REGEXP BETWEEN ISNULL NOTNULL`; `< <= > >=`; `ESCAPE`; `& | << >>`; `+ -`; `* / %`;
//! `|| -> ->>`; `COLLATE`; unary `~ + -`. Binary ones group to the left. From this follow:
//!
//! - `a = b = c` is `(a = b) = c`, `3 = k IN (1)` is `(3 = k) IN (1)`: the inner comparison is not a
//!   conjunct, and a comparison whose side is no column and no constant restricts nothing;
//! - `k = 1 < 2` is `k = (1 < 2)`, a constant; `k = 5 IS NULL` is `(k = 5) IS NULL`;
//! - `NOT k = 1` is `NOT (k = 1)`. As an operand it reaches as far right as an operator above NOT
//!   lets it, as in yacc: `a + NOT b = c` is `a + (NOT (b = c))`. `x NOT IN …` binds as loosely as NOT;
//! - the bounds of `BETWEEN` stop before `AND`, `=` and all that is looser. SQLite would read a
//!   looser operator into the lower bound; such a statement is given up;
//! - `COLLATE` binds tighter than all binary operators, and to a negated number as a whole;
//! - parentheses leave no trace: `((k)) = 1` is `k = 1`, and a column in them keeps its affinity,
//!   while unary `+` takes it away.

use flotilla_shared::slot::Affinity;
use flotilla_shared::value::Value;

use crate::analyze::expr::{Compare, Expr, Name, Node};
use crate::analyze::term::{Term, hex, number};
use crate::lex::{Kind, Tokens};

/// Deepest nesting that is read: real conditions have a handful, and the stack is finite.
const MAX_DEPTH: usize = 64;

/// Functions that give the same everywhere. Those of the clock, of chance and of the connection are
/// not among them, nor any that asks the C library for more than arithmetic.
const CONSTANT_FUNCTIONS: &str = "abs char coalesce concat concat_ws hex ifnull iif instr length lower ltrim \
    max min nullif octet_length quote replace round rtrim sign substr substring trim typeof unhex unicode upper";

const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const EQUAL: u8 = 4;
const ORDER: u8 = 5;
const BITS: u8 = 7;
const SUM: u8 = 8;
const PRODUCT: u8 = 9;
const CONCAT: u8 = 10;
const COLLATE: u8 = 11;
const UNARY: u8 = 12;

/// Reads the expression that starts at token `first`.
pub fn read(tokens: &Tokens<'_>, first: usize) -> Option<Expr> {
    Parser { tokens, at: first, depth: 0 }.expr(OR)
}

/// Where the operand that starts at token `first` ends, without any COLLATE behind it. What begins with
/// NOT reaches as far as NOT does.
pub fn operand_end(tokens: &Tokens<'_>, first: usize) -> Option<usize> {
    let mut parser = Parser { tokens, at: first, depth: 0 };
    parser.prefix().map(|_| parser.at)
}

/// Is token `index` a name where SQLite expects a table or column?
pub fn is_name(tokens: &Tokens<'_>, index: usize) -> bool {
    tokens.list.get(index).is_some_and(|token| matches!(token.kind, Kind::Word | Kind::Quoted))
}

/// Does a SELECT or VALUES begin here?
pub fn is_query(tokens: &Tokens<'_>, index: usize) -> bool {
    ["SELECT", "WITH", "VALUES"].iter().any(|word| tokens.is_word(index, word))
}

struct Parser<'a, 'b> {
    tokens: &'b Tokens<'a>,
    at: usize,
    depth: usize,
}

impl Parser<'_, '_> {
    fn word(&self, ahead: usize, word: &str) -> bool {
        self.tokens.is_word(self.at + ahead, word)
    }

    fn take_word(&mut self, word: &str) -> Option<()> {
        self.word(0, word).then(|| self.at += 1)
    }

    fn mark(&self, mark: &str) -> bool {
        self.tokens.is_mark(self.at, mark)
    }

    fn take_mark(&mut self, mark: &str) -> Option<()> {
        self.mark(mark).then(|| self.at += 1)
    }

    fn done(&self, first: usize, node: Node, constant: bool) -> Expr {
        Expr { node, first, end: self.at, constant }
    }

    fn expr(&mut self, min: u8) -> Option<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut left = self.prefix()?;
        while let Some(level) = self.level().filter(|level| *level >= min) {
            left = self.infix(left, level)?;
        }
        self.depth -= 1;
        Some(left)
    }

    /// How tightly the operator at hand binds to its left; none when there is no operator.
    fn level(&self) -> Option<u8> {
        let token = self.tokens.list.get(self.at)?;
        let text = self.tokens.text(self.at);
        let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
        match token.kind {
            Kind::Mark => match text {
                "=" | "==" | "<>" | "!=" => Some(EQUAL),
                "<" | "<=" | ">" | ">=" => Some(ORDER),
                "&" | "|" | "<<" | ">>" => Some(BITS),
                "+" | "-" => Some(SUM),
                "*" | "/" | "%" => Some(PRODUCT),
                "||" | "->" | "->>" => Some(CONCAT),
                _ => None,
            },
            Kind::Word if is(&["OR"]) => Some(OR),
            Kind::Word if is(&["AND"]) => Some(AND),
            Kind::Word if is(&["NOT"]) => Some(NOT),
            Kind::Word if is(&["COLLATE"]) => Some(COLLATE),
            Kind::Word if is(&["IS", "IN", "LIKE", "GLOB", "MATCH", "REGEXP", "BETWEEN", "ISNULL", "NOTNULL"]) => {
                Some(EQUAL)
            }
            _ => None,
        }
    }

    fn infix(&mut self, left: Expr, level: u8) -> Option<Expr> {
        let first = left.first;
        match level {
            OR | AND => {
                self.at += 1;
                let right = self.expr(level + 1)?;
                let constant = left.constant && right.constant;
                let node = match (level, left.node) {
                    (AND, Node::And(mut all)) => {
                        all.push(right);
                        Node::And(all)
                    }
                    (OR, Node::Or(mut all)) => {
                        all.push(right);
                        Node::Or(all)
                    }
                    (AND, node) => Node::And(vec![Expr { node, ..left }, right]),
                    (_, node) => Node::Or(vec![Expr { node, ..left }, right]),
                };
                Some(self.done(first, node, constant))
            }
            NOT => {
                self.at += 1;
                match self.take_word("NULL") {
                    Some(()) => Some(self.done(first, Node::Other, left.constant)),
                    None => self.predicate(left, true),
                }
            }
            EQUAL => self.predicate(left, false),
            COLLATE => {
                self.at += 2;
                Some(self.done(first, Node::Other, false))
            }
            _ => {
                let compare = match self.tokens.text(self.at) {
                    "<" => Some(Compare::Less),
                    "<=" => Some(Compare::AtMost),
                    ">" => Some(Compare::More),
                    ">=" => Some(Compare::AtLeast),
                    _ => None,
                };
                self.at += 1;
                let right = self.expr(level + 1)?;
                let constant = left.constant && right.constant;
                Some(match compare {
                    Some(compare) => self.comparison(compare, left, right),
                    None => self.done(first, Node::Other, constant),
                })
            }
        }
    }

    fn comparison(&self, compare: Compare, left: Expr, right: Expr) -> Expr {
        let (first, constant) = (left.first, left.constant && right.constant);
        self.done(first, Node::Compare(compare, Box::new(left), Box::new(right)), constant)
    }

    /// The operators on the level of `=`, behind any NOT.
    fn predicate(&mut self, left: Expr, negated: bool) -> Option<Expr> {
        let first = left.first;
        let text = self.tokens.text(self.at);
        self.at += 1;
        match text.to_ascii_uppercase().as_str() {
            "=" | "==" => {
                let right = self.expr(ORDER)?;
                Some(self.comparison(Compare::Equal, left, right))
            }
            "<>" | "!=" => {
                let constant = self.expr(ORDER)?.constant && left.constant;
                Some(self.done(first, Node::Other, constant))
            }
            "IS" => {
                let mut negated = self.take_word("NOT").is_some();
                if self.word(0, "DISTINCT") && self.word(1, "FROM") {
                    self.at += 2;
                    negated = !negated;
                }
                let right = self.expr(ORDER)?;
                let constant = left.constant && right.constant;
                Some(match negated {
                    true => self.done(first, Node::Other, constant),
                    false => self.comparison(Compare::Is, left, right),
                })
            }
            "ISNULL" => {
                let at = self.at;
                let null = Expr { node: Node::Term(Term::Value(Value::Null)), first: at, end: at, constant: true };
                Some(self.comparison(Compare::Is, left, null))
            }
            "NOTNULL" => Some(self.done(first, Node::Other, left.constant)),
            "BETWEEN" => {
                let low = self.expr(ORDER)?;
                self.take_word("AND")?;
                let high = self.expr(ORDER)?;
                let constant = left.constant && low.constant && high.constant;
                let node = match negated {
                    true => Node::Other,
                    false => Node::Between(Box::new(left), Box::new(low), Box::new(high)),
                };
                Some(self.done(first, node, constant))
            }
            "IN" => self.membership(left, negated),
            "LIKE" | "GLOB" | "MATCH" | "REGEXP" => {
                self.expr(ORDER)?;
                if self.take_word("ESCAPE").is_some() {
                    self.expr(ORDER)?;
                }
                Some(self.done(first, Node::Other, false))
            }
            _ => None,
        }
    }

    fn membership(&mut self, left: Expr, negated: bool) -> Option<Expr> {
        let first = left.first;
        if !self.mark("(") {
            self.name()?;
            if self.mark("(") {
                self.skip()?;
            }
            return Some(self.done(first, Node::Other, false));
        }
        let open = self.at;
        let list = match is_query(self.tokens, open + 1) {
            true => self.values(),
            false => {
                self.at += 1;
                if self.mark(")") { Some(vec![]) } else { Some(self.list()?) }
            }
        };
        let list = match list {
            Some(list) if self.take_mark(")").is_some() => list,
            _ => {
                self.at = open;
                self.skip()?;
                return Some(self.done(first, Node::Other, false));
            }
        };
        let constant = left.constant && list.iter().all(|item| item.constant);
        let node = if negated { Node::Other } else { Node::In(Box::new(left), list) };
        Some(self.done(first, node, constant))
    }

    /// The rows of `(VALUES (…), …`, if it is nothing but them.
    fn values(&mut self) -> Option<Vec<Expr>> {
        self.at += 1;
        self.take_word("VALUES")?;
        let mut rows = Vec::new();
        loop {
            let first = self.at;
            self.take_mark("(")?;
            let row = self.list()?;
            self.take_mark(")")?;
            rows.push(self.done(first, Node::Row(row), false));
            if self.take_mark(",").is_none() {
                return Some(rows);
            }
        }
    }

    fn list(&mut self) -> Option<Vec<Expr>> {
        let mut list = vec![self.expr(OR)?];
        while self.take_mark(",").is_some() {
            list.push(self.expr(OR)?);
        }
        Some(list)
    }

    /// Passes over what stands in the parentheses at hand.
    fn skip(&mut self) -> Option<()> {
        self.at = self.tokens.closing(self.at)? + 1;
        Some(())
    }

    fn prefix(&mut self) -> Option<Expr> {
        let first = self.at;
        let token = self.tokens.list.get(first)?;
        let text = self.tokens.text(first);
        let literal = |value: Value| Node::Term(Term::Value(value));
        match token.kind {
            Kind::Mark if text == "(" => self.parenthesized(),
            Kind::Mark if matches!(text, "-" | "+" | "~") => {
                self.at += 1;
                if text != "~" && self.tokens.list.get(self.at)?.kind == Kind::Number {
                    let value = number(self.tokens.text(self.at), text == "-")?;
                    self.at += 1;
                    return Some(self.done(first, literal(value), true));
                }
                let constant = self.expr(UNARY)?.constant;
                Some(self.done(first, Node::Other, constant))
            }
            Kind::Mark => None,
            Kind::Text if self.tokens.is_mark(first + 1, ".") => self.column(),
            Kind::Word | Kind::Quoted => self.named(),
            kind => {
                self.at += 1;
                let node = match kind {
                    Kind::Param => Node::Term(Term::Param(token.param)),
                    Kind::Number => literal(number(text, false)?),
                    Kind::Text => literal(Value::Text(self.tokens.name(first)?)),
                    _ => literal(Value::Blob(hex(text.get(2..text.len() - 1)?)?)),
                };
                Some(self.done(first, node, true))
            }
        }
    }

    fn parenthesized(&mut self) -> Option<Expr> {
        let first = self.at;
        if is_query(self.tokens, first + 1) {
            self.skip()?;
            return Some(self.done(first, Node::Other, false));
        }
        self.at += 1;
        let mut list = self.list()?;
        self.take_mark(")")?;
        Some(match list.len() {
            1 => {
                let only = list.remove(0);
                self.done(first, only.node, only.constant)
            }
            _ => self.done(first, Node::Row(list), false),
        })
    }

    fn named(&mut self) -> Option<Expr> {
        let first = self.at;
        let quoted = self.tokens.list[first].kind == Kind::Quoted;
        let call = self.tokens.is_mark(first + 1, "(");
        match self.tokens.text(first).to_ascii_uppercase().as_str() {
            _ if quoted && !call => self.column(),
            "NOT" if !quoted => {
                self.at += 1;
                let constant = self.expr(NOT)?.constant;
                Some(self.done(first, Node::Other, constant))
            }
            "NULL" if !call => {
                self.at += 1;
                Some(self.done(first, Node::Term(Term::Value(Value::Null)), true))
            }
            "CURRENT_DATE" | "CURRENT_TIME" | "CURRENT_TIMESTAMP" if !call => {
                self.at += 1;
                Some(self.done(first, Node::Other, false))
            }
            "CASE" if !quoted => self.case(),
            "CAST" if call && !quoted => self.cast(),
            "EXISTS" | "RAISE" if call => {
                self.at += 1;
                self.skip()?;
                Some(self.done(first, Node::Other, false))
            }
            _ if call => self.call(),
            _ => self.column(),
        }
    }

    fn name(&mut self) -> Option<Name> {
        let mut parts = vec![self.tokens.name(self.at)?];
        self.at += 1;
        while parts.len() < 3 && self.take_mark(".").is_some() {
            parts.push(self.tokens.name(self.at)?);
            self.at += 1;
        }
        let column = parts.pop()?;
        Some(Name { of: parts.pop(), column })
    }

    fn column(&mut self) -> Option<Expr> {
        let first = self.at;
        let name = self.name()?;
        Some(self.done(first, Node::Column(name), false))
    }

    fn call(&mut self) -> Option<Expr> {
        let (first, name) = (self.at, self.tokens.text(self.at));
        let known = CONSTANT_FUNCTIONS.split(' ').any(|function| function.eq_ignore_ascii_case(name));
        self.at += 1;
        let open = self.at;
        let mut constant = false;
        if known && !self.tokens.is_mark(open + 1, ")") {
            self.at += 1;
            let all = self.list()?.iter().all(|argument| argument.constant);
            constant = all && self.mark(")");
        }
        self.at = open;
        self.skip()?;
        // What makes it an aggregate or a window function.
        if self.word(0, "WITHIN") && self.word(1, "GROUP") {
            self.at += 2;
            self.skip()?;
            constant = false;
        }
        for word in ["FILTER", "OVER"] {
            if self.word(0, word) {
                constant = false;
                self.at += 1;
                if self.mark("(") {
                    self.skip()?;
                } else {
                    self.at += 1;
                }
            }
        }
        Some(self.done(first, Node::Other, constant))
    }

    fn case(&mut self) -> Option<Expr> {
        let first = self.at;
        self.at += 1;
        let mut constant = true;
        if !self.word(0, "WHEN") {
            constant &= self.expr(OR)?.constant;
        }
        while self.take_word("WHEN").is_some() {
            constant &= self.expr(OR)?.constant;
            self.take_word("THEN")?;
            constant &= self.expr(OR)?.constant;
        }
        if self.take_word("ELSE").is_some() {
            constant &= self.expr(OR)?.constant;
        }
        self.take_word("END")?;
        Some(self.done(first, Node::Other, constant))
    }

    fn cast(&mut self) -> Option<Expr> {
        let first = self.at;
        let close = self.tokens.closing(first + 1)?;
        self.at += 2;
        let constant = self.expr(OR)?.constant;
        self.take_word("AS")?;
        let declared: Vec<&str> = (self.at..close).map(|index| self.tokens.text(index)).collect();
        self.at = close + 1;
        Some(self.done(first, Node::Cast(Affinity::of_declared_type(&declared.join(" "))), constant))
    }
}
