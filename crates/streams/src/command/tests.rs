//! Commands over every protocol, in memory.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::session::{Outcome, Size, relay};
use crate::spdy::{Headers, Opener};
use futures_util::{SinkExt, StreamExt};

const ALL: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
const TERMINAL: Wants = Wants { stdin: true, stdout: true, stderr: false, tty: true };

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn websocket_front(protocol: Protocol) -> Front {
    Front(Kind::WebSocket { accept: HeaderValue::from_static("x"), name: Some(protocol.name()), protocol })
}

fn spdy_front(version: u8) -> Front {
    Front(Kind::Spdy { name: None, version })
}

/// A command that echoes its input to both outputs, and exits with 3.
async fn echo(mut session: Session) {
    let mut text = Vec::new();
    if let Some(mut stdin) = session.stdin.take() {
        stdin.read_to_end(&mut text).await.unwrap();
    }
    if let Some(mut stdout) = session.stdout.take() {
        stdout.write_all(&text).await.unwrap();
    }
    if let Some(mut stderr) = session.stderr.take() {
        stderr.write_all(b"err:").await.unwrap();
        stderr.write_all(&text).await.unwrap();
    }
    session.exit.send(&Outcome::ExitCode(3)).await;
}

#[test]
fn protocols_are_negotiated_as_clients_ask() {
    let ask = |pairs: &[(&'static str, &'static str)]| negotiate(&headers(pairs)).map(|front| front.0);
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let websocket = |name: Option<&'static str>, protocol| {
        let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        Ok(Kind::WebSocket { accept, name, protocol })
    };
    let kubectl = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        key,
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
    ];
    assert_eq!(ask(&kubectl), websocket(Some("v5.channel.k8s.io"), Protocol::V5));
    let browser = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        key,
        ("sec-websocket-protocol", "exotic, base64.channel.k8s.io"),
    ];
    assert_eq!(ask(&browser), websocket(Some("base64.channel.k8s.io"), Protocol::V1Base64));
    let plain = [("connection", "upgrade"), ("upgrade", "websocket"), key];
    assert_eq!(ask(&plain), websocket(None, Protocol::V1));

    let old = [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v9.channel.k8s.io, v4.channel.k8s.io"),
        ("x-stream-protocol-version", "v3.channel.k8s.io"),
    ];
    let mut many = HeaderMap::new();
    for (name, value) in old {
        many.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let front = negotiate(&many).unwrap();
    assert_eq!(front.0, Kind::Spdy { name: Some("v4.channel.k8s.io"), version: 4 });
    let response = front.response();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");

    assert_eq!(ask(&[("upgrade", "websocket")]), Err(UpgradeError::Required));
    assert_eq!(ask(&[("connection", "upgrade"), ("upgrade", "h2c")]), Err(UpgradeError::Required));
    assert_eq!(ask(&[("connection", "upgrade"), ("upgrade", "websocket")]), Err(UpgradeError::NoKey));
    let strange =
        ask(&[("connection", "upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v9")]);
    assert_eq!(strange.unwrap_err().status(), 403);
}

/// Runs a command over an agent's connection, with the input given, and collects what comes back.
async fn ask_echo(wants: Wants, input: &[u8]) -> (Vec<u8>, Vec<u8>, Outcome) {
    let (client, server) = tokio::io::duplex(4096);
    let front = websocket_front(Protocol::V5);
    let serving = serve(server, &front, wants, echo);
    let asking = run_remote(client, wants, |mut remote| async move {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (from_stdout, from_stderr) = (remote.stdout.take(), remote.stderr.take());
        let to_stdin = remote.stdin.take();
        let feed = async {
            if let Some(mut stdin) = to_stdin {
                stdin.write_all(input).await.unwrap();
            }
        };
        let read_out = async {
            if let Some(mut from) = from_stdout {
                from.read_to_end(&mut stdout).await.unwrap();
            }
        };
        let read_err = async {
            if let Some(mut from) = from_stderr {
                from.read_to_end(&mut stderr).await.unwrap();
            }
        };
        let (outcome, ..) = tokio::join!(remote.outcome(), feed, read_out, read_err);
        (stdout, stderr, outcome)
    });
    let (served, told) = tokio::join!(serving, asking);
    served.unwrap();
    told
}

