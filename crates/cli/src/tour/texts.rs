//! What the tour says, by language: the same facts in each. A further language is one more file.

mod en;
mod ko;
mod zh;

use super::steps::{Typed, steps};

/// What is said about one step.
pub(super) struct Told {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) question: &'static str,
    /// What to expect, before it is typed.
    pub(super) expect: &'static str,
    /// What the explanation that follows shows.
    pub(super) explained: &'static str,
}

pub(super) struct Texts {
    pub(super) code: &'static str,
    pub(super) heading: &'static str,
    pub(super) intro: &'static str,
    /// How the page writes what outputs hold.
    pub(super) notation: &'static str,
    pub(super) question: &'static str,
    pub(super) manifest: &'static str,
    pub(super) typed: &'static str,
    pub(super) expect: &'static str,
    pub(super) explained: &'static str,
    /// Before what an output does not hold.
    pub(super) without: &'static str,
    pub(super) press_enter: &'static str,
    pub(super) resumes: &'static str,
    pub(super) as_expected: &'static str,
    pub(super) not_as_expected: &'static str,
    pub(super) leaving: &'static str,
    pub(super) stopped: &'static str,
    pub(super) done: &'static str,
    pub(super) steps: &'static [Told],
}

const LANGUAGES: &[&Texts] = &[&en::TEXTS, &ko::TEXTS, &zh::TEXTS];

impl Texts {
    pub(super) fn step(&self, id: &str) -> &Told {
        self.steps.iter().find(|told| told.id == id).expect("a test looks that every step is told")
    }
}

pub(super) fn codes() -> impl Iterator<Item = &'static str> {
    LANGUAGES.iter().map(|texts| texts.code)
}

/// The language with this code.
pub(super) fn named(code: &str) -> Option<&'static Texts> {
    LANGUAGES.iter().copied().find(|texts| texts.code == code)
}

/// That of `$LANG` (`ko_KR.UTF-8`), else English.
pub(super) fn of_environment(lang: &str) -> &'static Texts {
    let code: String = lang.chars().take_while(char::is_ascii_lowercase).collect();
    named(&code).unwrap_or(LANGUAGES[0])
}

/// The page `docs/tour.md`, or that of another language.
pub(super) fn page(texts: &Texts) -> String {
    let mut page = format!("# {}\n\n{}\n\n{}\n", texts.heading, texts.intro, texts.notation);
    for (index, step) in steps().into_iter().enumerate() {
        let told = texts.step(step.id);
        page += &format!("\n## {}. {} ({})\n\n{}\n", index + 1, told.title, step.id, told.question);
        if let Some((file, text)) = step.manifest {
            page += &format!("\n{} `{file}`:\n\n```yaml\n{text}```\n", texts.manifest);
        }
        page += &format!("\n{}\n{}", texts.typed, console(texts, step.typed));
        page += &format!("\n{} {}\n", texts.expect, told.expect);
        page += &format!("\n{} {}\n{}", texts.explained, told.explained, console(texts, step.explained));
    }
    page
}

/// Commands, and below each what its output holds.
fn console(texts: &Texts, typed: &[Typed]) -> String {
    let lines = typed.iter().map(|typed| {
        let holds = typed.expect.iter().filter(|word| !word.starts_with('!'));
        let holds: String = holds.map(|word| format!("{word} … ")).collect();
        let lacks: Vec<&str> = typed.expect.iter().filter_map(|word| word.strip_prefix('!')).collect();
        let lacks = match lacks.as_slice() {
            [] => String::new(),
            some => format!("({} {})", texts.without, some.join(", ")),
        };
        format!("$ {}\n{}\n", typed.command, format!("… {holds}{lacks}").trim_end())
    });
    format!("\n```console\n{}```\n", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_tells_every_step() {
        let wanted: Vec<&str> = steps().iter().map(|step| step.id).collect();
        for texts in LANGUAGES {
            let told: Vec<&str> = texts.steps.iter().map(|told| told.id).collect();
            assert_eq!(told, wanted, "{}", texts.code);
            for told in texts.steps {
                for text in [told.title, told.question, told.expect, told.explained] {
                    assert!(!text.is_empty(), "{} {}", texts.code, told.id);
                }
            }
        }
    }

    #[test]
    fn the_language_is_that_of_the_environment() {
        assert_eq!(of_environment("ko_KR.UTF-8").code, "ko");
        assert_eq!(of_environment("zh_CN.UTF-8").code, "zh");
        assert_eq!(of_environment("C.UTF-8").code, "en");
        assert_eq!(of_environment("").code, "en");
    }

    #[test]
    fn the_pages_of_the_documentation_are_these() {
        for texts in LANGUAGES {
            let suffix = if texts.code == "en" { String::new() } else { format!(".{}", texts.code) };
            let path = format!("{}/../../docs/tour{suffix}.md", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("UPDATE_EXPECT").is_some() {
                std::fs::write(&path, page(texts)).expect("the page can be written");
            }
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                written == page(texts),
                "{path} is not what `skiff tour --page --lang {}` prints",
                texts.code
            );
        }
    }
}
