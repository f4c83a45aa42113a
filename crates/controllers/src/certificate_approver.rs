//! Approves the requests of nodes for their own certificates, as nobody could do better by hand: a client
//! certificate for whom the API says may have one (who bootstraps a node, and the node itself when it
//! renews), and a serving certificate for a node that names itself and nobody else.
//!
//! The last one is more than upstream does, which leaves it to an administrator; without it the server
//! could not tell a node's agent from an impostor. What a node says of itself counts for nothing there: its
//! name has to be a Node's, and its addresses those that its connections come from. And whoever has a join
//! token gets no certificate in the name of a Node that is there already, unless that one's has ended, or
//! the token was made for this very node. What is not approved here an administrator may approve.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::certificates::{BOOTSTRAP_NODE, Request, Signer};
use skiff_api::validate::names;
use skiff_client::{Error, ObjectKey, Requeue, WorkQueue, work};
use tracing::{debug, info};

use crate::authority::Authority;
use crate::certificates::{has_condition, is_decided, request_of};
use crate::context::{Context, feed, feed_own};
use crate::node_cidrs::Range;

/// How soon a recognized request that was not approved is looked at again.
const AGAIN: Duration = Duration::from_secs(10);

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let reconciler = context.clone();
    let requests = context.caches.certificate_signing_requests.clone();
    // A node that asks before it is a Node is answered when it is.
    let waiting = move || {
        let undecided = requests.list().into_iter().filter(|csr| !is_decided(csr));
        undecided.map(|csr| ObjectKey::of(&*csr)).collect::<Vec<_>>()
    };
    let by_node = waiting.clone();
    tokio::join!(
        feed_own(context.caches.certificate_signing_requests.clone(), queue.clone()),
        feed(context.caches.nodes.clone(), queue.clone(), move |_| by_node(), waiting),
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

/// What nobody may be called: certificates of this authority are believed for names of services.
fn is_reserved(node: &str, domain: &str) -> bool {
    let under = |end: &str| node == end || node.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
    names::subdomain(node).is_some()
        || ["localhost", "kubernetes", "svc", domain].into_iter().any(under)
        || node.starts_with("kubernetes.")
}

/// What is known beside a request, none of it from who makes it.
struct Known<'a> {
    nodes: &'a [Arc<Node>],
    /// The ranges of services and pods, whose addresses are no node's.
    ranges: [Option<Range>; 2],
    api_addresses: &'a [IpAddr],
    api_node: Option<&'a str>,
    /// Where the connections of a node come from.
    addresses: &'a (dyn Fn(&str) -> Vec<IpAddr> + Sync),
}

impl Known<'_> {
    fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name)).map(|node| &**node)
    }
}

fn has_address(node: &Node, ip: IpAddr) -> bool {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.into_iter().any(|address| {
        matches!(address.type_.as_str(), "InternalIP" | "ExternalIP") && address.address.parse() == Ok(ip)
    })
}

/// Whether all names and addresses of a serving request are the requesting node's, and no other's.
fn names_itself(request: &Request, known: &Known<'_>) -> bool {
    let Some(own) = node_of(request) else { return false };
    let Some(node) = known.node(own) else { return false };
    let seen = (known.addresses)(own);
    let others = |ip| {
        known.nodes.iter().any(|node| node.metadata.name.as_deref() != Some(own) && has_address(node, ip))
    };
    let is_own = |text: &String| {
        let Ok(ip) = text.parse::<IpAddr>() else { return false };
        let is_platforms = match ip {
            IpAddr::V4(ip) => known.ranges.iter().flatten().any(|range| range.contains(ip)),
            IpAddr::V6(_) => false,
        };
        let is_apis = known.api_addresses.contains(&ip) && known.api_node != Some(own);
        !ip.is_loopback()
            && !ip.is_unspecified()
            && !is_platforms
            && !is_apis
            && seen.contains(&ip)
            && has_address(node, ip)
            && !others(ip)
    };
    request.dns_names.iter().all(|name| name == own) && request.ip_addresses.iter().all(is_own)
}

