//! Which pod has which address, from two sources that may disagree for a while.
//!
//! The API says what all pods' addresses are, some time after they were given. Of this node's own pods, who
//! gave the address says so at once, before the pod can send anything ([`Addresses::claim`]), and says when
//! it is free again. What is claimed holds; of its pod the API's labels are taken, as these can change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use skiff_client::{Change, ObjectKey};

use super::objects::{LeanPod, Subject};

#[derive(Debug, Default)]
pub(crate) struct Addresses {
    node_name: String,
    claims: BTreeMap<Ipv4Addr, Arc<Subject>>,
    /// As the API has them, with the version of the object.
    watched: HashMap<ObjectKey, (Ipv4Addr, Arc<Subject>, u64)>,
    by_ip: HashMap<Ipv4Addr, BTreeSet<ObjectKey>>,
    /// Addresses that stand for pods which are none.
    fixed: BTreeMap<Ipv4Addr, Arc<Subject>>,
}

impl Addresses {
    pub(crate) fn new(node_name: &str, fixed: BTreeMap<Ipv4Addr, Arc<Subject>>) -> Addresses {
        Addresses { node_name: node_name.to_owned(), fixed, ..Addresses::default() }
    }

    /// Forgets what the API said.
    pub(crate) fn forget_watched(&mut self) {
        self.watched.clear();
        self.by_ip.clear();
    }

    /// The node gave the address to a pod of its own, or took it back.
    pub(crate) fn claim(&mut self, ip: Ipv4Addr, pod: Option<Arc<Subject>>) -> BTreeSet<Ipv4Addr> {
        let mut changed = BTreeSet::from([ip]);
        let old = match pod {
            Some(pod) => {
                changed.extend(self.watched.get(&pod.pod).map(|(ip, ..)| *ip));
                self.claims.insert(ip, pod)
            }
            None => self.claims.remove(&ip),
        };
        changed.extend(old.and_then(|old| self.watched.get(&old.pod)).map(|(ip, ..)| *ip));
        changed
    }

    /// Takes in what the API says of a pod; answers with the addresses to look at anew.
    pub(crate) fn observe(&mut self, change: Change<LeanPod>) -> BTreeSet<Ipv4Addr> {
        match change {
            Change::Applied { new, .. } => self.set(&ObjectKey::of(&*new), Some(&new)),
            Change::Deleted(old) => self.set(&ObjectKey::of(&*old), None),
            Change::Resync => BTreeSet::new(),
        }
    }

