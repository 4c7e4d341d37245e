//! Answers as JSON, written straight into a byte buffer: no tree in between, since this is the hot
//! path of every read.
//!
//! Input: what [`execute`](crate::execute) gives. Output: the body of DESIGN's section on the HTTP
//! API: `{"results":[…]}`.

use base64_text::encode;
use flotilla_shared::error::Error;
use flotilla_shared::ids::{GroupId, JobId};
use flotilla_shared::value::Value;
use flotilla_shared::wire::{Rows, StatementResult};

/// What one statement gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Rows of a read.
    Rows(Rows),
    /// What a write did.
    Write(StatementResult),
    /// What a write on several shards did when some of them failed.
    Partial {
        /// Sums of those that did not.
        result: StatementResult,
        /// Per shard: rows affected, or why not.
        shards: Vec<(GroupId, Result<u64, Error>)>,
    },
    /// A schema statement, and the job that carried it out; none when there was nothing to do.
    Schema(Option<JobId>),
}

/// The body for the outcomes of all statements, in order.
pub fn results(outcomes: &[Result<Output, Error>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + outcomes.iter().map(size_hint).sum::<usize>());
    out.extend_from_slice(b"{\"results\":[");
    for (n, outcome) in outcomes.iter().enumerate() {
        comma(n, &mut out);
        match outcome {
            Ok(output) => write_output(output, &mut out),
            Err(error) => out.extend_from_slice(error.to_json().to_string().as_bytes()),
        }
    }
    out.extend_from_slice(b"]}");
    out
}

fn size_hint(outcome: &Result<Output, Error>) -> usize {
    match outcome {
        Ok(Output::Rows(rows)) => 64 + rows.values.len() * rows.columns.len() * 12,
        _ => 64,
    }
}

fn comma(n: usize, out: &mut Vec<u8>) {
    if n > 0 {
        out.push(b',');
    }
}

fn write_output(output: &Output, out: &mut Vec<u8>) {
    match output {
        Output::Rows(rows) => {
            out.push(b'{');
            write_rows(rows, out);
            out.push(b'}');
        }
        Output::Write(result) => {
            write_result(result, out);
            out.push(b'}');
        }
        Output::Partial { result, shards } => {
            write_result(result, out);
            out.extend_from_slice(b",\"partial\":true,\"shards\":[");
            for (n, (shard, outcome)) in shards.iter().enumerate() {
                comma(n, out);
                let json = match outcome {
                    Ok(rows) => serde_json::json!({ "shard": shard, "rows_affected": rows }),
                    Err(error) => serde_json::json!({ "shard": shard, "error": error.to_json()["error"] }),
                };
                out.extend_from_slice(json.to_string().as_bytes());
            }
            out.extend_from_slice(b"]}");
        }
        Output::Schema(job) => {
            out.extend_from_slice(b"{\"last_insert_id\":0,\"rows_affected\":0");
            if let Some(job) = job {
                out.extend_from_slice(format!(",\"job\":\"{job}\"").as_bytes());
            }
            out.push(b'}');
        }
    }
}

/// An object without its closing brace.
fn write_result(result: &StatementResult, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"last_insert_id\":");
    write_integer(result.last_insert_id, out);
    out.extend_from_slice(b",\"rows_affected\":");
    out.extend_from_slice(result.rows_affected.to_string().as_bytes());
    if let Some(rows) = &result.rows {
        out.push(b',');
        write_rows(rows, out);
    }
}

/// First line of a result as newline-delimited JSON.
pub fn head_line(columns: &[String], types: &[String], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"columns\":");
    write_strings(columns, out);
    out.extend_from_slice(b",\"types\":");
    write_strings(types, out);
    out.extend_from_slice(b"}\n");
}

/// One line of a result as newline-delimited JSON.
pub fn row_line(row: &[Value], out: &mut Vec<u8>) {
    write_row(row, out);
    out.push(b'\n');
}

fn write_rows(rows: &Rows, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"columns\":");
    write_strings(&rows.columns, out);
    out.extend_from_slice(b",\"types\":");
    write_strings(&rows.types, out);
    out.extend_from_slice(b",\"values\":[");
    for (n, row) in rows.values.iter().enumerate() {
        comma(n, out);
        write_row(row, out);
    }
    out.push(b']');
}

