//! Who one is: tokens and certificates, made and used by kubectl.

use std::path::PathBuf;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use skiff_tests::{Cluster, Output, run, skiff, wait_for};

use crate::{BOTH, sleeper};

/// A kubeconfig of somebody else for the same cluster, and a kubectl that uses it.
struct Somebody {
    cluster: Cluster,
    directory: tempfile::TempDir,
}

impl Somebody {
    fn new(cluster: &Cluster, user: Value) -> Self {
        let present = cluster.kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]).ok();
        let mut config: Value = serde_json::from_str(&present).expect("JSON");
        config["users"][0]["user"] = user;
        let directory = tempfile::tempdir().expect("a directory");
        let somebody = Self { cluster: cluster.clone(), directory };
        std::fs::write(somebody.kubeconfig(), config.to_string()).expect("written");
        somebody
    }

    fn bearing(cluster: &Cluster, token: &str) -> Self {
        Self::new(cluster, json!({"token": token}))
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn kubectl(&self, which: &str, args: &[&str]) -> Output {
        run(self.cluster.command(which).env("KUBECONFIG", self.kubeconfig()).args(args))
    }

    fn who(&self) -> Value {
        let answer = self.kubectl("KUBECTL", &["auth", "whoami", "-o", "jsonpath={.status.userInfo}"]).ok();
        serde_json::from_str(&answer).expect("JSON")
    }
}

#[test]
fn kubectl_makes_tokens_that_are_somebody() {
    let namespace = Cluster::shared().namespace("tokens");
    namespace.apply(&sleeper("p")).ok();
    let token = namespace.kubectl(&["create", "token", "default", "--duration=20m"]).ok();
    let bearer = Somebody::bearing(&namespace.cluster, token.trim());
    let who = bearer.who();
    assert_eq!(who["username"], "system:serviceaccount:tokens:default");
    assert_eq!(
        who["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:tokens", "system:authenticated"])
    );
    for which in BOTH {
        let refused = bearer.kubectl(which, &["get", "secrets", "-n", "tokens"]).err();
        assert!(refused.contains("User \"system:serviceaccount:tokens:default\" cannot list"), "{refused}");
        let nobody = Somebody::bearing(&namespace.cluster, "nonsense").kubectl(which, &["get", "pods"]).err();
        assert_eq!(nobody, "error: You must be logged in to the server (Unauthorized)\n");
    }
    // For somebody else, a token is no good here.
    let elsewhere = namespace.kubectl(&["create", "token", "default", "--audience=vault"]).ok();
    assert_ne!(
        Somebody::bearing(&namespace.cluster, elsewhere.trim()).kubectl("KUBECTL", &["get", "ns"]).code,
        0
    );
    let short = namespace.kubectl(&["create", "token", "default", "--duration=1m"]).err();
    assert!(short.contains("may not specify a duration less than 10 minutes"), "{short}");

    let bound = ["create", "token", "default", "--bound-object-kind=Pod", "--bound-object-name=p"];
    let token = namespace.kubectl(&bound).ok();
    let bearer = Somebody::bearing(&namespace.cluster, token.trim());
    assert_eq!(bearer.who()["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    namespace.kubectl(&["delete", "pod", "p", "--grace-period=0", "--force"]).ok();
    let gone = bearer.kubectl("KUBECTL", &["get", "ns"]).err();
    assert_eq!(gone, "error: You must be logged in to the server (Unauthorized)\n");
}

#[test]
fn a_token_is_kept_in_a_secret_on_request() {
    let namespace = Cluster::shared().namespace("kept-tokens");
    namespace
        .apply(
            "{apiVersion: v1, kind: Secret, metadata: {name: kept, annotations: \
             {kubernetes.io/service-account.name: default}}, type: kubernetes.io/service-account-token}",
        )
        .ok();
    let secret = wait_for("the token", || {
        let secret = namespace.cluster.object(&["-n", &namespace.name, "secret", "kept"]);
        secret["data"]["token"].is_string().then_some(secret)
    });
    let decode = |key: &str| {
        let bytes: ByteString = serde_json::from_value(secret["data"][key].clone()).expect("base64");
        String::from_utf8(bytes.0).expect("text")
    };
    assert_eq!(decode("namespace"), "kept-tokens");
    assert!(decode("ca.crt").starts_with("-----BEGIN CERTIFICATE-----"));
    let who = Somebody::bearing(&namespace.cluster, &decode("token")).who();
    assert_eq!(who["username"], "system:serviceaccount:kept-tokens:default");
}

/// A certificate request for a user in a group, and its key.
fn request(name: &str, group: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    (request, key.serialize_pem())
}

fn manifest(name: &str, pem: &str) -> String {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {"request": ByteString(pem.as_bytes().to_vec()), "expirationSeconds": 3600,
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]},
    })
    .to_string()
}

