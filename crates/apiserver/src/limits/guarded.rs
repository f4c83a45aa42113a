//! A connection's bytes and bodies, under its bounds.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::Place;
use super::activity::{Activity, PARTING, Underway};
use crate::http_body::{Body, BoxError};

/// A client's stream: notes that the client says something, and ends when it takes nothing for too long.
pub(crate) struct Guarded<IO> {
    io: IO,
    activity: Activity,
    stall_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Until when what the client still sends is read, once all is said to it.
    parting: Option<Pin<Box<Sleep>>>,
    /// Held for as long as the stream is open, also when it has been upgraded.
    _place: Place,
}

impl<IO> Guarded<IO> {
    pub(crate) fn new(io: IO, activity: Activity, stall_timeout: Duration, place: Place) -> Self {
        Self { io, activity, stall_timeout, stalled: None, parting: None, _place: place }
    }

    /// What a write came to, with the clock running while it waits for the client.
    fn watched<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.stall_timeout;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        while timer.as_mut().poll(cx).is_ready() {
            if !self.activity.lasts() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")));
            }
            timer.as_mut().reset(Instant::now() + limit);
        }
        Poll::Pending
    }
}

impl<IO: AsyncRead + Unpin> Guarded<IO> {
    /// Reads what the client still sends of a body that nobody wants, until it ends or its time is over. A
    /// socket that is closed with bytes unread is reset, which may take the answer from the client.
    fn poll_parting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.parting.get_or_insert_with(|| Box::pin(tokio::time::sleep(PARTING)));
        let mut bytes = [0; 8192];
        loop {
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.heard();
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.watched(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.parting.is_none() {
            let ended = Pin::new(&mut self.io).poll_shutdown(cx);
            match self.watched(cx, ended) {
                Poll::Ready(Ok(())) if self.activity.has_unread() => {}
                ended => return ended,
            }
        }
        self.poll_parting(cx).map(Ok)
    }
}

/// The client did not send its request's body in time.
#[derive(Debug, thiserror::Error)]
#[error("the body was not sent in time")]
pub(crate) struct BodyTimeout;

/// A request's body, which must have come by a deadline.
pub(crate) struct Timed<B: HttpBody> {
    body: B,
    limit: Duration,
    /// Set when it first has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
    /// Told of a body that is given up before its end.
    activity: Activity,
    ended: bool,
}

impl<B: HttpBody> Timed<B> {
    pub(crate) fn new(body: B, limit: Duration, activity: Activity) -> Self {
        Self { body, limit, timer: None, activity, ended: false }
    }
}

impl<B: HttpBody> Drop for Timed<B> {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.activity.left_unread();
        }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Timed<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.ended |= frame.is_none();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| Some(Err(BodyTimeout.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, with the request that it ends.
pub(crate) struct Answer {
    body: Body,
    underway: Underway,
    ended: bool,
}

impl Answer {
    /// `head` asks for no body, so that none will be read.
    pub(crate) fn new(body: Body, underway: Underway, head: bool) -> Self {
        Self { body, underway, ended: head }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.ended || self.body.is_end_stream() {
            self.underway.answered();
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.ended |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::limits::{Connections, Limits};

    fn guarded() -> (DuplexStream, Guarded<DuplexStream>, Activity) {
        let (client, server) = duplex(16);
        let activity = Activity::new(&Limits::default());
        let place = Connections::default().enter(IpAddr::V4(Ipv4Addr::LOCALHOST), 1, 1).expect("room");
        let guarded = Guarded::new(server, activity.clone(), Duration::from_secs(60), place);
        (client, guarded, activity)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_wants_is_read_before_the_connection_ends() {
        let (mut client, mut server, activity) = guarded();
        activity.left_unread();
        let ending = tokio::spawn(async move { server.shutdown().await });
        client.write_all(&[0; 1000]).await.expect("it is taken");
        drop(client);
        ending.await.expect("no panic").expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_sending_is_not_waited_for_long() {
        let begun = Instant::now();
        let (client, mut server, activity) = guarded();
        server.shutdown().await.expect("ends");
        assert_eq!(begun.elapsed(), Duration::ZERO, "all was read");
        activity.left_unread();
        server.shutdown().await.expect("ends");
        assert!((PARTING..PARTING * 2).contains(&begun.elapsed()));
        drop(client);
    }
}
