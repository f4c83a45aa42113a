//! Every check in every version that changed it: what it says, and what it lets pass.

use serde_json::{Value, json};
use skiff_pod_security::{Level, LevelVersion, Pod, Version, evaluate, standing};

/// A pod of one container `a`; the texts are YAML of the pod's specification and of that container.
fn pod(spec: &str, container: &str) -> Value {
    let read = |text: &str| -> Value {
        match serde_yaml_ng::from_str(&format!("{{{text}}}")) {
            Ok(value) => value,
            Err(error) => panic!("{text}: {error}"),
        }
    };
    let (mut spec, mut container) = (read(spec), read(container));
    container["name"] = "a".into();
    if spec.get("containers").is_none() {
        spec["containers"] = json!([container]);
    }
    json!({"metadata": {"name": "p"}, "spec": spec})
}

/// What one check says at one version; empty for nothing.
fn says(check: &str, level: Level, version: Version, pod: &Value) -> String {
    let verdict = evaluate(LevelVersion { level, version }, &Pod::of(pod));
    let found: Vec<String> = verdict
        .0
        .iter()
        .filter(|finding| finding.check == check)
        .map(|finding| format!("{}: {}", finding.reason, finding.detail))
        .collect();
    found.join(" | ")
}

#[track_caller]
fn baseline(check: &str, minor: u32, pod: &Value, expected: &str) {
    assert_eq!(says(check, Level::Baseline, Version::V1(minor), pod), expected, "v1.{minor} {pod}");
}

#[track_caller]
fn restricted(check: &str, minor: u32, pod: &Value, expected: &str) {
    assert_eq!(says(check, Level::Restricted, Version::V1(minor), pod), expected, "v1.{minor} {pod}");
}

/// The first and the newest version, which agree on most checks.
const ENDS: [u32; 2] = [0, 36];

#[test]
fn host_namespaces() {
    for minor in ENDS {
        let check = |spec: &str, expected: &str| baseline("hostNamespaces", minor, &pod(spec, ""), expected);
        check("hostNetwork: false, hostPID: false", "");
        check("hostNetwork: true", "host namespaces: hostNetwork=true");
        check("hostPID: true", "host namespaces: hostPID=true");
        check("hostIPC: true", "host namespaces: hostIPC=true");
        check(
            "hostIPC: true, hostPID: true, hostNetwork: true",
            "host namespaces: hostNetwork=true, hostPID=true, hostIPC=true",
        );
    }
}

#[test]
fn host_ports() {
    for minor in ENDS {
        let check = |spec: &str, expected: &str| baseline("hostPorts", minor, &pod(spec, ""), expected);
        check("containers: [{name: a, ports: [{containerPort: 80}, {containerPort: 81, hostPort: 0}]}]", "");
        check(
            "containers: [{name: a, ports: [{hostPort: 9000}]}]",
            "hostPort: container \"a\" uses hostPort 9000",
        );
        check(
            "containers: [{name: a, ports: [{hostPort: 9000}, {hostPort: 80}]}]",
            "hostPort: container \"a\" uses hostPorts 80, 9000",
        );
        // The same port of two protocols is one port.
        check(
            "initContainers: [{name: i, ports: [{hostPort: 53}]}], containers: [{name: a, ports: [{hostPort: 53}]}]",
            "hostPort: containers \"i\", \"a\" use hostPort 53",
        );
    }
}

#[test]
fn host_path_volumes() {
    let none = pod("volumes: [{name: v, emptyDir: {}}]", "");
    let one = pod("volumes: [{name: v, hostPath: {path: /}}]", "");
    let two = pod("volumes: [{name: v, hostPath: {path: /}}, {name: w, hostPath: {path: /x}}]", "");
    for minor in ENDS {
        baseline("hostPathVolumes", minor, &none, "");
        baseline("hostPathVolumes", minor, &one, "hostPath volumes: volume \"v\"");
        baseline("hostPathVolumes", minor, &two, "hostPath volumes: volumes \"v\", \"w\"");
        // Said once, by the stricter check.
        restricted("hostPathVolumes", minor, &one, "");
        restricted(
            "restrictedVolumes",
            minor,
            &one,
            "restricted volume types: volume \"v\" uses restricted volume type \"hostPath\"",
        );
    }
}

