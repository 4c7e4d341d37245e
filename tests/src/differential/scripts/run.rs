//! Runs scripts on a cluster and on SQLite, and compares what is there afterwards.

use std::collections::BTreeMap;
use std::fmt;

use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Statement;

use super::text::{Script, Way};
use crate::differential::compare::REFUSALS;
use crate::differential::{Local, Outcome, Remote};
use crate::harness::Dev;
use crate::sim::random::Rng;

/// What to run.
#[derive(Clone, Debug)]
pub struct ScriptOptions {
    /// Where chance begins.
    pub seed: u64,
    /// How many scripts.
    pub scripts: u64,
    /// Shards of the cluster.
    pub shards: u32,
    /// It stops after so many differences.
    pub max_failures: usize,
}

/// What it came to.
#[derive(Clone, Debug, Default)]
pub struct ScriptReport {
    /// Scripts that did what they do in SQLite.
    pub same: u64,
    /// Scripts that were refused.
    pub refused: u64,
    /// Differences, each as a script that shows it.
    pub failures: Vec<String>,
}

impl fmt::Display for ScriptReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failures.iter().try_for_each(|failure| writeln!(f, "{failure}"))?;
        write!(f, "{} scripts as in SQLite, {} refused, {} differences", self.same, self.refused, self.failures.len())
    }
}

/// Tables, views and indexes by name, with their rows.
type Content = BTreeMap<String, Vec<Vec<Value>>>;

/// Tries to cut a difference down.
const MAX_TRIES: u32 = 40;

/// Statements that give up something that others refer to need that others go first.
const DROP_ROUNDS: usize = 3;

enum End {
    Same,
    Refused,
    Different(String),
}

/// Runs scripts on a cluster of their own.
///
/// # Panics
/// When the cluster does not come up or does not answer.
pub async fn run_scripts(options: &ScriptOptions) -> ScriptReport {
    let dev = Dev::start(1, options.shards).await;
    let mut bench = Bench { remote: Remote::at(&dev.address, options.shards), dev };
    let mut report = ScriptReport::default();
    for number in 0..options.scripts {
        let mut rng = Rng::new(options.seed.wrapping_mul(1_000_003).wrapping_add(number));
        let script = Script::random(&mut rng, &format!("s{}_{number}", options.seed));
        match bench.compare(&script).await {
            End::Same => report.same += 1,
            End::Refused => report.refused += 1,
            End::Different(what) => {
                let (script, what) = bench.shrink(script, what).await;
                let failure = format!(
                    "--- {} shards, seed {} script {number}, {:?}: {what}\n{};\n-- sharded: {:?}\n{}",
                    options.shards,
                    options.seed,
                    script.way,
                    script.setup.join(";\n"),
                    script.sharded,
                    script.text()
                );
                eprintln!("{failure}");
                report.failures.push(failure);
                if report.failures.len() >= options.max_failures {
                    break;
                }
            }
        }
    }
    report
}

struct Bench {
    dev: Dev,
    remote: Remote,
}

/// What SQLite comes to: whether it failed, and what was there after each statement that stands for itself.
struct Expected {
    failed: Option<String>,
    states: Vec<Content>,
}

impl Bench {
    async fn compare(&mut self, script: &Script) -> End {
        for statement in &script.setup {
            self.remote.setup(statement).await;
        }
        for table in &script.sharded {
            self.remote.shard_by_id(table).await;
        }
        let end = match script.way {
            Way::Shell => self.shell(script).await,
            Way::Request => self.request(script).await,
        };
        self.remove(script).await;
        end
    }

    async fn shell(&mut self, script: &Script) -> End {
        let expected = expect(script);
        let output = self.dev.command(&["sql"], Some(&script.text()));
        let failed = !output.status.success();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = self.content(&script.tag).await;
        let last = expected.states.last().expect("there is a state at first");
        match (&expected.failed, failed) {
            (None, false) if found == *last => End::Same,
            (Some(_), true) if found == *last => End::Same,
            // It stops where it is refused, and what is done is what stands before that.
            (_, true) if expected.states.contains(&found) => End::Refused,
            (wanted, _) => End::Different(format!(
                "SQLite: {}; exit status {:?}, {}; {}",
                wanted.as_deref().unwrap_or("no error"),
                output.status.code(),
                said.trim(),
                difference(last, &found)
            )),
        }
    }

    async fn request(&mut self, script: &Script) -> End {
        let local = prepare(script);
        let plain = |sql: &String| Statement { sql: sql.clone(), params: Params::default() };
        let statements: Vec<Statement> = script.statements.iter().map(plain).collect();
        let mut refused = false;
        for (statement, found) in statements.iter().zip(self.remote.run(&statements).await) {
            match &found {
                Outcome::Failed { code, .. } if REFUSALS.contains(&code.as_str()) => refused = true,
                Outcome::Failed { code, message } => {
                    if !matches!(local.run(statement), Outcome::Failed { .. }) {
                        return End::Different(format!("{}: {code}: {message}", statement.sql));
                    }
                }
                _ => {
                    if let Outcome::Failed { message, .. } = local.run(statement) {
                        return End::Different(format!("{}: SQLite fails: {message}", statement.sql));
                    }
                }
            }
        }
        let (wanted, found) = (content_of(&local, &script.tag), self.content(&script.tag).await);
        match (wanted == found, refused) {
            (true, false) => End::Same,
            (true, true) => End::Refused,
            (false, _) => End::Different(difference(&wanted, &found)),
        }
    }

