//! Several statements of one request, in their order.

use hyper::Method;

use super::*;

/// A row whose generated key was taken gets another one before a later statement of the request that touches its
/// table is carried out; so the keys that were in its way may be deleted behind it.
#[tokio::test]
async fn a_collision_keeps_its_place() {
    for key in [None, Some("k")] {
        let b = Bench::new().await;
        b.users().await;
        for id in 1..=30 {
            b.sql("INSERT INTO users (id, name) VALUES (?, 'old')", json!([id])).await;
        }
        let mut statements = vec![json!("INSERT INTO users (name) VALUES ('new')"); 3];
        statements.extend((1..=30).map(|id| json!(["DELETE FROM users WHERE id = ?", id])));
        statements.push(json!("INSERT INTO users (name) VALUES ('last')"));
        let body = json!({ "statements": statements }).to_string();
        let (status, json) = b.call(Method::POST, "/execute", &body, key).await;
        assert_eq!(status, 200, "{json}");
        let results = json["results"].as_array().unwrap();
        assert!(results.iter().all(|result| result["rows_affected"] == 1), "{json}");
        if key.is_some() {
            assert_eq!(b.call(Method::POST, "/execute", &body, key).await.1, json);
        }
        let names = b.sql("SELECT name, count(*) FROM users GROUP BY name ORDER BY name", json!([])).await;
        assert_eq!(names["values"], json!([["last", 1], ["new", 3]]), "{json}");
    }
}
