//! The differential suite while slots move all the time: what a cluster answers does not depend on where
//! its rows are, or on their being on their way.
//!
//! `FLOTILLA_DIFFERENTIAL_SEED=7` runs others, `FLOTILLA_DIFFERENTIAL_STATEMENTS=100000` runs more.

use flotilla_tests::differential::mover::Mover;
use flotilla_tests::differential::run::{MAX_TRIES, Seen, run_on};
use flotilla_tests::differential::{Options, Remote};
use flotilla_tests::harness::Dev;

/// Statements of the suite.
const STATEMENTS: u64 = 1680;

const SHARDS: u32 = 3;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// Generated reads and writes give what SQLite gives, while every table's slots go from shard to shard.
#[test]
fn slots_move_meanwhile() {
    let seed = number("FLOTILLA_DIFFERENTIAL_SEED").unwrap_or(2);
    let statements = number("FLOTILLA_DIFFERENTIAL_STATEMENTS").unwrap_or(STATEMENTS);
    let options =
        Options { seed, statements, shards: vec![SHARDS], max_failures: 4, max_tries: MAX_TRIES, every: false };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (report, mover) = runtime.block_on(async {
        let dev = Dev::start(1, SHARDS).await;
        let mut remote = Remote::at(&dev.address, SHARDS);
        let mut mover = Mover::new(&dev.address, seed);
        let seen = Seen::default();
        let report = tokio::select! {
            report = run_on(&mut remote, &options, &seen) => report,
            () = mover.run() => unreachable!("it goes on for ever"),
        };
        (report, mover)
    });
    println!("seed {seed}\n{report}{} slots and {} rows moved; jobs: {:?}", mover.slots, mover.rows, mover.jobs);
    assert!(report.failures.is_empty(), "seed {seed}: {} differences", report.failures.len());
    assert!(report.compared(SHARDS) * 100 > statements * 95, "few statements were compared");
    let expected = ["done", "cancelled", "failed: no_such_table"];
    assert!(mover.jobs.keys().all(|how| expected.contains(&how.as_str())), "{:?}", mover.jobs);
    assert!(mover.slots > 0 && mover.rows > 0, "nothing has moved");
}
