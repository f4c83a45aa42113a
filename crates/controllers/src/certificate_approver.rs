//! Approves the requests of nodes for their own certificates, as nobody could do better by hand: a client
//! certificate for whom the API says may have one (who bootstraps a node, and the node itself when it
//! renews), and a serving certificate for a node that names itself and nobody else.
//!
//! The last one is more than upstream does, which leaves it to an administrator; without it the server
//! could not tell a node's agent from an impostor.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::certificates::{Request, Signer};
use skiff_client::{Error, ObjectKey, Requeue, WorkQueue, work};
use tracing::{debug, info};

use crate::certificates::{has_condition, is_decided, request_of};
use crate::context::{Context, feed_own};

/// How soon a recognized request that was not approved is looked at again.
const AGAIN: Duration = Duration::from_secs(10);

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let reconciler = context.clone();
    tokio::join!(
        feed_own(context.caches.certificate_signing_requests.clone(), queue.clone()),
        work("certificate-approver", queue, context.config.workers, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

/// What a request could be approved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The API is asked whether the requestor may create this subresource.
    Permission {
        subresource: &'static str,
        message: &'static str,
    },
    OwnServing,
}

impl Reason {
    fn message(self) -> &'static str {
        match self {
            Self::Permission { message, .. } => message,
            Self::OwnServing => {
                "Auto approving kubelet serving certificate: it names the requesting node alone."
            }
        }
    }
}

