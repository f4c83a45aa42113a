//! Tokens of service accounts, from their making to their end.

mod api;
#[path = "tokens/of_secrets.rs"]
mod of_secrets;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use api::{Api, PODS, pod};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_apiserver::{Clock, Config};

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A server whose clock stands still until it is set.
async fn at(start: i64) -> (Api, Arc<AtomicI64>) {
    let time = Arc::new(AtomicI64::new(start));
    let read = Arc::clone(&time);
    let clock = Clock::new(move || read.load(Ordering::SeqCst));
    (Api::with(Config { clock, ..Config::default() }).await, time)
}

async fn token(api: &Api, spec: Value) -> String {
    let answer = api.ok(Method::POST, TOKEN, json!({"spec": spec})).await;
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

async fn code(api: &Api, token: &str) -> u16 {
    api.with_token(token, Method::POST, REVIEW, json!({})).await.0.as_u16()
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON")
}

fn forged(token: &str, header: &Value, payload: &Value, signature: &str) -> String {
    let part = |value: &Value, index: usize| match value {
        Value::Null => token.split('.').nth(index).unwrap_or_default().to_owned(),
        value => URL_SAFE_NO_PAD.encode(value.to_string()),
    };
    format!("{}.{}.{signature}", part(header, 0), part(payload, 1))
}

#[tokio::test]
async fn a_token_says_whose_it_is() {
    let (api, _) = at(1_800_000_000).await;
    let made = api.ok(Method::POST, PODS, pod("p")).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    api.ok(Method::POST, "/api/v1/namespaces/default/pods/p/binding", binding).await;
    let node = api.ok(Method::POST, "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let account = api.ok(Method::GET, ACCOUNT, Value::Null).await;
    let spec = json!({"expirationSeconds": 3607, "boundObjectRef": {
        "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made["metadata"]["uid"]}});
    let answer = api.ok(Method::POST, TOKEN, json!({"spec": spec})).await;
    assert_eq!(answer["kind"], "TokenRequest");
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    assert_eq!(answer["status"]["expirationTimestamp"], "2027-01-15T09:00:07Z");
    let token = answer["status"]["token"].as_str().expect("a token");
    let mut claims = claims(token);
    let jti = claims["jti"].take();
    assert_eq!(
        claims,
        json!({
            "aud": [ISSUER], "exp": 1_800_000_000 + 365 * 86400, "iat": 1_800_000_000, "nbf": 1_800_000_000,
            "iss": ISSUER, "jti": null, "sub": "system:serviceaccount:default:default",
            "kubernetes.io": {
                "namespace": "default",
                "node": {"name": "n1", "uid": node["metadata"]["uid"]},
                "pod": {"name": "p", "uid": made["metadata"]["uid"]},
                "serviceaccount": {"name": "default", "uid": account["metadata"]["uid"]},
                "warnafter": 1_800_003_607,
            },
        })
    );
    let (code, review) = api.with_token(token, Method::POST, REVIEW, json!({})).await;
    assert_eq!(code, StatusCode::CREATED, "{review}");
    assert_eq!(
        review["status"]["userInfo"],
        json!({
            "username": "system:serviceaccount:default:default",
            "uid": account["metadata"]["uid"],
            "groups": ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
            "extra": {
                "authentication.kubernetes.io/credential-id": [format!("JTI={}", jti.as_str().expect("an ID"))],
                "authentication.kubernetes.io/node-name": ["n1"],
                "authentication.kubernetes.io/node-uid": [node["metadata"]["uid"]],
                "authentication.kubernetes.io/pod-name": ["p"],
                "authentication.kubernetes.io/pod-uid": [made["metadata"]["uid"]],
            },
        })
    );
}

#[tokio::test]
async fn forged_tokens_are_nobodys() {
    let (api, _) = at(1_800_000_000).await;
    let good = token(&api, json!({})).await;
    assert_eq!(code(&api, &good).await, 201);
    let signature = good.rsplit('.').next().expect("a signature");
    let mut other = claims(&good);
    other["sub"] = "system:serviceaccount:kube-system:default".into();
    other["kubernetes.io"]["namespace"] = "kube-system".into();
    let (elsewhere, _) = at(1_800_000_000).await;
    let foreign = token(&elsewhere, json!({})).await;
    let none = json!({"alg": "none"});
    let symmetric = json!({"alg": "HS256"});
    for bad in [
        "x".to_owned(),
        "a.b.c".to_owned(),
        forged(&good, &Value::Null, &other, signature),
        forged(&good, &none, &Value::Null, ""),
        forged(&good, &none, &other, ""),
        forged(&good, &symmetric, &Value::Null, signature),
        forged(&good, &Value::Null, &Value::Null, ""),
        format!("{good}A"),
        foreign,
    ] {
        let (code, body) = api.with_token(&bad, Method::GET, "/version", Value::Null).await;
        assert_eq!(code.as_u16(), 401, "{bad}");
        assert_eq!(
            body,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "Unauthorized", "reason": "Unauthorized", "code": 401})
        );
    }
}

#[tokio::test]
async fn a_token_ends_with_its_time_and_is_for_its_audience() {
    let (api, time) = at(1_800_000_000).await;
    let short = token(&api, json!({"expirationSeconds": 600})).await;
    let elsewhere = token(&api, json!({"audiences": ["vault"]})).await;
    assert_eq!(code(&api, &short).await, 201);
    assert_eq!(code(&api, &elsewhere).await, 401);
    // Clocks may be a minute apart.
    time.store(1_800_000_660, Ordering::SeqCst);
    assert_eq!(code(&api, &short).await, 201);
    time.store(1_800_000_661, Ordering::SeqCst);
    assert_eq!(code(&api, &short).await, 401);
    time.store(1_799_999_000, Ordering::SeqCst);
    assert_eq!(code(&api, &short).await, 401);
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let (api, time) = at(1_800_000_000).await;
    api.ok(Method::POST, PODS, pod("p")).await;
    api.ok(Method::POST, "/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await;
    api.ok(Method::POST, "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let bound =
        |kind: &str, name: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}});
    let of_pod = token(&api, bound("Pod", "p")).await;
    let of_secret = token(&api, bound("Secret", "s")).await;
    let of_node = token(&api, bound("Node", "n1")).await;
    let of_account = token(&api, json!({})).await;
    for token in [&of_pod, &of_secret, &of_node, &of_account] {
        assert_eq!(code(&api, token).await, 201);
    }
    api.ok(Method::DELETE, &format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(code(&api, &of_pod).await, 401);
    api.ok(Method::POST, PODS, pod("p")).await;
    assert_eq!(code(&api, &of_pod).await, 401, "another pod of the same name");
    api.ok(Method::DELETE, "/api/v1/namespaces/default/secrets/s", Value::Null).await;
    assert_eq!(code(&api, &of_secret).await, 401);
    api.ok(Method::DELETE, "/api/v1/nodes/n1", Value::Null).await;
    assert_eq!(code(&api, &of_node).await, 401);

    // A pod with a finalizer stays; its token doesn't.
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.ok(Method::POST, PODS, held).await;
    let of_held = token(&api, bound("Pod", "held")).await;
    let dying = api.ok(Method::DELETE, &format!("{PODS}/held"), json!({"gracePeriodSeconds": 0})).await;
    let end = dying["metadata"]["deletionTimestamp"].as_str().expect("marked");
    let end = end.parse::<k8s_openapi::jiff::Timestamp>().expect("a time").as_second();
    time.store(end + 60, Ordering::SeqCst);
    let fresh = token(&api, bound("Pod", "held")).await;
    assert_eq!(code(&api, &fresh).await, 201);
    time.store(end + 61, Ordering::SeqCst);
    assert_eq!(code(&api, &fresh).await, 401);
    let _ = of_held;

    api.ok(Method::DELETE, ACCOUNT, Value::Null).await;
    assert_eq!(code(&api, &of_account).await, 401);
}

#[tokio::test]
async fn bad_requests_for_tokens_are_told_so() {
    let (api, _) = at(1_800_000_000).await;
    let check = async |spec: Value, expected: u16, message: &str| {
        assert_eq!(api.refused(Method::POST, TOKEN, json!({"spec": spec}), expected).await, message);
    };
    check(
        json!({"expirationSeconds": 599}),
        422,
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may \
         not specify a duration less than 10 minutes",
    )
    .await;
    check(
        json!({"expirationSeconds": 5_000_000_000_i64}),
        422,
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: \
         5000000000: may not specify a duration larger than 2^32 seconds",
    )
    .await;
    let bound =
        |kind: &str, name: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}});
    check(bound("Pod", "none"), 404, "pods \"none\" not found").await;
    check(bound("ConfigMap", "m"), 400, "cannot bind token to object of type /v1, Kind=ConfigMap").await;
    api.ok(Method::POST, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "sa2"}}))
        .await;
    let mut other = pod("other");
    other["spec"]["serviceAccountName"] = "sa2".into();
    api.ok(Method::POST, PODS, other).await;
    check(
        bound("Pod", "other"),
        400,
        "cannot bind token for serviceaccount \"default\" to pod running with different serviceaccount name.",
    )
    .await;
    let missing = "/api/v1/namespaces/default/serviceaccounts/none/token";
    let refusal = api.refused(Method::POST, missing, json!({"spec": {}}), 404).await;
    assert_eq!(refusal, "serviceaccounts \"none\" not found");
}

