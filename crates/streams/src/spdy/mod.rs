//! SPDY/3.1, as much of it as streams of Kubernetes need (draft 3.1, sections 2.2 to 2.6).
//!
//! No flow control is enforced: the clients that matter never send WINDOW_UPDATE, and hold their peer up by
//! not reading from the connection. So do we.

mod connection;
mod frame;
mod headers;

pub use connection::{Connection, Opener, Role, SpdyStream};
pub use frame::{Control, Frame, FrameHeader};
pub use headers::{Compressor, Decompressor, Headers};

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    #[error("cannot read or write")]
    Io(#[from] std::io::Error),
    #[error("a control frame of version {0}, not 3")]
    Version(u16),
    #[error("a control frame of {0} bytes is too long")]
    FrameLength(usize),
    #[error("a control frame of type {0} is too short")]
    FrameShort(u16),
    #[error("headers that cannot be decompressed")]
    Compression,
    #[error("headers that are too long or malformed")]
    Headers,
}
