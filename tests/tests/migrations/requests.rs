//! The statements of a script as requests to `POST /execute`.
//!
//! What stands between BEGIN and COMMIT, or while foreign keys are off, is one request with `transaction`; the
//! statements that say so are not sent. All else goes one by one.

use flotilla_tests::harness::Client;
use serde_json::{Value as Json, json};

/// Sends them; what failed.
pub async fn send(client: &mut Client, statements: &[String]) -> Vec<String> {
    for request in requests(statements) {
        let reply = client.post("/execute", &request).await.unwrap();
        let json = reply.json();
        let mut errors = vec![&json["error"]];
        errors.extend(json["results"].as_array().into_iter().flatten().map(|result| &result["error"]));
        if errors.iter().any(|error| !error.is_null()) {
            return vec![format!("{request}: {reply}")];
        }
    }
    vec![]
}

fn requests(statements: &[String]) -> Vec<Json> {
    let mut requests = vec![];
    let mut together = vec![];
    let (mut off, mut began) = (false, false);
    for statement in statements {
        let words = words(statement);
        let is = |start: &str| words.starts_with(start);
        match () {
            () if is("PRAGMA DEFER_FOREIGN_KEYS") || words == "PRAGMA FOREIGN_KEYS" => (),
            () if is("PRAGMA FOREIGN_KEYS") => off = is("PRAGMA FOREIGN_KEYS OFF"),
            () if is("BEGIN") => began = true,
            () if is("COMMIT") => began = false,
            () if off || began => together.push(statement.clone()),
            () => requests.push(json!({ "statements": [statement] })),
        }
        if !off && !began && !together.is_empty() {
            let statements = std::mem::take(&mut together);
            requests.push(json!({ "statements": statements, "transaction": true, "foreign_keys": "off" }));
        }
    }
    requests
}

/// The words of a statement, in capitals, without comments before it.
fn words(statement: &str) -> String {
    let lines = statement.lines().map(str::trim).skip_while(|line| line.is_empty() || line.starts_with("--"));
    let text = lines.collect::<Vec<_>>().join(" ").replace(['=', ';'], " ").to_ascii_uppercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
