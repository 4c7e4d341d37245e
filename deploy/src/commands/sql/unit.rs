//! Transactions of a script: which statements go to the server together.
//!
//! Input: a script's statements, one by one. Output: what to send ([`Step`]). The server keeps no session, so
//! nothing of a transaction is sent before its COMMIT is read; then all of it goes in one request and takes effect
//! together or not at all. What a script says about transactions is honoured here, or the script is refused before
//! anything of that transaction is sent:
//!
//! | in the script | what happens |
//! |---|---|
//! | `BEGIN … COMMIT` or `END` | one request |
//! | `ROLLBACK`, or the end of the script without COMMIT | nothing is sent, as nothing would stay |
//! | `SAVEPOINT a … ROLLBACK TO a`, `RELEASE a` | what is rolled back is left out |
//! | `PRAGMA foreign_keys=OFF` or `defer_foreign_keys=ON`, up to their ON and OFF | each transaction in it, and the statements around these, are one request, in which foreign keys do not act and are checked at its end |
//! | the same PRAGMAs without a value | a SELECT of the value: settings belong to the script, and the server has no session |
//!
//! Like SQLite, `defer_foreign_keys` ends with its transaction. Refused: BEGIN inside a transaction, COMMIT outside
//! of one, a savepoint that does not exist, and what is larger than a request may be; but a dump may be ([`load`]).

use flotilla_shared::lex::Tokens;

use super::load::{self, Load, Part};
use super::splitter::Text;

/// Statements of one transaction: what the server takes in one request.
pub const MAX_UNIT_STATEMENTS: usize = 10_000;

/// Bytes of one transaction: what a log entry of a shard takes.
pub const MAX_UNIT_BYTES: usize = 4 << 20;

/// Statements that go together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// In order.
    pub statements: Vec<Text>,
    /// Foreign keys do not act, and are checked at the end.
    pub unenforced: bool,
    bytes: usize,
    /// Nothing of it goes, whatever follows.
    too_large: bool,
}

impl Unit {
    fn add(&mut self, statement: Text) -> Result<(), Refusal> {
        if self.too_large {
            return Ok(());
        }
        self.bytes += statement.text.len();
        if self.bytes > MAX_UNIT_BYTES || self.statements.len() >= MAX_UNIT_STATEMENTS {
            self.too_large = true;
            self.statements.clear();
            let why = format!(
                "a transaction has over {MAX_UNIT_STATEMENTS} statements or {MAX_UNIT_BYTES} bytes; nothing of it is run"
            );
            return Err(Refusal { line: statement.line, why });
        }
        self.statements.push(statement);
        Ok(())
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A statement for itself.
    Alone(Text),
    /// A transaction.
    Unit(Unit),
    /// So many statements were rolled back; they began at that line.
    RolledBack(usize, u64),
    /// A part of a load.
    Part(Part),
    /// A load is in, but for this, which goes last.
    Loaded(Part),
    /// A load is given up.
    Unload,
}

/// Why a script cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where.
    pub line: u64,
    /// Why.
    pub why: String,
}

/// A transaction that has begun.
#[derive(Debug)]
struct Open {
    unit: Unit,
    line: u64,
    /// Names, and how many statements there were.
    savepoints: Vec<(String, usize)>,
    /// It ends when its first savepoint is released.
    by_savepoint: bool,
    /// It is too large to go as one.
    load: Option<Load>,
}

/// The transactions of one script.
#[derive(Debug, Default)]
pub struct Units {
    open: Option<Open>,
    /// Statements outside of BEGIN and COMMIT while foreign keys do not act.
    region: Unit,
    /// `PRAGMA foreign_keys=OFF` is in force.
    pub keys_off: bool,
    deferred: bool,
}

