//! Questions and answers as text, and the real sockets.

mod sockets;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use skiff_client::ObjectKey;

use crate::answer::encode;
use crate::{Answer, Records, Zone};

fn service(name: &str, spec: Value) -> Service {
    let metadata = json!({"name": name, "namespace": "default"});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// `endpoints` are (address, host name or "", ready).
fn slice(name: &str, service: &str, endpoints: &[(&str, &str, bool)], ports: Value) -> EndpointSlice {
    let labels = json!({"kubernetes.io/service-name": service});
    let endpoint = |(address, hostname, ready): &(&str, &str, bool)| {
        let mut endpoint = json!({"addresses": [address], "conditions": {"ready": ready}});
        if !hostname.is_empty() {
            endpoint["hostname"] = json!(hostname);
        }
        endpoint
    };
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": ports,
    }))
    .unwrap()
}

fn pod(name: &str, ip: &str, phase: &str) -> Pod {
    let metadata = json!({"name": name, "namespace": "default"});
    serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase, "podIP": ip}})).unwrap()
}

fn cluster() -> Records {
    let mut records = Records::new(true);
    let web = json!({
        "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "fd00::1"],
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    });
    records.apply_service(&service("web", web));
    records.apply_service(&service("nameless", json!({"clusterIP": "10.96.1.2", "ports": [{"port": 80}]})));
    let db = json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]});
    records.apply_service(&service("db", db.clone()));
    records.apply_service(&service("none-ready", db));
    let eager = json!({"clusterIP": "None", "publishNotReadyAddresses": true, "ports": []});
    records.apply_service(&service("eager", eager));
    let external = |name: &str| json!({"type": "ExternalName", "externalName": name});
    records.apply_service(&service("out", external("www.example.org")));
    records.apply_service(&service("alias", external("web.default.svc.cluster.local")));
    records.apply_service(&service("circle", external("circle.default.svc.cluster.local.")));
    records.apply_service(&service("pending", json!({"ports": [{"port": 80}]})));
    let sql = json!([{"name": "sql", "port": 6432, "protocol": "TCP"}]);
    let endpoints = [("10.244.1.5", "db-0", true), ("10.244.2.5", "", true), ("10.244.3.5", "db-2", false)];
    records.apply_slice(&slice("db-abc", "db", &endpoints, sql.clone()));
    records.apply_slice(&slice("none-abc", "none-ready", &[("10.244.1.9", "", false)], sql.clone()));
    records.apply_slice(&slice("eager-abc", "eager", &[("10.244.1.9", "", false)], sql.clone()));
    records.apply_slice(&slice("web-abc", "web", &[("10.244.1.7", "", true)], sql));
    records.apply_pod(&pod("runs", "10.244.1.7", "Running"));
    records.apply_pod(&pod("done", "10.244.1.8", "Succeeded"));
    records
}

fn request(name: &str, kind: RecordType) -> Message {
    let mut request = Message::query();
    request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    request
}

fn response(records: &Records, name: &str, kind: RecordType) -> (Message, &'static str) {
    match Zone::new("cluster.local").unwrap().answer(&request(name, kind), records) {
        Answer::Done(response) => (response, ""),
        Answer::Elsewhere { without } => (without, "elsewhere "),
        Answer::Continue { begun, .. } => (begun, "continue "),
    }
}

/// What a question gives: code, answers, `+` what was added, `soa` where it says for how long nothing is.
fn told(records: &Records, name: &str, kind: RecordType) -> String {
    let (response, way) = response(records, name, kind);
    let line = |record: &Record| format!("{} {} {}", record.name, record.record_type(), record.data);
    let mut parts = vec![format!("{way}{:?}", response.metadata.response_code)];
    parts.extend(response.answers.iter().map(line));
    parts.extend(response.additionals.iter().map(|record| format!("+ {}", line(record))));
    parts.extend(response.authorities.iter().map(|record| record.record_type().to_string().to_lowercase()));
    parts.join("; ")
}

