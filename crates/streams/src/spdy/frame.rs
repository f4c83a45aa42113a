//! Frames as values. Control frames come whole; of a data frame only the head, as its bytes are streamed.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Compressor, Decompressor, Headers, SpdyError};

const VERSION: u16 = 3;
pub(crate) const HEADER_BYTES: usize = 8;
/// A control frame's body: headers, and a little.
const CONTROL_BYTES_MAX: usize = super::headers::BLOCK_BYTES_MAX + 16;

const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Status codes of RST_STREAM.
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const REFUSED_STREAM: u32 = 3;

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameHeader {
    Control { kind: u16, flags: u8, length: usize },
    Data { stream: u32, fin: bool, length: usize },
}

impl FrameHeader {
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, SpdyError> {
        let word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let flags = bytes[4];
        let length = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
        if word >> 31 == 0 {
            return Ok(Self::Data { stream: word, fin: flags & FIN != 0, length });
        }
        let version = (word >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(SpdyError::FrameLength(length));
        }
        Ok(Self::Control { kind: word as u16, flags, length })
    }
}

/// A control frame that means something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    SynStream {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Further headers; only their end of the stream matters.
    Headers {
        stream: u32,
        fin: bool,
    },
    /// SETTINGS, WINDOW_UPDATE and what else there may be.
    Other,
}

impl Control {
    /// Reads a body. Header blocks always go through `inflate`, which lives as long as the connection.
    pub fn parse(kind: u16, flags: u8, body: &[u8], inflate: &mut Decompressor) -> Result<Self, SpdyError> {
        let number = |at: usize| -> Result<u32, SpdyError> {
            let bytes = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            Ok(u32::from_be_bytes(bytes.ok_or(SpdyError::FrameShort(kind))?))
        };
        let stream = || Ok::<u32, SpdyError>(number(0)? & 0x7fff_ffff);
        let block = |at: usize| body.get(at..).ok_or(SpdyError::FrameShort(kind));
        let fin = flags & FIN != 0;
        Ok(match kind {
            SYN_STREAM => {
                Self::SynStream { stream: stream()?, fin, headers: inflate.decompress(block(10)?)? }
            }
            SYN_REPLY => {
                inflate.decompress(block(4)?)?;
                Self::SynReply { stream: stream()?, fin }
            }
            RST_STREAM => Self::Reset { stream: stream()? },
            PING => Self::Ping { id: number(0)? },
            GOAWAY => Self::GoAway,
            HEADERS => {
                inflate.decompress(block(4)?)?;
                Self::Headers { stream: stream()?, fin }
            }
            _ => Self::Other,
        })
    }
}

/// A frame to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        headers: Headers,
    },
    SynReply {
        stream: u32,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
    Data {
        stream: u32,
        payload: Bytes,
    },
    /// The end of this side of a stream.
    Fin {
        stream: u32,
    },
}

impl Frame {
    pub fn encode(&self, deflate: &mut Compressor, out: &mut BytesMut) {
        match self {
            Self::SynStream { stream, headers } => {
                let block = deflate.compress(headers);
                control(out, SYN_STREAM, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0); // no associated stream
                out.put_u16(0); // highest priority, no credentials
                out.put_slice(&block);
            }
            Self::SynReply { stream } => {
                let block = deflate.compress(&Headers::default());
                control(out, SYN_REPLY, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Self::Reset { stream, status } => {
                control(out, RST_STREAM, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Self::Ping { id } => {
                control(out, PING, 4);
                out.put_u32(*id);
            }
            Self::GoAway { last } => {
                control(out, GOAWAY, 8);
                out.put_u32(*last);
                out.put_u32(0); // for no other reason than that all is done
            }
            Self::Data { stream, payload } => {
                debug_assert!(payload.len() < 1 << 24);
                out.put_u32(*stream);
                out.put_u32(payload.len() as u32);
                out.put_slice(payload);
            }
            Self::Fin { stream } => {
                out.put_u32(*stream);
                out.put_u32(u32::from(FIN) << 24);
            }
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(length as u32);
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    fn wire(frame: &Frame) -> Vec<u8> {
        let mut out = BytesMut::new();
        frame.encode(&mut Compressor::default(), &mut out);
        out.to_vec()
    }

    fn read(bytes: &[u8], inflate: &mut Decompressor) -> Result<Option<Control>, SpdyError> {
        let Some((head, body)) = bytes.split_first_chunk() else { return Ok(None) };
        match FrameHeader::parse(*head)? {
            FrameHeader::Data { .. } => Ok(None),
            FrameHeader::Control { kind, flags, length } => {
                Control::parse(kind, flags, &body[..length.min(body.len())], inflate).map(Some)
            }
        }
    }

    #[test]
    fn frames_as_on_the_wire() {
        let cases: [(Frame, &[u8]); 5] = [
            (Frame::Ping { id: 7 }, &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]),
            (Frame::Reset { stream: 5, status: 3 }, &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3]),
            (Frame::GoAway { last: 9 }, &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0]),
            (Frame::Data { stream: 3, payload: Bytes::from_static(b"hi") }, b"\0\0\0\x03\0\0\0\x02hi"),
            (Frame::Fin { stream: 3 }, b"\0\0\0\x03\x01\0\0\0"),
        ];
        for (frame, bytes) in cases {
            assert_eq!(wire(&frame), bytes, "{frame:?}");
        }
    }

    #[test]
    fn a_stream_is_opened_and_answered() {
        let headers = Headers::of(&[("streamtype", "stdin")]);
        let mut inflate = Decompressor::default();
        let opened = read(&wire(&Frame::SynStream { stream: 1, headers: headers.clone() }), &mut inflate);
        assert_eq!(opened.unwrap(), Some(Control::SynStream { stream: 1, fin: false, headers }));
        let answered = read(&wire(&Frame::SynReply { stream: 1 }), &mut Decompressor::default());
        assert_eq!(answered.unwrap(), Some(Control::SynReply { stream: 1, fin: false }));
    }

    #[test]
    fn other_versions_and_long_frames_are_refused() {
        assert!(matches!(FrameHeader::parse([0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version(2))));
        let long = FrameHeader::parse([0x80, 3, 0, 1, 0, 0xff, 0, 0]);
        assert!(matches!(long, Err(SpdyError::FrameLength(0xff_0000))));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = crate::random();
        let valid = wire(&Frame::SynStream { stream: 1, headers: Headers::of(&[("streamtype", "data")]) });
        for _ in 0..20_000 {
            let mut bytes = if random.random_bool(0.5) {
                (0..random.random_range(0..80)).map(|_| random.random()).collect()
            } else {
                valid.clone()
            };
            for _ in 0..random.random_range(0..4) {
                if !bytes.is_empty() {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
            }
            // Half of what is random should at least be taken for a control frame.
            if random.random_bool(0.5) && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[0x80, 3, 0, random.random_range(0..12)]);
            }
            let mut inflate = Decompressor::default();
            let _ = read(&bytes, &mut inflate);
            let _ = read(&bytes, &mut inflate);
        }
    }
}
