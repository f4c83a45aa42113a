//! Addresses of a Service that are for clients outside: what a trace tells of them beside a real connection.

use serde_json::{Value, json};
use skiff_tests::{Cluster, Namespace, wait_for};

use crate::{peer, trace, traced};

const ADDRESS: &str = "198.51.100.31:80";

/// Asks until what is told is so, with a real connection that agrees. Rules follow objects a moment later.
#[track_caller]
fn told(namespace: &Namespace, verdict: &str) -> Value {
    wait_for(&format!("a trace that tells {verdict}, and agrees with the real connection"), || {
        let told = traced(namespace, &["c1", ADDRESS, "--live"]);
        let so = told["ways"][0]["verdict"] == verdict && told["live"]["differences"] == json!([]);
        if !so {
            eprintln!("{}: {}", told["ways"][0]["summary"], told["live"]["differences"]);
        }
        so.then_some(told)
    })
}

#[test]
fn a_load_balancers_address_is_told_as_it_is() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("trace-outside");
    let pods = [
        peer("c1", &cluster.worker(1), "", "tcp, '7000'", ""),
        peer("web", &cluster.worker(2), "", "tcp, '7000'", "{containerPort: 7000}"),
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 7000}]}}\n".into(),
    ];
    namespace.apply(&pods.concat()).ok();
    ["c1", "web"].iter().for_each(|pod| namespace.serves(pod));
    let patch = |subresource: &[&str], patch: Value| {
        let patch = patch.to_string();
        let mut args = vec!["patch", "service", "web", "--type=merge", "-p", &patch];
        args.extend(subresource);
        namespace.kubectl(&args).ok();
    };
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.31"}]}}});
    patch(&["--subresource=status"], ingress);
    let web = format!("{}:7000", namespace.pod_ip("web"));
    let way = told(&namespace, "Delivered")["ways"][0].take();
    assert_eq!(way["destination"], web.as_str(), "{way:#}");
    assert_eq!(way["sourceSeen"], namespace.pod_ip("c1").as_str(), "{way:#}");
    let answer = namespace.exec("c1", &["peer", "get", ADDRESS]).ok();
    assert!(answer.starts_with("web "), "{answer}");

    // Beside the other ways, and from outside, where something has to bring it.
    let compared = traced(&namespace, &["c1", "pod/web", "--compare"]);
    let mut rows = compared["rows"].as_array().expect("rows").iter();
    let row = rows.find(|row| row["by"] == "LoadBalancer").unwrap_or_else(|| panic!("{compared:#}"));
    assert_eq!([&row["address"], &row["opensOn"]], [ADDRESS, "every node"]);
    assert_eq!(row["trace"]["ways"][0]["destination"], web.as_str());
    let outside = traced(&namespace, &["external", ADDRESS]);
    let first = &outside["ways"][0]["hops"][0];
    let text = first["text"].as_str().unwrap_or_default();
    assert!(text.contains("is the LoadBalancer address of service trace-outside/web"), "{outside:#}");
    assert_eq!([&outside["ways"][0]["destination"], &first["doubtful"]], [&json!(web), &json!(true)]);

    // Whom it does not take.
    patch(&[], json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}}));
    let way = told(&namespace, "Dropped")["ways"][0].take();
    let summary = way["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("from its loadBalancerSourceRanges alone"), "{way:#}");
    let text = trace(&namespace, &["c1", ADDRESS]).ok();
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let range = format!("{}/32", namespace.pod_ip("c1"));
    patch(&[], json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24", range]}}));
    told(&namespace, "Delivered");

    // Without the address it is nobody's.
    patch(&["--subresource=status"], json!({"status": {"loadBalancer": {"ingress": null}}}));
    wait_for("it is outside of the cluster", || {
        let told = traced(&namespace, &["c1", ADDRESS]);
        let summary = told["ways"][0]["summary"].as_str()?.to_owned();
        summary.contains("is outside").then_some(summary)
    });
}
