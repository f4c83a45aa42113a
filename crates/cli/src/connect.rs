//! Which cluster a command means.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::bail;
use skiff_client::kubeconfig::Kubeconfig;
use skiff_client::{Client, Remote};

use crate::LocalCluster;

/// Tells the clusters that run on this machine.
pub type Clusters = dyn Fn() -> anyhow::Result<Vec<LocalCluster>>;

/// The flags by which every client command is told where to connect.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Connection {
    /// Kubeconfig file whose current context is used [default: $KUBECONFIG]
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of a cluster of this machine
    #[arg(long)]
    pub name: Option<String>,
}

impl Connection {
    /// A client for the cluster that is meant.
    pub fn client(&self, clusters: &Clusters) -> anyhow::Result<Client> {
        let config = Kubeconfig::read(&self.kubeconfig(clusters)?)?;
        let remote = Remote::new(config.remote(None)?).map_err(|error| anyhow::anyhow!(error))?;
        Ok(Client::new(remote))
    }

    /// What flags and environment say, before any cluster is looked for.
    pub fn choice(&self) -> anyhow::Result<Choice> {
        decide(self, std::env::var_os("KUBECONFIG").as_deref())
    }

    /// The kubeconfig of the cluster that is meant.
    pub fn kubeconfig(&self, clusters: &Clusters) -> anyhow::Result<PathBuf> {
        let environment = std::env::var_os("KUBECONFIG");
        choose(self, environment.as_deref(), &clusters()?)
    }
}

/// How a cluster was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// A cluster of this machine.
    Name(String),
    Kubeconfig(PathBuf),
    /// It was not: what this machine has is meant.
    Unsaid,
}

/// A flag, else the environment (its first file that exists).
fn decide(flags: &Connection, environment: Option<&OsStr>) -> anyhow::Result<Choice> {
    if let Some(path) = &flags.kubeconfig {
        return Ok(Choice::Kubeconfig(path.clone()));
    }
    if let Some(name) = &flags.name {
        return Ok(Choice::Name(name.clone()));
    }
    let Some(paths) = environment.filter(|paths| !paths.is_empty()) else { return Ok(Choice::Unsaid) };
    let paths: Vec<PathBuf> =
        std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty()).collect();
    match paths.iter().find(|path| path.exists()).or(paths.first()) {
        Some(path) => Ok(Choice::Kubeconfig(path.clone())),
        None => bail!("$KUBECONFIG names no file"),
    }
}

/// The kubeconfig that is named, else that of the only cluster of this machine.
fn choose(
    flags: &Connection,
    environment: Option<&OsStr>,
    local: &[LocalCluster],
) -> anyhow::Result<PathBuf> {
    let names = || local.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>().join(", ");
    match decide(flags, environment)? {
        Choice::Kubeconfig(path) => return Ok(path),
        Choice::Name(name) => {
            return match local.iter().find(|cluster| cluster.name == name) {
                Some(cluster) => Ok(cluster.kubeconfig.clone()),
                None if local.is_empty() => {
                    bail!("no cluster {name:?} is up: start one with `skiff up --name {name}`")
                }
                None => bail!("no cluster {name:?} is up (up: {}): choose one with --name", names()),
            };
        }
        Choice::Unsaid => {}
    }
    match local {
        [] => bail!("no cluster is up: start one with `skiff up`, or name a --kubeconfig"),
        [only] => Ok(only.kubeconfig.clone()),
        _ => bail!("several clusters are up ({}): choose one with --name", names()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(names: &[&str]) -> Vec<LocalCluster> {
        let cluster =
            |name: &&str| LocalCluster { name: (*name).into(), kubeconfig: format!("/k/{name}").into() };
        names.iter().map(cluster).collect()
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_only_cluster() {
        let flags = |kubeconfig: Option<&str>, name: Option<&str>| Connection {
            kubeconfig: kubeconfig.map(Into::into),
            name: name.map(Into::into),
        };
        let env = Some(OsStr::new("/e"));
        let path =
            |flags, env, local: &[_]| choose(&flags, env, local).map(|path| path.display().to_string());
        assert_eq!(path(flags(Some("/f"), None), env, &[]).ok().as_deref(), Some("/f"));
        assert_eq!(path(flags(None, Some("a")), env, &local(&["a", "b"])).ok().as_deref(), Some("/k/a"));
        assert_eq!(path(flags(None, None), env, &local(&["a"])).ok().as_deref(), Some("/e"));
        assert_eq!(path(flags(None, None), None, &local(&["a"])).ok().as_deref(), Some("/k/a"));
        let error = path(flags(None, None), None, &local(&["a", "b"])).expect_err("which one?");
        assert_eq!(error.to_string(), "several clusters are up (a, b): choose one with --name");
        let error = path(flags(None, Some("c")), None, &local(&["a"])).expect_err("there is none");
        assert_eq!(error.to_string(), "no cluster \"c\" is up (up: a): choose one with --name");
    }
}
