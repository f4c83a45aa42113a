//! The WebSocket channel protocols: each message begins with the number of its channel.
//!
//! `channel.k8s.io` has plain text on the error channel, `v4.` a Status; `v5.` adds a signal that one
//! channel has ended. The `base64.` forms carry the number as a digit and the payload in base64, in text
//! messages, for clients that cannot handle binary ones.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
/// The signal's own number; the channel that ends is its payload.
const CLOSE: u8 = 255;

/// A subprotocol of remote commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `channel.k8s.io`, and what is spoken when none is asked for.
    V1,
    V1Base64,
    V4,
    V4Base64,
    V5,
}

impl Protocol {
    pub const ALL: [Self; 5] = [Self::V5, Self::V4, Self::V4Base64, Self::V1, Self::V1Base64];

    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "channel.k8s.io",
            Self::V1Base64 => "base64.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::V4Base64 => "v4.base64.channel.k8s.io",
            Self::V5 => "v5.channel.k8s.io",
        }
    }

    /// Whether the error channel carries a Status.
    pub fn has_status(self) -> bool {
        !matches!(self, Self::V1 | Self::V1Base64)
    }

    pub fn framing(self) -> Framing {
        Framing { base64: matches!(self, Self::V1Base64 | Self::V4Base64), closes: self == Self::V5 }
    }
}

/// How channels are put into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    pub base64: bool,
    /// Whether the end of one channel can be signalled.
    pub closes: bool,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Data { channel: u8, payload: Bytes },
    Close { channel: u8 },
}

impl Framing {
    pub fn encode(self, frame: &Frame) -> Message {
        let (channel, payload) = match frame {
            Frame::Data { channel, payload } => (*channel, payload.clone()),
            Frame::Close { channel } => (CLOSE, Bytes::copy_from_slice(&[*channel])),
        };
        if self.base64 {
            let mut text = String::with_capacity(1 + payload.len().div_ceil(3) * 4);
            text.push(char::from(b'0'.wrapping_add(channel)));
            STANDARD.encode_string(&payload, &mut text);
            return Message::text(text);
        }
        let mut message = BytesMut::with_capacity(1 + payload.len());
        message.put_u8(channel);
        message.put(payload);
        Message::Binary(message.freeze())
    }

    /// `None` for a message that says nothing: a control message, an empty or a garbled one.
    pub fn decode(self, message: Message) -> Option<Frame> {
        let bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            _ => return None,
        };
        let number = *bytes.first()?;
        let payload = bytes.slice(1..);
        if self.base64 {
            let channel = number.checked_sub(b'0')?;
            return Some(Frame::Data { channel, payload: STANDARD.decode(&payload).ok()?.into() });
        }
        if self.closes && number == CLOSE {
            return Some(Frame::Close { channel: *payload.first()? });
        }
        Some(Frame::Data { channel: number, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(channel: u8, payload: &'static [u8]) -> Frame {
        Frame::Data { channel, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn frames_as_on_the_wire() {
        let binary = Framing { base64: false, closes: true };
        let base64 = Framing { base64: true, closes: false };
        let cases = [
            (binary, data(1, b"hi"), Message::Binary(Bytes::from_static(b"\x01hi"))),
            (binary, data(3, b""), Message::Binary(Bytes::from_static(b"\x03"))),
            (binary, Frame::Close { channel: 0 }, Message::Binary(Bytes::from_static(b"\xff\x00"))),
            (base64, data(0, b"ls\n"), Message::text("0bHMK")),
            (base64, data(4, b""), Message::text("4")),
        ];
        for (framing, frame, message) in cases {
            assert_eq!(framing.encode(&frame), message);
            assert_eq!(framing.decode(message), Some(frame));
        }
    }

    #[test]
    fn what_says_nothing_is_passed_over() {
        let binary = Framing { base64: false, closes: true };
        let base64 = Framing { base64: true, closes: false };
        assert_eq!(binary.decode(Message::Binary(Bytes::new())), None);
        assert_eq!(binary.decode(Message::Binary(Bytes::from_static(b"\xff"))), None);
        assert_eq!(binary.decode(Message::Ping(Bytes::new())), None);
        assert_eq!(base64.decode(Message::text("0%%%")), None);
        assert_eq!(base64.decode(Message::text("\u{1}bHMK")), None);
        // Where it is no signal, 255 is a channel that nobody has.
        let old = Framing { base64: false, closes: false };
        assert_eq!(old.decode(Message::Binary(Bytes::from_static(b"\xff\x00"))), Some(data(255, b"\0")));
    }
}
