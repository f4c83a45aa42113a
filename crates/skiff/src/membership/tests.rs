//! What is kept of a membership, and for how long it is of use.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

use super::*;

const END: i64 = 2_000_000_000;

fn issued(name: &str, is_ca: bool) -> Issued {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_after = rcgen::date_time_ymd(2033, 5, 18);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("signs").pem();
    Issued { certificate, key: key.serialize_pem() }
}

fn kept() -> Kept {
    Kept {
        cluster: Cluster {
            ca: issued("ca", true).certificate,
            cluster_cidr: "10.244.0.0/16".into(),
            service_cidr: "10.96.0.0/16".into(),
            cluster_dns: "10.96.0.10".into(),
            cluster_domain: "cluster.local".into(),
        },
        node_name: "n".into(),
        node_ip: Ipv4Addr::new(10, 0, 0, 1),
        client: issued("system:node:n", false),
        serving: None,
    }
}

fn config(token: Option<String>, dir: &Path) -> AgentConfig {
    let config = serde_json::json!({
        "node_name": "n", "node_ip": "10.0.0.1", "server": "127.0.0.1:1", "token": token, "data_dir": dir,
        "run_dir": dir, "images_dir": dir, "pod_cidr": null, "control_plane": false,
    });
    serde_json::from_value(config).expect("a configuration")
}

#[test]
fn a_membership_is_kept_for_its_node_its_cluster_and_its_time() {
    let kept = kept();
    let dir = Path::new("/nonexistent");
    let pin = pinned::fingerprint(&kept.cluster.authority().expect("parses"));
    let own = config(Some(format!("{pin}.abcdef.0123456789abcdef")), dir);
    let why = |config: &AgentConfig, now: i64| unfit(&kept, config, now).expect("parses");
    let before = END - 86_400;
    assert_eq!(why(&own, before), None);
    assert_eq!(why(&config(None, dir), before), None, "it needs its token no more");
    assert_eq!(
        why(&AgentConfig { node_name: "m".into(), ..own.clone() }, before).as_deref(),
        Some("the node has another name or address")
    );
    let other = config(Some(format!("{}.abcdef.0123456789abcdef", "0".repeat(64))), dir);
    assert_eq!(why(&other, before).as_deref(), Some("the token is that of another cluster"));
    assert_eq!(
        why(&own, END + 86_400).as_deref(),
        Some("the node's certificate ended at 2033-05-18T00:00:00Z")
    );
}

#[test]
fn what_is_kept_is_private_and_damage_is_noticed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent/membership.json");
    let kept = kept();
    config::write(&path, &kept).expect("writes");
    assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
    assert!(read(&path) == Some(kept));
    fs::write(&path, "{\"cluster\": 1").expect("writes");
    assert!(read(&path).is_none());
    assert!(!format!("{:?}", issued("n", false)).contains("PRIVATE"), "no key is logged");
}

#[tokio::test]
async fn a_node_without_a_token_is_told_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let said = |error: anyhow::Error| {
        assert!(error.is::<Refused>());
        error.to_string()
    };
    let none = Membership::ask(&config(None, dir.path())).await.map(drop).expect_err("it has none");
    assert!(said(none).contains("this node has no join token: make another on"));
    let malformed = Membership::ask(&config(Some("abc".into()), dir.path())).await.map(drop);
    assert_eq!(said(malformed.expect_err("it is none")), "the join token is malformed: it has no dot");
    let mut old = kept();
    old.node_ip = Ipv4Addr::new(10, 0, 0, 2);
    config::write(&dir.path().join("membership.json"), &old).expect("writes");
    let lost = Membership::ask(&config(None, dir.path())).await.map(drop).expect_err("it is another node's");
    assert!(said(lost).starts_with("the node has another name or address, and this node has no join token"));
    // An unreachable server is asked again.
    let away = config(Some(format!("{}.abcdef.0123456789abcdef", "0".repeat(64))), dir.path());
    let error = Membership::ask(&away).await.map(drop).expect_err("nobody is there");
    assert!(!error.is::<Refused>(), "{error:#}");
}