#[tokio::test]
async fn keys_rotate_while_the_server_runs() {
    tokio::time::pause();
    let dir = tempfile::tempdir().expect("a directory");
    let keys = dir.path().join("account-keys");
    let api = Api::with(Config { account_keys: Some(keys.clone()), ..Config::default() }).await;
    let first = token(&api, json!({})).await;
    assert_eq!(code(&api, &first).await, 201);
    let made = rcgen::KeyPair::generate().expect("a key");
    std::fs::write(keys.join("99991231T000000Z.key"), made.serialize_pem()).expect("written");
    let second = token(&api, json!({})).await;
    assert_ne!(first.split('.').next(), second.split('.').next(), "another key signs");
    for token in [&first, &second] {
        assert_eq!(code(&api, token).await, 201);
    }
    let jwks = api.ok(Method::GET, "/openid/v1/jwks", Value::Null).await;
    assert_eq!(jwks["keys"].as_array().map(Vec::len), Some(2));
    let old = std::fs::read_dir(&keys)
        .expect("listed")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| !path.ends_with("99991231T000000Z.key"))
        .expect("the first key");
    std::fs::remove_file(old).expect("removed");
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    assert_eq!(code(&api, &first).await, 401);
    assert_eq!(code(&api, &second).await, 201);
    // A key that can't be read takes nothing away.
    std::fs::write(keys.join("99991231T000001Z.key"), "no key").expect("written");
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    assert_eq!(code(&api, &second).await, 201);
}

