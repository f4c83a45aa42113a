//! Asking registries: resolving a reference to a manifest, and fetching blobs.
//!
//! The protocol is that of <https://github.com/opencontainers/distribution-spec>. Errors are worded as
//! containerd words them, since they end in a pod's events, where people look for the wording they know.
//! Whoever may make pods may have any server asked, so nothing of an answer is held in memory unbounded.

mod challenge;
mod http;
mod token;
mod words;

use std::io::Write as _;

use serde::Deserialize;
use serde::de::IgnoredAny;

use self::http::Remote;
use super::Config;
use super::content::{FinishedBlob, JSON_BYTES_MAX, NewBlob};
use super::digest::Digest;
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, Index, MANIFEST, Manifest};
use super::reference::{Reference, Version};
use crate::types::RegistryAuth;

/// What a registry offers under a reference, for this machine.
pub(crate) struct Resolved {
    remote: Remote,
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
    let prefix = format!("failed to resolve reference \"{reference}\"");
    let mirrors = config.mirrors.get(&reference.registry).map_or(&[][..], Vec::as_slice);
    for mirror in mirrors {
        match resolve_at(config, reference, Host::Mirror(mirror)).await {
            Ok(resolved) => return Ok(resolved),
            Err(reason) => tracing::debug!(mirror, reason, "a mirror doesn't have the image"),
        }
    }
    resolve_at(config, reference, Host::Registry(auth)).await.map_err(|reason| format!("{prefix}: {reason}"))
}

/// Who is asked. A registry's credentials are not for its mirrors.
enum Host<'a> {
    Mirror(&'a str),
    Registry(Option<RegistryAuth>),
}

async fn resolve_at(config: &Config, reference: &Reference, host: Host<'_>) -> Result<Resolved, String> {
    let (host, mirrored, auth) = match host {
        Host::Mirror(mirror) => (mirror, Some(reference.registry.clone()), None),
        // The name that people use has no registry behind it.
        Host::Registry(auth) if reference.registry == "docker.io" => ("index.docker.io", None, auth),
        Host::Registry(auth) => (reference.registry.as_str(), None, auth),
    };
    let scheme = if is_plain(config, host) { "http" } else { "https" };
    let origin = format!("{scheme}://{host}");
    let remote = Remote::new(config, &origin, &reference.repository, mirrored, auth)?;
    // The HTTP library's resolver would ask twice, and wait both times.
    super::lookup::check(host, config.connect_timeout).await.map_err(|reason| {
        let url = format!("{origin}/v2/{}/manifests/{}", reference.repository, version(reference));
        words::undone(&url, &reason)
    })?;
    let (bytes, target) = manifest(&remote, reference).await?;
    let Kind { manifests } = parse(&bytes)?;
    if manifests.is_none() {
        let manifest = parse(&bytes)?;
        return Ok(Resolved { remote, manifest_bytes: bytes, manifest, target });
    }
    let index: Index = parse(&bytes)?;
    drop(bytes);
    let chosen = index.choose().ok_or_else(|| {
        let own = super::manifest::own_architecture();
        format!("no match for platform in manifest: linux/{own}: not found")
    })?;
    let (bytes, _) = manifest(&remote, &reference.at(&chosen.digest)).await?;
    let manifest = parse(&bytes)?;
    Ok(Resolved { remote, manifest_bytes: bytes, manifest, target })
}

/// An index is told from a manifest by what it has; the rest is not kept.
#[derive(Deserialize)]
struct Kind {
    manifests: Option<IgnoredAny>,
}

impl Resolved {
    /// Streams a blob into `into` and verifies it.
    pub(crate) async fn fetch(&self, blob: &Descriptor, mut into: NewBlob) -> Result<FinishedBlob, String> {
        let digest = blob.digest.to_string();
        let said = |reason: String| format!("failed to copy {digest}: {reason}");
        let mut answer = self.remote.get(&format!("blobs/{digest}"), "*/*", &digest).await.map_err(said)?;
        let (mut received, mut reported) = (0, 0);
        while let Some(chunk) =
            answer.chunk().await.map_err(|error| said(words::chain(&error.without_url())))?
        {
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

async fn manifest(remote: &Remote, reference: &Reference) -> Result<(Vec<u8>, Digest), String> {
    let accepted = [INDEX, DOCKER_INDEX, MANIFEST, DOCKER_MANIFEST].join(", ");
    let path = format!("manifests/{}", version(reference));
    let mut answer = remote.get(&path, &accepted, &reference.to_string()).await?;
    let url = http::shown(answer.url());
    if answer.status() != reqwest::StatusCode::OK {
        return Err(words::refusal(answer.status(), &url, b"", &reference.to_string()));
    }
    if let Some(length) = answer.content_length()
        && length > JSON_BYTES_MAX
    {
        return Err(format!("the manifest has {length} bytes; {JSON_BYTES_MAX} are the most"));
    }
    let mut bytes = Vec::new();
    let whole = http::read(&mut answer, JSON_BYTES_MAX, &mut bytes).await;
    if !whole.map_err(|error| words::unrequested(&url, error))? {
        return Err(format!("the manifest has more bytes than {JSON_BYTES_MAX}, which are the most"));
    }
    let digest = Digest::of(&bytes);
    if let Version::Digest(wanted) = &reference.version
        && *wanted != digest
    {
        return Err(format!("asked for {wanted}, got {digest}"));
    }
    let header = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
    match header.and_then(Digest::parse) {
        Some(promised) if promised != digest => {
            Err(format!("the registry promised {promised}, got {digest}"))
        }
        _ => Ok((bytes, digest)),
    }
}

fn version(reference: &Reference) -> String {
    match &reference.version {
        Version::Tag(tag) => tag.clone(),
        Version::Digest(digest) => digest.to_string(),
    }
}

fn is_plain(config: &Config, registry: &str) -> bool {
    is_loopback(registry) || config.http_registries.iter().any(|host| host == registry)
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
