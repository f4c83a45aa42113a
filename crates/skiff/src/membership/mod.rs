//! What makes a node a member of its cluster: its certificates, and what it knows of the cluster.
//!
//! A node that has none shows its join token, `CA_HASH.BOOTSTRAP_TOKEN`, to a server whose authority has
//! that hash, and asks for a client certificate; with that it asks for all else, and for new certificates
//! before the old ones end. The token is forgotten then: a node that slept through the end needs another.

mod identity;
mod pinned;
mod renew;
mod request;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use skiff_client::{Client, Remote, empty};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::agent::AgentConfig;
use crate::config;
use identity::{Issued, Shown};
use request::Purpose;

/// What every node has to know of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    /// PEM.
    ca: String,
    #[serde(rename = "clusterCIDR")]
    pub(crate) cluster_cidr: String,
    #[serde(rename = "serviceCIDR")]
    pub(crate) service_cidr: String,
    #[serde(rename = "clusterDNS")]
    pub(crate) cluster_dns: String,
    pub(crate) cluster_domain: String,
}

/// Below the node's data directory.
const FILE: &str = "membership.json";

/// The path of it.
const CLUSTER: &str = "/skiff/v1/cluster";

/// What is kept in a file of the node's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    cluster: Cluster,
    /// Certificates name these, so another name or address needs others.
    node_name: String,
    node_ip: Ipv4Addr,
    client: Issued,
    /// From when the node was first served.
    serving: Option<Issued>,
}

/// Asking again would be answered the same.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

impl Refused {
    fn unauthorized() -> Self {
        Self(
            "the server does not know the credentials of this node. Make a join token on a machine that \
             administers the cluster with `skiff token create`, and start `skiff agent` with it"
                .to_owned(),
        )
    }
}

/// A member, with certificates in use.
pub(crate) struct Membership {
    pub(crate) cluster: Cluster,
    path: PathBuf,
    config: AgentConfig,
    remote: Arc<Remote>,
    client_identity: Arc<Shown>,
    serving_identity: Arc<Shown>,
    /// There is something to show on the agent's port.
    can_serve: watch::Sender<bool>,
}

impl Membership {
    /// What was kept from an earlier start, or what the server gives for the token; asks until it answers.
    pub(crate) async fn obtain(config: &AgentConfig) -> anyhow::Result<Self> {
        let mut delay = Duration::from_millis(5);
        loop {
            match Self::ask(config).await {
                Ok(membership) => return Ok(membership),
                Err(error) if error.is::<Refused>() => return Err(error),
                Err(error) => {
                    if delay > Duration::from_millis(500) {
                        warn!(
                            server = config.server,
                            error = format!("{error:#}"),
                            "cannot join the cluster, retrying"
                        );
                    }
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(2));
                }
            }
        }
    }

    /// As [`Membership::obtain`], but asks once. An error that is [`Refused`] is final.
    pub(crate) async fn ask(config: &AgentConfig) -> anyhow::Result<Self> {
        let path = config.data_dir.join(FILE);
        let kept = match read(&path) {
            Some(kept) => match unfit(&kept, config, now())? {
                None => kept,
                Some(why) => {
                    info!(why, "joining anew");
                    join(config, Some(why)).await?
                }
            },
            None => join(config, None).await?,
        };
        Self::new(config, path, &kept)
    }

    fn new(config: &AgentConfig, path: PathBuf, kept: &Kept) -> anyhow::Result<Self> {
        let (client_identity, serving_identity) = (Arc::new(Shown::default()), Arc::new(Shown::default()));
        client_identity.show(&kept.client)?;
        if let Some(serving) = &kept.serving {
            serving_identity.show(serving)?;
        }
        let mut tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context("cannot use TLS")?
            .with_root_certificates(kept.cluster.roots()?)
            .with_client_cert_resolver(client_identity.clone());
        // A session that is resumed is that of the certificate it began with, also after that was replaced.
        tls.resumption = rustls::client::Resumption::disabled();
        let remote = Remote::with_tls(&config.server, None, tls, None)
            .map_err(|error| anyhow::anyhow!(error))
            .context("cannot use the credentials")?;
        config::write(&path, kept)?;
        Ok(Self {
            cluster: kept.cluster.clone(),
            path,
            // One use is enough.
            config: AgentConfig { token: None, ..config.clone() },
            remote: Arc::new(remote),
            client_identity,
            serving_identity,
            can_serve: watch::Sender::new(kept.serving.is_some()),
        })
    }

    /// A client of the API as this node, also after its certificate was renewed.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.remote.clone())
    }

    /// TLS for the agent's own port: a client shows a certificate of the cluster's authority, or none.
    pub(crate) fn serving_tls(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let roots = Arc::new(self.cluster.roots()?);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider())
            .allow_unauthenticated()
            .build()
            .context("cannot use the cluster's CA")?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context("cannot use TLS")?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.serving_identity.clone());
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(tls))
    }

    /// Whether there is a certificate to serve with, which [`Membership::keep`] gets.
    pub(crate) fn can_serve(&self) -> watch::Receiver<bool> {
        self.can_serve.subscribe()
    }

    fn kept(&self) -> anyhow::Result<Kept> {
        read(&self.path).with_context(|| format!("{} is gone", self.path.display()))
    }

    /// Uses and keeps another client certificate.
    fn take_client(&mut self, issued: Issued) -> anyhow::Result<()> {
        self.client_identity.show(&issued)?;
        self.remote.reconnect();
        config::write(&self.path, &Kept { client: issued, ..self.kept()? })
    }

    fn take_serving(&mut self, issued: Issued) -> anyhow::Result<()> {
        self.serving_identity.show(&issued)?;
        self.can_serve.send_replace(true);
        config::write(&self.path, &Kept { serving: Some(issued), ..self.kept()? })
    }
}

