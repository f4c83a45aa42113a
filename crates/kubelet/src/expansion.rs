//! `$(VAR)` in values, commands and paths, and how much may come of it.
//!
//! A value may name others that name others, so that a few lines would expand to more than any memory holds.
//! What no program can be given is not made: Linux takes no string of 128 KiB, and no more than 6 MiB of arguments
//! and environment together (execve(2); MAX_ARG_STRLEN, and three quarters of _STK_LIM, in fs/exec.c).

use std::collections::HashMap;

/// With the zero byte behind it.
const STRING_MAX: usize = 128 << 10;
const TOTAL_MAX: usize = 6 << 20;

/// Why something is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what} is larger than the 128 KiB that a program can be given as one string")]
    String { what: String },
    #[error("{what} is larger than the 6 MiB that a program can be given")]
    Total { what: &'static str },
}

/// Replaces each `$(NAME)` that `value_of` knows; others stay as they are, and `$$` is one `$`. None where the
/// result is longer than any program's string.
pub(crate) fn expand<'a>(text: &str, value_of: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(inner) = after.strip_prefix('(') {
            let Some((name, end)) = inner.split_once(')') else {
                // Nothing is closed from here on, so nothing is looked for again.
                result.push_str(&rest[at..].replace("$$", "$"));
                rest = "";
                break;
            };
            match value_of(name) {
                Some(value) => result.push_str(value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = end;
        } else {
            result.push('$');
            rest = after;
        }
        if result.len() >= STRING_MAX {
            return None;
        }
    }
    result.push_str(rest);
    (result.len() < STRING_MAX).then_some(result)
}

/// [`expand`] over a command or its arguments.
pub(crate) fn expand_all(
    what: &'static str,
    texts: Option<&Vec<String>>,
    env: &[(String, String)],
) -> Result<Vec<String>, Error> {
    let env: HashMap<&str, &str> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let (mut all, mut total) = (Vec::new(), 0);
    for (number, text) in texts.into_iter().flatten().enumerate() {
        let expanded = expand(text, |name| env.get(name).copied());
        let expanded = expanded.ok_or_else(|| Error::String { what: format!("{what}[{number}]") })?;
        total += expanded.len() + 1;
        if total > TOTAL_MAX {
            return Err(Error::Total { what });
        }
        all.push(expanded);
    }
    Ok(all)
}

/// How much of an environment there is already.
#[derive(Debug, Default)]
pub(crate) struct Room {
    taken: usize,
}

impl Room {
    /// `NAME=VALUE` takes the place of what the variable was before.
    pub(crate) fn take(&mut self, name: &str, value: &str, before: Option<&String>) -> Result<(), Error> {
        let size = |value: &str| name.len() + value.len() + 2;
        if size(value) > STRING_MAX {
            return Err(Error::String { what: format!("environment variable {name}") });
        }
        self.taken = self.taken + size(value) - before.map_or(0, |before| size(before));
        if self.taken > TOTAL_MAX { Err(Error::Total { what: "the environment" }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_keeps_what_it_does_not_know() {
        let value_of = |name: &str| (name == "A").then_some("1");
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("$(A)$(A $$ $(A", "1$(A $ $(A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, value_of).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_string_is_as_long_as_a_programs() {
        let half = "x".repeat(STRING_MAX / 2);
        let value_of = |_: &str| Some(half.as_str());
        assert!(expand("$(A)", value_of).is_some());
        assert_eq!(expand("$(A)$(A)", value_of), None);
        assert_eq!(expand(&"x".repeat(STRING_MAX), value_of), None);
        // References that are never closed are read once.
        assert_eq!(expand(&"$(".repeat(60_000), value_of), Some("$(".repeat(60_000)));
    }

    #[test]
    fn commands_are_expanded_like_values() {
        let env = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())];
        let texts = vec!["$(A)-$(B)".to_owned(), "$(C)".to_owned()];
        assert_eq!(expand_all("args", Some(&texts), &env), Ok(vec!["1-2".to_owned(), "$(C)".to_owned()]));
        assert_eq!(expand_all("args", None, &env), Ok(Vec::new()));
    }

    #[test]
    fn arguments_together_are_as_long_as_a_programs() {
        let env = [("A".to_owned(), "x".repeat(100_000))];
        let args = |count: usize| Some(vec!["$(A)".to_owned(); count]);
        assert_eq!(expand_all("args", args(60).as_ref(), &env).map(|all| all.len()), Ok(60));
        assert_eq!(expand_all("args", args(70).as_ref(), &env), Err(Error::Total { what: "args" }));
        let long = Some(vec!["a".to_owned(), "$(A)$(A)".to_owned()]);
        let what = "command[1]".to_owned();
        assert_eq!(expand_all("command", long.as_ref(), &env), Err(Error::String { what }));
    }
}
