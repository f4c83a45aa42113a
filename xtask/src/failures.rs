//! What failed and with which words, told once more after the flood of a long run.

/// Of each failed test.
const LINES_MAX: usize = 12;
const CHARS_MAX: usize = 400;

/// Reads the output of test programs line by line.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    told: Vec<(String, Vec<String>)>,
    within: bool,
}

impl Failures {
    pub(crate) fn read(&mut self, line: &str) {
        let name = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        match name {
            Some(name) => {
                self.told.push((name.to_owned(), Vec::new()));
                self.within = true;
            }
            None if line == "failures:" || line.starts_with("stack backtrace:") => self.within = false,
            None if self.within && !line.trim().is_empty() => {
                if let Some((_, lines)) = self.told.last_mut()
                    && lines.len() < LINES_MAX
                {
                    lines.push(cut(line));
                }
            }
            None => {}
        }
    }

    pub(crate) fn print(&self) {
        for (name, lines) in &self.told {
            println!("failed: {name}");
            lines.iter().for_each(|line| println!("    {line}"));
        }
    }
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_each_failure_are_kept_and_cut() {
        let mut failures = Failures::default();
        let long = "x".repeat(CHARS_MAX + 1);
        let output = [
            "test one ... FAILED",
            "",
            "failures:",
            "",
            "---- one stdout ----",
            "",
            "thread 'one' (7) panicked at a.rs:1:2:",
            &long,
            "stack backtrace:",
            "   0: begin",
            "---- two stdout ----",
            "no",
            "",
            "failures:",
            "    one",
            "test result: FAILED. 0 passed; 2 failed; 0 ignored",
        ];
        output.iter().for_each(|line| failures.read(line));
        let cut = format!("{}…", "x".repeat(CHARS_MAX));
        let expected = [
            ("one".to_owned(), vec!["thread 'one' (7) panicked at a.rs:1:2:".to_owned(), cut]),
            ("two".to_owned(), vec!["no".to_owned()]),
        ];
        assert_eq!(failures.told, expected);
    }
}
