//! Flotilla answers as one SQLite database does, or refuses by name: generated statements on clusters
//! of 1, 2, 3 and 7 shards.
//!
//! `FLOTILLA_DIFFERENTIAL_SEED=7` runs others, `FLOTILLA_DIFFERENTIAL_STATEMENTS=100000` runs more. Any
//! number, from the command line: `cargo run -p flotilla-tests --bin differential -- --seed 7`.

use std::collections::BTreeMap;

use flotilla_tests::differential::bugs::Bug;
use flotilla_tests::differential::query::read;
use flotilla_tests::differential::run::{MAX_TRIES, Seen, answers, run_on};
use flotilla_tests::differential::schema::Schema;
use flotilla_tests::differential::write::{fill, write};
use flotilla_tests::differential::{Case, Kind, Local, Options, Order, Outcome, Remote, Rule, run};
use flotilla_tests::sim::random::Rng;

/// Statements of the suite, each compared on every cluster.
const STATEMENTS: u64 = 5_600;

/// Seed of the suite.
const SEED: u64 = 1;

/// Of 1000 statements of a kind, how many may be refused on clusters of several shards. What SQLite
/// takes is refused less and less: these only go down.
const MAX_REFUSED_PERMILLE: &[(Kind, u64)] = &[
    (Kind::Point, 0),
    (Kind::Scan, 0),
    (Kind::Order, 0),
    (Kind::Limit, 0),
    (Kind::Distinct, 0),
    (Kind::Aggregate, 0),
    (Kind::Group, 0),
    (Kind::ColocatedJoin, 0),
    (Kind::Join, 0),
    (Kind::Subquery, 0),
    (Kind::Cte, 0),
    (Kind::Recursive, 0),
    (Kind::Compound, 0),
    (Kind::Values, 0),
    (Kind::Window, 0),
    (Kind::View, 0),
    (Kind::Alike, 0),
    (Kind::Naming, 0),
    (Kind::ExtremeSum, 0),
    (Kind::ExtremeLimit, 0),
    (Kind::Invalid, 0),
    (Kind::Insert, 300),
    (Kind::InsertSelect, 320),
    (Kind::Upsert, 280),
    (Kind::UpdatePoint, 120),
    (Kind::Update, 560),
    (Kind::UpdateKey, 460),
    (Kind::DeletePoint, 100),
    (Kind::Delete, 320),
    (Kind::HidingCte, 340),
    (Kind::UpdateFrom, 680),
    (Kind::OwnRows, 180),
];

/// Of 1000 generated statements, how many may have more than one right answer.
const MAX_AMBIGUOUS_PERMILLE: usize = 5;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// Generated reads and writes give the same on all clusters as on SQLite, and what is refused is within
/// its bounds.
#[test]
fn generated_statements_give_what_sqlite_gives() {
    let options = Options {
        seed: number("FLOTILLA_DIFFERENTIAL_SEED").unwrap_or(SEED),
        statements: number("FLOTILLA_DIFFERENTIAL_STATEMENTS").unwrap_or(STATEMENTS),
        shards: vec![1, 2, 3, 7],
        max_failures: 4,
        max_tries: MAX_TRIES,
        every: false,
    };
    let report = run(&options);
    println!("seed {}\n{report}", options.seed);
    assert!(report.failures.is_empty(), "seed {}: {} differences", options.seed, report.failures.len());
    for shards in &options.shards {
        let compared = report.compared(*shards);
        assert!(compared * 100 > options.statements * 95, "{compared} statements on {shards} shards");
    }
    assert!(report.ambiguous.len() * 1000 <= options.statements as usize * MAX_AMBIGUOUS_PERMILLE, "{report:#?}");
    for kind in Kind::ALL {
        let (_, bound) = MAX_REFUSED_PERMILLE.iter().find(|(of, _)| of == kind).expect("each kind has a bound");
        let refused = report.refused_permille(*kind);
        assert!(refused <= *bound, "{refused} of 1000 statements of the kind `{}` were refused", kind.name());
    }
    // One shard is one database. Only a reference table, which any shard may come to have, is not written
    // from what other tables hold.
    let of_one_shard = report.counts.iter().filter(|((_, shards), _)| *shards == 1);
    let codes: Vec<&String> = of_one_shard.flat_map(|(_, counts)| counts.refused.keys()).collect();
    assert!(codes.iter().all(|code| *code == "unroutable"), "{codes:?}");
}

