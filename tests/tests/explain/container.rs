//! I1: what is said of one container, beside `/proc` as its node shows it.

use serde_json::Value;
use skiff_tests::Cluster;

use super::truth::{links, text};

/// By number (capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Everything that is said of one container, against `/proc` as its node shows it.
pub(crate) fn check_container(cluster: &Cluster, node: &str, container: &Value) {
    let name = text(&container["name"]);
    let pid = container["process"]["pid"].as_u64().expect("it runs").to_string();
    let there = links(cluster, node, &pid);
    let own = links(cluster, node, "1");
    for said in container["process"]["namespaces"].as_array().expect("namespaces") {
        let kind = text(&said["namespace"]);
        assert_eq!(said["inode"].as_u64(), there.get(&kind).copied(), "{name}: {kind}");
        let is_nodes = there.get(&kind) == own.get(&kind);
        assert_eq!(said["word"] == "host", is_nodes, "{name}: {kind} {said}");
    }
    assert_eq!(container["process"]["namespaces"].as_array().map(Vec::len), Some(8), "{container}");
    let status = cluster.on_node(node, &["cat", &format!("/proc/{pid}/status")]).ok();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let security = &container["security"];
    assert_eq!(security["effectiveUser"].to_string(), field("Uid")[1], "{name}");
    assert_eq!(security["effectiveGroup"].to_string(), field("Gid")[1], "{name}");
    let groups: Vec<String> = security["supplementaryGroups"]
        .as_array()
        .expect("a list")
        .iter()
        .map(serde_json::Value::to_string)
        .collect();
    assert_eq!(groups, field("Groups"), "{name}");
    let seccomp = match security["seccomp"].as_str() {
        Some("disabled") => "0",
        Some("strict") => "1",
        _ => "2",
    };
    assert_eq!(field("Seccomp"), [seccomp], "{name}");
    let gain = if security["noNewPrivileges"] == true { "1" } else { "0" };
    assert_eq!(field("NoNewPrivs"), [gain], "{name}");
    let effective = u64::from_str_radix(&field("CapEff")[0], 16).expect("hexadecimal");
    let capabilities = security["capabilities"].as_array().expect("a list");
    assert_eq!(capabilities.len(), effective.count_ones() as usize, "{name}: {security}");
    let named: Vec<&str> = (0..CAPABILITIES.len())
        .filter(|bit| effective >> bit & 1 == 1)
        .map(|bit| CAPABILITIES[bit])
        .collect();
    let said: Vec<&str> = capabilities.iter().filter_map(Value::as_str).collect();
    assert_eq!(said, named, "{name}");
    // What a container has that asks for nothing, by upstream's runtimes.
    const DEFAULT: u64 = 0xa804_25fb;
    let beyond = security["beyondDefault"].as_array().expect("a list");
    assert_eq!(beyond.len(), (effective & !DEFAULT).count_ones() as usize, "{name}: {security}");
    // What a program with the set-user-ID bit gets beyond both, unless nothing that it executes gains anything.
    let bounding = u64::from_str_radix(&field("CapBnd")[0], 16).expect("hexadecimal");
    let gainable = if gain == "1" { 0 } else { bounding & !DEFAULT & !effective };
    let wanted: Vec<&str> =
        (0..CAPABILITIES.len()).filter(|bit| gainable >> bit & 1 == 1).map(|bit| CAPABILITIES[bit]).collect();
    let said: Vec<&str> =
        security["gainable"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(said, wanted, "{name}: what it may gain");
    // Whose users are its own has other numbers inside, by the maps of its namespace.
    let own_users = there.get("user") != own.get("user");
    assert_eq!(security["ownUsers"] == true, own_users, "{name}: {security}");
    for (told, id, map) in [("insideUser", "Uid", "uid_map"), ("insideGroup", "Gid", "gid_map")] {
        let map = cluster.on_node(node, &["cat", &format!("/proc/{pid}/{map}")]).ok();
        let numbers: Vec<u64> = map.split_whitespace().map(|own| own.parse().expect("a number")).collect();
        let id: u64 = field(id)[1].parse().expect("a number");
        // These pods have one range each, which begins at 0 inside.
        let inside = id.checked_sub(numbers[1]).expect("it is in the range");
        assert_eq!((numbers[0], numbers.len()), (0, 3), "{name}: {map}");
        assert_eq!(security[told].as_u64(), own_users.then_some(inside), "{name}: {security}");
    }
    // NET_ADMIN is 12 and beyond the default, CHOWN is 0 and in it.
    let listed = |list: &str, wanted: &str| {
        security[list].as_array().is_some_and(|all| all.iter().any(|own| own == wanted))
    };
    assert_eq!(listed("capabilities", "NET_ADMIN"), effective >> 12 & 1 == 1, "{name}");
    assert_eq!(listed("beyondDefault", "NET_ADMIN"), effective >> 12 & 1 == 1, "{name}");
    assert_eq!(listed("capabilities", "CHOWN"), effective & 1 == 1, "{name}");
    assert!(!listed("beyondDefault", "CHOWN"), "{name}");
}
