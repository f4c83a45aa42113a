//! Asking registries: resolving a reference to a manifest, and fetching blobs.
//!
//! The protocol is `oci-client`'s. Errors are worded as containerd words them, since they end in a pod's
//! events, where people look for the wording they know.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::Write as _;

use futures_util::StreamExt as _;
use oci_client::Client;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth as OciAuth;

use super::Config;
use super::content::{FinishedBlob, JSON_BYTES_MAX, NewBlob};
use super::digest::Digest;
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, Index, MANIFEST, Manifest};
use super::reference::{Reference, Version};
use crate::types::RegistryAuth;

const USER_AGENT: &str = concat!("skiff/", env!("CARGO_PKG_VERSION"));

/// What a registry offers under a reference, for this machine.
pub(crate) struct Resolved {
    source: oci_client::Reference,
    client: Client,
    auth: OciAuth,
    /// The manifest as it came; its digest names it.
    pub manifest_bytes: Vec<u8>,
    pub manifest: Manifest,
    /// What the reference means there: the index's digest, or the manifest's where there is no index.
    pub target: Digest,
}

/// Asks the mirrors, then the registry itself; the error is the registry's.
pub(crate) async fn resolve(
    config: &Config,
    reference: &Reference,
    auth: Option<RegistryAuth>,
) -> Result<Resolved, String> {
    let auth = match auth {
        Some(auth) => OciAuth::Basic(auth.username, auth.password),
        None => OciAuth::Anonymous,
    };
    let prefix = format!("failed to resolve reference \"{reference}\"");
    let mirrors = config.mirrors.get(&reference.registry).map_or(&[][..], Vec::as_slice);
    for mirror in mirrors {
        let mut source = source(reference);
        source.set_mirror_registry(mirror.clone());
        // A registry's credentials are not for its mirrors.
        match resolve_at(config, reference, source, OciAuth::Anonymous).await {
            Ok(resolved) => return Ok(resolved),
            Err(reason) => tracing::debug!(mirror, reason, "a mirror doesn't have the image"),
        }
    }
    resolve_at(config, reference, source(reference), auth)
        .await
        .map_err(|reason| format!("{prefix}: {reason}"))
}

async fn resolve_at(
    config: &Config,
    reference: &Reference,
    source: oci_client::Reference,
    auth: OciAuth,
) -> Result<Resolved, String> {
    let client = client(config, source.resolve_registry())?;
    // The protocol's client would ask twice, and wait both times.
    super::lookup::check(source.resolve_registry(), config.connect_timeout).await.map_err(|reason| {
        format!("failed to do request: Get \"{}\": {reason}", manifest_url(config, &source))
    })?;
    let (bytes, target) = manifest(&client, &source, &auth, reference).await?;
    let document: serde_json::Value = parse(&bytes)?;
    if document.get("manifests").is_none() {
        let manifest = parse(&bytes)?;
        return Ok(Resolved { source, client, auth, manifest_bytes: bytes, manifest, target });
    }
    let index: Index = parse(&bytes)?;
    let chosen = index.choose().ok_or_else(|| {
        let own = super::manifest::own_architecture();
        format!("no match for platform in manifest: linux/{own}: not found")
    })?;
    let at = source.clone_with_digest(chosen.digest.to_string());
    let (bytes, _) = manifest(&client, &at, &auth, &reference.at(&chosen.digest)).await?;
    let manifest = parse(&bytes)?;
    Ok(Resolved { source, client, auth, manifest_bytes: bytes, manifest, target })
}

impl Resolved {
    /// Streams a blob into `into` and verifies it.
    pub(crate) async fn fetch(&self, blob: &Descriptor, mut into: NewBlob) -> Result<FinishedBlob, String> {
        let digest = blob.digest.to_string();
        let said = |reason: String| format!("failed to copy {digest}: {reason}");
        self.client.store_auth_if_needed(self.source.resolve_registry(), &self.auth).await;
        let mut stream = self
            .client
            .pull_blob_stream(&self.source, digest.as_str())
            .await
            .map_err(|error| said(explain(&error, &digest)))?;
        let (mut received, mut reported) = (0, 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| said(chain(&error)))?;
            received += chunk.len() as u64;
            if blob.size > 0 && received > blob.size {
                return Err(said(format!("it has more than the {} bytes that the manifest says", blob.size)));
            }
            // Chunks are small; the page cache takes them without blocking for long.
            into.write_all(&chunk).map_err(|error| said(error.to_string()))?;
            if (received - reported) >= 16 << 20 {
                reported = received;
                tracing::info!(digest, received, total = blob.size, "pulling a layer");
            }
        }
        let finished = into.finish();
        if finished.digest != blob.digest || blob.size > 0 && finished.size != blob.size {
            return Err(said(format!(
                "unexpected content: {} bytes with digest {}",
                finished.size, finished.digest
            )));
        }
        tracing::debug!(digest, bytes = finished.size, "pulled a blob");
        Ok(finished)
    }
}

