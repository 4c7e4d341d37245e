//! Connections whose peers do not do their part.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::greeting::{GREETING_BYTES, Greeting};
use super::{Connection, RpcError, SEND_QUEUE_BYTES};

const MIB: usize = 1 << 20;

/// What the kernel may hold of a connection, both ends together, and what is gathered for one write.
const ELSEWHERE_BYTES: usize = 24 * MIB;

/// A connection to a peer that greets, and the peer's end.
async fn connected() -> (Arc<Connection>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let peer = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(&Greeting::default().to_bytes()).await.unwrap();
        socket.read_exact(&mut [0; GREETING_BYTES]).await.unwrap();
        socket
    };
    let (connection, socket) = tokio::join!(Connection::open(&addr), peer);
    (Arc::new(connection.unwrap()), socket)
}

/// A peer that stands still holds a bounded number of bytes here, however often a caller gives up and sends
/// again; once it reads, all that was taken reaches it, and what is larger than the bound as well.
#[tokio::test]
async fn a_peer_that_does_not_read() {
    let (connection, mut peer) = connected().await;
    let payload = Bytes::from(vec![7; MIB]);
    let mut taken = 0;
    // The answers are dropped, as by callers whose time is up.
    while let Ok(sent) = tokio::time::timeout(Duration::from_millis(500), connection.send(2, payload.clone())).await {
        drop(sent.unwrap());
        taken += payload.len();
        assert!(taken <= SEND_QUEUE_BYTES + ELSEWHERE_BYTES, "{taken} bytes were taken");
    }
    assert!(taken >= SEND_QUEUE_BYTES, "only {taken} bytes were taken");
    let large = Bytes::from(vec![7; SEND_QUEUE_BYTES + MIB]);
    let wanted = taken + large.len();
    let sending = Arc::clone(&connection);
    let sending = tokio::spawn(async move { sending.send(2, large).await.map(drop) });
    let (mut received, mut buffer) = (0, vec![0; MIB]);
    while received < wanted {
        let count = peer.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the connection ended after {received} of {wanted} bytes");
        received += count;
    }
    sending.await.unwrap().unwrap();
}

/// Whoever waits for room on a connection that is lost learns that nothing was sent.
#[tokio::test]
async fn no_room_on_a_lost_connection() {
    let (connection, peer) = connected().await;
    let payload = Bytes::from(vec![7; SEND_QUEUE_BYTES]);
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (connection, payload) = (Arc::clone(&connection), payload.clone());
            tokio::spawn(async move { connection.send(2, payload).await.map(drop) })
        })
        .collect();
    // The first is being written, the second has all the room, the third waits for it.
    while tokio::time::timeout(Duration::from_millis(10), connection.send(2, Bytes::from_static(b"x"))).await.is_ok() {}
    drop(peer);
    for sent in waiting {
        match sent.await.unwrap() {
            Ok(()) | Err(RpcError::NotSent { .. }) => (),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(connection.is_lost());
    let late = connection.send(2, payload).await.map(drop);
    assert!(matches!(late, Err(RpcError::NotSent { .. })), "{late:?}");
}
