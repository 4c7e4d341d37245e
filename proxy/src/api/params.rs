//! What calls have in common: options from the query, from form fields behind a JSON body, or from
//! the body itself; the deadline; the request id.

use std::time::Duration;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{HttpRequest, unknown_field};
use flotilla_shared::ids::{GroupId, RequestId};
use flotilla_shared::wire::Level;
use serde_json::{Map, Value as Json};
use tokio::time::Instant;

use crate::Proxy;
use crate::execute::Options;

/// Longest time that a request may ask for: longer work belongs into jobs.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest idempotency key.
const MAX_KEY_BYTES: usize = 256;

/// A malformed request.
pub fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadRequest, message)
}

/// Options of any call that changes the cluster.
const COMMON: &[&str] = &["timeout", "wait", "auto_route", "idempotency_key"];

/// Options of those calls that may also be parameters; all others have values that are no plain texts.
const AS_PARAMETERS: &[&str] =
    &["dry_run", "patience", "dead_after", "balance", "by", "max_bytes_per_second", "max_parallel"];

/// Options of calls that run statements: in the body, as parameters, or as form fields.
pub const SQL_OPTIONS: &[&str] = &[
    "transaction",
    "foreign_keys",
    "stop_on_error",
    "timeout",
    "level",
    "freshness",
    "allow_partial",
    "auto_route",
    "shard",
    "idempotency_key",
];

/// Parameters of calls that only show something.
pub const SHOW_OPTIONS: &[&str] = &["timeout"];

/// The body of a call that changes the cluster, if it is an object with no other fields than these and
/// [`COMMON`] ones, and there are no other parameters: whoever misspells `dry_run` must not find the thing done.
///
/// # Errors
/// [`Code::BadRequest`], naming what is not known.
pub fn with_fields(request: &mut HttpRequest, fields: &[&str]) -> Result<Json, Error> {
    let body = request.json()?;
    let Some(map) = body.as_object() else {
        return Err(bad("the body is not an object").hint("send {\"name\": value, …}"));
    };
    known_fields(map, &[fields, COMMON].concat())?;
    let as_parameters = fields.iter().filter(|name| AS_PARAMETERS.contains(name));
    let params: Vec<&str> = as_parameters.chain(COMMON).copied().collect();
    Fields::new(request, Some(&body)).only(&params)?;
    Ok(body)
}

/// Are there no other fields than these?
///
/// # Errors
/// [`Code::BadRequest`], naming the first one.
pub fn known_fields(map: &Map<String, Json>, known: &[&str]) -> Result<(), Error> {
    match map.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(unknown_field(unknown, "field", known)),
    }
}

/// The same for a call that may come without a body.
pub fn with_optional_fields(request: &mut HttpRequest, fields: &[&str]) -> Result<Json, Error> {
    if request.body.trim_ascii().is_empty() {
        request.body = "{}".into();
    }
    with_fields(request, fields)
}

/// A request's parameters, and the fields of its body where it is an object.
pub struct Fields<'a> {
    request: &'a HttpRequest,
    body: Option<&'a Map<String, Json>>,
}

impl<'a> Fields<'a> {
    /// Fields of a request and of its body.
    pub fn new(request: &'a HttpRequest, body: Option<&'a Json>) -> Self {
        Self { request, body: body.and_then(Json::as_object) }
    }

    /// Those of a call that only shows something.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for a parameter that such calls do not have.
    pub fn shown(request: &'a HttpRequest) -> Result<Self, Error> {
        Self::new(request, None).only(SHOW_OPTIONS)
    }

    /// Are there no other parameters than these, and none that the body has, too?
    ///
    /// # Errors
    /// [`Code::BadRequest`], naming the one.
    pub fn only(self, params: &[&str]) -> Result<Self, Error> {
        self.request.has_only(params)?;
        match self.request.params.iter().find(|(name, _)| self.in_body(name).is_some()) {
            None => Ok(self),
            Some((name, _)) => {
                Err(bad(format!("`{name}` is given twice, as a parameter and in the body")).hint("give it once"))
            }
        }
    }

