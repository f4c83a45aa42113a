//! What the authority knows of nodes by itself, whatever they say: where their connections come from, until
//! when their certificates are good, and the join tokens that are for one node each.
//!
//! The last two are a small file, written when a node joins or renews; the first is this process's memory,
//! which is complete again before a node can ask for anything, as it asks by a connection.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{DAY_S, PkiError, join, random, read, write_private};

/// Of one node, the last ones.
const ADDRESSES_MAX: usize = 4;

/// A join token that makes one node, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NodeToken {
    id: String,
    secret: String,
    node: String,
    /// Unix seconds.
    ends: i64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    tokens: Vec<NodeToken>,
    /// Until when the last client certificate of each node is good, in Unix seconds.
    #[serde(default)]
    ends: BTreeMap<String, i64>,
    /// The join token that is for any node.
    #[serde(default)]
    join: Option<join::Made>,
}

/// See the module.
pub(super) struct Nodes {
    path: PathBuf,
    kept: Mutex<Kept>,
    seen: Mutex<BTreeMap<String, Vec<IpAddr>>>,
}

impl Nodes {
    pub(super) fn open(path: &Path) -> Result<Self, PkiError> {
        let kept = match read(path) {
            Ok(text) => serde_json::from_str(&text).map_err(|_| PkiError::Pem { path: path.to_owned() })?,
            Err(PkiError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), kept: Mutex::new(kept), seen: Mutex::default() })
    }

    /// A connection with this node's certificate came from there: its token has been used. Not before: who
    /// waits for a certificate asks for it by the token.
    pub(super) fn saw(&self, node: &str, from: IpAddr) -> Result<(), PkiError> {
        let from = from.to_canonical();
        let mut seen = self.seen.lock();
        let addresses = seen.entry(node.to_owned()).or_default();
        addresses.retain(|known| *known != from);
        addresses.insert(0, from);
        addresses.truncate(ADDRESSES_MAX);
        drop(seen);
        let mut kept = self.kept.lock();
        let before = kept.tokens.len();
        kept.tokens.retain(|token| token.node != node);
        if kept.tokens.len() == before { Ok(()) } else { self.write(&kept) }
    }

    pub(super) fn addresses(&self, node: &str) -> Vec<IpAddr> {
        self.seen.lock().get(node).cloned().unwrap_or_default()
    }

    /// New tokens, `ID.SECRET`, for these nodes, good for a day from `now`; they replace all earlier ones.
    pub(super) fn make_tokens(&self, nodes: &[&str], now: i64) -> Result<Vec<String>, PkiError> {
        let mut kept = self.kept.lock();
        kept.tokens = nodes
            .iter()
            .map(|node| NodeToken {
                id: random(6),
                secret: random(16),
                node: (*node).to_owned(),
                ends: now + DAY_S,
            })
            .collect();
        self.write(&kept)?;
        Ok(kept.tokens.iter().map(|token| format!("{}.{}", token.id, token.secret)).collect())
    }

    /// Whose a token is, while it is good. `is_same` compares secrets.
    pub(super) fn of_token(
        &self,
        id: &str,
        secret: &str,
        now: i64,
        is_same: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Option<String> {
        let kept = self.kept.lock();
        let token = kept.tokens.iter().find(|token| token.id == id)?;
        (is_same(token.secret.as_bytes(), secret.as_bytes()) && now < token.ends).then(|| token.node.clone())
    }

    /// A client certificate was signed for this node.
    pub(super) fn signed(&self, node: &str, not_after: i64) -> Result<(), PkiError> {
        let mut kept = self.kept.lock();
        kept.ends.insert(node.to_owned(), not_after);
        self.write(&kept)
    }

    /// Until when a certificate of this node is good, where that is known.
    pub(super) fn end(&self, node: &str) -> Option<i64> {
        self.kept.lock().ends.get(node).copied()
    }

    pub(super) fn join(&self) -> Option<join::Made> {
        self.kept.lock().join.clone()
    }

    pub(super) fn set_join(&self, made: Option<join::Made>) -> Result<(), PkiError> {
        let mut kept = self.kept.lock();
        kept.join = made;
        self.write(&kept)
    }

    fn write(&self, kept: &Kept) -> Result<(), PkiError> {
        let text = serde_json::to_string(kept).expect("plain data can be written as JSON");
        write_private(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &[u8], b: &[u8]) -> bool {
        a == b
    }

    #[test]
    fn a_nodes_token_is_good_once_and_for_a_day() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("nodes.json");
        let nodes = Nodes::open(&path).expect("there is none yet");
        let tokens = nodes.make_tokens(&["a", "b"], 1_000).expect("written");
        let who = |nodes: &Nodes, token: &str, now| {
            let (id, secret) = token.split_once('.').expect("two parts");
            nodes.of_token(id, secret, now, same)
        };
        // As the server finds them that `up` has made them for.
        let server = Nodes::open(&path).expect("it is there");
        assert_eq!(who(&server, &tokens[0], 1_000).as_deref(), Some("a"));
        assert_eq!(who(&server, &tokens[1], 1_000 + DAY_S - 1).as_deref(), Some("b"));
        assert_eq!(who(&server, &tokens[1], 1_000 + DAY_S), None, "it has ended");
        let forged = format!("{}.{}", &tokens[0][..6], "0".repeat(16));
        assert_eq!(who(&server, &forged, 1_000), None);
        server.signed("a", 5_000).expect("written");
        assert_eq!(who(&server, &tokens[0], 1_000).as_deref(), Some("a"), "it has to fetch it yet");
        server.saw("a", [10, 0, 0, 1].into()).expect("written");
        assert_eq!(who(&server, &tokens[0], 1_000), None, "it was used");
        let again = Nodes::open(&path).expect("it is there");
        assert_eq!(who(&again, &tokens[0], 1_000), None, "and stays so");
        assert_eq!(who(&again, &tokens[1], 1_000).as_deref(), Some("b"));
        assert_eq!((again.end("a"), again.end("b")), (Some(5_000), None));
    }

    #[test]
    fn the_last_addresses_of_a_node_are_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let nodes = Nodes::open(&dir.path().join("nodes.json")).expect("there is none yet");
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        for last in [1, 2, 3, 4, 5, 3] {
            nodes.saw("a", ip(last)).expect("nothing is written");
        }
        nodes.saw("b", "::ffff:10.0.0.9".parse().expect("an address")).expect("nothing is written");
        assert_eq!(nodes.addresses("a"), [ip(3), ip(5), ip(4), ip(2)]);
        assert_eq!(nodes.addresses("b"), [ip(9)]);
        assert_eq!(nodes.addresses("c"), [] as [IpAddr; 0]);
    }
}