#[tokio::test]
async fn anyone_who_may_can_verify_tokens() {
    let (api, _) = at(1_800_000_000).await;
    let about = api.ok(Method::GET, "/.well-known/openid-configuration", Value::Null).await;
    assert_eq!(
        about,
        json!({
            "issuer": ISSUER, "jwks_uri": "https://192.0.2.1:6443/openid/v1/jwks",
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    );
    let jwks = api.ok(Method::GET, "/openid/v1/jwks", Value::Null).await;
    let key = &jwks["keys"][0];
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().expect("text")).expect("base64");
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let token = token(&api, json!({})).await;
    let header: Value = serde_json::from_slice(
        &URL_SAFE_NO_PAD.decode(token.split('.').next().expect("a header")).expect("base64"),
    )
    .expect("JSON");
    assert_eq!(header, json!({"alg": "ES256", "kid": key["kid"]}));
    let (signed, signature) = token.rsplit_once('.').expect("a signature");
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point)
        .verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).expect("base64"))
        .expect("the published key verifies");
}

const TOKEN_REVIEW: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

#[tokio::test]
async fn reviews_tell_whose_a_token_is_and_why_it_is_not_taken() {
    let (api, time) = at(1_800_000_000).await;
    let own = token(&api, json!({"expirationSeconds": 600})).await;
    let other = token(&api, json!({"audiences": ["vault", "other"]})).await;
    let review = async |token: &str, audiences: Value| {
        let spec = json!({"token": token, "audiences": audiences});
        let answer = api.ok(Method::POST, TOKEN_REVIEW, json!({"spec": spec})).await;
        answer["status"].clone()
    };
    let status = review(&own, Value::Null).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!([ISSUER]));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    let status = review(&other, json!(["vault"])).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(
        review(&other, Value::Null).await,
        json!({"user": {}, "error": format!("[invalid bearer token, token audiences [\"vault\" \"other\"] is \
            invalid for the target audiences [\"{ISSUER}\"]]")})
    );
    assert_eq!(review("junk", Value::Null).await, json!({"user": {}, "error": "invalid bearer token"}));
    time.store(1_800_000_661, Ordering::SeqCst);
    assert_eq!(
        review(&own, Value::Null).await,
        json!({"user": {}, "error": "[invalid bearer token, service account token has expired]"})
    );
    let refusal = api.refused(Method::POST, TOKEN_REVIEW, json!({"spec": {}}), 400).await;
    assert_eq!(refusal, "token is required for TokenReview in authentication");
}

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn bytes(text: &str) -> Value {
    json!(k8s_openapi::ByteString(text.as_bytes().to_vec()))
}

