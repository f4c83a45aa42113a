//! The layer table of `ARCHITECTURE.md`, as a test.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::build;

    /// Which of Skiff's crates each may use. A new edge is an architectural change: argue for it there.
    const LAYERS: &[(&str, &[&str])] = &[
        ("skiff-api", &[]),
        ("skiff-store", &[]),
        ("skiff-sys", &[]),
        ("skiff-streams", &[]),
        ("skiff-explain", &[]),
        ("skiff-client", &["skiff-api"]),
        ("skiff-pod-security", &["skiff-api"]),
        ("skiff-runtime", &["skiff-sys"]),
        ("skiff-network", &["skiff-sys"]),
        (
            "skiff-apiserver",
            &["skiff-api", "skiff-explain", "skiff-pod-security", "skiff-store", "skiff-streams"],
        ),
        ("skiff-controllers", &["skiff-api", "skiff-client"]),
        ("skiff-scheduler", &["skiff-api", "skiff-client", "skiff-explain"]),
        (
            "skiff-kubelet",
            &[
                "skiff-api",
                "skiff-client",
                "skiff-explain",
                "skiff-network",
                "skiff-runtime",
                "skiff-streams",
            ],
        ),
        ("skiff-proxy", &["skiff-api", "skiff-client", "skiff-sys"]),
        ("skiff-dns", &["skiff-api", "skiff-client"]),
        ("skiff-cli", &["skiff-api", "skiff-client", "skiff-explain"]),
    ];

    #[test]
    fn crates_use_only_the_layers_below() {
        let text = build::output(build::cargo().args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ]))
        .expect("cargo knows the workspace");
        let metadata: serde_json::Value = serde_json::from_str(&text).expect("cargo prints JSON");
        let allowed: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
        let mut wrong = Vec::new();
        for package in metadata["packages"].as_array().expect("packages") {
            let name = package["name"].as_str().expect("a name");
            let in_crates = package["manifest_path"].as_str().is_some_and(|path| path.contains("/crates/"));
            if name == "skiff" || !in_crates {
                continue;
            }
            let Some(allowed) = allowed.get(name) else {
                wrong.push(format!("{name} is not in the layer table"));
                continue;
            };
            for dependency in package["dependencies"].as_array().expect("dependencies") {
                let uses = dependency["name"].as_str().expect("a name");
                let for_tests = dependency["kind"].as_str() == Some("dev");
                if uses.starts_with("skiff") && !for_tests && !allowed.contains(&uses) {
                    wrong.push(format!("{name} may not use {uses}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn unsafe_code_is_in_sys_alone() {
        let mut wrong = Vec::new();
        visit(&build::root().join("crates"), &mut |path, text| {
            let own = path.components().any(|part| part.as_os_str() == "sys" || part.as_os_str() == "pause");
            let allows = text
                .lines()
                .any(|line| line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code"));
            if allows && !own {
                wrong.push(path.display().to_string());
            }
        });
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    fn visit(dir: &std::path::Path, each: &mut impl FnMut(&std::path::Path, &str)) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                visit(&path, each);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                each(&path, &std::fs::read_to_string(&path).expect("UTF-8"));
            }
        }
    }
}
