//! Encryption at rest, on a real store file.

mod api;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use api::Api;
use base64::Engine as _;
use http::Method;
use serde_json::{Value, json};
use skiff_apiserver::at_rest::{AtRest, keys};
use skiff_apiserver::{ApiServer, BuildError, Config};
use skiff_store::{Limits, MemoryStore, SqliteStore, Store};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PLAIN: &str = "correct horse battery staple";

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"password": base64(PLAIN)}})
}

/// An encryption configuration of these providers, as YAML, for secrets.
fn providers(text: &str) -> Value {
    let document = format!(
        "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{{resources: [secrets], providers: [{text}]}}]}}"
    );
    serde_yaml_ng::from_str(&document).expect("YAML")
}

fn at_rest(text: &str) -> AtRest {
    AtRest::read(&providers(text)).unwrap_or_else(|error| panic!("{error}"))
}

fn config(at_rest: AtRest) -> Config {
    Config { at_rest, ..Config::default() }
}

/// A provider with one key, made of one byte.
fn provider(kind: &str, name: &str, byte: u8) -> String {
    let key = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    format!("{{{kind}: {{keys: [{{name: {name}, secret: {key}}}]}}}}")
}

async fn stored(store: &Arc<dyn Store>, key: &str) -> Vec<u8> {
    let snapshot = store.load().await.expect("readable");
    let entry = snapshot.entries.iter().find(|entry| &*entry.key == key).expect("it is stored");
    entry.value.to_vec()
}

fn starts_with(value: &[u8], prefix: &str) -> bool {
    value.starts_with(prefix.as_bytes())
}

/// All files of a directory hold none of these texts.
fn assert_nowhere(dir: &Path, texts: &[&str]) {
    let mut looked = 0;
    for file in fs::read_dir(dir).expect("a directory").flatten() {
        let bytes = fs::read(file.path()).expect("a file");
        looked += bytes.len();
        for text in texts {
            let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "{} shows {text:?}", file.path().display());
        }
    }
    assert!(looked > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_s_files_never_show_a_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = tempfile::tempdir().expect("a directory");
    let own = keys::open_or_make(pki.path()).expect("a key");
    let path = dir.path().join("store.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, Limits::default()).expect("it opens"));
    let api = Api::on(config(AtRest::read(&own).expect("own format")), store).await;
    let map = json!({"metadata": {"name": "m"}, "data": {"shown": "nothing of a config map is hidden"}});
    api.ok(Method::POST, "/api/v1/namespaces/default/configmaps", map).await;
    let text = "a text that stringData brings";
    let mut made = secret("s");
    made["stringData"] = json!({"text": text});
    let mut made = api.ok(Method::POST, SECRETS, made).await;
    // The look at the files is a look: they show the config map, in WAL or database.
    let shown = fs::read_dir(dir.path()).expect("a directory").flatten().any(|file| {
        let bytes = fs::read(file.path()).expect("a file");
        bytes.windows(32).any(|window| window == &b"nothing of a config map is hidden"[..32])
    });
    assert!(shown);
    assert_nowhere(dir.path(), &[PLAIN, &base64(PLAIN), text, &base64(text)]);
    let other = "changed since";
    made["data"]["password"] = base64(other).into();
    api.ok(Method::PUT, &format!("{SECRETS}/s"), made).await;
    api.ok(Method::DELETE, &format!("{SECRETS}/s"), Value::Null).await;
    assert_nowhere(dir.path(), &[PLAIN, &base64(PLAIN), text, &base64(text), other, &base64(other)]);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(keys::key_file(pki.path())).expect("the key's file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn every_provider_stores_in_upstreams_form_and_reads_it_again() {
    for kind in ["aesgcm", "aescbc", "secretbox"] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let configured = config(at_rest(&provider(kind, "key1", 1)));
        let api = Api::on(configured.clone(), Arc::clone(&store)).await;
        api.ok(Method::POST, SECRETS, secret("s")).await;
        let value = stored(&store, "/secrets/default/s").await;
        assert!(starts_with(&value, &format!("k8s:enc:{kind}:v1:key1:")), "{kind}");
        api.stop();
        let again = Api::on(configured, store).await;
        let read = again.ok(Method::GET, &format!("{SECRETS}/s"), Value::Null).await;
        assert_eq!(read["data"]["password"], base64(PLAIN));
    }
}

#[tokio::test]
async fn what_another_key_or_none_has_written_is_read_and_written_anew() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let steps = [
        (String::from("{identity: {}}"), "{\"metadata\":"),
        (format!("{}, {{identity: {{}}}}", provider("aescbc", "old", 1)), "k8s:enc:aescbc:v1:old:"),
        (
            format!("{}, {}", provider("aesgcm", "new", 2), provider("aescbc", "old", 1)),
            "k8s:enc:aesgcm:v1:new:",
        ),
        (provider("aesgcm", "new", 2), "k8s:enc:aesgcm:v1:new:"),
        (format!("{{identity: {{}}}}, {}", provider("aesgcm", "new", 2)), "{\"metadata\":"),
    ];
    for (step, (text, prefix)) in steps.iter().enumerate() {
        let api = Api::on(config(at_rest(text)), Arc::clone(&store)).await;
        if step == 0 {
            api.ok(Method::POST, SECRETS, secret("s")).await;
        }
        let read = api.ok(Method::GET, &format!("{SECRETS}/s"), Value::Null).await;
        assert_eq!(read["data"]["password"], base64(PLAIN), "step {step}");
        // It is written anew beside the serving; a watch from the version that was read shows it.
        let written = async {
            while !starts_with(&stored(&store, "/secrets/default/s").await, prefix) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), written).await.expect("written anew");
        api.stop();
    }
}

