//! Requests that a node's agent answers: logs, exec, attach, port-forward, and the proxy to a node, to pods and
//! to services.
//!
//! Whatever protocol the client speaks, an agent is asked over a WebSocket of its own, by mutual TLS. The
//! agent is asked before the client's connection is upgraded, so that a refusal is still a plain answer.

pub(crate) mod agent;
mod backend;
mod command;
mod forward;
mod log;
mod proxy;
mod query;
mod target;

use std::sync::Arc;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use skiff_api::status::StatusError;
use tracing::debug;

use crate::audit;
use crate::http_body::{Request, Response, empty};
use crate::limits::lasting;
use crate::resources::Resource;
use crate::server::{Call, Inner};

/// Answers `call` (authorized, its subresource listed in the table) on an existing or missing object.
pub(crate) async fn answer(
    server: Arc<Inner>,
    call: Call,
    row: &'static Resource,
    request: Request,
) -> Result<Response, StatusError> {
    match (row.storage, call.address.subresource.as_str()) {
        ("nodes" | "pods" | "services", "proxy") => proxy::answer(&server, &call, row, request).await,
        ("pods", "log") => log::answer(&server, &call, row).await,
        ("pods", kind @ ("exec" | "attach")) => {
            command::answer(&server, &call, row, kind == "exec", request).await
        }
        ("pods", "portforward") => forward::answer(&server, &call, row, request).await,
        _ => Err(StatusError::method_not_allowed()),
    }
}

/// Serves what was upgraded until it ends or the server stops.
fn spawn<E: std::fmt::Display>(
    server: &Arc<Inner>,
    what: &'static str,
    serving: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    let server = Arc::clone(server);
    tokio::spawn(async move {
        tokio::select! {
            ended = serving => if let Err(error) = ended {
                debug!(%error, what, "a stream ended early");
            },
            () = server.stopping() => {}
        }
    });
}

/// The same of the request's own connection, once it is upgraded.
fn spawn_upgraded<F, E>(
    server: &Arc<Inner>,
    what: &'static str,
    request: Request,
    serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + 'static,
{
    let held = (audit::held(&request), request.extensions().get::<lasting::Place>().cloned());
    spawn(server, what, async move {
        let _held = held;
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            debug!("a client left before its upgrade");
            return Ok(());
        };
        serve(TokioIo::new(upgraded)).await
    });
}

fn upgrade_error(error: &skiff_streams::UpgradeError) -> StatusError {
    match error.status().as_u16() {
        403 => StatusError::new(403, "Forbidden", error.to_string()),
        _ => StatusError::bad_request(error.to_string()),
    }
}

fn switching(response: http::Response<()>) -> Response {
    response.map(|()| empty())
}
