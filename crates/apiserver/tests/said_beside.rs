//! What the server adds to what is written, and what it says beside its answer.

mod api;

use api::{Api, PODS, pod};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";

/// The warnings of a request that succeeds.
async fn warned(api: &Api, method: Method, path: &str, body: &Value) -> Vec<String> {
    let answer = api.send(api.request(method, path, body)).await;
    let code = answer.status();
    let warnings = answer.headers().get_all("warning").iter();
    let warnings = warnings.map(|text| text.to_str().expect("text").to_owned()).collect();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    assert!(code.is_success(), "{path}: {}", String::from_utf8_lossy(&body));
    warnings
}

#[tokio::test]
async fn a_pod_selects_by_its_own_labels() {
    let api = Api::new().await;
    let near = |selector: Value, keys: Value| {
        let mut made = pod("p");
        made["metadata"]["labels"] = json!({"app": "web"});
        made["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector, "matchLabelKeys": keys}]);
        made
    };
    let made = api.ok(Method::POST, PODS, near(json!({}), json!(["app", "absent"]))).await;
    let constraint = &made["spec"]["topologySpreadConstraints"][0];
    let expression = json!({"key": "app", "operator": "In", "values": ["web"]});
    assert_eq!(constraint["labelSelector"], json!({"matchExpressions": [expression]}));
    assert_eq!(constraint["matchLabelKeys"], json!(["app", "absent"]));
    let own = json!({"matchLabels": {"app": "web"}});
    let mut twice = near(own, json!(["app"]));
    twice["metadata"]["name"] = "q".into();
    let refused = api.refused(Method::POST, PODS, twice, 422).await;
    assert_eq!(
        refused,
        "Pod \"q\" is invalid: spec.topologySpreadConstraints[0].matchLabelKeys[0]: Invalid value: \"app\": exists in \
         both matchLabelKeys and labelSelector"
    );
}

#[tokio::test]
async fn an_annotated_profile_becomes_a_field_and_is_warned_of() {
    let api = Api::new().await;
    let mut annotated = pod("p");
    let key = "container.apparmor.security.beta.kubernetes.io/c";
    annotated["metadata"]["annotations"] = json!({key: "unconfined"});
    let path = format!("{PODS}?dryRun=All");
    let warnings = warned(&api, Method::POST, &path, &annotated).await;
    let expected = format!(
        "299 - \"metadata.annotations[{key}]: deprecated since v1.30; use the \\\"appArmorProfile\\\" field instead\""
    );
    assert_eq!(warnings, [expected]);
    let made = api.ok(Method::POST, &path, annotated.clone()).await;
    let profile = &made["spec"]["containers"][0]["securityContext"]["appArmorProfile"];
    assert_eq!(profile, &json!({"type": "Unconfined"}));
    annotated["spec"]["securityContext"] = json!({"appArmorProfile": {"type": "Localhost"}});
    let refused = api.refused(Method::POST, &path, annotated, 422).await;
    assert!(
        refused.contains("localhostProfile: Required value: must be set when AppArmor type is Localhost")
    );
}

#[tokio::test]
async fn addresses_in_an_unusual_form_are_refused_or_warned_of() {
    let api = Api::new().await;
    let policy = |cidr: &str| json!({"metadata": {"name": "n"}, "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]}});
    let place = "spec.ingress[0].from[0].ipBlock.cidr";
    for (cidr, why) in [
        ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
        ("::ffff:1.2.3.4/104", "must not have an IPv4-mapped IPv6 address"),
        ("10.0.0.5/8", "must not have bits set beyond the prefix length"),
    ] {
        let refused = api.refused(Method::POST, POLICIES, policy(cidr), 422).await;
        let expected = format!(
            "NetworkPolicy.networking.k8s.io \"n\" is invalid: {place}: Invalid value: {cidr:?}: {why}"
        );
        assert_eq!(refused, expected);
    }
    let usual = [format!(
        "299 - \"{place}: IPv6 CIDR value \\\"FD00::/16\\\" should be in RFC 5952 canonical format (\\\"fd00::/16\\\")\""
    )];
    assert_eq!(warned(&api, Method::POST, POLICIES, &policy("FD00::/16")).await, usual);
    assert_eq!(warned(&api, Method::PUT, &format!("{POLICIES}/n"), &policy("FD00::/16")).await, usual);
    assert_eq!(warned(&api, Method::PUT, &format!("{POLICIES}/n"), &policy("fd00::/16")).await, [""; 0]);
}

#[tokio::test]
async fn a_service_that_asks_for_old_ways_is_warned_of_them() {
    let api = Api::new().await;
    let service = json!({"metadata": {"name": "s"}, "spec": {
        "ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]}});
    let deprecated = "299 - \"spec.externalIPs is deprecated\"";
    assert_eq!(warned(&api, Method::POST, SERVICES, &service).await, [deprecated]);
    let path = format!("{SERVICES}/s");
    let present = api.ok(Method::GET, &path, Value::Null).await;
    assert_eq!(warned(&api, Method::PUT, &path, &present).await, [deprecated]);
    assert_eq!(warned(&api, Method::PUT, &format!("{path}/status"), &present).await, [""; 0]);
    let refused = api
        .refused(
            Method::POST,
            SERVICES,
            json!({"metadata": {"name": "t"}, "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.02.1"]}}),
            422,
        )
        .await;
    assert_eq!(
        refused,
        "Service \"t\" is invalid: spec.externalIPs[0]: Invalid value: \"192.0.02.1\": must not have leading 0s"
    );
}