#[test]
fn restricted_volumes() {
    let allowed = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    for minor in ENDS {
        for kind in allowed {
            restricted(
                "restrictedVolumes",
                minor,
                &pod(&format!("volumes: [{{name: v, {kind}: {{}}}}]"), ""),
                "",
            );
        }
        restricted(
            "restrictedVolumes",
            minor,
            &pod("volumes: [{name: v, nfs: {server: s}}, {name: w, gitRepo: {}}, {name: x, nfs: {}}]", ""),
            "restricted volume types: volumes \"v\", \"w\", \"x\" use restricted volume types \"gitRepo\", \"nfs\"",
        );
        restricted(
            "restrictedVolumes",
            minor,
            &pod("volumes: [{name: v, fromTheFuture: {}}]", ""),
            "restricted volume types: volume \"v\" uses restricted volume type \"unknown\"",
        );
    }
}

#[test]
fn privileged() {
    for minor in ENDS {
        baseline("privileged", minor, &pod("", "securityContext: {privileged: false}"), "");
        baseline(
            "privileged",
            minor,
            &pod("", "securityContext: {privileged: true}"),
            "privileged: container \"a\" must not set securityContext.privileged=true",
        );
        let debugged = pod(
            "containers: [{name: a}], ephemeralContainers: [{name: e, securityContext: {privileged: true}}]",
            "",
        );
        baseline(
            "privileged",
            minor,
            &debugged,
            "privileged: container \"e\" must not set securityContext.privileged=true",
        );
    }
}

#[test]
fn capabilities() {
    let add = |names: &str| pod("", &format!("securityContext: {{capabilities: {{add: [{names}]}}}}"));
    for minor in ENDS {
        baseline("capabilities_baseline", minor, &add("CHOWN, NET_BIND_SERVICE, SYS_CHROOT"), "");
        baseline(
            "capabilities_baseline",
            minor,
            &add("NET_RAW, CHOWN, BPF"),
            "non-default capabilities: container \"a\" must not include \"BPF\", \"NET_RAW\" in \
             securityContext.capabilities.add",
        );
    }
    // Restricted says it itself from 1.22 on.
    let raw = "non-default capabilities: container \"a\" must not include \"NET_RAW\" in \
               securityContext.capabilities.add";
    restricted("capabilities_baseline", 21, &add("NET_RAW"), raw);
    restricted("capabilities_baseline", 22, &add("NET_RAW"), "");
    restricted("capabilities_restricted", 21, &add("NET_RAW"), "");
    let said = "unrestricted capabilities: container \"a\" must set \
                securityContext.capabilities.drop=[\"ALL\"]; container \"a\" must not include \"CHOWN\", \
                \"NET_RAW\" in securityContext.capabilities.add";
    for minor in [22, 25, 36] {
        restricted("capabilities_restricted", minor, &add("NET_RAW, CHOWN"), said);
        let drop = |what: &str| pod("", &format!("securityContext: {{capabilities: {{{what}}}}}"));
        restricted("capabilities_restricted", minor, &drop("drop: [ALL]"), "");
        restricted("capabilities_restricted", minor, &drop("drop: [ALL], add: [NET_BIND_SERVICE]"), "");
        let must = "unrestricted capabilities: container \"a\" must set \
                    securityContext.capabilities.drop=[\"ALL\"]";
        restricted("capabilities_restricted", minor, &drop("drop: [CHOWN]"), must);
    }
    let windows = pod("os: {name: windows}", "");
    let must =
        "unrestricted capabilities: container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]";
    restricted("capabilities_restricted", 24, &windows, must);
    restricted("capabilities_restricted", 25, &windows, "");
}

