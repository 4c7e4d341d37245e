//! Transactions that change the schema, and batches that stop at an error.

use hyper::Method;
use serde_json::{Value as Json, json};

use super::Bench;

const REBUILD: [&str; 5] = [
    "PRAGMA foreign_keys=OFF",
    "CREATE TABLE `__new_users` (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x', email TEXT)",
    "INSERT INTO `__new_users`(\"id\", \"name\", \"email\") SELECT \"id\", \"name\", \"email\" FROM `users`",
    "DROP TABLE `users`",
    "ALTER TABLE `__new_users` RENAME TO `users`",
];

impl Bench {
    async fn unit(&self, statements: &[&str], more: Json) -> (u16, Json) {
        let mut body = json!({ "statements": statements, "transaction": true });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post("/execute", &body.to_string()).await
    }

    /// Parents 1 to 12 in table users, a child of each in table notes.
    async fn family(&self, sharded: bool) {
        match sharded {
            true => self.users().await,
            false => {
                drop(self.sql("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT)", json!([])).await)
            }
        }
        // Here sharded tables are in placements of their own, and no foreign key leads from one to another.
        let refers = if sharded { "" } else { "REFERENCES users (id) ON DELETE CASCADE" };
        self.sql(&format!("CREATE TABLE notes (id INTEGER PRIMARY KEY {refers}, body)"), json!([])).await;
        if sharded {
            self.shard("notes", json!("id"), None).await;
        }
        for id in 1..=12 {
            self.sql("INSERT INTO users (id, name) VALUES (?1, 'u' || ?1)", json!([id])).await;
            self.sql("INSERT INTO notes VALUES (?1, 'n')", json!([id])).await;
        }
    }

    async fn counts(&self) -> Json {
        json!([self.answer("SELECT count(*) FROM users").await, self.answer("SELECT count(*) FROM notes").await])
    }
}

/// A table is made anew, in the ways of the frameworks, on unsharded and on sharded tables: no child row is lost,
/// and the table stays sharded.
#[tokio::test]
async fn tables_are_made_anew() {
    let by_copy = [
        "PRAGMA defer_foreign_keys = ON",
        "CREATE TEMPORARY TABLE \"ausers\" (\"id\" integer PRIMARY KEY, \"name\" text, email)",
        "INSERT INTO ausers (id, name, email) SELECT id, name, email FROM users",
        "DROP TABLE users",
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x', email TEXT)",
        "INSERT INTO users (id, name, email) SELECT id, name, email FROM ausers",
        "DROP TABLE ausers",
        "CREATE INDEX by_name ON users (name)",
        "PRAGMA foreign_key_check",
    ];
    for sharded in [false, true] {
        for statements in [&REBUILD[..], &REBUILD[1..], &by_copy[..]] {
            let b = Bench::new().await;
            b.family(sharded).await;
            let (status, json) = b.unit(statements, json!({})).await;
            assert_eq!(status, 200, "{json}");
            assert_eq!(json["results"].as_array().unwrap().len(), statements.len());
            let copied = json["results"].as_array().unwrap().iter().filter(|one| one["rows_affected"] == json!(12));
            assert_eq!(copied.count(), statements.iter().filter(|sql| sql.starts_with("INSERT")).count(), "{json}");
            assert_eq!(b.counts().await, json!([[[12]], [[12]]]), "{statements:?}");
            b.sql("INSERT INTO users (id) VALUES (13)", json!([])).await;
            assert_eq!(b.answer("SELECT name FROM users WHERE id = 13").await, json!([["x"]]));
            let (_, table) = b.get("/table/users").await;
            assert_eq!(b.answer("PRAGMA foreign_key_check").await, json!([]));
            assert_eq!(table["shard_key"], if sharded { json!(["id"]) } else { json!([]) }, "{table}");
        }
    }
}

/// A migration notes in an unsharded table that it has run, in the transaction that makes a sharded table anew.
#[tokio::test]
async fn a_version_beside_a_rebuild() {
    let b = Bench::new().await;
    b.family(true).await;
    b.sql("CREATE TABLE version (n)", json!([])).await;
    b.sql("INSERT INTO version VALUES (1)", json!([])).await;
    let mut statements = REBUILD.to_vec();
    statements.push("UPDATE version SET n = 2 WHERE n = 1");
    let (status, json) = b.unit(&statements, json!({})).await;
    assert_eq!((status, &json["results"][5]["rows_affected"]), (200, &json!(1)), "{json}");
    assert_eq!(json["results"][2]["rows_affected"], 12, "{json}");
    assert_eq!(b.answer("SELECT n FROM version").await, json!([[2]]));
    assert_eq!(b.counts().await, json!([[[12]], [[12]]]));
}

