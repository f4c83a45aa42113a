//! Puts kernel parameters back to what they were.
//!
//! To forward packets is one parameter with many followers: writing it also sets whether each link forwards
//! and whether redirects are listened to, whatever had been set there. So all of them are put back.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::stock::{Facts, Stock};

pub(crate) const FORWARDING: &str = "net/ipv4/ip_forward";

/// What has to be written, in this order, so that `names` have the values of before.
fn plan(before: &Facts, now: &Facts, names: &[&str]) -> Vec<(String, String)> {
    let value = |facts: &Facts, name: &str| {
        facts.iter().find_map(|fact| fact.strip_prefix(name)?.strip_prefix(" = ").map(str::to_owned))
    };
    let changed = |name: &str| {
        let old = value(before, name)?;
        (value(now, name)? != old).then(|| (name.to_owned(), old))
    };
    let mut writes: Vec<(String, String)> = names.iter().filter_map(|name| changed(name)).collect();
    if writes.iter().any(|(name, _)| name == FORWARDING) {
        let followers = before.iter().filter_map(|fact| {
            let (name, old) = fact.split_once(" = ")?;
            // Those of links that are gone are nobody's, and each is written whatever it is now: the first
            // write is about to change it.
            let written = follows(name) && value(now, name).is_some();
            written.then(|| (name.to_owned(), old.to_owned()))
        });
        writes.extend(followers);
    }
    writes
}

/// Whether a parameter changes when it is written that the machine forwards packets.
pub(crate) fn follows(name: &str) -> bool {
    let of_link = name.strip_prefix("net/ipv4/conf/").and_then(|rest| rest.split_once('/'));
    of_link.is_some_and(|(_, own)| matches!(own, "forwarding" | "accept_redirects"))
}

/// Puts these parameters back, where they differ and the machine still has them.
pub(crate) fn restore(before: &Stock, names: &[&str]) -> anyhow::Result<()> {
    for (name, value) in plan(&before.sysctls, &Stock::take(&[]).sysctls, names) {
        let path = Path::new("/proc/sys").join(&name);
        if fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
            continue;
        }
        fs::write(&path, &value).with_context(|| format!("cannot set {} to {value}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(all: &[&str]) -> Facts {
        all.iter().map(|fact| (*fact).to_owned()).collect()
    }

    #[test]
    fn forwarding_takes_its_followers_along() {
        let before = facts(&[
            "net/ipv4/conf/all/accept_redirects = 0",
            "net/ipv4/conf/eth1/forwarding = 1",
            "net/ipv4/conf/gone/forwarding = 0",
            "net/ipv4/conf/all/send_redirects = 1",
            "net/ipv4/ip_forward = 0",
        ]);
        let now = facts(&[
            "net/ipv4/conf/all/accept_redirects = 0",
            "net/ipv4/conf/eth1/forwarding = 1",
            "net/ipv4/conf/all/send_redirects = 0",
            "net/ipv4/ip_forward = 1",
        ]);
        let names = [FORWARDING, "net/ipv4/conf/all/send_redirects", "net/bridge/bridge-nf-call-iptables"];
        let plan = plan(&before, &now, &names);
        let told: Vec<String> = plan.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            told,
            [
                "net/ipv4/ip_forward=0",
                "net/ipv4/conf/all/send_redirects=1",
                "net/ipv4/conf/all/accept_redirects=0",
                "net/ipv4/conf/eth1/forwarding=1",
            ]
        );
        assert_eq!(super::plan(&before, &before, &names), []);
    }
}
