//! SQL text as SQLite's tokenizer sees it: where each token lies, and the number of each parameter.
//!
//! Input is the text of one statement; the proxy's analysis and its rewriting read the tokens, and so
//! does [`row_only`](crate::registry::row_only). Rewriting works on these places in the text instead of printing a syntax tree, so everything that the plan does not change stays as written.
//! Refused: a NUL byte, since SQLite would stop reading there. All else that is no SQL is left for
//! SQLite to refuse in its own words.
//!
//! Source: `sqlite3GetToken` in SQLite's tokenize.c and `sqlite3ExprAssignVarNumber` in expr.c.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Code, Error};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A bare word: a keyword or an identifier.
    Word,
    /// An identifier in `"…"`, `` `…` `` or `[…]`.
    Quoted,
    /// `'…'`.
    Text,
    /// `x'…'`.
    Blob,
    /// An integer or real, decimal or hexadecimal.
    Number,
    /// `?`, `?N`, `:name`, `@name` or `$name`.
    Param,
    /// An operator or other mark.
    Mark,
}

/// One token.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it is, in bytes.
    pub span: Range<usize>,
    /// With [`Kind::Param`]: its number, from 1.
    pub param: usize,
}

/// A statement's tokens.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    /// The text.
    pub sql: &'a str,
    /// Its tokens, comments left out, in order.
    pub list: Vec<Token>,
    /// Largest parameter number.
    pub params: usize,
}

impl<'a> Tokens<'a> {
    /// Reads all tokens of `sql`.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for a NUL byte and for a text without any token.
    pub fn read(sql: &'a str) -> Result<Self, Error> {
        if sql.as_bytes().contains(&0) {
            return Err(Error::new(Code::BadRequest, "the statement holds a NUL byte"));
        }
        let mut list = Vec::with_capacity(sql.len() / 5 + 4);
        let mut at = 0;
        while at < sql.len() {
            let (kind, end) = next(sql.as_bytes(), at);
            if let Some(kind) = kind {
                list.push(Token { kind, span: at..end, param: 0 });
            }
            at = end;
        }
        if list.iter().all(|token| &sql[token.span.clone()] == ";") {
            return Err(Error::new(Code::BadRequest, "the statement is empty"));
        }
        let params = number_params(sql, &mut list);
        Ok(Self { sql, list, params })
    }

    /// The text of token `index`; empty past the end.
    pub fn text(&self, index: usize) -> &'a str {
        self.list.get(index).map_or("", |token| &self.sql[token.span.clone()])
    }

    /// Is token `index` this bare word?
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.list.get(index).is_some_and(|token| token.kind == Kind::Word)
            && self.text(index).eq_ignore_ascii_case(word)
    }

    /// Is token `index` this mark?
    pub fn is_mark(&self, index: usize, mark: &str) -> bool {
        self.list.get(index).is_some_and(|token| token.kind == Kind::Mark) && self.text(index) == mark
    }

    /// Does the bare word occur anywhere?
    pub fn has_word(&self, word: &str) -> bool {
        (0..self.list.len()).any(|index| self.is_word(index, word))
    }

    /// How often the bare word occurs.
    pub fn count_word(&self, word: &str) -> usize {
        (0..self.list.len()).filter(|index| self.is_word(*index, word)).count()
    }

    /// Is token `index` the `IN` of `x IN table`, which reads the table without a SELECT?
    pub fn is_in_table(&self, index: usize) -> bool {
        self.is_word(index, "IN") && !self.is_mark(index + 1, "(")
    }

    /// The name that token `index` stands for, unquoted; text in `'…'` is a name too where SQLite
    /// expects one.
    pub fn name(&self, index: usize) -> Option<String> {
        let text = self.text(index);
        let inner = || text.get(1..text.len() - 1).unwrap_or("");
        match self.list.get(index)?.kind {
            Kind::Word => Some(text.to_owned()),
            Kind::Text => Some(inner().replace("''", "'")),
            Kind::Quoted => Some(match text.as_bytes()[0] {
                b'"' => inner().replace("\"\"", "\""),
                b'`' => inner().replace("``", "`"),
                _ => inner().to_owned(),
            }),
            _ => None,
        }
    }

    /// The mark that closes the parenthesis at `open`.
    pub fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        for index in open..self.list.len() {
            if self.is_mark(index, "(") {
                depth += 1;
            } else if self.is_mark(index, ")") {
                depth -= 1;
                if depth == 0 {
                    return Some(index);
                }
            }
        }
        None
    }
}

