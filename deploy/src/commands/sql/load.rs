//! Loads: a dump that is larger than one transaction on the server may be.
//!
//! Input: the statements of a transaction in which foreign keys do not act. Output: [`Part`]s, each a transaction of
//! its own, in which foreign keys do not act and are not checked. That is only right where nobody can tell the
//! difference: everything that a part changes must belong to tables that the load itself has made, so that
//! dropping them undoes it. Once all parts are in, foreign keys are checked; with a violation, or any error before,
//! the tables are dropped again. A load whose client dies leaves its tables, some of them not yet full.
//!
//! Where AUTOINCREMENT goes on is shared by all tables, so `sqlite_sequence` is written last, after the check.
//!
//! Refused, before anything of it is sent or with what was sent undone: statements that touch other tables.

use std::collections::BTreeSet;

use flotilla_shared::lex::Tokens;
use flotilla_shared::script::{MAX_SCRIPT_BYTES, MAX_SCRIPT_STATEMENTS};

use super::splitter::Text;

/// A part must fit a request of its kind; a statement more must fit, too.
const PART_BYTES: usize = MAX_SCRIPT_BYTES / 2;

/// A table or view.
pub type Object = (&'static str, String);

/// Statements that go together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// In order.
    pub statements: Vec<Text>,
    /// What they make.
    pub makes: Vec<Object>,
}

/// A load under way.
#[derive(Debug, Default)]
pub struct Load {
    /// Lower-case names of the tables that it has made.
    tables: BTreeSet<String>,
    /// The same of views.
    views: BTreeSet<String>,
    /// It has made a trigger: rows could now change other tables.
    has_triggers: bool,
    part: Part,
    bytes: usize,
    sequence: Vec<Text>,
}

/// Is a transaction too large to go as one?
pub fn is_too_large(statements: usize, bytes: usize) -> bool {
    statements > MAX_SCRIPT_STATEMENTS || bytes > MAX_SCRIPT_BYTES
}

/// What a statement of a dump does.
enum Kind {
    /// Makes a table or view; the text says so without IF NOT EXISTS.
    Makes(Object, String),
    /// Rows of a table.
    Rows(String),
    /// An index of a table.
    Index(String),
    /// A trigger of a table or view.
    Trigger(String),
    Sequence,
}

impl Load {
    /// Takes the next statement; gives a part when one is full.
    ///
    /// # Errors
    /// Why it cannot be part of a load.
    pub fn take(&mut self, statement: Text) -> Result<Option<Part>, String> {
        let tokens = Tokens::read(&statement.text).map_err(|error| error.message)?;
        let cost = statement.text.len();
        let kind = kind(&tokens).ok_or("a transaction of this size can only make tables and fill these")?;
        let has = |names: &BTreeSet<String>, name: &str| names.contains(&name.to_ascii_lowercase());
        let made = match &kind {
            Kind::Makes(..) | Kind::Sequence => None,
            Kind::Rows(name) => Some((name, has(&self.tables, name) && !self.has_triggers)),
            Kind::Index(name) => Some((name, has(&self.tables, name))),
            Kind::Trigger(name) => Some((name, has(&self.tables, name) || has(&self.views, name))),
        };
        if let Some((name, false)) = made {
            return Err(format!(
                "a transaction of this size changes nothing but tables that it makes itself; {name} is none, or has triggers"
            ));
        }
        self.has_triggers |= matches!(kind, Kind::Trigger(_));
        match kind {
            Kind::Makes((what, name), text) => {
                let names = if what == "TABLE" { &mut self.tables } else { &mut self.views };
                names.insert(name.to_ascii_lowercase());
                self.part.makes.push((what, name));
                self.part.statements.push(Text { text, ..statement });
            }
            Kind::Sequence => self.sequence.push(statement),
            _ => self.part.statements.push(statement),
        }
        self.bytes += cost;
        let full = self.bytes >= PART_BYTES || self.part.statements.len() >= MAX_SCRIPT_STATEMENTS;
        Ok(full.then(|| self.next()))
    }

    /// The rest: rows and objects, and what is written when foreign keys have been checked.
    pub fn finish(mut self) -> (Part, Part) {
        let sequence = Part { statements: std::mem::take(&mut self.sequence), makes: vec![] };
        (self.next(), sequence)
    }