impl Cluster {
    fn authority(&self) -> anyhow::Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.ca.as_bytes()).context("cannot parse the cluster's CA")
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority()?).context("cannot use the cluster's CA")?;
        Ok(roots)
    }
}

/// The certificates (PEM) that the node whose data are in `data_dir` keeps, with what they are for.
pub(crate) fn kept_certificates(data_dir: &Path) -> Vec<(&'static str, String)> {
    let Some(kept) = read(&data_dir.join(FILE)) else { return Vec::new() };
    let serving = kept.serving.map(|serving| ("serving", serving.certificate));
    [("client", kept.client.certificate)].into_iter().chain(serving).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What a node kept of its cluster, if it ever was in one.
pub(crate) fn kept_cluster(data_dir: &Path) -> Option<Cluster> {
    let bytes = fs::read(data_dir.join(FILE)).ok()?;
    Some(serde_json::from_slice::<Kept>(&bytes).ok()?.cluster)
}

fn read(path: &Path) -> Option<Kept> {
    let bytes = fs::read(path).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(kept) => Some(kept),
        Err(error) => {
            warn!(path = %path.display(), %error, "the kept credentials are of no use: joining anew");
            None
        }
    }
}

/// Why what was kept is of no use any more.
fn unfit(kept: &Kept, config: &AgentConfig, now: i64) -> anyhow::Result<Option<String>> {
    if kept.node_name != config.node_name || kept.node_ip != config.node_ip {
        return Ok(Some("the node has another name or address".to_owned()));
    }
    let pin = config.token.as_deref().and_then(|token| token.trim().split_once('.')).map(|(pin, _)| pin);
    if pin.is_some_and(|pin| kept.cluster.authority().map_or(true, |ca| pinned::fingerprint(&ca) != pin)) {
        return Ok(Some("the token is that of another cluster".to_owned()));
    }
    let end = kept.client.life()?.not_after;
    let date = k8s_openapi::jiff::Timestamp::from_second(end).map(|date| date.to_string());
    Ok((end <= now).then(|| format!("the node's certificate ended at {}", date.unwrap_or_default())))
}

/// Gets a client certificate for the token. `lost` says why an earlier one is of no use.
async fn join(config: &AgentConfig, lost: Option<String>) -> anyhow::Result<Kept> {
    let because = |why: &str| {
        let lost = lost.as_ref().map(|lost| format!("{lost}, and ")).unwrap_or_default();
        Refused(format!("{lost}{why}"))
    };
    const ANOTHER: &str = "make another on a machine that administers the cluster with `skiff token create`, and start `skiff agent` with it";
    let Some(token) = config.token.as_deref().map(str::trim).filter(|token| !token.is_empty()) else {
        return Err(because(&format!("this node has no join token: {ANOTHER}")).into());
    };
    let Some((pin, bootstrap)) = token.split_once('.') else {
        return Err(because("the join token is malformed: it has no dot").into());
    };
    let (tls, seen) = pinned::tls(pin).context("cannot use TLS")?;
    let remote = Remote::with_tls(&config.server, None, tls, Some(bootstrap))
        .map_err(|error| anyhow::anyhow!(error))
        .context("cannot use the join token")?;
    let client = Client::new(remote);
    let purpose = Purpose::Client;
    let (asked, told) =
        tokio::join!(request::certificate(&client, &config.node_name, &purpose), cluster(&client));
    if seen.is_other() {
        return Err(because(&format!(
            "the authority of the server at {} is not the one that the join token names: take a token of \
             this cluster",
            config.server
        ))
        .into());
    }
    let issued = match asked {
        Ok(issued) => issued,
        Err(error) if error.is::<Refused>() && is_unauthorized(&error) => {
            return Err(because(&format!(
                "the server at {} does not know the join token, or it has expired: {ANOTHER}",
                config.server
            ))
            .into());
        }
        Err(error) => return Err(error),
    };
    let cluster = told?;
    let authority = seen.authority().context("the server showed no certificate")?;
    if cluster.authority()? != authority {
        bail!("the server at {} tells of another authority than its own", config.server);
    }
    info!(server = config.server, "joined the cluster");
    Ok(Kept {
        cluster,
        node_name: config.node_name.clone(),
        node_ip: config.node_ip,
        client: issued,
        serving: None,
    })
}

fn is_unauthorized(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.0 == Refused::unauthorized().0)
}

async fn cluster(client: &Client) -> anyhow::Result<Cluster> {
    let request = http::Request::get(CLUSTER).body(empty()).context("cannot make a request")?;
    let answer = client.send(request).await.context("cannot ask for the cluster's ranges")?;
    let status = answer.status();
    let bytes = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .map_err(|error| anyhow::anyhow!(error))
        .context("cannot read the cluster's ranges")?
        .to_bytes();
    if !status.is_success() {
        bail!("cannot ask for the cluster's ranges: the server answered {status}");
    }
    serde_json::from_slice(&bytes).context("cannot decode the cluster's ranges")
}

#[cfg(test)]
mod tests;
