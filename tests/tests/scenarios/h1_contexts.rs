//! H1: what a container may do, read back from the kernel: in its first program, in commands, in probes.

use std::fs;

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, wait_for};

/// The lines of `/proc/PID/status` that say what a process may do.
const LOOK: &str =
    "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status | tr -s ' \\t' ' '";

/// A pod of one container that writes what it may do to its log and then sleeps; its probe writes the same
/// to `/look/probe`, whole, since it is read while the next one runs.
fn looking(name: &str, pod: &str, container: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  {pod}
  volumes:
  - {{name: look, emptyDir: {{}}}}
  containers:
  - name: main
    image: alpine
    command: [/bin/sh, -c, \"{LOOK}; exec sleep 999999\"]
    readinessProbe: {{periodSeconds: 1, exec: {{command: [/bin/sh, -c, \"{LOOK} > /look/new && mv /look/new /look/probe\"]}}}}
    volumeMounts: [{{name: look, mountPath: /look}}]
    {container}
"
    )
}

/// What all three kinds of process of a container may do, which is the same.
#[track_caller]
fn seen(namespace: &Namespace, name: &str) -> String {
    namespace.ready(name);
    let init = wait_for("the log is there", || {
        let log = namespace.kubectl(&["logs", name]).ok();
        log.contains("Seccomp:").then_some(log)
    });
    let exec = namespace.exec(name, &["sh", "-c", LOOK]).ok();
    let probe = namespace.exec(name, &["cat", "/look/probe"]).ok();
    assert_eq!(init, exec, "the first program and a command");
    assert_eq!(init, probe, "the first program and a probe");
    init
}

/// One line of it.
fn line<'a>(seen: &'a str, field: &str) -> &'a str {
    let mut lines = seen.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(name, _)| *name == field).map_or("", |(_, value)| value.trim())
}

/// The reason and message that the only container of a pod waits with.
fn waits(namespace: &Namespace, name: &str, reason: &str) -> String {
    wait_for(&format!("{name} waits with {reason}"), || {
        let state = &namespace.pod(name)["status"]["containerStatuses"][0]["state"]["waiting"];
        (state["reason"] == reason).then(|| state["message"].as_str().unwrap_or_default().to_owned())
    })
}

fn failed(namespace: &Namespace, name: &str) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    wait_for(&format!("{name} fails"), || {
        let status = &namespace.pod(name)["status"];
        (status["phase"] == "Failed").then(|| (text(&status["reason"]), text(&status["message"])))
    })
}

#[test]
fn h1_contexts_hold_for_first_programs_commands_and_probes() {
    let namespace = Cluster::shared().namespace("h1-contexts");
    const DEFAULT: &str = "00000000a80425fb";
    const NONE: &str = "0000000000000000";
    // Pod's context, container's context, and Uid, Groups, CapEff, CapBnd, NoNewPrivs, Seccomp.
    let table: [(&str, &str, &str, [&str; 6]); 8] = [
        ("plain", "", "", ["0 0 0 0", "0", DEFAULT, DEFAULT, "0", "0"]),
        (
            "user",
            "runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000]",
            "",
            ["1000 1000 1000 1000", "2000 3000 4000", NONE, DEFAULT, "0", "0"],
        ),
        (
            "over",
            "runAsUser: 1000, seccompProfile: {type: Unconfined}",
            "runAsUser: 33, runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}",
            ["33 33 33 33", "4 33", NONE, DEFAULT, "0", "2"],
        ),
        (
            "strict",
            "supplementalGroupsPolicy: Strict, supplementalGroups: [5]",
            "runAsUser: 33",
            ["33 33 33 33", "5 33", NONE, DEFAULT, "0", "0"],
        ),
        (
            "filtered",
            "seccompProfile: {type: RuntimeDefault}",
            "",
            ["0 0 0 0", "0", DEFAULT, DEFAULT, "0", "2"],
        ),
        (
            "restricted",
            "runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}",
            "allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}",
            ["1000 1000 1000 1000", "0", NONE, NONE, "1", "2"],
        ),
        (
            "binder",
            "",
            "capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}",
            ["0 0 0 0", "0", "0000000000000400", "0000000000000400", "0", "0"],
        ),
        (
            "linux",
            "seLinuxOptions: {level: 's0:c1,c2'}, windowsOptions: {runAsUserName: x}",
            "seLinuxOptions: {level: 's0'}",
            ["0 0 0 0", "0", DEFAULT, DEFAULT, "0", "0"],
        ),
    ];
    for (name, pod, container, _) in &table {
        let pod = format!("securityContext: {{{pod}}}");
        namespace.apply(&looking(name, &pod, &format!("securityContext: {{{container}}}"))).ok();
    }
    for (name, _, _, expected) in &table {
        let seen = seen(&namespace, name);
        let found =
            ["Uid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"].map(|field| line(&seen, field));
        assert_eq!(&found, expected, "{name}");
    }
}

#[test]
fn h1_a_user_of_the_image_by_name() {
    let namespace = Cluster::shared().namespace("h1-image-user");
    let pod = |name: &str, context: &str| {
        namespace
            .apply(&format!(
                "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{{context}}}
  containers: [{{name: c, image: 'skiff/web-user:v1', command: [/bin/sleep, '999999']}}]
"
            ))
            .ok();
    };
    pod("named", "");
    namespace.ready("named");
    assert_eq!(namespace.exec("named", &["sh", "-c", "id -u; id -G; echo $HOME"]).ok(), "33\n33 4\n/srv\n");
    pod("must-not-be-root", "runAsNonRoot: true");
    let uid = |name: &str| namespace.pod(name)["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let place = |name: &str| format!("(pod: \"{name}_{}({})\", container: c)", namespace.name, uid(name));
    assert_eq!(
        waits(&namespace, "must-not-be-root", "CreateContainerConfigError"),
        format!(
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root {}",
            place("must-not-be-root")
        )
    );
    let event = namespace.event("must-not-be-root", "Failed", "cannot verify user is non-root");
    assert!(event.starts_with("Error: container has runAsNonRoot"), "{event}");
    let table = namespace.kubectl(&["get", "pod", "must-not-be-root"]).ok();
    assert!(table.contains("CreateContainerConfigError"), "{table}");
    pod("zero", "runAsNonRoot: true, runAsUser: 0");
    assert_eq!(
        waits(&namespace, "zero", "CreateContainerConfigError"),
        format!("container's runAsUser breaks non-root policy {}", place("zero"))
    );
    pod("said", "runAsNonRoot: true, runAsUser: 5");
    namespace.ready("said");
}

#[test]
fn h1_volumes_belong_to_the_group_of_the_pod() {
    let namespace = Cluster::shared().namespace("h1-fs-group");
    namespace.kubectl(&["create", "configmap", "m", "--from-literal=k=v"]).ok();
    namespace.kubectl(&["create", "secret", "generic", "s", "--from-literal=k=v"]).ok();
    namespace
        .apply(
            "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000, fsGroupChangePolicy: OnRootMismatch}
  volumes:
  - {name: e, emptyDir: {}}
  - {name: mem, emptyDir: {medium: Memory}}
  - {name: m, configMap: {name: m, defaultMode: 0400}}
  - {name: s, secret: {secretName: s, defaultMode: 0400}}
  - {name: p, projected: {defaultMode: 0400, sources: [{secret: {name: s}}, {configMap: {name: m, items: [{key: k, path: d/k}]}}]}}
  containers:
  - name: c
    image: alpine
    command: [/bin/sleep, '999999']
    volumeMounts:
    - {name: e, mountPath: /e}
    - {name: mem, mountPath: /mem}
    - {name: m, mountPath: /m}
    - {name: s, mountPath: /s}
    - {name: p, mountPath: /p}
",
        )
        .ok();
    namespace.ready("p");
    let look = "stat -c '%n %u:%g %a' /e /mem; cd /; stat -L -c '%n %u:%g %a' /m/k /s/k /p/k /p/d /p/d/k; \
                cat /m/k /s/k /p/k /p/d/k; touch /e/x /mem/x; stat -c %g /e/x /mem/x";
    assert_eq!(
        namespace.exec("p", &["sh", "-c", look]).ok(),
        "/e 0:2000 2777\n/mem 0:2000 2777\n/m/k 0:2000 440\n/s/k 0:2000 440\n/p/k 0:2000 440\n\
         /p/d 0:2000 2755\n/p/d/k 0:2000 440\nvvvv2000\n2000\n"
    );
}

#[test]
fn h1_privileged_and_not() {
    let namespace = Cluster::shared().namespace("h1-privileged");
    namespace.apply(&looking("plain", "", "")).ok();
    let unconfined = "securityContext: {privileged: true, seccompProfile: {type: RuntimeDefault}}";
    namespace.apply(&looking("privileged", "", unconfined)).ok();
    let (plain, privileged) = (seen(&namespace, "plain"), seen(&namespace, "privileged"));
    assert_eq!(line(&privileged, "Seccomp"), "0", "privileged is without filter, whatever is asked");
    let all = u64::from_str_radix(line(&privileged, "CapEff"), 16).expect("a set");
    assert_eq!(all & (1 << 21 | 1 << 12), 1 << 21 | 1 << 12, "SYS_ADMIN and NET_ADMIN are in {all:x}");
    assert_eq!(line(&plain, "CapEff"), "00000000a80425fb");
    let look = "ls /dev | wc -l; wc -c < /proc/timer_list; mkdir -p /tmp/m; \
                mount -t tmpfs t /tmp/m 2>/dev/null && echo mounts; \
                grep -E ' /sys(/fs/cgroup)? ' /proc/self/mountinfo | cut -d' ' -f6 | cut -d, -f1 | sort -u; \
                grep -c ' /proc/sys ' /proc/self/mountinfo";
    let plain = namespace.exec("plain", &["sh", "-c", &format!("{look}; true")]).ok();
    let plain: Vec<&str> = plain.lines().collect();
    let devices = |lines: &[&str]| lines[0].parse::<u32>().expect("a number");
    assert_eq!(plain[1..], ["0", "ro", "1"]);
    let privileged = namespace.exec("privileged", &["sh", "-c", &format!("{look}; true")]).ok();
    let privileged: Vec<&str> = privileged.lines().collect();
    assert!(devices(&privileged) > devices(&plain), "{privileged:?} {plain:?}");
    assert_ne!(privileged[1], "0", "{privileged:?}");
    assert_eq!(privileged[2..], ["mounts", "rw", "0"]);
}

#[test]
fn h1_a_root_that_can_not_be_written() {
    let namespace = Cluster::shared().namespace("h1-read-only");
    namespace.apply(&looking("p", "", "securityContext: {readOnlyRootFilesystem: true}")).ok();
    seen(&namespace, "p");
    let look = "touch /x 2>&1 | sed 's/.*: //'; touch /look/x /dev/shm/x && echo writes";
    assert_eq!(namespace.exec("p", &["sh", "-c", look]).ok(), "Read-only file system\nwrites\n");
}

#[test]
fn h1_mounts_below_a_volume_are_read_only_if_asked() {
    let namespace = Cluster::shared().namespace("h1-recursive");
    // The node's devices, with file systems mounted among them.
    let volume = |name: &str, mode: &str| {
        format!("{{name: dev, mountPath: /{name}, readOnly: true, recursiveReadOnly: {mode}}}")
    };
    let mounts =
        [volume("plain", "Disabled"), volume("if", "IfPossible"), volume("all", "Enabled")].join(", ");
    namespace
        .apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: dev, hostPath: {{path: /dev}}}}]
  containers: [{{name: main, image: alpine, command: [sleep, '999999'], volumeMounts: [{mounts}]}}]
