//! What calls have in common: options from the query, from form fields behind a JSON body, or from
//! the body itself; the deadline; the request id.

use std::time::Duration;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::HttpRequest;
use flotilla_shared::ids::{GroupId, RequestId};
use flotilla_shared::wire::Level;
use serde_json::{Map, Value as Json};
use tokio::time::Instant;

use crate::Proxy;
use crate::execute::Options;

/// Longest time that a request may ask for: longer work belongs into jobs.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest `Idempotency-Key`.
const MAX_KEY_BYTES: usize = 256;

/// A malformed request.
pub fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadRequest, message)
}

/// Fields that any call that changes the cluster may have.
const COMMON: &[&str] = &["timeout", "wait", "auto_route"];

/// The body of a call that changes the cluster, if it is an object with no other fields than these and
/// [`COMMON`] ones: whoever misspells `dry_run` must not find the thing done.
pub fn with_fields(body: Json, fields: &[&str]) -> Result<Json, Error> {
    let Json::Object(map) = &body else {
        return Err(bad("the body is not an object").hint("send {\"name\": value, …}"));
    };
    match map.keys().find(|name| !fields.contains(&name.as_str()) && !COMMON.contains(&name.as_str())) {
        None => Ok(body),
        Some(unknown) => {
            let known: Vec<String> = fields.iter().map(|name| format!("`{name}`")).collect();
            Err(bad(format!("`{unknown}` is not known here")).hint(format!("this call takes {}", known.join(", "))))
        }
    }
}

/// A request's parameters, and the fields of its body where it is an object.
pub struct Fields<'a> {
    request: &'a HttpRequest,
    body: Option<&'a Map<String, Json>>,
}

impl<'a> Fields<'a> {
    /// Fields of a request and of its body; parameters go before the body.
    pub fn new(request: &'a HttpRequest, body: Option<&'a Json>) -> Self {
        Self { request, body: body.and_then(Json::as_object) }
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
        let key = request_key(self.request)?;
        Ok(Options {
            id: key.map_or_else(RequestId::random, RequestId::from_key),
            keyed: key.is_some(),
            deadline: self.deadline(proxy)?,
            level,
            freshness_ms: self.duration("freshness")?.map(|freshness| freshness.as_millis() as u64),
            shard,
            allow_partial: self.flag("allow_partial")?.unwrap_or(false),
            reads_only,
            any_rows: false,
        })
    }
}

fn request_key(request: &HttpRequest) -> Result<Option<&str>, Error> {
    let Some(value) = request.headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES => Ok(Some(key)),
        _ => Err(bad(format!("Idempotency-Key is 1 to {MAX_KEY_BYTES} visible ASCII characters"))),
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

    /// A field that the call does not know is refused by name, and so is what has no fields.
    #[test]
    fn unknown_fields() {
        use serde_json::json;
        let fields = &["node", "dry_run"];
        assert!(with_fields(json!({ "node": 1, "wait": true }), fields).is_ok());
        let error = with_fields(json!({ "node": 1, "dryrun": true }), fields).unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.hint.as_str()),
            ("`dryrun` is not known here", "this call takes `node`, `dry_run`")
        );
        for body in [json!([]), json!(7), json!(null)] {
            assert_eq!(with_fields(body, fields).unwrap_err().code, Code::BadRequest);
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
