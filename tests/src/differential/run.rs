//! A run: rounds of statements on one cluster and one SQLite database, several clusters at a time.
//!
//! What is generated depends on the seed and the round alone, so all clusters get the same statements;
//! each has a SQLite database of its own beside it, because what is refused depends on the number of
//! shards.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flotilla_shared::wire::Statement;

use super::compare::{Outcome, Verdict, compare};
use super::local::Local;
use super::query::read;
use super::remote::Remote;
use super::report::{Failure, Report};
use super::schema::Schema;
use super::shrink::{Finding, shrink, whole};
use super::statement::{Binding, Case, Kind, render};
use super::write::{fill, write};
use crate::sim::random::Rng;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where chance begins.
    pub seed: u64,
    /// Statements for each cluster, those that fill tables not counted.
    pub statements: u64,
    /// Numbers of shards: one cluster for each.
    pub shards: Vec<u32>,
    /// A run stops after so many differences of different sorts.
    pub max_failures: usize,
    /// Tries to cut one of them down: each makes tables anew, which takes a tenth of a second and more. With
    /// none it is shown as it was found.
    pub max_tries: u32,
    /// Every difference is shown, not one of each sort.
    pub every: bool,
}

/// Tries that bring most differences down to a few rows and words.
pub const MAX_TRIES: u32 = 160;

/// Sorts of differences that were found, on any cluster: each is cut down and shown once.
#[derive(Default)]
pub struct Seen(Mutex<BTreeSet<String>>);

impl Seen {
    fn sorts(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_new(&self, finding: &Finding, options: &Options) -> bool {
        let mut sorts = self.sorts();
        let sort = if options.every { format!("{} {}", sorts.len(), finding.sort()) } else { finding.sort() };
        sorts.len() < options.max_failures && sorts.insert(sort)
    }

    fn count(&self) -> usize {
        self.sorts().len()
    }
}

/// Statements of a round, with one schema.
const ROUND: u64 = 560;

/// Reads of one request.
const READS: u64 = 100;

/// Writes of one request.
const WRITES: u64 = 40;

/// Most rows of a table at first.
const MAX_ROWS: u64 = 36;

/// Starts the clusters and runs everything on all of them at the same time.
///
/// # Panics
/// When a cluster does not come up or does not answer.
pub fn run(options: &Options) -> Report {
    let seen = Seen::default();
    let one = |shards: u32| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { run_on(&mut Remote::start(shards).await, options, &seen).await })
    };
    let mut report = Report::default();
    std::thread::scope(|scope| {
        let tasks: Vec<_> = options.shards.iter().map(|shards| scope.spawn(|| one(*shards))).collect();
        for task in tasks {
            report.add(task.join().expect("a run ends"));
        }
    });
    report
}

/// Runs everything on one cluster.
pub async fn run_on(remote: &mut Remote, options: &Options, seen: &Seen) -> Report {
    let mut all = Report::default();
    for number in 0..options.statements.div_ceil(ROUND) {
        let mut round = Round::start(remote, options.seed, number).await;
        let length = ROUND.min(options.statements - number * ROUND);
        round.go(remote, length).await;
        all.add(std::mem::take(&mut round.report));
        // One of each sort is cut down and shown.
        for finding in round.findings {
            if seen.is_new(&finding, options) {
                let script = match options.max_tries {
                    0 => whole(&round.schema, remote.shards, &finding),
                    tries => shrink(remote, &round.schema, &finding, tries).await,
                };
                let failure = Failure {
                    script: format!("-- seed {} round {number}\n{script}", options.seed),
                    shards: remote.shards,
                    kind: finding.case.kind,
                    what: finding.what.clone(),
                };
                // A long run shows what it finds at once.
                eprintln!("{failure}");
                all.failures.push(failure);
            }
        }
        remote.remove(&round.schema).await;
        if seen.count() >= options.max_failures {
            break;
        }
    }
    all
}

/// A schema with rows, and what becomes of it.
struct Round {
    rng: Rng,
    schema: Schema,
    local: Local,
    report: Report,
    findings: Vec<Finding>,
}

