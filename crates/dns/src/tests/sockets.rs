//! A real server on loopback, and another one that it forwards to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::RecordType;
use serde_json::json;
use skiff_client::{Body, Cache, Client, ListParams, ObjectKey, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;

use super::{request, service, slice};
use crate::answer::response_to;
use crate::forward::PATIENCE;
use crate::{Caches, Config, Error, Forwarders, Server};

/// No API server: the caches are fed by hand.
struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, skiff_client::Error> {
        std::future::pending().await
    }
}

/// After this a test is told to hang; no test depends on how much sooner it ends.
const HANGS: Duration = Duration::from_secs(60);

/// So long that a test that waited for its end would be told to hang.
const FOR_EVER: Duration = Duration::from_secs(3600);

struct Running {
    address: SocketAddr,
    caches: Caches,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn start(zone: &str, forwarders: Vec<SocketAddr>, services: Vec<(&str, &str)>) -> Self {
        Running::with(zone, forwarders, Running::caches(services)).await
    }

    fn caches(services: Vec<(&str, &str)>) -> Caches {
        let client = Client::new(Nowhere);
        let services =
            services.iter().map(|(name, address)| service(name, json!({"clusterIP": address, "ports": []})));
        Caches {
            services: Cache::detached(client.clone(), services),
            slices: Cache::detached(client, []),
            pods: None,
        }
    }

    async fn with(zone: &str, forwarders: Vec<SocketAddr>, caches: Caches) -> Self {
        Running::patient(zone, forwarders, caches, PATIENCE).await
    }

