//! Collects what the fields of answers are for from the comments of their types, so that what is published in
//! OpenAPI is what stands beside the code.
//!
//! The result is a table of types that are read from JSON, field names and texts; a type's own text has no field
//! name.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src");
    let mut files = Vec::new();
    find(Path::new("src"), &mut files)?;
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        read(&fs::read_to_string(&file)?, &mut rows);
    }
    if rows.len() < 100 {
        return Err(format!("the sources describe only {} types and fields", rows.len()).into());
    }
    let rows: String = rows.iter().map(|row| format!("    {row:?},\n")).collect();
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptions.rs");
    fs::write(out, format!("&[\n{rows}]"))?;
    Ok(())
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Type, field and text.
type Row = (String, String, String);

/// What one file describes. Its tests come last, and are left out.
fn read(source: &str, rows: &mut Vec<Row>) {
    let (mut text, mut renamed, mut is_read): (Vec<&str>, Option<&str>, bool) = (Vec::new(), None, false);
    let mut inside: Option<String> = None;
    for line in source.lines().take_while(|line| *line != "#[cfg(test)]") {
        let own = line.trim();
        if let Some(comment) = own.strip_prefix("///") {
            text.push(comment.trim());
            continue;
        }
        if own.starts_with("#[") {
            is_read |= own.starts_with("#[derive(") && own.contains("Deserialize");
            let name = own.split_once("rename = \"").and_then(|(_, rest)| rest.split_once('"'));
            renamed = name.map(|(name, _)| name).or(renamed);
            continue;
        }
        let mut row = |name: &str, field: String| {
            if !text.is_empty() {
                rows.push((name.to_owned(), field, text.join(" ")));
            }
        };
        let declared = own.strip_prefix("pub ").unwrap_or_default();
        let named = declared.strip_prefix("struct ").and_then(|rest| rest.strip_suffix(" {"));
        if let Some(name) = named.filter(|_| is_read) {
            row(name, String::new());
            inside = Some(name.to_owned());
        } else if let (Some(name), Some((field, _))) = (&inside, declared.split_once(": ")) {
            row(name, renamed.map_or_else(|| camel(field), str::to_owned));
        } else if line.starts_with('}') {
            inside = None;
        }
        // Attributes of a type stand right before it.
        (renamed, is_read) = (None, false);
        text.clear();
    }
}

/// `pod_ip` as JSON has it, `podIp`.
fn camel(field: &str) -> String {
    let mut out = String::new();
    for (index, word) in field.split('_').enumerate() {
        match word.chars().next() {
            Some(first) if index > 0 => {
                out.push(first.to_ascii_uppercase());
                out.push_str(&word[first.len_utf8()..]);
            }
            _ => out.push_str(word),
        }
    }
    out
}
