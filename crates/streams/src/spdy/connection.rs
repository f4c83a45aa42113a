//! One SPDY connection: many streams, each a pipe.
//!
//! Reading and writing run side by side, so that a stream that nobody reads holds up what comes, never
//! what goes. The end of a pipe is the end (FIN) of that side of its stream.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::{AbortHandle, AbortRegistration, Abortable};
use futures_util::stream::{self, SelectAll};
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::frame::{self, Control, Frame, FrameHeader, HEADER_BYTES};
use super::{Compressor, Decompressor, Headers, SpdyError};
use crate::mux::LINGER;
use crate::{Io, PIPE_BYTES};

/// Streams that may live on one connection.
const STREAMS_MAX: usize = 512;
/// Opened streams that wait to be taken, and frames that wait to be sent.
const QUEUE: usize = 32;
const CHUNK_BYTES: usize = 32 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams with odd numbers.
    Client,
    Server,
}

/// A stream of a connection. Dropping it ends it.
pub struct SpdyStream {
    /// 0 on the side that opened it.
    pub id: u32,
    pub headers: Headers,
    pub io: DuplexStream,
    /// Resolves with `Ok` when the peer resets the stream, which wants whatever it is for to stop.
    pub reset: oneshot::Receiver<()>,
}

/// Opens streams.
#[derive(Clone)]
pub struct Opener(mpsc::Sender<Command>);

impl Opener {
    /// `None` if the connection has ended.
    pub async fn open(&self, headers: Headers) -> Option<SpdyStream> {
        let (stream, pipe) = new_stream(0, headers.clone());
        self.0.send(Command::Open(headers, pipe)).await.ok()?;
        Some(stream)
    }
}

enum Command {
    Open(Headers, Pipe),
    /// A stream that the peer has opened.
    Answer(u32, ReadHalf<DuplexStream>, AbortRegistration),
    Send(Frame),
}

/// The connection's end of a stream's pipe.
struct Pipe {
    incoming: WriteHalf<DuplexStream>,
    outgoing: ReadHalf<DuplexStream>,
    reset: oneshot::Sender<()>,
}

/// What is known of a stream while any side of it is open.
struct Entry {
    /// `None` while it is being written to, and after its end.
    incoming: Option<WriteHalf<DuplexStream>>,
    incoming_done: bool,
    outgoing_done: bool,
    stop_outgoing: AbortHandle,
    reset: oneshot::Sender<()>,
}

type Entries = Arc<Mutex<HashMap<u32, Entry>>>;

pub struct Connection<S> {
    io: S,
    role: Role,
    accepted: mpsc::Sender<SpdyStream>,
    commands: mpsc::Sender<Command>,
    queue: mpsc::Receiver<Command>,
}

fn new_stream(id: u32, headers: Headers) -> (SpdyStream, Pipe) {
    let (io, pipe) = tokio::io::duplex(PIPE_BYTES);
    let (outgoing, incoming) = tokio::io::split(pipe);
    let (reset, told) = oneshot::channel();
    (SpdyStream { id, headers, io, reset: told }, Pipe { incoming, outgoing, reset })
}

fn entry(pipe: Pipe) -> (Entry, ReadHalf<DuplexStream>, AbortRegistration) {
    let (stop_outgoing, registration) = AbortHandle::new_pair();
    let entry = Entry {
        incoming: Some(pipe.incoming),
        incoming_done: false,
        outgoing_done: false,
        stop_outgoing,
        reset: pipe.reset,
    };
    (entry, pipe.outgoing, registration)
}

impl<S: Io> Connection<S> {
    /// The connection, which does nothing until it [`run`](Self::run)s, with what opens streams and what
    /// gives those that the peer opens. Once the latter is dropped the peer's are refused.
    pub fn new(io: S, role: Role) -> (Self, Opener, mpsc::Receiver<SpdyStream>) {
        let (accepted, incoming) = mpsc::channel(QUEUE);
        let (commands, queue) = mpsc::channel(QUEUE);
        let opener = Opener(commands.clone());
        (Self { io, role, accepted, commands, queue }, opener, incoming)
    }

