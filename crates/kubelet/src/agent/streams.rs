//! Attach and port-forward, and what exec has in common with them: the runtime's streams joined to the caller's.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use skiff_client::BoxError;
use skiff_runtime::{Container, Process, SandboxId};
use skiff_streams::{Forward, Outcome, Session, UpgradeError, Wants, command, forward};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tracing::debug;

use super::{Answer, Query, Refusal, replay};
use crate::images::chain;
use crate::node_context::Context;
use crate::observed::is_over;

/// What the caller's query asks for; both the agent's and the API's own names are taken.
pub(super) fn wants(query: &Query) -> Wants {
    Wants {
        stdin: query.is("input") || query.is("stdin"),
        stdout: query.is("output") || query.is("stdout"),
        stderr: query.is("error") || query.is("stderr"),
        tty: query.is("tty"),
    }
}

fn refused(error: &UpgradeError) -> Refusal {
    Refusal(error.status(), error.to_string())
}

fn switching(response: Response<()>) -> Answer {
    Ok(response.map(|()| {
        http_body_util::Empty::new().map_err(|never| -> BoxError { match never {} }).boxed_unsync()
    }))
}

/// As [`attach`], for a container of one user that has ended.
pub(super) fn replay(ended: Container, query: &Query, request: Request<Incoming>) -> Answer {
    serve_command(request, wants(query), move |session| replay::tell(session, ended))
}

pub(super) fn attach(
    context: &Arc<Context>,
    container: Container,
    has_one_user: bool,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let wants = wants(query);
    let runtime = context.runtime.clone();
    serve_command(request, wants, move |session| async move {
        match runtime.attach(&container.id, wants.stdin).await {
            // How it ended is in the pod's status; here it is only told that it has, as upstream does.
            Ok(process) => join(session, process, |_| Outcome::Success).await,
            // It ended just now.
            Err(skiff_runtime::Error::NotRunning(_)) if has_one_user => {
                let now = runtime.list_containers().await.unwrap_or_default();
                let ended = now.into_iter().find(|now| now.id == container.id && is_over(now));
                replay::tell(session, ended.unwrap_or(container)).await;
            }
            Err(error) => {
                let message = format!("error attaching to container: {}", chain(&error));
                session.exit.send(&Outcome::Failed(message)).await;
            }
        }
    })
}

pub(super) fn serve_command<R, F>(mut request: Request<Incoming>, wants: Wants, run: R) -> Answer
where
    R: FnOnce(Session) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let front = command::negotiate(request.headers()).map_err(|error| refused(&error))?;
    let response = front.response();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let served = match upgrade.await {
            Ok(io) => {
                command::serve(TokioIo::new(io), &front, wants, run).await.map_err(|error| chain(&error))
            }
            Err(error) => Err(chain(&error)),
        };
        if let Err(error) = served {
            debug!(error, "a command's connection ended early");
        }
    });
    switching(response)
}

/// Joins a session to a process until the process has ended and its output is told.
pub(super) async fn join(session: Session, process: Process, outcome: impl FnOnce(i32) -> Outcome) {
    let Session { stdin, stdout, stderr, resize, exit } = session;
    let Process { stdin: to, stdout: out, stderr: err, resize: sizes, exit: code, kill: _ } = process;
    let input = async {
        tokio::join!(
            async {
                if let (Some(mut stdin), Some(mut to)) = (stdin, to) {
                    // A process that doesn't read any more is no fault.
                    let _ = tokio::io::copy(&mut stdin, &mut to).await;
                    let _ = to.shutdown().await;
                }
            },
            async {
                if let (Some(mut resize), Some(sizes)) = (resize, sizes) {
                    while let Some(size) = resize.next().await {
                        if sizes.send((size.width, size.height)).await.is_err() {
                            break;
                        }
                    }
                }
            }
        );
        std::future::pending::<()>().await
    };
    let output = async { tokio::join!(copy(out, stdout), copy(err, stderr), code).2 };
    let code = tokio::select! {
        code = output => code,
        () = input => return,
    };
    let outcome = match code {
        Ok(code) => outcome(code),
        Err(_) => Outcome::Failed("the process was lost".into()),
    };
    exit.send(&outcome).await;
}

async fn copy(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    to: Option<Box<dyn AsyncWrite + Send + Unpin>>,
) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        if tokio::io::copy(&mut from, &mut to).await.is_err() {
            // The reader has gone: the writer is neither held up nor killed for that.
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        }
        let _ = to.shutdown().await;
    }
}

pub(super) fn port_forward(
    context: &Arc<Context>,
    sandbox: SandboxId,
    query: &Query,
    mut request: Request<Incoming>,
) -> Answer {
    let front = forward::negotiate(request.headers()).map_err(|error| refused(&error))?;
    let texts = query.all("port").iter().chain(query.all("ports")).flat_map(|text| text.split(','));
    let ports: Vec<u16> = texts
        .map(|text| {
            text.parse().map_err(|_| Refusal(StatusCode::BAD_REQUEST, format!("invalid port {text:?}")))
        })
        .collect::<Result<_, _>>()?;
    if front.needs_ports() && ports.is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "query parameter \"port\" is required".into()));
    }
    let response = front.response();
    let upgrade = hyper::upgrade::on(&mut request);
    let runtime = context.runtime.clone();
    tokio::spawn(async move {
        let run = |forward: Forward| {
            let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
            async move {
                let Forward { port, data, mut error } = forward;
                let result = match runtime.port_forward(&sandbox, port).await {
                    Ok(stream) => forward::join(data, stream).await.map_err(|error| chain(&error)),
                    Err(error) => Err(chain(&error)),
                };
                if let Err(why) = result {
                    let text = format!("error forwarding port {port} to pod: {why}");
                    // If the caller has gone away there is nobody left to tell.
                    let _ = error.write_all(text.as_bytes()).await;
                    let _ = error.shutdown().await;
                }
            }
        };
        let served = match upgrade.await {
            Ok(io) => {
                forward::serve(TokioIo::new(io), &front, &ports, run).await.map_err(|error| chain(&error))
            }
            Err(error) => Err(chain(&error)),
        };
        if let Err(error) = served {
            debug!(error, "a port forward ended early");
        }
    });
    switching(response)
}
