//! Explanations as text for people: at most 100 columns, colour only where asked for.

mod node;
mod pending;
mod pod;
mod start;
mod trace;

pub use node::node;
pub use pending::pending;
pub use pod::pod;
pub use start::start;
pub use trace::{comparison, trace};

use crate::Missing;

pub(crate) const COLUMNS: usize = 100;

/// How what stands out is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    /// With the escape sequences of a terminal.
    Colour,
}

impl Paint {
    /// Yellow: look here.
    pub(crate) fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self {
            Paint::Plain => text.to_owned(),
            Paint::Colour => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }
}

/// Writes `text` after `head`, in as many lines as it takes. What continues begins with `…`, so that no
/// line can be taken for the beginning of another entry.
pub(crate) fn wrapped(out: &mut String, head: &str, text: &str) {
    let indent = head.chars().count();
    let room = COLUMNS.saturating_sub(indent).max(20);
    let mut line = String::new();
    let mut lines = Vec::new();
    for word in text.split_whitespace() {
        let used = line.chars().count();
        // The continuation's mark takes two columns, also of the first line: it is simpler so.
        if used > 0 && used + 1 + word.chars().count() > room - 2 {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    for (index, line) in lines.iter().enumerate() {
        let whole = match index {
            0 => format!("{head}{line}"),
            _ => format!("{:indent$}… {line}", ""),
        };
        out.push_str(whole.trim_end());
        out.push('\n');
    }
}

pub(crate) fn heading(out: &mut String, paint: Paint, text: &str) {
    out.push('\n');
    out.push_str(&paint.bold(text));
    out.push('\n');
}

pub(crate) fn missing(out: &mut String, paint: Paint, missing: &[Missing]) {
    if missing.is_empty() {
        return;
    }
    heading(out, paint, "Not known");
    for one in missing {
        wrapped(out, "  ", &format!("{}: {}", one.what, one.why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_continued_within_the_width() {
        let mut out = String::new();
        wrapped(&mut out, "net   own  ", &"word ".repeat(60));
        assert!(out.lines().all(|line| line.chars().count() <= COLUMNS), "{out}");
        assert!(out.lines().skip(1).all(|line| line.trim_start().starts_with("… ")), "{out}");
        assert_eq!(out.matches("word").count(), 60);
    }
}
