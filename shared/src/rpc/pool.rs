//! One connection per peer, opened on first use and again after a loss.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::Mutex;

use super::greeting::{GreetError, Told, UPGRADE_HINT};
use super::{Connection, KIND_REQUEST, RpcError, payload};
use crate::error::{Code, Error};
use crate::wire::{Envelope, Request, Response};

/// How long opening a connection may take: a peer on the other side of the world answers within it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections by address.
#[derive(Default)]
pub struct Pool {
    connections: DashMap<String, Arc<Mutex<Option<Arc<Connection>>>>>,
    told: Told,
}

impl Pool {
    /// The connection to `addr`, opened if need be. Callers that come meanwhile wait for the same.
    ///
    /// # Errors
    /// [`RpcError::NotSent`], [`RpcError::Incompatible`].
    pub async fn get(&self, addr: &str) -> Result<Arc<Connection>, RpcError> {
        let slot = match self.connections.get(addr) {
            Some(slot) => Arc::clone(&slot),
            None => Arc::clone(&self.connections.entry(addr.to_owned()).or_default()),
        };
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_lost()) {
            return Ok(Arc::clone(connection));
        }
        let not_sent = |why: String| RpcError::NotSent { addr: addr.to_owned(), why };
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, Connection::open(addr))
            .await
            .map_err(|_| not_sent("connecting took too long".into()))?
            .map_err(|error| match error {
                GreetError::Versions { .. } => {
                    if self.told.is_news(addr) {
                        tracing::warn!(%addr, %error, hint = UPGRADE_HINT, "a peer is not talked to");
                    }
                    RpcError::Incompatible { addr: addr.to_owned(), why: error.to_string() }
                }
                error => not_sent(error.to_string()),
            })?;
        let connection = Arc::new(connection);
        *slot = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Sends a request to the node at `addr`.
    ///
    /// # Errors
    /// The outer error when no answer came, the inner one when the node refused.
    pub async fn request(
        &self,
        addr: &str,
        request: Request,
        timeout: Duration,
    ) -> Result<Result<Response, Error>, RpcError> {
        self.send(addr, encode(request, timeout), timeout).await
    }

    /// Sends an encoded request, which may be sent again elsewhere without encoding it anew.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn send(
        &self,
        addr: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Result<Response, Error>, RpcError> {
        let connection = self.get(addr).await?;
        let answer = connection.call(KIND_REQUEST, payload, timeout).await?;
        Ok(postcard::from_bytes(&answer).unwrap_or_else(|error| {
            Err(Error::new(Code::WrongPeer, format!("the answer of {addr} does not decode: {error}")))
        }))
    }
}

/// A request as it goes into a frame.
pub fn encode(request: Request, timeout: Duration) -> Bytes {
    let envelope = Envelope { timeout_ms: timeout.as_millis() as u64, request };
    payload(&envelope)
}
