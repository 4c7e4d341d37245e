//! How results look: aligned tables, CSV and JSON.
//!
//! Values come in as the raw JSON text of the server's reply and keep every digit: a number is
//! never read into a float on its way to the screen. Tables escape control characters, so that data
//! cannot drive the terminal; CSV and JSON go to programs and carry data as it is.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::http_client::ApiError;

/// Blobs longer than this are cut in tables.
const BLOB_BYTES_SHOWN: usize = 32;

/// The form in which rows are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// One array of objects per result.
    Json,
    /// RFC 4180 with a header line.
    Csv,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "csv" => Ok(Self::Csv),
            other => Err(format!("`{other}` is no mode; use table, json or csv")),
        }
    }
}

/// One statement's result, as the API gives it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StatementResult {
    /// Names of the columns; absent for a write without RETURNING.
    pub columns: Option<Vec<String>>,
    /// Rows, each value in its JSON text.
    pub values: Vec<Vec<Box<RawValue>>>,
    /// How many rows a write changed.
    pub rows_affected: Option<u64>,
    /// The rowid of the last inserted row.
    pub last_insert_id: Option<i64>,
    /// Why the statement failed.
    pub error: Option<ApiError>,
}

/// The body of a successful reply.
#[derive(Debug, Default, Deserialize)]
pub struct Results {
    /// One per statement, in order.
    pub results: Vec<StatementResult>,
}

/// The rows of a result in the given form, ending in a newline; empty when there are no columns.
pub fn render(result: &StatementResult, mode: Mode) -> String {
    let Some(columns) = &result.columns else { return String::new() };
    match mode {
        Mode::Table => table(columns, &result.values),
        Mode::Json => json(columns, &result.values),
        Mode::Csv => csv(columns, &result.values),
    }
}

fn table(columns: &[String], rows: &[Vec<Box<RawValue>>]) -> String {
    let mut table = new_table(columns);
    for row in rows {
        table.add_row(row.iter().map(|value| {
            let text = cell_text(value);
            match is_number(value.get()) {
                true => Cell::new(text).set_alignment(CellAlignment::Right),
                false => Cell::new(text),
            }
        }));
    }
    format!("{}\n", table.trim_fmt())
}

/// An empty table in the style of every table here.
pub fn new_table<T: AsRef<str>>(columns: impl IntoIterator<Item = T>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_FULL_CONDENSED);
    table.set_header(columns.into_iter().map(|name| escape(name.as_ref())).collect::<Vec<_>>());
    table
}

fn is_number(raw: &str) -> bool {
    raw.starts_with(|c: char| c.is_ascii_digit() || c == '-') || raw.contains("\"real\"") && raw.starts_with('{')
}

/// What a value stands for.
enum Shown {
    Null,
    Text(String),
    Blob(Vec<u8>),
    /// Numbers, in the digits of the reply, and whatever a newer server may send.
    Raw(String),
}

fn shown(value: &RawValue) -> Shown {
    let raw = value.get();
    match raw.as_bytes().first() {
        Some(b'n') => Shown::Null,
        Some(b'"') => match serde_json::from_str(raw) {
            Ok(text) => Shown::Text(text),
            Err(_) => Shown::Raw(raw.to_owned()),
        },
        Some(b'{') => match serde_json::from_str::<Json>(raw) {
            Ok(Json::Object(map)) => match (map.get("blob"), map.get("real")) {
                (Some(Json::String(text)), _) => {
                    base64_decode(text).map_or_else(|| Shown::Raw(raw.to_owned()), Shown::Blob)
                }
                (_, Some(Json::String(text))) => Shown::Raw(text.clone()),
                _ => Shown::Raw(raw.to_owned()),
            },
            _ => Shown::Raw(raw.to_owned()),
        },
        _ => Shown::Raw(raw.to_owned()),
    }
}

fn cell_text(value: &RawValue) -> String {
    match shown(value) {
        Shown::Null => "NULL".into(),
        Shown::Text(text) => escape(&text),
        Shown::Raw(text) => text,
        Shown::Blob(bytes) if bytes.len() > BLOB_BYTES_SHOWN => {
            format!("x'{}…' ({} bytes)", hex(&bytes[..BLOB_BYTES_SHOWN]), bytes.len())
        }
        Shown::Blob(bytes) => format!("x'{}'", hex(&bytes)),
    }
}