fn node_of(request: &Request) -> Option<&str> {
    request.common_name.strip_prefix("system:node:")
}

/// The one node that the requestor's token is for, if it is such a token's.
fn bound_to(csr: &CertificateSigningRequest) -> Option<&str> {
    match csr.spec.extra.as_ref()?.get(BOOTSTRAP_NODE)?.as_slice() {
        [node] => Some(node),
        _ => None,
    }
}

/// Whether who has a join token may become this node. `has_ended`: the certificate that it had is over.
fn may_become(csr: &CertificateSigningRequest, node: &str, exists: bool, has_ended: bool) -> bool {
    match bound_to(csr) {
        Some(bound) => bound == node,
        None => !exists || has_ended,
    }
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(csr) = context.caches.certificate_signing_requests.get(key) else { return Ok(Requeue::Never) };
    if is_decided(&csr) || has_condition(&csr, "Failed") {
        return Ok(Requeue::Never);
    }
    let Some(request) = request_of(&csr) else { return Ok(Requeue::Never) };
    let reasons = reasons(&csr, &request);
    let node = node_of(&request).unwrap_or_default();
    if !reasons.is_empty() && is_reserved(node, &context.config.cluster_domain) {
        deny(context, &csr, node).await?;
        info!(request = %key, user = csr.spec.username, node, "denied a certificate for a reserved name");
        return Ok(Requeue::Never);
    }
    let nodes = context.caches.nodes.list();
    let authority = context.config.authority.as_ref();
    let addresses = |node: &str| authority.map(|known| known.node_addresses(node)).unwrap_or_default();
    let known = Known {
        nodes: &nodes,
        ranges: [&context.config.service_cidr, &context.config.cluster_cidr].map(|range| Range::parse(range)),
        api_addresses: &context.config.api_addresses,
        api_node: context.config.api_node.as_deref(),
        addresses: &addresses,
    };
    for reason in &reasons {
        let approved = match *reason {
            BOOTSTRAP if !may_become(&csr, node, known.node(node).is_some(), has_ended(authority, node)) => {
                false
            }
            Reason::Permission { subresource, .. } => is_permitted(context, &csr, subresource).await?,
            Reason::OwnServing => names_itself(&request, &known),
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

fn has_ended(authority: Option<&Arc<dyn Authority>>, node: &str) -> bool {
    authority.is_some_and(|known| known.node_has_ended(node))
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
    decide(context, csr, ["Approved", "AutoApproved", message]).await
}

async fn deny(context: &Context, csr: &CertificateSigningRequest, node: &str) -> Result<(), Error> {
    let message = format!("{node:?} is a name of the cluster's own, or no name of a node: choose another");
    decide(context, csr, ["Denied", "ReservedName", &message]).await
}

async fn decide(
    context: &Context,
    csr: &CertificateSigningRequest,
    [type_, reason, message]: [&str; 3],
) -> Result<(), Error> {
    let mut decided = csr.clone();
    let status = decided.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    });
    context.client.update_subresource(&decided, "approval").await.map(drop)
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
        let nodes = [
            node("a", "10.0.0.1"),
            node("b", "10.0.0.2"),
            node("thief", "10.0.0.2"),
            node("liar", "10.0.0.7"),
            node("service", "10.96.0.1"),
            node("pod", "10.244.1.5"),
            node("home", "10.0.0.100"),
            node("usurper", "10.0.0.100"),
            node("loop", "127.0.0.1"),
        ];
        // From where they come: but for the liar and the usurper, from where they say.
        let addresses = |name: &str| {
            let found = nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name));
            let said = found.and_then(|node| node.status.as_ref()?.addresses.clone()).unwrap_or_default();
            let said = said.iter().filter_map(|address| address.address.parse().ok());
            if name == "liar" { vec![IpAddr::from([10, 0, 0, 6])] } else { said.collect() }
        };
        let check_among = |nodes: &[Arc<Node>], name: &str, dns: &[&str], ips: &[&str]| {
            let mut request = of_node(name);
            request.dns_names = dns.iter().map(|name| (*name).to_owned()).collect();
            request.ip_addresses = ips.iter().map(|ip| (*ip).to_owned()).collect();
            let api_addresses = ["10.0.0.100".parse().expect("an address")];
            let known = Known {
                nodes,
                ranges: ["10.96.0.0/16", "10.244.0.0/16"].map(Range::parse),
                api_addresses: &api_addresses,
                api_node: Some("home"),
                addresses: &addresses,
            };
            names_itself(&request, &known)
        };
        let check = |name: &str, dns: &[&str], ips: &[&str]| check_among(&nodes, name, dns, ips);
        assert!(check("a", &["a"], &["10.0.0.1"]));
        assert!(!check("new", &["new"], &[]), "there is no such Node yet");
        assert!(!check("new", &["new"], &["10.0.0.9"]));
        assert!(!check("a", &["b"], &[]));
        assert!(!check("a", &["a"], &["10.0.0.2"]));
        assert!(!check("thief", &["thief"], &["10.0.0.2"]), "another node has it too");
        assert!(!check("liar", &["liar"], &["10.0.0.7"]), "it comes from elsewhere");
        assert!(!check("liar", &["liar"], &["10.0.0.6"]), "its Node doesn't say so");
        assert!(!check("service", &["service"], &["10.96.0.1"]), "that is the API's service");
        assert!(!check("pod", &["pod"], &["10.244.1.5"]));
        assert!(!check("loop", &["loop"], &["127.0.0.1"]));
        let without = |gone: &str| {
            let left = nodes.iter().filter(|node| node.metadata.name.as_deref() != Some(gone));
            left.cloned().collect::<Vec<_>>()
        };
        assert!(check_among(&without("usurper"), "home", &["home"], &["10.0.0.100"]));
        assert!(!check_among(&without("home"), "usurper", &["usurper"], &["10.0.0.100"]), "the API's own");
    }

    #[test]
    fn no_node_is_called_what_a_service_may_be() {
        let check =
            |name: &str, expected: bool| assert_eq!(is_reserved(name, "cluster.local"), expected, "{name}");
        for fine in
            ["a", "worker-1", "ip-10-0-0-1.example.org", "mykubernetes", "svc-1", "notcluster.local.org"]
        {
            check(fine, false);
        }
        for bad in [
            "",
            "localhost",
            "a.localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "payroll.default.svc",
            "payroll.default.svc.cluster.local",
            "cluster.local",
            "x.cluster.local",
            "*.default.svc.cluster.local",
            "*",
            "Upper",
            "a b",
        ] {
            check(bad, true);
        }
    }

    #[test]
    fn a_join_token_makes_no_node_that_is_there() {
        let signer = "kube-apiserver-client-kubelet";
        let of_many = csr(signer, CLIENT, "system:bootstrap:x", &[]);
        let check =
            |csr: &CertificateSigningRequest, node: &str, exists: bool, has_ended: bool, expected: bool| {
                assert_eq!(may_become(csr, node, exists, has_ended), expected, "{node} {exists} {has_ended}");
            };
        check(&of_many, "a", false, false, true);
        check(&of_many, "a", true, false, false);
        check(&of_many, "a", true, true, true);
        let mut of_one = of_many.clone();
        of_one.spec.extra = Some([(BOOTSTRAP_NODE.to_owned(), vec!["a".to_owned()])].into());
        check(&of_one, "a", false, false, true);
        check(&of_one, "a", true, false, true);
        check(&of_one, "b", false, false, false);
        check(&of_one, "b", true, true, false);
    }
}