/// PRAGMAs without a value are answered where they stand, and a check on its own looks at the rows.
#[tokio::test]
async fn settings_are_read() {
    let b = Bench::new().await;
    assert_eq!(b.answer("PRAGMA foreign_keys").await, json!([[1]]));
    assert_eq!(b.answer("PRAGMA main.defer_foreign_keys").await, json!([[0]]));
    assert_eq!(b.fails("PRAGMA defer_foreign_keys = ON").await, "forbidden_statement");
    let statements = [
        "PRAGMA foreign_keys",
        "PRAGMA defer_foreign_keys = ON",
        "PRAGMA defer_foreign_keys",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES c (id))",
        "PRAGMA foreign_keys(0)",
        "PRAGMA foreign_keys",
    ];
    let body = json!({ "statements": statements, "transaction": true }).to_string();
    let first = b.call(Method::POST, "/execute", &body, Some("k")).await;
    let values = |n: usize| (&first.1["results"][n]["columns"], &first.1["results"][n]["values"]);
    assert_eq!(first.0, 200, "{}", first.1);
    assert_eq!(values(0), (&json!(["foreign_keys"]), &json!([[1]])));
    assert_eq!(values(2), (&json!(["defer_foreign_keys"]), &json!([[1]])));
    assert_eq!(values(5), (&json!(["foreign_keys"]), &json!([[0]])));
    assert_eq!(b.call(Method::POST, "/execute", &body, Some("k")).await, first);
    let (status, json) = b.unit(&["PRAGMA foreign_keys", "INSERT INTO c VALUES (1, 1)"], json!({})).await;
    assert_eq!((status, &json["results"][0]["values"]), (200, &json!([[1]])), "{json}");
    b.unit(&["INSERT INTO c VALUES (2, 9)"], json!({ "foreign_keys": "unchecked" })).await;
    let (_, json) =
        b.unit(&["PRAGMA foreign_keys", "PRAGMA foreign_key_check"], json!({ "foreign_keys": "off" })).await;
    assert_eq!(json["results"][0]["values"], json!([[0]]), "{json}");
    assert_eq!(json["results"][1]["values"], json!([["c", 2, "c", 0]]), "{json}");
}

/// Around a single statement that drops a sharded table the PRAGMAs change nothing; a retry finds it done.
#[tokio::test]
async fn sharded_tables_go_in_statements_of_their_own() {
    let b = Bench::new().await;
    b.family(true).await;
    let statements = ["PRAGMA foreign_keys=off", "DROP TABLE notes", "PRAGMA foreign_keys=on"];
    let (status, json) = b.unit(&statements, json!({})).await;
    assert_eq!((status, json["results"].as_array().unwrap().len()), (200, 3), "{json}");
    assert_eq!(b.fails("SELECT * FROM notes").await, "no_such_table");
    let body = json!({ "statements": ["DROP TABLE users"], "transaction": true, "foreign_keys": "off" }).to_string();
    let first = b.call(Method::POST, "/execute", &body, Some("k")).await;
    assert_eq!(first.0, 200, "{}", first.1);
    assert_eq!(b.fails("SELECT * FROM users").await, "no_such_table");
    assert_eq!(b.call(Method::POST, "/execute", &body, Some("k")).await, first);
}

/// A retry gets the first results, while the job is listed and after.
#[tokio::test]
async fn a_transaction_with_schema_runs_once() {
    let b = Bench::new().await;
    b.family(false).await;
    let statements = ["CREATE TABLE z (a)", "INSERT INTO z VALUES (1), (2)", "INSERT INTO z SELECT id FROM users"];
    let body = json!({ "statements": statements, "transaction": true }).to_string();
    let first = b.call(Method::POST, "/execute", &body, Some("k")).await;
    assert_eq!((first.0, &first.1["results"][2]["rows_affected"]), (200, &json!(12)), "{}", first.1);
    assert_eq!(b.call(Method::POST, "/execute", &body, Some("k")).await, first);
    assert_eq!(b.answer("SELECT count(*) FROM z").await, json!([[14]]));
}

