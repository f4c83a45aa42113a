//! What becomes of a server's processes when only what watches over them is killed: they end with it, and
//! whoever is started in its place has the data at once, while pods run on.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use skiff_tests::{Output, run, skiff_path, wait_for, wait_until};

use super::machines::Machine;

/// A machine with a server, its data, and a client of it.
struct Site {
    machine: Machine,
    data: String,
}

impl Site {
    fn kubectl(&self, args: &[&str]) -> Output {
        self.machine.kubectl(Path::new(&self.data), args)
    }

    /// PIDs there, of processes whose command lines begin so.
    fn pids(&self, begin: &str) -> Vec<String> {
        // The pattern comes as an argument of the shell, whose own line begins with another word.
        let script = "for dir in /proc/[0-9]*; do case \"$(tr '\\0' ' ' 2>/dev/null < $dir/cmdline)\" in \
                      \"$1\"*) echo ${dir#/proc/} ;; esac; done; true";
        let found = self.machine.run(&["sh", "-c", script, "sh", begin]).ok();
        found.lines().map(str::to_owned).collect()
    }

    fn parts(&self) -> [Vec<String>; 2] {
        ["skiff-server component ", "kubelet component "].map(|begin| self.pids(begin))
    }

    /// What must be the same before and after.
    fn pod(&self) -> Value {
        let pod = self.kubectl(&["get", "pod", "p", "-o", "json"]).ok();
        let pod: Value = serde_json::from_str(&pod).expect("JSON");
        let status = &pod["status"]["containerStatuses"][0];
        let own =
            [&status["containerID"], &status["restartCount"], &status["state"], &pod["status"]["podIP"]];
        serde_json::json!([own, self.pids("skiff-shim "), self.pids("peer tcp 7001")])
    }
}

#[test]
fn a_killed_supervisor_takes_its_parts_along_and_another_goes_on_with_the_same_pods() {
    let machine = Machine::start("lc-super");
    let dir = machine.dir.join("server").display().to_string();
    let site = Site { machine, data: dir.clone() };
    let args = ["server", "--data-dir", &dir, "--node-ip", "127.0.0.1"];
    let supervisor = format!("{} server", skiff_path().display());
    let first = site.machine.skiff("first.txt", &args);
    wait_until("the server answers", || site.kubectl(&["get", "--raw", "/readyz"]).code == 0);
    wait_until("its node is Ready", || site.kubectl(&["get", "nodes"]).stdout.contains(" Ready "));
    let archive = PathBuf::from(std::env::var_os("SKIFF_IMAGES").expect("SKIFF_IMAGES"));
    let archive = archive.join("skiff-peer-v1.tar").display().to_string();
    let kubeconfig = format!("{dir}/kubeconfig");
    let load = ["image", "load", "--kubeconfig", &kubeconfig, &archive];
    run(site.machine.command(&skiff_path()).args(load)).ok();
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: main, image: 'skiff/peer:v1', command: [peer, tcp, '7001']}]}}";
    let file = site.machine.dir.join("pod.yaml");
    fs::write(&file, pod).expect("it is written");
    wait_until("pods can be made", || {
        site.kubectl(&["apply", "-f", file.to_str().expect("UTF-8")]).code == 0
    });
    let ready = site.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=120s"]);
    assert_eq!(ready.code, 0, "{ready:?}");
    let (before, parts) = (site.pod(), site.parts());
    assert!(parts.iter().all(|part| part.len() == 1), "{parts:?}");

    // A part that takes no signal ends as well.
    let pids = site.pids(&supervisor);
    assert_eq!(pids.len(), 1, "{pids:?}");
    site.machine.run(&["kill", "-STOP", &parts[1][0]]).ok();
    site.machine.run(&["kill", "-KILL", &pids[0]]).ok();
    drop(first);
    // At once, and not refused: those that die hold the data for a moment yet.
    let second = site.machine.skiff("second.txt", &args);
    let anew = wait_for("both parts were started anew", || {
        let now = site.parts();
        let other = |(old, new): (&Vec<String>, &Vec<String>)| new.len() == 1 && old != new;
        parts.iter().zip(&now).all(other).then_some(now)
    });
    wait_until("the server answers", || site.kubectl(&["get", "--raw", "/readyz"]).code == 0);
    wait_until("exec works", || site.kubectl(&["exec", "p", "--", "hostname"]).stdout == "p\n");
    assert_eq!(site.pod(), before, "{}", site.machine.text("second.txt"));

    // And somebody watches over them again.
    site.machine.run(&["kill", "-KILL", &anew[0][0]]).ok();
    wait_until("a killed part is started again", || {
        let server = &site.parts()[0];
        server.len() == 1 && *server != anew[0]
    });
    wait_until("the server answers", || site.kubectl(&["get", "--raw", "/readyz"]).code == 0);

    // Nobody comes in its place: nothing of the platform is left, and the pod serves on.
    site.machine.run(&["kill", "-KILL", &site.pids(&supervisor)[0]]).ok();
    drop(second);
    wait_until("no part is left", || site.parts().iter().all(Vec::is_empty));
    assert_eq!([site.pids("skiff-shim "), site.pids("peer tcp 7001")].map(|pids| pids.len()), [1, 1]);
}
