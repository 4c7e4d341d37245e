//! The simulation by seed, its own determinism, and the proof that its checks notice what they should.
//!
//! `FLOTILLA_SIM_SEEDS=5000` runs more seeds, `FLOTILLA_SIM_SEED=17` replays one. Any number, with all
//! events: `cargo run --release -p flotilla-tests --bin sim -- --seeds 5000`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_node::consensus::{CommittedLeaderId, Entry, LogId, Payload};
use flotilla_node::log::{GroupLog, SimDisk, Wal, WalOptions};
use flotilla_shared::ids::GroupId;
use flotilla_tests::sim::suite::run_all;
use flotilla_tests::sim::{Bug, Options, SimTypes, run};
use openraft::AsyncRuntime;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft_rt_sim::SimRuntime;

/// Seeds of the suite.
const SEEDS: u64 = 200;

/// As many seeds at a time: tests run on small machines.
const THREADS: usize = 2;

/// Seeds beyond those that found a bug once. Changes of the simulation make them other runs, so a bug
/// that they found has a test of its own, too.
const OTHER_SEEDS: [u64; 1] = [2009];

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
        None => (0..number("FLOTILLA_SIM_SEEDS").unwrap_or(SEEDS)).chain(OTHER_SEEDS).collect(),
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

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// A replica applied what a new leader had committed, and lost power before its own disk had replaced
/// what the old leader had left: the log's end is dropped at the next start. Seed 2009 found a replica
/// that could not start any more.
#[test]
fn a_log_that_the_applied_state_contradicts_is_put_right() {
    SimRuntime::with_seed(0).block_on(async {
        let (wal, _writer) = Wal::open(Arc::new(SimDisk::new()), WalOptions::default()).expect("an empty log opens");
        let mut log = GroupLog::<SimTypes>::new(wal, GroupId(1));
        let entries = (0..14).map(|index| Entry { log_id: log_id(1, index), payload: Payload::Blank });
        log.append(entries, IOFlushed::noop()).await.expect("appends");
        for (applied, last) in [
            (None, log_id(1, 13)),
            (Some(log_id(1, 12)), log_id(1, 13)),
            // Ahead of the log: the consensus library purges up to it by itself.
            (Some(log_id(2, 14)), log_id(1, 13)),
            (Some(log_id(2, 12)), log_id(1, 11)),
        ] {
            log.drop_contradicted(applied).await.expect("puts the log right");
            let state = log.get_log_state().await.expect("reads the log");
            assert_eq!(state.last_log_id, Some(last), "{applied:?}");
        }
    });
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
    /// A leader that lost entries, was restarted and went on leading in its term: openraft's default, and
    /// once the node's. One seed in eight broke a committed entry.
    notices_a_restored_leader = LeaderRestored;
    /// A restarted follower that votes before a lease that it may have granted is over.
    notices_votes_at_once = VotesAtOnce;
}
