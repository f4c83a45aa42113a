//! Commands that read: get in all its forms, watches, wait, describe, explain, discovery.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use skiff_tests::{Background, Cluster, Namespace, run, wait_until};

use crate::{BOTH, sleeper, with};

fn two_pods(name: &str) -> Namespace {
    let namespace = Cluster::shared().namespace(name);
    for pod in ["b", "a"] {
        namespace.apply(&sleeper(pod)).ok();
    }
    namespace.ready("a");
    namespace.ready("b");
    namespace
}

#[test]
fn get_in_every_form() {
    let namespace = two_pods("r-get");
    for which in BOTH {
        let get = |args: &[&str]| {
            let mut all = vec!["get"];
            all.extend(args);
            with(&namespace, which, &all)
        };
        let plain = get(&["pods"]).ok();
        let header: Vec<&str> = plain.lines().next().expect("a header").split_whitespace().collect();
        assert_eq!(header, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
        let wide = get(&["pods", "-o", "wide"]).ok();
        assert!(
            wide.lines()
                .next()
                .expect("a header")
                .ends_with("IP           NODE           NOMINATED NODE   READINESS GATES")
                || wide.contains("NOMINATED NODE   READINESS GATES"),
            "{wide}"
        );
        assert_eq!(get(&["pods", "-o", "name"]).ok(), "pod/a\npod/b\n");
        assert_eq!(get(&["pods", "-o", "jsonpath={.items[*].metadata.name}"]).ok(), "a b");
        assert_eq!(get(&["pod", "a", "-o", "go-template={{.status.phase}}"]).ok(), "Running");
        let columns =
            get(&["pods", "-o", "custom-columns=N:.metadata.name,I:.spec.containers[0].image"]).ok();
        let cells: Vec<&str> = columns.split_whitespace().collect();
        assert_eq!(cells, ["N", "I", "a", "alpine", "b", "alpine"]);
        let sorted = get(&["pods", "--sort-by=.metadata.creationTimestamp", "--no-headers"]).ok();
        assert_eq!(sorted.lines().count(), 2);
        assert_eq!(get(&["pods", "--chunk-size=1", "-o", "name"]).ok(), "pod/a\npod/b\n");
        assert_eq!(get(&["pods", "-l", "app=a", "-o", "name"]).ok(), "pod/a\n");
        let fields = "--field-selector=status.phase=Running,metadata.name!=a";
        assert_eq!(get(&["pods", fields, "-o", "name"]).ok(), "pod/b\n");
        let labelled = get(&["pods", "-A", "-l", "app in (a, b)", "-L", "app", "--show-labels"]).ok();
        assert!(labelled.starts_with("NAMESPACE") && labelled.contains("app=a"), "{labelled}");
        let missing = get(&["pods", "nobody"]).err();
        assert_eq!(missing, "Error from server (NotFound): pods \"nobody\" not found\n");
        let yaml = get(&["pod", "a", "-o", "yaml"]).ok();
        assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n"), "{yaml}");
        assert_eq!(
            get(&["pod/a", "service", "-o", "name"]).stderr,
            "error: there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'\n"
        );
    }
}

#[test]
fn bad_selectors_are_explained() {
    let namespace = Cluster::shared().namespace("r-selectors");
    let get = |args: &[&str]| {
        let mut all = vec!["get", "pods"];
        all.extend(args);
        namespace.kubectl(&all).err()
    };
    assert_eq!(
        get(&["--field-selector", "foo=bar"]),
        "Error from server (BadRequest): Unable to find \"/v1, Resource=pods\" that match label selector \"\", \
         field selector \"foo=bar\": field label not supported: foo\n"
    );
    assert_eq!(
        get(&["-l", "a in b"]),
        "Error from server (BadRequest): Unable to find \"/v1, Resource=pods\" that match label selector \"a in \
         b\", field selector \"\": unable to parse requirement: found 'b', expected: '('\n"
    );
}

#[test]
fn a_watch_shows_a_pod_s_whole_life() {
    let namespace = Cluster::shared().namespace("r-watch");
    namespace
        .apply("{apiVersion: v1, kind: Pod, metadata: {name: there}, spec: {nodeSelector: {none: 'yes'}, containers: [{name: main, image: alpine}]}}")
        .ok();
    for which in BOTH {
        let mut command = namespace.cluster.command(which);
        command.args(["-n", "r-watch", "get", "pods", "--watch", "--output-watch-events"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Background(command.spawn().expect("kubectl starts"));
        let mut lines = BufReader::new(child.0.stdout.take().expect("it is piped")).lines();
        let mut until = |event: &str, status: &str| {
            let found = lines.by_ref().map_while(Result::ok).find(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.first() == Some(&event) && words.get(3) == Some(&status)
            });
            assert!(found.is_some(), "{which}: no {event} {status}");
        };
        // A row of the first list shows that the watch begins there.
        until("ADDED", "Pending");
        namespace.apply(&sleeper("p")).ok();
        until("MODIFIED", "Running");
        namespace.kubectl(&["delete", "pod", "p", "--wait=false"]).ok();
        until("MODIFIED", "Terminating");
        let last = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("DELETED"));
        assert!(last.is_some_and(|line| line.contains(" p ")), "{which}: a deletion");
    }
}

#[test]
fn wait_ends_by_condition_value_creation_and_deletion() {
    let namespace = Cluster::shared().namespace("r-wait");
    namespace.apply(&sleeper("p")).ok();
    for which in BOTH {
        let met = with(&namespace, which, &["wait", "pod/p", "--for=condition=Ready", "--timeout=120s"]).ok();
        assert_eq!(met, "pod/p condition met\n");
    }
    let wait = |args: &[&str]| {
        let mut all = vec!["wait"];
        all.extend(args);
        namespace.kubectl(&all)
    };
    assert_eq!(wait(&["pod/p", "--for=jsonpath={.status.phase}=Running"]).ok(), "pod/p condition met\n");
    assert_eq!(wait(&["pod/p", "--for=create"]).ok(), "pod/p condition met\n");
    let late = wait(&["pod/p", "--for=condition=Ready=false", "--timeout=100ms"]).err();
    assert_eq!(late, "error: timed out waiting for the condition on pods/p\n");
    let missing = wait(&["pod/q", "--for=condition=Ready"]).err();
    assert_eq!(missing, "Error from server (NotFound): pods \"q\" not found\n");
    // A finalizer keeps it until the old kubectl, which takes an absent one for an error, watches.
    let finalizers = |list: &str| {
        namespace.kubectl(&[
            "patch",
            "pod",
            "p",
            "-p",
            &format!("{{\"metadata\":{{\"finalizers\":{list}}}}}"),
        ])
    };
    finalizers("[\"test.dev/held\"]").ok();
    let mut command = namespace.cluster.command("KUBECTL_1_20");
    command.args(["-n", "r-wait", "wait", "pod/p", "--for=delete", "--timeout=120s", "-v=6"]);
    let log = namespace.cluster.data_dir().join("waiting.txt");
    command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("a file"));
    let mut waiting = Background(command.spawn().expect("kubectl starts"));
    wait_until("it watches", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("watch=true")));
    namespace.kubectl(&["delete", "pod", "p", "--wait=false"]).ok();
    finalizers("null").ok();
    let status = waiting.0.wait().expect("kubectl ends");
    assert!(status.success(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
    assert_eq!(wait(&["pod/p", "--for=delete", "--timeout=120s"]).code, 0);
}

#[test]
fn describe_of_each_kind() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("r-describe");
    namespace.apply(&crate::deployment("d", 1)).ok();
    namespace.kubectl(&["expose", "deployment", "d", "--port=80"]).ok();
    namespace.kubectl(&["create", "configmap", "c", "--from-literal=k=v"]).ok();
    namespace.kubectl(&["create", "secret", "generic", "s", "--from-literal=k=v"]).ok();
    namespace.kubectl(&["rollout", "status", "deployment/d"]).ok();
    wait_until("the service has an endpoint", || {
        let slices = cluster.object(&["-n", "r-describe", "endpointslices"]);
        !slices["items"][0]["endpoints"][0]["addresses"][0].is_null()
    });
    let worker = cluster.worker(1);
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["pod"],
            &[
                "Controlled By:  ReplicaSet/d-",
                "Ready:          True",
                "Successfully assigned r-describe/d-",
                "Container started",
            ],
        ),
        (
            &["deployment", "d"],
            &[
                "1 desired | 1 updated | 1 total | 1 available | 0 unavailable",
                "25% max unavailable, 25% max surge",
                "NewReplicaSetAvailable",
                "(1/1 replicas created)",
                "from 0 to 1",
            ],
        ),
        (
            &["replicaset"],
            &[
                "Controlled By:  Deployment/d",
                "1 Running / 0 Waiting / 0 Succeeded / 0 Failed",
                "Created pod: d-",
            ],
        ),
        (
            &["service", "d"],
            &["ClusterIP", "80/TCP", "Session Affinity:", "Internal Traffic Policy:  Cluster"],
        ),
        (&["endpointslice"], &["AddressType:  IPv4", "Ready:    true", "TargetRef:  Pod/d-"]),
        (&["configmap", "c"], &["k:\n----\nv\n"]),
        (&["secret", "s"], &["Type:  Opaque", "k:  1 bytes"]),
        (&["serviceaccount", "default"], &["Image pull secrets:  <none>"]),
        (&["namespace", "r-describe"], &["Status:       Active"]),
        (
            &["node", &worker],
            &[
                "KubeletReady",
                "kubelet is posting ready status",
                "PodCIDR:",
                "Allocated resources:",
                "HolderIdentity:",
            ],
        ),
        (&["priorityclass", "system-node-critical"], &["Value:             2000001000"]),
    ];
    for which in BOTH {
        for (args, texts) in cases {
            // 1.20 has no words for these.
            let newer = ["endpointslice", "priorityclass", "service"].contains(&args[0]);
            if which == "KUBECTL_1_20" && newer {
                continue;
            }
            let mut all = vec!["describe"];
            all.extend(*args);
            // Events and counts come in their own time.
            for text in *texts {
                let text = if which == "KUBECTL_1_20" { text.trim_end_matches("\nv\n") } else { text };
                wait_until(&format!("{which} {args:?}: {text}"), || {
                    with(&namespace, which, &all).ok().contains(text)
                });
            }
        }
    }
}