/// What a transaction on several shards would do otherwise than one database is refused, before anything changes.
#[tokio::test]
async fn what_shards_cannot_do_is_refused() {
    let b = Bench::new().await;
    b.family(true).await;
    b.sql("CREATE TABLE home (a)", json!([])).await;
    let create = "CREATE TABLE n (id INTEGER PRIMARY KEY, name TEXT, email TEXT)";
    let end = ["DROP TABLE users", "ALTER TABLE n RENAME TO users"];
    let rebuild = |insert: &'static str| vec![create, insert, end[0], end[1]];
    let all = "INSERT INTO n SELECT id, name, email FROM users";
    for (statements, code) in [
        (rebuild("INSERT INTO n SELECT id + 1, name, email FROM users"), "unroutable"),
        (rebuild("INSERT INTO n (name) SELECT name FROM users"), "unroutable"),
        (rebuild("INSERT INTO n VALUES (1, 'a', 'b')"), "unroutable"),
        (rebuild("INSERT INTO n SELECT max(id), name, email FROM users GROUP BY name"), "unroutable"),
        (rebuild("INSERT INTO n SELECT id, name, email FROM users ORDER BY id LIMIT 3"), "unroutable"),
        (rebuild("INSERT INTO n SELECT id, name, (SELECT count(*) FROM notes) FROM users"), "unroutable"),
        (vec![create, all, "DELETE FROM users WHERE id = (SELECT max(id) FROM n)", end[0], end[1]], "unroutable"),
        (vec![create, all, end[0]], "unroutable"),
        (vec![create, all, "INSERT INTO home SELECT id FROM n", end[0], end[1]], "unroutable"),
        (vec![create, all, end[0], end[1], create], "unroutable"),
        (vec!["CREATE TABLE n (id TEXT PRIMARY KEY, name, email)", all, end[0], end[1]], "unroutable"),
        (vec!["CREATE TABLE n (k INTEGER PRIMARY KEY, name, email)", all, end[0], end[1]], "conflict"),
        (vec![create, "CREATE UNIQUE INDEX u ON n (name)", all, end[0], end[1]], "unsafe_registration"),
        (vec![create, "PRAGMA journal_mode = OFF"], "forbidden_statement"),
        (vec![create, "COMMIT"], "forbidden_statement"),
        (vec![create, "INSERT INTO nowhere VALUES (1)"], "no_such_table"),
    ] {
        let (status, json) = b.unit(&statements, json!({})).await;
        assert!(status >= 400 && json["error"]["code"] == code, "{statements:?}: {json}");
        assert_eq!(b.counts().await, json!([[[12]], [[12]]]), "{statements:?}");
    }
    let (_, json) = b.get("/job").await;
    let scripts = json["jobs"].as_array().unwrap().iter().filter(|job| job["kind"] == json!("script"));
    assert_eq!(scripts.count(), 0, "none became a job");
}

/// Rows that refer to nothing undo the transaction; the parts of a load may be checked later.
#[tokio::test]
async fn foreign_keys_are_checked_at_the_end() {
    let b = Bench::new().await;
    let dump = [
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p (id))",
        "INSERT INTO c VALUES (1, 10)",
        "CREATE TABLE p (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO p VALUES (10)",
        "DELETE FROM sqlite_sequence",
        "INSERT INTO sqlite_sequence VALUES('p', 42)",
    ];
    let (status, json) = b.unit(&dump[..3], json!({ "foreign_keys": "off" })).await;
    assert_eq!((status, &json["error"]["code"]), (409, &json!("constraint")), "{json}");
    assert_eq!(b.fails("SELECT * FROM c").await, "no_such_table");
    let (status, json) = b.unit(&dump, json!({ "foreign_keys": "deferred" })).await;
    assert_eq!(status, 200, "{json}");
    b.sql("INSERT INTO p DEFAULT VALUES", json!([])).await;
    assert_eq!(b.answer("SELECT max(id) FROM p").await, json!([[43]]));
    let (status, _) = b.unit(&["INSERT INTO c VALUES (2, 99)"], json!({ "foreign_keys": "unchecked" })).await;
    assert_eq!(status, 200);
    let found = b.answer("PRAGMA foreign_key_check").await;
    assert_eq!(found, json!([["c", 2, "p", 0]]));
    assert_eq!(b.answer("PRAGMA foreign_key_check(p)").await, json!([]));
    assert_eq!(b.fails("SELECT * FROM pragma_foreign_key_check").await, "unroutable");
    for (body, code) in [
        (json!({ "foreign_keys": "maybe" }), "bad_request"),
        (json!({ "foreign_keys": "off", "transaction": false }), "bad_request"),
    ] {
        assert_eq!(b.unit(&["SELECT 1"], body).await.1["error"]["code"], code);
    }
}

/// With `stop_on_error` nothing behind the first error runs, and each of these statements says so.
#[tokio::test]
async fn a_batch_stops_at_an_error() {
    let b = Bench::new().await;
    b.users().await;
    let statements = [
        "INSERT INTO users (id) VALUES (1)",
        "INSERT INTO users (id) VALUES (1)",
        "INSERT INTO users (id) VALUES (2)",
        "DROP TABLE users",
    ];
    for (stop, last, count) in [(true, "not_run", json!([[1]])), (false, "", json!([]))] {
        let body = json!({ "statements": statements, "stop_on_error": stop });
        let (status, json) = b.post("/execute", &body.to_string()).await;
        assert_eq!((status, &json["results"][1]["error"]["code"]), (200, &json!("constraint")), "{json}");
        if stop {
            assert_eq!(json["results"][2]["error"]["code"], last);
            assert_eq!(json["results"][3]["error"]["code"], last);
            assert_eq!(b.answer("SELECT count(*) FROM users").await, count);
        } else {
            assert!(json["results"][3].get("error").is_none(), "{json}");
        }
    }
}
