//! What is said beside a request's answer: warnings to its client, annotations to the audit log.

use http::HeaderValue;
use parking_lot::Mutex;

use crate::http_body::Response;

/// Of all warnings of an answer together, as upstream bounds them: clients give up on more headers.
const CHARS_MAX: usize = 4096;
/// Of each, where all together are too long.
const SHORT_CHARS: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Notes {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<Vec<(String, String)>>,
}

impl Notes {
    /// Adds a text for a `Warning` header of the answer. A patch that is tried again says the same again.
    pub(crate) fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock();
        // What is told no more need not be kept.
        let told: usize = warnings.iter().map(|known| known.chars().count().min(SHORT_CHARS)).sum();
        if !text.is_empty() && told < CHARS_MAX && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Adds what the audit log is to say; the first value of a key stays, as upstream has it.
    pub(crate) fn annotate(&self, key: String, value: String) {
        let mut annotations = self.annotations.lock();
        if !annotations.iter().any(|(known, _)| *known == key) {
            annotations.push((key, value));
        }
    }

    pub(crate) fn annotations(&self) -> Vec<(String, String)> {
        self.annotations.lock().clone()
    }

    /// Puts the warnings on an answer, as `299 - "text"`.
    pub(crate) fn put_on(&self, mut response: Response) -> Response {
        for text in bounded(&self.warnings.lock()) {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
        response
    }
}

/// The texts as they are told: whole, or shortened, and the first of them, where they are too long together.
fn bounded(texts: &[String]) -> Vec<&str> {
    let whole: usize = texts.iter().map(|text| text.chars().count()).sum();
    if whole <= CHARS_MAX {
        return texts.iter().map(String::as_str).collect();
    }
    let mut told = 0;
    let short = texts.iter().map_while(|text| {
        let short = text.char_indices().nth(SHORT_CHARS).map_or(text.as_str(), |(end, _)| &text[..end]);
        let fits = told < CHARS_MAX;
        told += short.chars().count();
        fits.then_some(short)
    });
    short.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(texts: &[String]) -> Vec<String> {
        let notes = Notes::default();
        texts.iter().for_each(|text| notes.warn(text.clone()));
        let answer = notes.put_on(http::Response::new(crate::http_body::empty()));
        let all = answer.headers().get_all(http::header::WARNING).iter();
        all.map(|value| value.to_str().expect("text")["299 - \"".len()..].trim_end_matches('"').to_owned())
            .collect()
    }

    #[test]
    fn each_is_told_once_and_whole_while_all_together_are_short() {
        let texts = ["a".repeat(2000), "b".into(), "b".into(), String::new(), "c".repeat(2095)];
        assert_eq!(told(&texts), ["a".repeat(2000), "b".into(), "c".repeat(2095)]);
    }

    #[test]
    fn too_much_is_shortened_and_ends() {
        assert_eq!(told(&["a".repeat(2000), "c".repeat(2097)]), ["a".repeat(256), "c".repeat(256)]);
        let many: Vec<String> = (0..40_000).map(|n| format!("{n:05}{}", "x".repeat(300))).collect();
        let told = told(&many);
        assert_eq!(told.len(), 16);
        assert_eq!(told[15], format!("00015{}", "x".repeat(251)));
    }
}