#[test]
fn app_armor() {
    let by_pod = pod("securityContext: {appArmorProfile: {type: Unconfined}}", "");
    let by_both = pod(
        "securityContext: {appArmorProfile: {type: Unconfined}}, containers: [{name: a, securityContext: \
         {appArmorProfile: {type: Other}}}]",
        "",
    );
    let mut annotated = pod("", "");
    annotated["metadata"]["annotations"] = json!({
        "container.apparmor.security.beta.kubernetes.io/a": "unconfined",
        "container.apparmor.security.beta.kubernetes.io/b": "localhost/x",
        "container.apparmor.security.beta.kubernetes.io/c": "runtime/default",
        "container.apparmor.security.beta.kubernetes.io/d": "",
    });
    for minor in ENDS {
        let check = |pod: &Value, expected: &str| baseline("appArmorProfile", minor, pod, expected);
        check(&pod("securityContext: {appArmorProfile: {type: RuntimeDefault}}", ""), "");
        check(&pod("", "securityContext: {appArmorProfile: {type: Localhost}}"), "");
        check(
            &by_pod,
            "forbidden AppArmor profile: pod must not set AppArmor profile type to \"Unconfined\"",
        );
        check(
            &by_both,
            "forbidden AppArmor profiles: pod and container \"a\" must not set AppArmor profile type to \
             \"Other\", \"Unconfined\"",
        );
        check(
            &annotated,
            "forbidden AppArmor profile: annotation must not set AppArmor profile type to \
             \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\"",
        );
    }
}

#[test]
fn selinux() {
    let options = |text: &str| pod(&format!("securityContext: {{seLinuxOptions: {{{text}}}}}"), "");
    for minor in [0, 30, 31, 36] {
        let check = |pod: &Value, expected: &str| baseline("seLinuxOptions", minor, pod, expected);
        check(&options("level: s0"), "");
        check(&options("type: container_kvm_t"), "");
        check(
            &options("user: u"),
            "seLinuxOptions: pod set forbidden securityContext.seLinuxOptions: user may not be set",
        );
        check(
            &pod(
                "securityContext: {seLinuxOptions: {type: spc_t, role: r}}, containers: [{name: a, \
                 securityContext: {seLinuxOptions: {type: other_t, user: u}}}]",
                "",
            ),
            "seLinuxOptions: pod and container \"a\" set forbidden securityContext.seLinuxOptions: types \
             \"other_t\", \"spc_t\"; user may not be set; role may not be set",
        );
    }
    let engine = options("type: container_engine_t");
    let refused = "seLinuxOptions: pod set forbidden securityContext.seLinuxOptions: type \
                   \"container_engine_t\"";
    baseline("seLinuxOptions", 30, &engine, refused);
    baseline("seLinuxOptions", 31, &engine, "");
}

#[test]
fn proc_mount() {
    let unmasked = |users: &str| pod(users, "securityContext: {procMount: Unmasked}");
    let said = "procMount: container \"a\" must not set securityContext.procMount to \"Unmasked\"";
    for minor in [0, 34, 35, 36] {
        baseline("procMount", minor, &pod("", "securityContext: {procMount: Default}"), "");
        baseline("procMount", minor, &unmasked(""), said);
        baseline("procMount", minor, &unmasked("hostUsers: true"), said);
    }
    baseline("procMount", 34, &unmasked("hostUsers: false"), said);
    baseline("procMount", 35, &unmasked("hostUsers: false"), "");
    // Restricted stays strict, by one voice.
    restricted("procMount", 34, &unmasked("hostUsers: false"), said);
    restricted("procMount_restricted", 34, &unmasked("hostUsers: false"), "");
    restricted("procMount", 35, &unmasked("hostUsers: false"), "");
    restricted("procMount_restricted", 35, &unmasked("hostUsers: false"), said);
}