impl Open {
    fn add(&mut self, statement: Text) -> Result<Vec<Step>, Refusal> {
        if let Some(load) = &mut self.load {
            let line = statement.line;
            return match load.take(statement) {
                Ok(part) => Ok(part.map(Step::Part).into_iter().collect()),
                Err(why) => Err(Refusal { line, why }),
            };
        }
        self.unit.add(statement)?;
        let too_large = load::is_too_large(self.unit.statements.len(), self.unit.bytes);
        if !too_large || !self.unit.unenforced || !self.savepoints.is_empty() {
            return Ok(vec![]);
        }
        let (mut load, mut parts) = (Load::default(), vec![]);
        for statement in self.unit.statements.clone() {
            match load.take(statement) {
                Ok(part) => parts.extend(part.map(Step::Part)),
                // The server says how large it may be, or the rest of it is short.
                Err(_) => return Ok(vec![]),
            }
        }
        (self.load, self.unit.statements) = (Some(load), vec![]);
        Ok(parts)
    }
}

/// What a statement says about transactions.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Begin,
    Commit,
    Rollback,
    RollbackTo(String),
    Savepoint(String),
    Release(String),
    ForeignKeys(bool),
    DeferForeignKeys(bool),
    /// A PRAGMA reads what one of the two says.
    Read(Setting),
    Other,
}

/// What a PRAGMA may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    ForeignKeys,
    DeferForeignKeys,
}

fn frame(sql: &str) -> Frame {
    let Ok(tokens) = Tokens::read(sql) else { return Frame::Other };
    let is = |index: usize, word: &str| tokens.is_word(index, word);
    let name = |index: usize| tokens.name(index).unwrap_or_default().to_ascii_lowercase();
    match tokens.text(0).to_ascii_uppercase().as_str() {
        "BEGIN" => Frame::Begin,
        "COMMIT" | "END" => Frame::Commit,
        "ROLLBACK" => {
            let at = if is(1, "TRANSACTION") { 2 } else { 1 };
            match is(at, "TO") {
                true => Frame::RollbackTo(name(if is(at + 1, "SAVEPOINT") { at + 2 } else { at + 1 })),
                false => Frame::Rollback,
            }
        }
        "SAVEPOINT" => Frame::Savepoint(name(1)),
        "RELEASE" => Frame::Release(name(if is(1, "SAVEPOINT") && tokens.name(2).is_some() { 2 } else { 1 })),
        "PRAGMA" => pragma(&tokens),
        _ => Frame::Other,
    }
}

fn pragma(tokens: &Tokens<'_>) -> Frame {
    let at = if tokens.is_mark(2, ".") { 3 } else { 1 };
    let name = tokens.name(at).unwrap_or_default().to_ascii_lowercase();
    if tokens.list.get(at + 1).is_none() || tokens.is_mark(at + 1, ";") {
        return match name.as_str() {
            "foreign_keys" => Frame::Read(Setting::ForeignKeys),
            "defer_foreign_keys" => Frame::Read(Setting::DeferForeignKeys),
            _ => Frame::Other,
        };
    }
    let value = tokens.name(at + 2).unwrap_or_else(|| tokens.text(at + 2).to_owned()).to_ascii_lowercase();
    let on = match value.as_str() {
        "on" | "true" | "yes" | "1" => true,
        "off" | "false" | "no" | "0" => false,
        _ => return Frame::Other,
    };
    match name.as_str() {
        "foreign_keys" => Frame::ForeignKeys(on),
        "defer_foreign_keys" => Frame::DeferForeignKeys(on),
        _ => Frame::Other,
    }
}

impl Units {
    /// The transactions of a script that begins with `PRAGMA foreign_keys=OFF` in force, or not.
    pub fn new(keys_off: bool) -> Self {
        Self { keys_off, ..Self::default() }
    }

