//! What security contexts add to the start of a pod: sandboxes with one container, each kind in turn, so
//! that what else the machine does is shared fairly.
//!
//! `cargo run --release -p skiff-runtime --example contexts [COUNT]`, as root, with busybox-static.

use std::fs;
use std::time::{Duration, Instant};

use skiff_runtime::images::build::{Builder, Layer};
use skiff_runtime::images::{self, ImageStore};
use skiff_runtime::*;

const KINDS: [&str; 4] = ["plain", "filtered", "restricted", "own users"];

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    // The example is its own shim.
    if dispatch_internal(&args).is_some() {
        return;
    }
    let count = args.get(1).and_then(|count| count.to_str()?.parse().ok()).unwrap_or(50);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("tokio starts").block_on(measure(count));
}

fn security(kind: &str) -> Security {
    match kind {
        "filtered" => Security { seccomp: Seccomp::RuntimeDefault, ..Security::default() },
        "restricted" => Security {
            seccomp: Seccomp::RuntimeDefault,
            no_new_privileges: true,
            capabilities_drop: vec!["ALL".into()],
            user: Some("1000".into()),
            group: Some(1000),
            supplemental_groups: vec![2000],
            read_only_rootfs: true,
            ..Security::default()
        },
        _ => Security::default(),
    }
}

async fn measure(count: usize) {
    let dir = std::env::temp_dir().join(format!("skiff-contexts-{}", std::process::id()));
    let images = ImageStore::open(images::Config::new(dir.join("images"))).expect("an image store");
    let mut config = Config::new(dir.join("data"), dir.join("run"));
    config.cgroup_root = format!("skiff-contexts-{}", std::process::id()).into();
    let runtime = LocalRuntime::open(config, images).expect("a runtime");
    let busybox = fs::read("/bin/busybox").expect("/bin/busybox of Debian's busybox-static");
    let archive = dir.join("box.tar");
    let layer = Layer::new().file("bin/busybox", 0o755, &busybox);
    fs::write(&archive, Builder::new("box").layer(layer).oci()).expect("an archive");
    runtime.load_image(&archive).await.expect("the image is loaded");
    let mut times: [Vec<Duration>; KINDS.len()] = Default::default();
    for round in 0..count {
        for (kind, times) in KINDS.iter().zip(&mut times) {
            let start = Instant::now();
            let config = SandboxConfig {
                hostname: "bench".into(),
                pid: NamespaceMode::Container,
                cgroup_parent: format!("burstable/pod{round}"),
                users: (*kind == "own users").then_some(UserRange { first: 1_000_000_000, length: 65_536 }),
                ..SandboxConfig::default()
            };
            let sandbox = runtime.run_sandbox(config).await.expect("a sandbox");
            let config = ContainerConfig {
                name: "main".into(),
                image: "box".into(),
                command: ["/bin/busybox", "sleep", "1000"].map(String::from).to_vec(),
                log_path: Some(dir.join("logs/log")),
                security: security(kind),
                ..ContainerConfig::default()
            };
            let id = runtime.create_container(&sandbox.id, config).await.expect("a container");
            runtime.start_container(&id).await.expect("it starts");
            times.push(start.elapsed());
            runtime.remove_sandbox(&sandbox.id).await.expect("it goes");
        }
    }
    let mut plain = None;
    for (kind, times) in KINDS.iter().zip(&mut times) {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let more = at(50) - *plain.get_or_insert(at(50));
        println!(
            "{kind:10} least {:6.2} ms, p50 {:6.2} ms ({more:+.2}), p95 {:6.2} ms",
            at(0),
            at(50),
            at(95)
        );
    }
    for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let _ = fs::remove_dir(controller.path().join(format!("skiff-contexts-{}", std::process::id())));
    }
    fs::remove_dir_all(dir).expect("nothing is mounted any more");
}