    fn next(&mut self) -> Part {
        self.bytes = 0;
        std::mem::take(&mut self.part)
    }
}

fn kind(tokens: &Tokens<'_>) -> Option<Kind> {
    let is = |index: usize, word: &str| tokens.is_word(index, word);
    let name = |index: usize| tokens.name(index);
    match () {
        () if is(0, "CREATE") && (is(1, "TABLE") || is(1, "VIEW")) => {
            let at = if is(2, "IF") { 5 } else { 2 };
            let what = if is(1, "TABLE") { "TABLE" } else { "VIEW" };
            if is(at + 1, "AS") && what == "TABLE" {
                return None;
            }
            let text = format!("CREATE {what} {}", &tokens.sql[tokens.list.get(at)?.span.start..]);
            Some(Kind::Makes((what, name(at)?), text))
        }
        () if is(0, "CREATE") && (is(1, "INDEX") || is(1, "UNIQUE") || is(1, "TRIGGER")) => {
            let on = (2..tokens.list.len()).find(|index| is(*index, "ON"))?;
            let of = name(on + 1)?;
            Some(if is(1, "TRIGGER") { Kind::Trigger(of) } else { Kind::Index(of) })
        }
        () if (is(0, "INSERT") && is(1, "INTO")) || (is(0, "DELETE") && is(1, "FROM")) => {
            let table = name(2)?;
            match table.eq_ignore_ascii_case("sqlite_sequence") {
                true => Some(Kind::Sequence),
                false => Some(Kind::Rows(table)),
            }
        }
        () => None,
    }
}

/// Takes the objects away again.
pub fn undo(made: &[Object]) -> Vec<String> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    // Views first: they are the last that a dump makes.
    made.iter().rev().map(|(what, name)| format!("DROP {what} {}", quoted(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(sql: &str) -> Text {
        Text { text: sql.to_owned(), line: 1 }
    }

    /// Parts are cut by their number and size; sequences come last; what is made is known by its part.
    #[test]
    fn parts() {
        let mut load = Load::default();
        assert_eq!(load.take(text("CREATE TABLE IF NOT EXISTS \"a b\" (x)")), Ok(None));
        assert_eq!(load.take(text("DELETE FROM sqlite_sequence")), Ok(None));
        let row = format!("INSERT INTO \"A B\" VALUES ('{}')", "x".repeat(PART_BYTES));
        let part = load.take(text(&row)).unwrap().unwrap();
        assert_eq!(part.statements[0].text, "CREATE TABLE \"a b\" (x)");
        assert_eq!((part.statements.len(), part.makes), (2, vec![("TABLE", "a b".to_owned())]));
        for n in 1..MAX_SCRIPT_STATEMENTS {
            assert_eq!(load.take(text(&format!("INSERT INTO [a b] VALUES ({n})"))), Ok(None));
        }
        assert!(load.take(text("CREATE INDEX i ON `a b` (x)")).unwrap().is_some());
        load.take(text("CREATE VIEW v AS SELECT 1")).unwrap();
        let (last, sequence) = load.finish();
        assert_eq!((last.makes, sequence.statements.len()), (vec![("VIEW", "v".to_owned())], 1));
        let made = [("TABLE", "a \"b".to_owned()), ("VIEW", "v".to_owned())];
        assert_eq!(undo(&made), ["DROP VIEW \"v\"", "DROP TABLE \"a \"\"b\""]);
    }

    /// Only its own tables.
    #[test]
    fn other_tables_are_refused() {
        let mut load = Load::default();
        load.take(text("CREATE TABLE mine (x)")).unwrap();
        load.take(text("CREATE VIEW v AS SELECT 1 AS x")).unwrap();
        load.take(text("CREATE TRIGGER t INSTEAD OF INSERT ON v BEGIN DELETE FROM yours; END")).unwrap();
        for sql in [
            "INSERT INTO yours VALUES (1)",
            "INSERT INTO mine VALUES (1)",
            "INSERT INTO v VALUES (1)",
            "DROP TABLE mine",
            "CREATE INDEX i ON yours (x)",
            "CREATE TABLE copy AS SELECT * FROM yours",
            "UPDATE mine SET x = 1",
            "PRAGMA writable_schema=ON",
            "SELECT 1",
        ] {
            assert!(load.take(text(sql)).is_err(), "{sql}");
        }
    }
}