#[test]
fn names_give_what_the_specification_says() {
    use RecordType::{A, AAAA, ANY, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    let table = [
        ("web.default.svc.cluster.local.", A, "NoError; web.default.svc.cluster.local. A 10.96.1.1"),
        ("web.default.svc.cluster.local.", AAAA, "NoError; web.default.svc.cluster.local. AAAA fd00::1"),
        ("nameless.default.svc.cluster.local.", AAAA, "NoError; soa"),
        ("web.default.svc.cluster.local.", MX, "NoError; soa"),
        ("WEB.Default.SVC.cluster.LOCAL.", A, "NoError; WEB.Default.SVC.cluster.LOCAL. A 10.96.1.1"),
        ("nope.default.svc.cluster.local.", A, "NXDomain; soa"),
        ("web.other.svc.cluster.local.", A, "NXDomain; soa"),
        ("pending.default.svc.cluster.local.", A, "NXDomain; soa"),
        ("default.svc.cluster.local.", A, "NoError; soa"),
        ("other.svc.cluster.local.", A, "NXDomain; soa"),
        ("svc.cluster.local.", A, "NoError; soa"),
        ("cluster.local.", A, "NoError; soa"),
        ("cluster.local.", NS, "NoError; cluster.local. NS ns.dns.cluster.local."),
        ("web.cluster.local.", A, "NXDomain; soa"),
        ("dns-version.cluster.local.", TXT, "NoError; dns-version.cluster.local. TXT 1.1.0"),
        // Services' ports.
        (
            "_http._tcp.web.default.svc.cluster.local.",
            SRV,
            "NoError; _http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local.; \
             + web.default.svc.cluster.local. A 10.96.1.1; + web.default.svc.cluster.local. AAAA fd00::1",
        ),
        ("_http._udp.web.default.svc.cluster.local.", SRV, "NXDomain; soa"),
        ("_http._tcp.web.default.svc.cluster.local.", A, "NoError; soa"),
        ("_tcp.web.default.svc.cluster.local.", SRV, "NoError; soa"),
        ("_sctp.web.default.svc.cluster.local.", SRV, "NXDomain; soa"),
        ("_._tcp.nameless.default.svc.cluster.local.", SRV, "NXDomain; soa"),
        // Headless ones.
        (
            "db.default.svc.cluster.local.",
            A,
            "NoError; db.default.svc.cluster.local. A 10.244.1.5; db.default.svc.cluster.local. A 10.244.2.5",
        ),
        ("db-0.db.default.svc.cluster.local.", A, "NoError; db-0.db.default.svc.cluster.local. A 10.244.1.5"),
        ("db-0.db.default.svc.cluster.local.", AAAA, "NoError; soa"),
        (
            "10-244-2-5.db.default.svc.cluster.local.",
            A,
            "NoError; 10-244-2-5.db.default.svc.cluster.local. A 10.244.2.5",
        ),
        ("db-2.db.default.svc.cluster.local.", A, "NXDomain; soa"),
        ("x.db-0.db.default.svc.cluster.local.", A, "NXDomain; soa"),
        (
            "_sql._tcp.db.default.svc.cluster.local.",
            SRV,
            "NoError; _sql._tcp.db.default.svc.cluster.local. SRV 0 100 6432 db-0.db.default.svc.cluster.local.; \
             _sql._tcp.db.default.svc.cluster.local. SRV 0 100 6432 10-244-2-5.db.default.svc.cluster.local.; \
             + db-0.db.default.svc.cluster.local. A 10.244.1.5; \
             + 10-244-2-5.db.default.svc.cluster.local. A 10.244.2.5",
        ),
        ("none-ready.default.svc.cluster.local.", A, "NXDomain; soa"),
        ("eager.default.svc.cluster.local.", A, "NoError; eager.default.svc.cluster.local. A 10.244.1.9"),
        // Pods.
        (
            "10-244-1-7.default.pod.cluster.local.",
            A,
            "NoError; 10-244-1-7.default.pod.cluster.local. A 10.244.1.7",
        ),
        ("10-244-1-7.default.pod.cluster.local.", AAAA, "NoError; soa"),
        ("10-244-1-8.default.pod.cluster.local.", A, "NXDomain; soa"),
        ("10-244-1-7.other.pod.cluster.local.", A, "NXDomain; soa"),
        ("runs.default.pod.cluster.local.", A, "NXDomain; soa"),
        // Other names for something.
        (
            "alias.default.svc.cluster.local.",
            A,
            "NoError; alias.default.svc.cluster.local. CNAME web.default.svc.cluster.local.; \
             web.default.svc.cluster.local. A 10.96.1.1",
        ),
        (
            "out.default.svc.cluster.local.",
            A,
            "continue NoError; out.default.svc.cluster.local. CNAME www.example.org.",
        ),
        (
            "out.default.svc.cluster.local.",
            CNAME,
            "NoError; out.default.svc.cluster.local. CNAME www.example.org.",
        ),
        // Backwards.
        (
            "1.1.96.10.in-addr.arpa.",
            PTR,
            "NoError; 1.1.96.10.in-addr.arpa. PTR web.default.svc.cluster.local.",
        ),
        (
            "5.1.244.10.in-addr.arpa.",
            PTR,
            "NoError; 5.1.244.10.in-addr.arpa. PTR db-0.db.default.svc.cluster.local.",
        ),
        ("1.1.96.10.in-addr.arpa.", A, "NoError; soa"),
        ("9.9.9.9.in-addr.arpa.", PTR, "elsewhere NXDomain; soa"),
        ("1.96.10.in-addr.arpa.", PTR, "elsewhere NXDomain; soa"),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            "NoError; 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR \
             web.default.svc.cluster.local.",
        ),
        // Not ours.
        ("example.org.", A, "elsewhere ServFail"),
        ("local.", SOA, "elsewhere ServFail"),
        ("xcluster.local.", A, "elsewhere ServFail"),
        (
            "web.default.svc.cluster.local.",
            ANY,
            "NoError; web.default.svc.cluster.local. A 10.96.1.1; web.default.svc.cluster.local. AAAA fd00::1",
        ),
    ];
    let records = cluster();
    for (name, kind, want) in table {
        assert_eq!(told(&records, name, kind), want, "{name} {kind}");
    }
}