/// `kubectl get csr NAME` without its age.
fn line(cluster: &Cluster, name: &str) -> Vec<String> {
    let table = cluster.kubectl(&["get", "csr", name]).ok();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (head, row) = table.split_once('\n').expect("a heading and a row");
    assert_eq!(words(head), ["NAME", "AGE", "SIGNERNAME", "REQUESTOR", "REQUESTEDDURATION", "CONDITION"]);
    let mut row = words(row);
    row.remove(1);
    row
}

#[test]
fn kubectl_decides_on_certificates() {
    let namespace = Cluster::shared().namespace("certificates");
    let cluster = &namespace.cluster;
    let signer = "kubernetes.io/kube-apiserver-client";
    for (index, which) in BOTH.into_iter().enumerate() {
        let (approved, denied) = (format!("jane-{index}"), format!("joe-{index}"));
        let (pem, key) = request("jane", "dev");
        namespace.apply(&manifest(&approved, &pem)).ok();
        namespace.apply(&manifest(&denied, &pem)).ok();
        assert_eq!(
            line(cluster, &approved),
            [approved.as_str(), signer, "kubernetes-admin", "60m", "Pending"]
        );
        let kubectl = |args: &[&str]| run(cluster.command(which).args(args));
        let said = kubectl(&["certificate", "approve", &approved]).ok();
        assert_eq!(said, format!("certificatesigningrequest.certificates.k8s.io/{approved} approved\n"));
        let said = kubectl(&["certificate", "deny", &denied]).ok();
        assert_eq!(said, format!("certificatesigningrequest.certificates.k8s.io/{denied} denied\n"));
        let certificate = wait_for("the certificate", || {
            let csr = cluster.object(&["csr", &approved]);
            csr["status"]["certificate"].as_str().map(str::to_owned)
        });
        assert_eq!(line(cluster, &approved)[4], "Approved,Issued");
        assert_eq!(line(cluster, &denied)[4], "Denied");
        let user = json!({"client-certificate-data": certificate,
            "client-key-data": ByteString(key.into_bytes())});
        let who = Somebody::new(cluster, user).who();
        assert_eq!(who["username"], "jane");
        assert_eq!(who["groups"], json!(["dev", "system:authenticated"]));
        kubectl(&["delete", "csr", &approved, &denied]).ok();
    }
    let (pem, _) = request("mallory", "system:masters");
    let refused = namespace.apply(&manifest("masters", &pem)).err();
    assert!(refused.contains("signer with system:masters group is not allowed"), "{refused}");
}

#[test]
fn the_issuer_of_tokens_can_be_asked() {
    let cluster = Cluster::shared();
    let about = cluster.kubectl(&["get", "--raw", "/.well-known/openid-configuration"]).ok();
    let about: Value = serde_json::from_str(&about).expect("JSON");
    assert_eq!(about["issuer"], "https://kubernetes.default.svc.cluster.local");
    let keys = cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"]).ok();
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    assert_eq!(keys["keys"][0]["alg"], "ES256");
}

#[test]
fn tokens_for_nodes_are_made_listed_and_taken_away() {
    let cluster = Cluster::shared();
    let kubeconfig = cluster.kubeconfig.display().to_string();
    let token = |args: &[&str]| {
        let mut all = vec!["token", args[0], "--kubeconfig", &kubeconfig];
        all.extend(&args[1..]);
        skiff(&all)
    };
    let made = token(&["create", "--ttl=1h", "--description=a test's"]).ok();
    let parts: Vec<&str> = made.trim().split('.').collect();
    let &[pin, id, secret] = parts.as_slice() else { panic!("{made:?} has not three parts") };
    assert_eq!((pin.len(), id.len(), secret.len()), (64, 6, 16));
    let list = token(&["list"]).ok();
    let row = list.lines().find(|line| line.starts_with(id)).expect("it is listed");
    assert!(row.contains("a test's") && !list.contains(secret), "{list}");
    let bearer = Somebody::bearing(&cluster, &format!("{id}.{secret}"));
    assert_eq!(bearer.who()["username"], format!("system:bootstrap:{id}"));
    token(&["delete", made.trim()]).ok();
    assert_ne!(bearer.kubectl("KUBECTL", &["auth", "whoami"]).code, 0);
    assert!(!token(&["list"]).ok().contains(id));
    assert_ne!(token(&["delete", id]).code, 0);
}