#[tokio::test]
async fn a_bootstrap_token_is_good_until_it_ends() {
    let (api, time) = at(1_800_000_000).await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let secret = |end: &str| {
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "data": {
            "token-id": bytes("abcdef"), "token-secret": bytes("0123456789abcdef"),
            "usage-bootstrap-authentication": bytes("true"), "expiration": bytes(end),
            "auth-extra-groups": bytes("system:bootstrappers:example")}})
    };
    let token = "abcdef.0123456789abcdef";
    assert_eq!(code(&api, token).await, 401);
    api.ok(Method::POST, secrets, secret("2027-01-15T09:00:00Z")).await;
    let (_, review) = api.with_token(token, Method::POST, REVIEW, json!({})).await;
    assert_eq!(
        review["status"]["userInfo"],
        json!({"username": "system:bootstrap:abcdef", "groups":
            ["system:bootstrappers", "system:bootstrappers:example", "system:authenticated"]})
    );
    assert_eq!(code(&api, "abcdef.0123456789abcdeg").await, 401);
    time.store(1_800_003_600, Ordering::SeqCst);
    assert_eq!(code(&api, token).await, 401);
    api.ok(Method::PUT, &format!("{secrets}/bootstrap-token-abcdef"), secret("2027-02-15T09:00:00Z")).await;
    assert_eq!(code(&api, token).await, 201);
    api.ok(Method::DELETE, &format!("{secrets}/bootstrap-token-abcdef"), Value::Null).await;
    assert_eq!(code(&api, token).await, 401);
}

#[tokio::test]
async fn who_joins_may_ask_for_a_certificate_and_learn_of_the_cluster() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = Arc::new(skiff_apiserver::pki::Pki::open(dir.path()).expect("an authority"));
    let made = pki.make_join_token().expect("it is written");
    let api = Api::with(Config { pki: Some(Arc::clone(&pki)), ..Config::default() }).await;
    let (pin, token) = made.split_once('.').expect("a join token");
    let (code, cluster) = api.with_token(token, Method::GET, "/skiff/v1/cluster", Value::Null).await;
    assert_eq!(code, StatusCode::OK, "{cluster}");
    assert_eq!((&cluster["caHash"], &cluster["clusterDNS"]), (&json!(pin), &json!("10.96.0.10")));
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:worker");
    let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let csr = json!({"metadata": {"generateName": "node-csr-"}, "spec": {
        "request": bytes(&pem), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "usages": ["digital signature", "client auth"]}});
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let (code, made) = api.with_token(token, Method::POST, requests, csr).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let asked = json!({"spec": {"user": made["spec"]["username"], "groups": made["spec"]["groups"],
        "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
            "subresource": "nodeclient", "verb": "create"}}});
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(api.ok(Method::POST, reviews, asked).await["status"]["allowed"], true);
    for path in ["/api/v1/nodes", "/api/v1/namespaces/kube-system/secrets", "/skiff/v1/certificates"] {
        let (code, _) = api.with_token(token, Method::GET, path, Value::Null).await;
        assert_eq!(code, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(api.with_token("x.y", Method::GET, "/skiff/v1/cluster", Value::Null).await.0.as_u16(), 401);
}

/// Bearer authentication costs microseconds once a token is known.
#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_known_token_costs() {
    let api = Api::new().await;
    let token = token(&api, json!({})).await;
    for (name, shown) in [("token", Some(token.as_str())), ("in-process", None)] {
        let start = std::time::Instant::now();
        for _ in 0..20_000 {
            match shown {
                Some(token) => drop(api.with_token(token, Method::GET, "/version", Value::Null).await),
                None => drop(api.ok(Method::GET, "/version", Value::Null).await),
            }
        }
        println!("{name}: {:?} a request", start.elapsed() / 20_000);
    }
}
