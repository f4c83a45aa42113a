//! Commands that write: create, apply, replace, patch, edit, label, annotate, dry runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use skiff_tests::{Cluster, run};

use crate::{BOTH, with};

// JSON: kubectl 1.20 takes whatever begins with a brace for it.
const MAP: &str =
    r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}}"#;

#[test]
fn imperative_creation_of_each_kind() {
    let namespace = Cluster::shared().namespace("c-create");
    let cases: &[(&[&str], &str)] = &[
        (&["configmap", "c", "--from-literal=a=b"], "configmap/c created\n"),
        (&["secret", "generic", "s", "--from-literal=p=q"], "secret/s created\n"),
        (&["serviceaccount", "a"], "serviceaccount/a created\n"),
        (&["service", "clusterip", "v", "--tcp=80:8080"], "service/v created\n"),
        (&["service", "nodeport", "w", "--tcp=80"], "service/w created\n"),
        (&["service", "externalname", "x", "--external-name=a.example"], "service/x created\n"),
        (&["deployment", "d", "--image=alpine", "--replicas=0"], "deployment.apps/d created\n"),
    ];
    for which in BOTH {
        for (args, printed) in cases {
            let mut all = vec!["create"];
            all.extend(*args);
            assert_eq!(with(&namespace, which, &all).ok(), *printed, "{which}");
            let kind = args[0];
            let name = args.iter().skip(1).find(|arg| arg.len() == 1).expect("a name");
            with(&namespace, which, &["delete", kind, name]).ok();
        }
    }
    // What was sent, as protobuf, is what is read back.
    namespace.kubectl(&["create", "secret", "generic", "s", "--from-literal=p=q"]).ok();
    let secret = namespace.cluster.object(&["-n", "c-create", "secret", "s"]);
    assert_eq!((&secret["data"]["p"], &secret["type"]), (&"cQ==".into(), &"Opaque".into()));
}

