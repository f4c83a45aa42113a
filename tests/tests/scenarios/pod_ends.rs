//! How pods end, and what restarts of them: nobody takes over before the end, limits of the disk, policies of
//! containers; and how the files and images are given to them.

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, wait_for, wait_until};

fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n")
}

/// The container's status once it is as wanted.
fn container(namespace: &Namespace, pod: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("{name} of {pod} is as it should be"), || {
        let pod = namespace.pod(pod);
        let all = pod["status"]["containerStatuses"].as_array()?.clone();
        all.into_iter().find(|each| each["name"] == name && wanted(each))
    })
}

fn until_failed(namespace: &Namespace, pod: &str) -> Value {
    wait_for(&format!("{pod} fails"), || {
        let status = namespace.pod(pod)["status"].clone();
        (status["phase"] == "Failed").then_some(status)
    })
}

#[test]
fn a_host_port_is_free_for_the_next_when_nothing_of_the_first_runs() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("ends-port");
    // The first process of a container ignores TERM unless it says otherwise: it runs to the end of its grace.
    let holder = |more: &str| {
        let node = cluster.worker(2);
        format!(
            "{more} nodeSelector: {{kubernetes.io/hostname: {node}}}, containers: [{{name: main, image: alpine, \
             command: [sleep, '999999'], ports: [{{containerPort: 80, hostPort: 9110}}]}}]"
        )
    };
    namespace.apply(&pod("h1", &holder("activeDeadlineSeconds: 2, terminationGracePeriodSeconds: 6,"))).ok();
    wait_until("it was given to the node", || namespace.pod("h1")["spec"]["nodeName"].is_string());
    namespace.apply(&pod("h2", &holder("terminationGracePeriodSeconds: 1,"))).ok();
    namespace.ready("h2");
    let h1 = namespace.pod("h1");
    assert_eq!(
        (&h1["status"]["phase"], &h1["status"]["reason"]),
        (&"Failed".into(), &"DeadlineExceeded".into())
    );
    let ended = &h1["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["exitCode"], 137, "its grace passed: {ended}");
    let second = container(&namespace, "h2", "main", |each| each["ready"] == true);
    let (ended, began) = (&ended["finishedAt"], &second["state"]["running"]["startedAt"]);
    assert!(ended.as_str() <= began.as_str(), "one ended at {ended}, the other began at {began}");
}