#[test]
fn seccomp() {
    let by_pod = pod("securityContext: {seccompProfile: {type: Unconfined}}", "");
    let by_container = pod("", "securityContext: {seccompProfile: {type: Unconfined}}");
    let filtered = pod("securityContext: {seccompProfile: {type: RuntimeDefault}}", "");
    let mut annotated = pod("", "");
    annotated["metadata"]["annotations"] = json!({
        "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        "container.seccomp.security.alpha.kubernetes.io/a": "localhost/x",
        "container.seccomp.security.alpha.kubernetes.io/other": "unconfined",
    });
    baseline(
        "seccompProfile_baseline",
        18,
        &annotated,
        "seccompProfile: forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\"",
    );
    baseline("seccompProfile_baseline", 18, &by_pod, "");
    baseline("seccompProfile_baseline", 19, &annotated, "");
    for minor in [19, 36] {
        baseline("seccompProfile_baseline", minor, &pod("", ""), "");
        baseline(
            "seccompProfile_baseline",
            minor,
            &by_pod,
            "seccompProfile: pod must not set securityContext.seccompProfile.type to \"Unconfined\"",
        );
        let said = "seccompProfile: container \"a\" must not set securityContext.seccompProfile.type to \
                    \"Unconfined\"";
        baseline("seccompProfile_baseline", minor, &by_container, said);
        restricted("seccompProfile_baseline", minor, &by_container, "");
        restricted("seccompProfile_restricted", minor, &by_container, said);
        restricted("seccompProfile_restricted", minor, &filtered, "");
        restricted(
            "seccompProfile_restricted",
            minor,
            &pod(
                "containers: [{name: a, securityContext: {seccompProfile: {type: Localhost}}}, {name: b}]",
                "",
            ),
            "seccompProfile: pod or container \"b\" must set securityContext.seccompProfile.type to \
             \"RuntimeDefault\" or \"Localhost\"",
        );
    }
    restricted("seccompProfile_restricted", 18, &pod("", ""), "");
    let windows = pod("os: {name: windows}", "");
    assert_ne!(says("seccompProfile_restricted", Level::Restricted, Version::V1(24), &windows), "");
    restricted("seccompProfile_restricted", 25, &windows, "");
}

#[test]
fn sysctls() {
    let sysctl =
        |name: &str| pod(&format!("securityContext: {{sysctls: [{{name: {name}, value: '1'}}]}}"), "");
    for (name, since) in [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
        // A later version's.
        ("net.ipv4.tcp_notsent_lowat", u32::MAX),
        ("kernel.msgmax", u32::MAX),
    ] {
        for minor in [0, 26, 27, 28, 29, 31, 32, 36] {
            let expected = if minor < since { format!("forbidden sysctls: {name}") } else { String::new() };
            baseline("sysctls", minor, &sysctl(name), &expected);
        }
    }
    let two = pod("securityContext: {sysctls: [{name: b, value: '1'}, {name: a, value: '1'}]}", "");
    baseline("sysctls", 36, &two, "forbidden sysctls: b, a");
}

#[test]
fn windows_host_process() {
    let own = "{windowsOptions: {hostProcess: true}}";
    let both = pod(&format!("securityContext: {own}, containers: [{{name: a, securityContext: {own}}}]"), "");
    for minor in ENDS {
        baseline(
            "windowsHostProcess",
            minor,
            &pod("", "securityContext: {windowsOptions: {hostProcess: false}}"),
            "",
        );
        baseline(
            "windowsHostProcess",
            minor,
            &both,
            "hostProcess: pod and container \"a\" must not set \
             securityContext.windowsOptions.hostProcess=true",
        );
    }
}

#[test]
fn probe_and_lifecycle_hosts() {
    let probed = pod(
        "containers: [{name: b, livenessProbe: {httpGet: {host: h2, port: 1}}}, {name: a, readinessProbe: \
         {tcpSocket: {host: h1, port: 1}}, lifecycle: {preStop: {httpGet: {host: h2, port: 1}}}}]",
        "",
    );
    let said = "probe or lifecycle host: containers \"a\", \"b\" use probe or lifecycle hosts \"h1\", \"h2\"";
    baseline("hostProbesAndHostLifecycle", 33, &probed, "");
    for minor in [34, 36] {
        baseline("hostProbesAndHostLifecycle", minor, &probed, said);
        baseline(
            "hostProbesAndHostLifecycle",
            minor,
            &pod(
                "",
                "startupProbe: {httpGet: {host: '', port: 1}}, lifecycle: {postStart: {exec: {command: [x]}}}",
            ),
            "",
        );
        baseline(
            "hostProbesAndHostLifecycle",
            minor,
            &pod("", "lifecycle: {postStart: {tcpSocket: {host: h, port: 1}}}"),
            "probe or lifecycle host: container \"a\" uses probe or lifecycle host \"h\"",
        );
    }
}

