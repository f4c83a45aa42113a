//! `skiff down`: ends a cluster and removes all that it made, whatever state it is in.
//!
//! Each step removes what is there and succeeds where nothing is, so that `down` can be repeated, and can
//! follow an `up` or `down` that was killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use nix::mount::{MntFlags, umount2};
use skiff_client::kubeconfig::Kubeconfig;
use skiff_runtime::{apparmor, tree};
use tracing::warn;

use super::cgroups;
use super::kept;
use super::prove::{self, Ours};
use super::record::{Record, cluster_name, lock, write_private};
use super::stock::Stock;
use super::topology;
use crate::agent::runtime_dir;
use crate::{in_use, tell};

/// Stop a cluster and remove everything it made
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the cluster
    #[arg(long, default_value = "skiff", value_parser = cluster_name)]
    name: String,
    /// Its data directory, where the record of it is gone
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep the data: a later `up` brings the same objects and pods back
    #[arg(long)]
    keep_data: bool,
    /// Compare the machine with what it was before the cluster, and fail if anything of it is left
    #[arg(long)]
    prove: bool,
}

/// Runs the command; fails where what is left was to be proved to be nothing, and is something.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    super::require_root("down")?;
    let lock = lock(&args.name)?;
    let record = Record::find(&args.name)?;
    let known = record.is_some();
    let data_dir = match (&record, &args.data_dir) {
        (Some(record), Some(given)) if *given != record.data_dir => {
            bail!(
                "cluster {:?} has its data in {}, not in {}",
                args.name,
                record.data_dir.display(),
                given.display()
            )
        }
        (Some(record), _) => record.data_dir.clone(),
        (None, given) => given.clone().unwrap_or_else(|| super::default_data_dir(&args.name)),
    };
    if !known
        && !args.keep_data
        && let Ok(Some(owner)) = super::owner(&data_dir, &args.name, &Record::all()?)
    {
        lock.remove();
        bail!("{} holds the data of cluster {owner:?}: name that with --name {owner}", data_dir.display());
    }
    let proof = match (&record, args.prove) {
        (Some(record), true) => {
            let before = prove::stored(&record.data_dir.join("stock.json"))?;
            let ours = Ours::of_cluster(record, &before, args.keep_data);
            let nodes = record.nodes.iter().map(|node| record.node_data_dir(&node.name));
            let made = nodes.flat_map(|dir| skiff_kubelet::made_paths(&dir)).collect();
            Some((before, ours, made, record.kubeconfig_dirs.clone()))
        }
        (None, true) => {
            lock.remove();
            bail!("cluster {:?} is not up: there is nothing to compare the machine with", args.name)
        }
        (_, false) => None,
    };
    remove(&args.name, record.as_ref())?;
    if !args.keep_data {
        remove_data(&data_dir)?;
    }
    lock.remove();
    match known {
        true => tell(format_args!("Cluster {:?} is down.", args.name)),
        false => tell(format_args!("Cluster {:?} was not up; nothing of it is left.", args.name)),
    }
    let Some((before, mut ours, made, dirs)) = proof else { return Ok(ExitCode::SUCCESS) };
    ours.paths.extend(dirs.iter().filter(|dir| is_empty(dir)).cloned());
    let looked_at: Vec<PathBuf> = [data_dir].into_iter().chain(dirs).collect();
    Ok(prove::print(&before, &Stock::take(&looked_at), &ours, made))
}

/// Removes all but the data.
pub(crate) fn remove(name: &str, record: Option<&Record>) -> anyhow::Result<()> {
    cgroups::destroy(Path::new(&Record::cgroup(name)))?;
    if let Some(record) = record {
        for node in &record.nodes {
            apparmor::unload(&runtime_dir(&record.node_data_dir(&node.name)))
                .context("cannot take the AppArmor profile out of the kernel")?;
        }
    }
    topology::remove(name)?;
    let dir = Record::dir(name);
    for netns in entries(&dir.join("netns"))? {
        unmount(&netns)?;
    }
    if let Some(record) = record
        && let Some(path) = &record.merged_kubeconfig
    {
        unmerge(path, name, record.previous_context.as_deref())?;
    }
    if let Some(record) = record {
        record.kubeconfig_dirs.iter().for_each(|dir| remove_if_empty(dir));
        super::uplink::restore(record)?;
    }
    remove_tree(&dir)
}

