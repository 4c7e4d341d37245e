//! Series of migrations: the files of a folder of `tests/migrations`, in the order of their names.
//!
//! `sharding.json` tells which tables are registered, and after which file. A file named `…_fails.sql` fails
//! in SQLite as well; one named `…_refused.sql` leaves rows without parents, which SQLite lets pass; one named
//! `…_shard_key.sql` changes a key's type, which is refused when it is a shard key, and ends the series then.
//! What stands before the transaction that is refused stays, as it would in SQLite.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use flotilla_tests::differential::Local;
use flotilla_tests::harness::binary::repository;
use flotilla_tests::harness::{Client, Dev};
use rusqlite::fallible_iterator::FallibleIterator;
use serde_json::Value as Json;

use super::scripts::Ends;
use super::state::{State, named};
use super::units::{Unit, units};

/// The folders.
pub const FRAMEWORKS: [&str; 5] = ["alembic", "django", "drizzle", "prisma", "rails"];

/// Ends the name of a file that changes the type of a shard key.
const SHARD_KEY: &str = "_shard_key.sql";

/// Tells why a transaction is refused that touches tables of several placements.
const APART: &str = "sharded in different ways";

/// Begins a transaction, as Django and Alembic write it.
const BEGIN: &str = "BEGIN;";

/// As Drizzle writes it.
const KEYS_OFF: &str = "PRAGMA foreign_keys=OFF;";

/// As Drizzle writes it.
const KEYS_ON: &str = "PRAGMA foreign_keys=ON;";

/// Lines that are shown of the beginning and of the end of what a command told.
const SHOWN_LINES: usize = 6;

/// One folder.
pub struct Series {
    name: &'static str,
    files: Vec<PathBuf>,
    sharding: Vec<Json>,
}

/// How files are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By `flotilla sql`, on tables that are registered, or not.
    Shell {
        /// Are they?
        sharded: bool,
    },
    /// By `POST /execute`, a transaction being one request.
    Http,
}

impl Way {
    fn is_sharded(self) -> bool {
        self == Self::Shell { sharded: true }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Shell { sharded: false } => "",
            Self::Shell { sharded: true } => ", sharded",
            Self::Http => ", over HTTP",
        }
    }
}

impl Series {
    /// Reads a folder.
    pub fn read(name: &'static str) -> Self {
        let folder = repository().join("tests/migrations").join(name);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending == "sql"));
        files.sort();
        assert!(files.len() > 3, "{name}: the migrations were not found");
        let sharding = std::fs::read_to_string(folder.join("sharding.json")).unwrap();
        Self { name, files, sharding: serde_json::from_str(&sharding).unwrap() }
    }

    /// Runs the files up to the first after which the cluster is not as SQLite is; what differs then.
    pub async fn run(&self, dev: &Dev, way: Way) -> Vec<String> {
        let client = &mut Client::new(&dev.address);
        let mut local = Local::new();
        local.setup("PRAGMA foreign_keys = ON");
        let without: BTreeSet<String> = named(client).await.into_keys().collect();
        for path in &self.files {
            let file = path.file_name().and_then(|name| name.to_str()).expect("names are text");
            let place = format!("{}/{file}{}", self.name, way.told());
            let mut wrong = self.step(dev, &mut local, path, file, &without, way).await;
            if wrong.is_empty() && way.is_sharded() {
                wrong = self.register(client, file).await;
            }
            if !wrong.is_empty() || way.is_sharded() && file.ends_with(SHARD_KEY) {
                return wrong.into_iter().map(|what| format!("{place}: {what}")).collect();
            }
        }
        vec![]
    }

    async fn step(
        &self,
        dev: &Dev,
        local: &mut Local,
        path: &Path,
        file: &str,
        without: &BTreeSet<String>,
        way: Way,
    ) -> Vec<String> {
        let mut text = std::fs::read_to_string(path).unwrap();
        if self.name == "drizzle" && way.is_sharded() && text.contains(KEYS_OFF) {
            // It turns them on again after the first of several tables; a sharded parent must not go like that.
            text = format!("{};\n{KEYS_ON}", text.replace(KEYS_ON, ""));
        }
        let ends = match file {
            _ if file.ends_with("_fails.sql") => Ends::Failed,
            _ if file.ends_with("_refused.sql") => Ends::Refused,
            _ if file.ends_with(SHARD_KEY) && way.is_sharded() => Ends::Refused,
            _ => Ends::Well,
        };
        let client = &mut Client::new(&dev.address);
        let mut parts = vec![];
        if ends == Ends::Well {
            parts = units(&run_each(local, &text).unwrap_or_else(|error| panic!("{file}: {error}")));
        } else if let Some((before, _)) = text.split_once(BEGIN).filter(|_| ends == Ends::Refused) {
            run_locally(local, before).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        let mut wrong = match way {
            Way::Shell { sharded: true } if ends == Ends::Well => in_parts(dev, &parts, without).await,
            Way::Shell { .. } => shell(dev, &text, ends),
            Way::Http => over_http(client, &parts).await,
        };
        // A counter of rows that other shards have is not the table's.
        let sequences = !way.is_sharded();
        let wanted = State::read(local, &BTreeSet::new(), sequences).await;
        let found = State::read(client, without, sequences).await;
        wrong.extend(wanted.differences(&found));
        wrong
    }

    /// Registers what comes after a file.
    async fn register(&self, client: &mut Client, file: &str) -> Vec<String> {
        let mut wrong = vec![];
        for body in self.sharding.iter().filter(|body| body["after"] == file) {
            let mut body = body.clone();
            body.as_object_mut().expect("an object").remove("after");
            let reply = client.post("/table/register", &body).await.unwrap();
            if !reply.status.is_success() {
                wrong.push(format!("{body}: {reply}"));
            }
        }
        wrong
    }
}

