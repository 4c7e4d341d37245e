//! The statements of a script in units that take effect together, for whom they go to one by one.
//!
//! What stands between BEGIN and COMMIT, or while foreign keys are off, is one unit; the statements that say so
//! do not belong to it. All else is a unit for itself.

use serde_json::{Value as Json, json};

/// What frameworks put before the name of a table that they rebuild.
const REBUILT: [&str; 4] = ["_alembic_tmp_", "__new_", "new__", "new_"];

/// Statements that take effect together.
#[derive(Debug, Default)]
pub struct Unit {
    /// In order.
    pub statements: Vec<String>,
    /// More than one, while foreign keys do not act.
    pub together: bool,
}

impl Unit {
    /// As a body of `POST /execute`.
    pub fn body(&self) -> Json {
        match self.together {
            true => json!({ "statements": self.statements, "transaction": true, "foreign_keys": "off" }),
            false => json!({ "statements": self.statements }),
        }
    }

    /// As a script.
    pub fn script(&self) -> String {
        let text: String =
            self.statements.iter().map(|sql| format!("{};\n", sql.trim_end().trim_end_matches(';'))).collect();
        match self.together {
            true => format!("PRAGMA foreign_keys=OFF;\nBEGIN;\n{text}COMMIT;\nPRAGMA foreign_keys=ON;\n"),
            false => text,
        }
    }

    /// The same by table: tables that are not sharded alike cannot change together.
    pub fn by_table(&self) -> Vec<Self> {
        let mut units: Vec<(String, Self)> = vec![];
        let mut temporary: Vec<String> = vec![];
        for statement in &self.statements {
            let words = words(statement);
            let mut table = table(&words);
            if words.get(1).is_some_and(|word| word == "temporary") {
                temporary.extend(table.clone());
            }
            if let Some(name) = table.as_mut().filter(|name| temporary.contains(name)) {
                // Rails puts one letter before the name.
                name.remove(0);
            }
            match units.last_mut() {
                Some((last, unit)) if table.as_ref().is_none_or(|table| table == last) => {
                    unit.statements.push(statement.clone());
                }
                _ => units
                    .push((table.unwrap_or_default(), Self { statements: vec![statement.clone()], together: false })),
            }
        }
        let rebuilds = |unit: &Self| unit.statements.iter().any(|sql| words(sql).join(" ").starts_with("drop table"));
        units.into_iter().map(|(_, unit)| Self { together: rebuilds(&unit), ..unit }).collect()
    }
}

/// The units of a script's statements.
pub fn units(statements: &[String]) -> Vec<Unit> {
    let mut units = vec![];
    let mut open = vec![];
    let (mut off, mut began) = (false, false);
    for statement in statements {
        let words = words(statement);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["pragma", "foreign_keys", value] => off = matches!(*value, "off" | "0"),
            ["pragma", ..] => (),
            ["begin", ..] => began = true,
            ["commit", ..] => began = false,
            _ if off || began => open.push(statement.clone()),
            _ => units.push(Unit { statements: vec![statement.clone()], together: false }),
        }
        if !off && !began && !open.is_empty() {
            units.push(Unit { statements: std::mem::take(&mut open), together: true });
        }
    }
    units
}

/// The words of a statement in small letters, without the comments before it and without quotes.
fn words(statement: &str) -> Vec<String> {
    let lines = statement.lines().skip_while(|line| line.trim().is_empty() || line.trim().starts_with("--"));
    let text = lines.collect::<Vec<_>>().join(" ").to_ascii_lowercase().replace(['=', ';', '(', ',', '"', '`'], " ");
    text.split_whitespace().map(str::to_owned).collect()
}

/// The table that a statement writes or changes, by the name that it has in the end.
fn table(words: &[String]) -> Option<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let name = match words.as_slice() {
        ["create", "temporary", "table", name, ..] => name,
        ["create", "index", _, "on", name, ..] | ["create", "unique", "index", _, "on", name, ..] => name,
        ["create" | "drop" | "alter", "table", name, ..] => name,
        // The index of any table.
        ["drop", "index", name, ..] => name,
        ["insert", "into", name, ..] | ["delete", "from", name, ..] | ["update", name, ..] => name,
        _ => return None,
    };
    let stripped = REBUILT.iter().find_map(|prefix| name.strip_prefix(prefix));
    Some(stripped.unwrap_or(name).to_owned())
}
