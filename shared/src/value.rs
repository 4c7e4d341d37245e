//! SQL values, as they travel in frames and log entries, and their JSON form.
//!
//! JSON keeps all 64 bits of an integer. A real is a number; what JSON cannot write is an object:
//! `{"real":"inf"}`, `{"real":"-inf"}`, and `{"blob":"<base64>"}` for bytes. SQLite stores NaN as
//! NULL, so no NaN arises, and `{"real":"nan"}` is NULL. Refused: arrays and any other object.
//!
//! A JSON number means the double next to it, as everywhere in JSON, so that what was read comes back with the same
//! bits. SQLite reads a literal or a text of twenty digits and more less exactly ([`numeric`](crate::numeric)); its
//! result may be another double.

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
    /// [`Code::BadRequest`] for arrays, unknown objects, bad base64 and integers that need 64 bits
    /// without a sign. A longer row of digits is a real, as it is in SQL.
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
                    "nan" => Ok(Self::Null),
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
    /// `:name`, `@name`, `$name`, `?1`: by name, with or without the sigil; with it goes first.
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
                let found = |wanted: &str| list.iter().find(|(given, _)| given == wanted).map(|(_, value)| value);
                found(name).or_else(|| found(bare(name)))
            }
        }
    }

    /// Do parameters and arguments match one to one? `names` are those of the parameters, in order.
    /// By name, a number that no parameter has needs no argument (`?3` alone makes three parameters).
    ///
    /// # Errors
    /// [`Code::WrongArgCount`].
    pub fn check(&self, names: &[Option<impl AsRef<str>>]) -> Result<(), Error> {
        let wrong = |message: String| {
            Err(Error::new(Code::WrongArgCount, message).hint("give one argument for each parameter"))
        };
        let list = match self {
            Self::Positional(list) if list.len() == names.len() => return Ok(()),
            Self::Positional(list) => {
                let (wanted, given) = (names.len(), list.len());
                return wrong(format!("the statement has {wanted} parameters, {given} arguments were given"));
            }
            Self::Named(list) => list,
        };
        let name = |index: usize| names[index].as_ref().map(AsRef::as_ref);
        let numbered =
            |index: usize| (index + 1..names.len()).any(|later| name(later).is_some_and(|n| n.starts_with('?')));
        for index in 0..names.len() {
            match name(index) {
                Some(name) if self.lookup(index + 1, Some(name)).is_none() => {
                    return wrong(format!("parameter {name} has no argument"));
                }
                None if !numbered(index) => {
                    return wrong(format!("parameter {} has no name, and arguments were given by name", index + 1));
                }
                _ => (),
            }
        }
        let all = || names.iter().flatten().map(AsRef::as_ref);
        let takes = |given: &str, name: &str| {
            given == name || given == bare(name) && !list.iter().any(|(other, _)| other == name)
        };
        match list.iter().find(|(given, _)| !all().any(|name| takes(given, name))) {
            Some((given, _)) => wrong(format!("argument {given} has no parameter")),
            None => Ok(()),
        }
    }

    /// Binds the arguments to a prepared statement.
    ///
    /// # Errors
    /// [`Code::WrongArgCount`] when the statement's parameters and the arguments do not match one to
    /// one; SQLite would bind NULL in silence.
    pub fn bind(&self, statement: &mut rusqlite::Statement<'_>) -> Result<(), Error> {
        let name = |index| statement.parameter_name(index).map(str::to_owned);
        let names: Vec<Option<String>> = (1..=statement.parameter_count()).map(name).collect();
        self.check(&names)?;
        for (index, name) in (1..).zip(&names) {
            let value = self.lookup(index, name.as_deref()).unwrap_or(&Value::Null);
            statement.raw_bind_parameter(index, value).map_err(|error| Error::from_sqlite(&error))?;
        }
        Ok(())
    }
}