#[test]
fn who_keeps_more_on_the_disk_than_it_may_is_evicted() {
    let namespace = Cluster::shared().namespace("ends-disk");
    let writer = |name: &str, path: &str, more: &str| {
        format!(
            "{{name: {name}, image: alpine, {more} command: [sh, -c, 'head -c 3000000 /dev/zero > {path}; sync; sleep 999999']}}"
        )
    };
    let limit = |size: &str| format!("resources: {{limits: {{ephemeral-storage: {size}}}}},");
    let volume = |more: &str| {
        format!(
            "volumes: [{{name: v, emptyDir: {{{more}}}}}], containers: [{}]",
            writer("main", "/v/file", "volumeMounts: [{name: v, mountPath: /v}],")
        )
    };
    let pods = [
        ("volume", volume("sizeLimit: 1Mi"), "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
        (
            "whole",
            format!("containers: [{}]", writer("main", "/file", &limit("1Mi"))),
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
        ),
        (
            "part",
            format!(
                "containers: [{}, {{name: other, image: alpine, {} command: [sleep, '999999']}}]",
                writer("main", "/file", &limit("1Mi")),
                limit("100Mi")
            ),
            "Container main exceeded its local ephemeral storage limit \"1Mi\". ",
        ),
    ];
    for (name, spec, _) in &pods {
        namespace.apply(&pod(name, spec)).ok();
    }
    namespace.apply(&pod("modest", &volume("sizeLimit: 10Mi"))).ok();
    for (name, _, expected) in &pods {
        let status = until_failed(&namespace, name);
        assert_eq!(
            (&status["reason"], &status["message"]),
            (&"Evicted".into(), &(*expected).into()),
            "{name}"
        );
        assert!(!status["containerStatuses"][0]["state"]["terminated"].is_null(), "{status}");
        namespace.event(name, "Evicted", expected.trim_end());
    }
    assert_eq!(namespace.pod("modest")["status"]["phase"], "Running");
}

#[test]
fn containers_have_policies_and_rules_of_their_own() {
    let namespace = Cluster::shared().namespace("ends-rules");
    // By its rule it starts again once: then it finds what it left.
    let ruled = "{name: ruled, image: alpine, restartPolicy: Never, \
                 restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}], \
                 command: [sh, -c, 'test -e /v/seen && exit 7; touch /v/seen; exit 42'], \
                 volumeMounts: [{name: v, mountPath: /v}]}";
    let once = "{name: once, image: alpine, restartPolicy: Never, command: [sh, -c, 'exit 3']}";
    let stays = "{name: stays, image: alpine, command: [sleep, '999999']}";
    let spec = format!(
        "terminationGracePeriodSeconds: 1, volumes: [{{name: v, emptyDir: {{}}}}], containers: [{ruled}, {once}, {stays}]"
    );
    namespace.apply(&pod("p", &spec)).ok();
    let ended = |code: i32| move |each: &Value| each["state"]["terminated"]["exitCode"] == code;
    let status = container(&namespace, "p", "ruled", ended(7));
    assert_eq!(
        (&status["restartCount"], &status["lastState"]["terminated"]["exitCode"]),
        (&1.into(), &42.into())
    );
    let status = container(&namespace, "p", "once", ended(3));
    assert_eq!(status["restartCount"], 0);
    container(&namespace, "p", "stays", |each| each["ready"] == true);
    assert_eq!(namespace.pod("p")["status"]["phase"], "Running");
    let all = "restartPolicy: Never, restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [1]}}]";
    namespace.apply(&pod("q", &format!("containers: [{{name: main, image: alpine, {all}}}]"))).ok();
    let waits = container(&namespace, "q", "main", |each| !each["state"]["waiting"]["message"].is_null());
    assert_eq!(
        waits["state"]["waiting"]["message"],
        "spec.containers[0].restartPolicyRules[0].action is not supported by this version of Skiff"
    );
}

#[test]
fn given_files_lie_as_upstream_lays_them() {
    let namespace = Cluster::shared().namespace("given-files");
    namespace.kubectl(&["create", "configmap", "m", "--from-literal=k=v"]).ok();
    let spec = "terminationGracePeriodSeconds: 1, volumes: [{name: m, configMap: {name: m}}], \
                containers: [{name: main, image: alpine, command: [sleep, '999999'], \
                volumeMounts: [{name: m, mountPath: /m}]}]";
    namespace.apply(&pod("p", spec)).ok();
    namespace.ready("p");
    let modes = namespace.exec("p", &["stat", "-L", "-c", "%a", "/m", "/m/..data", "/m/k"]).ok();
    assert_eq!(modes, "777\n755\n644\n");
    let link = namespace.exec("p", &["readlink", "/m/..data"]).ok();
    let form: String =
        link.trim_end().chars().map(|each| if each.is_ascii_digit() { '0' } else { each }).collect();
    assert!(form.starts_with("..0000_00_00_00_00_00.0"), "{link}");
}

#[test]
fn a_registry_that_nobody_can_find_is_named_at_once() {
    let namespace = Cluster::shared().namespace("no-registry");
    namespace.apply(&pod("p", "containers: [{name: main, image: 'registry.example/none:v1'}]")).ok();
    let told = namespace.event("p", "Failed", "registry.example/none:v1");
    assert!(told.contains("https://registry.example/v2/none/manifests/v1"), "{told}");
    // The cluster has no way out, so no name server answers, and none has to be waited for.
    assert!(!told.contains("timed out") && !told.contains("timeout"), "{told}");
}
