//! Databases like Chinook and Northwind (`tests/migrations/dumps`), and their text as `.dump` of the
//! `sqlite3` shell writes it (SQLite's `src/shell.c.in`: `dump_callback`, `output_quoted_escaped_string`),
//! but with the tables in any order: children before their parents.

use flotilla_shared::value::Value;
use flotilla_shared::wire::Rows;
use flotilla_tests::differential::Local;
use flotilla_tests::harness::binary::repository;

use super::state::query;

/// The databases.
pub const DATABASES: [&str; 2] = ["music", "trade"];

/// A database whose names begin with a prefix. It has some five times `rows` rows; `width` bytes are in each of
/// `rows` of them.
pub fn database(name: &str, prefix: &str, rows: u64, width: u64) -> Local {
    let path = repository().join("tests/migrations/dumps").join(name).with_extension("sql");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let local = Local::new();
    local.setup("PRAGMA foreign_keys = ON");
    let text = text.replace("{p}", prefix).replace("{n}", &rows.to_string()).replace("{w}", &width.to_string());
    local.setup(&text);
    local
}

/// The text of a database. The seed decides the order of its tables.
pub fn dump(local: &Local, seed: u64) -> String {
    let mut text = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n".to_owned();
    let tables = query(local, "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*'");
    let mut tables: Vec<(String, String)> =
        tables.values.iter().map(|row| (string(&row[0]), string(&row[1]))).collect();
    shuffle(&mut tables, seed);
    for (name, sql) in &tables {
        // So that the shell can load a dump twice; its pattern is just this.
        let sql = match sql.strip_prefix("CREATE TABLE ") {
            Some(rest) if rest.starts_with(['\'', '"']) => format!("CREATE TABLE IF NOT EXISTS {rest}"),
            _ => sql.clone(),
        };
        text.push_str(&format!("{sql};\n"));
        inserts(local, name, &mut text);
    }
    text.push_str("DELETE FROM sqlite_sequence;\n");
    inserts(local, "sqlite_sequence", &mut text);
    let others = "SELECT sql FROM sqlite_schema WHERE sql NOT NULL AND type IN ('index', 'trigger', 'view')
        ORDER BY type COLLATE NOCASE DESC";
    for row in query(local, others).values {
        text.push_str(&format!("{};\n", string(&row[0])));
    }
    text.push_str("COMMIT;\n");
    text
}

fn inserts(local: &Local, table: &str, text: &mut String) {
    let quoted = table.replace('"', "\"\"");
    // `*` would give the generated columns as well, which VALUES must not.
    let columns: Vec<String> = query(local, &format!("PRAGMA table_info(\"{quoted}\")"))
        .values
        .iter()
        .map(|row| format!("\"{}\"", string(&row[1]).replace('"', "\"\"")))
        .collect();
    let rows: Rows = query(local, &format!("SELECT {} FROM \"{quoted}\"", columns.join(", ")));
    let is_plain = table.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let name = if is_plain { table.to_owned() } else { format!("\"{quoted}\"") };
    for row in &rows.values {
        let values: Vec<String> = row.iter().map(literal).collect();
        text.push_str(&format!("INSERT INTO {name} VALUES({});\n", values.join(",")));
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Integer(n) => n.to_string(),
        Value::Real(r) if r.is_infinite() => (if *r > 0.0 { "9.0e+999" } else { "-9.0e+999" }).into(),
        // `{:?}` reads back as the same number; the shell writes 20 digits, which do as well.
        Value::Real(r) => format!("{r:?}"),
        Value::Text(text) if text.chars().any(|c| c < ' ' || c == '\u{7f}') => {
            let escaped = text.chars().map(|c| match c {
                '\\' => "\\\\".to_owned(),
                '\'' => "''".to_owned(),
                c if c < ' ' || c == '\u{7f}' => format!("\\u{:04x}", u32::from(c)),
                c => c.to_string(),
            });
            format!("unistr('{}')", escaped.collect::<String>())
        }
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Blob(bytes) => format!("X'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

fn string(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => panic!("{other:?} is not text"),
    }
}

/// Fisher and Yates, with the constants of Knuth's MMIX generator.
fn shuffle<T>(list: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..list.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        list.swap(last, (state >> 33) as usize % (last + 1));
    }
}