async fn start(store: &Arc<dyn Store>, at_rest: AtRest) -> String {
    match ApiServer::build(config(at_rest), Arc::clone(store)).await {
        Ok(_) => String::new(),
        Err(error) => {
            assert!(matches!(error, BuildError::Cache(_)));
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                text = format!("{text}: {error}");
                source = error.source();
            }
            text
        }
    }
}

#[tokio::test]
async fn a_start_with_the_wrong_key_names_the_object_and_loses_nothing() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let right = provider("aesgcm", "key1", 1);
    let api = Api::on(config(at_rest(&right)), Arc::clone(&store)).await;
    api.ok(Method::POST, SECRETS, secret("s")).await;
    api.stop();
    let before = store.load().await.expect("readable");
    let head = "cannot fill the caches: cannot decrypt secrets/default/s: ";
    for (text, why) in [
        (
            provider("aesgcm", "key1", 2),
            "the key \"k8s:enc:aesgcm:v1:key1:\" of the encryption configuration does not fit",
        ),
        (
            provider("aesgcm", "key2", 1),
            "it is encrypted as \"k8s:enc:aesgcm:v1:key1:\", and the encryption configuration has no such key",
        ),
        (String::from("{identity: {}}"), "it is encrypted as \"k8s:enc:aesgcm:v1:key1:\""),
    ] {
        let error = start(&store, at_rest(&text)).await;
        assert!(error.starts_with(&format!("{head}{why}")), "{error}");
    }
    let after = store.load().await.expect("readable");
    assert_eq!((before.revision, before.entries), (after.revision, after.entries), "nothing was written");
    assert_eq!(start(&store, at_rest(&right)).await, "");
}

#[tokio::test]
async fn another_configuration_reaches_everything_without_a_restart() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let api = Api::on(config(AtRest::default()), Arc::clone(&store)).await;
    api.ok(Method::POST, SECRETS, secret("s")).await;
    assert!(starts_with(&stored(&store, "/secrets/default/s").await, "{"));
    let steps = [
        (provider("aesgcm", "key1", 1), "k8s:enc:aesgcm:v1:key1:"),
        (provider("secretbox", "key2", 2), "k8s:enc:secretbox:v1:key2:"),
        (String::from("{identity: {}}"), "{"),
        // The same name, and another key.
        (provider("aesgcm", "key1", 3), "k8s:enc:aesgcm:v1:key1:"),
    ];
    for (step, (text, prefix)) in steps.into_iter().enumerate() {
        api.server().encrypt_by(&at_rest(&text)).await;
        api.ok(Method::POST, SECRETS, secret(&format!("s{step}"))).await;
        for name in ["s".to_owned(), format!("s{step}")] {
            let value = stored(&store, &format!("/secrets/default/{name}")).await;
            assert!(starts_with(&value, prefix), "step {step}: {name}");
            let read = api.ok(Method::GET, &format!("{SECRETS}/{name}"), Value::Null).await;
            assert_eq!(read["data"]["password"], base64(PLAIN), "step {step}");
        }
    }
    api.stop();
    // Nothing is left of the others: the last one alone reads it all.
    assert_eq!(start(&store, at_rest(&provider("aesgcm", "key1", 3))).await, "");
}

#[tokio::test]
async fn plain_text_needs_an_identity_provider() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let api = Api::on(config(AtRest::default()), Arc::clone(&store)).await;
    api.ok(Method::POST, SECRETS, secret("s")).await;
    api.stop();
    let error = start(&store, at_rest(&provider("aescbc", "key1", 1))).await;
    assert!(
        error.ends_with("it is not encrypted, and the encryption configuration has no identity provider"),
        "{error}"
    );
}

