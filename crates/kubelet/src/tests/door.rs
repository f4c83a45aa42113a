//! The agent's own port, by real TLS: who gets in with which credential.

use std::net::Ipv4Addr;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signs itself").der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn issue(&self, name: &str, organization: &str, usage: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = CertificateParams::new(vec!["node".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signs").der().clone();
        (vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    fn client(&self, name: &str, organization: &str) -> Option<Identity> {
        Some(self.issue(name, organization, ExtendedKeyUsagePurpose::ClientAuth))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        roots
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn serving(authority: &Authority) -> Arc<ServerConfig> {
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider())
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
    let (chain, key) =
        authority.issue("system:node:node", "system:nodes", ExtendedKeyUsagePurpose::ServerAuth);
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key);
    Arc::new(config.expect("a server"))
}

struct Node {
    agent: Agent,
    authority: Authority,
    port: u16,
}

impl Node {
    async fn start() -> Self {
        let authority = Authority::new("cluster");
        let serving = crate::Serving {
            tls: Some(serving(&authority)),
            ready: None,
            allowed_names: vec!["the-api-server".into()],
            bounds: crate::ServingBounds {
                connections_max: 32,
                privileged_connections_max: 2,
                ..crate::ServingBounds::of_descriptors(1_024)
            },
        };
        let agent = Agent::with(serving);
        let port = agent.port().await;
        Self { agent, authority, port }
    }

    /// What the node answers to a request by TLS, as `STATUS BODY`, or why there is no connection.
    async fn ask(
        &self,
        identity: Option<Identity>,
        token: Option<&str>,
        request: &str,
    ) -> std::io::Result<String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.authority.roots());
        let tls = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("an identity"),
            None => builder.with_no_client_auth(),
        };
        let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let name = ServerName::try_from("node").expect("a name");
        let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!("{request} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n{token}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::InvalidData)?;
        Ok(format!("{} {body}", head.split(' ').nth(1).unwrap_or_default()))
    }
}

const EXEC: &str = "POST /exec/default/p/c?command=ls";

#[tokio::test]
async fn nobody_gets_in_without_a_credential() {
    let node = Node::start().await;
    for path in ["GET /healthz", "GET /pods", "GET /stats/summary", "GET /nothing", EXEC] {
        assert_eq!(node.ask(None, None, path).await.expect("answers"), "401 Unauthorized", "{path}");
    }
    assert_eq!(node.ask(None, Some("forged"), "GET /pods").await.expect("answers"), "401 Unauthorized");
}

#[tokio::test]
async fn plain_http_is_told_that_this_is_tls() {
    let node = Node::start().await;
    let mut plain = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, node.port)).await.expect("connects");
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: node\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.expect("the agent closes");
    let told = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    assert_eq!(answer, told);
}

#[tokio::test]
async fn a_certificate_of_another_authority_ends_the_handshake() {
    let node = Node::start().await;
    let other = Authority::new("cluster");
    let stranger = other.client("the-api-server", "system:masters");
    node.ask(stranger, None, "GET /pods").await.expect_err("it is not one of this cluster");
    let unfit = node.authority.issue("the-api-server", "system:masters", ExtendedKeyUsagePurpose::ServerAuth);
    node.ask(Some(unfit), None, "GET /pods").await.expect_err("it is no client's");
}

#[tokio::test]
async fn the_api_server_may_do_all_unasked() {
    let node = Node::start().await;
    let api = || node.authority.client("the-api-server", "system:masters");
    assert_eq!(node.ask(api(), None, "GET /healthz").await.expect("answers"), "200 ok");
    assert_eq!(node.ask(api(), None, EXEC).await.expect("answers"), "404 container not found (\"c\")");
    assert_eq!(node.agent.api.reviews(), 0);
}

/// Many more than there are places, most of which say nothing, not even of TLS.
#[tokio::test]
async fn who_may_merely_look_has_no_connection_made_and_is_given_no_image() {
    let node = Node::start().await;
    let server = || node.authority.client("the-api-server", "system:masters");
    for path in ["explain/probe?probe=", "explain/listen?listen=", "explain/listen/stop?token="] {
        let looked = node.ask(server(), None, &format!("GET /skiff/{path}")).await.expect("answers");
        assert!(looked.starts_with("404 "), "{path}: {looked}");
        let asked = node.ask(server(), None, &format!("POST /skiff/{path}")).await.expect("answers");
        assert!(asked.starts_with("400 "), "{path}: {asked}");
    }
    let saved = node.ask(server(), None, "GET /skiff/images?save=web:1").await.expect("answers");
    assert!(saved.starts_with("405 "), "{saved}");
}

#[tokio::test]
async fn strangers_keep_nobody_out_however_many_they_are() {
    let node = Node::start().await;
    let mut strangers = Vec::new();
    for source in 2..8 {
        for _ in 0..20 {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind((Ipv4Addr::new(127, 0, 0, source), 0).into()).expect("an address");
            let stream = socket.connect((Ipv4Addr::LOCALHOST, node.port).into()).await;
            strangers.push(stream.expect("connects"));
        }
    }
    let api = node.authority.client("the-api-server", "system:masters");
    assert_eq!(node.ask(api, None, "GET /healthz").await.expect("answers"), "200 ok");
    node.agent.api.know("good", "robot");
    assert!(node.ask(None, Some("good"), "GET /pods").await.expect("answers").starts_with("403 "));
    // The oldest went.
    assert_eq!(strangers[0].read(&mut [0; 8]).await.unwrap_or(0), 0);
}