impl Round {
    async fn start(remote: &mut Remote, seed: u64, number: u64) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let mut schema = Schema::random(&mut rng, &format!("{seed}_{number}"));
        remote.create(&mut schema).await;
        let local = Local::new();
        for statement in schema.create() {
            local.setup(&statement);
        }
        let mut round = Self { rng, schema, local, report: Report::default(), findings: vec![] };
        let mut rows = vec![];
        for table in &round.schema.tables {
            let count = if round.rng.percent(6) { 0 } else { round.rng.within(6, MAX_ROWS) };
            rows.extend(fill(&mut round.rng, &round.schema, table, count));
        }
        round.writes(remote, rows, false).await;
        round
    }

    async fn go(&mut self, remote: &mut Remote, length: u64) {
        let mut left = length;
        while left > 0 && !self.diverged() {
            let reads: Vec<Case> = (0..left.min(READS)).map(|_| read(&mut self.rng, &self.schema)).collect();
            left -= reads.len() as u64;
            self.reads(remote, reads).await;
            let writes: Vec<Case> = (0..left.min(WRITES)).map(|_| write(&mut self.rng, &self.schema)).collect();
            left -= writes.len() as u64;
            self.writes(remote, writes, true).await;
            if left == 0 || self.diverged() {
                return;
            }
            // Reads between writes see what those before them did.
            let mixed: Vec<Case> = (0..left.min(WRITES))
                .map(
                    |n| if n % 2 == 0 { write(&mut self.rng, &self.schema) } else { read(&mut self.rng, &self.schema) },
                )
                .collect();
            left -= mixed.len() as u64;
            self.writes(remote, mixed, true).await;
        }
    }

    /// After a write that did something else, all that follows would differ.
    fn diverged(&self) -> bool {
        self.findings.iter().any(|finding| finding.case.kind.writes() || finding.content)
    }

    fn count(&mut self, remote: &Remote, kind: Kind, verdict: &Verdict) {
        let counts = self.report.counts.entry((kind, remote.shards)).or_default();
        counts.total += 1;
        match verdict {
            Verdict::Same => counts.same += 1,
            Verdict::Refused(code) => *counts.refused.entry(code.clone()).or_default() += 1,
            Verdict::Different(_) => (),
        }
    }

    async fn reads(&mut self, remote: &mut Remote, cases: Vec<Case>) {
        let statements: Vec<Statement> = cases.iter().map(Case::statement).collect();
        let found = remote.run(&statements).await;
        for (case, found) in cases.into_iter().zip(found) {
            let verdict = self.judge(&case, &found);
            self.count(remote, case.kind, &verdict);
            if let Verdict::Different(what) = verdict {
                let rows = self.local.dump(&self.schema);
                self.findings.push(Finding { case, what, rows, content: false });
            }
        }
    }

    /// Compares a read. One that SQLite alone answers in two ways passes, and is noted.
    fn judge(&mut self, case: &Case, found: &Outcome) -> Verdict {
        let (wanted, all) = answer(&self.local, case);
        let verdict = compare(&wanted, found, &case.rule, all.as_ref());
        if let Verdict::Different(_) = verdict
            && let Err(why) = answers(&self.local, &self.local.shadow(&self.schema), case)
        {
            self.report.ambiguous.push(format!("{}: {why}: {}", case.kind.name(), case.inline));
            return Verdict::Same;
        }
        verdict
    }

    async fn writes(&mut self, remote: &mut Remote, cases: Vec<Case>, counted: bool) {
        let mut rows = self.local.dump(&self.schema);
        let statements: Vec<Statement> = cases.iter().map(Case::statement).collect();
        let found = remote.run(&statements).await;
        for (case, found) in cases.into_iter().zip(found) {
            let verdict = match case.kind.writes() {
                true => apply(&self.local, &case, &found),
                false => self.judge(&case, &found),
            };
            if counted {
                self.count(remote, case.kind, &verdict);
            }
            match verdict {
                Verdict::Same if !case.kind.writes() => (),
                Verdict::Same => rows.push(case),
                Verdict::Refused(_) => (),
                // The cluster has done all that follow; after a read SQLite can do them, too.
                Verdict::Different(what) if !case.kind.writes() => {
                    self.findings.push(Finding { case, what, rows: rows.clone(), content: false });
                }
                Verdict::Different(what) => {
                    self.findings.push(Finding { case, what, rows, content: false });
                    return;
                }
            }
        }
        if let Some((case, what)) = content(&self.local, remote, &self.schema).await {
            self.findings.push(Finding { case, what, rows, content: true });
        }
    }
}

/// SQLite's answer to a read, and the rows without LIMIT where the rule needs them.
fn answer(local: &Local, case: &Case) -> (Outcome, Option<Outcome>) {
    let all = case.rule.unlimited.as_ref().map(|sql| local.run(&Case::plain(case.kind, sql.clone()).statement()));
    (local.run(&case.statement()), all)
}

/// The same, if it is the only one.
///
/// # Errors
/// When the shadow gives another one: then the statement has more than one right answer.
pub fn answers(local: &Local, shadow: &Local, case: &Case) -> Result<(Outcome, Option<Outcome>), String> {
    let (wanted, all) = answer(local, case);
    match (&wanted, shadow.run(&case.statement())) {
        (Outcome::Failed { .. }, Outcome::Failed { .. }) => Ok((wanted, all)),
        (_, again) => match compare(&wanted, &again, &case.rule, all.as_ref()) {
            Verdict::Same => Ok((wanted, all)),
            Verdict::Refused(why) | Verdict::Different(why) => Err(why),
        },
    }
}

/// Does on SQLite what a cluster has done, unless it refused to.
pub fn apply(local: &Local, case: &Case, found: &Outcome) -> Verdict {
    // What it was refused by does not depend on what SQLite would say.
    let nothing = Outcome::Failed { code: String::new(), message: String::new() };
    match compare(&nothing, found, &case.rule, None) {
        refused @ Verdict::Refused(_) => refused,
        _ => compare(&local.run(&case.statement()), found, &case.rule, None),
    }
}

/// The first table whose content differs, as the statement that shows it.
pub async fn content(local: &Local, remote: &mut Remote, schema: &Schema) -> Option<(Case, String)> {
    let all = |name: &str| Case::plain(Kind::Scan, render(&format!("SELECT * FROM {name}"), &[], Binding::Inline).0);
    let cases: Vec<Case> = schema.tables.iter().map(|table| all(&table.name)).collect();
    let statements: Vec<Statement> = cases.iter().map(Case::statement).collect();
    let found = remote.run(&statements).await;
    cases.into_iter().zip(found).find_map(|(case, found)| {
        match compare(&local.run(&case.statement()), &found, &case.rule, None) {
            Verdict::Same => None,
            Verdict::Refused(code) => Some((case, format!("the content of a table cannot be read: {code}"))),
            Verdict::Different(what) => Some((case, what)),
        }
    })
}
