//! How a request gets to the server.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryFutureExt;
use http::{Extensions, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use skiff_api::typed;
use tower_service::Service;

use crate::Error;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bodies of requests and answers, streaming ones too.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of no bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Carries one request to the server and its answer back. The request's URI is path and query only.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error>;
}

#[async_trait]
impl<T: Transport> Transport for Arc<T> {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        (**self).send(request).await
    }
}

/// The server's own router as a service: no socket and no bytes where typed values will do.
pub struct InProcess {
    call: Box<dyn Fn(Request<Body>) -> Answer + Send + Sync>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

impl InProcess {
    /// A transport into `service`, which must always be ready (a router is).
    ///
    /// `identify` puts the caller's identity among the request's extensions, in the server's own type: the
    /// same authorization and admission hold as for anybody else.
    pub fn new<S>(service: S, identify: impl Fn(&mut Extensions) + Send + Sync + 'static) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        let call = move |mut request: Request<Body>| {
            identify(request.extensions_mut());
            if request.extensions().get::<typed::Unread>().is_none() {
                request.extensions_mut().insert(typed::Wanted);
            }
            Box::pin(service.clone().call(request).map_err(Into::into)) as Answer
        };
        Self { call: Box::new(call) }
    }
}

#[async_trait]
impl Transport for InProcess {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        (self.call)(request).await.map_err(Error::Transport)
    }
}
