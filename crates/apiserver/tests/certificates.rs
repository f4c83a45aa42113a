//! Certificates on a socket: whom they stand for, which are refused, and that the server's own never end.

mod api;
#[path = "api/socket.rs"]
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use api::Api;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use serde_json::{Value, json};
use skiff_apiserver::pki::{Grant, Issued, Pki};
use skiff_apiserver::{Clock, Config};
use socket::{Listening, listen};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const DAY_S: i64 = 86_400;
const START: i64 = 1_800_000_000;

/// A clock of the test's, for server and clients.
#[derive(Debug, Clone)]
struct Time(Arc<AtomicI64>);

impl Time {
    fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let read = Arc::clone(&self.0);
        Clock::new(move || read.load(Ordering::SeqCst))
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.load(Ordering::SeqCst)).expect("after 1970");
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

struct Served {
    address: SocketAddr,
    pki: Arc<Pki>,
    time: Time,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

type Request = http::Request<Full<bytes::Bytes>>;

impl Served {
    async fn start() -> Self {
        Self::on(tempfile::tempdir().expect("a directory"), Time(Arc::new(AtomicI64::new(START)))).await
    }

    async fn on(dir: tempfile::TempDir, time: Time) -> Self {
        let pki = Arc::new(Pki::open_by(dir.path(), time.clock()).expect("an authority"));
        let config = Config { pki: Some(Arc::clone(&pki)), clock: time.clock(), ..Config::default() };
        let Listening { address, shutdown, serving } = listen(config).await;
        Self { address, pki, time, shutdown, serving, dir }
    }

    async fn stop(self) -> (tempfile::TempDir, Time) {
        self.shutdown.cancel();
        self.serving.await.expect("the server ends");
        (self.dir, self.time)
    }

    /// A connection, and the end of the certificate that the server showed.
    async fn connect(&self, client: Option<&Issued>) -> (SendRequest<Full<bytes::Bytes>>, i64) {
        self.connect_to("localhost", client).await
    }

    /// The same to one of the server's names.
    async fn connect_to(
        &self,
        name: &'static str,
        client: Option<&Issued>,
    ) -> (SendRequest<Full<bytes::Bytes>>, i64) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca().as_bytes()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_details(provider, Arc::new(self.time.clone()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(issued) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM")],
                    PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM"),
                )
                .expect("a client certificate"),
        };
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(name).expect("a name");
        let stream = connector.connect(name, stream).await.expect("TLS");
        let shown = stream.get_ref().1.peer_certificates().expect("the server shows one")[0].to_vec();
        let (_, shown) = x509_parser::parse_x509_certificate(&shown).expect("a certificate");
        let end = shown.validity().not_after.timestamp();
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        (sender, end)
    }

    async fn send(&self, client: Option<&Issued>, request: Request) -> (StatusCode, Value) {
        let (mut sender, _) = self.connect(client).await;
        send(&mut sender, request).await
    }
}

async fn send(sender: &mut SendRequest<Full<bytes::Bytes>>, request: Request) -> (StatusCode, Value) {
    let response = sender.send_request(request).await.expect("an answer");
    let code = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

fn get(path: &str) -> Request {
    http::Request::builder().uri(path).body(Full::default()).expect("a request")
}

fn bearing(token: &str, path: &str) -> Request {
    http::Request::builder()
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .body(Full::default())
        .expect("a request")
}

fn unauthorized() -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Unauthorized", "reason": "Unauthorized", "code": 401});
    (StatusCode::UNAUTHORIZED, status)
}

const NAMESPACES: &str = "/api/v1/namespaces";

#[tokio::test]
async fn a_certificate_says_who_one_is() {
    let served = Served::start().await;
    let (code, body) = served.send(None, get("/api/v1/namespaces/default/secrets/x")).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        body["message"],
        "secrets \"x\" is forbidden: User \"system:anonymous\" cannot get resource \"secrets\" in API group \
         \"\" in the namespace \"default\""
    );
    let (code, _) = served.send(None, get("/version")).await;
    assert_eq!(code, StatusCode::OK);
    let admin = served.pki.admin().expect("issued");
    let (mut sender, _) = served.connect_to("kubernetes.default.svc.cluster.local", Some(&admin)).await;
    let (code, body) = send(&mut sender, get("/api/v1/namespaces")).await;
    assert_eq!((code, body["kind"].as_str()), (StatusCode::OK, Some("NamespaceList")));
    drop(sender);
    served.stop().await;
}

