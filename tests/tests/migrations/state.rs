//! What a database holds: the schema as its pragmas tell it, and all rows.
//!
//! The same queries are asked of SQLite and of a cluster; [`State::differences`] tells where the answers
//! differ. Which indexes and constraints SQLite made by itself, and in which order, counts as well.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Rows, Statement};
use flotilla_tests::differential::remote::outcome;
use flotilla_tests::differential::statement::literal;
use flotilla_tests::differential::{Local, Outcome};
use flotilla_tests::harness::Client;
use serde_json::{Value as Json, json};

/// What the schema holds.
const NAMES: &str = "SELECT name, CASE WHEN sql LIKE '%AUTOINCREMENT%' THEN 'counter' ELSE type END FROM sqlite_schema
    WHERE name NOT GLOB 'sqlite_*'";

/// Length of what CURRENT_TIMESTAMP gives.
const TIMESTAMP_CHARS: usize = "2024-01-01 00:00:00".len();

/// How many differences of one state, and lines of one difference, are told.
const MAX_TOLD: usize = 12;

/// How much of a line is told.
const TOLD_CHARS: usize = 300;

/// Answers to a query, by its text, as sorted lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct State(BTreeMap<String, Vec<String>>);

/// Something that answers queries.
#[allow(async_fn_in_trait)]
pub trait Database {
    /// The rows of each query.
    async fn rows(&mut self, queries: &[String]) -> Vec<Result<Rows, String>>;
}

fn told(outcome: Outcome) -> Result<Rows, String> {
    match outcome {
        Outcome::Rows(rows) => Ok(rows),
        Outcome::Failed { code, message } => Err(format!("{code}: {message}")),
        Outcome::Write(_) => Err("a write".into()),
    }
}

impl Database for Local {
    async fn rows(&mut self, queries: &[String]) -> Vec<Result<Rows, String>> {
        let run = |sql: &String| told(self.run(&Statement { sql: sql.clone(), params: Params::default() }));
        queries.iter().map(run).collect()
    }
}

impl Database for Client {
    async fn rows(&mut self, queries: &[String]) -> Vec<Result<Rows, String>> {
        let list: Vec<Json> = queries.iter().map(|sql| json!({ "query": sql })).collect();
        let answer = self.post("/sql", &json!({ "statements": list })).await.unwrap().json();
        match answer["results"].as_array() {
            Some(results) => results.iter().map(|result| told(outcome(result))).collect(),
            None => vec![told(outcome(&answer)); queries.len()],
        }
    }
}

impl State {
    /// Reads all tables, indexes, views and triggers but those named in `without`. With `sequences` the
    /// counters of AUTOINCREMENT belong to it.
    pub async fn read(database: &mut impl Database, without: &BTreeSet<String>, sequences: bool) -> Self {
        let names = named(database).await;
        let mut queries = vec![];
        for (name, kind) in names.iter().filter(|(name, _)| !without.contains(*name)) {
            let quoted = name.replace('"', "\"\"");
            let is_table = matches!(kind.as_str(), "table" | "counter");
            if is_table || kind == "view" {
                queries.push(format!("PRAGMA table_xinfo(\"{quoted}\")"));
                queries.push(format!("SELECT * FROM \"{quoted}\""));
            }
            if is_table {
                queries.push(format!("PRAGMA foreign_key_list(\"{quoted}\")"));
                queries.push(format!("PRAGMA index_list(\"{quoted}\")"));
            }
            if kind == "index" {
                queries.push(format!("PRAGMA index_xinfo(\"{quoted}\")"));
            }
            let text = name.replace('\'', "''");
            queries.push(format!("SELECT type, tbl_name, sql FROM sqlite_schema WHERE name = '{text}'"));
            if kind == "counter" && sequences {
                queries.push(format!("SELECT seq FROM main.sqlite_sequence WHERE name = '{text}'"));
            }
        }
        let today = today();
        let answers = database.rows(&queries).await;
        let lines = |answer: Result<Rows, String>| match answer {
            Err(error) => vec![error],
            Ok(rows) => {
                let mut lines: Vec<String> = rows.values.iter().map(|row| line(row, &today)).collect();
                lines.sort();
                lines
            }
        };
        Self(queries.into_iter().zip(answers.into_iter().map(lines)).collect())
    }

    /// Where this state is not the other one; empty if they are the same.
    pub fn differences(&self, found: &Self) -> Vec<String> {
        let queries: BTreeSet<&String> = self.0.keys().chain(found.0.keys()).collect();
        let differ = queries.into_iter().filter(|query| self.0.get(*query) != found.0.get(*query));
        let tell = |query: &String| {
            let side = |one: &Self, other: &Self| match one.0.get(query) {
                Some(lines) => only(lines, other.0.get(query)),
                None => "(not there)".into(),
            };
            format!("{query}\n  SQLite only:   {}\n  Flotilla only: {}", side(self, found), side(found, self))
        };
        differ.take(MAX_TOLD).map(tell).collect()
    }
}

/// The lines that the other side lacks, shortened.
fn only(lines: &[String], others: Option<&Vec<String>>) -> String {
    let others: BTreeSet<&String> = others.into_iter().flatten().collect();
    let lines = lines.iter().filter(|line| !others.contains(line)).take(MAX_TOLD);
    lines.map(|line| line.chars().take(TOLD_CHARS).collect::<String>()).collect::<Vec<_>>().join("\n    ")
}

/// The rows of a query that SQLite answers.
pub fn query(local: &Local, sql: &str) -> Rows {
    let outcome = local.run(&Statement { sql: sql.to_owned(), params: Params::default() });
    told(outcome).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// What the schema holds, with its kind; a table with AUTOINCREMENT is a `counter`.
pub async fn named(database: &mut impl Database) -> BTreeMap<String, String> {
    let rows = database.rows(&[NAMES.to_owned()]).await.remove(0).unwrap_or_else(|error| panic!("{NAMES}: {error}"));
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        other => panic!("a name is text, not {other:?}"),
    };
    rows.values.iter().map(|row| (text(&row[0]), text(&row[1]))).collect()
}

/// The dates that a default of CURRENT_TIMESTAMP may have given in this test.
fn today() -> Vec<String> {
    let rows = query(&Local::new(), "SELECT date('now') UNION ALL SELECT date('now', '-1 day')");
    rows.values.iter().map(|row| literal(&row[0]).trim_matches('\'').to_owned()).collect()
}

/// A row. A moment of today is only said to be one: the two databases did not run at the same time.
fn line(row: &[Value], today: &[String]) -> String {
    let show = |value: &Value| match value {
        Value::Text(text) if text.len() == TIMESTAMP_CHARS && today.iter().any(|day| text.starts_with(day)) => {
            "(now)".to_owned()
        }
        value => literal(value),
    };
    row.iter().map(show).collect::<Vec<_>>().join(" | ")
}
