//! The splitter against text that is hard to cut.

use super::*;

/// Cuts `sql` when fed whole and when fed byte by byte; both must agree.
fn split(sql: &str) -> Vec<String> {
    let texts = |pieces: Vec<Piece>| -> Vec<String> {
        pieces
            .into_iter()
            .map(|piece| match piece {
                Piece::Statement(text) => text.text,
                Piece::Dot(text) => format!("dot {}", text.text),
            })
            .collect()
    };
    let run = |step: usize| {
        let mut splitter = Splitter::default();
        let mut out = Vec::new();
        for chunk in sql.as_bytes().chunks(step) {
            splitter.feed(chunk, &mut out).unwrap();
        }
        out.extend(splitter.finish().unwrap());
        texts(out)
    };
    let whole = run(usize::MAX);
    for step in [1, 2, 3, 7] {
        assert_eq!(run(step), whole, "in steps of {step}");
    }
    whole
}

fn unfinished(sql: &str) -> SplitError {
    let mut splitter = Splitter::default();
    splitter.feed(sql.as_bytes(), &mut Vec::new()).unwrap();
    splitter.finish().unwrap_err()
}

/// Semicolons end statements; empty ones vanish; the last needs none.
#[test]
fn plain_statements() {
    assert_eq!(split("SELECT 1; SELECT 2 ;;\n;SELECT 3"), ["SELECT 1", "SELECT 2", "SELECT 3"]);
    assert_eq!(split(" \n\t;"), Vec::<String>::new());
    assert_eq!(split("SELECT 4-2/1;SELECT -1"), ["SELECT 4-2/1", "SELECT -1"]);
    assert_eq!(split("\u{feff}SELECT 1;"), ["SELECT 1"]);
}

/// Semicolons in every kind of quotes, doubled quotes included.
#[test]
fn quotes() {
    assert_eq!(
        split("SELECT 'a;''b;', \"c;\", `d;`, [e;]; SELECT 2"),
        ["SELECT 'a;''b;', \"c;\", `d;`, [e;]", "SELECT 2"]
    );
    assert_eq!(split("SELECT '--', '/*'; SELECT 2"), ["SELECT '--', '/*'", "SELECT 2"]);
}

/// Comments hide quotes and semicolons, go between statements, stay within them.
#[test]
fn comments() {
    assert_eq!(
        split("-- don't; stop\nSELECT 1; /* it's; */ SELECT /* ; */ 2 -- ;\n+ 3;"),
        ["SELECT 1", "SELECT /* ; */ 2 -- ;\n+ 3"]
    );
    assert_eq!(split("/***/SELECT 1;/*/ SELECT 2; */"), ["SELECT 1"]);
    assert_eq!(split("SELECT 1 -- the end"), ["SELECT 1 -- the end"]);
    assert_eq!(split("-- only a comment"), Vec::<String>::new());
}

/// A trigger's body keeps its semicolons, up to `;END;` and not to CASE's END.
#[test]
fn triggers() {
    let trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  UPDATE b SET x = CASE WHEN 1 THEN 2 END;\n  \
                   SELECT 'END;';\nEND";
    assert_eq!(split(&format!("{trigger};SELECT 1;")), [trigger, "SELECT 1"]);
    for head in ["create temp trigger", "CREATE TEMPORARY TRIGGER", "EXPLAIN CREATE TRIGGER", "CREATE /* x */ TRIGGER"]
    {
        let sql = format!("{head} t BEGIN SELECT 1; SELECT 2; END");
        assert_eq!(split(&format!("{sql}; SELECT 3")), [sql.as_str(), "SELECT 3"]);
        assert_eq!(split(&sql), [sql.as_str()]);
    }
    assert_eq!(split("CREATE TABLE trigger_log (a); SELECT 1"), ["CREATE TABLE trigger_log (a)", "SELECT 1"]);
    assert_eq!(split("CREATE TABLE t (trigger); BEGIN; END;"), ["CREATE TABLE t (trigger)", "BEGIN", "END"]);
    let no_end = "CREATE TRIGGER t BEGIN SELECT 1; SELECT 2;";
    assert_eq!(unfinished(no_end), SplitError::Unfinished("the trigger body", 1));
}

/// Lines count from 1 at the first token, whatever came before.
#[test]
fn line_numbers() {
    let mut out = Vec::new();
    let mut splitter = Splitter::default();
    splitter.feed(b"\n-- x\nSELECT\n1; /*\n*/ SELECT 2;\n\nSELECT '\n';\n-- y\n- 1;", &mut out).unwrap();
    let lines: Vec<u64> = out
        .iter()
        .map(|piece| match piece {
            Piece::Statement(text) | Piece::Dot(text) => text.line,
        })
        .collect();
    assert_eq!(lines, [3, 5, 7, 10]);
}

/// A dot begins a command only at the start of a line between statements.
#[test]
fn dot_commands() {
    assert_eq!(
        split(".tables\nSELECT 1\n.5;\n.read 'a;b'\nSELECT 2;"),
        ["dot .tables", "SELECT 1\n.5", "dot .read 'a;b'", "SELECT 2"]
    );
    assert_eq!(split(".quit"), ["dot .quit"]);
}

/// What ends too early says what is open, and where it began.
#[test]
fn unfinished_input() {
    assert_eq!(unfinished("SELECT 1;\nSELECT 'abc;"), SplitError::Unfinished("a string or quoted name", 2));
    let mut splitter = Splitter::default();
    assert_eq!(splitter.feed(b"\nSELECT '\xff';", &mut Vec::new()), Err(SplitError::NotUtf8(2)));
}

/// The shell asks for more lines exactly when a statement or a comment is open.
#[test]
fn between_statements() {
    let between = |sql: &str| {
        let mut splitter = Splitter::default();
        splitter.feed(sql.as_bytes(), &mut Vec::new()).unwrap();
        splitter.is_between_statements()
    };
    assert!(between("") && between("SELECT 1;\n") && between("-- x\n") && between("SELECT 1; -- x\n"));
    assert!(!between("SELECT 1\n") && !between("/* x\n") && !between("SELECT ';\n"));
}