    /// With another patience with forwarders.
    async fn patient(zone: &str, forwarders: Vec<SocketAddr>, caches: Caches, patience: Duration) -> Self {
        let forwarders = Forwarders::These(forwarders);
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), zone: zone.into(), forwarders };
        let mut server = Server::bind(config, caches.clone()).await.unwrap();
        let shared = Arc::get_mut(&mut server.shared).expect("nobody shares it yet");
        // No test is to pass because a connection was ended by its time.
        (shared.patience, shared.idle) = (patience, FOR_EVER);
        let address = server.address();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Running { address, caches, stop, task }
    }

    async fn udp(&self, request: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&request.to_vec().unwrap(), self.address).await.unwrap();
        let mut buffer = [0; 4096];
        let receive = tokio::time::timeout(HANGS, socket.recv(&mut buffer));
        let count = receive.await.expect("an answer").unwrap();
        Message::from_vec(&buffer[..count]).unwrap()
    }

    /// Asks until the answer is as wanted: changes of a cache arrive a moment later.
    async fn until(&self, request: &Message, wanted: impl Fn(&Message) -> bool) -> Message {
        let end = Instant::now() + HANGS;
        loop {
            let response = self.udp(request).await;
            if wanted(&response) {
                return response;
            }
            assert!(Instant::now() < end, "still {response}");
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

fn first(response: &Message) -> String {
    response.answers.first().map(|record| record.data.to_string()).unwrap_or_default()
}

const WEB: &str = "web.default.svc.cluster.local.";

fn is_ok(response: &Message) -> bool {
    response.metadata.response_code == ResponseCode::NoError
}

#[tokio::test]
async fn udp_and_tcp_answer_and_changes_are_seen() {
    let server = Running::start("cluster.local", vec![], vec![("web", "10.96.0.7")]).await;
    let question = request(WEB, RecordType::A);
    let response = server.until(&question, is_ok).await;
    assert_eq!((response.metadata.id, first(&response).as_str()), (question.metadata.id, "10.96.0.7"));
    assert!(response.metadata.authoritative && response.queries == question.queries);

    // Two questions on one connection.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        let bytes = question.to_vec().unwrap();
        stream.write_all(&[&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()).await.unwrap();
        let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(first(&Message::from_vec(&buffer).unwrap()), "10.96.0.7");
    }
    // One that promises too much is closed.
    stream.write_all(&[0xff, 0xff, 0]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);

    let moved = service("web", json!({"clusterIP": "10.96.0.8", "ports": []}));
    server.caches.services.apply(Arc::new(moved));
    server.until(&question, |response| first(response) == "10.96.0.8").await;
    server.caches.services.remove(&ObjectKey::new("default", "web"), None);
    server.until(&question, |response| response.metadata.response_code == ResponseCode::NXDomain).await;
    server.stop().await;
}

#[tokio::test]
async fn answers_take_turns_and_grow_with_edns() {
    let server = Running::start("cluster.local", vec![], vec![]).await;
    server.caches.services.apply(Arc::new(service("many", json!({"clusterIP": "None", "ports": []}))));
    let addresses: Vec<String> = (0..60).map(|i| format!("10.244.0.{i}")).collect();
    let endpoints: Vec<_> = addresses.iter().map(|address| (address.as_str(), "", true)).collect();
    server.caches.slices.apply(Arc::new(slice("many-a", "many", &endpoints, json!([]))));
    let mut question = request("many.default.svc.cluster.local.", RecordType::A);
    let small = server.until(&question, is_ok).await;
    assert!(small.metadata.truncation && small.edns.is_none());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    question.set_edns(edns);
    let (one, other) = (server.udp(&question).await, server.udp(&question).await);
    assert!(!one.metadata.truncation && one.answers.len() == 60 && one.edns.is_some());
    assert_ne!(first(&one), first(&other));
    server.stop().await;
}

#[tokio::test]
async fn names_of_the_outside_are_forwarded_or_fail_at_once() {
    let outside = Running::start("example.org", vec![], vec![("www", "192.0.2.7")]).await;
    let name = "www.default.svc.example.org.";
    outside.until(&request(name, RecordType::A), is_ok).await;
    // Whoever waited for an answer that does not come would never end.
    let caches = Running::caches(vec![]);
    let inside = Running::patient("cluster.local", vec![outside.address], caches, FOR_EVER).await;
    let external = json!({"type": "ExternalName", "externalName": name});
    inside.caches.services.apply(Arc::new(service("out", external)));

    let question = request(name, RecordType::A);
    let response = inside.udp(&question).await;
    assert_eq!((response.metadata.id, first(&response).as_str()), (question.metadata.id, "192.0.2.7"));
    let missing = inside.udp(&request("nope.default.svc.example.org.", RecordType::A)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    // An alias that leads outside comes with what it leads to.
    let question = request("out.default.svc.cluster.local.", RecordType::A);
    let response = inside.until(&question, is_ok).await;
    let data: Vec<String> = response.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, [name, "192.0.2.7"]);
    // The outside is gone: loopback says so at once.
    outside.stop().await;
    let response = inside.udp(&request(name, RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    inside.stop().await;
}

#[tokio::test]
async fn a_silent_forwarder_delays_nobody_else() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let caches = Running::caches(vec![("web", "10.96.0.7")]);
    let forwarders = vec![silent.local_addr().unwrap()];
    let server = Running::patient("cluster.local", forwarders, caches, FOR_EVER).await;
    server.until(&request(WEB, RecordType::A), is_ok).await;
    let outside = request("example.org.", RecordType::A);
    let slow = server.udp(&outside);
    let fast = async {
        let mut buffer = [0; 4096];
        let (count, asker) = silent.recv_from(&mut buffer).await.unwrap();
        // From here on the one waits for the other server, which answers after both were asked.
        assert_eq!(first(&server.udp(&request(WEB, RecordType::A)).await), "10.96.0.7");
        let asked = Message::from_vec(&buffer[..count]).unwrap();
        let mut answer = response_to(&asked);
        answer.metadata.response_code = ResponseCode::NXDomain;
        silent.send_to(&answer.to_vec().unwrap(), asker).await.unwrap();
    };
    let (slow, ()) = tokio::join!(slow, fast);
    assert_eq!(slow.metadata.response_code, ResponseCode::NXDomain, "what the other server said at last");
    server.stop().await;
}

#[tokio::test]
async fn a_forwarder_that_stays_silent_is_given_up() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let forwarders = vec![silent.local_addr().unwrap()];
    let caches = Running::caches(vec![]);
    let server = Running::patient("cluster.local", forwarders, caches, Duration::from_millis(1)).await;
    let response = server.udp(&request("example.org.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
}

#[tokio::test]
async fn before_the_caches_are_complete_no_name_is_denied() {
    let client = Client::new(Nowhere);
    let caches = Caches {
        services: Cache::new(client.clone(), ListParams::default()),
        slices: Cache::new(client, ListParams::default()),
        pods: None,
    };
    let server = Running::with("cluster.local", vec![], caches).await;
    let response = server.udp(&request(WEB, RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let server = Running::start("cluster.local", vec![], vec![]).await;
    let config = Config {
        listen: server.address,
        zone: "cluster.local".into(),
        forwarders: Forwarders::These(vec![]),
    };
    let said = Server::bind(config, server.caches.clone()).await.err().unwrap().to_string();
    assert_eq!(said, format!("cannot listen on {} (TCP)", server.address));
    server.stop().await;
}

#[tokio::test]
async fn who_holds_connections_without_a_word_stops_nobody_else() {
    let server = Running::start("cluster.local", vec![], vec![("web", "10.96.0.7")]).await;
    let question = request(WEB, RecordType::A);
    server.until(&question, is_ok).await;
    let mut silent = Vec::new();
    // More than there is room for; those beyond the client's share are closed.
    for _ in 0..600 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        silent.extend(socket.connect(server.address).await);
    }
    let asking = async {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let bytes = question.to_vec().unwrap();
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &bytes].concat()).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    };
    let answer = tokio::time::timeout(HANGS, asking).await.expect("an answer");
    assert_eq!(first(&answer), "10.96.0.7");
    drop(silent);
    server.stop().await;
}