#[tokio::test]
async fn a_command_runs_over_the_agents_protocol() {
    let input = vec![b'x'; 3 * crate::PIPE_BYTES + 7];
    let (stdout, stderr, outcome) = ask_echo(ALL, &input).await;
    assert_eq!(stdout, input);
    assert_eq!(stderr, [b"err:".as_slice(), &input].concat());
    assert_eq!(outcome, Outcome::ExitCode(3));
    let none = Wants { stdout: true, ..Wants::default() };
    assert_eq!(ask_echo(none, b"").await, (Vec::new(), Vec::new(), Outcome::ExitCode(3)));
}

/// All messages of a server, up to its close.
async fn messages(socket: &mut WebSocketStream<DuplexStream>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Close(_) => break,
            message => all.push(message.into_data().to_vec()),
        }
    }
    all
}

#[tokio::test]
async fn messages_come_as_each_protocol_has_them() {
    let status = Outcome::ExitCode(3).to_json();
    let text: &[u8] = b"\x03command terminated with non-zero exit code: exit status 3";
    let with_status = [b"\x03".as_slice(), &status].concat();
    let cases: [(Protocol, &[&[u8]]); 3] = [
        (Protocol::V5, &[b"\x01", b"\x01", &with_status]),
        (Protocol::V4, &[b"\x01", &with_status]),
        (Protocol::V1, &[b"\x01", text]),
    ];
    for (protocol, expected) in cases {
        let wants = Wants { stdout: true, ..Wants::default() };
        let (client, server) = tokio::io::duplex(4096);
        let front = websocket_front(protocol);
        let serving = tokio::spawn(async move { serve(server, &front, wants, echo).await });
        let mut socket = mux::websocket(client, Role::Client).await;
        let mut told = messages(&mut socket).await;
        drop(socket);
        // The empty first message, and whether an empty output makes one of its own is free.
        told.dedup();
        let mut expected: Vec<Vec<u8>> = expected.iter().map(|message| message.to_vec()).collect();
        expected.dedup();
        assert_eq!(told, expected, "{protocol:?}");
        serving.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn stdin_ends_by_the_signal_of_v5() {
    let wants = Wants { stdin: true, stdout: true, ..Wants::default() };
    let (client, server) = tokio::io::duplex(4096);
    let front = websocket_front(Protocol::V5);
    let serving = tokio::spawn(async move { serve(server, &front, wants, echo).await });
    let mut socket = mux::websocket(client, Role::Client).await;
    socket.send(Message::Binary(Bytes::from_static(b"\x00hello"))).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(b"\xff\x00"))).await.unwrap();
    let told = messages(&mut socket).await;
    assert_eq!(told[0], b"\x01");
    assert_eq!(told[1], b"\x01hello");
    assert_eq!(told[2], [b"\x03".as_slice(), &Outcome::ExitCode(3).to_json()].concat());
    drop(socket);
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn base64_goes_in_text() {
    let wants = Wants { stdout: true, ..Wants::default() };
    let (client, server) = tokio::io::duplex(4096);
    let front = websocket_front(Protocol::V4Base64);
    let serving = tokio::spawn(async move {
        let say = |mut session: Session| async move {
            session.stdout.take().unwrap().write_all(b"hi").await.unwrap();
            session.exit.send(&Outcome::Success).await;
        };
        serve(server, &front, wants, say).await
    });
    let mut socket = mux::websocket(client, Role::Client).await;
    let told = messages(&mut socket).await;
    assert_eq!(
        told,
        [b"1".to_vec(), b"1aGk=".to_vec(), b"3eyJtZXRhZGF0YSI6e30sInN0YXR1cyI6IlN1Y2Nlc3MifQ==".to_vec()]
    );
    drop(socket);
    serving.await.unwrap().unwrap();
}

/// A client of SPDY that opens the streams named, in this order.
async fn open(opener: &Opener, names: &[&str]) -> HashMap<String, DuplexStream> {
    let mut streams = HashMap::new();
    for name in names {
        let stream = opener.open(Headers::of(&[("streamType", name)])).await.unwrap();
        streams.insert((*name).to_owned(), stream.io);
    }
    streams
}

async fn read_all(mut stream: DuplexStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_command_runs_over_spdy() {
    for version in 1..=4 {
        let (client, server) = tokio::io::duplex(4096);
        let front = spdy_front(version);
        let serving = tokio::spawn(async move { serve(server, &front, ALL, echo).await });
        let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
        let (_close, closing) = oneshot::channel();
        let driving = tokio::spawn(connection.run(closing));
        let mut streams = open(&opener, &["error", "stdin", "stdout", "stderr"]).await;
        let mut stdin = streams.remove("stdin").unwrap();
        stdin.write_all(b"hello").await.unwrap();
        stdin.shutdown().await.unwrap();
        let [stdout, stderr, error] = ["stdout", "stderr", "error"].map(|name| streams.remove(name).unwrap());
        let (stdout, stderr, error) = tokio::join!(read_all(stdout), read_all(stderr), read_all(error));
        assert_eq!((&*stdout, &*stderr), ("hello", "err:hello"));
        let outcome = Outcome::ExitCode(3);
        let expected =
            if version == 4 { String::from_utf8(outcome.to_json()).unwrap() } else { outcome.to_text() };
        assert_eq!(error, expected);
        assert!(driving.await.unwrap().unwrap(), "the server closes the connection");
        serving.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn sizes_arrive_over_each_protocol() {
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let collect = |sizes: Arc<Mutex<Vec<Size>>>| {
        move |mut session: Session| async move {
            let mut resize = session.resize.take().unwrap();
            for _ in 0..2 {
                let size = resize.next().await.unwrap();
                sizes.lock().push(size);
            }
            session.exit.send(&Outcome::Success).await;
        }
    };
    let sent = [Size { width: 80, height: 24 }, Size { width: 132, height: 50 }];

    let (client, server) = tokio::io::duplex(4096);
    let front = websocket_front(Protocol::V5);
    let asking = run_remote(client, TERMINAL, |mut remote| async move {
        let mut resize = remote.resize.take().unwrap();
        for size in sent {
            resize.write_all(&size.to_json()).await.unwrap();
        }
        remote.outcome().await
    });
    let (served, outcome) = tokio::join!(serve(server, &front, TERMINAL, collect(sizes.clone())), asking);
    served.unwrap();
    assert_eq!(outcome, Outcome::Success);

    let (client, server) = tokio::io::duplex(4096);
    let front = spdy_front(4);
    let run = collect(sizes.clone());
    let serving = tokio::spawn(async move { serve(server, &front, TERMINAL, run).await });
    let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
    let (_close, closing) = oneshot::channel();
    let driving = tokio::spawn(connection.run(closing));
    let mut streams = open(&opener, &["error", "stdin", "stdout", "resize"]).await;
    // As a Go encoder writes it, in two pieces.
    let resize = streams.get_mut("resize").unwrap();
    for piece in ["{\"Width\":80,\"Hei", "ght\":24}\n{\"Width\":132,\"Height\":50}\n"] {
        resize.write_all(piece.as_bytes()).await.unwrap();
        resize.flush().await.unwrap();
    }
    assert_eq!(read_all(streams.remove("error").unwrap()).await, r#"{"metadata":{},"status":"Success"}"#);
    drop(streams);
    driving.await.unwrap().unwrap();
    serving.await.unwrap().unwrap();
    assert_eq!(*sizes.lock(), [sent, sent].concat());
}

#[tokio::test]
async fn an_old_client_reaches_an_agent_through_a_relay() {
    let (client, front_io) = tokio::io::duplex(4096);
    let (back_io, agent) = tokio::io::duplex(4096);
    let agent = tokio::spawn(async move { serve(agent, &websocket_front(Protocol::V5), ALL, echo).await });
    let relaying = tokio::spawn(async move {
        serve(front_io, &spdy_front(4), ALL, |session| async move {
            let outcome = run_remote(back_io, ALL, |remote| relay(session, remote)).await;
            assert_eq!(outcome, Outcome::ExitCode(3));
        })
        .await
    });
    let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
    let (_close, closing) = oneshot::channel();
    tokio::spawn(connection.run(closing));
    let mut streams = open(&opener, &["error", "stdin", "stdout", "stderr"]).await;
    let input = "y".repeat(300_000);
    let mut stdin = streams.remove("stdin").unwrap();
    let fed = input.clone();
    tokio::spawn(async move {
        stdin.write_all(fed.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
        // Held to the end: a stream may end on one side only.
        std::future::pending::<()>().await;
    });
    let [stdout, stderr, error] = ["stdout", "stderr", "error"].map(|name| streams.remove(name).unwrap());
    let (stdout, stderr, error) = tokio::join!(read_all(stdout), read_all(stderr), read_all(error));
    assert!(stdout == input && stderr == format!("err:{input}"));
    assert_eq!(Outcome::from_json(error.as_bytes()), Outcome::ExitCode(3));
    relaying.await.unwrap().unwrap();
    agent.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_stops_the_command() {
    struct Dropped(Option<oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }
    for front in [websocket_front(Protocol::V5), spdy_front(4)] {
        let (client, server) = tokio::io::duplex(4096);
        let (dropped, was_dropped) = oneshot::channel();
        let wants = Wants::default();
        let is_spdy = matches!(front.0, Kind::Spdy { .. });
        let (started, has_started) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let run = |session: Session| async move {
                let _guard = (Dropped(Some(dropped)), session);
                started.send(()).unwrap();
                std::future::pending::<()>().await;
            };
            serve(server, &front, wants, run).await
        });
        if is_spdy {
            let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
            let (_close, closing) = oneshot::channel();
            let driving = tokio::spawn(connection.run(closing));
            let _streams = open(&opener, &["error"]).await;
            has_started.await.unwrap();
            driving.abort();
        } else {
            has_started.await.unwrap();
            drop(client);
        }
        was_dropped.await.unwrap();
        assert!(matches!(serving.await.unwrap(), Err(StreamError::Closed)));
    }
}

#[tokio::test]
async fn a_lost_agent_is_a_failure() {
    let (client, server) = tokio::io::duplex(4096);
    let asking = run_remote(client, ALL, |mut remote| async move { remote.outcome().await });
    drop(server);
    let outcome = tokio::time::timeout(Duration::from_secs(10), asking).await.unwrap();
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_too_little_is_given_up() {
    let (client, server) = tokio::io::duplex(4096);
    let front = spdy_front(4);
    let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
    let (_close, closing) = oneshot::channel();
    tokio::spawn(connection.run(closing));
    let _streams = open(&opener, &["error", "stdin"]).await;
    let error = serve(server, &front, ALL, echo).await.unwrap_err();
    assert!(
        matches!(&error, StreamError::StreamsTimeout { missing } if missing == "stdout, stderr"),
        "{error}"
    );
}

#[tokio::test]
async fn random_connections_end_without_panic() {
    use rand::RngExt;
    let mut random = crate::random();
    for round in 0..400 {
        let front = if round % 2 == 0 { websocket_front(Protocol::V5) } else { spdy_front(4) };
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut bytes: Vec<u8> = (0..random.random_range(0..400)).map(|_| random.random()).collect();
        // Mostly something that looks like a frame, so that it gets beyond the first check.
        let start: &[u8] = match round % 4 {
            0 => &[0x82, 0x85, 0, 0, 0, 0],
            1 => &[0x80, 3, 0, 1, 0, 0, 0, 20],
            3 => &[0, 0, 0, 1, 0, 0, 0, 9],
            _ => &[],
        };
        let length = start.len().min(bytes.len());
        bytes[..length].copy_from_slice(&start[..length]);
        client.write_all(&bytes).await.unwrap();
        drop(client);
        let _ = serve(server, &front, ALL, echo).await;
    }
}

/// Writes until nothing moves any more, and tells how much was taken. The clock is paused: it only goes on
/// when every task waits.
async fn fill(mut to: impl tokio::io::AsyncWrite + Unpin) -> usize {
    let mut taken = 0;
    let chunk = [b'x'; 4096];
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), to.write(&chunk)).await {
        taken += written.unwrap();
        assert!(taken < 1 << 20, "nobody reads, and still more is taken");
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_makes_the_command_wait() {
    let wants = Wants { stdout: true, ..Wants::default() };
    for front in [websocket_front(Protocol::V5), spdy_front(4)] {
        let is_spdy = matches!(front.0, Kind::Spdy { .. });
        let (client, server) = tokio::io::duplex(4096);
        let (told, taken) = oneshot::channel();
        tokio::spawn(async move {
            let run = |mut session: Session| async move {
                told.send(fill(session.stdout.take().unwrap()).await).unwrap();
            };
            let _ = serve(server, &front, wants, run).await;
        });
        let _held: Box<dyn std::any::Any> = if is_spdy {
            let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
            let (close, closing) = oneshot::channel();
            tokio::spawn(connection.run(closing));
            Box::new((open(&opener, &["error", "stdout"]).await, close))
        } else {
            Box::new(client)
        };
        let taken = taken.await.unwrap();
        assert!(taken >= crate::PIPE_BYTES, "{taken}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_does_not_read_makes_the_caller_wait() {
    let wants = Wants { stdin: true, ..Wants::default() };
    let (client, server) = tokio::io::duplex(4096);
    let front = websocket_front(Protocol::V5);
    tokio::spawn(async move {
        let run = |session: Session| async move {
            let _session = session;
            std::future::pending::<()>().await;
        };
        serve(server, &front, wants, run).await
    });
    let taken = run_remote(client, wants, |mut remote| async move {
        let taken = fill(remote.stdin.take().unwrap()).await;
        drop(remote);
        taken
    })
    .await;
    assert!(taken >= crate::PIPE_BYTES, "{taken}");
}
