//! Collects what the API's fields are for, as `kubectl explain` prints it, from the source of `k8s-openapi`,
//! which has those texts for its JSON schemas. To compile it once more with these, and to link them as code,
//! would cost a minute and megabytes; packed as text they are a quarter of one.
//!
//! The result is lines: `@DEFINITION<tab>TEXT` and, for each of its fields below, `NAME<tab>TEXT`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Of the API's version that the rest of Skiff is built with.
const MODULE: &str = "src/v1_36";

#[derive(Default)]
struct Described {
    text: String,
    fields: BTreeMap<String, String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let mut all = BTreeMap::new();
    visit(&package("k8s-openapi")?.join(MODULE), &mut all)?;
    let fields: usize = all.values().map(|described: &Described| described.fields.len()).sum();
    if all.len() < 500 || fields < 2_500 {
        return Err(format!("k8s-openapi describes only {} types and {fields} fields", all.len()).into());
    }
    let mut lines = String::new();
    for (name, described) in &all {
        lines += &format!("@{name}\t{}\n", one_line(&described.text));
        for (field, text) in &described.fields {
            lines += &format!("{field}\t{}\n", one_line(text));
        }
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(lines.as_bytes())?;
    fs::write(out.join("descriptions.gz"), packed.finish()?)?;
    Ok(())
}

/// Where the source of a dependency is.
fn package(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").ok_or("CARGO is not set")?;
    let output = Command::new(cargo).args(["metadata", "--format-version", "1", "--offline"]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let found = packages.iter().find(|package| package["name"] == name);
    let manifest = found.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.ok_or_else(|| format!("{name} is not among the dependencies"))?;
    Ok(Path::new(manifest).parent().ok_or("a manifest lies in a directory")?.to_owned())
}

fn visit(directory: &Path, all: &mut BTreeMap<String, Described>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, all)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            read(&fs::read_to_string(&path)?, all);
        }
    }
    Ok(())
}

/// Reads the schemas of one file. The source is generated, so that its lines tell what they are.
fn read(source: &str, all: &mut BTreeMap<String, Described>) {
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if !line.contains("fn schema_name() ->") {
            continue;
        }
        let Some(name) = lines.next().and_then(literal) else { continue };
        let described = all.entry(name).or_default();
        let mut field = None;
        for line in lines.by_ref().take_while(|line| *line != "}") {
            let indent = line.len() - line.trim_start().len();
            let text = line.trim_start();
            if indent == 16 && text.starts_with('"') && (text.ends_with("\": {") || text.ends_with("\": ({"))
            {
                field = text.strip_prefix('"').and_then(|text| text.split('"').next()).map(str::to_owned);
                continue;
            }
            let rest = text
                .strip_prefix("\"description\": ")
                .or_else(|| text.split_once("insert(\"description\".into(), ").map(|(_, rest)| rest));
            let Some(text) = rest.and_then(literal) else { continue };
            match (indent, &field) {
                (12, _) => described.text = text,
                (20, Some(field)) => {
                    described.fields.entry(field.clone()).or_insert(text);
                }
                _ => {}
            }
        }
    }
}

/// The first string literal of a line of Rust.
fn literal(line: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = line.split_once('"')?.1.chars();
    loop {
        match rest.next()? {
            '"' => return Some(out),
            '\\' => match rest.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'u' => {
                    let digits: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                }
                other => out.push(other),
            },
            plain => out.push(plain),
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace(['\t', '\r'], " ")
}