#[test]
fn discovery_and_explanation() {
    let cluster = Cluster::shared();
    for which in BOTH {
        let kubectl = |args: &[&str]| run(cluster.command(which).args(args)).ok();
        let resources = kubectl(&["api-resources", "--no-headers"]);
        for line in [
            "pods                       po           v1                         true         Pod",
            "deployments                deploy       apps/v1                    true         Deployment",
            "leases                                  coordination.k8s.io/v1     true         Lease",
        ] {
            let words: Vec<&str> = line.split_whitespace().collect();
            let found = resources.lines().any(|l| l.split_whitespace().collect::<Vec<_>>() == words);
            assert!(found, "{which}: {line}\n{resources}");
        }
        let versions = kubectl(&["api-versions"]);
        for version in ["apps/v1", "discovery.k8s.io/v1", "events.k8s.io/v1", "v1"] {
            assert!(versions.lines().any(|line| line == version), "{version}");
        }
        let port = kubectl(&["explain", "pod.spec.containers.ports"]);
        assert!(port.contains("hostPort") && port.contains("<integer>"), "{port}");
        let tree = kubectl(&["explain", "deployment", "--recursive"]);
        assert!(tree.contains("maxSurge"), "{tree}");
        assert!(kubectl(&["cluster-info"]).contains("is running at"), "{which}");
        assert!(kubectl(&["version"]).contains("v1.36.0"), "{which}");
        assert_eq!(kubectl(&["get", "--raw", "/readyz"]), "ok");
    }
}

#[test]
fn events_are_had_by_both_groups() {
    let namespace = Cluster::shared().namespace("r-events");
    namespace.apply(&sleeper("p")).ok();
    namespace.ready("p");
    namespace.event("p", "Started", "Container started");
    namespace.event("p", "Scheduled", "Successfully assigned");
    let events = namespace.kubectl(&["events", "--for", "pod/p"]).ok();
    assert!(events.starts_with("LAST SEEN") && events.contains("Pod/p"), "{events}");
    let sorted = namespace.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).ok();
    assert!(sorted.contains("Scheduled"), "{sorted}");
    let grouped =
        namespace.kubectl(&["get", "events.events.k8s.io", "-o", "jsonpath={.items[*].regarding.name}"]).ok();
    assert!(grouped.split(' ').all(|name| name == "p") && !grouped.is_empty(), "{grouped}");
}

#[test]
fn endpoints_come_with_upstream_s_warning() {
    let warned =
        Cluster::shared().kubectl(&["get", "endpoints", "-n", "default", "kubernetes", "-o", "name"]);
    assert_eq!(warned.stdout, "endpoints/kubernetes\n");
    assert_eq!(
        warned.stderr,
        "Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\n"
    );
}
