//! What is said beside a request's answer: warnings to its client, annotations to the audit log.

use http::HeaderValue;
use parking_lot::Mutex;

use crate::http_body::Response;

#[derive(Debug, Default)]
pub(crate) struct Notes {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<Vec<(String, String)>>,
}

impl Notes {
    /// Adds a text for a `Warning` header of the answer. A patch that is tried again says the same again.
    pub(crate) fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
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
        for text in self.warnings.lock().iter() {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
        response
    }
}