"
        ))
        .ok();
    namespace.ready("p");
    let table = namespace.exec("p", &["cat", "/proc/self/mountinfo"]).ok();
    let options = |place: &str| {
        let below = format!("/{place}/");
        let lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let lines = lines.filter(|fields| fields[4].starts_with(&below));
        lines.map(|fields| fields[5].starts_with("ro")).collect::<Vec<_>>()
    };
    let (plain, recursive) = (options("plain"), options("all"));
    assert!(!plain.is_empty() && plain.iter().any(|read_only| !read_only), "{table}");
    assert!(recursive.len() == plain.len() && recursive.iter().all(|read_only| *read_only), "{table}");
    assert_eq!(options("if"), recursive);
    let status = namespace.pod("p")["status"]["containerStatuses"][0]["volumeMounts"].clone();
    let told = ["/plain", "/if", "/all"].map(|path| {
        let mounts = status.as_array().expect("mounts");
        let mount = mounts.iter().find(|mount| mount["mountPath"] == path).expect("it is told");
        mount["recursiveReadOnly"].as_str().unwrap_or_default().to_owned()
    });
    assert_eq!(told, ["Disabled", "Enabled", "Enabled"]);
    let wrong = volume("x", "Enabled").replace("readOnly: true", "readOnly: false");
    let said = namespace
        .apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: q}}, spec: {{volumes: [{{name: dev, emptyDir: {{}}}}], \
             containers: [{{name: c, image: alpine, volumeMounts: [{wrong}]}}]}}}}"
        ))
        .err();
    let field = "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true";
    assert!(said.contains(field), "{said}");
}

