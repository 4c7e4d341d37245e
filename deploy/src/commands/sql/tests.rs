//! Scripts against a server that records what it is sent.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value as Json, json};

use super::*;
use crate::commands::test_server::{Answer, Seen, TestServer};

/// Answers every statement with success, and queries with one row.
fn all_is_well(seen: &Seen) -> Answer {
    let results: Vec<Json> = match seen.body["statements"].as_array() {
        Some(statements) => statements.iter().map(|_| json!({ "rows_affected": 1, "last_insert_id": 1 })).collect(),
        None => vec![json!({ "columns": ["a"], "types": ["INTEGER"], "values": [[1]] })],
    };
    Answer::Json(200, json!({ "results": results }))
}

fn refused(code: &str) -> Json {
    json!({ "error": { "code": code, "message": "no", "hint": "" } })
}

async fn run_script(server: &TestServer, bail: bool, sql: &str) -> (Session, Result<(), CommandError>) {
    let mut session = Session::new(server.client(), Mode::Table, Some(Level::Lease));
    session.style = Style::Script;
    session.bail = bail;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.sql");
    std::fs::write(&path, sql).unwrap();
    let ran = script::run(&mut session, Source::file(&path).await.unwrap()).await.map(|_| ());
    (session, ran)
}

/// 1,200 inserts travel as 500 + 500 + 200, each batch under a key of its own.
#[tokio::test]
async fn batches_of_500() {
    let server = TestServer::start(all_is_well).await;
    let sql: String = (0..1200).map(|n| format!("INSERT INTO t VALUES ({n});\n")).collect();
    let (session, ran) = run_script(&server, false, &sql).await;
    ran.unwrap();
    assert_eq!(session.done(), (1200, 1200));
    let seen = server.seen();
    let sizes: Vec<usize> = seen.iter().map(|seen| seen.statements().len()).collect();
    assert_eq!(sizes, [500, 500, 200]);
    assert_eq!(seen[1].statements()[0], "INSERT INTO t VALUES (500)");
    let keys: std::collections::HashSet<_> = seen.iter().map(|seen| seen.key.clone().unwrap()).collect();
    assert_eq!(keys.len(), 3);
}

/// A body stays under 1 MiB; a statement that alone is over it is still sent, alone.
#[tokio::test]
async fn batches_of_one_mebibyte() {
    let server = TestServer::start(all_is_well).await;
    let row = format!("INSERT INTO t VALUES ('{}');\n", "x".repeat(400_000));
    let huge = format!("INSERT INTO t VALUES ('{}');\n", "y".repeat(2_000_000));
    let (_, ran) = run_script(&server, false, &(row.repeat(3) + &huge + &row)).await;
    ran.unwrap();
    let sizes: Vec<usize> = server.seen().iter().map(|seen| seen.statements().len()).collect();
    assert_eq!(sizes, [2, 1, 1, 1]);
}

