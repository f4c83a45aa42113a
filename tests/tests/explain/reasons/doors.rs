//! What a reason claims of doors: host ports, and ports of nodes that services have.

use super::super::truth::text;
use super::ground::{Found, Ground, Told, holds};

impl Ground<'_> {
    /// `by host port … and by NodePort …; NodePort … leads here only …`.
    pub(super) fn doors(&self, told: &Told<'_>, reason: &str) -> Found {
        holds(told.from == "outside" && told.answer == "yes", "only the outside needs doors")?;
        let (open, shut) = reason.split_once("; ").map_or((reason, None), |(open, shut)| (open, Some(shut)));
        let doors: Vec<&str> = open.split(", by ").flat_map(|part| part.split(" and by ")).collect();
        let mut found = Vec::new();
        for door in doors {
            let door = door.strip_prefix("by ").unwrap_or(door);
            let words: Vec<&str> = door.split(' ').collect();
            match words.as_slice() {
                ["host", "port", at, "of", node] => {
                    let (ip, port) = at.rsplit_once(':').ok_or("an address")?;
                    holds(*node == self.node && ip == self.node_ip(), "it is on another node")?;
                    found.push(format!("host port {port}"));
                    self.answers("outside", at)?;
                }
                ["NodePort", port, "of", "service", service, "on", "every", "node"] => {
                    found.push(format!("NodePort {port} of {service}"));
                    for node in [&self.node, &self.cluster().control_plane()] {
                        self.answers("outside", &format!("{}:{port}", self.cluster().node_ip(node)))?;
                    }
                }
                [
                    "NodePort",
                    port,
                    "of",
                    "service",
                    service,
                    "on",
                    node,
                    "alone",
                    "(externalTrafficPolicy",
                    "Local)",
                ] => {
                    found.push(format!("NodePort {port} of {service}"));
                    holds(*node == self.node, "it is on another node")?;
                    self.answers("outside", &format!("{}:{port}", self.node_ip()))?;
                    let other = self.cluster().node_ip(&self.cluster().control_plane());
                    self.is_silent("outside", &format!("{other}:{port}"))?;
                }
                _ => return Err(format!("nobody knows what that says: {door}")),
            }
        }
        let (ready, unready) = self.entrances(told);
        found.sort();
        holds(found == ready, &format!("there are {ready:?}"))?;
        self.shut(shut, &unready)
    }

    pub(super) fn no_doors(&self, told: &Told<'_>, reason: &str) -> Found {
        let (ready, unready) = self.entrances(told);
        holds(ready.is_empty(), &format!("there are {ready:?}"))?;
        match reason.split_once("; ") {
            None => {
                holds(reason == "no host port and no NodePort leads here", "nobody knows what that says")?;
                self.shut(None, &unready)
            }
            Some((none, shut)) => {
                holds(none == "no host port leads here", "nobody knows what that says")?;
                self.shut(Some(shut), &unready)
            }
        }
    }

    /// The doors that would lead here if the pod were ready: they lead to nobody, or to another.
    fn shut(&self, told: Option<&str>, unready: &[String]) -> Found {
        let shut = told.into_iter().flat_map(|told| told.split("; "));
        let mut named = Vec::new();
        for door in shut {
            let door = door.strip_suffix(" leads here only when the pod is a ready endpoint, and it is not");
            let words: Vec<&str> = door.unwrap_or_default().split(' ').collect();
            let ["NodePort", port, "of", "service", service] = words.as_slice() else {
                return Err("nobody knows what that says".into());
            };
            self.is_silent("outside", &format!("{}:{port}", self.node_ip()))?;
            named.push(format!("NodePort {port} of {service}"));
        }
        named.sort();
        holds(named == unready, &format!("there are {unready:?}"))
    }

    /// Host ports, and node ports of services, that lead to this socket by the API's own objects; and those that
    /// would if the pod were ready.
    fn entrances(&self, told: &Told<'_>) -> (Vec<String>, Vec<String>) {
        let (mut ready, mut unready) = (Vec::new(), Vec::new());
        for container in self.pod["spec"]["containers"].as_array().into_iter().flatten() {
            let ports = container["ports"].as_array().into_iter().flatten();
            let own = ports.filter(|own| own["containerPort"] == told.port && own["hostPort"].is_u64());
            ready.extend(own.map(|own| format!("host port {}", own["hostPort"])));
        }
        let name = &self.namespace.name;
        let slices = self.cluster().object(&["-n", name, "endpointslices"]);
        for slice in slices["items"].as_array().into_iter().flatten() {
            let all = slice["endpoints"].as_array().into_iter().flatten();
            let mut own = all.filter(|own| own["addresses"][0] == self.pod_ip().as_str());
            let Some(endpoint) = own.next() else { continue };
            let service = text(&slice["metadata"]["labels"]["kubernetes.io/service-name"]);
            let ports = self.cluster().object(&["-n", name, "service", &service])["spec"]["ports"].clone();
            for port in ports.as_array().into_iter().flatten() {
                let leads = port["targetPort"] == told.port && port["protocol"] == told.protocol.as_str();
                let door = format!("NodePort {} of {name}/{service}", port["nodePort"]);
                if leads && port["nodePort"].is_u64() {
                    let ready_now = endpoint["conditions"]["ready"] == true;
                    (if ready_now { &mut ready } else { &mut unready }).push(door);
                }
            }
        }
        ready.sort();
        unready.sort();
        (ready, unready)
    }
}