#[test]
fn h1_seccomp_profiles_of_the_node() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("h1-seccomp");
    let node = cluster.worker(1);
    let dir = cluster.data_dir().join("nodes").join(&node).join("seccomp/h1");
    fs::create_dir_all(&dir).expect("the node's directory is there");
    let profile = |name: &str, text: &str| fs::write(dir.join(name), text).expect("it is written");
    let refuse = "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"mkdir\", \"mkdirat\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 95}]}";
    profile("refuse.json", refuse);
    profile("misspelt.json", &refuse.replace("mkdirat", "mkdirta"));
    profile("unknown.json", "{\"defaultAction\": \"SCMP_ACT_EXPLODE\"}");
    profile("broken.json", "{\"defaultAction\": ");
    let pod = |name: &str, file: &str, more: &str| {
        let context = format!("nodeName: {node}");
        let own = format!(
            "securityContext: {{seccompProfile: {{type: Localhost, localhostProfile: h1/{file}}}{more}}}"
        );
        namespace.apply(&looking(name, &context, &own)).ok();
    };
    pod("refused", "refuse.json", "");
    pod("no-more", "refuse.json", ", allowPrivilegeEscalation: false, runAsUser: 1000");
    pod("unknown", "unknown.json", "");
    pod("broken", "broken.json", "");
    pod("misspelt", "misspelt.json", "");
    pod("missing", "missing.json", "");
    for (name, renounced) in [("refused", "0"), ("no-more", "1")] {
        let seen = seen(&namespace, name);
        assert_eq!((line(&seen, "Seccomp"), line(&seen, "NoNewPrivs")), ("2", renounced));
        let look = "mkdir /tmp/x 2>&1 | sed 's/.*: //'";
        assert_eq!(namespace.exec(name, &["sh", "-c", look]).ok(), "Operation not supported\n");
    }
    for (name, expected) in [
        ("unknown", "SCMP_ACT_EXPLODE"),
        ("broken", "EOF while parsing"),
        ("misspelt", "unknown system call \"mkdirta\""),
        ("missing", "no such file or directory"),
    ] {
        let message = waits(&namespace, name, "CreateContainerError");
        let path = format!("{}/{name}.json", dir.display());
        assert!(message.contains(expected) && message.contains(&path), "{message}");
    }
}

