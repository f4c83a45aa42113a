//! Asking for a certificate: a key that never leaves the node, a CertificateSigningRequest, and waiting for
//! what comes of it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use skiff_client::{Client, Error, ListParams, WatchEvent};
use tracing::{info, warn};

use super::Refused;
use super::identity::Issued;

/// After this long it is said that somebody has to approve the request.
const APPROVED_SOON: Duration = Duration::from_secs(10);
/// A watch that ends is begun anew after this.
const AGAIN: Duration = Duration::from_millis(200);

/// What the certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be this node to the API server.
    Client,
    /// To be asked on the agent's port, by the node's name and these addresses.
    Serving { ips: Vec<IpAddr> },
}

impl Purpose {
    fn signer(&self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving { .. } => "kubernetes.io/kubelet-serving",
        }
    }

    fn usages(&self) -> Vec<String> {
        let own = match self {
            Self::Client => "client auth",
            Self::Serving { .. } => "server auth",
        };
        vec!["digital signature".to_owned(), own.to_owned()]
    }

    fn names(&self, node: &str) -> Result<Vec<SanType>, rcgen::Error> {
        match self {
            Self::Client => Ok(Vec::new()),
            Self::Serving { ips } => {
                let name = SanType::DnsName(node.try_into()?);
                Ok(std::iter::once(name).chain(ips.iter().map(|ip| SanType::IpAddress(*ip))).collect())
            }
        }
    }
}

/// A request (PEM) for the node, and the key that signed it (PEM).
fn make(node: &str, purpose: &Purpose) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "system:nodes");
    name.push(DnType::CommonName, format!("system:node:{node}"));
    params.distinguished_name = name;
    params.subject_alt_names = purpose.names(node)?;
    Ok((params.serialize_request(&key)?.pem()?, key.serialize_pem()))
}

/// A certificate for the node, for as long as the server gives one.
pub(super) async fn certificate(client: &Client, node: &str, purpose: &Purpose) -> anyhow::Result<Issued> {
    let (request, key) = make(node, purpose).context("cannot make a certificate request")?;
    let asked = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("node-csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: purpose.signer().to_owned(),
            usages: Some(purpose.usages()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let made = client.create(&asked).await.map_err(refused)?;
    let certificate = outcome(client, &made).await?;
    Ok(Issued { certificate, key })
}

/// What a request has come to.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Waits,
    Certificate(String),
    /// Denied or failed, and why.
    No(String),
}

fn answer(csr: &CertificateSigningRequest) -> Answer {
    let Some(status) = &csr.status else { return Answer::Waits };
    let no =
        status.conditions.iter().flatten().find(|each| matches!(each.type_.as_str(), "Denied" | "Failed"));
    if let Some(no) = no {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        return Answer::No(
            format!("{} {} {}", no.type_, text(&no.reason), text(&no.message)).trim_end().to_owned(),
        );
    }
    match status.certificate.as_ref().filter(|certificate| !certificate.0.is_empty()) {
        Some(certificate) => Answer::Certificate(String::from_utf8_lossy(&certificate.0).into_owned()),
        None => Answer::Waits,
    }
}

async fn outcome(client: &Client, made: &CertificateSigningRequest) -> anyhow::Result<String> {
    let name = made.metadata.name.as_deref().unwrap_or_default();
    let waiting = wait(client, made, name);
    tokio::pin!(waiting);
    match tokio::time::timeout(APPROVED_SOON, &mut waiting).await {
        Ok(answer) => answer,
        Err(_) => {
            warn!(request = name, "waits for somebody to approve it: kubectl certificate approve NAME");
            // A command that has no log yet.
            if !tracing::dispatcher::has_been_set() {
                crate::tell(format_args!(
                    "Waiting for an administrator of the cluster: kubectl certificate approve {name}"
                ));
            }
            waiting.await
        }
    }
}

async fn wait(client: &Client, made: &CertificateSigningRequest, name: &str) -> anyhow::Result<String> {
    let mut params = ListParams {
        field_selector: Some(format!("metadata.name={name}")),
        resource_version: made.metadata.resource_version.clone(),
        ..ListParams::default()
    };
    loop {
        let mut events = client.watch::<CertificateSigningRequest>(&params).await.map_err(refused)?;
        while let Some(event) = events.next().await {
            let csr = match event {
                Ok(WatchEvent::Added(csr) | WatchEvent::Modified(csr)) => csr,
                Ok(WatchEvent::Deleted(_)) => return Err(anyhow!("the request {name} was deleted")),
                Ok(WatchEvent::Bookmark { .. } | WatchEvent::Unreadable(_)) => continue,
                Err(_) => break,
            };
            match answer(&csr) {
                Answer::Waits => {}
                Answer::Certificate(certificate) => {
                    info!(request = name, signer = csr.spec.signer_name, "got a certificate");
                    return Ok(certificate);
                }
                Answer::No(why) => {
                    return Err(Refused(format!(
                        "the cluster gives this node no certificate ({name}): {why}"
                    ))
                    .into());
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
        // From its state as it is now: what was missed doesn't matter.
        params.resource_version = Some("0".to_owned());
        let now = client.get::<CertificateSigningRequest>("", name).await.map_err(refused)?;
        match answer(&now) {
            Answer::Certificate(certificate) => return Ok(certificate),
            _ => params.resource_version = now.metadata.resource_version.clone(),
        }
    }
}

/// What would be answered the same if it were asked again is told so.
fn refused(error: Error) -> anyhow::Error {
    match error.code() {
        Some(401) => Refused::unauthorized().into(),
        Some(code @ (400 | 403 | 404 | 405 | 422)) => {
            Refused(format!("the server refuses a certificate ({code}): {error}")).into()
        }
        _ => anyhow!(error).context("cannot ask for a certificate"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_api::certificates::{Request, Signer};

    use super::*;

    #[test]
    fn what_is_asked_for_is_what_the_signers_sign() {
        let ips = vec![IpAddr::from([10, 0, 0, 1])];
        for purpose in [Purpose::Client, Purpose::Serving { ips: Vec::new() }, Purpose::Serving { ips }] {
            let (pem, key) = make("n-1", &purpose).expect("makes one");
            assert!(!pem.contains("PRIVATE") && key.contains("PRIVATE"));
            let request = Request::parse(pem.as_bytes()).expect("is well formed");
            assert_eq!(request.common_name, "system:node:n-1");
            let signer = Signer::of(purpose.signer()).expect("is known");
            assert_eq!(signer.fault(&request, &purpose.usages()), None, "{purpose:?}");
        }
    }

    #[test]
    fn a_request_waits_is_granted_or_refused() {
        let check = |status: serde_json::Value, expected: Answer| {
            let csr: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"name": "r"}, "spec": {"request": "", "signerName": "s"}, "status": status,
            }))
            .expect("a request");
            assert_eq!(answer(&csr), expected);
        };
        check(json!({}), Answer::Waits);
        check(json!({"conditions": [{"type": "Approved", "status": "True"}]}), Answer::Waits);
        check(json!({"certificate": "UEVN"}), Answer::Certificate("PEM".into()));
        check(
            json!({"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": "not you"}]}),
            Answer::No("Denied No not you".into()),
        );
        check(json!({"conditions": [{"type": "Failed", "status": "True"}]}), Answer::No("Failed".into()));
    }
}
