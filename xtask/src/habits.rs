//! Rules for the text of the sources that neither the compiler nor clippy knows.

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use crate::build;

    /// Every file of the workspace's directories whose name ends so, by its path from the root.
    fn files(ending: &str) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut left: Vec<PathBuf> = ["crates", "tests", "xtask"].map(PathBuf::from).into();
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(build::root().join(&dir)).expect("a directory").flatten() {
                let path = dir.join(entry.file_name());
                if entry.path().is_dir() {
                    left.extend((!path.ends_with("target")).then_some(path));
                } else if path.to_string_lossy().ends_with(ending) {
                    found.push((path, std::fs::read_to_string(entry.path()).expect("UTF-8")));
                }
            }
        }
        found
    }

    fn starts(path: &Path, dir: &str) -> bool {
        path.starts_with(dir)
    }

    #[test]
    fn every_source_file_says_what_it_is() {
        let files = files(".rs");
        assert!(files.len() > 100, "found only {}", files.len());
        let wrong: Vec<_> =
            files.iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
        assert!(wrong.is_empty(), "no `//!` first: {wrong:#?}");
    }

    /// Names in `code` that look like tests', from a page's text.
    fn tests_named(page: &str) -> Vec<&str> {
        let spans = page.split('`').skip(1).step_by(2);
        // `name`, or `file: name`.
        let names = spans.map(|span| span.rsplit(": ").next().unwrap_or(span));
        let plain =
            |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        names.filter(|name| plain(name) && name.matches('_').count() > 1).collect()
    }

    #[test]
    fn pages_about_security_name_tests_that_exist() {
        let sources = files(".rs");
        let page = |name: &str| {
            std::fs::read_to_string(build::root().join("docs").join(name)).expect("the page is there")
        };
        let is_test = |name: &str| {
            let head = format!("fn {name}(");
            sources.iter().any(|(_, text)| {
                text.split_once(&head).is_some_and(|(before, _)| {
                    let attribute = before.rfind("#[").map(|at| &before[at..]).unwrap_or_default();
                    ["#[test]", "#[tokio::test"].iter().any(|test| attribute.starts_with(test))
                })
            })
        };
        for name in ["security.md", "network-policy.md"] {
            let text = page(name);
            let named = tests_named(&text);
            assert!(named.len() > 5, "{name} names only {named:?}");
            let gone: Vec<_> = named.iter().filter(|test| !is_test(test)).collect();
            assert!(gone.is_empty(), "{name} names tests that do not exist: {gone:#?}");
        }
        // What security.md says in its list is shown by something.
        let text = page("security.md");
        let bare: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("- ") && tests_named(line).is_empty() && !line.contains(".rs`"))
            .collect();
        assert!(bare.is_empty(), "statements without a test: {bare:#?}");
    }

    #[test]
    fn a_silenced_warning_says_why() {
        let mut wrong = Vec::new();
        for (path, text) in files(".rs").iter().filter(|(path, _)| !starts(path, "xtask")) {
            for start in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
                for (at, _) in text.match_indices(start) {
                    let attribute = text[at..].split(']').next().unwrap_or_default();
                    if !attribute.contains("reason = ") {
                        wrong.push(format!("{}: {attribute}", path.display()));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn every_crate_keeps_the_workspaces_lints() {
        // The former is no member of the workspace, the latter's programs call C as any program may.
        let own = ["crates/pause", "tests/programs"];
        let manifests = files("Cargo.toml");
        let wrong: Vec<_> = manifests
            .iter()
            .filter(|(_, text)| !text.contains("[lints]\nworkspace = true"))
            .filter(|(path, _)| !own.iter().any(|own| starts(path, own)))
            .map(|(path, _)| path)
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn nothing_is_left_to_do_without_a_reason() {
        let mut wrong = Vec::new();
        for (path, text) in files(".rs").iter().filter(|(path, _)| !starts(path, "xtask")) {
            for (number, line) in text.lines().enumerate() {
                if ["TODO", "FIXME", "XXX"].iter().any(|word| line.contains(word)) {
                    wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