    /// Is a transaction open?
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next statement.
    ///
    /// # Errors
    /// Why the script cannot go on; what has been read of its transaction must not be sent.
    pub fn take(&mut self, statement: Text) -> Result<Vec<Step>, Refusal> {
        let line = statement.line;
        let refused = |why: &str| Err(Refusal { line, why: why.to_owned() });
        let frame = frame(&statement.text);
        let value = |on: bool, name: &str| format!("SELECT {} AS {name}", u8::from(on));
        let statement = match frame {
            Frame::Read(Setting::ForeignKeys) => Text { text: value(!self.keys_off, "foreign_keys"), line },
            Frame::Read(Setting::DeferForeignKeys) => Text { text: value(self.deferred, "defer_foreign_keys"), line },
            _ => statement,
        };
        let Some(open) = &mut self.open else {
            return match frame {
                Frame::Begin => Ok(self.begin(line, None)),
                Frame::Savepoint(name) => Ok(self.begin(line, Some(name))),
                Frame::Commit => refused("cannot commit - no transaction is active"),
                Frame::Rollback => refused("cannot rollback - no transaction is active"),
                Frame::RollbackTo(name) | Frame::Release(name) => refused(&format!("no such savepoint: {name}")),
                Frame::ForeignKeys(on) => {
                    self.keys_off = !on;
                    Ok(self.end_region(false))
                }
                Frame::DeferForeignKeys(on) => {
                    self.deferred = on;
                    Ok(self.end_region(false))
                }
                Frame::Read(_) if self.region.statements.is_empty() => Ok(vec![Step::Alone(statement)]),
                Frame::Read(_) => self.region.add(statement).map(|()| vec![]),
                Frame::Other if self.keys_off || self.deferred => self.region.add(statement).map(|()| vec![]),
                Frame::Other => Ok(vec![Step::Alone(statement)]),
            };
        };
        match frame {
            Frame::Savepoint(_) if open.load.is_some() => {
                return refused("a transaction of this size has no savepoints");
            }
            Frame::Begin => return refused("cannot start a transaction within a transaction"),
            Frame::Commit => return Ok(self.commit()),
            Frame::Rollback => return Ok(self.roll_back()),
            Frame::Savepoint(name) => open.savepoints.push((name, open.unit.statements.len())),
            Frame::RollbackTo(name) => match open.savepoints.iter().rposition(|(known, _)| *known == name) {
                None => return refused(&format!("no such savepoint: {name}")),
                Some(at) => {
                    open.savepoints.truncate(at + 1);
                    open.unit.statements.truncate(open.savepoints[at].1);
                }
            },
            Frame::Release(name) => match open.savepoints.iter().rposition(|(known, _)| *known == name) {
                None => return refused(&format!("no such savepoint: {name}")),
                Some(0) if open.by_savepoint => return Ok(self.commit()),
                Some(at) => open.savepoints.truncate(at),
            },
            // SQLite ignores the first inside a transaction; with foreign keys on it would do what nobody wants.
            Frame::ForeignKeys(on) => open.unit.unenforced |= !on,
            Frame::DeferForeignKeys(on) => {
                self.deferred = on;
                open.unit.unenforced |= on;
            }
            Frame::Read(_) | Frame::Other => return open.add(statement),
        }
        Ok(vec![])
    }

    /// What was sent of the open transaction has failed: nothing more of it goes.
    pub fn abandon(&mut self) {
        if let Some(open) = &mut self.open {
            open.load = None;
            open.unit = Unit { too_large: true, ..Unit::default() };
        }
    }

    /// The script has ended.
    ///
    /// # Errors
    /// A transaction was not committed.
    pub fn finish(&mut self) -> Result<Vec<Step>, Refusal> {
        match self.open.take() {
            Some(Open { line, .. }) => Err(Refusal {
                line,
                why: "the transaction that begins here has no COMMIT; nothing of it was run".into(),
            }),
            None => Ok(self.end_region(true)),
        }
    }

    /// The statements outside of BEGIN and COMMIT, if they end here: foreign keys act again, or something else
    /// comes.
    pub fn end_region(&mut self, now: bool) -> Vec<Step> {
        let ends = now || !(self.keys_off || self.deferred);
        if !ends {
            return vec![];
        }
        let region = Unit { unenforced: true, ..std::mem::take(&mut self.region) };
        if region.statements.is_empty() { vec![] } else { vec![Step::Unit(region)] }
    }

