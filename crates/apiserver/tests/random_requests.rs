//! Requests, tokens and configurations as nobody sends or writes them: each is refused or read, the answer is a
//! whole one, and the server goes on. `SKIFF_SEED` repeats a run.

mod api;

use api::{Api, MAPS, pod};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use http::header::{HeaderName, HeaderValue};
use http_body_util::BodyExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use skiff_apiserver::at_rest::AtRest;
use skiff_apiserver::audit::Policy;
use skiff_apiserver::http_body::full;

const ROUNDS: usize = 2_000;

fn seeded() -> StdRng {
    let seed =
        std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a seed"));
    println!("SKIFF_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn one<'a, T>(random: &mut StdRng, of: &'a [T]) -> &'a T {
    &of[random.random_range(0..of.len())]
}

/// Changes, adds and takes away some bytes.
fn spoil(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(0..4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes.truncate(at),
            1 => bytes[at] = random.random(),
            2 => bytes.insert(at, *one(random, b"{}[]\",:/.-=%;* \x00\xff")),
            _ => drop(bytes.remove(at)),
        }
    }
}

const HEADERS: &[(&str, &[&str])] = &[
    (
        "accept",
        &[
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io;q=0.5",
            "*/*;q=2",
            "application/vnd.kubernetes.protobuf,application/yaml",
            ";;;,,,q=",
        ],
    ),
    (
        "content-type",
        &[
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/json-patch+json; charset=utf-8",
            "application/apply-patch+yaml",
        ],
    ),
    ("accept-encoding", &["gzip;q=0", "gzip, *;q=0.1", "identity;q=,,gzip"]),
    ("impersonate-user", &["jane", "system:serviceaccount:default:default", "system:serviceaccount:::", ""]),
    ("impersonate-group", &["system:masters", "dev", ""]),
    ("impersonate-extra-a%2fb%zz", &["x", ""]),
    ("if-none-match", &["\"x\"", "*", "W/"]),
    ("sec-websocket-protocol", &["base64url.bearer.authorization.k8s.io.YWJj, v4.channel.k8s.io", ",,,"]),
    ("user-agent", &["kubectl/v1.36.0 (linux/amd64)", "()"]),
    ("range", &["bytes=0-1"]),
];

const PATHS: &[&str] = &[
    MAPS,
    "/api/v1/namespaces/default/configmaps/m",
    "/api/v1/namespaces/default/pods/p",
    "/api/v1/namespaces/default/pods/p/log",
    "/api/v1/namespaces/default/pods/p/exec?command=a&stdout=1",
    "/api/v1/namespaces/default/pods/p/portforward?ports=80",
    "/api/v1/namespaces/default/pods/p/binding",
    "/api/v1/namespaces/default/pods/p/eviction",
    "/api/v1/namespaces/default/services/https:a:b/proxy/c/%2e%2e/d",
    "/api/v1/nodes/n/proxy/x//y",
    "/apis/apps/v1/namespaces/default/deployments/d/scale",
    "/apis/certificates.k8s.io/v1/certificatesigningrequests",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/apis/authentication.k8s.io/v1/tokenreviews",
    "/apis/explain.skiff.dev/v1/namespaces/default/pods/p/pending",
    "/apis/explain.skiff.dev/v1/namespaces/default/traces?from=p&to=pod/p:80/udp",
    "/openapi/v3/apis/apps/v1",
    "/.well-known/openid-configuration",
    "/healthz?verbose&exclude=ping",
];

fn request_for_a_certificate() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["jane.example.com".to_owned()]).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
    params.serialize_request(&key).expect("a request").pem().expect("PEM")
}

/// Bodies that one path or another takes, or nearly.
fn body(random: &mut StdRng, pem: &str) -> Vec<u8> {
    let mut pem = pem.as_bytes().to_vec();
    spoil(random, &mut pem);
    let bodies = [
        Value::Null,
        pod("p"),
        json!({"metadata": {"name": "m"}, "data": {"a": "b"}}),
        json!({"metadata": {"generateName": "m-"}, "binaryData": {"a": "!"}}),
        json!([{"op": "replace", "path": "/data/a~2", "value": 1}, {"op": "move", "from": "", "path": "/x"}]),
        json!({"metadata": {"name": "r"}, "spec": {"request": STANDARD.encode(&pem),
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}}),
        json!({"spec": {"token": "a.b.c", "audiences": ["x"]}}),
        json!({"metadata": {"name": "n"}, "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}}),
        json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}),
        json!({"target": {"name": "n"}, "gracePeriodSeconds": -1, "preconditions": {"uid": 1}}),
    ];
    let mut bytes = one(random, &bodies).to_string().into_bytes();
    spoil(random, &mut bytes);
    bytes
}

