//! Values and arguments in JSON, in and out.

use super::*;

/// Every kind of value comes back as it went in, sent on to a shard or not, read plainly or as lines.
#[tokio::test]
async fn values_in_and_out() {
    let b = Bench::new().await;
    b.sql("CREATE TABLE v (id INTEGER PRIMARY KEY, x)", json!([])).await;
    b.post("/table/register", r#"{"table_name":"v","shard_key":"id"}"#).await;
    let kept = [
        json!(null),
        json!(i64::MIN),
        json!(i64::MAX),
        json!((1i64 << 53) + 1),
        json!(0.1),
        json!(3.0),
        json!({ "real": "inf" }),
        json!({ "real": "-inf" }),
        json!(""),
        json!("é \" \u{1} 🚢"),
        json!({ "blob": "" }),
        json!({ "blob": "AP8H" }),
    ];
    for (id, value) in (1..).zip(&kept) {
        b.sql("INSERT INTO v VALUES (?, ?)", json!([id, value])).await;
        b.sql("UPDATE v SET x = :x WHERE id = :id", json!({ "x": value, "id": id })).await;
        assert_eq!(b.sql("SELECT x FROM v WHERE id = ?", json!([id])).await["values"], json!([[value]]));
        assert_eq!(b.sql("SELECT ?", json!([value])).await["values"], json!([[value]]), "by the home shard");
    }
    for (given, stored) in [(json!({ "real": "nan" }), json!(null)), (json!(true), json!(1)), (json!(false), json!(0))]
    {
        assert_eq!(b.sql("SELECT ?", json!([given])).await["values"], json!([[stored]]));
    }
    for bad in ["[[1]]", "[{}]", r#"[{"blob":"!"}]"#, r#"[{"real":"big"}]"#, "[9223372036854775808]", "7", "\"x\""] {
        let (status, json) = b.post("/sql", &format!(r#"{{"sql":"SELECT ?","args":{bad}}}"#)).await;
        assert_eq!((status, &json["error"]["code"]), (400, &json!("bad_request")), "{bad}: {json}");
    }
}

/// Arguments by name find their parameters in all of SQLite's forms; a bare `?` has no name.
#[tokio::test]
async fn named_arguments() {
    let b = Bench::new().await;
    b.users().await;
    b.sql(
        "INSERT INTO users (id, name, email) VALUES (:id, @name, $mail)",
        json!({ "id": 5, "@name": "n", "$mail": "m" }),
    )
    .await;
    b.sql("INSERT INTO users (name) VALUES (:name)", json!({ "name": "generated" })).await;
    for (sql, args) in [
        ("SELECT name, email FROM users WHERE id = :id", json!({ ":id": 5 })),
        ("SELECT name, email FROM users WHERE id = ?3", json!({ "3": 5 })),
        ("SELECT name, email FROM users WHERE id = ?3", json!({ "?3": 5 })),
        ("SELECT name, email FROM users WHERE id = @id AND name = :name", json!({ "name": "n", "id": 5 })),
    ] {
        assert_eq!(b.sql(sql, args).await["values"], json!([["n", "m"]]), "{sql}");
    }
    for (sql, args) in [
        ("SELECT ?", json!({ "1": 1 })),
        ("SELECT ?, ?3", json!({ "1": 1, "3": 3 })),
        ("SELECT :a", json!({ "b": 1 })),
        ("SELECT :a", json!({ "a": 1, "b": 1 })),
        ("SELECT :a", json!({ "a": 1, ":a": 1 })),
        ("SELECT ?3", json!([1])),
    ] {
        let (status, json) = b.post("/sql", &json!({ "sql": sql, "args": args }).to_string()).await;
        assert_eq!((status, &json["error"]["code"]), (400, &json!("wrong_arg_count")), "{sql} {args}: {json}");
    }
}