    pub(crate) fn set(&mut self, key: &ObjectKey, pod: Option<&LeanPod>) -> BTreeSet<Ipv4Addr> {
        let mut changed = BTreeSet::new();
        if let Some((ip, ..)) = self.watched.remove(key) {
            changed.insert(ip);
            if let Some(keys) = self.by_ip.get_mut(&ip) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_ip.remove(&ip);
                }
            }
        }
        if let Some(pod) = pod
            && let Some((ip, subject)) = pod.subject(&self.node_name)
        {
            changed.insert(ip);
            self.by_ip.entry(ip).or_default().insert(key.clone());
            self.watched.insert(key.clone(), (ip, Arc::new(subject), pod.version()));
        }
        changed.extend(self.claims.iter().filter(|(_, claim)| claim.pod == *key).map(|(ip, _)| *ip));
        changed
    }

    /// All addresses that are somebody's.
    pub(crate) fn all(&self) -> BTreeSet<Ipv4Addr> {
        self.claims.keys().chain(self.by_ip.keys()).chain(self.fixed.keys()).copied().collect()
    }

    /// Whose address it is.
    pub(crate) fn owner(&self, ip: Ipv4Addr) -> Option<Arc<Subject>> {
        if let Some(claim) = self.claims.get(&ip) {
            let watched = self.watched.get(&claim.pod).filter(|(_, pod, _)| pod.uid == claim.uid);
            return Some(match watched {
                Some((_, pod, _)) => Arc::new(Subject { local: true, ..Subject::clone(pod) }),
                None => claim.clone(),
            });
        }
        let is_elsewhere = |pod: &Subject| self.claims.values().any(|claim| claim.uid == pod.uid);
        let watched = self.by_ip.get(&ip).into_iter().flatten().filter_map(|key| self.watched.get(key));
        // An address that was given on before the API heard of its release has two owners for a while.
        let newest = watched.filter(|(_, pod, _)| !is_elsewhere(pod)).max_by_key(|(.., version)| *version);
        newest.map(|(_, pod, _)| pod.clone()).or_else(|| self.fixed.get(&ip).cloned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 3);

    fn lean(name: &str, uid: &str, ip: Ipv4Addr, label: &str, version: u64) -> LeanPod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": name, "uid": uid, "resourceVersion": version.to_string(), "labels": {"l": label}},
            "spec": {"nodeName": "here", "containers": []},
            "status": {"phase": "Running", "podIP": ip},
        }))
        .unwrap()
    }

    fn claimed(name: &str, uid: &str) -> Arc<Subject> {
        let (_, subject) = lean(name, uid, A, "claimed", 0).subject("here").unwrap();
        Arc::new(subject)
    }

    fn show(addresses: &Addresses) -> Vec<String> {
        let line = |ip: Ipv4Addr| {
            let owner = addresses.owner(ip)?;
            Some(format!("{ip} {} {} {}", owner.pod.name, owner.uid, owner.labels["l"]))
        };
        addresses.all().into_iter().filter_map(line).collect()
    }

    fn apply(addresses: &mut Addresses, pod: &LeanPod) -> Vec<Ipv4Addr> {
        addresses.set(&ObjectKey::of(pod), Some(pod)).into_iter().collect()
    }

    #[test]
    fn a_claim_holds_and_takes_its_labels_from_the_api() {
        let mut addresses = Addresses::new("here", BTreeMap::new());
        assert_eq!(addresses.claim(A, Some(claimed("p", "1"))), BTreeSet::from([A]));
        assert_eq!(show(&addresses), ["10.244.1.2 p 1 claimed"]);
        // The API still has the address of an earlier sandbox.
        assert_eq!(apply(&mut addresses, &lean("p", "1", B, "new", 5)), [A, B]);
        assert_eq!(show(&addresses), ["10.244.1.2 p 1 new"]);
        // Removed by force, but still there.
        addresses.set(&ObjectKey::new("n", "p"), None);
        assert_eq!(show(&addresses), ["10.244.1.2 p 1 claimed"]);
        // One of the same name is another pod.
        apply(&mut addresses, &lean("p", "2", B, "other", 6));
        assert_eq!(show(&addresses), ["10.244.1.2 p 1 claimed", "10.244.1.3 p 2 other"]);
        addresses.claim(A, None);
        assert_eq!(show(&addresses), ["10.244.1.3 p 2 other"]);
    }

    #[test]
    fn of_two_owners_the_newer_object_counts() {
        let mut addresses = Addresses::new("here", BTreeMap::new());
        apply(&mut addresses, &lean("old", "1", A, "old", 5));
        apply(&mut addresses, &lean("new", "2", A, "new", 6));
        assert_eq!(show(&addresses), ["10.244.1.2 new 2 new"]);
        addresses.set(&ObjectKey::new("n", "new"), None);
        assert_eq!(show(&addresses), ["10.244.1.2 old 1 old"]);
    }

    #[test]
    fn what_the_api_said_is_forgotten_and_what_is_claimed_or_fixed_is_not() {
        const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
        let mut addresses = Addresses::new("here", BTreeMap::from([(DNS, claimed("dns", "d"))]));
        addresses.claim(A, Some(claimed("p", "1")));
        apply(&mut addresses, &lean("p", "1", A, "new", 5));
        apply(&mut addresses, &lean("q", "2", B, "other", 6));
        assert_eq!(
            show(&addresses),
            ["10.96.0.10 dns d claimed", "10.244.1.2 p 1 new", "10.244.1.3 q 2 other"]
        );
        addresses.forget_watched();
        assert_eq!(show(&addresses), ["10.96.0.10 dns d claimed", "10.244.1.2 p 1 claimed"]);
        assert_eq!(addresses.owner(B), None);
    }

    #[test]
    fn a_pod_that_was_claimed_elsewhere_has_no_other_address() {
        let mut addresses = Addresses::new("here", BTreeMap::new());
        apply(&mut addresses, &lean("p", "1", B, "old", 5));
        // Its sandbox was made anew: what the API says of the old address holds no more.
        let changed = addresses.claim(A, Some(claimed("p", "1")));
        assert_eq!(changed, BTreeSet::from([A, B]));
        assert_eq!(show(&addresses), ["10.244.1.2 p 1 old"]);
        // The address goes to another pod, and both are to be looked at anew.
        apply(&mut addresses, &lean("q", "2", A, "next", 6));
        assert_eq!(show(&addresses), ["10.244.1.2 p 1 old"], "what is claimed holds");
        assert_eq!(addresses.claim(A, None), BTreeSet::from([A, B]));
        assert_eq!(show(&addresses), ["10.244.1.2 q 2 next", "10.244.1.3 p 1 old"]);
    }

    #[test]
    fn what_this_node_claims_is_this_nodes_whatever_the_api_says() {
        let mut addresses = Addresses::new("elsewhere", BTreeMap::new());
        apply(&mut addresses, &lean("p", "1", A, "l", 5));
        let is_local = |addresses: &Addresses| addresses.owner(A).map(|owner| owner.local);
        assert_eq!(is_local(&addresses), Some(false));
        addresses.claim(A, Some(claimed("p", "1")));
        assert_eq!(is_local(&addresses), Some(true));
    }

    #[test]
    fn changes_of_pods_are_taken_in() {
        let mut addresses = Addresses::new("here", BTreeMap::new());
        let pod = |ip, label: &str, version| Arc::new(lean("p", "1", ip, label, version));
        let applied = |new: &Arc<LeanPod>| Change::Applied { old: None, new: new.clone() };
        assert_eq!(addresses.observe(applied(&pod(A, "a", 1))), BTreeSet::from([A]));
        assert_eq!(addresses.observe(applied(&pod(B, "b", 2))), BTreeSet::from([A, B]));
        assert_eq!(show(&addresses), ["10.244.1.3 p 1 b"]);
        assert_eq!(addresses.observe(Change::Resync), BTreeSet::new());
        assert_eq!(addresses.observe(Change::Deleted(pod(B, "b", 2))), BTreeSet::from([B]));
        assert!(addresses.all().is_empty());
    }
}
