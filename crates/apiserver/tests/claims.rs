//! Cluster IPs, node ports and pod ranges have one holder, whoever comes between.

mod api;

use std::sync::Arc;
use std::time::Duration;

use api::Api;
use async_trait::async_trait;
use futures_util::future::{join, join_all};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_apiserver::Config;
use skiff_store::{CommitError, EventStream, MemoryStore, ReadError, Revision, Snapshot, Store};
use skiff_store::{WatchError, Write};
use tokio::sync::{Notify, RwLock};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const NODES: &str = "/api/v1/nodes";
const ENOUGH: Duration = Duration::from_secs(60);

fn service(name: &str, spec: Value) -> Value {
    let mut whole = json!({"ports": [{"port": 80, "protocol": "TCP"}]});
    for (field, value) in spec.as_object().expect("fields") {
        whole[field] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": whole})
}

fn at_port(name: &str, port: u16) -> Value {
    let ports = json!([{"port": 80, "protocol": "TCP", "nodePort": port}]);
    service(name, json!({"type": "NodePort", "ports": ports}))
}

fn at_ip(name: &str, ip: &str) -> Value {
    service(name, json!({"clusterIP": ip}))
}

fn node(name: &str, range: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]}})
}

/// Creates the same object six times at once; one creation succeeds, the others find it there.
async fn six_at_once(api: &Api, path: &str, object: &Value) {
    let answers = join_all((0..6).map(|_| api.call(Method::POST, path, object.clone()))).await;
    let mut codes: Vec<u16> = answers.iter().map(|(code, _)| code.as_u16()).collect();
    codes.sort_unstable();
    assert_eq!(codes, [201, 409, 409, 409, 409, 409], "{answers:?}");
    for (_, refused) in answers.iter().filter(|(code, _)| code.as_u16() == 409) {
        assert_eq!(refused["reason"], "AlreadyExists", "{refused}");
    }
}

#[tokio::test]
async fn a_creation_that_comes_too_late_leaves_the_other_its_node_port() {
    let api = Api::new().await;
    six_at_once(&api, SERVICES, &at_port("conc", 30777)).await;
    let refused = api.refused(Method::POST, SERVICES, at_port("other", 30777), 422).await;
    assert_eq!(
        refused,
        "Service \"other\" is invalid: spec.ports[0].nodePort: Invalid value: 30777: provided port is already \
         allocated"
    );
}

#[tokio::test]
async fn a_creation_that_comes_too_late_leaves_the_other_its_address() {
    let api = Api::new().await;
    six_at_once(&api, SERVICES, &at_ip("conc", "10.96.7.7")).await;
    let refused = api.refused(Method::POST, SERVICES, at_ip("other", "10.96.7.7"), 422).await;
    assert_eq!(
        refused,
        "Service \"other\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.7.7\"]: failed to allocate IP \
         10.96.7.7: provided IP is already allocated"
    );
}

#[tokio::test]
async fn a_node_that_comes_too_late_leaves_the_other_its_range() {
    let api = Api::new().await;
    six_at_once(&api, NODES, &node("n1", "10.244.7.0/24")).await;
    let refused = api.refused(Method::POST, NODES, node("n2", "10.244.7.128/25"), 422).await;
    assert!(refused.contains("overlaps the pod range 10.244.7.0/24 of node \"n1\""), "{refused}");
}

#[tokio::test]
async fn of_nodes_that_ask_at_once_for_ranges_that_overlap_one_gets_its() {
    let api = Api::new().await;
    let asked = (0..6).map(|at| node(&format!("n{at}"), &format!("10.244.7.0/{}", 20 + at)));
    let answers = join_all(asked.map(|node| api.call(Method::POST, NODES, node))).await;
    let made = answers.iter().filter(|(code, _)| *code == StatusCode::CREATED).count();
    assert_eq!(made, 1, "{answers:?}");
}

#[tokio::test]
async fn different_services_that_ask_at_once_for_one_port_do_not_share_it() {
    let api = Api::new().await;
    let asked = (0..6).map(|at| at_port(&format!("s{at}"), 30777));
    let answers = join_all(asked.map(|service| api.call(Method::POST, SERVICES, service))).await;
    let made = answers.iter().filter(|(code, _)| *code == StatusCode::CREATED).count();
    assert_eq!(made, 1, "{answers:?}");
}

#[tokio::test]
async fn a_service_that_is_deleted_and_made_anew_has_its_address() {
    let api = Api::new().await;
    api.ok(Method::POST, SERVICES, at_ip("s", "10.96.7.7")).await;
    for _ in 0..20 {
        let path = format!("{SERVICES}/s");
        let delete = api.ok(Method::DELETE, &path, Value::Null);
        // As soon as it can be: the deletion may not even be answered yet.
        let again = async {
            loop {
                match api.call(Method::POST, SERVICES, at_ip("s", "10.96.7.7")).await {
                    (StatusCode::CREATED, _) => return,
                    (StatusCode::CONFLICT, _) => tokio::task::yield_now().await,
                    (code, refused) => panic!("{code} {refused}"),
                }
            }
        };
        tokio::time::timeout(ENOUGH, join(delete, again)).await.expect("made again");
        api.refused(Method::POST, SERVICES, at_ip("other", "10.96.7.7"), 422).await;
    }
}

