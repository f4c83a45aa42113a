//! H: a backup of the store alone shows no secret.

use std::fs;

use skiff_tests::Cluster;

#[test]
fn h_a_secret_is_not_in_the_store_s_files() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("h-at-rest");
    let shown = "config-maps-are-stored-as-they-are";
    let hidden = "secrets-are-stored-encrypted";
    namespace.kubectl(&["create", "configmap", "m", &format!("--from-literal=a={shown}")]).ok();
    namespace.kubectl(&["create", "secret", "generic", "s", &format!("--from-literal=a={hidden}")]).ok();
    let encoded = cluster.object(&["-n", "h-at-rest", "secret", "s"])["data"]["a"].clone();
    let encoded = encoded.as_str().expect("its data").to_owned();
    let mut found_shown = false;
    for file in fs::read_dir(cluster.data_dir().join("server")).expect("the server's data").flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if !name.starts_with("store.db") {
            continue;
        }
        let bytes = fs::read(file.path()).expect("it is readable");
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        found_shown |= holds(shown);
        assert!(!holds(hidden) && !holds(&encoded), "{name} shows the secret");
    }
    assert!(found_shown, "the files that were looked at are those of the store");
}