/// Others may have come to use a directory that was made for the cluster; it is theirs then.
fn remove_if_empty(dir: &Path) {
    match fs::remove_dir(dir) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {}
        Err(error) => warn!(path = %dir.display(), error = %error, "left a directory of the kubeconfig"),
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Takes the cluster's entries out of a kubeconfig, and the file away if nothing else is in it.
fn unmerge(path: &Path, name: &str, previous_context: Option<&str>) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut config = match Kubeconfig::read(path) {
        Ok(config) => config,
        Err(error) => {
            // Somebody else's damage must not keep the cluster from going down.
            warn!(path = %path.display(), error = %error, "left the kubeconfig as it is");
            return Ok(());
        }
    };
    config.remove(name, previous_context);
    match config.is_empty() {
        true => fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display())),
        false => write_private(path, config.to_yaml().as_bytes()),
    }
}

/// Deletes a data directory, but only one that `up` made: it has the marker, or, where `up` was ended just
/// then, nothing yet but what becomes the marker.
pub(crate) fn remove_data(dir: &Path) -> anyhow::Result<()> {
    if !dir.exists() {
        kept::forget(dir);
        return Ok(());
    }
    let foreign = |entry: fs::DirEntry| !entry.file_name().to_string_lossy().starts_with(super::MARKER);
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    if !dir.join(super::MARKER).exists() && entries.flatten().any(foreign) {
        bail!(
            "{} has no {} file, so it is no cluster's data directory: not deleted",
            dir.display(),
            super::MARKER
        );
    }
    if let Some(user) = in_use::user(dir) {
        bail!("{} is in use by {user}: not deleted", dir.display());
    }
    unmount_below(dir)?;
    remove_tree(dir)?;
    kept::forget(dir);
    Ok(())
}

/// What a killed process left mounted in the machine's namespace would be deleted through.
pub(crate) fn unmount_below(dir: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    below(&mounts, dir).into_iter().rev().try_for_each(|mount_point| unmount(&mount_point))
}

/// Mount points below a directory, outer ones first.
fn below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", dir.display())),
    }
}

fn unmount(path: &Path) -> anyhow::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            // Mounted over more than once, if a start was interrupted and repeated.
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", path.display())),
        }
    }
}

pub(crate) fn remove_tree(dir: &Path) -> anyhow::Result<()> {
    match tree::remove(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_directories_are_not_deleted() {
        let dir = std::env::temp_dir().join(format!("skiff-down-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("letters"), "").expect("a file");
        assert!(remove_data(&dir).is_err());
        fs::write(dir.join(super::super::MARKER), "").expect("a file");
        remove_data(&dir).expect("it is ours now");
        assert!(!dir.exists());
        // An `up` that came no further.
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join(format!("{}.tmp7", super::super::MARKER)), "").expect("a file");
        remove_data(&dir).expect("there is nothing of others");
        assert!(!dir.exists());
    }

    #[test]
    fn directories_on_the_way_to_a_kubeconfig_go_unless_others_use_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a/b/kubeconfig");
        let missing = super::super::missing_dirs(&file);
        assert_eq!(missing, [dir.path().join("a/b"), dir.path().join("a")]);
        write_private(&file, b"").expect("it is written");
        fs::write(dir.path().join("a/letters"), "").expect("a file");
        assert_eq!(super::super::missing_dirs(&file), Vec::<PathBuf>::new());
        fs::remove_file(&file).expect("it is there");
        missing.iter().for_each(|dir| remove_if_empty(dir));
        assert!(!dir.path().join("a/b").exists() && dir.path().join("a/letters").exists());
        assert!(!is_empty(&dir.path().join("a")), "what others use is not left of ours");
        fs::remove_file(dir.path().join("a/letters")).expect("it is there");
        assert!(is_empty(&dir.path().join("a")));
        missing.iter().for_each(|dir| remove_if_empty(dir));
        assert!(!dir.path().join("a").exists() && dir.path().exists());
    }

    #[test]
    fn only_mounts_below_are_named() {
        let text =
            "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /d/a rw - overlay b rw\n3 1 0:3 / /data rw - ext4 c rw";
        assert_eq!(below(text, Path::new("/d")), [PathBuf::from("/d/a")]);
    }
}
