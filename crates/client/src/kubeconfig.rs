//! The kubeconfig file: read for a connection, merged into and taken out of without losing what is there.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_yaml_ng::{Mapping, Value};

use crate::remote::RemoteConfig;
use crate::yaml;

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("cannot read the kubeconfig {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot parse the kubeconfig {path}")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_yaml_ng::Error,
    },
    #[error("the kubeconfig {path} has no usable {what}")]
    Missing { path: PathBuf, what: String },
}

/// One cluster's entries: cluster, user and context all bear `name`.
pub struct Entries<'a> {
    pub name: &'a str,
    /// `https://host:port`.
    pub server: &'a str,
    pub ca_pem: &'a str,
    pub certificate_pem: &'a str,
    pub key_pem: &'a str,
}

/// A kubeconfig document, with everything in it that we don't know kept as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Kubeconfig {
    path: PathBuf,
    root: Mapping,
}

impl Kubeconfig {
    /// An empty document.
    pub fn empty(path: &Path) -> Self {
        let mut root = Mapping::new();
        root.insert("apiVersion".into(), "v1".into());
        root.insert("kind".into(), "Config".into());
        Self { path: path.to_owned(), root }
    }

    /// Reads a file; one that does not exist is empty.
    pub fn read_or_empty(path: &Path) -> Result<Self, KubeconfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::empty(path)),
            Err(source) => Err(KubeconfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Reads a file that must exist.
    pub fn read(path: &Path) -> Result<Self, KubeconfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Parses a document that lies, or shall lie, at `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, KubeconfigError> {
        match serde_yaml_ng::from_str(text) {
            // It would be lost in writing, and what it means is the reader's secret.
            Ok(Value::Mapping(root))
                if root.iter().any(|(key, value)| is_exotic(key, true) || is_exotic(value, false)) =>
            {
                Err(KubeconfigError::Missing {
                    path: path.to_owned(),
                    what: "content: YAML tags, and keys that are collections, are not read".into(),
                })
            }
            Ok(Value::Mapping(root)) => Ok(Self { path: path.to_owned(), root }),
            Ok(Value::Null) => Ok(Self::empty(path)),
            Ok(_) => Err(KubeconfigError::Missing { path: path.to_owned(), what: "mapping".into() }),
            Err(source) => Err(KubeconfigError::Parse { path: path.to_owned(), source }),
        }
    }

    /// The document as YAML.
    pub fn to_yaml(&self) -> String {
        yaml::to_string(&self.root)
    }

    /// Whether it has no cluster, user or context.
    pub fn is_empty(&self) -> bool {
        ["clusters", "users", "contexts"].iter().all(|list| {
            self.root.get(*list).and_then(Value::as_sequence).is_none_or(|entries| entries.is_empty())
        })
    }

    /// Adds or replaces one cluster's entries and makes its context the current one.
    pub fn merge(&mut self, entries: &Entries<'_>) {
        let data = |pem: &str| Value::from(STANDARD.encode(pem));
        let map = |pairs: Vec<(&str, Value)>| {
            Value::Mapping(pairs.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
        };
        let cluster = map(vec![
            ("certificate-authority-data", data(entries.ca_pem)),
            ("server", entries.server.into()),
        ]);
        let user = map(vec![
            ("client-certificate-data", data(entries.certificate_pem)),
            ("client-key-data", data(entries.key_pem)),
        ]);
        let context = map(vec![("cluster", entries.name.into()), ("user", entries.name.into())]);
        for (list, key, value) in
            [("clusters", "cluster", cluster), ("users", "user", user), ("contexts", "context", context)]
        {
            let entry = map(vec![(key, value), ("name", entries.name.into())]);
            let present = self.list_mut(list);
            match present.iter_mut().find(|present| named(present, entries.name)) {
                Some(present) => *present = entry,
                None => present.push(entry),
            }
        }
        self.root.insert("current-context".into(), entries.name.into());
    }

    /// The namespace that the current context names.
    pub fn namespace(&self) -> Option<&str> {
        let context = self.entry("contexts", "context", self.current_context()?).ok()?;
        context.get("namespace").and_then(Value::as_str).filter(|namespace| !namespace.is_empty())
    }

    /// The name of the current context.
    pub fn current_context(&self) -> Option<&str> {
        self.root.get("current-context").and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// Takes one cluster's three entries out. If its context was the current one, `previous` is again, or
    /// none where that is gone.
    pub fn remove(&mut self, name: &str, previous: Option<&str>) {
        for list in ["clusters", "users", "contexts"] {
            self.list_mut(list).retain(|entry| !named(entry, name));
        }
        if self.current_context() == Some(name) {
            match previous.filter(|previous| self.entry("contexts", "context", previous).is_ok()) {
                Some(previous) => self.root.insert("current-context".into(), previous.into()),
                None => self.root.remove("current-context"),
            };
        }
    }

    fn list_mut(&mut self, list: &str) -> &mut Vec<Value> {
        let value = self.root.entry(list.into()).or_insert_with(|| Value::Sequence(Vec::new()));
        if !value.is_sequence() {
            *value = Value::Sequence(Vec::new());
        }
        match value {
            Value::Sequence(entries) => entries,
            _ => unreachable!("it was made a sequence above"),
        }
    }

    /// The connection that a context (`None`: the current one) describes.
    pub fn remote(&self, context: Option<&str>) -> Result<RemoteConfig, KubeconfigError> {
        let name = context.or(self.current_context()).ok_or_else(|| self.missing("current-context"))?;
        let context = self.entry("contexts", "context", name)?;
        let part = |key: &str| context.get(key).and_then(Value::as_str).ok_or_else(|| self.missing(key));
        let cluster = self.entry("clusters", "cluster", part("cluster")?)?;
        let user = self.entry("users", "user", part("user")?)?;
        let server = cluster.get("server").and_then(Value::as_str).ok_or_else(|| self.missing("server"))?;
        let uri: http::Uri = server.parse().map_err(|_| self.missing("server"))?;
        let host = uri.host().ok_or_else(|| self.missing("server"))?;
        let port = uri.port_u16().unwrap_or(443);
        let roots = match self.data(cluster, "certificate-authority")? {
            Some(pem) => CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<_, _>>()
                .map_err(|_| self.missing("certificate-authority"))?,
            None => Vec::new(),
        };
        let identity = match (self.data(user, "client-certificate")?, self.data(user, "client-key")?) {
            (Some(chain), Some(key)) => Some((
                CertificateDer::pem_slice_iter(&chain)
                    .collect::<Result<_, _>>()
                    .map_err(|_| self.missing("client-certificate"))?,
                PrivateKeyDer::from_pem_slice(&key).map_err(|_| self.missing("client-key"))?,
            )),
            _ => None,
        };
        Ok(RemoteConfig {
            authority: format!("{host}:{port}"),
            server_name: cluster.get("tls-server-name").and_then(Value::as_str).map(str::to_owned),
            roots,
            identity,
            bearer_token: user.get("token").and_then(Value::as_str).map(str::to_owned),
        })
    }

    fn entry(&self, list: &str, key: &str, name: &str) -> Result<&Mapping, KubeconfigError> {
        self.root
            .get(list)
            .and_then(Value::as_sequence)
            .and_then(|entries| entries.iter().find(|entry| named(entry, name)))
            .and_then(|entry| entry.get(key))
            .and_then(Value::as_mapping)
            .ok_or_else(|| self.missing(&format!("{key} {name:?}")))
    }

    /// A PEM that is either inline (`KEY-data`) or in a file (`KEY`, relative to the kubeconfig).
    fn data(&self, map: &Mapping, key: &str) -> Result<Option<Vec<u8>>, KubeconfigError> {
        if let Some(text) = map.get(format!("{key}-data")).and_then(Value::as_str) {
            return STANDARD.decode(text).map(Some).map_err(|_| self.missing(key));
        }
        let Some(file) = map.get(key).and_then(Value::as_str) else { return Ok(None) };
        let path = self.path.parent().unwrap_or(Path::new(".")).join(file);
        std::fs::read(&path).map(Some).map_err(|source| KubeconfigError::Read { path, source })
    }

    fn missing(&self, what: &str) -> KubeconfigError {
        KubeconfigError::Missing { path: self.path.clone(), what: what.to_owned() }
    }
}

/// Whether a YAML tag is on the value or in it, or a collection is a key.
fn is_exotic(value: &Value, key: bool) -> bool {
    match value {
        Value::Tagged(_) => true,
        Value::Sequence(items) => key || items.iter().any(|item| is_exotic(item, false)),
        Value::Mapping(map) => {
            key || map.iter().any(|(key, value)| is_exotic(key, true) || is_exotic(value, false))
        }
        _ => false,
    }
}

fn named(entry: &Value, name: &str) -> bool {
    entry.get("name").and_then(Value::as_str) == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_and_removing_leaves_the_rest_as_it_was() {
        let text = "apiVersion: v1\nkind: Config\npreferences: {colors: true}\nclusters:\n- name: other\n  cluster: {server: 'https://other:1'}\nusers: []\ncontexts: []\n";
        let mut config = Kubeconfig::parse(Path::new("/x"), text).expect("it parses");
        let before = config.clone();
        config.merge(&Entries {
            name: "skiff",
            server: "https://127.0.0.1:6443",
            ca_pem: "a",
            certificate_pem: "b",
            key_pem: "c",
        });
        assert_ne!(config, before);
        assert!(!config.is_empty());
        config.remove("skiff", None);
        assert_eq!(config, before);
    }

    #[test]
    fn the_context_that_was_current_is_so_again() {
        let text = "current-context: work\nclusters: []\nusers: []\ncontexts: [{name: work, context: {cluster: a, user: b}}]\n";
        let mut config = Kubeconfig::parse(Path::new("/x"), text).expect("it parses");
        let before = config.clone();
        let entries =
            Entries { name: "skiff", server: "https://h:1", ca_pem: "a", certificate_pem: "b", key_pem: "c" };
        config.merge(&entries);
        assert_eq!(config.current_context(), Some("skiff"));
        config.remove("skiff", Some("work"));
        assert_eq!(config, before);
        config.merge(&entries);
        config.remove("skiff", Some("gone"));
        assert_eq!(config.current_context(), None);
    }

    #[test]
    fn tags_and_odd_keys_are_refused_since_writing_would_lose_them() {
        for text in [
            "users: [{name: a, user: {!token: t}}]",
            "!x clusters: []",
            "contexts: !y []",
            "{a: b}: c",
            "users: [{[a]: b}]",
        ] {
            assert!(Kubeconfig::parse(Path::new("/x"), text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_part_is_named() {
        let config = Kubeconfig::parse(Path::new("/x"), "current-context: a").expect("it parses");
        let error = config.remote(None).err().expect("no such context").to_string();
        assert!(error.contains("context \"a\""), "{error}");
    }
}
