//! What the README shows is what the commands print today.

use std::fs;
use std::path::PathBuf;

use skiff_tests::{Cluster, manifest, skiff, wait_until};

/// As long as the name and the ranges that the README has, so that tables are as wide; and ranges that no
/// cluster of another test gets by itself.
const NAME: &str = "rdmes";
const RANGES: [(&str, &str); 3] = [("10.96.", "10.76."), ("10.100.", "10.180."), ("10.244.", "10.224.")];

/// Commands and what they print, as the README has them: indented, and each command after `$ `.
fn shown(readme: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        let indented = line.strip_prefix("    ");
        match (indented, indented.and_then(|line| line.strip_prefix("$ skiff "))) {
            (_, Some(command)) => {
                inside = true;
                all.push((command.to_owned(), String::new()));
            }
            (Some(text), None) if inside => {
                let printed = &mut all.last_mut().expect("a command").1;
                *printed += text;
                *printed += "\n";
            }
            (None, _) if line.is_empty() => {
                if inside {
                    all.last_mut().expect("a command").1 += "\n";
                }
            }
            _ => inside = false,
        }
    }
    all
}

/// Words that are the same in every run: what the kernel gives out or hashes make is not, nor where a line
/// that has some of it ends.
fn lasting(text: &str) -> Vec<String> {
    // Nor are addresses of IPv6, which links give themselves where the machine has it.
    let absent = |word: &str| word == "…" || word.starts_with("fe80::") || word == "::1/128";
    let words: Vec<&str> = text.split_whitespace().filter(|word| !absent(word)).collect();
    let is = |words: &[&str], word: &str| words.contains(&word);
    let last = |(index, word): (usize, &&str)| {
        let number = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let before = index.checked_sub(1).map_or("", |index| words[index]);
        let after = words.get(index + 1).copied().unwrap_or_default();
        let counted = is(&["PID", "(PID", "process"], before) || after.starts_with("process");
        match digits && (counted || number.len() == 10) {
            true => "N".to_owned(),
            // The node's end of a sandbox's link.
            false if word.len() == 14 && word.starts_with("veth") => "LINK".to_owned(),
            false => (*word).to_owned(),
        }
    };
    words.iter().enumerate().map(last).collect()
}

#[test]
fn the_readme_shows_what_is_printed_today() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let shown = shown(&fs::read_to_string(path).expect("the README"));
    let commands: Vec<&str> = shown.iter().map(|(command, _)| command.as_str()).collect();
    for what in ["explain pod ", "explain pending ", "trace "] {
        assert!(commands.iter().any(|command| command.starts_with(what)), "{what}: {commands:?}");
    }
    assert!(commands.iter().any(|command| command.contains("--compare")), "{commands:?}");
    let ranges = ["--service-cidr", "10.76.0.0/16", "--node-cidr", "10.180.0.0/24"];
    let flags: Vec<&str> = ranges.into_iter().chain(["--pod-cidr", "10.224.0.0/16"]).collect();
    let cluster = Cluster::start_with(NAME, 2, &flags);
    let text = fs::read_to_string(manifest("explained.yaml")).expect("the manifest");
    let mut text = text;
    for (shown, own) in RANGES {
        text = text.replace(shown, own);
    }
    // One after the other, so that addresses are given out in order.
    for part in text.split("---\n") {
        let mut command = cluster.command("KUBECTL");
        let file = cluster.data_dir().join("part.yaml");
        fs::write(&file, part).expect("it is written");
        skiff_tests::run(command.arg("apply").arg("-f").arg(&file)).ok();
        if part.contains("kind: Pod") && !part.contains("too-late") {
            let ready = ["wait", "pod", "--all", "--for=condition=Ready", "--timeout=120s"];
            cluster.kubectl(&ready).ok();
        }
    }
    wait_until("the second is judged", || {
        cluster.kubectl(&["describe", "pod", "too-late"]).stdout.contains("FailedScheduling")
    });
    for (command, expected) in shown {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.extend(["--name", NAME]);
        wait_until("it prints what is shown", || {
            let mut printed = skiff(&args).ok().replace(NAME, "skiff");
            for (shown, own) in RANGES {
                printed = printed.replace(own, shown);
            }
            let same = lasting(&printed) == lasting(&expected);
            if !same {
                eprintln!("skiff {command} prints now:\n{printed}");
            }
            same
        });
    }
}