/// Reads and writes keep their order; comments are not sent.
#[tokio::test]
async fn order() {
    let server = TestServer::start(all_is_well).await;
    let sql = "CREATE TABLE t (a);\nINSERT INTO t VALUES (1);\n\
               -- now read\nSELECT a FROM t;\nPRAGMA table_info(t);\nINSERT INTO t VALUES (2);\n";
    let (session, ran) = run_script(&server, false, sql).await;
    ran.unwrap();
    assert_eq!(session.done(), (5, 3));
    let seen = server.seen();
    let paths: Vec<&str> = seen.iter().map(|seen| seen.path.as_str()).collect();
    assert_eq!(paths, ["/execute", "/query?level=lease", "/sql", "/execute"]);
    assert_eq!(seen[0].statements(), ["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]);
    assert_eq!(seen[1].body["query"], "SELECT a FROM t");
    assert_eq!(seen[2].body["sql"], "PRAGMA table_info(t)");
}

/// A transaction is one request, between those before and after it; one that is rolled back is none; and what runs
/// without foreign keys says so.
#[tokio::test]
async fn transactions_are_one_request() {
    let server = TestServer::start(all_is_well).await;
    let sql = "INSERT INTO t VALUES (1);\nBEGIN;\nUPDATE t SET a = 2;\nROLLBACK;\nBEGIN;\nINSERT INTO t VALUES (3);\n\
               SELECT 1;\nCOMMIT;\nINSERT INTO t VALUES (4);\nPRAGMA foreign_keys=OFF;\nDROP TABLE t;\nPRAGMA foreign_keys=ON;\n";
    let (session, ran) = run_script(&server, true, sql).await;
    ran.unwrap();
    assert_eq!(session.failed(), 0);
    let seen = server.seen();
    let bodies: Vec<String> = seen
        .iter()
        .map(|seen| format!("{:?} {} {}", seen.statements(), seen.body["transaction"], seen.body["foreign_keys"]))
        .collect();
    assert_eq!(
        bodies,
        [
            r#"["INSERT INTO t VALUES (1)"] null null"#,
            r#"["INSERT INTO t VALUES (3)", "SELECT 1"] true null"#,
            r#"["INSERT INTO t VALUES (4)"] null null"#,
            r#"["DROP TABLE t"] true "off""#,
        ]
    );
}

/// A transaction that makes no sense is not sent, and ends the script with a failure.
#[tokio::test]
async fn transactions_that_are_refused() {
    for sql in [
        "INSERT INTO a VALUES (1);\nBEGIN;\nINSERT INTO b VALUES (1);",
        "INSERT INTO a VALUES (1); COMMIT; DROP TABLE a;",
    ] {
        let server = TestServer::start(all_is_well).await;
        let (session, ran) = run_script(&server, true, sql).await;
        ran.unwrap();
        assert_eq!((session.failed(), session.done()), (1, (1, 1)), "{sql}");
        assert_eq!(server.seen().len(), 1, "{sql}");
    }
}

/// The leader is away, then the connection breaks after the write: the same key, until it is heard.
#[tokio::test]
async fn retries_keep_their_key() {
    let tries = AtomicUsize::new(0);
    let server = TestServer::start(move |seen| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::Json(503, refused("unavailable")),
        1 => Answer::Break,
        2 => Answer::Json(200, json!({ "results": [refused("not_leader")] })),
        _ => all_is_well(seen),
    })
    .await;
    let (session, ran) = run_script(&server, false, "INSERT INTO t VALUES (1);").await;
    ran.unwrap();
    assert_eq!(session.done(), (1, 1));
    let keys: Vec<_> = server.seen().into_iter().map(|seen| seen.key.unwrap()).collect();
    assert_eq!(keys.len(), 4);
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

/// A failed statement is counted; the script goes on or stops, and the command fails.
#[tokio::test]
async fn failures_are_counted() {
    let server = TestServer::start(|seen| {
        let mut failed = false;
        let result = |sql: &str| match () {
            () if failed && seen.body["stop_on_error"] == json!(true) => refused("not_run"),
            () if sql.contains("bad") => {
                failed = true;
                refused("constraint")
            }
            () => json!({ "rows_affected": 1 }),
        };
        Answer::Json(200, json!({ "results": seen.statements().into_iter().map(result).collect::<Vec<_>>() }))
    })
    .await;
    let sql = "INSERT INTO good VALUES (1);\nINSERT INTO bad VALUES (1);\nINSERT INTO good VALUES (2);\n.nonsense\n";
    let (session, ran) = run_script(&server, false, sql).await;
    ran.unwrap();
    assert_eq!((session.failed(), session.done()), (2, (2, 2)));
    assert_eq!(session.verdict().unwrap_err().exit_code(), 1);
    // Nothing is run after the first failure.
    let (session, _) = run_script(&server, true, sql).await;
    assert_eq!((session.failed(), session.done()), (1, (1, 1)));
}

/// A cluster that stays away ends the script at once, not once per batch.
#[tokio::test]
async fn an_absent_cluster_ends_the_script() {
    let server = TestServer::start(|_| Answer::Json(503, refused("unavailable"))).await;
    let schedule = crate::http_client::retry::Schedule {
        first: std::time::Duration::from_millis(1),
        longest: std::time::Duration::from_millis(1),
        total: std::time::Duration::from_millis(20),
    };
    let client = server.client().with_schedule(schedule);
    let mut session = Session::new(client, Mode::Table, None);
    session.style = Style::Script;
    let text = "INSERT INTO t VALUES (1); SELECT 1; INSERT INTO t VALUES (2);";
    let ran = script::run(&mut session, Source::text(text.into())).await;
    assert!(matches!(ran, Err(CommandError::Reported)));
    assert_eq!(session.failed(), 1);
    assert!(server.seen().iter().all(|seen| seen.path == "/execute"));
}

/// An open quote is reported with the line on which its statement began.
#[tokio::test]
async fn unfinished_scripts_fail() {
    let server = TestServer::start(all_is_well).await;
    let (session, ran) = run_script(&server, false, "INSERT INTO t VALUES (1);\nINSERT INTO t VALUES ('x;\n").await;
    ran.unwrap();
    assert_eq!((session.failed(), session.done()), (1, (1, 1)));
}

/// `.read` runs another script; one that reads itself ends with an error instead of never.
#[tokio::test]
async fn scripts_read_scripts() {
    let server = TestServer::start(all_is_well).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.sql");
    std::fs::write(&path, format!("INSERT INTO t VALUES (1);\n.read {}\n", path.display())).unwrap();
    let mut session = Session::new(server.client(), Mode::Table, None);
    session.style = Style::Script;
    script::run(&mut session, Source::text(format!(".read {}", path.display()))).await.unwrap();
    assert_eq!((session.failed(), session.done()), (1, (8, 8)));
}

/// The command line: conflicts, aliases, defaults.
#[test]
fn arguments() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: SqlArgs,
    }
    let parse = |line: &str| <Cli as clap::Parser>::try_parse_from(line.split(' ')).map(|cli| cli.args);
    let args = parse("sql --url http://h:1 -c x -c y --csv --stop-on-error --level none").unwrap();
    assert_eq!((args.commands.len(), args.csv, args.bail, args.level), (2, true, true, Some(Level::None)));
    assert!(parse("sql --keep-going x.sql").unwrap().keep_going && parse("sql --keep-going --bail").is_err());
    assert!(parse("sql --json --csv").is_err());
    assert!(parse("sql -c x file.sql").is_err());
    assert!(parse("sql --url https://h").is_err());
    assert!(parse("sql --level sometimes").is_err());
}