/// A parameter's name without its sigil.
fn bare(name: &str) -> &str {
    name.get(1..).unwrap_or("")
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
        for text in [
            "[1]",
            "{}",
            r#"{"blob":"*"}"#,
            r#"{"real":"x"}"#,
            r#"{"a":1,"b":2}"#,
            "9223372036854775808",
            "18446744073709551615",
        ] {
            let error = Value::from_json(&serde_json::from_str(text).unwrap()).unwrap_err();
            assert_eq!(error.code, Code::BadRequest, "{text}");
        }
    }

    /// What JSON has no number for has a form of its own; NaN is NULL, as SQLite stores it.
    #[test]
    fn json_special_forms() {
        let read = |text: &str| Value::from_json(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(read(r#"{"real":"inf"}"#), Value::Real(f64::INFINITY));
        assert_eq!(read(r#"{"real":"+inf"}"#), Value::Real(f64::INFINITY));
        assert_eq!(read(r#"{"real":"-inf"}"#), Value::Real(f64::NEG_INFINITY));
        assert_eq!(read(r#"{"real":"nan"}"#), Value::Null);
        assert_eq!(Value::Real(f64::NAN).to_json(), Json::Null);
        assert_eq!(read(r#"{"blob":""}"#), Value::Blob(vec![]));
        assert_eq!(read(r#"{"blob":"AAH/"}"#), Value::Blob(vec![0, 1, 255]));
        assert_eq!([read("true"), read("false")], [Value::Integer(1), Value::Integer(0)]);
        assert_eq!(read("1.0"), Value::Real(1.0));
        assert_eq!(read("1e300"), Value::Real(1e300));
        assert_eq!(read("-9223372036854775808"), Value::Integer(i64::MIN));
        assert_eq!(read("-9223372036854775809"), Value::Real(-9_223_372_036_854_775_808.0));
        assert_eq!(read("100000000000000000000"), Value::Real(1e20));
    }

    /// Arguments by name reach `:a`, `@a`, `$a` and `?3`, with or without the sigil; two parameters that
    /// differ in the sigil alone are told apart; what is missing, unknown or given twice is refused.
    #[test]
    fn arguments_by_name() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let run = |sql: &str, args: &str| {
            let params = Params::from_json(Some(&serde_json::from_str(args).unwrap())).unwrap();
            let mut statement = db.prepare(sql).unwrap();
            params.bind(&mut statement).map_err(|error| (error.code, error.message))?;
            let mut rows = statement.raw_query();
            let row = rows.next().unwrap().unwrap();
            let values = (0..row.as_ref().column_count()).map(|at| Value::from(row.get_ref(at).unwrap()).to_json());
            Ok(values.collect::<Json>().to_string())
        };
        for (sql, args, wanted) in [
            ("SELECT :a, @b, $c", r#"{"a":1,"b":2,"c":3}"#, "[1,2,3]"),
            ("SELECT :a, @b, $c", r#"{":a":1,"@b":2,"$c":3}"#, "[1,2,3]"),
            ("SELECT :a, :a + 1", r#"{"a":1}"#, "[1,2]"),
            ("SELECT :a, @a", r#"{":a":1,"@a":2}"#, "[1,2]"),
            ("SELECT :a, @a", r#"{"a":1,"@a":2}"#, "[1,2]"),
            ("SELECT @a, :a", r#"{"a":1,"@a":2}"#, "[2,1]"),
            ("SELECT :a, @a", r#"{"a":1}"#, "[1,1]"),
            ("SELECT ?3", r#"{"?3":7}"#, "[7]"),
            ("SELECT ?3, ?1", r#"{"3":7,"1":{"blob":"AA=="}}"#, r#"[7,{"blob":"AA=="}]"#),
            (
                "SELECT ?2, :a",
                r#"{"2":9223372036854775807,"a":{"real":"-inf"}}"#,
                r#"[9223372036854775807,{"real":"-inf"}]"#,
            ),
            ("SELECT $a::b(c)", r#"{"$a::b(c)":1}"#, "[1]"),
            ("SELECT :é", r#"{"é":1}"#, "[1]"),
            ("SELECT 1", "{}", "[1]"),
        ] {
            assert_eq!(run(sql, args).as_deref(), Ok(wanted), "{sql} {args}");
        }
        for (sql, args, why) in [
            ("SELECT :a", "{}", "parameter :a has no argument"),
            ("SELECT :a, :b", r#"{"a":1}"#, "parameter :b has no argument"),
            ("SELECT :a", r#"{"a":1,"b":2}"#, "argument b has no parameter"),
            ("SELECT :a", r#"{"a":1,":a":2}"#, "argument a has no parameter"),
            ("SELECT :a", r#"{"@a":1}"#, "parameter :a has no argument"),
            ("SELECT :a, @a", r#"{"a":1,"b":2}"#, "argument b has no parameter"),
            ("SELECT :a", r#"{"A":1}"#, "parameter :a has no argument"),
            ("SELECT ?", r#"{"1":1}"#, "parameter 1 has no name, and arguments were given by name"),
            ("SELECT :a", "[]", "the statement has 1 parameters, 0 arguments were given"),
            ("SELECT ?3", "[1]", "the statement has 3 parameters, 1 arguments were given"),
        ] {
            assert_eq!(run(sql, args), Err((Code::WrongArgCount, why.to_owned())), "{sql} {args}");
        }
    }
}
