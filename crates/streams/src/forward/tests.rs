//! Port forwards over every protocol, in memory.

use futures_util::{SinkExt, StreamExt};
use http::header::HeaderName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::spdy::{Headers, Opener};

fn front(protocol: Protocol) -> Front {
    Front(Kind::WebSocket { accept: HeaderValue::from_static("x"), name: None, protocol })
}

/// The pod: shouts back on port 80, cannot be reached on others.
async fn shout(mut forward: Forward) {
    if forward.port != 80 {
        let _ = forward.error.write_all(format!("no port {}", forward.port).as_bytes()).await;
        return;
    }
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = forward.data.read(&mut buffer).await {
        let loud = buffer[..read].to_ascii_uppercase();
        forward.data.write_all(&loud).await.unwrap();
    }
}

async fn open(opener: &Opener, port: &str, request: Option<&str>) -> (SpdyStream, SpdyStream) {
    let headers = |kind| {
        let mut pairs = vec![("streamType", kind), ("port", port)];
        pairs.extend(request.map(|request| ("requestID", request)));
        Headers::of(&pairs)
    };
    let error = opener.open(headers("error")).await.unwrap();
    let data = opener.open(headers("data")).await.unwrap();
    (data, error)
}

async fn say(stream: &mut SpdyStream, text: &str) -> String {
    stream.io.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; text.len()];
    stream.io.read_exact(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn rest(mut stream: SpdyStream) -> String {
    let mut text = String::new();
    stream.io.read_to_string(&mut text).await.unwrap();
    text
}

#[test]
fn protocols_are_negotiated_as_clients_ask() {
    let ask = |upgrade: &'static str, name: &'static str, protocol: &'static str| {
        let pairs = [
            ("connection", "Upgrade"),
            ("upgrade", upgrade),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            (name, protocol),
        ];
        let headers: HeaderMap =
            pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        negotiate(&headers).map(|front| (front.needs_ports(), front.response().headers().clone()))
    };
    let version = "x-stream-protocol-version";
    let subprotocol = "sec-websocket-protocol";
    let (needs_ports, headers) = ask("SPDY/3.1", version, "portforward.k8s.io").unwrap();
    assert_eq!((needs_ports, headers[version].to_str().unwrap()), (false, "portforward.k8s.io"));
    let tunnel = "SPDY/3.1+portforward.k8s.io";
    let (needs_ports, headers) = ask("websocket", subprotocol, tunnel).unwrap();
    assert_eq!((needs_ports, headers[subprotocol].to_str().unwrap()), (false, tunnel));
    assert!(ask("websocket", subprotocol, "v4.channel.k8s.io").unwrap().0);
    assert!(ask("SPDY/3.1", version, "v4.channel.k8s.io").is_err());
}