const SELF: Reason = Reason::Permission {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const BOOTSTRAP: Reason = Reason::Permission {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// The reasons to approve a request, by what it asks for and who asks.
fn reasons(csr: &CertificateSigningRequest, request: &Request) -> Vec<Reason> {
    let usages = csr.spec.usages.clone().unwrap_or_default();
    let Some(signer) = Signer::of(&csr.spec.signer_name) else { return Vec::new() };
    if signer.fault(request, &usages).is_some() {
        return Vec::new();
    }
    let own = csr.spec.username.as_deref() == Some(&request.common_name);
    let is_node = csr.spec.groups.iter().flatten().any(|group| group == "system:nodes");
    match signer {
        Signer::ApiServerClient => Vec::new(),
        Signer::ApiServerClientKubelet if own => vec![SELF, BOOTSTRAP],
        Signer::ApiServerClientKubelet => vec![BOOTSTRAP],
        Signer::KubeletServing if own && is_node => vec![Reason::OwnServing],
        Signer::KubeletServing => Vec::new(),
    }
}

/// Names of the API itself: a node that is called so must not get a certificate for it unasked.
const RESERVED: &[&str] = &["localhost", "kubernetes"];

/// Whether all names and addresses of a serving request are the requesting node's, and no other's.
fn names_itself(request: &Request, nodes: &[Arc<Node>]) -> bool {
    let Some(own) = request.common_name.strip_prefix("system:node:") else { return false };
    if RESERVED.contains(&own) || own.starts_with("kubernetes.") {
        return false;
    }
    let has = |node: &Node, ip: &String| {
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        addresses.into_iter().any(|address| {
            matches!(address.type_.as_str(), "InternalIP" | "ExternalIP") && address.address == *ip
        })
    };
    let is_own = |node: &&Arc<Node>| node.metadata.name.as_deref() == Some(own);
    let (mine, others): (Vec<_>, Vec<_>) = nodes.iter().partition(is_own);
    let addressed = |ip: &String| {
        let loopback = ip.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        !loopback && mine.iter().any(|node| has(node, ip)) && !others.iter().any(|node| has(node, ip))
    };
    request.dns_names.iter().all(|name| name == own) && request.ip_addresses.iter().all(addressed)
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(csr) = context.caches.certificate_signing_requests.get(key) else { return Ok(Requeue::Never) };
    if is_decided(&csr) || has_condition(&csr, "Failed") {
        return Ok(Requeue::Never);
    }
    let Some(request) = request_of(&csr) else { return Ok(Requeue::Never) };
    let reasons = reasons(&csr, &request);
    for reason in &reasons {
        let approved = match reason {
            Reason::Permission { subresource, .. } => is_permitted(context, &csr, subresource).await?,
            Reason::OwnServing => names_itself(&request, &context.caches.nodes.list()),
        };
        if approved {
            approve(context, &csr, reason.message()).await?;
            info!(request = %key, user = csr.spec.username, "approved a certificate signing request");
            return Ok(Requeue::Never);
        }
    }
    if reasons.is_empty() {
        return Ok(Requeue::Never);
    }
    debug!(request = %key, "a recognized certificate signing request was not approved");
    Ok(Requeue::After(AGAIN))
}

async fn is_permitted(
    context: &Context,
    csr: &CertificateSigningRequest,
    subresource: &str,
) -> Result<bool, Error> {
    let review = SubjectAccessReview {
        metadata: ObjectMeta::default(),
        spec: SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                verb: Some("create".to_owned()),
                subresource: Some(subresource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        status: None,
    };
    let answer = context.client.create(&review).await?;
    Ok(answer.status.as_ref().is_some_and(|status| status.allowed))
}

async fn approve(context: &Context, csr: &CertificateSigningRequest, message: &str) -> Result<(), Error> {
    let mut approved = csr.clone();
    let status = approved.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    });
    context.client.update_subresource(&approved, "approval").await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn csr(signer: &str, usages: &[&str], user: &str, groups: &[&str]) -> CertificateSigningRequest {
        let spec = json!({"request": "", "signerName": format!("kubernetes.io/{signer}"), "usages": usages,
            "username": user, "groups": groups});
        serde_json::from_value(json!({"metadata": {"name": "r"}, "spec": spec})).expect("a request")
    }

    fn of_node(name: &str) -> Request {
        Request {
            common_name: format!("system:node:{name}"),
            organizations: vec!["system:nodes".into()],
            ..Request::default()
        }
    }

    const CLIENT: &[&str] = &["digital signature", "client auth"];
    const SERVER: &[&str] = &["digital signature", "server auth"];

    #[test]
    fn a_request_is_approved_for_what_it_is() {
        let check = |csr: CertificateSigningRequest, expected: &[Reason]| {
            let mut request = of_node("a");
            if csr.spec.signer_name.ends_with("serving") {
                request.dns_names.push("a".into());
            }
            assert_eq!(reasons(&csr, &request), expected);
        };
        let (signer, serving) = ("kube-apiserver-client-kubelet", "kubelet-serving");
        check(csr(signer, CLIENT, "system:node:a", &["system:nodes"]), &[SELF, BOOTSTRAP]);
        check(csr(signer, CLIENT, "system:bootstrap:x", &[]), &[BOOTSTRAP]);
        check(csr(signer, SERVER, "system:node:a", &["system:nodes"]), &[]);
        check(csr(serving, SERVER, "system:node:a", &["system:nodes"]), &[Reason::OwnServing]);
        check(csr(serving, SERVER, "system:node:b", &["system:nodes"]), &[]);
        check(csr(serving, SERVER, "system:node:a", &[]), &[]);
        check(csr("kube-apiserver-client", CLIENT, "admin", &["system:masters"]), &[]);
    }

    fn node(name: &str, ip: &str) -> Arc<Node> {
        let node: Value = json!({"metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]}});
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    #[test]
    fn a_serving_certificate_names_its_node_alone() {
        let nodes = [node("a", "10.0.0.1"), node("b", "10.0.0.2"), node("thief", "10.0.0.2")];
        let check = |name: &str, dns: &[&str], ips: &[&str]| {
            let mut request = of_node(name);
            request.dns_names = dns.iter().map(|name| (*name).to_owned()).collect();
            request.ip_addresses = ips.iter().map(|ip| (*ip).to_owned()).collect();
            names_itself(&request, &nodes)
        };
        assert!(check("a", &["a"], &["10.0.0.1"]));
        assert!(check("new", &["new"], &[]), "not registered yet");
        assert!(!check("new", &["new"], &["10.0.0.9"]));
        assert!(!check("a", &["b"], &[]));
        assert!(!check("a", &["a"], &["10.0.0.2"]));
        assert!(!check("thief", &["thief"], &["10.0.0.2"]), "another node has it too");
        assert!(!check("a", &["a"], &["127.0.0.1"]));
        assert!(!check("localhost", &["localhost"], &[]));
        assert!(!check("kubernetes.default", &["kubernetes.default"], &[]));
    }
}
