//! Random writes from a fixed seed, on three shards and on one SQLite: the same results and the same
//! tables afterwards, or a refusal by name that changes nothing.

use serde_json::json;

use super::writes::Pair;

/// Statements of one run.
const ROUNDS: usize = 300;

/// Refusals that are right for some of the statements.
const REFUSALS: &[&str] = &["shard_key_update", "cross_shard_write"];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn one_of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    /// A condition on a row of `users`.
    fn condition(&mut self) -> String {
        let (a, b) = (self.below(12), self.below(40));
        match self.below(10) {
            0 => format!("n % 3 = {}", a % 3),
            1 => format!("id = {b}"),
            2 => format!("id IN ({a}, {b}, {})", a + b),
            3 => "id IN (SELECT id FROM notes)".to_owned(),
            4 => format!("n < (SELECT avg(n) FROM users WHERE id > {a})"),
            5 => "EXISTS (SELECT 1 FROM kv WHERE k = users.name)".to_owned(),
            6 => format!("name = '{}'", self.one_of(&["a", "B", "c", "dd"])),
            7 => format!("id = {b} AND n >= {a}"),
            8 => format!("(SELECT count(*) FROM notes WHERE notes.id <= users.id) > {}", a % 5),
            _ => format!("id BETWEEN {a} AND {b}"),
        }
    }

    fn statement(&mut self, round: usize) -> String {
        let (a, b) = (self.below(12), self.below(40));
        let letter = self.one_of(&["a", "B", "c", "dd", "E"]);
        let condition = self.condition();
        let or = self.one_of(&["OR IGNORE", "OR REPLACE"]);
        match self.below(16) {
            0 => format!("INSERT {or} INTO users VALUES ({b}, '{letter}', {a}), ({b} + 1, lower('{letter}'), NULL)"),
            1 => format!("INSERT {or} INTO users SELECT id + {a}, name || '{letter}', n FROM users WHERE {condition}"),
            2 => format!("INSERT {or} INTO users (name, id) SELECT body, id + {a} FROM notes RETURNING id, name, n"),
            3 => format!("INSERT {or} INTO notes SELECT id, name FROM users WHERE {condition} RETURNING *"),
            4 => "INSERT INTO kv SELECT lower(name), max(n) FROM users WHERE name IS NOT NULL GROUP BY lower(name) \
                  ON CONFLICT (k) DO UPDATE SET v = coalesce(excluded.v, 0) + 1 RETURNING *"
                .to_owned(),
            5 => format!("INSERT {or} INTO kv VALUES (upper('{letter}' || {a}), {b}), ('{letter}', abs(-{a}))"),
            6 => format!("UPDATE users SET n = n + {a}, name = upper(name) WHERE {condition} RETURNING id, name, n"),
            7 => format!("UPDATE users SET n = (SELECT count(*) FROM notes WHERE id < users.id) WHERE {condition}"),
            8 => "UPDATE users SET n = kv.v FROM kv WHERE kv.k = users.name RETURNING id, n".to_owned(),
            9 => format!(
                "UPDATE notes SET body = (SELECT max(name) FROM users WHERE {condition}) WHERE id % 4 = {}",
                a % 4
            ),
            10 => format!("UPDATE users SET id = id + {} WHERE {condition} RETURNING id", 1000 * (round + 1)),
            11 => format!("UPDATE kv SET k = k || '{letter}{round}', v = v + 1 WHERE v % 3 = {} RETURNING *", a % 3),
            12 => format!("DELETE FROM users WHERE {condition} AND id % 5 = {} RETURNING id", a % 5),
            13 => format!("DELETE FROM notes WHERE id NOT IN (SELECT id FROM users WHERE {condition})"),
            14 => {
                format!("DELETE FROM kv WHERE length(k) > {} AND k IN (SELECT lower(k) FROM kv WHERE v > {a})", a % 6)
            }
            _ => format!(
                "WITH w (i, t) AS (SELECT id % 40, max(name) FROM users WHERE {condition} GROUP BY 1) \
                 INSERT {or} INTO users (id, name, n) SELECT i, t, {a} FROM w"
            ),
        }
    }
}

/// Random writes give what one SQLite gives.
#[tokio::test]
async fn random_writes() {
    let p = Pair::new(
        &[
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, n INT DEFAULT 7)",
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)",
            "CREATE TABLE kv (k TEXT PRIMARY KEY COLLATE NOCASE, v)",
        ],
        &[("users", json!("id")), ("kv", json!("k"))],
    )
    .await;
    let mut random = Random(11);
    let (mut same, mut refused, mut failed, mut changed) = (0, 0, 0, 0);
    for round in 0..ROUNDS {
        let sql = random.statement(round);
        p.one.execute_batch("SAVEPOINT s").unwrap();
        let wanted = p.on_one(&sql);
        let Ok(wanted) = wanted else {
            // Parts of it may succeed on some shards; that is what allow_partial is about.
            p.one.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
            failed += 1;
            continue;
        };
        match p.on_cluster("/sql?allow_partial=true", &sql).await {
            Ok(got) => {
                assert_eq!(got, wanted, "round {round}: {sql}");
                p.one.execute_batch("RELEASE s").unwrap();
                same += 1;
                changed += usize::from(wanted.1 > 0);
            }
            Err(code) => {
                assert!(REFUSALS.contains(&code.as_str()), "round {round}: {sql}: {code}");
                p.one.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
                refused += 1;
            }
        }
        for table in ["users", "notes", "kv"] {
            p.same(table).await;
        }
    }
    assert!(
        same > ROUNDS * 4 / 5 && changed > ROUNDS / 3,
        "{same} the same, {refused} refused, {failed} failed, {changed} changed"
    );
}