    fn begin(&mut self, line: u64, savepoint: Option<String>) -> Vec<Step> {
        let steps = self.end_region(true);
        let unit = Unit { unenforced: self.keys_off || self.deferred, ..Unit::default() };
        let by_savepoint = savepoint.is_some();
        let savepoints = savepoint.into_iter().map(|name| (name, 0)).collect();
        self.open = Some(Open { unit, line, savepoints, by_savepoint, load: None });
        steps
    }

    fn commit(&mut self) -> Vec<Step> {
        self.deferred = false;
        if let Some(load) = self.open.as_mut().and_then(|open| open.load.take()) {
            self.open = None;
            let (last, sequence) = load.finish();
            return vec![Step::Part(last), Step::Loaded(sequence)];
        }
        let unit = self.open.take().map(|open| open.unit).filter(|unit| !unit.statements.is_empty());
        unit.map(Step::Unit).into_iter().collect()
    }

    fn roll_back(&mut self) -> Vec<Step> {
        self.deferred = false;
        if self.open.as_ref().is_some_and(|open| open.load.is_some()) {
            self.open = None;
            return vec![Step::Unload];
        }
        let rolled = self.open.take().map(|open| Step::RolledBack(open.unit.statements.len(), open.line));
        rolled.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps of a script, as text; what is refused ends it.
    fn steps(sql: &str) -> String {
        let mut units = Units::default();
        let mut out = Vec::new();
        let mut taken = |steps: Result<Vec<Step>, Refusal>| match steps {
            Ok(steps) => {
                out.extend(steps.into_iter().map(|step| match step {
                    Step::Alone(text) => text.text,
                    Step::Unit(unit) => {
                        let texts: Vec<&str> = unit.statements.iter().map(|one| one.text.as_str()).collect();
                        format!("{}[{}]", if unit.unenforced { "off" } else { "" }, texts.join(" "))
                    }
                    Step::RolledBack(count, line) => format!("undo {count} from {line}"),
                    Step::Part(part) => format!("part {}", part.statements.len()),
                    Step::Loaded(rest) => format!("loaded {}", rest.statements.len()),
                    Step::Unload => "unload".to_owned(),
                }));
                true
            }
            Err(refusal) => {
                out.push(format!("{}: {}", refusal.line, refusal.why));
                false
            }
        };
        let lines = sql.split(';').map(str::trim).filter(|one| !one.is_empty());
        let all =
            lines.enumerate().all(|(n, one)| taken(units.take(Text { text: one.to_owned(), line: n as u64 + 1 })));
        if all {
            taken(units.finish());
        }
        out.join(" | ")
    }

    /// Transactions go together, what is rolled back does not go, and what makes no sense is refused.
    #[test]
    fn transactions() {
        for (sql, expected) in [
            ("a; BEGIN; b; c; COMMIT; d", "a | [b c] | d"),
            ("begin immediate transaction; b; end transaction", "[b]"),
            ("BEGIN; b; ROLLBACK; c", "undo 1 from 1 | c"),
            ("BEGIN; COMMIT", ""),
            ("BEGIN; b; SAVEPOINT s; c; SAVEPOINT \"T\"; d; ROLLBACK TO t; e; RELEASE S; f; COMMIT", "[b c e f]"),
            ("BEGIN; SAVEPOINT s; c; ROLLBACK TRANSACTION TO SAVEPOINT s; d; COMMIT", "[d]"),
            ("SAVEPOINT s; a; SAVEPOINT s; b; RELEASE s; c; RELEASE SAVEPOINT s; d", "[a b c] | d"),
            ("BEGIN; a; BEGIN; b; COMMIT", "3: cannot start a transaction within a transaction"),
            ("a; COMMIT; b", "a | 2: cannot commit - no transaction is active"),
            ("ROLLBACK", "1: cannot rollback - no transaction is active"),
            ("BEGIN; RELEASE x", "2: no such savepoint: x"),
            ("a; BEGIN; b", "a | 2: the transaction that begins here has no COMMIT; nothing of it was run"),
            ("CREATE TRIGGER t BEGIN SELECT 1", "CREATE TRIGGER t BEGIN SELECT 1"),
        ] {
            assert_eq!(steps(sql), expected, "{sql}");
        }
    }

    /// The forms of sqlite3's dump, Drizzle, Prisma, Rails, Django and D1.
    #[test]
    fn foreign_keys() {
        for (sql, expected) in [
            ("PRAGMA foreign_keys=OFF; BEGIN TRANSACTION; a; b; COMMIT", "off[a b]"),
            ("PRAGMA foreign_keys=OFF; a; b; PRAGMA foreign_keys=ON; c", "off[a b] | c"),
            (
                "PRAGMA defer_foreign_keys=ON; PRAGMA foreign_keys=OFF; a; PRAGMA foreign_keys=ON; \
                 PRAGMA defer_foreign_keys=OFF; b",
                "off[a] | b",
            ),
            (
                "PRAGMA foreign_keys = 0; PRAGMA defer_foreign_keys = ON; BEGIN; a; COMMIT; PRAGMA foreign_keys = 1",
                "off[a]",
            ),
            ("BEGIN; PRAGMA defer_foreign_keys(TRUE); a; COMMIT; b", "off[a] | b"),
            ("PRAGMA defer_foreign_keys=on; BEGIN; a; COMMIT; b", "off[a] | b"),
            (
                "PRAGMA foreign_keys=OFF; a; BEGIN; b; COMMIT; c; PRAGMA main.foreign_keys='on'; d",
                "off[a] | off[b] | off[c] | d",
            ),
            ("PRAGMA foreign_keys=OFF; a", "off[a]"),
            ("PRAGMA foreign_keys=ON; a; PRAGMA foreign_keys", "a | SELECT 1 AS foreign_keys"),
            (
                "PRAGMA foreign_keys = OFF; PRAGMA foreign_keys; BEGIN; a; COMMIT; PRAGMA foreign_key_check",
                "SELECT 0 AS foreign_keys | off[a] | off[PRAGMA foreign_key_check]",
            ),
            ("PRAGMA foreign_keys(0); a; PRAGMA main.foreign_keys; b", "off[a SELECT 0 AS foreign_keys b]"),
            (
                "BEGIN; PRAGMA defer_foreign_keys; PRAGMA defer_foreign_keys = ON; PRAGMA foreign_keys = OFF; a; \
                 PRAGMA foreign_keys; PRAGMA defer_foreign_keys; COMMIT; PRAGMA defer_foreign_keys",
                "off[SELECT 0 AS defer_foreign_keys a SELECT 1 AS foreign_keys SELECT 1 AS defer_foreign_keys] | \
                 SELECT 0 AS defer_foreign_keys",
            ),
        ] {
            assert_eq!(steps(sql), expected, "{sql}");
        }
    }

    /// A dump that is too large for one request goes in parts; any other transaction of that size goes whole, and
    /// the server refuses it.
    #[test]
    fn loads() {
        let rows = |table: &str| format!("INSERT INTO {table} VALUES (1); ").repeat(2100);
        let begin = "PRAGMA foreign_keys=OFF; BEGIN; CREATE TABLE t (a); ";
        let sequence = "DELETE FROM sqlite_sequence; INSERT INTO sqlite_sequence VALUES ('t', 9); ";
        assert_eq!(
            steps(&format!("{begin}{}{sequence}COMMIT; b", rows("t"))),
            "part 2000 | part 101 | loaded 2 | off[b]"
        );
        assert_eq!(steps(&format!("{begin}{}ROLLBACK", rows("t"))), "part 2000 | unload");
        assert!(steps(&format!("{begin}{}DROP TABLE u; COMMIT", rows("t"))).starts_with("part 2000 | 2104: "));
        assert!(steps(&format!("{begin}{}COMMIT", rows("other"))).starts_with("off["));
        assert!(steps(&format!("BEGIN; {}COMMIT", rows("t"))).starts_with("[INSERT"));
    }
}
