//! SQL values, as they travel in frames and log entries, and their JSON form.
//!
//! JSON keeps all 64 bits of an integer. A real is a number; what JSON cannot write is an object:
//! `{"real":"inf"}`, `{"real":"-inf"}`, and `{"blob":"<base64>"}` for bytes. SQLite stores NaN as
//! NULL, so no NaN arises. Refused: arrays and any other object.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::error::{Code, Error};

/// One SQL value. Equality is that of the stored form: `1` and `1.0` differ here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// SQL NULL.
    #[default]
    Null,
    /// A signed 64-bit integer.
    Integer(i64),
    /// An IEEE 754 double.
    Real(f64),
    /// UTF-8 text.
    Text(String),
    /// Raw bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// The value in its JSON form.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Integer(n) => Json::from(*n),
            Self::Real(r) if r.is_finite() => Json::from(*r),
            Self::Real(r) if r.is_nan() => Json::Null,
            Self::Real(r) => serde_json::json!({ "real": if *r > 0.0 { "inf" } else { "-inf" } }),
            Self::Text(text) => Json::from(text.as_str()),
            Self::Blob(bytes) => serde_json::json!({ "blob": BASE64.encode(bytes) }),
        }
    }

    /// Reads the JSON form. `true` and `false` are 1 and 0, as in SQLite.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for arrays, unknown objects, bad base64 and integers beyond 64 bits.
    pub fn from_json(json: &Json) -> Result<Self, Error> {
        let bad = |what: String| {
            Error::new(Code::BadRequest, what).hint(
                "an argument is null, true, false, a number, a string, {\"blob\":\"<base64>\"} or {\"real\":\"inf\"}",
            )
        };
        match json {
            Json::Null => Ok(Self::Null),
            Json::Bool(b) => Ok(Self::Integer((*b).into())),
            Json::Number(n) => {
                if let Some(i) = n.as_i64() {
                    return Ok(Self::Integer(i));
                }
                if n.is_u64() {
                    return Err(bad(format!("integer {n} does not fit in 64 signed bits")));
                }
                n.as_f64().map(Self::Real).ok_or_else(|| bad(format!("number {n} is out of range")))
            }
            Json::String(text) => Ok(Self::Text(text.clone())),
            Json::Object(map) if map.len() == 1 => match (map.get("blob"), map.get("real")) {
                (Some(Json::String(text)), _) => BASE64
                    .decode(text)
                    .map(Self::Blob)
                    .map_err(|error| bad(format!("a blob's base64 does not decode: {error}"))),
                (_, Some(Json::String(text))) => match text.as_str() {
                    "inf" | "+inf" => Ok(Self::Real(f64::INFINITY)),
                    "-inf" => Ok(Self::Real(f64::NEG_INFINITY)),
                    _ => Err(bad(format!("`{text}` is no special real"))),
                },
                _ => Err(bad("an object argument has the one key \"blob\" or \"real\"".into())),
            },
            Json::Array(_) | Json::Object(_) => Err(bad("an argument is an array or an unknown object".into())),
        }
    }

    /// About how many bytes the value takes in memory and on the wire.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Null | Self::Integer(_) | Self::Real(_) => 9,
            Self::Text(text) => text.len() + 5,
            Self::Blob(bytes) => bytes.len() + 5,
        }
    }
}

impl From<ValueRef<'_>> for Value {
    /// Text that is not UTF-8 has its bad bytes replaced by U+FFFD, since JSON cannot carry them.
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(n) => Self::Integer(n),
            ValueRef::Real(r) => Self::Real(r),
            ValueRef::Text(text) => Self::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(n) => ValueRef::Integer(*n),
            Self::Real(r) => ValueRef::Real(*r),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Arguments of a statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Params {
    /// `?`, `?1`: by position.
    Positional(Vec<Value>),
    /// `:name`, `@name`, `$name`: by name, with or without the sigil.
    Named(Vec<(String, Value)>),
}

impl Default for Params {
    fn default() -> Self {
        Self::Positional(Vec::new())
    }
}

impl Params {
    /// Reads `args`: absent, a list, or an object of named values.
    ///
    /// # Errors
    /// [`Code::BadRequest`] when it is neither or holds what is no value.
    pub fn from_json(json: Option<&Json>) -> Result<Self, Error> {
        match json {
            None | Some(Json::Null) => Ok(Self::default()),
            Some(Json::Array(list)) => {
                list.iter().map(Value::from_json).collect::<Result<_, _>>().map(Self::Positional)
            }
            Some(Json::Object(map)) => map
                .iter()
                .map(|(name, value)| Ok((name.clone(), Value::from_json(value)?)))
                .collect::<Result<_, Error>>()
                .map(Self::Named),
            Some(_) => Err(Error::new(Code::BadRequest, "`args` is a list, or an object for named parameters")),
        }
    }

    /// About how many bytes the arguments take.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Positional(list) => list.iter().map(Value::size_bytes).sum(),
            Self::Named(list) => list.iter().map(|(name, value)| name.len() + value.size_bytes()).sum(),
        }
    }

    /// The value of parameter `index` (from 1) of a prepared statement, whose name is `name` if it
    /// has one.
    pub fn lookup(&self, index: usize, name: Option<&str>) -> Option<&Value> {
        match self {
            Self::Positional(list) => list.get(index.checked_sub(1)?),
            Self::Named(list) => {
                let name = name?;
                let bare = name.trim_start_matches([':', '@', '$', '#', '?']);
                list.iter().find(|(n, _)| n == name || n == bare).map(|(_, value)| value)
            }
        }
    }

    /// Binds the arguments to a prepared statement.
    ///
    /// # Errors
    /// [`Code::WrongArgCount`] when the statement's parameters and the arguments do not match one to
    /// one; SQLite would bind NULL in silence.
    pub fn bind(&self, statement: &mut rusqlite::Statement<'_>) -> Result<(), Error> {
        let wanted = statement.parameter_count();
        let given = match self {
            Self::Positional(list) => list.len(),
            Self::Named(list) => list.len(),
        };
        let mismatch = || {
            Error::new(
                Code::WrongArgCount,
                format!("the statement has {wanted} parameters, {given} arguments were given"),
            )
            .hint("give one argument for each parameter")
        };
        if given != wanted {
            return Err(mismatch());
        }
        for index in 1..=wanted {
            let name = statement.parameter_name(index).map(str::to_owned);
            let value = self.lookup(index, name.as_deref()).ok_or_else(mismatch)?;
            statement.raw_bind_parameter(index, value).map_err(|error| Error::from_sqlite(&error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of value survives JSON both ways, with all bits of its integers.
    #[test]
    fn json_round_trip() {
        for value in [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Integer(i64::MAX),
            Value::Integer((1 << 53) + 1),
            Value::Real(0.1),
            Value::Real(-0.0),
            Value::Real(f64::INFINITY),
            Value::Real(f64::NEG_INFINITY),
            Value::Text("a\u{0}'é".into()),
            Value::Blob(vec![0, 255, 7]),
        ] {
            let text = value.to_json().to_string();
            let back = Value::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(back, value, "{text}");
        }
    }

    /// What is no value is refused by name, never bent into one.
    #[test]
    fn json_refusals() {
        for text in ["[1]", "{}", r#"{"blob":"*"}"#, r#"{"real":"x"}"#, r#"{"a":1,"b":2}"#, "18446744073709551615"] {
            let error = Value::from_json(&serde_json::from_str(text).unwrap()).unwrap_err();
            assert_eq!(error.code, Code::BadRequest, "{text}");
        }
    }
}