#[tokio::test]
async fn no_request_is_too_strange() {
    let mut random = seeded();
    let api = Api::new().await;
    api.ok(Method::POST, "/api/v1/namespaces/default/pods", pod("p")).await;
    let pem = request_for_a_certificate();
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
    let (mut done, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let mut path = one(&mut random, PATHS).as_bytes().to_vec();
        spoil(&mut random, &mut path);
        let Ok(uri) = http::Uri::try_from(path.as_slice()) else { continue };
        // What lasts by design is not waited for.
        let text = uri.to_string();
        if !text.starts_with('/') || text.contains("watch") || text.contains("follow") {
            continue;
        }
        let method = one(&mut random, &methods).clone();
        let mut request = api.request(method.clone(), MAPS, &Value::Null);
        *request.uri_mut() = uri;
        *request.body_mut() = full(body(&mut random, &pem));
        for _ in 0..random.random_range(0..4) {
            let (name, values) = one(&mut random, HEADERS);
            let mut value = one(&mut random, values).as_bytes().to_vec();
            spoil(&mut random, &mut value);
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request.headers_mut().append(name, value);
            }
        }
        let response = api.send(request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        let answer = String::from_utf8_lossy(&bytes);
        match code {
            200..400 => done += 1,
            400..500 | 501..505 => refused += 1,
            // Upstream calls these its own errors: who acts as nobody, and a node that can't be reached.
            500 if answer.contains("without impersonating a user") || answer.contains("proxy") => {
                refused += 1
            }
            other => panic!("{method} {text}: {other}: {answer}"),
        }
    }
    assert!(done > 50 && refused > 300, "{done} done and {refused} refused");
    api.ok(Method::GET, MAPS, Value::Null).await;
}

#[tokio::test]
async fn no_spoiled_token_is_anybodys() {
    let mut random = seeded();
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = api.ok(Method::POST, path, json!({"spec": {}})).await;
    let good = answer["status"]["token"].as_str().expect("a token").to_owned();
    let parts: Vec<Vec<u8>> =
        good.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64")).collect();
    assert_eq!(api.with_token(&good, Method::GET, "/version", Value::Null).await.0.as_u16(), 200);
    for _ in 0..ROUNDS {
        let token = match random.random_range(0..3) {
            // Parts that decode, to something else.
            0 => {
                let mut parts = parts.clone();
                let which = random.random_range(0..3);
                spoil(&mut random, &mut parts[which]);
                let parts: Vec<String> = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
                parts.join(".")
            }
            1 => {
                let mut bytes = good.clone().into_bytes();
                spoil(&mut random, &mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            }
            // Of a bootstrap token's form.
            _ => format!("{:06x}.{:016x}", random.random::<u32>() & 0xff_ffff, random.random::<u64>()),
        };
        let visible = token.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        if token == good || token.is_empty() || !visible {
            continue;
        }
        let (code, body) = api.with_token(&token, Method::GET, "/version", Value::Null).await;
        assert_eq!((code.as_u16(), &body["reason"]), (401, &json!("Unauthorized")), "{token}");
    }
    assert_eq!(api.with_token(&good, Method::GET, "/version", Value::Null).await.0.as_u16(), 200);
}

/// Puts something else in the place of one of its parts.
fn disturb(random: &mut StdRng, value: &mut Value) {
    let here = random.random_range(0..4) == 0;
    match value {
        Value::Array(items) if !here && !items.is_empty() => {
            let at = random.random_range(0..items.len());
            disturb(random, &mut items[at]);
        }
        Value::Object(fields) if !here && !fields.is_empty() => {
            let at = random.random_range(0..fields.len());
            let name = fields.keys().nth(at).cloned().unwrap_or_default();
            match random.random_range(0..6) {
                0 => drop(fields.remove(&name)),
                1 => drop(fields.insert("other".into(), json!(1))),
                _ => disturb(random, fields.get_mut(&name).expect("it is there")),
            }
        }
        _ => {
            let others = [
                json!(null),
                json!(-1),
                json!(""),
                json!("*"),
                json!([]),
                json!({}),
                json!([null]),
                json!("%"),
                json!(1e300),
                json!("latest"),
                json!(["", "a/b", "*"]),
            ];
            *value = one(random, &others).clone();
        }
    }
}

#[test]
fn no_configuration_is_too_strange() {
    let mut random = seeded();
    let key = STANDARD.encode([7; 32]);
    let encryption = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [
        {"resources": ["secrets", "configmaps"], "providers": [
            {"aesgcm": {"keys": [{"name": "a", "secret": key}]}}, {"aescbc": {"keys": [{"name": "b", "secret": key}]}},
            {"secretbox": {"keys": [{"name": "c", "secret": key}]}}, {"identity": {}}]}]});
    let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
        {"level": "Metadata", "users": ["jane"], "userGroups": ["dev"], "verbs": ["get"], "namespaces": ["default"],
         "resources": [{"group": "", "resources": ["pods", "pods/log"], "resourceNames": ["p"]}]},
        {"level": "None", "nonResourceURLs": ["/healthz*"], "omitStages": ["Panic"], "omitManagedFields": true}]});
    let admission = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline", "enforce-version": "latest", "audit": "restricted", "warn": "privileged", "warn-version": "v1.30"},
        "exemptions": {"usernames": ["jane"], "namespaces": ["kube-system"], "runtimeClasses": ["gvisor"]}});
    let (mut read, mut refused) = (0, 0);
    for round in 0..3 * ROUNDS {
        let mut document = [&encryption, &policy, &admission][round % 3].clone();
        for _ in 0..random.random_range(1..4) {
            disturb(&mut random, &mut document);
        }
        let said = match round % 3 {
            0 => AtRest::read(&document).err().map(|error| error.to_string()),
            1 => Policy::read(&document).err().map(|error| error.to_string()),
            _ => skiff_pod_security::Configuration::read(&document).err().map(|error| error.to_string()),
        };
        match said {
            None => read += 1,
            Some(why) => {
                assert!(!why.is_empty(), "{document}");
                refused += 1;
            }
        }
    }
    assert!(read > 100 && refused > 1_000, "{read} read and {refused} refused");
}
