//! A command in a container, for a client that may vanish.
//!
//! The command stays, as with containerd: its CRI server waits for the process, whoever has gone, and ends it
//! for a time limit alone. Its input ends, and what it writes is read and dropped, so that it comes to its end
//! (containerd stops reading then, and a command that writes on hangs for ever: nobody can want that). What
//! nobody sees the end of is bounded, and belongs to its container, with which it ends at the latest. So it is
//! when the agent ends, as with containerd, whose shims have the commands: then the pod's shim reads on.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use skiff_runtime::{ContainerId, Error, ExecConfig, Process};
use skiff_streams::{Outcome, Session};
use tokio::sync::{Semaphore, oneshot};
use tracing::warn;

use super::streams::{join, serve_command, wants};
use super::{Answer, Query, Refusal};
use crate::images::chain;
use crate::node_context::Context;

/// So many commands of a node may be without their client; one more ends with it.
pub(crate) const LEFT_MAX: usize = 256;

pub(super) fn exec(
    context: &Arc<Context>,
    id: ContainerId,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let wants = wants(query);
    let command = query.all("command").to_vec();
    if command.is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "you must specify at least one command".into()));
    }
    let config = ExecConfig {
        command,
        stdin: wants.stdin,
        stdout: wants.stdout,
        stderr: wants.has_stderr(),
        tty: wants.tty,
        survives: true,
    };
    let (runtime, left) = (context.runtime.clone(), context.commands_left.clone());
    serve_command(request, wants, move |session| async move {
        serve(session, async move { runtime.exec(&id, config).await }, left).await;
    })
}

/// Runs a command for a session. Where this is dropped, which is how it hears that its client has gone, the
/// command goes on without.
async fn serve<F>(session: Session, start: F, left: Arc<Semaphore>)
where
    F: Future<Output = Result<Process, Error>> + Send + 'static,
{
    let (_client, gone) = oneshot::channel::<Infallible>();
    let (hand, mut handed) = oneshot::channel();
    let running = async move {
        match start.await {
            Ok(mut process) => {
                // Nobody takes it who has ended the wait for it.
                let _ = hand.send(process.kill.take());
                join(session, process, of_command).await;
            }
            Err(error) => {
                let message = format!("error executing command in container: {}", chain(&error));
                session.exit.send(&Outcome::Failed(message)).await;
            }
        }
    };
    let task = tokio::spawn(async move {
        tokio::pin!(running);
        tokio::select! {
            () = &mut running => return,
            _ = gone => {}
        }
        match left.try_acquire() {
            Ok(_place) => running.await,
            Err(_) => {
                warn!("too many commands are without their clients: one is ended");
                if let Ok(Some(kill)) = handed.try_recv() {
                    // It may have ended by itself.
                    let _ = kill.send(());
                }
            }
        }
    });
    // Its end is the task's own; a panic in it was reported where it happened.
    let _ = task.await;
}

fn of_command(code: i32) -> Outcome {
    match code {
        0 => Outcome::Success,
        code => Outcome::ExitCode(code),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use skiff_streams::{Wants, command};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const LONG: std::time::Duration = std::time::Duration::from_secs(30);

    /// A command as the container sees it.
    struct Command {
        stdin: DuplexStream,
        stdout: DuplexStream,
        exit: oneshot::Sender<i32>,
        killed: oneshot::Receiver<()>,
    }

    /// Runs a command for a client that goes once the command has read what it sent.
    async fn abandoned(places: usize) -> (Command, Arc<Semaphore>) {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ] {
            headers.insert(name, value.parse().expect("a value"));
        }
        let front = command::negotiate(&headers).expect("agrees");
        let wants = Wants { stdin: true, stdout: true, ..Wants::default() };
        let (mut client, io) = duplex(64 << 10);
        let (stdin, to) = duplex(1 << 10);
        let (out, stdout) = duplex(1 << 10);
        let (exit, code) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        let process = Process {
            stdin: Some(Box::new(to)),
            stdout: Some(Box::new(out)),
            stderr: None,
            resize: None,
            exit: code,
            kill: Some(kill),
        };
        let left = Arc::new(Semaphore::new(places));
        let run = {
            let left = left.clone();
            move |session| serve(session, async move { Ok(process) }, left)
        };
        let serving = tokio::spawn(async move { command::serve(io, &front, wants, run).await });
        // A binary frame, masked with zeros: "x" for the standard input.
        client.write_all(&[0x82, 0x82, 0, 0, 0, 0, 0, b'x']).await.expect("is heard");
        let mut command = Command { stdin, stdout, exit, killed };
        assert_eq!(command.stdin.read_u8().await.expect("comes"), b'x');
        drop(client);
        serving.await.expect("no panic").expect_err("the client has gone");
        (command, left)
    }

    #[tokio::test]
    async fn a_command_whose_client_vanishes_comes_to_its_end() {
        let (mut command, left) = abandoned(1).await;
        let scenario = async {
            assert_eq!(command.stdin.read(&mut [0; 8]).await.expect("reads"), 0, "its input has ended");
            // More than all buffers on the way hold.
            command.stdout.write_all(&vec![0; 1 << 20]).await.expect("somebody reads it");
            assert_eq!(left.available_permits(), 0);
            drop(command.stdout);
            command.exit.send(0).expect("somebody waits for it");
            let _ = left.acquire().await.expect("its place is free again");
        };
        tokio::time::timeout(LONG, scenario).await.expect("it goes on");
    }

    #[tokio::test]
    async fn commands_without_clients_are_bounded() {
        let (mut command, _) = abandoned(0).await;
        let ended = tokio::time::timeout(LONG, command.killed).await.expect("it is not left alone");
        ended.expect("it is ended");
        let waits = command.exit.closed();
        tokio::time::timeout(LONG, waits).await.expect("and nobody waits for it");
    }
}
