//! A connection's bytes and bodies, under its bounds.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use skiff_streams::Watch;
use skiff_streams::places::Place;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::activity::{Activity, PARTING, Underway};
use crate::http_body::{Body, BoxError};
use crate::limits::Slot;
use crate::server::BODY_MAX;

/// Looks at a client's stream: notes that the client says something, and ends it when it takes nothing for too
/// long.
pub(crate) struct Guard {
    activity: Activity,
    stall_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Until when what the client still sends is read, once all is said to it.
    parting: Option<Pin<Box<Sleep>>>,
    /// Held for as long as the stream is open, also when it has been upgraded.
    _place: Place,
}

impl Guard {
    pub(crate) fn new(activity: Activity, stall_timeout: Duration, place: Place) -> Self {
        Self { activity, stall_timeout, stalled: None, parting: None, _place: place }
    }

    /// Reads what the client still sends of a body that nobody wants, until it ends or its time is over. A
    /// socket that is closed with bytes unread is reset, which may take the answer from the client.
    fn poll_parting(&mut self, cx: &mut Context<'_>, io: &mut (impl AsyncRead + Unpin)) -> Poll<()> {
        let timer = self.parting.get_or_insert_with(|| Box::pin(tokio::time::sleep(PARTING)));
        let mut bytes = [0; 8192];
        loop {
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

impl Watch for Guard {
    fn read(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.activity.heard();
        }
    }

    /// With the clock running while it waits for the client.
    fn written<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let limit = self.stall_timeout;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        while timer.as_mut().poll(cx).is_ready() {
            if !self.activity.has_streams() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")));
            }
            timer.as_mut().reset(Instant::now() + limit);
        }
        Poll::Pending
    }

    fn poll_shutdown<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
    ) -> Poll<io::Result<()>> {
        if self.parting.is_none() {
            let ended = Pin::new(&mut *io).poll_shutdown(cx);
            match self.written(cx, ended) {
                Poll::Ready(Ok(())) if self.activity.has_unread() => {}
                ended => return ended,
            }
        }
        self.poll_parting(cx, io).map(Ok)
    }
}

/// The client did not send its request's body in time.
#[derive(Debug, thiserror::Error)]
#[error("the body was not sent in time")]
pub(crate) struct BodyTimeout;

/// A request's body, which must have come by a deadline.
pub(crate) struct Timed<B: HttpBody> {
    /// There until it is dropped.
    body: Option<B>,
    limit: Duration,
    /// Set when it first has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
    /// Told of a body that is given up before its end.
    activity: Activity,
    /// Where such a body goes on HTTP/2.
    unwanted: Option<mpsc::Sender<B>>,
    ended: bool,
    /// Told when the body is there, or nobody wants it any more.
    in_flight: InFlight,
}

impl<B: HttpBody> Timed<B> {
    pub(crate) fn new(
        body: B,
        limit: Duration,
        activity: Activity,
        unwanted: Option<mpsc::Sender<B>>,
        in_flight: InFlight,
    ) -> Self {
        Self { body: Some(body), limit, timer: None, activity, unwanted, ended: false, in_flight }
    }
}

impl<B: HttpBody> Drop for Timed<B> {
    fn drop(&mut self) {
        if let Some(slot) = self.in_flight.get() {
            slot.body_is_read();
        }
        let Some(body) = self.body.take().filter(|body| !self.ended && !body.is_end_stream()) else { return };
        let taken = self.unwanted.as_ref().is_some_and(|unwanted| unwanted.try_send(body).is_ok());
        if !taken {
            self.activity.left_unread();
        }
    }
}

/// What is read at most of a body that nobody wants: more than of one that is.
const UNWANTED_MAX: usize = 4 * BODY_MAX;

/// Reads a body to its end whose request was answered before. To give it up would reset the stream on HTTP/2,
/// and some clients lose an answer, whole as it is, when they find their stream closed while they send.
pub(crate) async fn read_unwanted<B: HttpBody<Data = Bytes> + Unpin>(mut body: B, limit: Duration) {
    let reading = async {
        let mut left = UNWANTED_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // What comes later, or is more, is refused.
    let _ = tokio::time::timeout(limit, reading).await;
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
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            self.ended |= frame.is_none();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| Some(Err(BodyTimeout.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

/// What is handed over of an answer at a time on HTTP/2, where what was handed over is no longer clocked.
const PIECE_BYTES: usize = 64 << 10;

/// A request's place among those in flight, once it has one, until its answer's last byte is handed over: what
/// a client does not take lies in memory meanwhile. Travels as a request extension.
pub(crate) type InFlight = Arc<OnceLock<Slot>>;

/// An answer's body, with the request that it ends.
pub(crate) struct Answer {
    body: Body,
    /// Of a frame, what was not asked for yet.
    rest: Bytes,
    in_pieces: bool,
    underway: Underway,
    ended: bool,
    _in_flight: InFlight,
}

impl Answer {
    /// `head` asks for no body, so that none will be read.
    pub(crate) fn new(
        body: Body,
        mut underway: Underway,
        in_flight: InFlight,
        head: bool,
        in_pieces: bool,
    ) -> Self {
        underway.progressed(false);
        Self { body, rest: Bytes::new(), in_pieces, underway, ended: head, _in_flight: in_flight }
    }

    fn piece(&mut self) -> Bytes {
        let length = if self.in_pieces { self.rest.len().min(PIECE_BYTES) } else { self.rest.len() };
        self.rest.split_to(length)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.ended || self.is_end_stream() {
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
        if self.rest.is_empty() {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => frame,
            };
            self.ended |= frame.is_none();
            match frame {
                Some(Ok(frame)) if self.in_pieces => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => {
                        self.underway.progressed(false);
                        return Poll::Ready(Some(Ok(trailers)));
                    }
                },
                frame => {
                    self.underway.progressed(false);
                    return Poll::Ready(frame);
                }
            }
        }
        let piece = self.piece();
        let more = !self.rest.is_empty();
        self.underway.progressed(more);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole.set_lower(hint.lower() + rest);
        whole
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::StreamExt as _;
    use skiff_streams::Watched;
    use skiff_streams::places::Places;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::limits::Limits;

    fn guarded() -> (DuplexStream, Watched<DuplexStream, Guard>, Activity) {
        let (client, server) = duplex(16);
        let activity = Activity::new(&Limits::default());
        let place = Places::new(Limits::default().places()).enter(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let guard = Guard::new(activity.clone(), Duration::from_secs(60), place);
        (client, Watched::by(guard, server), activity)
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
    async fn of_a_body_that_nobody_wants_so_much_is_read_for_so_long() {
        let limit = Duration::from_secs(60);
        let pieces = |count: usize| {
            let piece = Bytes::from(vec![0; BODY_MAX]);
            let frames = (0..count).map(move |_| Ok::<_, BoxError>(Frame::data(piece.clone())));
            let endless = futures_util::stream::pending();
            http_body_util::StreamBody::new(futures_util::stream::iter(frames).chain(endless))
        };
        let read = async |count: usize| {
            let begun = Instant::now();
            read_unwanted(pieces(count), limit).await;
            begun.elapsed()
        };
        assert_eq!(read(5).await, Duration::ZERO, "too much");
        assert!(read(4).await >= limit);
        let whole = http_body_util::Full::new(Bytes::from_static(b"{}"));
        let begun = Instant::now();
        read_unwanted(whole, limit).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
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