#[tokio::test]
async fn forwards_run_side_by_side_over_spdy_and_its_tunnel() {
    for tunnelled in [false, true] {
        let (client, server) = tokio::io::duplex(4096);
        let agree = if tunnelled { front(Protocol::Tunnel) } else { Front(Kind::Spdy { name: None }) };
        let serving = tokio::spawn(async move { serve(server, &agree, &[], shout).await });
        let client: Box<dyn Io> =
            if tunnelled { Box::new(Tunnel::new(client, Role::Client).await) } else { Box::new(client) };
        let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
        let (close, closing) = oneshot::channel();
        let driving = tokio::spawn(connection.run(closing));

        let (mut first, first_error) = open(&opener, "80", Some("0")).await;
        let (mut second, _) = open(&opener, "80", Some("1")).await;
        let (_, refused) = open(&opener, "81", Some("2")).await;
        assert_eq!(rest(refused).await, "no port 81");
        assert_eq!(say(&mut second, "second").await, "SECOND");
        assert_eq!(say(&mut first, "first").await, "FIRST");
        first.io.shutdown().await.unwrap();
        assert_eq!(rest(first).await, "", "its end is answered by the end");
        assert_eq!(rest(first_error).await, "", "and without error");
        assert_eq!(say(&mut second, "again").await, "AGAIN");

        drop((second, close, opener));
        assert!(!driving.await.unwrap().unwrap());
        serving.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn clients_that_number_no_requests_are_understood() {
    let (client, server) = tokio::io::duplex(4096);
    tokio::spawn(async move { serve(server, &Front(Kind::Spdy { name: None }), &[], shout).await });
    let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
    let (_close, closing) = oneshot::channel();
    tokio::spawn(connection.run(closing));
    let (mut first, _) = open(&opener, "80", None).await;
    let (mut second, _) = open(&opener, "80", None).await;
    assert_eq!(say(&mut second, "b").await, "B");
    assert_eq!(say(&mut first, "a").await, "A");
}

#[tokio::test]
async fn a_client_reaches_an_agent_through_a_relay() {
    let (client, front_io) = tokio::io::duplex(4096);
    let relaying = async move {
        serve(front_io, &Front(Kind::Spdy { name: None }), &[], |forward| async move {
            let (back, agent) = tokio::io::duplex(4096);
            let port = forward.port;
            let agent =
                tokio::spawn(async move { serve(agent, &front(Protocol::Agent), &[port], shout).await });
            relay_over(back, forward).await;
            let _ = agent.await.unwrap();
        })
        .await
    };
    let relaying = tokio::spawn(relaying);
    let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
    let (close, closing) = oneshot::channel();
    tokio::spawn(connection.run(closing));

    let (mut data, error) = open(&opener, "80", Some("0")).await;
    assert_eq!(say(&mut data, "through").await, "THROUGH");
    data.io.shutdown().await.unwrap();
    assert_eq!(rest(data).await, "");
    assert_eq!(rest(error).await, "");
    let (_data, refused) = open(&opener, "9", Some("1")).await;
    assert_eq!(rest(refused).await, "no port 9");
    drop((close, opener, _data));
    relaying.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_oldest_websocket_form_names_its_ports_first() {
    let (client, server) = tokio::io::duplex(4096);
    let agree = front(Protocol::Channels { base64: false });
    let serving = tokio::spawn(async move { serve(server, &agree, &[80, 0x1f90], shout).await });
    let mut socket = mux::websocket(client, Role::Client).await;
    let mut first = Vec::new();
    while first.len() < 4 {
        let message = socket.next().await.unwrap().unwrap().into_data();
        first.push(message.to_vec());
    }
    assert_eq!(first, [vec![0, 80, 0], vec![1, 80, 0], vec![2, 0x90, 0x1f], vec![3, 0x90, 0x1f]]);
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), b"\x03no port 8080".as_slice());
    socket.send(Message::Binary(Bytes::from_static(b"\x00hi"))).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), b"\x00HI".as_slice());
    drop(socket);
    assert!(matches!(serving.await.unwrap(), Err(StreamError::Closed)));
}

#[tokio::test]
async fn a_port_that_closes_first_ends_the_forward() {
    let (client, server) = tokio::io::duplex(4096);
    let greet = |forward: Forward| async move {
        let (here, mut port) = tokio::io::duplex(64);
        let greeting = tokio::spawn(async move {
            port.write_all(b"bye").await.unwrap();
        });
        join(forward.data, here).await.unwrap();
        greeting.await.unwrap();
    };
    let relaying = async move {
        serve(server, &Front(Kind::Spdy { name: None }), &[], |forward| async move {
            let (back, agent) = tokio::io::duplex(4096);
            let agent =
                tokio::spawn(async move { serve(agent, &front(Protocol::Agent), &[80], greet).await });
            relay_over(back, forward).await;
            let _ = agent.await.unwrap();
        })
        .await
    };
    tokio::spawn(relaying);
    let (connection, opener, _incoming) = Connection::new(client, spdy::Role::Client);
    let (_close, closing) = oneshot::channel();
    tokio::spawn(connection.run(closing));
    let (data, error) = open(&opener, "80", Some("0")).await;
    let (mut from_port, _held_open) = tokio::io::split(data.io);
    let mut text = String::new();
    from_port.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "bye");
    assert_eq!(rest(error).await, "", "the error stream ends though the client has not closed");
}

#[tokio::test]
async fn random_connections_end_without_panic() {
    use rand::RngExt;
    let mut random = crate::random();
    for round in 0..400 {
        // Mostly something that looks like a frame, so that it gets beyond the first check.
        let (front, start): (_, &[u8]) = match round % 5 {
            0 => (front(Protocol::Agent), &[0x82, 0x85, 0, 0, 0, 0]),
            1 => (front(Protocol::Channels { base64: false }), &[0x82, 0x85, 0, 0, 0, 0, 1]),
            2 => (front(Protocol::Channels { base64: true }), &[0x81, 0x85, 0, 0, 0, 0, b'1']),
            3 => (front(Protocol::Tunnel), &[0x82, 0x8c, 0, 0, 0, 0, 0x80, 3, 0, 1, 0, 0, 0, 4]),
            _ => (Front(Kind::Spdy { name: None }), &[0x80, 3, 0, 1, 0, 0, 0, 20]),
        };
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let noise: Vec<u8> = (0..random.random_range(0..400)).map(|_| random.random()).collect();
        client.write_all(&[start, &noise].concat()).await.unwrap();
        drop(client);
        let _ = serve(server, &front, &[80], shout).await;
    }
}