#[test]
fn an_alias_of_itself_ends() {
    let (response, _) = response(&cluster(), "circle.default.svc.cluster.local.", RecordType::A);
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert!(response.answers.len() < 20);
}

#[test]
fn without_pods_every_well_formed_pod_name_has_its_address() {
    let records = Records::new(false);
    let want = "NoError; 1-2-3-4.x.pod.cluster.local. A 1.2.3.4";
    assert_eq!(told(&records, "1-2-3-4.x.pod.cluster.local.", RecordType::A), want);
    let want = "NoError; fd00--7.x.pod.cluster.local. AAAA fd00::7";
    assert_eq!(told(&records, "fd00--7.x.pod.cluster.local.", RecordType::AAAA), want);
    assert_eq!(told(&records, "1-2-3.x.pod.cluster.local.", RecordType::A), "NXDomain; soa");
}

#[test]
fn changes_leave_nothing_of_what_was() {
    let mut records = cluster();
    // A new address, and another label on the slice.
    records.apply_service(&service("web", json!({"clusterIP": "10.96.7.7", "ports": []})));
    let now = |records: &Records, name: &str, kind| told(records, name, kind);
    assert_eq!(
        now(&records, "web.default.svc.cluster.local.", RecordType::A),
        "NoError; web.default.svc.cluster.local. A 10.96.7.7"
    );
    assert_eq!(now(&records, "1.1.96.10.in-addr.arpa.", RecordType::PTR), "elsewhere NXDomain; soa");
    records.apply_slice(&slice("db-abc", "eager", &[("10.244.1.5", "db-0", true)], json!([])));
    assert_eq!(now(&records, "db.default.svc.cluster.local.", RecordType::A), "NXDomain; soa");
    assert_eq!(
        now(&records, "5.1.244.10.in-addr.arpa.", RecordType::PTR),
        "NoError; 5.1.244.10.in-addr.arpa. PTR db-0.eager.default.svc.cluster.local."
    );
    // Taking it all away, in whatever order, leaves an empty zone.
    for name in ["db-abc", "none-abc", "eager-abc", "web-abc", "unknown"] {
        records.remove_slice(&ObjectKey::new("default", name));
    }
    records.replace_services([]);
    records.replace_slices([]);
    records.replace_pods([]);
    assert_eq!(format!("{records:?}"), format!("{:?}", Records::new(true)));
}

