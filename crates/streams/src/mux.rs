//! Channels of one WebSocket, joined to byte pipes.
//!
//! Both directions run at once: a pipe that nobody reads holds up what is received, never what is sent.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SelectAll, SplitSink, SplitStream, select_all};
use futures_util::{SinkExt, Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::channel::{Frame, Framing};
use crate::{Io, PIPE_BYTES, StreamError};

/// What one message may hold: as much as the servers that clients know accept.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// What is sent in one message.
const CHUNK_BYTES: usize = 32 << 10;
/// How long who has sent its last waits for the other to close.
pub(crate) const LINGER: Duration = Duration::from_secs(3);

pub(crate) async fn websocket<S: Io>(io: S, role: Role) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(4 << 20)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(io, role, Some(config)).await
}

/// A channel to send.
struct Outbound {
    channel: u8,
    pipe: DuplexStream,
    signal_end: bool,
}

/// When this side has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// When all that there is to send has been sent: a server's.
    Sent,
    /// When the peer closes: a client's.
    Peer,
}

/// The channels of one connection, before it runs.
pub(crate) struct Mux {
    framing: Framing,
    end: End,
    /// Whether the peer wants to be told of the end of each channel.
    signals: bool,
    outbound: Vec<Outbound>,
    /// Channels whose data go after all of the others'.
    last: Vec<Outbound>,
    inbound: HashMap<u8, DuplexStream>,
    /// Sent before anything else.
    first: Vec<Frame>,
}

impl Mux {
    pub(crate) fn new(framing: Framing, end: End, signals: bool) -> Self {
        Self {
            framing,
            end,
            signals: signals && framing.closes,
            outbound: Vec::new(),
            last: Vec::new(),
            inbound: HashMap::new(),
            first: Vec::new(),
        }
    }

    pub(crate) fn first(&mut self, channel: u8, payload: Bytes) {
        self.first.push(Frame::Data { channel, payload });
    }

    /// The pipe whose bytes are sent on a channel.
    pub(crate) fn send(&mut self, channel: u8) -> DuplexStream {
        let (mine, pipe) = tokio::io::duplex(PIPE_BYTES);
        self.outbound.push(Outbound { channel, pipe, signal_end: self.signals });
        mine
    }

    /// As [`send`](Self::send), after all others have ended.
    pub(crate) fn send_last(&mut self, channel: u8) -> DuplexStream {
        let (mine, pipe) = tokio::io::duplex(PIPE_BYTES);
        self.last.push(Outbound { channel, pipe, signal_end: false });
        mine
    }

    /// The pipe that gives what comes on a channel.
    pub(crate) fn receive(&mut self, channel: u8) -> DuplexStream {
        let (mine, pipe) = tokio::io::duplex(PIPE_BYTES);
        self.inbound.insert(channel, pipe);
        mine
    }

    /// Moves bytes until the [`End`]. All pipes are ended when it returns.
    pub(crate) async fn run<S: Io>(self, socket: WebSocketStream<S>) -> Result<(), StreamError> {
        let Self { framing, end, signals: _, outbound, last, mut inbound, first } = self;
        let (mut sink, mut stream) = socket.split();
        {
            let sending = async {
                for frame in &first {
                    sink.send(framing.encode(frame)).await?;
                }
                send_all(&mut sink, framing, outbound).await?;
                send_all(&mut sink, framing, last).await
            };
            let receiving = receive_all(&mut stream, framing, &mut inbound);
            let (mut sending, mut receiving) = (pin!(sending), pin!(receiving));
            tokio::select! {
                sent = &mut sending => {
                    sent?;
                    if end == End::Peer {
                        receiving.await?;
                    }
                }
                received = &mut receiving => {
                    received?;
                    if end == End::Sent {
                        // It cuts off what there still was to send.
                        return Err(StreamError::Closed);
                    }
                }
            }
        }
        drop(inbound);
        close(&mut sink, &mut stream).await;
        Ok(())
    }
}

/// Sends several pipes until all of them have ended.
async fn send_all<S: Io>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    framing: Framing,
    outbound: Vec<Outbound>,
) -> Result<(), StreamError> {
    let mut frames: SelectAll<_> = select_all(outbound.into_iter().map(|one| Box::pin(frames_of(one))));
    while let Some(frame) = frames.next().await {
        sink.send(framing.encode(&frame)).await?;
    }
    Ok(())
}

/// The frames of one pipe, with the signal of its end if that is wanted.
fn frames_of(outbound: Outbound) -> impl Stream<Item = Frame> + Send {
    let Outbound { channel, pipe, signal_end } = outbound;
    futures_util::stream::unfold(Some(pipe), move |pipe| async move {
        let mut pipe = pipe?;
        let mut chunk = vec![0; CHUNK_BYTES];
        match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => signal_end.then_some((Frame::Close { channel }, None)),
            Ok(read) => {
                chunk.truncate(read);
                Some((Frame::Data { channel, payload: chunk.into() }, Some(pipe)))
            }
        }
    })
}

/// Gives what comes to its pipes, until the peer closes. Polling it also answers pings.
async fn receive_all<S: Io>(
    stream: &mut SplitStream<WebSocketStream<S>>,
    framing: Framing,
    inbound: &mut HashMap<u8, DuplexStream>,
) -> Result<(), StreamError> {
    while let Some(message) = stream.next().await {
        let message = match message {
            Ok(Message::Close(_)) => break,
            Ok(message) => message,
            Err(error) if is_end(&error) => break,
            Err(error) => return Err(error.into()),
        };
        match framing.decode(message) {
            Some(Frame::Data { channel, payload }) => {
                if let Some(pipe) = inbound.get_mut(&channel) {
                    // If nobody reads it any more it is to go nowhere.
                    let _ = pipe.write_all(&payload).await;
                }
            }
            Some(Frame::Close { channel }) => {
                // Dropped, the pipe gives its reader the rest and then the end.
                inbound.remove(&channel);
            }
            None => {}
        }
    }
    inbound.clear();
    Ok(())
}

/// Whether the peer just went away, as many do instead of closing.
fn is_end(error: &Error) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => true,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => true,
        Error::Io(error) => matches!(
            error.kind(),
            std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::BrokenPipe
        ),
        _ => false,
    }
}

/// The close message of who has done: clients take one without a code for a failure.
pub(crate) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Says goodbye, and waits a little for the answer: a socket closed over unread data would cut off what
/// was sent last.
async fn close<S: Io>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    stream: &mut SplitStream<WebSocketStream<S>>,
) {
    let farewell = async {
        let _ = sink.send(goodbye()).await;
        while let Some(Ok(_)) = stream.next().await {}
    };
    let _ = tokio::time::timeout(LINGER, farewell).await;
}
