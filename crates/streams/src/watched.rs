//! A connection with something that looks at what passes: the one place where reads and writes are handed on to
//! what lies below, for all that stands between a socket and who speaks over it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::places::Place;

/// What looks at a connection's bytes. Each part may be left as it is: everything passes.
pub trait Watch: Unpin {
    /// What was read just now, possibly nothing.
    fn read(&mut self, _bytes: &[u8]) {}

    /// Whether what is written now goes nowhere, as if it were sent.
    fn swallows(&self) -> bool {
        false
    }

    /// What writing, or an end, came to. It may be made an error, also while it waits: `cx` is to be woken then.
    fn written<T>(&mut self, _cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        outcome
    }

    /// Ends the connection.
    fn poll_shutdown<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
    ) -> Poll<io::Result<()>> {
        let ended = Pin::new(io).poll_shutdown(cx);
        self.written(cx, ended)
    }
}

/// A place is held for as long as the connection is open, also when it was upgraded, and is a stream then. It
/// hears what comes.
impl Watch for Place {
    fn read(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.heard();
        }
    }
}

/// A connection and what looks at it.
pub struct Watched<IO, W> {
    pub(crate) io: IO,
    pub(crate) watch: W,
}

impl<IO, W> Watched<IO, W> {
    pub fn by(watch: W, io: IO) -> Self {
        Self { io, watch }
    }
}

impl<IO: AsyncRead + Unpin, W: Watch> AsyncRead for Watched<IO, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.watch.read(&buffer.filled()[before..]);
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin, W: Watch> AsyncWrite for Watched<IO, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.watch.swallows() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.watch.swallows() {
            return Poll::Ready(Ok(bytes.iter().map(|slice| slice.len()).sum()));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.watch.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.watch.written(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, watch } = &mut *self;
        watch.poll_shutdown(cx, io)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[derive(Default)]
    struct Log {
        read: Vec<u8>,
        outcomes: usize,
        deaf: bool,
    }

    impl Watch for Log {
        fn read(&mut self, bytes: &[u8]) {
            self.read.extend_from_slice(bytes);
        }

        fn swallows(&self) -> bool {
            self.deaf
        }

        fn written<T>(&mut self, _cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
            self.outcomes += usize::from(outcome.is_ready());
            outcome
        }
    }

    #[tokio::test]
    async fn all_that_passes_is_seen_and_handed_on() {
        let (mut client, server) = duplex(64);
        let mut watched = Watched::by(Log::default(), server);
        client.write_all(b"in").await.expect("taken");
        let mut buffer = [0; 2];
        watched.read_exact(&mut buffer).await.expect("read");
        assert_eq!((&buffer, watched.watch.read.as_slice()), (b"in", &b"in"[..]));
        watched.write_all(b"out").await.expect("written");
        let parts = [IoSlice::new(b" and"), IoSlice::new(b" on")];
        assert_eq!(watched.is_write_vectored(), watched.io.is_write_vectored());
        let count = watched.write_vectored(&parts).await.expect("written");
        watched.flush().await.expect("flushed");
        watched.watch.deaf = true;
        watched.write_all(b"nowhere").await.expect("swallowed");
        assert_eq!(watched.write_vectored(&parts).await.expect("swallowed"), 7);
        watched.shutdown().await.expect("ended");
        assert_eq!(watched.watch.outcomes, 4, "two writes, a flush and the end");
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.expect("ends");
        assert_eq!(seen, b"out and on"[..3 + count]);
    }
}
