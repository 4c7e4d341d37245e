//! Which call of the API takes a statement, told by its first words only: the server parses.

/// Where a statement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `POST /query`, alone.
    Read,
    /// `POST /execute`, in a batch.
    Write,
    /// `POST /sql`, alone: the server decides.
    Either,
}

/// The kind of one statement. A WITH is what follows its common table expressions.
pub fn kind(sql: &str) -> Kind {
    let mut words = Words::new(sql);
    match words.next().map(str::to_ascii_uppercase).as_deref() {
        Some("SELECT" | "VALUES") => Kind::Read,
        Some("EXPLAIN" | "PRAGMA") => Kind::Either,
        Some("WITH") => words
            .find_map(|word| match word.to_ascii_uppercase().as_str() {
                "SELECT" | "VALUES" => Some(Kind::Read),
                "INSERT" | "REPLACE" | "UPDATE" | "DELETE" => Some(Kind::Write),
                _ => None,
            })
            .unwrap_or(Kind::Either),
        // A statement in parentheses is no SQLite; let the server say so.
        _ => Kind::Write,
    }
}

/// Does the statement change the schema? Then it is sent alone: a request that is sent again must not meet a table
/// of another statement of its own.
pub fn changes_schema(sql: &str) -> bool {
    let first = Words::new(sql).next().map(str::to_ascii_uppercase);
    matches!(first.as_deref(), Some("CREATE" | "ALTER" | "DROP" | "REINDEX" | "ANALYZE"))
}

/// The words of a statement outside of parentheses, quotes and comments.
struct Words<'a> {
    sql: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Words<'a> {
    fn new(sql: &'a str) -> Self {
        Self { sql, at: 0, depth: 0 }
    }

    /// Moves behind the next `end`, or to the end of the text.
    fn skip_past(&mut self, end: &str) {
        self.at = self.sql[self.at..].find(end).map_or(self.sql.len(), |found| self.at + found + end.len());
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let rest = &self.sql[self.at..];
            let first = rest.chars().next()?;
            if rest.starts_with("--") {
                self.skip_past("\n");
            } else if rest.starts_with("/*") {
                self.at += 2;
                self.skip_past("*/");
            } else if let Some(close) = match first {
                '\'' | '"' | '`' => Some(first.to_string()),
                '[' => Some("]".to_owned()),
                _ => None,
            } {
                self.at += 1;
                self.skip_past(&close);
            } else if first.is_alphanumeric() || first == '_' {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
                self.at += end;
                if self.depth == 0 {
                    return Some(&rest[..end]);
                }
            } else {
                match first {
                    '(' => self.depth += 1,
                    ')' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
                self.at += first.len_utf8();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first word decides, after comments; WITH is decided by what follows its tables.
    #[test]
    fn kinds() {
        for (sql, expected) in [
            ("SELECT 1", Kind::Read),
            ("select 1", Kind::Read),
            ("/* INSERT */ -- x\n VALUES (1)", Kind::Read),
            ("INSERT INTO t SELECT 1", Kind::Write),
            ("CREATE TABLE t (a)", Kind::Write),
            ("PRAGMA table_info(t)", Kind::Either),
            ("EXPLAIN QUERY PLAN DELETE FROM t", Kind::Either),
            ("WITH a AS (SELECT 1), \"insert\" AS (SELECT 2) SELECT * FROM a", Kind::Read),
            ("WITH a(x) AS (SELECT ')') INSERT INTO t SELECT x FROM a", Kind::Write),
            ("WITH a AS (SELECT 1) DELETE FROM t", Kind::Write),
            ("(SELECT 1)", Kind::Write),
            ("", Kind::Write),
        ] {
            assert_eq!(kind(sql), expected, "{sql}");
        }
    }

    /// After comments, in any case.
    #[test]
    fn schema_statements() {
        assert!(changes_schema("-- x\n create TABLE t (a)") && changes_schema("DROP VIEW v"));
        assert!(
            !changes_schema("INSERT INTO t VALUES ('CREATE')") && !changes_schema("WITH a AS (SELECT 1) DELETE FROM t")
        );
    }
}
