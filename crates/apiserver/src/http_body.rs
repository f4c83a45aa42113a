//! The body and message types that run through the server, in process and over sockets alike.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Every request's and response's body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is rendered when it is first read, which callers in the same process never do.
pub(crate) fn lazy(render: impl FnOnce() -> Bytes + Send + Unpin + 'static) -> Body {
    Lazy(Some(render)).boxed_unsync()
}

struct Lazy<F>(Option<F>);

impl<F: FnOnce() -> Bytes + Unpin> HttpBody for Lazy<F> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.take().map(|render| Ok(Frame::data(render()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
