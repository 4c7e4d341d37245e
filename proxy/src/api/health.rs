//! `/healthz`: the process answers. `/readyz`: it knows the cluster. `/metrics`.

use bytes::Bytes;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{self, HttpResponse};
use hyper::header::HeaderValue;
use serde_json::json;

use crate::Proxy;

/// The process answers.
pub fn healthz() -> HttpResponse {
    http::json(200, &json!({ "status": "ok" }))
}

/// The registry has arrived.
pub fn readyz(proxy: &Proxy) -> HttpResponse {
    let registry = proxy.cluster.registry();
    match registry.cluster {
        0 => http::error(&proxy.cluster.unheard().unwrap_or_else(|| {
            Error::new(Code::Unavailable, "this proxy has not heard from the metadata group yet").hint("retry")
        })),
        _ => http::json(200, &json!({ "status": "ready", "registry_version": registry.version })),
    }
}

/// Counters in the OpenMetrics text form.
pub fn metrics(proxy: &Proxy) -> HttpResponse {
    let registry = proxy.cluster.registry();
    let cached = proxy.mirrors.current().map_or(0, |mirror| mirror.cached());
    let text = proxy.metrics.text(registry.version, registry.schema_version.0, cached);
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    http::bytes(200, kind, Bytes::from(text))
}