#[tokio::test]
async fn a_secret_can_t_be_given_another_one_s_place() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let at_rest = at_rest(&provider("aesgcm", "key1", 1));
    let api = Api::on(config(at_rest.clone()), Arc::clone(&store)).await;
    api.ok(Method::POST, SECRETS, secret("mine")).await;
    api.stop();
    let value = stored(&store, "/secrets/default/mine").await;
    let write = skiff_store::Write {
        key: "/secrets/kube-system/theirs".into(),
        expect: skiff_store::Expect::Absent,
        value: Some(value.into()),
        volatile: false,
    };
    store.commit(vec![write]).await.pop().expect("a result").expect("it is written");
    let error = start(&store, at_rest).await;
    assert!(error.contains("cannot decrypt secrets/kube-system/theirs"), "{error}");
}

#[tokio::test]
async fn a_new_key_of_the_cluster_s_own_goes_first_and_the_old_ones_still_read() {
    let pki = tempfile::tempdir().expect("a directory");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let own = || AtRest::read(&keys::open_or_make(pki.path()).expect("keys")).expect("own format");
    let api = Api::on(config(own()), Arc::clone(&store)).await;
    api.ok(Method::POST, SECRETS, secret("s")).await;
    api.stop();
    let first = stored(&store, "/secrets/default/s").await;
    keys::rotate(pki.path()).expect("a new key");
    let api = Api::on(config(own()), Arc::clone(&store)).await;
    let read = api.ok(Method::GET, &format!("{SECRETS}/s"), Value::Null).await;
    assert_eq!(read["data"]["password"], base64(PLAIN));
    let prefix = |value: &[u8]| value.splitn(6, |byte| *byte == b':').nth(4).map(<[u8]>::to_vec);
    let anew = async {
        while prefix(&stored(&store, "/secrets/default/s").await) == prefix(&first) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), anew).await.expect("written anew");
    api.stop();
    // A configuration of the user's reads what the cluster's own key has written.
    let theirs = at_rest(&provider("secretbox", "theirs", 3));
    let theirs = theirs.reading_also(&keys::open_or_make(pki.path()).expect("keys")).expect("own format");
    let api = Api::on(config(theirs), Arc::clone(&store)).await;
    let read = api.ok(Method::GET, &format!("{SECRETS}/s"), Value::Null).await;
    assert_eq!(read["data"]["password"], base64(PLAIN));
}

#[test]
fn faults_of_a_configuration_name_their_field() {
    let check = |text: &str, fault: &str| {
        let error = AtRest::read(&providers(text)).expect_err(text).to_string();
        assert!(error.contains(fault), "{error}");
    };
    let path = "resources[0].providers[0]";
    check("", "resources[0].providers: Required value: at least one resources[0].providers is required");
    check(
        "{}",
        &format!(
            "{path}: Invalid value: {{}}: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
        ),
    );
    check(
        "{aesgcm: {keys: []}}",
        &format!("{path}.aesgcm.keys: Required value: at least one keys is required"),
    );
    check(
        "{aescbc: {keys: [{secret: AAAAAAAAAAAAAAAAAAAAAA==}]}}",
        &format!("{path}.aescbc.keys[0].name: Required value: name is a mandatory field for a key"),
    );
    check(
        "{aescbc: {keys: [{name: a}]}}",
        &format!("{path}.aescbc.keys[0].secret: Required value: secret is a mandatory field for a key"),
    );
    check(
        "{aescbc: {keys: [{name: a, secret: '%'}]}}",
        &format!("{path}.aescbc.keys[0].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded"),
    );
    check(
        "{secretbox: {keys: [{name: a, secret: AAAAAAAAAAAAAAAAAAAAAA==}]}}",
        &format!(
            "{path}.secretbox.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 16, expected one of [32]"
        ),
    );
    check(
        "{identity: {}, aesgcm: {keys: []}}",
        &format!(
            "{path}: Invalid value: \"REDACTED\": more than one provider specified in a single element, should split into different list elements"
        ),
    );
    check(
        "{kms: {name: k}}",
        &format!("{path}.kms: Forbidden: plugins of key management services are not supported"),
    );
    check("{aesctr: {}}", "unknown field `aesctr`");
    let resources = |text: &str| {
        let document = format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{{resources: [{text}], providers: [{{identity: {{}}}}]}}]}}"
        );
        let document = serde_yaml_ng::from_str(&document).expect("YAML");
        AtRest::read(&document).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(resources("secrets, configmaps, '*.apps'"), "");
    assert_eq!(resources("'*.*'"), "");
    for (text, fault) in [
        (
            "Secrets",
            "resources[0].resources[0]: Invalid value: \"Secrets\": resource name should not contain capital letters",
        ),
        ("'*'", "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"),
        (
            "secrets, '*.'",
            "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed",
        ),
        ("secrets, secrets", "the same resource cannot be specified multiple times"),
        ("events.events.k8s.io", "Use 'events' instead in the config file"),
        ("secrets.*", "encrypting the same resource across groups is not supported"),
        ("", "resources[0].resources: Required value: at least one resources[0].resources is required"),
    ] {
        assert!(resources(text).contains(fault), "{text}: {}", resources(text));
    }
}