    /// Runs until the peer closes, or until `closing` resolves and every stream has been sent to its end.
    /// Says which: `Ok(true)` if the peer has closed.
    pub async fn run(self, closing: oneshot::Receiver<()>) -> Result<bool, SpdyError> {
        let Self { io, role, accepted, commands, queue } = self;
        let (read, write) = tokio::io::split(io);
        let entries: Entries = Arc::default();
        let reading = Reading {
            read: BufReader::with_capacity(16 << 10, read),
            inflate: Decompressor::default(),
            entries: entries.clone(),
            accepted,
            commands,
            peer_parity: if role == Role::Server { 1 } else { 0 },
            last_opened: 0,
        };
        let writing = Writing {
            write,
            deflate: Compressor::default(),
            entries,
            next_id: if role == Role::Server { 2 } else { 1 },
        };
        let reading = reading.run();
        tokio::pin!(reading);
        tokio::select! {
            ended = &mut reading => ended.map(|()| true),
            sent = writing.run(queue, closing) => {
                sent?;
                // A connection closed over unread data would cut off what was sent last.
                let _ = tokio::time::timeout(LINGER, reading).await;
                Ok(false)
            }
        }
    }
}

struct Reading<S> {
    read: BufReader<ReadHalf<S>>,
    inflate: Decompressor,
    entries: Entries,
    accepted: mpsc::Sender<SpdyStream>,
    commands: mpsc::Sender<Command>,
    /// Of the numbers of the peer's streams and pings.
    peer_parity: u32,
    last_opened: u32,
}

impl<S: Io> Reading<S> {
    async fn run(mut self) -> Result<(), SpdyError> {
        let mut head = [0; HEADER_BYTES];
        loop {
            match self.read.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            match FrameHeader::parse(head)? {
                FrameHeader::Data { stream, fin, length } => self.data(stream, fin, length).await?,
                FrameHeader::Control { kind, flags, length } => {
                    let mut body = vec![0; length];
                    self.read.read_exact(&mut body).await?;
                    let control = Control::parse(kind, flags, &body, &mut self.inflate)?;
                    self.control(control).await;
                }
            }
        }
    }

    /// Gives the bytes of a data frame to the stream's pipe; without one they go nowhere.
    async fn data(&mut self, stream: u32, fin: bool, length: usize) -> Result<(), SpdyError> {
        let mut pipe = self.entries.lock().get_mut(&stream).and_then(|entry| entry.incoming.take());
        let mut left = length;
        let mut chunk = [0; 8 << 10];
        while left > 0 {
            let part = left.min(chunk.len());
            let read = self.read.read(&mut chunk[..part]).await?;
            if read == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            left -= read;
            if let Some(writer) = &mut pipe
                && writer.write_all(&chunk[..read]).await.is_err()
            {
                pipe = None;
            }
        }
        if fin {
            if let Some(mut pipe) = pipe {
                let _ = pipe.shutdown().await;
            }
            self.incoming_done(stream);
        } else if let Some(pipe) = pipe
            && let Some(entry) = self.entries.lock().get_mut(&stream)
        {
            entry.incoming = Some(pipe);
        }
        Ok(())
    }

    async fn finish(&mut self, stream: u32) {
        let pipe = self.entries.lock().get_mut(&stream).and_then(|entry| entry.incoming.take());
        if let Some(mut pipe) = pipe {
            let _ = pipe.shutdown().await;
        }
        self.incoming_done(stream);
    }