fn is_id(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// The token or white space that starts at `at`, and where it ends. The end is always past `at` and
/// on a character boundary, since only ASCII bytes end a token.
fn next(sql: &[u8], at: usize) -> (Option<Kind>, usize) {
    let peek = |offset: usize| sql.get(at + offset).copied().unwrap_or(0);
    let run = |from: usize, keep: &dyn Fn(u8) -> bool| {
        sql[from.min(sql.len())..].iter().position(|byte| !keep(*byte)).map_or(sql.len(), |n| from + n)
    };
    match sql[at] {
        b' ' | b'\t' | b'\n' | 0x0c | b'\r' => (None, run(at, &|b| matches!(b, b' ' | b'\t' | b'\n' | 0x0c | b'\r'))),
        b'-' if peek(1) == b'-' => (None, run(at, &|b| b != b'\n')),
        b'/' if peek(1) == b'*' => {
            let body = at + 2;
            let end = sql[body..].windows(2).position(|pair| pair == b"*/").map_or(sql.len(), |n| body + n + 2);
            (None, end)
        }
        quote @ (b'\'' | b'"' | b'`') => {
            let end = quoted_end(sql, at, quote);
            (Some(if quote == b'\'' { Kind::Text } else { Kind::Quoted }), end)
        }
        b'[' => (Some(Kind::Quoted), sql[at..].iter().position(|b| *b == b']').map_or(sql.len(), |n| at + n + 1)),
        b'x' | b'X' if peek(1) == b'\'' => (Some(Kind::Blob), quoted_end(sql, at + 1, b'\'')),
        b'0'..=b'9' => (Some(Kind::Number), number_end(sql, at)),
        b'.' if peek(1).is_ascii_digit() => (Some(Kind::Number), number_end(sql, at)),
        b'?' => (Some(Kind::Param), run(at + 1, &|b| b.is_ascii_digit())),
        b':' | b'@' | b'$' | b'#' => {
            let end = variable_end(sql, at);
            (Some(if end > at + 1 { Kind::Param } else { Kind::Mark }), end)
        }
        byte if is_id(byte) => (Some(Kind::Word), run(at, &is_id)),
        _ => (Some(Kind::Mark), mark_end(sql, at)),
    }
}

fn quoted_end(sql: &[u8], open: usize, quote: u8) -> usize {
    let mut at = open + 1;
    while at < sql.len() {
        if sql[at] == quote {
            if sql.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    sql.len()
}

fn number_end(sql: &[u8], at: usize) -> usize {
    let byte = |index: usize| sql.get(index).copied().unwrap_or(0);
    let mut end = at;
    if byte(at) == b'0' && matches!(byte(at + 1), b'x' | b'X') {
        end += 2;
    } else {
        while byte(end).is_ascii_digit() || byte(end) == b'_' {
            end += 1;
        }
        if byte(end) == b'.' {
            end += 1;
            while byte(end).is_ascii_digit() || byte(end) == b'_' {
                end += 1;
            }
        }
        let sign = usize::from(matches!(byte(end + 1), b'+' | b'-'));
        if matches!(byte(end), b'e' | b'E') && byte(end + 1 + sign).is_ascii_digit() {
            end += 1 + sign;
        }
    }
    // What else sticks to it (hexadecimal digits, or letters that SQLite refuses) belongs to it.
    while is_id(byte(end)) {
        end += 1;
    }
    end
}

fn variable_end(sql: &[u8], at: usize) -> usize {
    let byte = |index: usize| sql.get(index).copied().unwrap_or(0);
    let (mut end, mut length) = (at + 1, 0);
    loop {
        if is_id(byte(end)) {
            length += 1;
            end += 1;
        } else if byte(end) == b'(' && length > 0 {
            while end < sql.len() && !sql[end].is_ascii_whitespace() && sql[end] != b')' {
                end += 1;
            }
            return if byte(end) == b')' { end + 1 } else { end };
        } else if byte(end) == b':' && byte(end + 1) == b':' {
            end += 2;
        } else {
            return if length > 0 { end } else { at + 1 };
        }
    }
}

fn mark_end(sql: &[u8], at: usize) -> usize {
    let rest = &sql[at..];
    let long: [&[u8]; 9] = [b"->>", b"->", b"||", b"<<", b">>", b"<=", b">=", b"==", b"!="];
    match long.iter().find(|mark| rest.starts_with(mark)) {
        Some(mark) => at + mark.len(),
        None if rest.starts_with(b"<>") => at + 2,
        None => at + 1,
    }
}

/// Gives each parameter its number by SQLite's rule: `?` is one more than the largest so far, `?N`
/// is N, and a name keeps the number of its first use.
fn number_params(sql: &str, list: &mut [Token]) -> usize {
    let mut largest = 0;
    let mut named: HashMap<&str, usize> = HashMap::new();
    for token in list.iter_mut().filter(|token| token.kind == Kind::Param) {
        let text = &sql[token.span.clone()];
        token.param = match text.strip_prefix('?') {
            Some("") => largest + 1,
            // SQLite refuses numbers that do not fit; 0 matches no argument.
            Some(number) => number.parse().unwrap_or(0),
            None => *named.entry(text).or_insert(largest + 1),
        };
        largest = largest.max(token.param);
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of parameters are those that SQLite gives, over all forms and mixes.
    #[test]
    fn parameters_are_numbered_as_by_sqlite() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        for sql in [
            "SELECT ?, ?, ?",
            "SELECT ?3, ?, ?1, ?",
            "SELECT :a, ?, :b, :a, @a, $a",
            "SELECT $a::b(c), ?, $a::b(c), '?', \"?\", /* ? */ ? -- ?\n, ?2",
            "SELECT ?5, :x, ?7, ?, :x, ?",
            "SELECT [?], x'3f', ? FROM (SELECT 1 AS [?])",
        ] {
            let statement = db.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            let tokens = Tokens::read(sql).unwrap();
            assert_eq!(tokens.params, statement.parameter_count(), "{sql}");
            for token in tokens.list.iter().filter(|t| t.kind == Kind::Param) {
                let text = &sql[token.span.clone()];
                // SQLite keeps one text per number, the last one for `?N`.
                if let Some(name) = statement.parameter_name(token.param).filter(|_| !text.starts_with('?')) {
                    assert_eq!(name, text, "{sql}");
                }
            }
        }
    }

    /// Tokens cover names, text and comments the way SQLite reads them.
    #[test]
    fn tokens() {
        let sql = "insert/**/into \"a\"\"b\"(`c`,[d e]) values('it''s',-1.5e3,0x1F,x'00',?1)--end";
        let tokens = Tokens::read(sql).unwrap();
        let texts: Vec<&str> = (0..tokens.list.len()).map(|i| tokens.text(i)).collect();
        assert_eq!(
            texts,
            [
                "insert",
                "into",
                "\"a\"\"b\"",
                "(",
                "`c`",
                ",",
                "[d e]",
                ")",
                "values",
                "(",
                "'it''s'",
                ",",
                "-",
                "1.5e3",
                ",",
                "0x1F",
                ",",
                "x'00'",
                ",",
                "?1",
                ")"
            ]
        );
        assert_eq!(tokens.name(2).unwrap(), "a\"b");
        assert_eq!(tokens.name(10).unwrap(), "it's");
        assert_eq!(tokens.closing(9), Some(20));
        assert!(Tokens::read(" -- nothing\n ;").is_err());
        assert!(Tokens::read("SELECT '\0'").is_err());
    }
}
