//! Scripts do on a cluster what they do in one SQLite database, or are refused and change nothing:
//! generated ones, with transactions, rebuilt tables and repeated schema texts, on 1 and 3 shards.
//!
//! `FLOTILLA_DIFFERENTIAL_SEED=7` runs others, `FLOTILLA_DIFFERENTIAL_SCRIPTS=1000` runs more.

use flotilla_tests::differential::scripts::{Script, ScriptOptions, Way, run_scripts};
use flotilla_tests::sim::random::Rng;

/// Scripts of the suite, on each cluster.
const SCRIPTS: u64 = 24;

/// Of 100 scripts, how many may be refused.
const MAX_REFUSED_PERCENT: u64 = 60;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

async fn scripts_on(shards: u32) {
    let seed = number("FLOTILLA_DIFFERENTIAL_SEED").unwrap_or(1);
    let scripts = number("FLOTILLA_DIFFERENTIAL_SCRIPTS").unwrap_or(SCRIPTS);
    let report = run_scripts(&ScriptOptions { seed, scripts, shards, max_failures: 4 }).await;
    println!("{report}");
    assert!(report.failures.is_empty(), "seed {seed}: {} differences", report.failures.len());
    assert!(
        report.refused * 100 <= scripts * MAX_REFUSED_PERCENT,
        "{} of {scripts} scripts are refused",
        report.refused
    );
}

/// On one shard.
#[tokio::test]
async fn scripts_on_one_shard() {
    scripts_on(1).await;
}

/// On three.
#[tokio::test]
async fn scripts_on_three_shards() {
    scripts_on(3).await;
}

/// All forms come: transactions that end in each way, rebuilt tables, the same schema text again.
#[test]
fn scripts_have_all_forms() {
    let script = |seed| Script::random(&mut Rng::new(seed), "s");
    let scripts: Vec<Script> = (0..200).map(script).collect();
    let has = |way: Way, word: &str| {
        let some = |script: &&Script| script.way == way && script.text().to_lowercase().contains(word);
        scripts.iter().filter(some).count()
    };
    for word in
        ["begin", "commit", "rollback", "savepoint", "rollback to", "foreign_keys=off", "rename to", "as select"]
    {
        assert!(has(Way::Shell, word) >= 5, "{word} comes {} times", has(Way::Shell, word));
    }
    for word in ["create table", "create view", "create unique index", "add column", "rename to", "as select"] {
        assert!(has(Way::Request, word) >= 3, "{word} comes {} times", has(Way::Request, word));
    }
}