fn write_row(row: &[Value], out: &mut Vec<u8>) {
    out.push(b'[');
    for (n, value) in row.iter().enumerate() {
        comma(n, out);
        write_value(value, out);
    }
    out.push(b']');
}

fn write_strings(list: &[String], out: &mut Vec<u8>) {
    out.push(b'[');
    for (n, text) in list.iter().enumerate() {
        comma(n, out);
        write_text(text, out);
    }
    out.push(b']');
}

fn write_integer(n: i64, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &n).expect("a buffer takes all");
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a buffer takes all");
}

/// One value in its JSON form, the same as [`Value::to_json`] gives.
pub fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Integer(n) => write_integer(*n, out),
        Value::Real(r) if r.is_finite() => serde_json::to_writer(out, r).expect("a buffer takes all"),
        Value::Real(r) if r.is_nan() => out.extend_from_slice(b"null"),
        Value::Real(r) => out.extend_from_slice(if *r > 0.0 { b"{\"real\":\"inf\"}" } else { b"{\"real\":\"-inf\"}" }),
        Value::Text(text) => write_text(text, out),
        Value::Blob(bytes) => {
            out.extend_from_slice(b"{\"blob\":\"");
            encode(bytes, out);
            out.extend_from_slice(b"\"}");
        }
    }
}

/// Base64 into a buffer.
mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    /// Appends the padded standard form of `bytes`.
    pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + bytes.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(bytes, &mut out[at..]).expect("there is room");
        out.truncate(at + written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_shared::error::Code;

    /// Every value is written as its JSON form says, and the whole body parses back to it.
    #[test]
    fn bodies_are_the_json_of_their_values() {
        let values = vec![
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Integer(i64::MAX),
            Value::Real(0.1),
            Value::Real(-0.0),
            Value::Real(1e300),
            Value::Real(3.0),
            Value::Real(f64::INFINITY),
            Value::Real(f64::NEG_INFINITY),
            Value::Text("quote \" back \\ new\nline \u{1} é 🚢 </script>".into()),
            Value::Text(String::new()),
            Value::Blob(vec![]),
            Value::Blob((0..=255).collect()),
        ];
        let rows = Rows {
            columns: (0..values.len()).map(|n| format!("c \"{n}\"")).collect(),
            types: vec!["integer".into(); values.len()],
            values: vec![values.clone(), values.clone()],
        };
        let body = results(&[Ok(Output::Rows(rows.clone())), Err(Error::new(Code::Constraint, "no").hint("do"))]);
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let wanted: Vec<_> = values.iter().map(Value::to_json).collect();
        assert_eq!(json["results"][0]["values"], serde_json::json!([wanted, wanted]));
        assert_eq!(json["results"][0]["columns"], serde_json::json!(rows.columns));
        assert_eq!(json["results"][1]["error"]["code"], "constraint");
        for value in &values {
            let mut out = Vec::new();
            write_value(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_json().to_string());
        }
    }

    /// Writes, partial writes and schema statements have their own shapes.
    #[test]
    fn shapes_of_writes() {
        let result = StatementResult { last_insert_id: 7, rows_affected: 2, rows: None };
        let text = |output: Output| String::from_utf8(results(&[Ok(output)])).unwrap();
        assert_eq!(text(Output::Write(result.clone())), r#"{"results":[{"last_insert_id":7,"rows_affected":2}]}"#);
        assert_eq!(
            text(Output::Schema(Some(JobId(3)))),
            r#"{"results":[{"last_insert_id":0,"rows_affected":0,"job":"3"}]}"#
        );
        let shards = vec![(GroupId(1), Ok(2)), (GroupId(2), Err(Error::new(Code::Unavailable, "x")))];
        let json: serde_json::Value = serde_json::from_str(&text(Output::Partial { result, shards })).unwrap();
        assert_eq!(json["results"][0]["partial"], true);
        assert_eq!(json["results"][0]["shards"][0], serde_json::json!({"shard": "shard1", "rows_affected": 2}));
        assert_eq!(json["results"][0]["shards"][1]["error"]["code"], "unavailable");
    }
}