#[test]
fn h1_threads_start_under_the_default_filter() {
    let namespace = Cluster::shared().namespace("h1-threads");
    // The web server of many threads: its C library asks for clone3 first.
    namespace
        .apply(
            "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  containers: [{name: c, image: 'codelieche/simpleweb:v1', readinessProbe: {periodSeconds: 1, httpGet: {port: 8080}}}]
",
        )
        .ok();
    namespace.ready("web");
    let status = namespace.exec("web", &["grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/1/status"]).ok();
    assert_eq!(status, "NoNewPrivs:\t0\nSeccomp:\t2\n");
    let refused = namespace.exec("web", &["unshare", "-U", "true"]);
    assert!(refused.code != 0 && refused.stderr.contains("Operation not permitted"), "{refused:?}");
}

#[test]
fn h1_sysctls_safe_and_not() {
    let namespace = Cluster::shared().namespace("h1-sysctls");
    let sysctls = |list: &str| format!("securityContext: {{sysctls: [{list}]}}");
    let safe = "{name: net.ipv4.ip_unprivileged_port_start, value: '80'}, {name: kernel.shm_rmid_forced, value: '1'}, \
                {name: net/ipv4/tcp_syncookies, value: '0'}";
    namespace.apply(&looking("safe", &sysctls(safe), "")).ok();
    namespace.apply(&looking("unsafe", &sysctls("{name: kernel.msgmax, value: '65536'}"), "")).ok();
    let wrong = sysctls("{name: net.ipv4.ip_local_port_range, value: 'many'}");
    namespace.apply(&looking("wrong", &wrong, "")).ok();
    seen(&namespace, "safe");
    let look = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced net/ipv4/tcp_syncookies";
    assert_eq!(namespace.exec("safe", &["sh", "-c", look]).ok(), "80\n1\n0\n");
    assert_eq!(
        failed(&namespace, "unsafe"),
        (
            "SysctlForbidden".into(),
            "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted".into()
        )
    );
    assert!(namespace.kubectl(&["get", "pod", "unsafe"]).ok().contains("SysctlForbidden"));
    namespace.event("wrong", "FailedCreatePodSandBox", "net.ipv4.ip_local_port_range");
}