    async fn content(&mut self, tag: &str) -> Content {
        let names = self.remote.run(&[names_of(tag)]).await.remove(0);
        let names = names_in(&names);
        let statements: Vec<Statement> = names.iter().filter_map(rows_of).collect();
        let outcomes = match statements.is_empty() {
            true => vec![],
            false => self.remote.run(&statements).await,
        };
        content(&names, outcomes)
    }

    async fn remove(&mut self, script: &Script) {
        for _ in 0..DROP_ROUNDS {
            let names = self.remote.run(&[names_of(&script.tag)]).await.remove(0);
            let drop = |(kind, name): &(String, String)| match kind.as_str() {
                "index" => None,
                kind => Some(Statement { sql: format!("DROP {kind} {name}"), params: Params::default() }),
            };
            let statements: Vec<Statement> = names_in(&names).iter().filter_map(drop).collect();
            if statements.is_empty() {
                return;
            }
            self.remote.run(&statements).await;
        }
    }

    /// Leaves out statements as long as something differs.
    async fn shrink(&mut self, mut script: Script, mut what: String) -> (Script, String) {
        let (mut at, mut tries) = (0, 0);
        while at < script.statements.len() && tries < MAX_TRIES {
            let mut shorter = script.clone();
            shorter.statements.remove(at);
            tries += 1;
            match self.compare(&shorter).await {
                End::Different(again) => (script, what) = (shorter, again),
                _ => at += 1,
            }
        }
        (script, what)
    }
}

fn prepare(script: &Script) -> Local {
    let local = Local::new();
    local.setup("PRAGMA foreign_keys = ON");
    script.setup.iter().for_each(|statement| local.setup(statement));
    local
}

/// What SQLite does with a script that ends at its first error.
fn expect(script: &Script) -> Expected {
    let mut local = prepare(script);
    let mut states = vec![content_of(&local, &script.tag)];
    let mut failed = None;
    for statement in &script.statements {
        let outcome = local.run(&Statement { sql: statement.clone(), params: Params::default() });
        if let Outcome::Failed { message, .. } = outcome {
            failed = Some(format!("{statement}: {message}"));
            break;
        }
        if local.connection().is_autocommit() {
            states.push(content_of(&local, &script.tag));
        }
    }
    if !local.connection().is_autocommit() {
        local.setup("ROLLBACK");
        states.push(content_of(&local, &script.tag));
    }
    Expected { failed, states }
}

fn names_of(tag: &str) -> Statement {
    let sql = format!("SELECT type, name FROM sqlite_master WHERE name GLOB '*{tag}' ORDER BY type, name");
    Statement { sql, params: Params::default() }
}

fn names_in(outcome: &Outcome) -> Vec<(String, String)> {
    let Outcome::Rows(rows) = outcome else { panic!("the schema cannot be read: {outcome:?}") };
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        other => panic!("{other:?} is no name"),
    };
    rows.values.iter().map(|row| (text(&row[0]), text(&row[1]))).collect()
}

fn rows_of((kind, name): &(String, String)) -> Option<Statement> {
    let sql = format!("SELECT * FROM {name}");
    (kind != "index").then(|| Statement { sql, params: Params::default() })
}

fn content(names: &[(String, String)], outcomes: Vec<Outcome>) -> Content {
    let mut outcomes = outcomes.into_iter();
    let one = |(kind, name): &(String, String)| {
        let rows = match (kind.as_str(), if kind == "index" { None } else { outcomes.next() }) {
            ("index", _) => vec![],
            (_, Some(Outcome::Rows(rows))) => {
                let mut rows = rows.values;
                rows.sort_by_key(|row| format!("{row:?}"));
                rows
            }
            // Such as a view of a table that is gone.
            _ => vec![vec![Value::Text("cannot be read".into())]],
        };
        (format!("{kind} {name}"), rows)
    };
    names.iter().map(one).collect()
}

fn content_of(local: &Local, tag: &str) -> Content {
    let names = names_in(&local.run(&names_of(tag)));
    let outcomes = names.iter().filter_map(rows_of).map(|statement| local.run(&statement)).collect();
    content(&names, outcomes)
}

fn difference(wanted: &Content, found: &Content) -> String {
    for (name, rows) in wanted {
        match found.get(name) {
            None => return format!("there is no {name}"),
            Some(other) if other != rows => return format!("{name} is {other:?} instead of {rows:?}"),
            Some(_) => (),
        }
    }
    let more: Vec<&String> = found.keys().filter(|name| !wanted.contains_key(*name)).collect();
    if more.is_empty() { "the content is the same".to_owned() } else { format!("there is {more:?}") }
}
