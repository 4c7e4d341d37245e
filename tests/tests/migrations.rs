//! Migrations that Django, Alembic, Prisma and Drizzle wrote (`tests/migrations`), and dumps of databases,
//! run by `flotilla sql` as the `sqlite3` shell would run them: after each script SQLite and the cluster hold
//! the same schema and the same rows.

#[path = "migrations/dumps.rs"]
mod dumps;
#[path = "migrations/scripts.rs"]
mod scripts;
#[path = "migrations/series.rs"]
mod series;
#[path = "migrations/state.rs"]
mod state;
#[path = "migrations/units.rs"]
mod units;

use std::collections::BTreeSet;

use flotilla_shared::value::Value;
use flotilla_tests::differential::Local;
use flotilla_tests::harness::{Client, Dev};

use self::dumps::{DATABASES, database, dump};
use self::scripts::{Ends, SCRIPTS};
use self::series::{FRAMEWORKS, Series, Way, run_locally, shell, shown};
use self::state::{Database as _, State, named};

/// Rows of the larger tables of the large dumps, which have some five times as many in all.
const ROWS_VARIABLE: &str = "FLOTILLA_DUMP_ROWS";

/// With [`LARGE_WIDTH`] some megabytes of text, which load in a few seconds.
const DEFAULT_ROWS: u64 = 500;

/// Bytes in each row of one table of a large dump.
const LARGE_WIDTH: u64 = 4000;

/// Rows and bytes of small dumps.
const SMALL: (u64, u64) = (40, 10);

/// Orders of the tables that are tried with small dumps.
const ORDERS: u64 = 3;

/// Shards of the cluster.
const SHARDS: u32 = 3;

async fn run_all(frameworks: &[&'static str], way: Way) {
    let dev = Dev::start(1, SHARDS).await;
    let mut wrong = vec![];
    for name in frameworks {
        let start = std::time::Instant::now();
        wrong.extend(Series::read(name).run(&dev, way).await);
        println!("{name}: {:?}", start.elapsed());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The frameworks' migrations, with rows inserted between them, on tables that nobody registered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_of_unsharded_tables() {
    run_all(&FRAMEWORKS, Way::Shell { sharded: false }).await;
}

/// The same, with every table registered that can be once it is there: by its key, beside its parent, or as a
/// reference table where others refer to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_of_sharded_tables() {
    run_all(&FRAMEWORKS, Way::Shell { sharded: true }).await;
}

/// A migration as one request. Rails is not among them: its temporary tables belong to a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_over_http() {
    run_all(&FRAMEWORKS[..4], Way::Http).await;
}

/// Runs a script on both sides; what differs then, or an exit status that is not right.
async fn same_as_sqlite(dev: &Dev, name: &str, script: &str, ends: Ends) -> Vec<String> {
    let client = &mut Client::new(&dev.address);
    let without: BTreeSet<String> = named(client).await.into_keys().collect();
    let mut local = Local::new();
    local.setup("PRAGMA foreign_keys = ON");
    assert_eq!(run_locally(&mut local, script).is_err(), ends == Ends::Failed, "{name}");
    let mut wrong = shell(dev, script, ends).iter().map(|what| format!("{name}: {what}")).collect::<Vec<_>>();
    let wanted = State::read(&mut local, &BTreeSet::new(), true).await;
    let found = State::read(client, &without, true).await;
    wrong.extend(wanted.differences(&found).iter().map(|what| format!("{name}: {what}")));
    wrong
}

/// Dumps load whole, whichever table comes first, with all that the schema can hold; one whose rows lack
/// their parents is refused and leaves nothing. Short scripts mean what they mean to `sqlite3`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_and_dumps() {
    let dev = Dev::start(1, SHARDS).await;
    let mut wrong = vec![];
    for (name, script, ends) in SCRIPTS {
        wrong.extend(same_as_sqlite(&dev, name, script, *ends).await);
    }
    wrong.extend(keep_going(&dev).await);
    for name in DATABASES {
        for order in 0..ORDERS {
            let text = dump(&database(name, &format!("d{order}_"), SMALL.0, SMALL.1), order);
            wrong.extend(same_as_sqlite(&dev, &format!("{name}, order {order}"), &text, Ends::Well).await);
        }
        wrong.extend(without_parents(&dev, name).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With `--keep-going` the statements after an error run; the exit status tells of it.
async fn keep_going(dev: &Dev) -> Vec<String> {
    let script = "CREATE TABLE kept (id INTEGER PRIMARY KEY); INSERT INTO kept VALUES (1);
        INSERT INTO kept VALUES (1); INSERT INTO kept VALUES (2);";
    let output = dev.command(&["sql", "--keep-going"], Some(script));
    let count = Client::new(&dev.address).rows(&["SELECT count(*) FROM kept".to_owned()]).await.remove(0);
    match (output.status.code(), count.map(|rows| rows.values)) {
        (Some(1), Ok(rows)) if rows == [[Value::Integer(2)]] => vec![],
        other => vec![format!("--keep-going: {other:?}: {}", shown(&output.stderr))],
    }
}

/// A dump that lacks a row that others refer to.
async fn without_parents(dev: &Dev, name: &str) -> Vec<String> {
    let source = database(name, "w_", SMALL.0, SMALL.1);
    source.setup("PRAGMA foreign_keys = OFF");
    source.setup(match name {
        "music" => "DELETE FROM w_album WHERE id = 2",
        _ => "UPDATE \"w_Offices\" SET \"Head\" = 77 WHERE \"City\" = 'Oslo'",
    });
    let client = &mut Client::new(&dev.address);
    let before = named(client).await;
    let output = dev.command(&["sql"], Some(&dump(&source, 5)));
    let mut wrong = vec![];
    if output.status.code() != Some(1) {
        wrong.push(format!("{name} without a parent: {:?}", output.status));
    }
    let mut after = named(client).await;
    after.retain(|name, _| !before.contains_key(name));
    if !after.is_empty() {
        wrong.push(format!("{name} without a parent left {:?}", after.keys()));
    }
    wrong
}

/// Dumps of some megabytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_dumps() {
    let rows = std::env::var(ROWS_VARIABLE).ok().map_or(DEFAULT_ROWS, |text| text.parse().expect(ROWS_VARIABLE));
    let dev = Dev::start(1, SHARDS).await;
    let mut wrong = vec![];
    for name in DATABASES {
        let text = dump(&database(name, "large_", rows, LARGE_WIDTH), 7);
        let start = std::time::Instant::now();
        wrong.extend(same_as_sqlite(&dev, name, &text, Ends::Well).await);
        println!("{name}: {} bytes: {:?}", text.len(), start.elapsed());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
