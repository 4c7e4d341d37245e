//! Frames: how they are written and read.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::MAX_FRAME_BYTES;

/// Bytes of a frame before its payload.
const HEADER_BYTES: usize = 4 + 1 + 8;

/// Bytes gathered for one write before it is made.
const WRITE_BYTES: usize = 256 << 10;

/// A message.
pub(super) struct Frame {
    pub kind: u8,
    pub id: u64,
    pub payload: Bytes,
    /// Its place among the bytes that wait, for frames that are calls.
    pub _room: Option<OwnedSemaphorePermit>,
}

/// Writes frames from `queue` until it closes: all that wait go out together, and so do those of tasks that are
/// ready to run, since a system call costs more than all else about a small frame.
pub(super) async fn write_frames(
    mut socket: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES);
    while let Some(frame) = queue.recv().await {
        put(&mut buffer, &frame);
        // Whoever is ready to run may have frames to add, so they run first.
        tokio::task::yield_now().await;
        while buffer.len() < WRITE_BYTES {
            match queue.try_recv() {
                Ok(frame) => put(&mut buffer, &frame),
                Err(_) => break,
            }
        }
        socket.write_all(&buffer).await?;
        buffer.clear();
    }
    socket.shutdown().await
}

fn put(buffer: &mut BytesMut, frame: &Frame) {
    buffer.reserve(HEADER_BYTES + frame.payload.len());
    buffer.put_u32_le(frame.payload.len() as u32);
    buffer.put_u8(frame.kind);
    buffer.put_u64_le(frame.id);
    buffer.put_slice(&frame.payload);
}

/// Reads frames; several from one read of the socket.
pub(super) struct FrameReader<R> {
    socket: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(socket: R) -> Self {
        Self { socket, buffer: BytesMut::with_capacity(64 << 10) }
    }

    /// The next frame, or `None` at the end of the stream. Cancel-safe: what was read stays here.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if self.buffer.len() >= HEADER_BYTES {
                let length = u32::from_le_bytes(self.buffer[..4].try_into().expect("4 bytes")) as usize;
                if length > MAX_FRAME_BYTES {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
                }
                if self.buffer.len() >= HEADER_BYTES + length {
                    let mut frame = self.buffer.split_to(HEADER_BYTES + length);
                    frame.advance(4);
                    let kind = frame.get_u8();
                    let id = frame.get_u64_le();
                    return Ok(Some(Frame { kind, id, payload: frame.freeze(), _room: None }));
                }
                self.buffer.reserve(HEADER_BYTES + length - self.buffer.len());
            } else {
                self.buffer.reserve(HEADER_BYTES);
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}