#[tokio::test]
async fn certificates_of_others_or_for_servers_are_nobodys() {
    let served = Served::start().await;
    let elsewhere = tempfile::tempdir().expect("a directory");
    let other = Pki::open_by(elsewhere.path(), served.time.clock()).expect("an authority");
    let foreign = other.admin().expect("issued");
    let for_servers = served.pki.issue_node("n1", &[]).expect("issued").serving;
    for bad in [&foreign, &for_servers] {
        assert_eq!(served.send(Some(bad), get(NAMESPACES)).await, unauthorized());
        assert_eq!(served.send(Some(bad), get("/version")).await, unauthorized(), "not even as anonymous");
    }
    let admin = served.pki.admin().expect("issued");
    assert_eq!(served.send(Some(&admin), get(NAMESPACES)).await.0, StatusCode::OK);
    // Who has a good certificate needs no token, whatever is in the header.
    assert_eq!(served.send(Some(&admin), bearing("junk", NAMESPACES)).await.0, StatusCode::OK);
    assert_eq!(served.send(None, bearing("junk", "/version")).await, unauthorized());
    assert_eq!(served.send(None, get("/version")).await.0, StatusCode::OK);
    served.stop().await;
}

#[tokio::test]
async fn a_certificate_ends_within_a_connection_too() {
    let served = Served::start().await;
    let admin = served.pki.issue_client("jane", &["system:masters"]).expect("issued");
    let (mut sender, _) = served.connect(Some(&admin)).await;
    assert_eq!(send(&mut sender, get(NAMESPACES)).await.0, StatusCode::OK);
    served.time.set(START + 365 * DAY_S + 1);
    assert_eq!(send(&mut sender, get(NAMESPACES)).await, unauthorized());
    assert_eq!(served.send(Some(&admin), get(NAMESPACES)).await, unauthorized());
    drop(sender);
    served.stop().await;
}

#[tokio::test]
async fn the_servers_certificate_is_renewed_while_it_runs() {
    let served = Served::start().await;
    let (_, first) = served.connect(None).await;
    assert_eq!(first, START + 365 * DAY_S);
    served.time.set(START + 306 * DAY_S);
    let (_, second) = served.connect(None).await;
    assert!(second >= START + 600 * DAY_S, "renewed 60 days before its end");
    // A clock that jumps by years, and back to before all.
    served.time.set(START + 5 * 365 * DAY_S);
    let (_, third) = served.connect(None).await;
    assert!(third > START + 5 * 365 * DAY_S);
    served.time.set(START - 200 * DAY_S);
    let (_, fourth) = served.connect(None).await;
    assert!(fourth < START + 365 * DAY_S);
    served.stop().await;
}

#[tokio::test]
async fn a_start_with_expired_certificates_heals_itself() {
    let served = Served::start().await;
    let old = served.pki.admin().expect("issued");
    let (dir, time) = served.stop().await;
    time.set(START + 400 * DAY_S);
    let served = Served::on(dir, time).await;
    assert_eq!(served.send(Some(&old), get(NAMESPACES)).await, unauthorized());
    let admin = served.pki.admin().expect("issued");
    assert_ne!(admin.certificate, old.certificate);
    assert_eq!(served.send(Some(&admin), get(NAMESPACES)).await.0, StatusCode::OK);
    served.stop().await;
}

#[tokio::test]
async fn an_authority_made_by_a_clock_of_1970_is_good_later() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = Served::on(dir, Time(Arc::new(AtomicI64::new(100 * DAY_S)))).await;
    served.connect(None).await;
    served.time.set(START);
    served.connect(None).await;
    served.stop().await;
}

