//! Replicas agree: the same entries, however they are cut into batches, with restarts in between and
//! through snapshots, give equal content and equal answers.

use super::*;

const SCHEMA: &[&str] = &[
    "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT UNIQUE COLLATE NOCASE, n REAL, at DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE w (a, b, c DEFAULT (random()), PRIMARY KEY (a, b)) WITHOUT ROWID",
    "CREATE TABLE seq (id INTEGER PRIMARY KEY AUTOINCREMENT, v, g AS (v || id), s AS (id * 2) STORED)",
    "CREATE TABLE child (p REFERENCES t (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE audit (what, r DEFAULT (hex(randomblob(4))), n)",
    "CREATE INDEX audit_what ON audit (what, n DESC) WHERE n IS NOT NULL",
    "CREATE TRIGGER t_insert AFTER INSERT ON t BEGIN INSERT INTO audit (what, n) VALUES ('i', changes()); END",
    "CREATE TRIGGER t_delete AFTER DELETE ON t BEGIN INSERT INTO audit (what, n) VALUES (old.k, total_changes()); END",
    "CREATE VIEW both AS SELECT k, n FROM t UNION ALL SELECT a, b FROM w",
];

const STATEMENTS: &[&str] = &[
    "INSERT INTO t (k, n) VALUES (char(65 + abs(random()) % 40), random())",
    "INSERT INTO t (k) VALUES (hex(randomblob(1))), (hex(randomblob(1)))",
    "INSERT OR IGNORE INTO t (k) SELECT what FROM audit ORDER BY random() LIMIT 3",
    "INSERT OR REPLACE INTO t (k, n) VALUES ('Ä', julianday('now')), ('b', unixepoch())",
    "INSERT OR ROLLBACK INTO t (k) VALUES (char(65 + abs(random()) % 8))",
    "INSERT OR FAIL INTO t (k) VALUES (hex(randomblob(2))), ('b'), ('c')",
    "INSERT INTO t (k) VALUES ('c') ON CONFLICT (k) DO UPDATE SET n = coalesce(n, 0) + 1 RETURNING id, n",
    "UPDATE t SET n = random() % 100 WHERE id % 3 = abs(random()) % 3 RETURNING *",
    "UPDATE t SET id = id + 1000 WHERE id = (SELECT max(id) FROM t)",
    "UPDATE t SET id = 9223372036854775807 WHERE k = 'c'",
    "DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY random() LIMIT 2)",
    "DELETE FROM t WHERE k < 'D'",
    "INSERT INTO w (a, b) VALUES (abs(random()) % 20, abs(random()) % 5)",
    "INSERT INTO w SELECT id, k, n FROM t WHERE true ON CONFLICT DO NOTHING",
    "DELETE FROM w",
    "INSERT INTO seq (v) SELECT what FROM audit LIMIT 2",
    "DELETE FROM seq WHERE id = (SELECT max(id) FROM seq)",
    "INSERT INTO child VALUES (abs(random()) % 30)",
    "INSERT INTO child SELECT id FROM t LIMIT 1",
    "DELETE FROM audit WHERE rowid % 2 = 0",
    "INSERT INTO audit (what, n) SELECT k, sum(n) OVER (ORDER BY k) FROM both",
    "INSERT INTO nope VALUES (1)",
    "SELECT count(*), last_insert_rowid(), changes() FROM both",
    "INSERT INTO audit (what) VALUES (printf('%s', CURRENT_TIMESTAMP)) RETURNING *",
];

/// Ends at the step limit, which takes its time.
const ENDLESS: &str =
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) INSERT INTO audit (n) SELECT x FROM c";

/// Schema steps; the number of the job names the objects.
const STEPS: &[&str] = &[
    "CREATE TABLE extra# (v DEFAULT (random()))",
    "CREATE TABLE copy# AS SELECT * FROM both",
    "CREATE INDEX i# ON t (n, k)",
    "DROP INDEX audit_what",
    "ALTER TABLE audit ADD COLUMN c# DEFAULT 5",
    "CREATE TABLE t (v)",
    "DROP TABLE extra1",
];

struct Generator {
    random: Random,
    log: Log,
    sent: Vec<Write>,
    job: u64,
}

