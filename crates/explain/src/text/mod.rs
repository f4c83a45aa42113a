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
/// Of a line, after its beginning.
const ROOM_MIN: usize = 20;

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
/// line can be taken for the beginning of another entry. A word that fits no line is continued too.
pub(crate) fn wrapped(out: &mut String, head: &str, text: &str) {
    let indent = columns(head);
    // The continuation's mark takes two columns, also of the first line: it is simpler so.
    let room = COLUMNS.saturating_sub(indent).max(ROOM_MIN) - 2;
    for (index, line) in lines(text, room).iter().enumerate() {
        let whole = match index {
            0 => format!("{head}{line}"),
            _ => format!("{:indent$}… {line}", ""),
        };
        out.push_str(whole.trim_end());
        out.push('\n');
    }
}

/// As [`wrapped`], for what has to stand out.
pub(crate) fn warned(out: &mut String, paint: Paint, head: &str, text: &str) {
    let start = out.len();
    wrapped(out, head, text);
    if paint == Paint::Colour {
        let plain = out.split_off(start);
        out.push_str(&paint.warn(plain.trim_end()));
        out.push('\n');
    }
}

/// Words in lines of so many columns.
fn lines(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut line, mut used) = (String::new(), 0);
    for word in text.split_whitespace() {
        let wanted = columns(word);
        // One that fits no line begins here as well as on the next.
        if used > 0 && used + 1 + wanted > room && (wanted <= room || used + 1 >= room) {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        for c in Columns(word) {
            let own = columns(c);
            if used + own > room {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push_str(c);
            used += own;
        }
    }
    lines.push(line);
    lines
}

/// How many columns of a terminal a text takes.
fn columns(text: &str) -> usize {
    let one = |part: &str| match part.chars().next() {
        Some('\u{1b}') | None => 0,
        Some(c) => width(c),
    };
    Columns(text).map(one).sum()
}

/// Character by character, each escape sequence (`ESC [ … m`) as one.
struct Columns<'a>(&'a str);

impl<'a> Iterator for Columns<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let first = self.0.chars().next()?;
        let end = match first {
            '\u{1b}' => self.0.find('m').map_or(self.0.len(), |at| at + 1),
            c => c.len_utf8(),
        };
        let (part, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(part)
    }
}

/// East Asian characters and pictures are two columns wide (Unicode Standard Annex 11), marks that combine
/// with another take none.
fn width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x2_0000..=0x3_fffd => 2,
        _ => 1,
    }
}

pub(crate) fn heading(out: &mut String, paint: Paint, text: &str) {
    out.push('\n');
    let mut plain = String::new();
    wrapped(&mut plain, "", text);
    plain.lines().for_each(|line| {
        out.push_str(&paint.bold(line));
        out.push('\n');
    });
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

    #[test]
    fn a_word_that_fits_no_line_is_continued() {
        let mut out = String::new();
        wrapped(&mut out, "Pod ", &format!("{} on it", "n".repeat(253)));
        assert!(out.lines().all(|line| columns(line) <= COLUMNS), "{out}");
        assert_eq!(out.matches('n').count(), 254, "{out}");
        assert_eq!(out.lines().count(), 3);
        assert!(out.ends_with(" on it\n"), "{out}");
    }

    #[test]
    fn wide_characters_take_two_columns_and_colours_none() {
        assert_eq!(columns("파드 a"), 6);
        assert_eq!(columns("e\u{301}"), 1);
        assert_eq!(columns(&Paint::Colour.warn("abc")), 3);
        let mut out = String::new();
        wrapped(&mut out, "", &Paint::Colour.warn(&"网".repeat(120)));
        assert!(out.lines().all(|line| columns(line) <= COLUMNS), "{out}");
        let mut out = String::new();
        warned(&mut out, Paint::Colour, "  ! ", &"word ".repeat(30));
        assert!(out.starts_with("\u{1b}[33m  ! word") && out.ends_with("word\u{1b}[0m\n"), "{out:?}");
        assert!(out.lines().all(|line| columns(line) <= COLUMNS), "{out}");
    }
}