#[tokio::test]
async fn how_long_certificates_are_good_can_be_asked() {
    let served = Served::start().await;
    let node = served.pki.issue_node("n1", &[]).expect("issued").client;
    served.connect(Some(&node)).await;
    served.time.set(START + 100 * DAY_S);
    let admin = served.pki.admin().expect("issued");
    let (code, answer) = served.send(Some(&admin), get("/skiff/v1/certificates")).await;
    assert_eq!(code, StatusCode::OK, "{answer}");
    let lives: Vec<(&str, i64)> = answer["certificates"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["name"].as_str().expect("a name"), one["daysLeft"].as_i64().expect("days")))
        .collect();
    assert_eq!(
        lives,
        [("ca", 3550), ("kube-apiserver", 265), ("kubernetes-admin", 365), ("system:node:n1", 265)]
    );
    assert_eq!(served.send(None, get("/skiff/v1/certificates")).await.0, StatusCode::FORBIDDEN);
    served.stop().await;
}

/// Two machines say one address: it is the one's whose connections come from there.
#[tokio::test]
async fn an_address_that_a_nodes_connections_come_from_is_its_own() {
    let served = Served::start().await;
    let admin = served.pki.admin().expect("issued");
    let node = served.pki.issue_node("n1", &[]).expect("issued").client;
    let write = |method: Method, path: &str, body: Value| {
        http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/merge-patch+json")
            .body(Full::from(body.to_string()))
            .expect("a request")
    };
    let at = |ip: &str| json!({"status": {"addresses": [{"type": "InternalIP", "address": ip}]}});
    for name in ["n1", "n2"] {
        let request = http::Request::post("/api/v1/nodes")
            .header("content-type", "application/json")
            .body(Full::from(json!({"metadata": {"name": name}}).to_string()))
            .expect("a request");
        assert_eq!(served.send(Some(&admin), request).await.0, StatusCode::CREATED);
    }
    let (own, other) = ("/api/v1/nodes/n1/status", "/api/v1/nodes/n2/status");
    for (ip, code) in [("127.0.0.1", StatusCode::OK), ("10.0.0.3", StatusCode::FORBIDDEN)] {
        let taken = served.send(Some(&admin), write(Method::PATCH, other, at(ip))).await;
        assert_eq!(taken.0, StatusCode::OK, "{}", taken.1);
        let (found, answer) = served.send(Some(&node), write(Method::PATCH, own, at(ip))).await;
        assert_eq!(found, code, "{ip}: {answer}");
    }
    served.stop().await;
}

/// A request for a user in these groups, and its key.
fn request(name: &str, groups: &[&str]) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["jane.example.com".to_owned()]).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (group, type_) in
        groups.iter().zip([rcgen::DnType::OrganizationName, rcgen::DnType::CustomDnType(vec![2, 5, 4, 10])])
    {
        params.distinguished_name.push(type_, *group);
    }
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    (request, key.serialize_pem())
}

#[tokio::test]
async fn a_signed_request_makes_one_whom_it_names() {
    let served = Served::start().await;
    let (request, key) = request("jane", &["dev", "ops"]);
    let grant = Grant {
        not_before: START - 300,
        not_after: START + 20_000 * DAY_S,
        usages: vec!["digital signature".into(), "client auth".into()],
    };
    let certificate = served.pki.sign_request(&request, &grant).expect("signed");
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
    assert_eq!(parsed.validity().not_after.timestamp(), START + 3650 * DAY_S, "no longer than the authority");
    assert!(!parsed.is_ca());
    let names = parsed.subject_alternative_name().expect("readable").expect("kept");
    assert_eq!(names.value.general_names.len(), 1);
    let issued = Issued { certificate, key };
    let mut review = get("/apis/authentication.k8s.io/v1/selfsubjectreviews");
    *review.method_mut() = Method::POST;
    *review.body_mut() = Full::from("{}");
    let (code, answer) = served.send(Some(&issued), review).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "jane");
    assert_eq!(user["groups"], json!(["dev", "ops", "system:authenticated"]));
    let credential = user["extra"]["authentication.kubernetes.io/credential-id"][0].as_str();
    assert!(credential.is_some_and(|id| id.starts_with("X509SHA256=")), "{user}");
    served.stop().await;
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn csr(name: &str, pem: &str, signer: &str) -> Value {
    use base64::Engine as _;

    let request = base64::engine::general_purpose::STANDARD.encode(pem);
    json!({"metadata": {"name": name}, "spec": {
        "request": request, "signerName": signer, "usages": ["client auth"], "username": "somebody else"}})
}

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

