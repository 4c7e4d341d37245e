//! A proxy that knows no cluster yet.

use super::*;

/// A proxy without a registry is not ready and says so in time.
#[tokio::test]
async fn without_a_registry() {
    let proxy = Proxy::new(flotilla_shared::client::Cluster::new(vec!["127.0.0.1:1".into()]), ProxyOptions::default());
    let request = |path: &str| HttpRequest {
        method: Method::GET,
        path: path.into(),
        params: vec![("q".into(), "SELECT 1".into()), ("timeout".into(), "50".into())],
        headers: HeaderMap::new(),
        body: Default::default(),
    };
    assert_eq!(proxy.handle(request("/readyz")).await.status(), 503);
    assert_eq!(proxy.handle(request("/query")).await.status(), 503);
    assert_eq!(proxy.handle(request("/healthz")).await.status(), 200);
}