/// Statements are worth comparing: all kinds come, SQLite takes nearly all, and most have rows or
/// change some.
#[test]
fn generated_statements_do_something() {
    let mut did: BTreeMap<Kind, (u32, u32, u32)> = BTreeMap::new();
    let mut bad = vec![];
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let schema = Schema::random(&mut rng, "1");
        let local = Local::new();
        schema.create().iter().for_each(|statement| local.setup(statement));
        for table in &schema.tables {
            for row in fill(&mut rng, &schema, table, 30) {
                local.run(&row.statement());
            }
        }
        let mut shadow = local.shadow(&schema);
        for n in 0..500 {
            if n % 4 == 0 {
                shadow = local.shadow(&schema);
            }
            let case = if n % 4 == 3 { write(&mut rng, &schema) } else { read(&mut rng, &schema) };
            let (all, taken, full) = did.entry(case.kind).or_default();
            *all += 1;
            let outcome = match case.kind.writes() {
                true => local.run(&case.statement()),
                false => match answers(&local, &shadow, &case) {
                    Ok((wanted, _)) => wanted,
                    Err(why) => {
                        bad.push(format!("{why}: {}", case.inline));
                        continue;
                    }
                },
            };
            match outcome {
                Outcome::Failed { message, .. } => {
                    let conflict = message.contains("constraint failed") || message.contains("cannot store");
                    let bound = case.kind == Kind::ExtremeLimit && message.contains("datatype mismatch");
                    let sum = case.kind == Kind::ExtremeSum && message.contains("integer overflow");
                    let name = case.kind == Kind::Naming && message.contains("ambiguous column name");
                    let expected = case.kind == Kind::Invalid || (case.kind.writes() && conflict);
                    let expected = expected || bound || sum || name;
                    if !expected {
                        bad.push(format!("{message}: {}", case.inline));
                    }
                }
                Outcome::Rows(rows) => {
                    *taken += 1;
                    *full += u32::from(!rows.values.is_empty());
                }
                Outcome::Write(result) => {
                    *taken += 1;
                    *full += u32::from(result.rows_affected > 0);
                }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Invalid) {
        let (all, taken, full) = did.get(kind).copied().unwrap_or_default();
        println!("{:<18}{all:>6}{taken:>6}{full:>6}", kind.name());
        assert!(all >= 30, "{kind:?} comes {all} times");
        assert!(taken * 2 > all && full * 4 > all, "{kind:?}: {taken} of {all} taken, {full} with rows");
    }
}

/// A statement whose rows or whose sequence SQLite leaves open is told apart from one with one answer.
#[test]
fn ambiguous_statements_are_noticed() {
    let columns = "(k INTEGER, a, b)";
    let (local, shadow) = (Local::new(), Local::new());
    local.setup(&format!("CREATE TABLE t {columns}; INSERT INTO t VALUES (1, 1, 3), (2, 1, 4), (3, 2, 5)"));
    shadow.setup(&format!("CREATE TABLE t {columns}; INSERT INTO t VALUES (3, 2, 5), (2, 1, 4), (1, 1, 3)"));
    let judge = |sql: &str, order| {
        let rule = Rule { order, ..Rule::default() };
        answers(&local, &shadow, &Case { rule, ..Case::plain(Kind::Scan, sql.to_owned()) }).is_ok()
    };
    assert!(judge("SELECT * FROM t", Order::Open));
    assert!(judge("SELECT * FROM t ORDER BY a, k", Order::Fixed));
    assert!(!judge("SELECT * FROM t ORDER BY a", Order::Fixed));
    assert!(!judge("SELECT * FROM t LIMIT 1", Order::Open));
    assert!(!judge("SELECT group_concat(k) FROM t", Order::Open));
    assert!(!judge("SELECT a, b FROM t GROUP BY a", Order::Open));
}

/// Each fault that can be put between a cluster and the comparison is noticed, and shown with a script.
#[test]
fn faults_on_purpose_are_noticed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut remote = Remote::start(2).await;
        for (bug, seed) in Bug::ALL.iter().zip(5..) {
            remote.bug = Some(*bug);
            let options =
                Options { seed, statements: 1120, shards: vec![2], max_failures: 1, max_tries: 10, every: false };
            let report = run_on(&mut remote, &options, &Seen::default()).await;
            let failure = report.failures.first().unwrap_or_else(|| panic!("{bug:?} is not noticed"));
            println!("{bug:?}: {}\n{}\n", failure.what, failure.script);
            assert!(failure.script.contains("CREATE TABLE"), "{bug:?}: {}", failure.script);
        }
    });
}
