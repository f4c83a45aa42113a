//! Lists as a table, JSON or YAML.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

/// How a list is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// The flag of every command that lists something.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Output {
    /// Output format
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub format: Format,
}

/// A row of a list.
pub trait Row: Serialize {
    /// Upper-case headings.
    const COLUMNS: &'static [&'static str];
    /// Those that a table leaves out where no row has more than a dash for them.
    const OPTIONAL: &'static [&'static str] = &[];
    /// One text a column.
    fn cells(&self) -> Vec<String>;
}

/// Prints rows to standard output.
pub fn print<R: Row>(rows: &[R], format: Format) -> anyhow::Result<()> {
    write(&render(rows, rows, format)?)
}

/// Prints what there is one of: an object in JSON and YAML, and a table of one row.
pub fn print_one<R: Row>(row: &R, format: Format) -> anyhow::Result<()> {
    write(&render(row, std::slice::from_ref(row), format)?)
}

/// Writes to standard output, whose reader may have gone.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // A reader such as `head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write the output"),
    }
}

/// `value` is what the formats for programs show of the rows.
fn render<R: Row>(value: &(impl Serialize + ?Sized), rows: &[R], format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(value).context("cannot encode")? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(value).context("cannot encode")?,
        Format::Table => table(R::COLUMNS, R::OPTIONAL, rows.iter().map(Row::cells).collect()),
    })
}

/// Left-aligned columns, three spaces apart, as kubectl prints them.
fn table(columns: &[&str], optional: &[&str], rows: Vec<Vec<String>>) -> String {
    let has = |index: usize| rows.iter().any(|row| row.get(index).is_some_and(|cell| cell != "-"));
    let shown: Vec<bool> =
        columns.iter().enumerate().map(|(index, column)| !optional.contains(column) || has(index)).collect();
    let heading = columns.iter().map(|column| (*column).to_owned()).collect();
    let lines = std::iter::once(heading).chain(rows).map(|line: Vec<String>| {
        line.into_iter().zip(&shown).filter_map(|(cell, shown)| shown.then_some(cell)).collect::<Vec<_>>()
    });
    let lines: Vec<Vec<String>> = lines.collect();
    let width =
        |index: usize| lines.iter().filter_map(|line| line.get(index)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..lines[0].len()).map(|index| width(index).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// A duration as kubectl shows ages: `5s`, `3m20s`, `4h`, `2d`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if !seconds.is_multiple_of(60) => format!("{}m{}s", seconds / 60, seconds % 60),
        120..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "bb".into()], vec!["ccc".into(), String::new()]];
        assert_eq!(table(&["X", "Y"], &[], rows.to_vec()), "X     Y\na     bb\nccc\n");
        assert_eq!(table(&["X", "Y"], &["X", "Y"], rows.to_vec()), "X     Y\na     bb\nccc\n");
        let dashes = || vec![vec!["-".to_owned(), "b".into()], vec!["-".into(), "d".into()]];
        assert_eq!(table(&["X", "Y"], &["X"], dashes()), "Y\nb\nd\n");
        assert_eq!(table(&["X", "Y"], &[], dashes()), "X   Y\n-   b\n-   d\n");
    }

    #[test]
    fn one_is_an_object_and_several_are_a_list() {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Boat {
            sail_count: u32,
        }
        impl Row for Boat {
            const COLUMNS: &'static [&'static str] = &["SAILS"];
            fn cells(&self) -> Vec<String> {
                vec![self.sail_count.to_string()]
            }
        }
        let (one, several) = (Boat { sail_count: 1 }, [Boat { sail_count: 2 }]);
        let text = |format| render(&one, std::slice::from_ref(&one), format).expect("text");
        assert_eq!(text(Format::Json), "{\n  \"sailCount\": 1\n}\n");
        assert_eq!(text(Format::Yaml), "sailCount: 1\n");
        assert_eq!(text(Format::Table), "SAILS\n1\n");
        let text = |format| render(&several[..], &several, format).expect("text");
        assert_eq!(text(Format::Yaml), "- sailCount: 2\n");
        assert_eq!(text(Format::Table), "SAILS\n2\n");
    }

    #[test]
    fn ages_are_short() {
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (200, "3m20s"), (600, "10m"), (10_800, "3h"), (200_000, "2d")]
        {
            assert_eq!(age(seconds), text);
        }
    }
}