/// Runs units one by one. One that touches tables which are not sharded alike may be refused as long as nothing
/// has changed then; it goes table by table instead.
async fn in_parts(dev: &Dev, units: &[Unit], without: &BTreeSet<String>) -> Vec<String> {
    let client = &mut Client::new(&dev.address);
    for unit in units {
        let before = State::read(client, without, false).await;
        let output = dev.command(&["sql"], Some(&unit.script()));
        if output.status.success() {
            continue;
        }
        let why = shown(&output.stderr);
        if !unit.together || !why.contains(APART) {
            return vec![format!("{}: {why}", unit.script())];
        }
        let mut wrong = before.differences(&State::read(client, without, false).await);
        wrong.extend(unit.by_table().iter().flat_map(|unit| shell(dev, &unit.script(), Ends::Well)));
        if !wrong.is_empty() {
            return wrong;
        }
    }
    vec![]
}

/// Sends units; what failed.
async fn over_http(client: &mut Client, units: &[Unit]) -> Vec<String> {
    for unit in units {
        let reply = client.post("/execute", &unit.body()).await.unwrap();
        let json = reply.json();
        let mut errors = vec![&json["error"]];
        errors.extend(json["results"].as_array().into_iter().flatten().map(|result| &result["error"]));
        if errors.iter().any(|error| !error.is_null()) {
            return vec![format!("{}: {reply}", unit.body())];
        }
    }
    vec![]
}

/// Runs a script; what its exit status should not be.
pub fn shell(dev: &Dev, text: &str, ends: Ends) -> Vec<String> {
    let output = dev.command(&["sql"], Some(text));
    match (output.status.code(), ends) {
        (Some(0), Ends::Well) | (Some(1), Ends::Failed | Ends::Refused) => vec![],
        (code, _) => vec![format!("exit status {code:?}: {}", shown(&output.stderr))],
    }
}

/// The beginning and the end of what a command told.
pub fn shown(told: &[u8]) -> String {
    let text = String::from_utf8_lossy(told);
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= 2 * SHOWN_LINES {
        return lines.join("\n");
    }
    format!("{}\n…\n{}", lines[..SHOWN_LINES].join("\n"), lines[lines.len() - SHOWN_LINES..].join("\n"))
}

/// Runs a script as the `sqlite3` shell does with `-bail`; reads are read to their ends.
///
/// # Errors
/// SQLite's, when a statement fails.
pub fn run_locally(local: &mut Local, text: &str) -> Result<(), rusqlite::Error> {
    run_each(local, text).map(drop)
}

/// The same, and the statements of the script, one by one.
fn run_each(local: &mut Local, text: &str) -> Result<Vec<String>, rusqlite::Error> {
    let db = local.connection();
    let mut statements = vec![];
    let outcome = rusqlite::Batch::new(db, text).for_each(|mut statement| {
        statements.extend(statement.expanded_sql());
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {}
        Ok(())
    });
    // The shell's connection ends with the script.
    if !db.is_autocommit() {
        db.execute_batch("ROLLBACK")?;
    }
    db.execute_batch("PRAGMA foreign_keys = ON; PRAGMA defer_foreign_keys = OFF")?;
    outcome.map(|()| statements)
}