#[test]
fn a_second_creation_is_refused_and_apply_configures() {
    let namespace = Cluster::shared().namespace("c-apply");
    for which in BOTH {
        let pipe = |args: &[&str], text: &str| {
            let file = namespace.cluster.data_dir().join(format!("{which}-apply.yaml"));
            fs::write(&file, text).expect("writes");
            let mut all = args.to_vec();
            all.extend(["-f", file.to_str().expect("UTF-8")]);
            with(&namespace, which, &all)
        };
        assert_eq!(pipe(&["apply"], MAP).ok(), "configmap/m created\n");
        assert_eq!(pipe(&["apply"], MAP).ok(), "configmap/m unchanged\n");
        let refused = pipe(&["create"], MAP).err();
        assert!(
            refused.starts_with("Error from server (AlreadyExists): error when creating")
                && refused.ends_with("configmaps \"m\" already exists\n"),
            "{refused}"
        );
        let changed = MAP.replace(r#""a": "1""#, r#""c": "3""#);
        let difference = pipe(&["diff"], &changed);
        assert_eq!(difference.code, 1, "{difference:?}");
        assert!(
            difference.stdout.contains("-  a: \"1\"") && difference.stdout.contains("+  c: \"3\""),
            "{difference:?}"
        );
        assert_eq!(
            pipe(&["apply", "--dry-run=server"], &changed).ok(),
            "configmap/m configured (server dry run)\n"
        );
        assert_eq!(pipe(&["apply"], &changed).ok(), "configmap/m configured\n");
        let data = with(&namespace, which, &["get", "cm", "m", "-o", "jsonpath={.data}"]).ok();
        assert_eq!(data, r#"{"b":"2","c":"3"}"#, "what the manifest no longer has is gone");
        assert_eq!(pipe(&["replace"], MAP).ok(), "configmap/m replaced\n");
        assert_eq!(pipe(&["diff"], MAP).code, 0);
        with(&namespace, which, &["delete", "cm", "m"]).ok();
    }
}

#[test]
fn patches_of_every_kind() {
    let namespace = Cluster::shared().namespace("c-patch");
    namespace.apply(MAP).ok();
    let patch =
        |kind: &str, patch: &str| namespace.kubectl(&["patch", "cm", "m", "--type", kind, "-p", patch]);
    assert_eq!(patch("strategic", r#"{"data":{"a":null,"c":"3"}}"#).ok(), "configmap/m patched\n");
    assert_eq!(patch("merge", r#"{"data":{"c":"4"}}"#).ok(), "configmap/m patched\n");
    assert_eq!(patch("merge", r#"{"data":{"c":"4"}}"#).ok(), "configmap/m patched (no change)\n");
    let add = r#"[{"op":"test","path":"/data/c","value":"4"},{"op":"add","path":"/data/d","value":"5"}]"#;
    assert_eq!(patch("json", add).ok(), "configmap/m patched\n");
    let failed = "The request is invalid: the server rejected our request due to an error in our request\n";
    assert_eq!(patch("json", r#"[{"op":"test","path":"/data/c","value":"0"}]"#).err(), failed);
    assert_eq!(patch("json", r#"[{"op":"remove","path":"/data/none"}]"#).err(), failed);
    let unreadable = patch("merge", r#"{"data":{"c":4}}"#).err();
    assert!(
        unreadable.starts_with("The request is invalid: patch: Invalid value: \"{")
            && unreadable.ends_with(
                "json: cannot unmarshal number into Go struct field ConfigMap.data of type string\n"
            ),
        "{unreadable}"
    );
    let unknown = patch("merge", r#"{"dota":{"c":"4"}}"#);
    assert_eq!(unknown.stderr, "Warning: unknown field \"dota\"\n");
    let data = namespace.kubectl(&["get", "cm", "m", "-o", "jsonpath={.data}"]).ok();
    assert_eq!(data, r#"{"b":"2","c":"4","d":"5"}"#);
}

#[test]
fn a_strategic_patch_merges_containers_by_name() {
    let namespace = Cluster::shared().namespace("c-strategic");
    namespace.apply(&crate::deployment("d", 0)).ok();
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"nginx"},{"name":"main","env":[{"name":"A","value":"b"}]}]}}}}"#;
    namespace.kubectl(&["patch", "deploy", "d", "-p", patch]).ok();
    namespace.kubectl(&["set", "image", "deploy/d", "side=luksa/kubia"]).ok();
    namespace.kubectl(&["set", "env", "deploy/d", "-c", "main", "C=d"]).ok();
    let shape = "jsonpath={range .spec.template.spec.containers[*]}{.name}={.image} {.env[*].name};{end}";
    let shown = namespace.kubectl(&["get", "deploy", "d", "-o", shape]).ok();
    assert_eq!(shown, "side=luksa/kubia ;main=alpine A C;");
}

#[test]
fn edit_saves_what_the_editor_left() {
    let namespace = Cluster::shared().namespace("c-edit");
    for which in BOTH {
        namespace.apply(MAP).ok();
        let script = namespace.cluster.data_dir().join(format!("{which}-editor"));
        fs::write(&script, "#!/bin/sh\nsed -i 's/a: \"1\"/a: edited/' \"$1\"\n").expect("writes");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("is executable");
        let edit = || {
            let mut command = namespace.cluster.command(which);
            run(command.args(["-n", "c-edit", "edit", "cm", "m"]).env("KUBE_EDITOR", &script))
        };
        assert_eq!(edit().ok(), "configmap/m edited\n");
        assert_eq!(namespace.kubectl(&["get", "cm", "m", "-o", "jsonpath={.data.a}"]).ok(), "edited");
        let again = edit();
        assert!(again.stderr.contains("no changes made"), "{again:?}");
        with(&namespace, which, &["delete", "cm", "m"]).ok();
    }
}

#[test]
fn labels_and_annotations_come_and_go() {
    let namespace = Cluster::shared().namespace("c-label");
    namespace.apply(MAP).ok();
    for which in BOTH {
        let kubectl = |args: &[&str]| with(&namespace, which, args);
        assert_eq!(kubectl(&["label", "cm", "m", "a=b"]).ok(), "configmap/m labeled\n");
        let kept = kubectl(&["label", "cm", "m", "a=c"]).err();
        assert_eq!(kept, "error: 'a' already has a value (b), and --overwrite is false\n");
        assert_eq!(kubectl(&["label", "cm", "m", "a=c", "--overwrite"]).ok(), "configmap/m labeled\n");
        assert_eq!(kubectl(&["get", "cm", "-l", "a in (c),!z", "-o", "name"]).ok(), "configmap/m\n");
        kubectl(&["label", "cm", "m", "a-"]).ok();
        assert_eq!(kubectl(&["annotate", "cm", "m", "x=y"]).ok(), "configmap/m annotated\n");
        kubectl(&["annotate", "cm", "m", "x-"]).ok();
    }
    let bad = namespace.kubectl(&["label", "cm", "m", "bad key=1"]).err();
    assert!(
        bad.starts_with("The ConfigMap \"m\" is invalid: metadata.labels: Invalid value: \"bad key\""),
        "{bad}"
    );
    let map = namespace.cluster.object(&["-n", "c-label", "cm", "m"]);
    assert!(map["metadata"]["labels"].is_null(), "{map}");
}

#[test]
fn a_server_side_dry_run_shows_the_defaults_and_stores_nothing() {
    let namespace = Cluster::shared().namespace("c-dry");
    let shown = namespace.kubectl(&["run", "p", "--image=alpine", "--dry-run=server", "-o", "yaml"]).ok();
    for line in ["  imagePullPolicy: Always", "  serviceAccountName: default", "  qosClass: BestEffort"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(!shown.contains("resourceVersion"), "{shown}");
    assert_eq!(namespace.kubectl(&["get", "pods"]).stderr, "No resources found in c-dry namespace.\n");
}

#[test]
fn a_stale_replacement_conflicts() {
    let namespace = Cluster::shared().namespace("c-stale");
    namespace.apply(MAP).ok();
    let old = namespace.kubectl(&["get", "cm", "m", "-o", "yaml"]).ok();
    namespace.kubectl(&["label", "cm", "m", "a=b"]).ok();
    let refused = namespace.pipe(&["replace", "-f", "-"], &old).err();
    assert!(
        refused.contains(
            "Operation cannot be fulfilled on configmaps \"m\": the object has been modified; please apply \
             your changes to the latest version and try again"
        ),
        "{refused}"
    );
}
