//! The simulation by seed, its own determinism, and the proof that its checks notice what they should.
//!
//! `FLOTILLA_SIM_SEEDS=5000` runs more seeds, `FLOTILLA_SIM_SEED=17` replays one. Any number, with all
//! events: `cargo run --release -p flotilla-tests --bin sim -- --seeds 5000`.

use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_tests::sim::suite::run_all;
use flotilla_tests::sim::{Bug, Options, run};

/// Seeds of the suite.
const SEEDS: u64 = 200;

/// As many seeds at a time: tests run on small machines.
const THREADS: usize = 2;

/// A bug that is not noticed within so many seeds is not noticed.
const BUG_SEEDS: u64 = 150;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// Partitions, crashes, power loss, slow and failing disks, page transfers: nothing is lost, nothing is
/// there twice, and replicas agree.
#[test]
fn seeds() {
    let seeds: Vec<u64> = match number("FLOTILLA_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FLOTILLA_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let (mut failed, mut answered, mut compared) = (Vec::new(), 0, 0);
    run_all(&seeds, THREADS, Options::new, |report| {
        answered += report.counts.acknowledged;
        compared += report.counts.compared;
        if !report.violations.is_empty() {
            println!("{report}\n");
            failed.push(report.seed);
        }
        failed.len() < 5
    });
    println!("{answered} writes were answered, {compared} content hashes were compared");
    assert!(failed.is_empty(), "failed: {}", failed.iter().map(|seed| format!("seed {seed} ")).collect::<String>());
    let runs = seeds.len() as u64;
    assert!(answered > 20 * runs && compared > 5 * runs, "the runs check too little");
}

/// One seed is one run: the same events at the same times, in whatever thread.
#[test]
fn same_seed_same_events() {
    for seed in 300..306 {
        let first = run(&Options::new(seed));
        let second = std::thread::spawn(move || run(&Options::new(seed))).join().expect("the run ends");
        assert_eq!(first.events, second.events, "seed {seed}");
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed}");
        assert_ne!(first.fingerprint, run(&Options::new(seed + 1)).fingerprint);
    }
}

/// Runs seeds with a bug until the checks say what they should say about it.
fn is_noticed(bug: Bug) {
    let noticed_at = AtomicU64::new(u64::MAX);
    let seeds: Vec<u64> = (0..BUG_SEEDS).collect();
    let mut others = Vec::new();
    run_all(
        &seeds,
        1,
        |seed| Options::with_bug(seed, bug),
        |report| {
            let says = |symptom: &&str| report.violations.iter().any(|violation| violation.contains(*symptom));
            if bug.symptoms().iter().any(says) {
                noticed_at.store(report.seed, Ordering::Relaxed);
                println!("{bug:?} is noticed with seed {}: {}", report.seed, report.violations[0]);
                return false;
            }
            others.extend(report.violations);
            true
        },
    );
    assert!(noticed_at.into_inner() < BUG_SEEDS, "{bug:?} is not noticed; what was found instead: {others:#?}");
}

macro_rules! seeded_bugs {
    ($($(#[$doc:meta])* $name:ident = $bug:ident;)*) => {
        $($(#[$doc])* #[test] fn $name() { is_noticed(Bug::$bug); })*

        /// Every bug that can be put in has a test.
        #[test]
        fn every_bug_has_a_test() {
            assert_eq!([$(Bug::$bug),*].as_slice(), Bug::ALL.as_slice());
        }
    };
}

seeded_bugs! {
    /// A disk under the log that calls data synced which is not.
    notices_a_lying_sync = LyingSync;
    /// A vote that a restart forgets.
    notices_a_vote_that_is_not_persisted = VoteNotPersisted;
    /// An append that counts before it is on the disk.
    notices_durable_too_early = DurableTooEarly;
    /// A follower that acknowledges what it has not got.
    notices_an_ack_before_append = AckBeforeAppend;
    /// Retries that are applied again.
    notices_missing_dedupe = NoDedupe;
    /// Retries that are applied again after a page transfer.
    notices_a_snapshot_without_requests = SnapshotWithoutRequests;
    /// A page transfer that changes a value.
    notices_a_damaged_page = DamagedPage;
    /// `random()` that is not the entry's.
    notices_own_randomness = OwnRandomness;
    /// A clock that is not the entry's.
    notices_own_clock = OwnClock;
    /// Compaction that purges entries whose effects a power loss takes away.
    notices_a_purge_before_durable = PurgeBeforeDurable;
    /// Reads at whoever believes to lead.
    notices_a_read_without_confirmation = ReadWithoutConfirmation;
    /// An answer to a write that is not committed.
    notices_an_ack_before_commit = AckBeforeCommit;
    /// A follower that leaves out writes.
    notices_skipped_writes = SkipsWrites;
    /// A leader that lost entries, was restarted and went on leading in its term. The node's
    /// configuration did that once; seeds 22 and 24 of the suite found it.
    notices_a_restored_leader = LeaderRestored;
    /// A leader's clock that jumps by twenty minutes makes the group forget request ids too early: a
    /// known limit of remembering them by time, which the checks see.
    notices_a_clock_jump_beyond_the_window = ClockBeyondWindow;
}
