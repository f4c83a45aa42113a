//! The controllers and the scheduler at work on a real API server, with nodes that only pretend to run
//! pods.

mod certificates;
mod harness;
mod tokens;

use harness::{Cluster, ready};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, image)},
    })
}

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [
        {"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]}})
}

fn web_on_host_port(port: i32) -> Value {
    json!({"containers": [{"name": "web", "image": "web", "ports": [{"containerPort": 80, "hostPort": port}]}]})
}

fn pod(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_furnished_and_emptied() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.create::<Namespace>("", json!({"metadata": {"name": "a"}})).await;
    cluster
        .until::<ServiceAccount>("a", |all| {
            all.iter().any(|one| one.metadata.name.as_deref() == Some("default"))
        })
        .await;
    cluster
        .until::<ConfigMap>("a", |all| {
            all.iter().any(|map| {
                map.metadata.name.as_deref() == Some("kube-root-ca.crt")
                    && map.data.as_ref().is_some_and(|data| data["ca.crt"] == "the CA")
            })
        })
        .await;
    cluster.create::<ConfigMap>("a", json!({"metadata": {"name": "m"}})).await;
    cluster.create::<Deployment>("a", deployment("web", 2, "one")).await;
    cluster.until::<Pod>("a", |all| all.len() == 2 && all.iter().all(|pod| ready(pod))).await;
    cluster.delete::<Namespace>("", "a", None).await;
    cluster
        .until::<Namespace>("", |all| all.iter().all(|one| one.metadata.name.as_deref() != Some("a")))
        .await;
    cluster.until::<Pod>("a", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_forward_and_back() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    cluster.create::<Deployment>("default", deployment("web", 3, "one")).await;
    let told = |deployment: &Deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        (status.updated_replicas, status.replicas, status.available_replicas, status.observed_generation)
    };
    cluster.until::<Deployment>("default", |all| told(&all[0]) == (Some(3), Some(3), Some(3), Some(1))).await;
    cluster
        .patch::<Deployment>("default", "web", json!({"spec": {"template": template("web", "two")}}))
        .await;
    cluster.until::<Deployment>("default", |all| told(&all[0]) == (Some(3), Some(3), Some(3), Some(2))).await;
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    cluster.until::<Pod>("default", |all| all.len() == 3 && all.iter().all(|pod| image(pod) == "two")).await;
    let revision = |deployment: &Deployment| {
        deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"].clone()
    };
    let sets = cluster.list::<ReplicaSet>("default").await;
    assert_eq!(sets.len(), 2, "the old revision is kept for undo");
    cluster
        .patch::<Deployment>("default", "web", json!({"spec": {"template": template("web", "one")}}))
        .await;
    cluster
        .until::<Deployment>("default", |all| {
            told(&all[0]) == (Some(3), Some(3), Some(3), Some(3)) && revision(&all[0]) == "3"
        })
        .await;
    assert_eq!(cluster.list::<ReplicaSet>("default").await.len(), 2);
    cluster.patch::<Deployment>("default", "web", json!({"spec": {"replicas": 5}})).await;
    cluster.until::<Pod>("default", |all| all.len() == 5 && all.iter().all(|pod| ready(pod))).await;
    let victim = cluster.list::<Pod>("default").await[0].metadata.name.clone().unwrap();
    cluster.delete::<Pod>("default", &victim, None).await;
    cluster
        .until::<Pod>("default", |all| {
            all.len() == 5 && all.iter().all(|pod| ready(pod) && pod.metadata.name.as_ref() != Some(&victim))
        })
        .await;
    cluster.delete::<Deployment>("default", "web", None).await;
    cluster.until::<ReplicaSet>("default", <[_]>::is_empty).await;
    cluster.until::<Pod>("default", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_go_before_after_or_without_their_dependents() {
    let cluster = Cluster::new(&["n1"]).await;
    for name in ["front", "loose"] {
        cluster.create::<Deployment>("default", deployment(name, 2, "one")).await;
    }
    cluster.until::<Pod>("default", |all| all.len() == 4 && all.iter().all(|pod| ready(pod))).await;
    cluster.delete::<Deployment>("default", "front", Some("Foreground")).await;
    let of = |name: &'static str| move |pod: &Pod| pod.metadata.labels.as_ref().unwrap()["app"] == name;
    cluster
        .until::<Deployment>("default", |all| {
            all.iter().all(|one| one.metadata.name.as_deref() != Some("front"))
        })
        .await;
    assert!(!cluster.list::<Pod>("default").await.iter().any(|pod| of("front")(pod)), "the pods went first");
    cluster.delete::<Deployment>("default", "loose", Some("Orphan")).await;
    cluster.until::<Deployment>("default", <[_]>::is_empty).await;
    let sets = cluster.list::<ReplicaSet>("default").await;
    assert_eq!(sets.len(), 1);
    assert_eq!(sets[0].metadata.owner_references.as_deref().unwrap_or_default(), []);
    assert_eq!(cluster.list::<Pod>("default").await.len(), 2, "the set and its pods live on");
    cluster.create::<Deployment>("default", deployment("loose", 2, "one")).await;
    cluster
        .until::<ReplicaSet>("default", |all| {
            all.len() == 1
                && all[0].metadata.owner_references.as_ref().is_some_and(|owners| owners.len() == 1)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_its_ready_pods_as_endpoints() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    cluster
        .create::<Service>(
            "default",
            json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": "http"}]}}),
        )
        .await;
    let addresses = |slices: &[std::sync::Arc<EndpointSlice>]| {
        let own = slices.iter().filter(|slice| slice.metadata.name.as_deref() != Some("kubernetes"));
        own.flat_map(|slice| slice.endpoints.iter().flatten())
            .filter(|endpoint| {
                endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
            })
            .count()
    };
    cluster.until::<EndpointSlice>("default", |all| all.len() == 2 && addresses(all) == 0).await;
    cluster.create::<Deployment>("default", deployment("web", 3, "one")).await;
    cluster.until::<EndpointSlice>("default", |all| addresses(all) == 3).await;
    let ready = |all: &[std::sync::Arc<Endpoints>]| {
        let own = all.iter().find(|one| one.metadata.name.as_deref() == Some("web"));
        own.map_or(0, |own| {
            own.subsets.iter().flatten().flat_map(|subset| subset.addresses.iter().flatten()).count()
        })
    };
    cluster.until::<Endpoints>("default", |all| ready(all) == 3).await;
    cluster.patch::<Deployment>("default", "web", json!({"spec": {"replicas": 1}})).await;
    cluster.until::<EndpointSlice>("default", |all| addresses(all) == 1).await;
    cluster.until::<Endpoints>("default", |all| ready(all) == 1).await;
    cluster.delete::<Service>("default", "web", None).await;
    cluster.until::<EndpointSlice>("default", |all| all.len() == 1).await;
    cluster.until::<Endpoints>("default", |all| all.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_runs_on_every_node_and_rolls() {
    let cluster = Cluster::new(&["n1", "n2", "n3"]).await;
    let set = |image: &str| json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template("d", image)}});
    cluster.create::<DaemonSet>("default", set("one")).await;
    let nodes = |pods: &[std::sync::Arc<Pod>]| {
        let mut nodes: Vec<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
        nodes.sort();
        nodes
    };
    cluster.until::<Pod>("default", |all| nodes(all) == ["n1", "n2", "n3"]).await;
    cluster
        .until::<DaemonSet>("default", |all| {
            let status = all[0].status.clone().unwrap_or_default();
            status.number_available == Some(3) && status.updated_number_scheduled == Some(3)
        })
        .await;
    cluster.patch::<DaemonSet>("default", "d", json!({"spec": {"template": template("d", "two")}})).await;
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    cluster
        .until::<Pod>("default", |all| {
            all.len() == 3 && all.iter().all(|pod| image(pod) == "two" && ready(pod))
        })
        .await;
    assert_eq!(cluster.list::<ControllerRevision>("default").await.len(), 2);
    cluster.add_node("n4").await;
    cluster.until::<Pod>("default", |all| nodes(all) == ["n1", "n2", "n3", "n4"]).await;
    cluster.delete::<DaemonSet>("default", "d", None).await;
    cluster.until::<Pod>("default", <[_]>::is_empty).await;
    cluster.until::<ControllerRevision>("default", <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_waits_for_a_host_port_says_so_and_gets_it() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    let control_plane = json!({"spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}});
    cluster.add_node("cp").await;
    cluster.patch::<Node>("", "cp", control_plane).await;
    cluster
        .until::<Node>("", |all| {
            all.iter().any(|node| {
                node.spec
                    .as_ref()
                    .is_some_and(|spec| spec.taints.as_ref().is_some_and(|taints| !taints.is_empty()))
            })
        })
        .await;
    for name in ["a", "b"] {
        cluster.create::<Pod>("default", pod(name, web_on_host_port(8080))).await;
    }
    cluster.until::<Pod>("default", |all| all.len() == 2 && all.iter().all(|pod| ready(pod))).await;
    cluster.create::<Pod>("default", pod("c", web_on_host_port(8080))).await;
    let message = "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't have free ports \
        for the requested pod ports. no new claims to deallocate, preemption: 0/3 nodes are available: 1 \
        Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.";
    cluster
        .until::<Pod>("default", |all| {
            all.iter().any(|pod| {
                pod.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|condition| {
                    condition.type_ == "PodScheduled"
                        && condition.status == "False"
                        && condition.reason.as_deref() == Some("Unschedulable")
                        && condition.message.as_deref() == Some(message)
                })
            })
        })
        .await;
    cluster
        .until::<Event>("default", |all| {
            all.iter().any(|event| {
                event.reason.as_deref() == Some("FailedScheduling")
                    && event.type_.as_deref() == Some("Warning")
                    && event.message.as_deref() == Some(message)
                    && event.source.as_ref().and_then(|source| source.component.as_deref())
                        == Some("default-scheduler")
            })
        })
        .await;
    cluster.delete::<Pod>("default", "a", None).await;
    cluster.until::<Pod>("default", |all| all.len() == 2 && all.iter().all(|pod| ready(pod))).await;
    cluster
        .until::<Event>("default", |all| {
            all.iter().any(|event| {
                event
                    .message
                    .as_deref()
                    .is_some_and(|message| message.starts_with("Successfully assigned default/c to n"))
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_more_important_pod_takes_a_less_important_ones_place() {
    let cluster = Cluster::new(&["n1"]).await;
    let class = json!({"metadata": {"name": "high"}, "value": 1000});
    cluster.create::<k8s_openapi::api::scheduling::v1::PriorityClass>("", class).await;
    let asks = |class: Option<&str>| {
        let mut spec =
            json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "3"}}}]});
        if let Some(class) = class {
            spec["priorityClassName"] = class.into();
        }
        spec
    };
    cluster.create::<Pod>("default", pod("low", asks(None))).await;
    cluster.until::<Pod>("default", |all| all.iter().all(|pod| ready(pod)) && all.len() == 1).await;
    cluster.create::<Pod>("default", pod("high", asks(Some("high")))).await;
    cluster
        .until::<Pod>("default", |all| {
            all.len() == 1 && all[0].metadata.name.as_deref() == Some("high") && ready(&all[0])
        })
        .await;
    cluster
        .until::<Event>("default", |all| {
            all.iter().any(|event| {
                event.reason.as_deref() == Some("Preempted")
                    && event.message.as_deref().is_some_and(|message| message.ends_with(" on node n1"))
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_have_ranges_of_their_own_and_lose_their_pods_when_silent() {
    let cluster = Cluster::new(&["n1", "n2", "n3"]).await;
    let ranges = |all: &[std::sync::Arc<Node>]| {
        let mut ranges: Vec<_> = all.iter().filter_map(|node| node.spec.as_ref()?.pod_cidr.clone()).collect();
        ranges.sort();
        ranges
    };
    cluster.until::<Node>("", |all| ranges(all) == ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]).await;
    let soon = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]);
    let mut web = deployment("web", 3, "one");
    web["spec"]["template"]["spec"]["tolerations"] = soon;
    cluster.create::<Deployment>("default", web).await;
    cluster.until::<Pod>("default", |all| all.len() == 3 && all.iter().all(|pod| ready(pod))).await;
    cluster.silence("n2");
    cluster
        .until::<Node>("", |all| {
            all.iter().any(|node| {
                let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
                let mut effects: Vec<_> = taints
                    .filter(|taint| taint.key == "node.kubernetes.io/unreachable")
                    .map(|taint| taint.effect.as_str())
                    .collect();
                effects.sort_unstable();
                effects == ["NoExecute", "NoSchedule"]
            })
        })
        .await;
    let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    cluster
        .until::<Pod>("default", |all| {
            let elsewhere = all.iter().filter(|pod| ready(pod) && on(pod) != "n2").count();
            let left = all.iter().filter(|pod| on(pod) == "n2");
            elsewhere == 3
                && left.into_iter().all(|pod| pod.metadata.deletion_timestamp.is_some() && !ready(pod))
        })
        .await;
    let told = |all: &[std::sync::Arc<Event>]| {
        let of_pods = all.iter().filter(|event| {
            event.reason.as_deref() == Some("NodeNotReady")
                && event.involved_object.kind.as_deref() == Some("Pod")
        });
        of_pods.map(|event| (event.involved_object.uid.clone(), event.count)).collect::<Vec<_>>()
    };
    cluster.until::<Event>("default", |all| !told(all).is_empty()).await;
    let mut told = told(&cluster.list::<Event>("default").await);
    told.sort();
    assert!(told.iter().all(|(_, count)| *count == Some(1)), "{told:?}");
    assert!(told.windows(2).all(|pair| pair[0].0 != pair[1].0), "each pod was told of once: {told:?}");
}