/// Control characters other than the newline become `\u{..}`.
pub fn escape(text: &str) -> String {
    let is_control = |c: char| c.is_control() && c != '\n';
    if !text.contains(is_control) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len() + 8), |mut out, c| {
        if is_control(c) {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

fn csv(columns: &[String], rows: &[Vec<Box<RawValue>>]) -> String {
    let mut out = String::new();
    csv_line(&mut out, columns.iter().map(String::as_str));
    for row in rows {
        let fields = row.iter().map(|value| match shown(value) {
            Shown::Null => String::new(),
            // Quoted by csv_line when empty, so that it differs from NULL.
            Shown::Text(text) if text.is_empty() => "\"\"".into(),
            Shown::Text(text) | Shown::Raw(text) => csv_field(&text),
            Shown::Blob(bytes) => format!("x'{}'", hex(&bytes)),
        });
        out.push_str(&fields.collect::<Vec<_>>().join(","));
        out.push('\n');
    }
    out
}

fn csv_line<'a>(out: &mut String, fields: impl Iterator<Item = &'a str>) {
    out.push_str(&fields.map(csv_field).collect::<Vec<_>>().join(","));
    out.push('\n');
}

fn csv_field(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) || text.trim() != text {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

fn json(columns: &[String], rows: &[Vec<Box<RawValue>>]) -> String {
    // Written by hand: a map would sort the columns and drop one of two with the same name.
    let names: Vec<String> = columns.iter().map(|name| Json::from(name.as_str()).to_string()).collect();
    let mut out = String::from("[");
    for (at, row) in rows.iter().enumerate() {
        out.push_str(if at == 0 { "{" } else { ",\n{" });
        for (at, (name, value)) in names.iter().zip(row).enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(out, "{comma}{name}:{}", value.get());
        }
        out.push('}');
    }
    out.push_str("]\n");
    out
}

/// The list in a reply: the reply itself, or its one field.
pub fn items(reply: Json, field: &str) -> Vec<Json> {
    match reply {
        Json::Array(items) => items,
        Json::Object(mut map) => match map.remove(field) {
            Some(Json::Array(items)) => items,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// A table of JSON objects whose fields this version need not know: the `preferred` fields first,
/// then the others by name.
pub fn objects(items: &[Json], preferred: &[&str]) -> String {
    let mut columns: Vec<&str> = preferred.to_vec();
    columns.retain(|name| items.iter().any(|item| item.get(name).is_some()));
    let mut others: Vec<&str> =
        items.iter().filter_map(Json::as_object).flat_map(|item| item.keys().map(String::as_str)).collect();
    others.sort_unstable();
    others.dedup();
    columns.extend(others.into_iter().filter(|name| !preferred.contains(name)));
    let mut table = new_table(&columns);
    for item in items {
        table.add_row(columns.iter().map(|name| plain(item.get(name).unwrap_or(&Json::Null))).collect::<Vec<_>>());
    }
    format!("{}\n", table.trim_fmt())
}

/// A JSON value for people: no quotes, lists with commas, absent as nothing.
pub fn plain(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => escape(text),
        Json::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Standard base64 (RFC 4648 section 4), with or without padding.
fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut bit_count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        bit_count += 6;
        if bit_count >= 8 {
            bit_count -= 8;
            out.push((bits >> bit_count) as u8);
        }
    }
    Some(out)
}

/// `1 row`, `2 rows`.
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(json: &str) -> StatementResult {
        serde_json::from_str(json).unwrap()
    }

    const ROWS: &str = r#"{"columns":["id","na,me"],"types":["INTEGER","TEXT"],
        "values":[[9223372036854775807,"O\"Brien"],[0.1000000000000000055,null],[-2,{"blob":"AP8="}],[{"real":"-inf"},""]]}"#;

    /// Numbers to the right in their own digits, NULL and blobs as SQL would write them.
    #[test]
    fn tables() {
        let expected = "\
+-----------------------+---------+
| id                    | na,me   |
+=================================+
|   9223372036854775807 | O\"Brien |
| 0.1000000000000000055 | NULL    |
|                    -2 | x'00ff' |
|                  -inf |         |
+-----------------------+---------+
";
        assert_eq!(render(&result(ROWS), Mode::Table), expected);
    }

    /// Fields with commas and quotes are quoted; NULL and the empty text differ.
    #[test]
    fn csv_form() {
        let expected =
            "id,\"na,me\"\n9223372036854775807,\"O\"\"Brien\"\n0.1000000000000000055,\n-2,x'00ff'\n-inf,\"\"\n";
        assert_eq!(render(&result(ROWS), Mode::Csv), expected);
    }

    /// JSON keeps the order of columns, their digits, and two columns of one name.
    #[test]
    fn json_form() {
        let twice = result(r#"{"columns":["b","a","b"],"values":[[1.50,{"blob":"AA=="},"x"],[1,2,3]]}"#);
        let expected = "[{\"b\":1.50,\"a\":{\"blob\":\"AA==\"},\"b\":\"x\"},\n{\"b\":1,\"a\":2,\"b\":3}]\n";
        assert_eq!(render(&twice, Mode::Json), expected);
        assert_eq!(render(&result(r#"{"columns":["a"],"values":[]}"#), Mode::Json), "[]\n");
    }

    /// Data cannot move the cursor.
    #[test]
    fn control_characters() {
        let shown = render(&result(r#"{"columns":["a"],"values":[["\u001b[2J"]]}"#), Mode::Table);
        assert!(shown.contains("\\u{1b}[2J") && !shown.contains('\x1b'));
    }

    /// A write without RETURNING has no rows to show.
    #[test]
    fn writes() {
        let write = result(r#"{"last_insert_id":1,"rows_affected":2}"#);
        assert_eq!(render(&write, Mode::Table), "");
        assert_eq!((write.rows_affected, write.last_insert_id), (Some(2), Some(1)));
    }

    /// Unknown objects become a table with the known fields first.
    #[test]
    fn unknown_objects() {
        let items: Vec<Json> =
            serde_json::from_str(r#"[{"zone":"a","name":"users","key":["a","b"]},{"name":"t"}]"#).unwrap();
        let shown = objects(&items, &["name", "absent"]);
        assert!(shown.contains("| name  | key  | zone |"), "{shown}");
        assert!(shown.contains("| users | a, b | a    |"), "{shown}");
    }

    /// RFC 4648 test vectors.
    #[test]
    fn base64() {
        for (encoded, plain) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(base64_decode(encoded).unwrap(), plain.as_bytes());
        }
        assert_eq!(base64_decode("?"), None);
    }
}