#[test]
fn h1_users_of_their_own() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("h1-users");
    namespace.kubectl(&["create", "configmap", "m", "--from-literal=k=v"]).ok();
    namespace
        .apply(
            "
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 2000}
  volumes: [{name: e, emptyDir: {}}, {name: m, configMap: {name: m}}]
  containers:
  - name: root
    image: alpine
    command: [/bin/sleep, '999999']
    securityContext: {procMount: Unmasked, capabilities: {add: [SYS_ADMIN]}, appArmorProfile: {type: Unconfined}}
    volumeMounts: [{name: e, mountPath: /e}, {name: m, mountPath: /m}]
  - name: user
    image: alpine
    command: [/bin/sleep, '999999']
    securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false, seccompProfile: {type: RuntimeDefault}}
    volumeMounts: [{name: e, mountPath: /e}]
",
        )
        .ok();
    namespace.ready("own");
    let script = "id -u; stat -L -c %u:%g:%a /e /m/..data; cat /m/k; echo; touch /e/x && stat -c %u:%g /e/x; \
                  mkdir -p /tmp/m && mount -t tmpfs t /tmp/m && echo mounts; \
                  (true >> /proc/sys/vm/swappiness) 2>&1 | sed 's/.*: //'; grep -c ' /proc/sys ' /proc/self/mountinfo";
    assert_eq!(
        namespace.exec("own", &["sh", "-c", &format!("{script}; true")]).ok(),
        "0\n0:2000:2777\n0:2000:2755\nv\n0:2000\nmounts\nPermission denied\n0\n"
    );
    let user =
        namespace.kubectl(&["exec", "own", "-c", "user", "--", "sh", "-c", "id -u; touch /e/y && echo ok"]);
    assert_eq!(user.ok(), "1000\nok\n");
    let first = |name: &str| -> u32 {
        let map = namespace.exec(name, &["cat", "/proc/self/uid_map"]).ok();
        let fields: Vec<u32> = map.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        assert_eq!((fields[0], fields[2]), (0, 65536), "{map}");
        fields[1]
    };
    let own = first("own");
    assert!(own >= 65536 && own % 65536 == 0, "{own}");
    let node = namespace.pod("own")["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let other = format!("hostUsers: false\n  nodeName: {node}");
    namespace.apply(&looking("other", &other, "")).ok();
    seen(&namespace, "other");
    assert_ne!(first("other"), own, "each pod has its own");
}

#[test]
fn h1_what_the_kernel_lacks_is_refused() {
    let namespace = Cluster::shared().namespace("h1-apparmor");
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y')) {
        return;
    }
    let profile = "securityContext: {appArmorProfile: {type: RuntimeDefault}}";
    namespace.apply(&looking("confined", profile, "")).ok();
    assert_eq!(
        failed(&namespace, "confined"),
        (
            "AppArmor".into(),
            "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host".into()
        )
    );
    let profile = "securityContext: {appArmorProfile: {type: Unconfined}}";
    namespace.apply(&looking("unconfined", profile, "")).ok();
    seen(&namespace, "unconfined");
}

#[test]
fn h1_bad_contexts_are_refused_by_name() {
    let namespace = Cluster::shared().namespace("h1-bad");
    let table = [
        (
            "securityContext: {runAsUser: -1}",
            "",
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            "securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../../etc/passwd}}",
            "",
            "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \"../../etc/passwd\": must not contain '..'",
        ),
        (
            "",
            "securityContext: {seccompProfile: {type: Localhost, localhostProfile: /etc/passwd}}",
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \"/etc/passwd\": must be a relative path",
        ),
        (
            "",
            "securityContext: {seccompProfile: {type: Strict}}",
            "spec.containers[0].securityContext.seccompProfile.type: Unsupported value: \"Strict\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
        ),
        (
            "",
            "securityContext: {procMount: Unmasked}",
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ),
        (
            "",
            "securityContext: {privileged: true, allowPrivilegeEscalation: false}",
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
        (
            "hostUsers: false\n  hostNetwork: true",
            "",
            "spec.hostNetwork: Forbidden: when `hostUsers` is false",
        ),
        (
            "securityContext: {sysctls: [{name: Kernel.Panic, value: '1'}]}",
            "",
            "spec.securityContext.sysctls[0].name: Invalid value: \"Kernel.Panic\": must have at most 253 characters and match regex",
        ),
        (
            "os: {name: linux}\n  securityContext: {windowsOptions: {hostProcess: true}}",
            "",
            "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
        ),
    ];
    for (pod, container, expected) in table {
        let said = namespace.apply(&looking("bad", pod, container)).err();
        assert!(said.contains("The Pod \"bad\" is invalid") && said.contains(expected), "{said}");
    }
    assert_eq!(namespace.kubectl(&["get", "pods", "-o", "name"]).ok(), "");
}
