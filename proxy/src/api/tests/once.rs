//! Writes of several steps take effect once, whatever is lost or changed between tries.

use hyper::Method;
use serde_json::{Value as Json, json};

use super::Bench;

async fn bench() -> Bench {
    let b = Bench::new().await;
    b.users().await;
    b.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)", json!([])).await;
    for id in 1..=6 {
        b.sql("INSERT INTO users (id, name) VALUES (?, 'u')", json!([id])).await;
    }
    b
}

impl Bench {
    pub(super) async fn keyed(&self, target: &str, sql: &str, key: &str) -> (u16, Json) {
        self.call(Method::POST, target, &json!({ "sql": sql }).to_string(), Some(key)).await
    }

    async fn rows(&self, sql: &str) -> Json {
        self.sql(sql, json!([])).await["values"].take()
    }
}

/// A statement that reads what it writes gives its first answer again, and does nothing more.
#[tokio::test]
async fn a_repeated_insert_select_is_applied_once() {
    let b = bench().await;
    b.sql("INSERT INTO notes (body) SELECT name FROM users", json!([])).await;
    let sql = "INSERT INTO notes (body) SELECT name FROM users RETURNING id";
    let first = b.keyed("/sql", sql, "k").await;
    assert_eq!(first.0, 200, "{}", first.1);
    b.sql("INSERT INTO users (id, name) VALUES (7, 'later')", json!([])).await;
    assert_eq!(b.keyed("/sql", sql, "k").await, first);
    let spread = "INSERT INTO users (name) SELECT name FROM users";
    let first = b.keyed("/sql", spread, "s").await;
    assert_eq!(b.keyed("/sql", spread, "s").await, first);
    assert_eq!(b.keyed("/sql", spread, "s").await, first);
    assert_eq!(b.rows("SELECT count(*) FROM notes").await, json!([[12]]));
    assert_eq!(b.rows("SELECT id FROM users").await.as_array().unwrap().len(), 14);
}

/// Whichever answer is lost, of the memo or of the rows, a retry after the source changed adds the
/// rows once.
#[tokio::test]
async fn lost_answers() {
    let b = bench().await;
    for (n, lost) in [1, 2, 3].into_iter().enumerate() {
        let key = format!("lost{lost}");
        let sql = format!("INSERT INTO users (id, name) SELECT max(id) + 100, 'new{n}' FROM notes");
        b.sql("INSERT INTO notes (body) VALUES ('grow')", json!([])).await;
        b.node.lose_answers_after(lost - 1, 1000);
        let (status, json) = b.keyed("/sql?timeout=300", &sql, &key).await;
        let none_lost = lost == 3;
        assert_eq!(status == 200, none_lost, "{json}");
        b.node.lose_answers(0);
        b.sql("INSERT INTO notes (body) VALUES ('grow')", json!([])).await;
        let (status, json) = b.keyed("/sql", &sql, &key).await;
        assert_eq!((status, &json["results"][0]["rows_affected"]), (200, &json!(1)), "{json}");
        assert_eq!(b.keyed("/sql", &sql, &key).await.1, json);
        let rows = b.sql("SELECT id FROM users WHERE name = ?", json!([format!("new{n}")])).await;
        assert_eq!(rows["values"].as_array().unwrap().len(), 1, "lost {lost}: {rows}");
    }
}

/// A try that was left behind cannot come after the one that took its place.
#[tokio::test]
async fn a_late_try_is_fenced_off() {
    let b = bench().await;
    let sql = "INSERT INTO users (name) SELECT body FROM notes";
    b.sql("INSERT INTO notes (body) VALUES ('one')", json!([])).await;
    b.node.hold_write_after(1);
    let late = b.keyed("/sql", sql, "k");
    let other = async {
        b.node.until_held().await;
        let answer = b.keyed("/sql", sql, "k").await;
        b.node.release_write();
        answer
    };
    let (late, other) = tokio::join!(late, other);
    assert_eq!(other.0, 200, "{}", other.1);
    assert_eq!(late, other, "the late one gets the answer of the other");
    assert_eq!(
        b.sql("SELECT id FROM users WHERE name = 'one'", json!([])).await["values"].as_array().unwrap().len(),
        1
    );
}

