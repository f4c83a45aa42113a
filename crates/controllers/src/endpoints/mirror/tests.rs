//! Mirrored endpoints by values.

use serde_json::{Value, json};

use super::*;

fn endpoints(labels: Value, subsets: Value) -> Endpoints {
    let metadata = json!({"name": "db", "namespace": "a", "uid": "e", "labels": labels});
    serde_json::from_value(json!({"metadata": metadata, "subsets": subsets})).unwrap()
}

fn outside() -> Value {
    json!([{"addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432}]}])
}

fn created(changes: Vec<Change>) -> Vec<Arc<EndpointSlice>> {
    changes
        .into_iter()
        .map(|change| match change {
            Change::Create(slice) => Arc::new(*slice),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn endpoints_kept_by_hand_reach_the_readers_of_slices() {
    let made = created(slices(Some(&endpoints(json!({"a": "b"}), outside())), &[]));
    let [slice] = &*made else { panic!("{made:?}") };
    assert_eq!(
        serde_json::to_value(&slice.metadata.labels).unwrap(),
        json!({"a": "b", "kubernetes.io/service-name": "db",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"}),
    );
    assert_eq!(
        serde_json::to_value(&slice.endpoints).unwrap(),
        json!([{"addresses": ["192.0.2.1"], "conditions": {"ready": true}},
            {"addresses": ["192.0.2.2"], "conditions": {"ready": false}}]),
    );
    assert_eq!(
        serde_json::to_value(&slice.ports).unwrap(),
        json!([{"name": "", "port": 5432, "protocol": "TCP"}])
    );
    assert_eq!(slices(Some(&endpoints(json!({"a": "b"}), outside())), &made), []);
}

#[test]
fn mirrored_slices_follow_their_endpoints() {
    let made = created(slices(Some(&endpoints(json!({}), outside())), &[]));
    let name = made[0].metadata.name.clone().unwrap();
    let moved = endpoints(json!({}), json!([{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"port": 1}]}]));
    let changes = slices(Some(&moved), &made);
    let [Change::Update(slice)] = &*changes else { panic!("{changes:?}") };
    assert_eq!(slice.endpoints.as_ref().unwrap()[0].addresses, ["192.0.2.9"]);
    for gone in
        [None, Some(endpoints(json!({}), json!([]))), Some(endpoints(json!({SKIP_LABEL: "true"}), outside()))]
    {
        assert_eq!(slices(gone.as_ref(), &made), [Change::Delete(name.clone())]);
    }
}