#[tokio::test]
async fn a_request_is_decided_once_and_by_who_may() {
    let api = Api::new().await;
    let (pem, _) = request("jane", &["dev"]);
    let made = api.ok(Method::POST, REQUESTS, csr("jane", &pem, SIGNER)).await;
    assert_eq!(made["spec"]["username"], "admin", "the server says who asked");
    assert_eq!(made["spec"]["groups"], json!(["system:masters", "system:authenticated"]));
    let decision = |type_: &str| json!([{"type": type_, "status": "True", "reason": "Test", "message": "m"}]);
    let mut decided = made.clone();
    decided["status"]["conditions"] = decision("Approved");
    decided["spec"]["signerName"] = "example.com/other".into();
    let kept = api.ok(Method::PUT, &format!("{REQUESTS}/jane"), decided.clone()).await;
    assert_eq!((&kept["status"]["conditions"], &kept["spec"]["signerName"]), (&Value::Null, &json!(SIGNER)));
    decided["metadata"]["resourceVersion"] = kept["metadata"]["resourceVersion"].clone();
    let status = format!("{REQUESTS}/jane/status");
    let refusal = api.refused(Method::PUT, &status, decided.clone(), 422).await;
    assert!(refusal.contains("updates may not add a condition of type \"Approved\""), "{refusal}");
    let approval = format!("{REQUESTS}/jane/approval");
    let approved = api.ok(Method::PUT, &approval, decided).await;
    let condition = &approved["status"]["conditions"][0];
    assert_eq!(condition["type"], "Approved");
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string());
    let mut both = approved.clone();
    both["status"]["conditions"].as_array_mut().expect("conditions").push(decision("Denied")[0].clone());
    let refusal = api.refused(Method::PUT, &approval, both, 422).await;
    assert!(refusal.contains("Approved and Denied conditions are mutually exclusive"), "{refusal}");
    let mut signed = approved.clone();
    signed["status"]["certificate"] = "anVuaw==".into();
    let refusal = api.refused(Method::PUT, &status, signed, 422).await;
    assert!(refusal.contains("must contain at least one CERTIFICATE PEM block"), "{refusal}");
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let api = Api::new().await;
    let (pem, _) = request("jane", &["system:masters"]);
    let refusal = api.refused(Method::POST, REQUESTS, csr("masters", &pem, SIGNER), 403).await;
    assert_eq!(
        refusal,
        "certificatesigningrequests.certificates.k8s.io \"masters\" is forbidden: use of \
         kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    );
    let refusal = api.refused(Method::POST, REQUESTS, csr("junk", "junk", SIGNER), 422).await;
    assert!(refusal.contains("spec.request: Invalid value"), "{refusal}");
    assert!(refusal.contains("PEM block type must be CERTIFICATE REQUEST"), "{refusal}");
    // Two names: whoever judges the one would let in the other.
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]), "kube-controller-manager");
    params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
    let twice = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let refusal = api.refused(Method::POST, REQUESTS, csr("twice", &twice, SIGNER), 422).await;
    assert!(refusal.contains("the subject has 2 common names; it may have one"), "{refusal}");
    // A request that another key signed: the key in it is not the asker's.
    let (other, _) = request("mallory", &["dev"]);
    let der = |pem: &str| {
        rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).expect("PEM")
    };
    let (mut forged, other) = (der(&pem).to_vec(), der(&other).to_vec());
    let tail = forged.len() - 16;
    forged.truncate(tail);
    forged.extend_from_slice(&other[other.len() - 16..]);
    let forged = {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(forged);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let refusal = api.refused(Method::POST, REQUESTS, csr("forged", &forged, SIGNER), 422).await;
    assert!(refusal.contains("spec.request: Invalid value"), "{refusal}");
}