async fn manifest(
    client: &Client,
    source: &oci_client::Reference,
    auth: &OciAuth,
    reference: &Reference,
) -> Result<(Vec<u8>, Digest), String> {
    let accepted = [INDEX, DOCKER_INDEX, MANIFEST, DOCKER_MANIFEST];
    let (bytes, _) = client
        .pull_manifest_raw(source, auth, &accepted)
        .await
        .map_err(|error| explain(&error, &reference.to_string()))?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        return Err(format!("the manifest has {} bytes; {JSON_BYTES_MAX} are the most", bytes.len()));
    }
    let digest = Digest::of(&bytes);
    match source.digest() {
        Some(wanted) if wanted != digest.to_string() => Err(format!("asked for {wanted}, got {digest}")),
        _ => Ok((bytes.to_vec(), digest)),
    }
}

fn source(reference: &Reference) -> oci_client::Reference {
    let (registry, repository) = (reference.registry.clone(), reference.repository.clone());
    match &reference.version {
        Version::Tag(tag) => oci_client::Reference::with_tag(registry, repository, tag.clone()),
        Version::Digest(digest) => {
            oci_client::Reference::with_digest(registry, repository, digest.to_string())
        }
    }
}

/// As the protocol's client asks for it.
fn manifest_url(config: &Config, source: &oci_client::Reference) -> String {
    let registry = source.resolve_registry();
    let scheme = if is_plain(config, registry) { "http" } else { "https" };
    let version = source.digest().or(source.tag()).unwrap_or("latest");
    format!("{scheme}://{registry}/v2/{}/manifests/{version}", source.repository())
}

fn is_plain(config: &Config, registry: &str) -> bool {
    is_loopback(registry) || config.http_registries.iter().any(|host| host == registry)
}

fn client(config: &Config, registry: &str) -> Result<Client, String> {
    // A second installation changes nothing: the binary has installed the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut extra_root_certificates = Vec::new();
    for path in &config.ca_certificates {
        let data = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        extra_root_certificates.push(Certificate { encoding: CertificateEncoding::Pem, data });
    }
    // Without any root the HTTP library would panic rather than fail.
    if rustls_native_certs::load_native_certs().certs.is_empty() {
        return Err(
            "this machine has no trusted root certificates; install its ca-certificates package".into()
        );
    }
    let protocol = if is_plain(config, registry) { ClientProtocol::Http } else { ClientProtocol::Https };
    let settings = ClientConfig {
        protocol,
        extra_root_certificates,
        connect_timeout: Some(config.connect_timeout),
        read_timeout: Some(config.read_timeout),
        user_agent: USER_AGENT,
        ..ClientConfig::default()
    };
    Client::try_from(settings).map_err(|error| chain(&error))
}

/// As docker does: a registry on this machine is trusted without TLS.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A registry's refusal in containerd's words, with its own message behind.
fn explain(error: &OciDistributionError, what: &str) -> String {
    let denied = "pull access denied, repository does not exist or may require authorization";
    match error {
        OciDistributionError::RegistryError { envelope, .. } => {
            let said: Vec<String> = envelope.errors.iter().map(|error| error.message.clone()).collect();
            let said = said.join("; ");
            match envelope.errors.first().map(|error| &error.code) {
                Some(
                    OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
                    | OciErrorCode::BlobUnknown,
                ) => format!("{what}: not found (the registry says: {said})"),
                Some(OciErrorCode::Denied | OciErrorCode::Unauthorized) => format!("{denied}: {said}"),
                Some(OciErrorCode::Toomanyrequests) => {
                    format!("unexpected status 429 Too Many Requests: {said}")
                }
                _ => said,
            }
        }
        OciDistributionError::ImageManifestNotFoundError(said) => {
            format!("{what}: not found (the registry says: {said})")
        }
        OciDistributionError::ServerError { code: 404, .. } => format!("{what}: not found"),
        OciDistributionError::ServerError { code, url, message } => {
            let message: String = message.chars().take(300).collect();
            format!("unexpected status from GET request to {url}: {code}: {message}")
        }
        OciDistributionError::UnauthorizedError { url } => {
            format!("{denied}: {url} answers 401 Unauthorized")
        }
        OciDistributionError::AuthenticationFailure(said) => {
            format!("failed to authorize: {}", said.chars().take(300).collect::<String>())
        }
        OciDistributionError::RequestError(cause) => {
            let url = cause.url().map_or_else(String::new, |url| format!("Get \"{url}\": "));
            // The outer layers only say that it is about this URL and a connection.
            let mut said = Vec::new();
            let mut inner = cause.source();
            while let Some(reason) = inner {
                said.push(reason.to_string());
                inner = reason.source();
            }
            said.retain(|reason| !reason.starts_with("client error"));
            let said = if said.is_empty() { cause.to_string() } else { said.join(": ") };
            format!("failed to do request: {url}{said}")
        }
        _ => chain(error),
    }
}

/// An error with all its causes; a cause that the text before already tells is left out.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        source = cause.source();
    }
    text
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("the manifest can't be understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_registries_are_spoken_to_in_the_clear() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:80", "[::1]:5000", "127.9.9.9"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "127.0.0.1.evil.org", "localhost.evil.org:5000", "10.0.0.1:5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