    fn incoming_done(&mut self, stream: u32) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&stream) {
            entry.incoming_done = true;
            if entry.outgoing_done {
                entries.remove(&stream);
            }
        }
    }

    async fn control(&mut self, control: Control) {
        match control {
            Control::SynStream { stream, fin, headers } => self.opened(stream, fin, headers).await,
            Control::SynReply { stream, fin } | Control::Headers { stream, fin } => {
                if fin {
                    self.finish(stream).await;
                }
            }
            Control::Reset { stream } => {
                if let Some(entry) = self.entries.lock().remove(&stream) {
                    entry.stop_outgoing.abort();
                    let _ = entry.reset.send(());
                }
            }
            Control::Ping { id } => {
                if id % 2 == self.peer_parity {
                    self.send(Frame::Ping { id }).await;
                }
            }
            Control::GoAway | Control::Other => {}
        }
    }

    async fn opened(&mut self, stream: u32, fin: bool, headers: Headers) {
        let is_valid = stream % 2 == self.peer_parity && stream > self.last_opened;
        if !is_valid {
            return self.send(Frame::Reset { stream, status: frame::PROTOCOL_ERROR }).await;
        }
        self.last_opened = stream;
        let is_full = self.entries.lock().len() >= STREAMS_MAX;
        if is_full {
            return self.send(Frame::Reset { stream, status: frame::REFUSED_STREAM }).await;
        }
        let (accepted, pipe) = new_stream(stream, headers);
        let (entry, outgoing, registration) = entry(pipe);
        self.entries.lock().insert(stream, entry);
        if self.accepted.send(accepted).await.is_err() {
            self.entries.lock().remove(&stream);
            return self.send(Frame::Reset { stream, status: frame::REFUSED_STREAM }).await;
        }
        let _ = self.commands.send(Command::Answer(stream, outgoing, registration)).await;
        if fin {
            self.finish(stream).await;
        }
    }

    async fn send(&mut self, frame: Frame) {
        // Without a writer the connection is about to end anyway.
        let _ = self.commands.send(Command::Send(frame)).await;
    }
}

struct Writing<S> {
    write: WriteHalf<S>,
    deflate: Compressor,
    entries: Entries,
    next_id: u32,
}

impl<S: Io> Writing<S> {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Command>,
        mut closing: oneshot::Receiver<()>,
    ) -> Result<(), SpdyError> {
        let mut outgoing: SelectAll<Pin<Box<dyn Stream<Item = Frame> + Send>>> = SelectAll::new();
        let mut is_closing = false;
        let mut last_answered = 0;
        loop {
            let nothing_left = outgoing.is_empty() && queue.is_empty();
            if is_closing && nothing_left {
                break;
            }
            // All branches are cancel safe.
            tokio::select! {
                biased;
                command = queue.recv() => match command {
                    Some(Command::Send(frame)) => self.send(&frame).await?,
                    Some(Command::Answer(stream, pipe, stop)) => {
                        last_answered = stream;
                        self.send(&Frame::SynReply { stream }).await?;
                        outgoing.push(Box::pin(Abortable::new(frames_of(stream, pipe), stop)));
                    }
                    Some(Command::Open(headers, pipe)) => {
                        let stream = self.next_id;
                        self.next_id += 2;
                        let (entry, pipe, stop) = entry(pipe);
                        self.entries.lock().insert(stream, entry);
                        self.send(&Frame::SynStream { stream, headers }).await?;
                        outgoing.push(Box::pin(Abortable::new(frames_of(stream, pipe), stop)));
                    }
                    // The reader holds a sender for as long as the connection runs.
                    None => break,
                },
                frame = outgoing.next(), if !outgoing.is_empty() => if let Some(frame) = frame {
                    self.send(&frame).await?;
                    if let Frame::Fin { stream } = frame {
                        self.outgoing_done(stream);
                    }
                },
                _ = &mut closing, if !is_closing => is_closing = true,
            }
        }
        self.send(&Frame::GoAway { last: last_answered }).await?;
        self.write.shutdown().await?;
        Ok(())
    }

    async fn send(&mut self, frame: &Frame) -> Result<(), SpdyError> {
        let mut out = BytesMut::new();
        frame.encode(&mut self.deflate, &mut out);
        self.write.write_all(&out).await?;
        self.write.flush().await?;
        Ok(())
    }

    fn outgoing_done(&mut self, stream: u32) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&stream) {
            entry.outgoing_done = true;
            if entry.incoming_done {
                entries.remove(&stream);
            }
        }
    }
}

/// What a pipe has to send, and its end.
fn frames_of(stream: u32, pipe: ReadHalf<DuplexStream>) -> impl Stream<Item = Frame> + Send {
    stream::unfold(Some(pipe), move |pipe| async move {
        let mut pipe = pipe?;
        let mut chunk = vec![0; CHUNK_BYTES];
        match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => Some((Frame::Fin { stream }, None)),
            Ok(read) => {
                chunk.truncate(read);
                Some((Frame::Data { stream, payload: Bytes::from(chunk) }, Some(pipe)))
            }
        }
    })
}

/// Whether the peer just went away, as clients do.
fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}
