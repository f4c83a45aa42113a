//! Whether the cluster that a command means is this machine's or elsewhere.

use std::path::{Path, PathBuf};

use skiff_cli::{Choice, Connection};
use skiff_client::kubeconfig::Kubeconfig;

use super::record::Record;

/// Where a cluster is.
#[derive(Debug)]
pub(crate) enum Place {
    /// This machine's clusters that are meant.
    Here(Vec<Record>),
    /// It is known by this kubeconfig alone.
    Elsewhere(PathBuf),
}

/// A kubeconfig's certificate authorities, which no two clusters share.
type Authorities = Vec<Vec<u8>>;

/// Where the cluster is that flags and environment mean.
pub(crate) fn find(connection: &Connection) -> anyhow::Result<Place> {
    match connection.choice()? {
        Choice::Name(name) => Ok(Place::Here(vec![Record::get(&name)?])),
        Choice::Unsaid => Ok(Place::Here(Record::all()?)),
        Choice::Kubeconfig(path) => {
            let meant = authorities(&path)?;
            let known = Record::visible()?.into_iter().map(|record| {
                // A cluster half up or half down may have none yet or no more.
                let own = authorities(&record.kubeconfig).unwrap_or_default();
                (record, own)
            });
            Ok(decide(&path, &meant, known))
        }
    }
}

fn authorities(kubeconfig: &Path) -> anyhow::Result<Authorities> {
    let remote = Kubeconfig::read(kubeconfig)?.remote(None)?;
    Ok(remote.roots.iter().map(|root| root.to_vec()).collect())
}

/// The record whose own file it is, or whose authority it trusts: a merged file and a copy do so as well.
fn decide(path: &Path, meant: &Authorities, mut known: impl Iterator<Item = (Record, Authorities)>) -> Place {
    let is_it = |(record, own): &(Record, Authorities)| {
        record.kubeconfig == path || (!meant.is_empty() && meant == own)
    };
    match known.find(is_it) {
        Some((record, _)) => Place::Here(vec![record]),
        None => Place::Elsewhere(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Record {
        let range = |octet| skiff_network::Cidr::new(std::net::Ipv4Addr::new(10, octet, 0, 0), 16);
        let ranges = super::super::ranges::Ranges { node: range(1), pod: range(2), service: range(3) };
        let record = serde_json::json!({
            "name": name, "data_dir": format!("/d/{name}"), "kubeconfig": format!("/d/{name}/kubeconfig"),
            "merged_kubeconfig": null, "port": 6443, "uplink": false, "nodes": [],
            "ranges": ranges,
        });
        serde_json::from_value(record).expect("a record")
    }

    #[test]
    fn a_cluster_is_this_machines_by_its_file_or_its_authority() {
        let check = |path: &str, meant: &[&str], expected: Option<&str>| {
            let bytes = |pems: &[&str]| pems.iter().map(|pem| pem.as_bytes().to_vec()).collect::<Vec<_>>();
            let known = [(record("a"), bytes(&["ca-a"])), (record("b"), bytes(&[]))];
            let found = match decide(Path::new(path), &bytes(meant), known.into_iter()) {
                Place::Here(records) => Some(records[0].name.clone()),
                Place::Elsewhere(same) => {
                    assert_eq!(same, Path::new(path));
                    None
                }
            };
            assert_eq!(found.as_deref(), expected, "{path} {meant:?}");
        };
        check("/home/me/config", &["ca-a"], Some("a"));
        check("/home/me/config", &["ca-x"], None);
        // The system's authorities say nothing.
        check("/home/me/config", &[], None);
        check("/d/b/kubeconfig", &["ca-b"], Some("b"));
    }
}
