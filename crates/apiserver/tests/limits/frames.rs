//! A client of HTTP/2 that sends the frames it likes, RFC 9113.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::served::{PATIENCE, Tls};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The one stream that a client here opens.
const STREAM: u32 = 1;

/// What the server says of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The first byte of the header block, which is the status where that is a well-known one.
    Head(u8),
    Body,
    End,
    Reset {
        code: u32,
    },
    /// To a ping of the client.
    Pong,
}

pub(crate) struct Frames {
    stream: Tls,
    /// Of a frame that said two things, the second.
    next: Option<Said>,
}

impl Frames {
    pub(crate) async fn new(stream: Tls) -> Self {
        let mut this = Self { stream, next: None };
        this.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        this.frame(SETTINGS, 0, 0, &[]).await;
        this
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server takes it");
        self.stream.flush().await.expect("the server takes it");
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.write(&bytes).await;
    }

    /// The headers of a POST whose body is to come.
    pub(crate) async fn post(&mut self, path: &str) {
        let mut block = Vec::new();
        for (name, value) in
            [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        {
            // Literals without indexing, each with its name: RFC 7541 §6.2.2.
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("short"));
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.frame(HEADERS, END_HEADERS, STREAM, &block).await;
    }

    pub(crate) async fn body(&mut self, bytes: &[u8], ends: bool) {
        self.frame(DATA, if ends { END_STREAM } else { 0 }, STREAM, bytes).await;
    }

    pub(crate) async fn ping(&mut self) {
        self.frame(PING, 0, 0, &[7; 8]).await;
    }

    /// The next that the server says, beside what is the connection's.
    pub(crate) async fn said(&mut self) -> Said {
        tokio::time::timeout(PATIENCE, self.next_said()).await.expect("the server says something")
    }

    async fn next_said(&mut self) -> Said {
        if let Some(said) = self.next.take() {
            return said;
        }
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.expect("a frame");
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.expect("a payload");
            let said = match (kind, u32::from_be_bytes(stream)) {
                (SETTINGS, 0) if flags & ACK == 0 => {
                    self.frame(SETTINGS, ACK, 0, &[]).await;
                    continue;
                }
                (PING, 0) if flags & ACK != 0 => return Said::Pong,
                (HEADERS, STREAM) => Said::Head(payload[0]),
                (DATA, STREAM) => Said::Body,
                (RST_STREAM, STREAM) => {
                    let code = payload[..4].try_into().expect("four bytes");
                    return Said::Reset { code: u32::from_be_bytes(code) };
                }
                _ => continue,
            };
            if flags & END_STREAM != 0 {
                self.next = Some(Said::End);
            }
            return said;
        }
    }

    /// Reads an answer to its end: how it began.
    pub(crate) async fn answer(&mut self) -> Said {
        let head = self.said().await;
        loop {
            match self.said().await {
                Said::Body => {}
                Said::End => return head,
                other => panic!("{other:?} within an answer"),
            }
        }
    }
}
