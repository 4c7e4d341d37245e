//! JSON as requests bring it, read strictly.
//!
//! Input: the bytes of a body or of a parameter. Output: the first value, and where it ends. Two things are
//! stricter or more exact than serde_json's own reading. A name that an object has twice is an error: which of the
//! two was meant is unknown. And `-0` is the integer 0, as it is in SQL, while `-0.0` stays a real. Text
//! that is not UTF-8 is an error, in names and in values.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

/// The whole of a text as one value.
///
/// # Errors
/// Why it is not.
pub fn read(bytes: &[u8]) -> Result<Json, String> {
    match read_first(bytes)? {
        (value, end) if bytes[end..].trim_ascii().is_empty() => Ok(value),
        _ => Err("something follows the first value".into()),
    }
}

/// The first value, and the number of bytes up to its end.
///
/// # Errors
/// Why there is none.
pub fn read_first(bytes: &[u8]) -> Result<(Json, usize), String> {
    let exact = without_minus_zero(bytes);
    let mut stream = serde_json::Deserializer::from_slice(&exact).into_iter::<Strict>();
    match stream.next() {
        Some(value) => Ok((value.map_err(|error| error.to_string())?.0, stream.byte_offset())),
        None => Err("it is empty".into()),
    }
}

/// Numbers `-0` made `0`, in as many bytes: the parser makes a real of the former.
fn without_minus_zero(bytes: &[u8]) -> Cow<'_, [u8]> {
    let ends = |at: usize| matches!(bytes.get(at), None | Some(b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r'));
    let is_exponent = |at: usize| at > 0 && matches!(bytes[at - 1], b'e' | b'E');
    let found = |at: usize| bytes[at..].starts_with(b"-0") && ends(at + 2) && !is_exponent(at);
    let Some(first) = (0..bytes.len()).find(|at| bytes[*at] == b'-' && found(*at)) else { return bytes.into() };
    let (mut exact, mut in_text, mut at) = (bytes.to_vec(), false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'-' if !in_text && at >= first && found(at) => exact[at] = b' ',
            _ => (),
        }
        at += 1;
    }
    exact.into()
}

/// A value in which no object has a name twice.
struct Strict(Json);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let Strict(value) = entries.next_value()?;
            if map.contains_key(&name) {
                return Err(A::Error::custom(format!("`{name}` is there twice in one object")));
            }
            map.insert(name, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything but doubled names and `-0` is read as serde_json reads it.
    #[test]
    fn as_serde_json() {
        for text in [
            "null",
            "true",
            "[]",
            "{}",
            r#" {"a":[1,-1,1.5,1e3,-0.0,-0e0,"x",{"b":null}],"é":"\u00e9\ud83d\udea2"} "#,
            "18446744073709551615",
            "-9223372036854775808",
            "100000000000000000000",
            r#"["-0", "a\"-0,", "\\",0]"#,
            r#"{"-0":"-0,-0]"}"#,
        ] {
            let wanted: Json = serde_json::from_str(text).unwrap();
            assert_eq!(read(text.as_bytes()).unwrap().to_string(), wanted.to_string(), "{text}");
        }
        for bad in ["", " ", "{", "[1,]", "01", "-", "- 0", "-00", "\"\u{1}\"", "1 2", "{\"a\":1}x", r#""\ud800""#] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read(b"\"\xff\"").is_err());
        assert!(read(b"{\"\xff\":1}").is_err());
        assert!(read("[".repeat(100_000).as_bytes()).is_err());
    }

    /// `-0` is an integer wherever a number may be, and only there.
    #[test]
    fn minus_zero() {
        for (text, wanted) in [
            ("-0", "0"),
            (" -0 ", "0"),
            ("[-0,-0 , -0.0,-0\n]", "[0,0,-0.0,0]"),
            (r#"{"a":-0,"b":"-0","c":["-0]",-0],"d":"\"-0,"}"#, r#"{"a":0,"b":"-0","c":["-0]",0],"d":"\"-0,"}"#),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap().to_string(), wanted, "{text}");
        }
        assert_eq!(read_first(br#"{"a":-0}&q=-0"#).unwrap().1, 8);
    }

    /// A name that is there twice is refused at any depth, also where it is written in two ways.
    #[test]
    fn doubled_names() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#] {
            assert!(read(text.as_bytes()).unwrap_err().contains("`a` is there twice"), "{text}");
        }
        assert!(read(br#"{"a":1,"A":1,"b":{"a":1}}"#).is_ok());
    }
}
