//! `cargo xtask deny`: licences of all dependencies, and duplicate versions in what the binary is made of.
//!
//! Also a test, and needs no tool. What security advisories say needs a database that a build has no access to; `deny.toml`
//! keeps the same rules for `cargo deny check`, where that tool is at hand.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::build;

/// Each permissive: it asks for its text to be kept, and for nothing of those who link with it.
const LICENCES: &[&str] = &["Apache-2.0", "BSD-3-Clause", "ISC", "MIT", "Unicode-3.0", "Zlib"];

/// Crates of the binary in two versions, and who holds on to the older one.
const DUPLICATES: &[(&str, &str)] = &[
    ("base64", "k8s-openapi needs 0.22, hyper-util and pem 0.23"),
    ("getrandom", "ring needs 0.2"),
    ("syn", "the derive macros of asn1-rs and tracing need 2; build time alone"),
    ("synstructure", "asn1-rs-derive needs 0.13; build time alone"),
];

pub(crate) fn run() -> anyhow::Result<()> {
    let faults = faults(&packages()?);
    if !faults.is_empty() {
        bail!("dependencies break the rules:\n{}", faults.join("\n"));
    }
    println!("licences and versions are as they should be");
    Ok(())
}

/// A crate that is part of a build for this machine.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    /// An SPDX expression, also in the older form with `/` for `OR`.
    licence: Option<String>,
    /// From the registry, not from this checkout.
    foreign: bool,
    /// From somewhere else than a registry: no version is published for others to look at.
    unpublished: bool,
    /// The binary is built of it or by it; others are there for tests alone.
    shipped: bool,
}

fn packages() -> anyhow::Result<Vec<Package>> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let text = build::output(build::cargo().args([
        "metadata",
        "--format-version",
        "1",
        "--offline",
        "--filter-platform",
        &triple,
    ]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata prints no JSON")?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata resolves nothing")?;
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let shipped = shipped(nodes);
    let packages = metadata["packages"].as_array().context("cargo metadata knows no packages")?;
    let of_build =
        packages.iter().filter(|package| package["id"].as_str().is_some_and(|id| used.contains(id)));
    Ok(of_build
        .map(|package| {
            let text = |key: &str| package[key].as_str().map(str::to_owned);
            let source = package["source"].as_str();
            Package {
                name: text("name").unwrap_or_default(),
                version: text("version").unwrap_or_default(),
                licence: text("license"),
                foreign: source.is_some(),
                shipped: package["id"].as_str().is_some_and(|id| shipped.contains(id)),
                unpublished: source.is_some_and(|source| !source.starts_with("registry+")),
            }
        })
        .collect())
}

/// What the crate `skiff` needs to be built, tests aside.
fn shipped(nodes: &[Value]) -> BTreeSet<&str> {
    let by_id: BTreeMap<&str, &Value> =
        nodes.iter().filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let is_skiff = |id: &&str| id.contains("/crates/skiff#");
    let mut left: Vec<&str> = by_id.keys().copied().filter(is_skiff).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = left.pop() {
        if !found.insert(id) {
            continue;
        }
        let dependencies = by_id.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten();
        let needed = |dependency: &&Value| {
            let kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            kinds.into_iter().any(|kind| kind["kind"].as_str() != Some("dev"))
        };
        left.extend(dependencies.filter(needed).filter_map(|dependency| dependency["pkg"].as_str()));
    }
    found
}

/// Every rule that is broken, one sentence each.
fn faults(packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Package { name, version, licence, foreign, unpublished, shipped } in packages {
        if *shipped {
            versions.entry(name).or_default().push(version);
        }
        match licence.as_deref() {
            Some(licence) if permitted(licence) => {}
            Some(licence) => faults.push(format!("{name} {version}: {licence} is not in the list")),
            None => faults.push(format!("{name} {version} names no licence")),
        }
        if *foreign && *unpublished {
            faults.push(format!("{name} {version} comes from no registry"));
        }
    }
    for (name, versions) in &versions {
        let excused = DUPLICATES.iter().any(|(excused, _)| excused == name);
        if versions.len() > 1 + usize::from(excused) {
            faults.push(format!("{name} is there in versions {}", versions.join(", ")));
        }
    }
    let unneeded = DUPLICATES.iter().filter(|(name, _)| versions.get(name).map_or(0, Vec::len) < 2);
    faults.extend(unneeded.map(|(name, _)| format!("{name} needs no excuse any more: take it off the list")));
    faults
}

/// Whether an SPDX expression can be met by listed licences alone. What it does not understand it refuses.
fn permitted(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut met = all_of(words)?;
    while let Some(("OR", rest)) = words.split_first().map(|(word, rest)| (*word, rest)) {
        *words = rest;
        met |= all_of(words)?;
    }
    Some(met)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut met = one(words)?;
    while let Some(("AND", rest)) = words.split_first().map(|(word, rest)| (*word, rest)) {
        *words = rest;
        met &= one(words)?;
    }
    Some(met)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    match *first {
        "(" => {
            let met = any_of(words)?;
            let (close, rest) = words.split_first()?;
            *words = rest;
            (*close == ")").then_some(met)
        }
        ")" | "AND" | "OR" | "WITH" => None,
        licence => {
            // An exception only ever permits more.
            if let ["WITH", _, rest @ ..] = *words {
                *words = rest;
            }
            Some(LICENCES.contains(&licence))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_keep_the_rules() {
        let packages = packages().expect("cargo knows the workspace");
        assert!(packages.iter().any(|package| package.foreign && package.shipped), "the list is not empty");
        assert_eq!(faults(&packages), Vec::<String>::new());
    }

    #[test]
    fn expressions_are_met_or_not() {
        for good in [
            "MIT",
            "MIT/GPL-3.0",
            "Unlicense OR MIT",
            "Apache-2.0 AND ISC",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
        ] {
            assert!(permitted(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-2.0-only",
            "GPL-2.0 WITH Classpath-exception-2.0",
            "(MIT OR Apache-2.0) AND MPL-2.0",
            "MIT OR",
            "(MIT",
            "MIT Apache-2.0",
        ] {
            assert!(!permitted(bad), "{bad}");
        }
    }

    fn package(name: &str, version: &str, licence: Option<&str>) -> Package {
        let licence = licence.map(str::to_owned);
        Package {
            name: name.into(),
            version: version.into(),
            licence,
            foreign: true,
            unpublished: false,
            shipped: true,
        }
    }

    #[test]
    fn every_broken_rule_is_named() {
        let mut packages: Vec<Package> = DUPLICATES
            .iter()
            .flat_map(|(name, _)| [package(name, "1", Some("MIT")), package(name, "2", Some("MIT"))])
            .collect();
        assert_eq!(faults(&packages), Vec::<String>::new());
        packages.remove(0);
        packages.push(package("syn", "3", Some("MIT")));
        packages.push(package("a", "1", None));
        packages.push(package("a", "2", Some("GPL-3.0")));
        packages.push(Package { shipped: false, ..package("a", "3", Some("MIT")) });
        packages.push(Package { unpublished: true, ..package("b", "1", Some("MIT")) });
        assert_eq!(
            faults(&packages),
            [
                "a 1 names no licence",
                "a 2: GPL-3.0 is not in the list",
                "b 1 comes from no registry",
                "a is there in versions 1, 2",
                "syn is there in versions 1, 2, 3",
                "base64 needs no excuse any more: take it off the list",
            ]
        );
    }
}