#[test]
fn a_change_of_one_of_many_services_makes_no_other_anew() {
    let mut records = Records::new(false);
    let spec = |i: u32| {
        let address = std::net::Ipv4Addr::from(0x0a60_0000 + i).to_string();
        json!({"clusterIP": address, "ports": [{"port": 80}]})
    };
    for i in 0..10_000 {
        records.apply_service(&service(&format!("s{i}"), spec(i)));
    }
    // Where each lies: what is made anew while the old is there lies elsewhere.
    let places = |records: &Records| -> Vec<usize> {
        let of = |i| records.service(&ObjectKey::new("default", format!("s{i}"))).expect("it is there");
        (0..10_000).filter(|i| *i != 5000).map(|i| of(i).ports.as_ptr().addr()).collect()
    };
    let before = places(&records);
    records.apply_service(&service("s5000", spec(20_000)));
    assert!(places(&records) == before, "others were made anew");
    let changed = told(&records, "s5000.default.svc.cluster.local.", RecordType::A);
    assert_eq!(changed, "NoError; s5000.default.svc.cluster.local. A 10.96.78.32");
    assert!(told(&records, "s9999.default.svc.cluster.local.", RecordType::A).starts_with("NoError; s9999"));
}

#[test]
fn what_is_too_long_is_cut_and_says_so() {
    let mut records = Records::new(false);
    records.apply_service(&service("many", json!({"clusterIP": "None", "ports": []})));
    let addresses: Vec<String> = (0..100).map(|i| format!("10.244.0.{i}")).collect();
    let endpoints: Vec<_> = addresses.iter().map(|address| (address.as_str(), "", true)).collect();
    records.apply_slice(&slice("many-a", "many", &endpoints, json!([])));
    let (response, _) = response(&records, "many.default.svc.cluster.local.", RecordType::A);
    for bytes_max in [512, 1232] {
        let bytes = encode(response.clone(), bytes_max).unwrap();
        let cut = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= bytes_max && cut.metadata.truncation && cut.answers.len() > 10, "{bytes_max}");
    }
    let whole = Message::from_vec(&encode(response, 65535).unwrap()).unwrap();
    assert!(!whole.metadata.truncation && whole.answers.len() == 100);
}

#[test]
fn a_resolv_conf_gives_the_servers_of_the_outside() {
    let text = "# comment\nsearch a b\nnameserver 127.0.0.53\nnameserver 192.0.2.1 # x\n  nameserver 2001:db8::1\nnameserver x\n";
    let servers: Vec<String> = crate::forward::named(text).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53"]);
}

#[test]
fn servers_of_the_outside_change_with_the_file_that_names_them() {
    use crate::forward::Servers;
    let dir = std::env::temp_dir().join(format!("skiff-dns-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (file, next) = (dir.join("resolv.conf"), dir.join("next"));
    let own = "10.96.0.10:53".parse().unwrap();
    let servers = Servers::new(own, crate::Forwarders::Of(file.clone()));
    let check = |expected: &[&str]| {
        let now: Vec<String> = servers.now().iter().map(ToString::to_string).collect();
        assert_eq!(now, expected);
    };
    check(&[]);
    for (text, expected) in [
        ("nameserver 192.0.2.1\n", &["192.0.2.1:53"][..]),
        ("nameserver 10.96.0.10\nnameserver 192.0.2.2\n", &["192.0.2.2:53"]),
        ("# no network\n", &[]),
    ] {
        // As those do who write it: the new one takes the old one's place.
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &file).unwrap();
        check(expected);
        check(expected);
    }
    std::fs::remove_dir_all(&dir).unwrap();
    check(&[]);
}
