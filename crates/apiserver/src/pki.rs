//! The cluster's certificates: an authority of its own, made at the first start, and what it signs.
//!
//! Keys live in one directory, readable by its owner only. The certificates that the server itself shows
//! are in memory, made anew at each start and whenever they come near their end ([`live`]); the
//! administrator's is in a file, and reissued at a start.

mod clients;
mod join;
mod live;
mod nodes;
mod signing;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::RngExt;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use sha2::{Digest, Sha256};

use crate::clock::{self, Clock};
use crate::private_file;
pub(crate) use clients::Presented;
pub use clients::ServerTls;
use clients::{AnyClient, Clients};
use live::LiveCertificate;
use nodes::Nodes;
pub use signing::Grant;

const DAY_S: i64 = 86_400;
/// Of bootstrap tokens, as upstream has them.
const TOKEN_ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const CA_DAYS: i64 = 3650;
/// 2025-01-01. Authorities are valid from then on, whatever the clock says when they are made: machines
/// without a clock of their own start long ago, and are set right later.
const CA_START: i64 = 1_735_689_600;
const LEAF_DAYS: i64 = 365;
/// Reissued at a start when less is left.
const RENEW_DAYS: i64 = 60;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make or sign a certificate")]
    Sign(#[from] rcgen::Error),
    #[error("cannot use the certificates for TLS")]
    Tls(#[from] rustls::Error),
    #[error("{path} holds no valid certificate or key")]
    Pem { path: PathBuf },
    #[error("the certificate signing request is not well formed, or not signed by its own key")]
    Request,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// What a node's agent needs to be a client of the server and a server to it.
#[derive(Clone)]
pub struct NodeCertificates {
    pub client: Issued,
    pub serving: Issued,
}

/// The cluster's authority.
pub struct Pki {
    dir: PathBuf,
    clock: Clock,
    /// By name: what this process shows, and what nodes have shown.
    lives: Mutex<Vec<Life>>,
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    ca_der: CertificateDer<'static>,
    ca_hash: String,
    nodes: Nodes,
}

/// From when until when a certificate is good, in Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// What it is for: `ca`, `kube-apiserver`, `system:node:NAME` …
    pub name: String,
    pub not_before: i64,
    pub not_after: i64,
}

impl Life {
    /// Of a certificate's PEM.
    fn of(name: &str, certificate: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
        let validity = parsed.validity();
        Some(Self {
            name: name.to_owned(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

/// A name that a certificate answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AltName {
    Dns(String),
    Ip(IpAddr),
}

struct Subject<'a> {
    name: &'a str,
    organizations: &'a [&'a str],
    usage: ExtendedKeyUsagePurpose,
    names: &'a [AltName],
}

impl Pki {
    /// Opens the authority in `dir`, or makes one.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        Self::open_by(dir, Clock::default())
    }

    /// As [`Pki::open`], by another clock than the system's.
    pub fn open_by(dir: &Path, clock: Clock) -> Result<Self, PkiError> {
        private_file::make_dir(dir).map_err(|source| PkiError::Write { path: dir.into(), source })?;
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let (ca, key) = match read(&cert_path).and_then(|c| Ok((c, read(&key_path)?))) {
            Ok(found) => found,
            Err(PkiError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let made = make_ca(&clock)?;
                write_private(&key_path, &made.key)?;
                write_private(&cert_path, &made.certificate)?;
                (made.certificate, made.key)
            }
            Err(error) => return Err(error),
        };
        let ca_der =
            CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|_| PkiError::Pem { path: cert_path })?;
        let issuer = Issuer::from_ca_cert_pem(&ca, KeyPair::from_pem(&key)?)?;
        let ca_hash: String = Sha256::digest(&ca_der).iter().map(|byte| format!("{byte:02x}")).collect();
        let lives = Mutex::new(Life::of("ca", &ca).into_iter().collect());
        let nodes = Nodes::open(&dir.join("nodes.json"))?;
        Ok(Self { dir: dir.into(), clock, lives, issuer, ca, ca_der, ca_hash, nodes })
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// SHA-256 of the authority's certificate, in hexadecimal: what join tokens pin.
    pub fn ca_hash(&self) -> &str {
        &self.ca_hash
    }

    /// Join tokens as [`Pki::make_join_token`], each for one of these nodes and for one use within a day. They
    /// replace all of an earlier time, and a server that runs already does not know them.
    pub fn node_tokens(&self, nodes: &[&str]) -> Result<Vec<String>, PkiError> {
        let tokens = self.nodes.make_tokens(nodes, self.clock.now())?;
        Ok(tokens.into_iter().map(|token| format!("{}.{token}", self.ca_hash)).collect())
    }

    /// The node that such a token is for, while it is good.
    pub(crate) fn node_of_token(
        &self,
        id: &str,
        secret: &str,
        is_same: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Option<String> {
        self.nodes.of_token(id, secret, self.clock.now(), is_same)
    }

    /// Keeps in mind that a connection with a node's certificate came from there.
    pub(crate) fn saw_node(&self, node: &str, from: IpAddr) {
        if let Err(error) = self.nodes.saw(node, from) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(node, error, "a join token that was used can't be removed");
        }
    }

    /// Where the connections with a node's certificate have come from since the start.
    pub fn node_addresses(&self, node: &str) -> Vec<IpAddr> {
        self.nodes.addresses(node)
    }

    /// Whether the last client certificate that was signed for a node has ended. Of one that this authority
    /// has no memory of it is taken that it has not.
    pub fn node_has_ended(&self, node: &str) -> bool {
        self.nodes.end(node).is_some_and(|end| end <= self.clock.now())
    }

    /// A client certificate: user `name` in groups `organizations`.
    pub fn issue_client(&self, name: &str, organizations: &[&str]) -> Result<Issued, PkiError> {
        self.issue(&Subject { name, organizations, usage: ExtendedKeyUsagePurpose::ClientAuth, names: &[] })
    }

    /// A node's certificates with keys made here, for a node on this host.
    pub fn issue_node(&self, node: &str, ips: &[IpAddr]) -> Result<NodeCertificates, PkiError> {
        let user = format!("system:node:{node}");
        Ok(NodeCertificates {
            client: self.issue_client(&user, &["system:nodes"])?,
            serving: self.issue(&serving_subject(&user, &node_names(node, ips)))?,
        })
    }

    /// A certificate (PEM) for a request's (PEM) subject, key and names, no longer than the authority's.
    pub fn sign_request(&self, request: &str, grant: &Grant) -> Result<String, PkiError> {
        let der = skiff_api::certificates::request_der(request.as_bytes()).map_err(|_| PkiError::Request)?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&self.ca_der)
            .map_err(|_| PkiError::Pem { path: self.dir.join("ca.crt") })?;
        let end = certificate.validity().not_after.timestamp();
        let grant = Grant { not_after: grant.not_after.min(end), ..grant.clone() };
        let authority = signing::Authority { certificate: &certificate, key: self.issuer.key() };
        let signed = to_pem(&signing::sign(&authority, &der, &grant)?);
        if grant.usages.iter().any(|usage| usage == "client auth")
            && let Ok(asked) = skiff_api::certificates::Request::parse(request.as_bytes())
            && let Some(node) = asked.common_name.strip_prefix("system:node:")
        {
            self.nodes.signed(node, grant.not_after)?;
        }
        Ok(signed)
    }

    /// The lives of the authority's certificate, of those that this process shows, of the administrator's,
    /// and of those that nodes have shown since the start; by name.
    pub fn lives(&self) -> Vec<Life> {
        let mut lives = self.lives.lock().clone();
        if let Ok(admin) = read(&self.dir.join("admin.crt")) {
            lives.extend(Life::of("kubernetes-admin", &admin));
        }
        lives.sort_by(|a, b| a.name.cmp(&b.name));
        lives
    }

    /// Keeps in mind how long a certificate is good.
    pub(crate) fn note(&self, life: Life) {
        let mut lives = self.lives.lock();
        match lives.iter_mut().find(|known| known.name == life.name) {
            Some(known) => *known = life,
            None => lives.push(life),
        }
    }

    /// The administrator's client certificate, kept in a file and reissued near its end.
    pub fn admin(&self) -> Result<Issued, PkiError> {
        self.kept("admin", || self.issue_client("kubernetes-admin", &["system:masters"]))
    }

    /// TLS for the API's listeners. Client certificates of this authority are asked for, not demanded.
    pub fn server_tls(self: &Arc<Self>, names: &[AltName]) -> Result<ServerTls, PkiError> {
        let names = names.to_vec();
        let serving = LiveCertificate::new(self, "kube-apiserver", move |pki| {
            pki.issue(&serving_subject("kube-apiserver", &names))
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(AnyClient(Arc::clone(&verifier))))
            .with_cert_resolver(serving);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let clients = Clients { verifier, pki: Arc::clone(self) };
        Ok(ServerTls { config: Arc::new(config), clients: Arc::new(clients) })
    }

    /// TLS for the server's requests to agents, as `kube-apiserver-kubelet-client`.
    pub fn agent_client_config(self: &Arc<Self>) -> Result<Arc<rustls::ClientConfig>, PkiError> {
        let name = "kube-apiserver-kubelet-client";
        let shown = LiveCertificate::new(self, name, move |pki| pki.issue_client(name, &["system:masters"]))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_cert_resolver(shown);
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca_der.clone())?;
        Ok(roots)
    }

    fn chain(
        &self,
        issued: &Issued,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let fault = |_| PkiError::Pem { path: self.dir.clone() };
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).map_err(fault)?;
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).map_err(fault)?;
        Ok((vec![certificate, self.ca_der.clone()], key))
    }

    fn kept(&self, name: &str, issue: impl FnOnce() -> Result<Issued, PkiError>) -> Result<Issued, PkiError> {
        let (cert_path, key_path) =
            (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        if let (Ok(certificate), Ok(key)) = (read(&cert_path), read(&key_path))
            && Life::of(name, &certificate).is_some_and(|life| life.is_fresh(self.clock.now()))
        {
            return Ok(Issued { certificate, key });
        }
        let issued = issue()?;
        write_private(&key_path, &issued.key)?;
        write_private(&cert_path, &issued.certificate)?;
        Ok(issued)
    }

    fn issue(&self, subject: &Subject<'_>) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        Ok(Issued { certificate: self.sign(subject, &key)?, key: key.serialize_pem() })
    }

    fn sign(&self, subject: &Subject<'_>, key: &impl PublicKeyData) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(subject.name, subject.organizations);
        let now = self.clock.now();
        params.not_before = date(now - DAY_S);
        params.not_after = date(now + LEAF_DAYS * DAY_S);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![subject.usage.clone()];
        params.use_authority_key_identifier_extension = true;
        for name in subject.names {
            params.subject_alt_names.push(match name {
                AltName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                AltName::Ip(ip) => SanType::IpAddress(*ip),
            });
        }
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

/// The names that the API server answers to: loopback, the given node addresses, and its service.
pub fn server_names(node_ips: &[IpAddr], service_ip: IpAddr, domain: &str) -> Vec<AltName> {
    let mut names: Vec<AltName> = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .into_iter()
        .map(|name| AltName::Dns(name.into()))
        .collect();
    names.push(AltName::Dns(format!("kubernetes.default.svc.{domain}")));
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
    for ip in loopback.iter().chain(node_ips).chain([&service_ip]) {
        if !names.contains(&AltName::Ip(*ip)) {
            names.push(AltName::Ip(*ip));
        }
    }
    names
}

fn serving_subject<'a>(name: &'a str, names: &'a [AltName]) -> Subject<'a> {
    Subject { name, organizations: &[], usage: ExtendedKeyUsagePurpose::ServerAuth, names }
}

fn node_names(node: &str, ips: &[IpAddr]) -> Vec<AltName> {
    let name = AltName::Dns(node.into());
    std::iter::once(name).chain(ips.iter().map(|ip| AltName::Ip(*ip))).collect()
}

fn distinguished_name(name: &str, organizations: &[&str]) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    // One attribute type can be there once, which is enough: nobody is in two groups by certificate.
    for organization in organizations {
        dn.push(DnType::OrganizationName, *organization);
    }
    dn.push(DnType::CommonName, name);
    dn
}

fn make_ca(clock: &Clock) -> Result<Issued, PkiError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("skiff-ca", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params.not_before = date(CA_START.min(clock.now() - DAY_S));
    params.not_after = date(CA_START.max(clock.now()) + CA_DAYS * DAY_S);
    Ok(Issued { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn date(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

/// How many whole days a certificate (PEM) is good for yet, by the system's clock.
pub fn days_left(certificate: &str) -> Option<i64> {
    Life::of("", certificate).map(|life| (life.not_after - clock::now()).div_euclid(DAY_S))
}

/// A part of a bootstrap token.
fn random(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(TOKEN_ALPHABET[rng.random_range(0..TOKEN_ALPHABET.len())])).collect()
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine as _;

    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Read { path: path.into(), source })
}

pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let fault = |source| PkiError::Write { path: path.into(), source };
    private_file::write_durably(path, text.as_bytes()).map_err(fault)
}
