//! Certificate signing requests from being asked to being signed.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use serde_json::{Value, json};
use skiff_api::certificates::BOOTSTRAP_NODE;
use skiff_apiserver::Identity;
use skiff_client::{Client, Patch};

use crate::harness::Cluster;

const CLIENT: &[&str] = &["digital signature", "client auth"];
const SERVER: &[&str] = &["digital signature", "server auth"];

fn pem(name: &str, organization: &str, names: &[&str]) -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.serialize_request(&key).expect("a request").pem().expect("PEM")
}

async fn ask(client: &Client, name: &str, pem: String, signer: &str, usages: &[&str]) {
    let csr: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"request": ByteString(pem.into_bytes()), "signerName": format!("kubernetes.io/{signer}"),
            "usages": usages},
    }))
    .expect("a request");
    client.create(&csr).await.unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// How far a request is: its conditions, and whether the certificate is there.
fn state(csr: &CertificateSigningRequest) -> String {
    let status = csr.status.clone().unwrap_or_default();
    let mut words: Vec<String> =
        status.conditions.unwrap_or_default().into_iter().map(|one| one.type_).collect();
    if status.certificate.is_some_and(|bytes| !bytes.0.is_empty()) {
        words.push("Issued".into());
    }
    words.join(",")
}

async fn until(cluster: &Cluster, name: &str, wanted: &str) {
    let is =
        |csr: &CertificateSigningRequest| csr.metadata.name.as_deref() == Some(name) && state(csr) == wanted;
    cluster.until::<CertificateSigningRequest>("", |all| all.iter().any(|csr| is(csr))).await;
}

async fn decide(cluster: &Cluster, name: &str, type_: &str) {
    let mut csr =
        (*cluster.client().get::<CertificateSigningRequest>("", name).await.expect("asked")).clone();
    let condition = CertificateSigningRequestCondition {
        type_: type_.into(),
        status: "True".into(),
        ..CertificateSigningRequestCondition::default()
    };
    csr.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    cluster.client().update_subresource(&csr, "approval").await.expect("decided");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_its_certificates_by_itself() {
    let cluster = Cluster::new(&[]).await;
    let binding = json!({
        "metadata": {"name": "mallory"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:node-bootstrapper"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
    });
    cluster.create::<ClusterRoleBinding>("", binding).await;
    let mallory = cluster.client_of(Identity::new("mallory", &[]));
    let kubelet = "kube-apiserver-client-kubelet";
    ask(&mallory, "mallorys", pem("system:node:n1", "system:nodes", &[]), kubelet, CLIENT).await;

    let groups = ["system:bootstrappers", "system:bootstrappers:skiff:default-node-token"];
    let joining = cluster.client_of(Identity::new("system:bootstrap:abcdef", &groups));
    ask(&joining, "first", pem("system:node:n1", "system:nodes", &[]), kubelet, CLIENT).await;
    until(&cluster, "first", "Approved,Issued").await;

    let node = cluster.client_of(Identity::new("system:node:n1", &["system:nodes"]));
    ask(&node, "renewal", pem("system:node:n1", "system:nodes", &[]), kubelet, CLIENT).await;
    until(&cluster, "renewal", "Approved,Issued").await;
    ask(&node, "serving", pem("system:node:n1", "system:nodes", &["n1"]), "kubelet-serving", SERVER).await;

    let wants_more = pem("system:node:n1", "system:nodes", &["n1", "10.0.0.1"]);
    ask(&node, "addressed", wants_more, "kubelet-serving", SERVER).await;
    let others = pem("system:node:n2", "system:nodes", &["n2"]);
    ask(&node, "anothers", others, "kubelet-serving", SERVER).await;
    cluster.create::<Node>("", json!({"metadata": {"name": "n1"}})).await;
    let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
    cluster
        .client()
        .patch::<Node>("", "n1", Some("status"), &Patch::Merge(addresses))
        .await
        .expect("the node tells where it is");
    until(&cluster, "serving", "Approved,Issued").await;
    until(&cluster, "addressed", "Approved,Issued").await;

    // It is there, and its certificate has not ended: a join token makes nobody it, and what services are
    // called nobody at all.
    let again = pem("system:node:n1", "system:nodes", &[]);
    ask(&joining, "taken-over", again.clone(), kubelet, CLIENT).await;
    let service = "system:node:payroll.default.svc.cluster.local";
    ask(&joining, "service", pem(service, "system:nodes", &[]), kubelet, CLIENT).await;
    until(&cluster, "service", "Denied").await;
    let reserved = cluster.client_of(Identity::new("system:node:x.svc", &["system:nodes"]));
    ask(&reserved, "x", pem("system:node:x.svc", "system:nodes", &["x.svc"]), "kubelet-serving", SERVER)
        .await;
    until(&cluster, "x", "Denied").await;
    // One that was made for it does.
    let bound = |node: &str| {
        let extra = [(BOOTSTRAP_NODE.to_owned(), vec![node.to_owned()])].into();
        Identity { extra: Arc::new(extra), ..Identity::new("system:bootstrap:bbbbbb", &groups) }
    };
    let (own, anothers) = (cluster.client_of(bound("n1")), cluster.client_of(bound("n2")));
    ask(&anothers, "bound-elsewhere", again.clone(), kubelet, CLIENT).await;
    ask(&own, "bound", again, kubelet, CLIENT).await;
    until(&cluster, "bound", "Approved,Issued").await;
    until(&cluster, "bound-elsewhere", "").await;
    until(&cluster, "taken-over", "").await;
    // These were recognized long before, and nobody may have them.
    until(&cluster, "mallorys", "").await;
    until(&cluster, "anothers", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_request_waits_for_its_decision() {
    let cluster = Cluster::new(&[]).await;
    let users = "kube-apiserver-client";
    for (name, usages) in [("jane", CLIENT), ("joe", CLIENT), ("server", SERVER)] {
        ask(cluster.client(), name, pem(name, "dev", &[]), users, usages).await;
        until(&cluster, name, "").await;
    }
    decide(&cluster, "jane", "Approved").await;
    until(&cluster, "jane", "Approved,Issued").await;
    decide(&cluster, "joe", "Denied").await;
    decide(&cluster, "server", "Approved").await;
    until(&cluster, "server", "Approved,Failed").await;
    until(&cluster, "joe", "Denied").await;
    let failed = cluster.client().get::<CertificateSigningRequest>("", "server").await.expect("there");
    let failed: Value = serde_json::to_value(&*failed).expect("JSON");
    let failure = &failed["status"]["conditions"][1];
    assert_eq!(failure["reason"], "SignerValidationFailure");
    assert_eq!(failure["message"], "invalid usage for client certificate: server auth");
}