impl Generator {
    fn statements(&mut self) -> Vec<Statement> {
        let count = if self.random.below(3) == 0 { 1 + self.random.below(3) } else { 1 };
        let sql = |random: &mut Random| if random.below(400) == 0 { ENDLESS } else { random.pick(STATEMENTS) };
        (0..count).map(|_| Statement::bare(sql(&mut self.random))).collect()
    }

    fn writes(&mut self) -> Body {
        let mut writes = vec![];
        for _ in 0..self.random.below(6) {
            if !self.sent.is_empty() && self.random.below(8) == 0 {
                writes.push(self.sent[self.random.below(self.sent.len())].clone());
                continue;
            }
            let statements = self.statements();
            let mut write = self.log.write_of(statements);
            if self.random.below(6) == 0 {
                let claim = Claim { placement: PlacementId(1), epoch: Epoch(2), slots: Some(SlotSet::all(4)) };
                let schema = SchemaVersion(self.job.saturating_sub(self.random.below(2) as u64));
                write.route = Some(Route { schema, claims: vec![claim] });
            }
            self.sent.push(write.clone());
            writes.push(write);
        }
        Body::Writes(writes)
    }

    fn entry(&mut self) -> Entry {
        let body = match self.random.below(12) {
            0 => {
                self.job += 1;
                let sql = vec![self.random.pick(STEPS).replace('#', &self.job.to_string())];
                let (job, version) = (JobId(self.job), SchemaVersion(self.job));
                Body::Shard(ShardCommand::Schema { job, version, sql, dry_run: self.random.below(4) == 0 })
            }
            1 => {
                let (epoch, slots) =
                    (Epoch(self.random.below(5) as u64), SlotSet::all(1 + self.random.below(8) as u16));
                Body::Shard(ShardCommand::Own { placement: PlacementId(1), epoch, slots })
            }
            _ => self.writes(),
        };
        // Now and then a clock goes back, or far enough ahead that requests are forgotten.
        match self.random.below(12) {
            0 => self.log.at_us -= 5_000_000,
            1 => self.log.at_us += 400_000_000,
            _ => (),
        }
        self.log.entry(body)
    }
}

/// Applies all entries in batches of random length, with restarts and takeovers by a fresh replica.
fn run(random: &mut Random, mut replica: Replica, entries: &[Entry], disturb: bool) -> (Vec<Outcome>, Replica) {
    let (mut outcomes, mut rest) = (vec![], entries);
    while !rest.is_empty() {
        let (batch, after) = rest.split_at((1 + random.below(7)).min(rest.len()));
        outcomes.extend(replica.apply(batch));
        rest = after;
        match random.below(8) {
            0 if disturb => replica.reopen(),
            1 if disturb => {
                let next = Replica::new();
                next.take_snapshot_of(&replica);
                replica = next;
                replica.handle().lock().guard.set_max_steps(1_000_000);
            }
            2 if disturb => drop(replica.handle().store().make_durable().unwrap()),
            _ => (),
        }
        replica.handle().lock().guard.set_max_steps(1_000_000);
    }
    (outcomes, replica)
}

/// Three replicas with different borders, restarts and snapshots on some hundreds of sequences.
#[test]
fn replicas_agree() {
    let first_seed = std::env::var("FLOTILLA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first_seed..first_seed + 150 {
        println!("FLOTILLA_SEED={seed}");
        let mut generator = Generator { random: Random(seed), log: Log::new(), sent: vec![], job: 0 };
        let mut entries = vec![generator.log.schema(0, SCHEMA)];
        entries.extend((0..30).map(|_| generator.entry()));
        let fresh = || {
            let replica = Replica::new();
            replica.handle().lock().guard.set_max_steps(1_000_000);
            replica
        };
        let mut random = Random(seed ^ 0xABCD);
        let one = fresh();
        let expected: Vec<Outcome> = entries.iter().flat_map(|entry| one.apply(std::slice::from_ref(entry))).collect();
        let hash = one.hash();
        for disturb in [false, true] {
            let (outcomes, replica) = run(&mut random, fresh(), &entries, disturb);
            for (index, (outcome, expected)) in outcomes.iter().zip(&expected).enumerate() {
                assert_eq!(outcome, expected, "seed {seed}, entry {:?}", entries[index]);
            }
            assert_eq!(replica.hash(), hash, "seed {seed}, disturbed: {disturb}");
        }
    }
}
