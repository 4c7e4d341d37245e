//! Expressions of a schema that must give the same value for ever: of indexes, CHECK constraints and generated columns.
//!
//! SQLite refuses `random()` and its like there when the object is made, but date functions that ask for the
//! clock or the time zone only when a row meets them (sqlite3NotPureFunc in vdbeaux.c). On an empty table such an
//! object is made, and then no row goes in. So these calls are refused here, in SQLite's words for them. A call
//! whose arguments only turn out to be `'now'` with a row is left to SQLite. `DEFAULT` may ask for the clock.

use flotilla_shared::error::{Code, Error};

use super::CreateAs;
use crate::analyze::core::Span;
use crate::analyze::first_word;
use crate::analyze::names::DATES;
use crate::lex::{Kind, Tokens};
use crate::plan::shape::grouped::arguments;

/// Arguments of date functions that mean the clock or the time zone, wherever they stand.
const CLOCK_WORDS: [&str; 3] = ["now", "localtime", "utc"];

/// Those that mean the clock in place of a time, and are modifiers behind one.
const CLOCK_TIMES: [&str; 2] = ["subsec", "subsecond"];

/// Refuses a schema statement that would keep a call for the clock.
///
/// # Errors
/// What SQLite would say of the first row.
pub fn check(tokens: &Tokens<'_>) -> Result<(), Error> {
    for (mut span, place) in lasting(tokens) {
        if let Some(at) = span.find(|at| asks_clock(tokens, *at)) {
            let name = tokens.text(at).to_ascii_lowercase();
            return Err(Error::new(Code::SqlError, format!("non-deterministic use of {name}() in {place}"))
                .hint("no row could be added: leave out 'now', 'localtime' and 'utc', or give the time in a column"));
        }
    }
    Ok(())
}

/// The expressions that must be deterministic, and where they stand.
fn lasting(tokens: &Tokens<'_>) -> Vec<(Span, &'static str)> {
    let first = first_word(tokens);
    let all = first..tokens.list.len();
    let creates =
        |word: &str| tokens.is_word(first, "CREATE") && (first + 1..first + 3).any(|at| tokens.is_word(at, word));
    if creates("INDEX") {
        return vec![(all, "an index")];
    }
    // The query that fills a new table may ask for the clock.
    let defines = creates("TABLE") && CreateAs::read(tokens.sql).is_none();
    if !defines && !tokens.is_word(first, "ALTER") {
        return vec![];
    }
    let place = |at: usize| match tokens.list[at].kind {
        Kind::Word if tokens.is_word(at, "CHECK") => Some("a CHECK constraint"),
        Kind::Word if tokens.is_word(at, "AS") => Some("a generated column"),
        _ => None,
    };
    let spans = all.filter_map(|at| {
        let place = place(at).filter(|_| tokens.is_mark(at + 1, "("))?;
        Some((at + 1..tokens.closing(at + 1)?, place))
    });
    spans.collect()
}

/// Is this the name of a date function in a call that asks for the clock or the time zone?
fn asks_clock(tokens: &Tokens<'_>, at: usize) -> bool {
    let text = tokens.text(at);
    let is_date = tokens.list[at].kind == Kind::Word && DATES.iter().any(|name| text.eq_ignore_ascii_case(name));
    if !is_date || !tokens.is_mark(at + 1, "(") {
        return false;
    }
    let Some(list) = arguments(tokens, at) else { return false };
    // Before the time stands a format.
    let time = usize::from(text.eq_ignore_ascii_case("strftime"));
    let is_any = |span: &Span, words: &[&str]| {
        let literal = tokens.name(span.start).filter(|_| span.len() == 1 && tokens.list[span.start].kind == Kind::Text);
        literal.is_some_and(|text| words.iter().any(|word| text.eq_ignore_ascii_case(word)))
    };
    list.len() <= time
        || is_any(&list[time], &CLOCK_TIMES)
        || list.iter().skip(time).any(|argument| is_any(argument, &CLOCK_WORDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused here is what SQLite makes on an empty table and then refuses with the first row, in the
    /// same words; what is let through takes rows.
    #[test]
    fn sqlite_refuses_the_same_with_the_first_row() {
        for (sql, refused) in [
            ("CREATE TABLE t (a, b AS (datetime('now')))", true),
            ("CREATE TABLE t (a, b GENERATED ALWAYS AS (strftime('%s')) STORED)", true),
            ("CREATE TABLE t (a, b AS (date()))", true),
            ("CREATE TABLE t (a, CHECK (a < unixepoch('subsec')))", true),
            ("CREATE TABLE t (a CHECK (a < Julianday ( 'NOW' )))", true),
            ("CREATE TABLE t (a, CONSTRAINT c CHECK (a > datetime('2020-01-01', '+1 day', 'localtime')))", true),
            ("CREATE TABLE t (a, b AS (time('12:00', 'utc')))", true),
            ("CREATE TABLE t (a, b AS (timediff('now', '2020-01-01')))", true),
            ("CREATE TABLE t (a, b DEFAULT (datetime('now', 'localtime')))", false),
            ("CREATE TABLE t (a, b DEFAULT CURRENT_TIMESTAMP, CHECK (a <> 'now'))", false),
            ("CREATE TABLE t (a, b AS (datetime('2020-01-01', 'subsec')))", false),
            ("CREATE TABLE t (a, b AS (strftime('%s', a)), c AS (unixepoch(a, 'auto')))", false),
            ("CREATE TABLE t (a, b AS (strftime('now', a)))", false),
            ("CREATE TABLE t AS SELECT 1 AS a, datetime('now') AS b", false),
            ("CREATE TABLE t AS WITH c AS (SELECT 1 AS a, datetime('now') AS b) SELECT * FROM c", false),
        ] {
            let db = flotilla_shared::sqlite::open_in_memory().unwrap();
            db.execute_batch(sql).unwrap();
            let sqlite =
                db.execute("INSERT INTO t (a) VALUES (1)", []).map_err(|error| Error::from_sqlite(&error).message);
            assert_eq!(sqlite.is_err(), refused, "{sql}: {sqlite:?}");
            let ours = check(&Tokens::read(sql).unwrap()).map_err(|error| error.message);
            assert_eq!(ours, sqlite.map(drop), "{sql}");
        }
        for (sql, refused) in [
            ("CREATE INDEX i ON t (datetime('now'))", true),
            ("CREATE UNIQUE INDEX IF NOT EXISTS i ON t (a, strftime('%s', 'now', '+1 day'))", true),
            ("CREATE INDEX i ON t (a) WHERE a > date()", true),
            ("CREATE INDEX i ON t (datetime(a, 'localtime'))", true),
            ("CREATE INDEX i ON t (datetime(a, '+1 day')) WHERE a <> 'now'", false),
        ] {
            let db = flotilla_shared::sqlite::open_in_memory().unwrap();
            db.execute_batch("CREATE TABLE t (a)").unwrap();
            db.execute_batch(sql).unwrap();
            let sqlite =
                db.execute("INSERT INTO t (a) VALUES (1)", []).map_err(|error| Error::from_sqlite(&error).message);
            assert_eq!(sqlite.is_err(), refused, "{sql}: {sqlite:?}");
            assert_eq!(check(&Tokens::read(sql).unwrap()).map_err(|error| error.message), sqlite.map(drop), "{sql}");
        }
    }
}