    fn in_body(&self, name: &str) -> Option<&'a Json> {
        self.body?.get(name).filter(|value| !value.is_null())
    }

    /// A text or number.
    pub fn text(&self, name: &str) -> Result<Option<String>, Error> {
        if let Some(text) = self.request.param(name) {
            return Ok(Some(text.to_owned()));
        }
        match self.in_body(name) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.clone())),
            Some(Json::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(bad(format!("`{name}` is a text"))),
        }
    }

    /// Yes or no.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        if let Some(flag) = self.request.flag(name)? {
            return Ok(Some(flag));
        }
        match self.in_body(name) {
            None => Ok(None),
            Some(Json::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(bad(format!("`{name}` is true or false"))),
        }
    }

    /// A time in milliseconds, or with `ms`, `s` or `m` behind it.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, Error> {
        self.text(name)?
            .map(|text| {
                duration(&text).ok_or_else(|| bad(format!("`{name}` cannot be `{text}`; write 1500, 1500ms or 5s")))
            })
            .transpose()
    }

    /// When to give up.
    pub fn deadline(&self, proxy: &Proxy) -> Result<Instant, Error> {
        let timeout = self.duration("timeout")?.unwrap_or(proxy.options.default_timeout).min(MAX_TIMEOUT);
        Ok(Instant::now() + timeout)
    }

    /// How to run statements.
    pub fn options(&self, proxy: &Proxy, reads_only: bool) -> Result<Options, Error> {
        let shard = self
            .text("shard")?
            .map(|text| text.parse::<GroupId>().map_err(|error| bad(error.to_string())))
            .transpose()?;
        let shard = match (self.flag("auto_route")?.unwrap_or(true), shard) {
            (true, None) => None,
            (false, Some(shard)) if shard.is_shard() => Some(shard),
            (false, _) => return Err(bad("auto_route=false needs shard=<id>").hint("GET /shard lists the shards")),
            (true, Some(_)) => {
                return Err(bad("shard=<id> needs auto_route=false").hint("the proxy finds the shard by itself"));
            }
        };
        let level = match self.text("level")?.as_deref() {
            None | Some("linearizable") => Level::Linearizable,
            Some("lease") => Level::Lease,
            Some("none") => Level::None,
            Some(other) => return Err(bad(format!("`level` is linearizable, lease or none, not `{other}`"))),
        };
        let key = self.request_key()?;
        Ok(Options {
            id: key.as_deref().map_or_else(RequestId::random, RequestId::from_key),
            keyed: key.is_some(),
            deadline: self.deadline(proxy)?,
            level,
            freshness_ms: self.duration("freshness")?.map(|freshness| freshness.as_millis() as u64),
            shard,
            allow_partial: self.flag("allow_partial")?.unwrap_or(false),
            reads_only,
            internal: false,
            any_rows: false,
            at_us: None,
        })
    }

    /// The key that names the request: header `Idempotency-Key`, or field or parameter `idempotency_key`,
    /// which mean the same.
    fn request_key(&self) -> Result<Option<String>, Error> {
        let wrong = || bad(format!("an idempotency key is 1 to {MAX_KEY_BYTES} visible ASCII characters"));
        let header = self.request.headers.get("idempotency-key");
        let header = header.map(|value| value.to_str().map(str::to_owned).map_err(|_| wrong())).transpose()?;
        let key = match (header, self.text("idempotency_key")?) {
            (Some(header), Some(field)) if header != field => {
                return Err(bad("header Idempotency-Key and `idempotency_key` differ").hint("send one of them"));
            }
            (header, field) => header.or(field),
        };
        let fits = |key: &String| {
            (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        };
        match key {
            Some(key) if !fits(&key) => Err(wrong()),
            key => Ok(key),
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (number, unit_ms) = match text {
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1.0),
        _ if text.ends_with('s') => (&text[..text.len() - 1], 1000.0),
        _ if text.ends_with('m') => (&text[..text.len() - 1], 60_000.0),
        _ => (text, 1.0),
    };
    let ms = number.trim().parse::<f64>().ok()? * unit_ms;
    (ms >= 0.0 && ms.is_finite()).then(|| Duration::from_millis(ms.min(1e12) as u64))
}

/// A text field of a body that must be there.
pub fn required<'a>(body: &'a Json, name: &str) -> Result<&'a str, Error> {
    body.get(name)
        .and_then(Json::as_str)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| bad(format!("`{name}` is missing or not a text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(params: &[(&str, &str)], body: &str) -> HttpRequest {
        HttpRequest {
            method: hyper::Method::POST,
            path: "/repair".into(),
            params: params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            headers: hyper::HeaderMap::new(),
            body: body.to_owned().into(),
        }
    }

    /// A field or parameter that the call does not know is refused by name, and so is what has no fields and what is
    /// given in two places.
    #[test]
    fn unknown_fields() {
        let read = |params: &[(&str, &str)], body: &str| {
            let outcome = with_optional_fields(&mut request(params, body), &["nodes", "dry_run"]);
            outcome.map(|_| ()).map_err(|error| (error.message, error.hint))
        };
        assert_eq!(read(&[("dry_run", "true"), ("timeout", "5s")], r#"{"nodes":[1],"wait":true}"#), Ok(()));
        assert_eq!(read(&[("dry_run", "true")], " "), Ok(()));
        let known = "`nodes`, `dry_run`, `timeout`, `wait`, `auto_route`, `idempotency_key`";
        let refused = |message: &str, hint: &str| Err((message.to_owned(), hint.to_owned()));
        let field = format!("this call takes the fields {known}");
        assert_eq!(read(&[], r#"{"dryrun":true}"#), refused("field `dryrun` is not known here", &field));
        assert_eq!(read(&[], "{}&dryrun=true").unwrap_err().0, "parameter `dryrun` is not known here");
        // It would not be read there.
        let params = "this call takes the parameters `dry_run`, `timeout`, `wait`, `auto_route`, `idempotency_key`";
        assert_eq!(read(&[("nodes", "[1]")], "{}"), refused("parameter `nodes` is not known here", params));
        let twice = "`dry_run` is given twice, as a parameter and in the body";
        assert_eq!(read(&[("dry_run", "1")], r#"{"dry_run":true}"#), refused(twice, "give it once"));
        for body in ["[]", "7", "null"] {
            assert!(read(&[], body).is_err(), "{body}");
        }
    }

    /// The key of a request may come in three ways, and is the same in each; two that differ are refused.
    #[test]
    fn keys_of_requests() {
        let key = |header: Option<&str>, params: &[(&str, &str)], body: Json| {
            let mut request = request(params, "");
            if let Some(header) = header {
                request.headers.insert("idempotency-key", header.parse().unwrap());
            }
            Fields::new(&request, Some(&body)).request_key().map_err(|error| error.code)
        };
        let (none, body) = (serde_json::json!({}), serde_json::json!({ "idempotency_key": "a b" }));
        assert_eq!(key(None, &[], none.clone()), Ok(None));
        for found in [
            key(Some("a b"), &[], none.clone()),
            key(None, &[("idempotency_key", "a b")], none.clone()),
            key(None, &[], body.clone()),
            key(Some("a b"), &[], body.clone()),
        ] {
            assert_eq!(found.as_ref().map(Option::as_deref), Ok(Some("a b")));
        }
        for refused in [
            key(Some("b"), &[], body),
            key(Some(""), &[], none.clone()),
            key(None, &[("idempotency_key", "é")], none.clone()),
            key(None, &[("idempotency_key", &"k".repeat(MAX_KEY_BYTES + 1))], none),
            key(None, &[], serde_json::json!({ "idempotency_key": [] })),
        ] {
            assert_eq!(refused, Err(Code::BadRequest));
        }
    }

    /// Times have units, and nonsense is refused.
    #[test]
    fn durations() {
        for (text, ms) in [("1500", 1500), ("5s", 5000), ("20ms", 20), ("1.5s", 1500), ("2m", 120_000), (" 3 s", 3000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1", "1h", "NaN", "inf", "é"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