#[test]
fn privilege_escalation() {
    let said = "allowPrivilegeEscalation != false: container \"a\" must set \
                securityContext.allowPrivilegeEscalation=false";
    let windows = pod("os: {name: windows}", "");
    restricted("allowPrivilegeEscalation", 7, &pod("", ""), "");
    for minor in [8, 25, 36] {
        restricted("allowPrivilegeEscalation", minor, &pod("", ""), said);
        restricted(
            "allowPrivilegeEscalation",
            minor,
            &pod("", "securityContext: {allowPrivilegeEscalation: true}"),
            said,
        );
        restricted(
            "allowPrivilegeEscalation",
            minor,
            &pod("", "securityContext: {allowPrivilegeEscalation: false}"),
            "",
        );
    }
    restricted("allowPrivilegeEscalation", 24, &windows, said);
    restricted("allowPrivilegeEscalation", 25, &windows, "");
}

#[test]
fn run_as_non_root() {
    let must = "runAsNonRoot != true: pod or container \"a\" must set securityContext.runAsNonRoot=true";
    for minor in [0, 34, 35, 36] {
        let check = |pod: &Value, expected: &str| restricted("runAsNonRoot", minor, pod, expected);
        check(&pod("", ""), must);
        check(&pod("securityContext: {runAsNonRoot: true}", ""), "");
        check(&pod("", "securityContext: {runAsNonRoot: true}"), "");
        check(
            &pod("securityContext: {runAsNonRoot: true}", "securityContext: {runAsNonRoot: false}"),
            "runAsNonRoot != true: container \"a\" must not set securityContext.runAsNonRoot=false",
        );
        check(
            &pod("securityContext: {runAsNonRoot: false}", "securityContext: {runAsNonRoot: true}"),
            "runAsNonRoot != true: pod must not set securityContext.runAsNonRoot=false",
        );
    }
    restricted("runAsNonRoot", 34, &pod("hostUsers: false", ""), must);
    restricted("runAsNonRoot", 35, &pod("hostUsers: false", ""), "");
}

#[test]
fn run_as_user() {
    let root = |users: &str| {
        pod(&format!("{users} securityContext: {{runAsUser: 0}}"), "securityContext: {runAsUser: 0}")
    };
    let said = "runAsUser=0: pod and container \"a\" must not set runAsUser=0";
    restricted("runAsUser", 22, &root(""), "");
    for minor in [23, 34, 35, 36] {
        restricted("runAsUser", minor, &root(""), said);
        restricted("runAsUser", minor, &pod("securityContext: {runAsUser: 1000}", ""), "");
        restricted("runAsUser", minor, &pod("", ""), "");
    }
    restricted("runAsUser", 34, &root("hostUsers: false,"), said);
    restricted("runAsUser", 35, &root("hostUsers: false,"), "");
}

#[test]
fn messages_list_baseline_first_then_by_check() {
    let pod = pod(
        "hostNetwork: true, hostPID: true",
        "ports: [{hostPort: 9000}], securityContext: {privileged: true}",
    );
    let details = |level, version| evaluate(LevelVersion { level, version }, &Pod::of(&pod)).details();
    assert_eq!(
        details(Level::Baseline, Version::Latest),
        "host namespaces (hostNetwork=true, hostPID=true), hostPort (container \"a\" uses hostPort 9000), \
         privileged (container \"a\" must not set securityContext.privileged=true)"
    );
    assert_eq!(
        details(Level::Restricted, Version::Latest),
        "host namespaces (hostNetwork=true, hostPID=true), hostPort (container \"a\" uses hostPort 9000), \
         privileged (container \"a\" must not set securityContext.privileged=true), \
         allowPrivilegeEscalation != false (container \"a\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"a\" must \
         set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"a\" must \
         set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(details(Level::Privileged, Version::Latest), "");
    assert_eq!(details(Level::Restricted, Version::Latest), details(Level::Restricted, Version::V1(99)));
}

#[test]
fn a_pod_stands_at_the_strictest_level_it_meets() {
    let check = |pod: &Value, meets: Level, kept: &str| {
        let standing = standing(&Pod::of(pod), Version::Latest);
        assert_eq!((standing.meets, standing.kept_from_next.reasons().as_str()), (meets, kept));
    };
    check(&pod("hostIPC: true", ""), Level::Privileged, "host namespaces");
    check(
        &pod("", ""),
        Level::Baseline,
        "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile",
    );
    let strict = pod(
        "securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}",
        "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}",
    );
    check(&strict, Level::Restricted, "");
}