/// A stranger's connection by TLS, from another address of the loopback.
async fn stranger(node: &Node, source: u8) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(node.authority.roots())
        .with_no_client_auth();
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::new(127, 0, 0, source), 0).into()).expect("an address");
    let stream = socket.connect((Ipv4Addr::LOCALHOST, node.port).into()).await.expect("connects");
    let name = ServerName::try_from("node").expect("a name");
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.expect("a handshake");
    ask_on(&mut stream).await.expect("answers");
    stream
}

/// Asks without a credential, and leaves the connection open.
async fn ask_on(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(b"GET /pods HTTP/1.1\r\nhost: node\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nUnauthorized") {
        answer.push(stream.read_u8().await?);
    }
    Ok(())
}

/// One address has four of the 32 places.
#[tokio::test]
async fn who_speaks_stays_and_who_is_silent_longest_goes() {
    let node = Node::start().await;
    let mut first = stranger(&node, 9).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(stranger(&node, 9).await);
    }
    ask_on(&mut first).await.expect("answers");
    let _one_more = stranger(&node, 9).await;
    ask_on(&mut first).await.expect("the oldest has its place still");
    assert_eq!(others[0].read(&mut [0; 8]).await.unwrap_or(0), 0, "it was silent for longest");
    ask_on(&mut others[1]).await.expect("one is enough");
}

/// A connection of the API server, open and silent after an answer.
async fn held_by_the_api_server(node: &Node) -> TlsStream<tokio::net::TcpStream> {
    let (chain, key) = node.authority.client("the-api-server", "system:masters").expect("an identity");
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(node.authority.roots())
        .with_client_auth_cert(chain, key)
        .expect("an identity");
    let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, node.port)).await.expect("connects");
    let name = ServerName::try_from("node").expect("a name");
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.expect("a handshake");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: node\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        answer.push(stream.read_u8().await.expect("an answer"));
    }
    stream
}

/// What its clients hold open leaves descriptors to the pods.
#[tokio::test]
async fn the_api_servers_connections_are_bounded_and_it_is_told() {
    let node = Node::start().await;
    let first = held_by_the_api_server(&node).await;
    let _second = held_by_the_api_server(&node).await;
    let ask = || {
        let api = node.authority.client("the-api-server", "system:masters");
        node.ask(api, None, "GET /healthz")
    };
    let told = "429 too many connections to this node, please try again later";
    assert_eq!(ask().await.expect("answers"), told);
    drop(first);
    let again = async {
        while ask().await.expect("answers") != "200 ok" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("there is room again");
}

#[tokio::test]
async fn other_certificates_are_reviewed() {
    let node = Node::start().await;
    let namesake = node.authority.client("the-api-server", "people");
    assert_eq!(
        node.ask(namesake, None, EXEC).await.expect("answers"),
        "403 Forbidden (user=the-api-server, verb=create, resource=nodes, subresource(s)=[proxy])",
        "the name without the group"
    );
    let peer = || node.authority.client("system:node:other", "system:nodes");
    assert_eq!(
        node.ask(peer(), None, EXEC).await.expect("answers"),
        "403 Forbidden (user=system:node:other, verb=create, resource=nodes, subresource(s)=[proxy])"
    );
    assert_eq!(
        node.ask(peer(), None, "GET /pods").await.expect("answers"),
        "403 Forbidden (user=system:node:other, verb=get, resource=nodes, subresource(s)=[pods proxy])"
    );
    node.agent.api.allow("admin", "get", "proxy");
    let admin = node.authority.client("admin", "people");
    assert!(node.ask(admin, None, "GET /pods").await.expect("answers").starts_with("200 "));
    let asked = node.agent.api.last_review();
    assert_eq!(asked["spec"]["groups"], json!(["people", "system:authenticated"]));
    assert_eq!(asked["spec"]["resourceAttributes"]["name"], "node");
}

#[tokio::test]
async fn tokens_are_reviewed_and_carry_rights_of_their_own() {
    let node = Node::start().await;
    node.agent.api.know("good", "robot");
    node.agent.api.allow("robot", "get", "stats");
    let ask = |request: &'static str| node.ask(None, Some("good"), request);
    let stats = ask("GET /stats/summary").await.expect("answers");
    assert!(!stats.starts_with("401") && !stats.starts_with("403"), "{stats}");
    assert!(ask("GET /pods").await.expect("answers").starts_with("403 Forbidden (user=robot, verb=get"));
    assert!(ask(EXEC).await.expect("answers").starts_with("403 Forbidden (user=robot, verb=create"));
    // A second look at the same asks nobody.
    let before = node.agent.api.reviews();
    assert!(ask("GET /pods").await.expect("answers").starts_with("403 "));
    assert_eq!(node.agent.api.reviews(), before);
}

#[tokio::test]
async fn while_the_api_server_cannot_be_asked_nobody_gets_in() {
    let node = Node::start().await;
    node.agent.api.fail_reviews();
    assert_eq!(node.ask(None, Some("good"), "GET /pods").await.expect("answers"), "401 Unauthorized");
    let peer = node.authority.client("admin", "people");
    assert_eq!(
        node.ask(peer, None, "GET /metrics").await.expect("answers"),
        "500 Authorization error (user=admin, verb=get, resource=nodes, subresource(s)=[metrics])"
    );
}
