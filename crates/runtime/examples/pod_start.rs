//! How long a sandbox with one container takes to start, and what memory its shim and `pause` cost.
//!
//! `cargo run --release -p skiff-runtime --example pod_start [COUNT [SHIM-PROGRAM]]`, as root, with busybox-static.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use skiff_runtime::images::build::{Builder, Layer};
use skiff_runtime::images::{self, ImageStore};
use skiff_runtime::*;

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    // The example is its own shim.
    if dispatch_internal(&args).is_some() {
        return;
    }
    let count = args.get(1).and_then(|count| count.to_str()?.parse().ok()).unwrap_or(20);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("tokio starts").block_on(measure(count, args.get(2).map(Into::into)));
}

async fn measure(count: usize, shim: Option<PathBuf>) {
    let dir = std::env::temp_dir().join(format!("skiff-bench-{}", std::process::id()));
    let images = ImageStore::open(images::Config::new(dir.join("images"))).expect("an image store");
    let mut config = Config::new(dir.join("data"), dir.join("run"));
    config.cgroup_root = format!("skiff-bench-{}", std::process::id()).into();
    config.shim = shim;
    let runtime = LocalRuntime::open(config, images).expect("a runtime");
    let busybox = fs::read("/bin/busybox").expect("/bin/busybox of Debian's busybox-static");
    let layer = Layer::new().file("bin/busybox", 0o755, &busybox);
    let archive = dir.join("box.tar");
    fs::write(&archive, Builder::new("box").layer(layer).oci()).expect("an archive");
    runtime.load_image(&archive).await.expect("the image is loaded");

    let mut steps: [Vec<Duration>; 4] = Default::default();
    let mut sandboxes = Vec::new();
    for pod in 0..count {
        let start = Instant::now();
        let config = SandboxConfig {
            hostname: "bench".into(),
            pid: NamespaceMode::Container,
            cgroup_parent: format!("burstable/pod{pod}"),
            ..SandboxConfig::default()
        };
        let sandbox = runtime.run_sandbox(config).await.expect("a sandbox");
        let sandboxed = Instant::now();
        let config = ContainerConfig {
            name: "main".into(),
            image: "box".into(),
            command: ["/bin/busybox", "sleep", "1000"].map(String::from).to_vec(),
            log_path: Some(dir.join(format!("logs/{pod}"))),
            security: Security { seccomp: Seccomp::RuntimeDefault, ..Security::default() },
            ..ContainerConfig::default()
        };
        let id = runtime.create_container(&sandbox.id, config).await.expect("a container");
        let created = Instant::now();
        runtime.start_container(&id).await.expect("it starts");
        let started = Instant::now();
        for (step, time) in
            steps.iter_mut().zip([sandboxed - start, created - sandboxed, started - created, started - start])
        {
            step.push(time);
        }
        sandboxes.push(sandbox);
    }
    for (name, times) in ["sandbox", "create", "start", "all"].iter().zip(&mut steps) {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        println!("{name:8} least {:6.2} ms, p50 {:6.2} ms, p99 {:6.2} ms", at(0), at(50), at(99));
    }
    let memory: u64 = sandboxes.iter().map(|sandbox| pss(sandbox.pid) + pss(parent(sandbox.pid))).sum();
    let last = sandboxes.last().expect("one at least");
    println!(
        "memory   {} KiB PSS a pod (the last: shim {}, pause {})",
        memory / count as u64,
        pss(parent(last.pid)),
        pss(last.pid)
    );
    let start = Instant::now();
    for sandbox in &sandboxes {
        runtime.remove_sandbox(&sandbox.id).await.expect("it goes");
    }
    println!("remove   {:6.2} ms a pod", start.elapsed().as_secs_f64() * 1e3 / count as f64);
    for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let _ = fs::remove_dir(controller.path().join(format!("skiff-bench-{}", std::process::id())));
    }
    fs::remove_dir_all(dir).expect("nothing is mounted any more");
}

fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn parent(pid: u32) -> u32 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).unwrap_or(0)
}
