//! Requests that a node's agent answers: logs, exec, attach, port-forward, proxy.

use std::sync::Arc;

use skiff_api::status::StatusError;

use crate::http_body::{Request, Response};
use crate::resources::Resource;
use crate::server::{Call, Inner};

/// Answers `call` (authorized, its subresource listed in the table) on an existing or missing object.
pub(crate) async fn answer(
    server: Arc<Inner>,
    _call: Call,
    _row: &'static Resource,
    _request: Request,
) -> Result<Response, StatusError> {
    match &server.agents.tls {
        _ => Err(StatusError::unavailable("this server was not told how to reach the nodes' agents")),
    }
}