#[tokio::test]
async fn what_a_service_gives_up_another_may_have_and_nothing_else() {
    let api = Api::new().await;
    api.ok(Method::POST, SERVICES, at_port("s", 30777)).await;
    let path = format!("{SERVICES}/s");
    let change = |port: u16| json!([{"op": "replace", "path": "/spec/ports/0/nodePort", "value": port}]);
    let patched = |port: u16| {
        let mut request = api.request(Method::PATCH, &path, &change(port));
        request.headers_mut().insert("content-type", "application/json-patch+json".parse().expect("a type"));
        api.send(request)
    };
    // Several changes at once, of which each is made in the end; the last of them stays.
    let answers = join_all((0..6).map(|at| patched(30780 + at))).await;
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK), "{answers:?}");
    let service = api.ok(Method::GET, &path, Value::Null).await;
    let held = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
    for port in [30777].into_iter().chain(30780..30786) {
        let (code, answer) = api.call(Method::POST, SERVICES, at_port(&format!("t{port}"), port)).await;
        assert_eq!(code == StatusCode::CREATED, u64::from(port) != held, "{port}: {answer}");
    }
}

#[tokio::test]
async fn what_only_a_type_can_have_goes_with_the_type() {
    let api = Api::new().await;
    let balanced = service("s", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"}));
    let mut made = api.ok(Method::POST, SERVICES, balanced).await;
    assert_eq!(made["spec"]["allocateLoadBalancerNodePorts"], true);
    made["spec"]["type"] = "ClusterIP".into();
    let spec = api.ok(Method::PUT, &format!("{SERVICES}/s"), made).await["spec"].clone();
    for field in ["externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
        assert_eq!(spec[field], Value::Null, "{spec}");
    }
    assert_eq!(spec["ports"][0]["nodePort"], Value::Null, "{spec}");
}

#[tokio::test]
async fn a_refused_service_holds_nothing() {
    let api = Api::new().await;
    api.ok(Method::POST, SERVICES, at_port("taken", 30777)).await;
    // The address is found before the port is refused.
    let mut two = at_port("s", 30777);
    two["spec"]["clusterIP"] = "10.96.7.7".into();
    api.refused(Method::POST, SERVICES, two, 422).await;
    api.ok(Method::POST, SERVICES, at_ip("other", "10.96.7.7")).await;
    // Neither does one that was made only in thought.
    api.ok(Method::POST, &format!("{SERVICES}?dryRun=All"), at_port("t", 30778)).await;
    api.ok(Method::POST, SERVICES, at_port("u", 30778)).await;
}

#[tokio::test]
async fn the_first_address_is_the_apis_own() {
    let api = Api::new().await;
    let path = format!("{SERVICES}/kubernetes");
    for ip in ["10.96.0.1", "10.96.0.10"] {
        let refused = api.refused(Method::POST, SERVICES, at_ip("other", ip), 422).await;
        assert!(
            refused.ends_with(&format!("failed to allocate IP {ip}: provided IP is already allocated")),
            "{refused}"
        );
    }
    let before = api.ok(Method::GET, &path, Value::Null).await;
    api.ok(Method::DELETE, &path, Value::Null).await;
    // At once, before it is made again.
    api.refused(Method::POST, SERVICES, at_ip("other", "10.96.0.1"), 422).await;
    let again = async {
        loop {
            match api.call(Method::GET, &path, Value::Null).await {
                (StatusCode::OK, service) if service["metadata"]["uid"] != before["metadata"]["uid"] => {
                    return service;
                }
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let service = tokio::time::timeout(ENOUGH, again).await.expect("it is made again");
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
}

/// A store whose writes wait while `gate` is held.
#[derive(Default)]
struct Gated {
    store: MemoryStore,
    gate: RwLock<()>,
    waiting: Notify,
}

#[async_trait]
impl Store for Gated {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        self.store.load().await
    }

    async fn commit(&self, writes: Vec<Write>) -> Vec<Result<Revision, CommitError>> {
        if self.gate.try_read().is_err() {
            self.waiting.notify_one();
        }
        let _open = self.gate.read().await;
        self.store.commit(writes).await
    }

    fn watch(&self, after: Revision) -> Result<EventStream, WatchError> {
        self.store.watch(after)
    }

    async fn compact(&self, before: Revision) -> Result<(), ReadError> {
        self.store.compact(before).await
    }

    async fn barrier(&self) -> Result<Revision, ReadError> {
        self.store.barrier().await
    }
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_what_is_being_stored_taken() {
    let store = Arc::new(Gated::default());
    let api = Api::on(Config::default(), Arc::<Gated>::clone(&store) as Arc<dyn Store>).await;
    let closed = store.gate.write().await;
    tokio::select! {
        biased;
        answer = api.call(Method::POST, SERVICES, at_port("s", 30777)) => panic!("{answer:?}"),
        () = store.waiting.notified() => {}
    }
    // The request is gone, its write is not.
    api.refused(Method::POST, SERVICES, at_port("other", 30777), 422).await;
    drop(closed);
    let stored = async {
        while api.call(Method::GET, &format!("{SERVICES}/s"), Value::Null).await.0 != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(ENOUGH, stored).await.expect("the write ends");
    api.refused(Method::POST, SERVICES, at_port("other", 30777), 422).await;
}