/// Parts of a partial write that was interrupted are told of, not repeated.
#[tokio::test]
async fn partial_writes_are_not_repeated() {
    let b = bench().await;
    let sql = "INSERT INTO users (id, name) SELECT id + 100, 'copy' FROM users";
    let first = b.keyed("/sql?allow_partial=true", sql, "k").await;
    assert_eq!((first.0, &first.1["results"][0]["rows_affected"]), (200, &json!(6)), "{}", first.1);
    assert_eq!(b.keyed("/sql?allow_partial=true", sql, "k").await, first);
    let sql = "INSERT INTO users (id, name) SELECT id + 1000, 'part' FROM users WHERE id < 100";
    // The memo and one part get through.
    b.node.lose_answers_after(2, 1000);
    let (_, json) = b.keyed("/sql?allow_partial=true&timeout=400", sql, "p").await;
    assert_eq!(json["results"][0]["partial"], true, "{json}");
    b.node.lose_answers(0);
    let (status, json) = b.keyed("/sql?allow_partial=true", sql, "p").await;
    assert_eq!((status, &json["results"][0]["rows_affected"]), (200, &json!(6)), "{json}");
    assert_eq!(b.rows("SELECT id FROM users WHERE name = 'part'").await.as_array().unwrap().len(), 6);
}

/// A row that moves to another shard is there once, also when the answers of the first try were lost.
#[tokio::test]
async fn a_moved_row_is_there_once() {
    let b = bench().await;
    for lost in 0..4 {
        let (from, to) = (1 + 1000 * lost, 1 + 1000 * (lost + 1));
        let sql = format!("UPDATE users SET id = {to} WHERE id = {from}");
        b.node.lose_answers_after(lost, 1000);
        let (status, json) = b.keyed("/sql?allow_partial=true&timeout=400", &sql, &format!("m{lost}")).await;
        assert!(status != 200 || json["results"][0]["partial"] == true || lost == 3, "{json}");
        b.node.lose_answers(0);
        let (status, json) = b.keyed("/sql?allow_partial=true", &sql, &format!("m{lost}")).await;
        assert_eq!(status, 200, "{json}");
        let told = json["results"][0]["partial"] == true;
        if told {
            b.sql("DELETE FROM users WHERE id = ?", json!([from])).await;
        }
        assert_eq!(b.rows(&format!("SELECT id FROM users WHERE id IN ({from}, {to})")).await, json!([[to]]), "{lost}");
    }
}

/// A refused try leaves the request free: once the reason is gone, the same request works.
#[tokio::test]
async fn a_refused_try_does_not_use_up_the_request() {
    let b = bench().await;
    let sql = "INSERT INTO users (id, name) SELECT id, body FROM notes";
    b.sql("INSERT INTO notes VALUES (1, 'taken')", json!([])).await;
    assert_eq!(b.keyed("/sql", sql, "k").await.0, 409);
    b.sql("DELETE FROM users WHERE id = 1", json!([])).await;
    assert_eq!(b.keyed("/sql", sql, "k").await.0, 200);
    assert_eq!(b.sql("SELECT name FROM users WHERE id = 1", json!([])).await["values"], json!([["taken"]]));
}

/// A write whose shard was removed before its retry gives its first result if it took effect, and takes effect once if
/// it did not.
#[tokio::test]
async fn a_retry_after_the_shard_was_removed() {
    // Nobody hears of the memo, so that its rows are not sent; or of the rows.
    for heard in [0, 1] {
        let b = bench().await;
        b.sql("INSERT INTO notes (body) VALUES ('n')", json!([])).await;
        for shard in [1, 2] {
            b.node.move_all("users", shard, 3);
        }
        let sql = "INSERT INTO users (id, name) SELECT id + 100, 'new' FROM notes RETURNING id";
        b.node.lose_answers_after(heard, 1000);
        let (status, json) = b.keyed("/sql?timeout=300", sql, "k").await;
        assert_ne!(status, 200, "{json}");
        b.node.lose_answers(0);
        b.node.move_all("users", 3, 2);
        b.node.remove_shard(3);
        let again = b.keyed("/sql", sql, "k").await;
        assert_eq!((again.0, &again.1["results"][0]["values"]), (200, &json!([[101]])), "{}", again.1);
        assert_eq!(b.keyed("/sql", sql, "k").await, again);
        assert_eq!(b.rows("SELECT count(*) FROM users WHERE name = 'new'").await, json!([[1]]));
    }
}
