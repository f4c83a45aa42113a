//! The first bytes of a connection to a port of TLS, and the answer to a client that speaks plain HTTP there.
//!
//! Such a client can't read TLS's alert, and would see nothing but a closed connection. It is told what it
//! did wrong, in the words of Go's server, which clients know.

use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::watched::{Watch, Watched};

/// The bytes that tell plain HTTP from TLS.
const FIRST_BYTES: usize = 5;
/// What requests in plain HTTP begin with, of those that Go's server answers.
const HTTP: [&[u8; FIRST_BYTES]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
const ANSWER: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How a connection began.
pub struct Beginning {
    first: [u8; FIRST_BYTES],
    seen: usize,
}

/// A connection that remembers how it began. The handshake runs over it.
pub type Opening<IO> = Watched<IO, Beginning>;

impl Beginning {
    fn is_http(&self) -> bool {
        self.seen == FIRST_BYTES && HTTP.contains(&&self.first)
    }
}

impl Watch for Beginning {
    fn read(&mut self, bytes: &[u8]) {
        let seen = self.seen;
        let count = bytes.len().min(FIRST_BYTES - seen);
        self.first[seen..seen + count].copy_from_slice(&bytes[..count]);
        self.seen += count;
    }

    /// The alert, which would stand before the answer.
    fn swallows(&self) -> bool {
        self.is_http()
    }
}

impl<IO> Opening<IO> {
    pub fn new(io: IO) -> Self {
        Self::by(Beginning { first: [0; FIRST_BYTES], seen: 0 }, io)
    }
}

impl<IO: AsyncWrite + Unpin> Opening<IO> {
    /// After a handshake that failed: tells a client that speaks HTTP what is wrong, and ends the connection.
    pub async fn end(mut self) {
        if !self.watch.is_http() {
            return;
        }
        let answering = async {
            self.io.write_all(ANSWER).await?;
            self.io.shutdown().await
        };
        // Who does not take it, or is gone, needs no answer.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, answering).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    /// What a client is told that sends these pieces to a server whose handshake then fails with an alert.
    async fn told(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut client, server) = duplex(1024);
        let mut opening = Opening::new(server);
        for piece in pieces {
            client.write_all(piece).await.expect("takes it");
            let mut read = vec![0; piece.len()];
            opening.read_exact(&mut read).await.expect("reads it");
            assert_eq!(&read, piece, "the handshake sees all of it");
        }
        opening.write_all(b"alert").await.expect("written or swallowed");
        opening.end().await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("the server closed");
        answer
    }

    #[tokio::test]
    async fn plain_http_is_answered_in_plain_http() {
        for request in ["GET / HTTP/1.1", "HEAD /x", "POST /", "PUT /x", "OPTIONS *"] {
            assert_eq!(told(&[request.as_bytes()]).await, ANSWER, "{request}");
        }
        assert_eq!(told(&[b"G", b"ET", b" / HTTP/1.1"]).await, ANSWER, "in pieces");
    }

    #[tokio::test]
    async fn what_is_no_http_gets_the_alert() {
        for bytes in [&b"\x16\x03\x01\x02\x00"[..], b"GET", b"DELETE /", b"SSH-2.0"] {
            assert_eq!(told(&[bytes]).await, b"alert", "{bytes:?}");
        }
    }
}
