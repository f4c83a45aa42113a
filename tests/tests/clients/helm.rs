//! Helm 4, whose client-side way needs no server-side apply.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use skiff_tests::{Cluster, Namespace, Output, run};

const TEMPLATE: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {v: {{ .Values.v | quote }}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: 2
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: alpine, command: [sleep, '999999'], env: [{name: V, value: {{ .Values.v | quote }}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
";

struct Helm {
    namespace: Namespace,
    home: PathBuf,
}

impl Helm {
    fn new(name: &str) -> Self {
        let namespace = Cluster::shared().namespace(name);
        let home = namespace.cluster.data_dir().join(format!("helm-{name}"));
        fs::create_dir_all(home.join("chart/templates")).expect("a directory");
        fs::write(home.join("chart/Chart.yaml"), "{apiVersion: v2, name: chart, version: 0.1.0}\n")
            .expect("writes");
        fs::write(home.join("chart/values.yaml"), "v: first\n").expect("writes");
        fs::write(home.join("chart/templates/all.yaml"), TEMPLATE).expect("writes");
        Self { namespace, home }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(std::env::var_os("HELM").expect("HELM is set by `cargo xtask test`"));
        command.args(["-n", &self.namespace.name]).args(args).current_dir(&self.home);
        command.env("KUBECONFIG", &self.namespace.cluster.kubeconfig).env("HOME", &self.home);
        run(&mut command)
    }

    fn value(&self) -> String {
        self.namespace.kubectl(&["get", "cm", "r", "-o", "jsonpath={.data.v}"]).ok()
    }
}

impl Drop for Helm {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.home);
    }
}

#[test]
fn a_release_is_installed_upgraded_rolled_back_and_removed() {
    let helm = Helm::new("h-release");
    let client_side = "--server-side=false";
    let wait = ["--wait", "--timeout=120s"];
    let installed = helm.run(&["install", "r", "chart", client_side, wait[0], wait[1]]).ok();
    assert!(installed.contains("STATUS: deployed"), "{installed}");
    assert_eq!(helm.value(), "first");
    let upgraded =
        helm.run(&["upgrade", "r", "chart", "--set", "v=second", client_side, wait[0], wait[1]]).ok();
    assert!(upgraded.contains("Release \"r\" has been upgraded."), "{upgraded}");
    assert_eq!(helm.value(), "second");
    let history = helm.run(&["history", "r", "-o", "json"]).ok();
    assert!(history.contains("\"superseded\"") && history.contains("\"deployed\""), "{history}");
    helm.run(&["rollback", "r", "1", client_side, wait[0], wait[1]]).ok();
    assert_eq!(helm.value(), "first");
    let status = helm.run(&["status", "r"]).ok();
    assert!(status.contains("==> v1/Pod(related)") && status.contains("2/2"), "{status}");
    assert!(helm.run(&["list", "-o", "json"]).ok().contains("\"revision\":\"3\""));
    assert_eq!(helm.run(&["uninstall", "r", "--wait"]).ok(), "release \"r\" uninstalled\n");
    assert_ne!(helm.namespace.kubectl(&["get", "deployment", "r"]).code, 0);
}

#[test]
fn its_server_side_way_is_refused_in_plain_words() {
    let helm = Helm::new("h-apply");
    let refused = helm.run(&["install", "r", "chart"]).err();
    assert!(refused.contains("the body of the request was in an unknown format"), "{refused}");
    assert_ne!(helm.namespace.kubectl(&["get", "cm", "r"]).code, 0);
}
