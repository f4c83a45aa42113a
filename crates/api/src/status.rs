//! Refusals as the API words them: `metav1.Status` with the exact reasons, codes and messages that clients
//! match on and print.
//!
//! [`StatusError`] is the one error type of request handling. A handler makes it with one of the
//! constructors here; it becomes an HTTP response in one place. [`Cause`] is a fault in one field of an
//! object; validation collects all of them and [`StatusError::invalid`] words the whole.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Status, StatusCause, StatusDetails};

/// A failed request's Status. Displays as its message.
#[derive(Clone, PartialEq)]
pub struct StatusError(pub Box<Status>);

impl fmt::Debug for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code(), self.reason(), self.message())
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for StatusError {}

/// Which resource a Status is about: plural and group, as `details.kind` and `details.group` show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupResource<'a> {
    pub group: &'a str,
    pub resource: &'a str,
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            "" => f.write_str(self.resource),
            group => write!(f, "{}.{group}", self.resource),
        }
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl StatusError {
    /// A failure without details.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Status {
            code: Some(i32::from(code)),
            details: None,
            message: Some(message.into()),
            metadata: ListMeta::default(),
            reason: some(reason),
            status: Some("Failure".into()),
        }))
    }

    fn about(mut self, of: GroupResource<'_>, name: &str) -> Self {
        self.0.details = Some(StatusDetails {
            group: some(of.group),
            kind: some(of.resource),
            name: some(name),
            ..StatusDetails::default()
        });
        self
    }

    pub fn not_found(of: GroupResource<'_>, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{of} {name:?} not found")).about(of, name)
    }

    /// The answer for a resource type that this server does not have.
    pub fn no_such_resource() -> Self {
        let mut e = Self::new(404, "NotFound", "the server could not find the requested resource");
        e.0.details = Some(StatusDetails::default());
        e
    }

    pub fn already_exists(of: GroupResource<'_>, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{of} {name:?} already exists")).about(of, name)
    }

    pub fn conflict(of: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {of} {name:?}: {why}");
        Self::new(409, "Conflict", message).about(of, name)
    }

    /// The optimistic lock failed: the object's resourceVersion is no longer the one sent.
    pub fn modified(of: GroupResource<'_>, name: &str) -> Self {
        const WHY: &str =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(of, name, WHY)
    }

    pub fn forbidden(of: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = match name {
            "" => format!("{of} is forbidden: {why}"),
            name => format!("{of} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(of, name)
    }

    /// Forbidden for a path that is no resource.
    pub fn forbidden_path(why: &str) -> Self {
        let mut e = Self::new(403, "Forbidden", format!("forbidden: {why}"));
        e.0.details = Some(StatusDetails::default());
        e
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// An object with faulty fields; `kind` is the Kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let of = GroupResource { group, resource: kind };
        let mut lines: Vec<String> = Vec::new();
        for line in causes.iter().map(|c| format!("{}: {}", c.field, c.message)) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let all = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut e = Self::new(422, "Invalid", format!("{of} {name:?} is invalid: {all}")).about(of, name);
        if let Some(details) = &mut e.0.details {
            details.causes = Some(
                causes
                    .iter()
                    .map(|c| StatusCause {
                        field: Some(c.field.clone()),
                        message: Some(c.message.clone()),
                        reason: Some(c.reason.into()),
                    })
                    .collect(),
            );
        }
        e
    }

    pub fn method_not_allowed() -> Self {
        let mut e = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        e.0.details = Some(StatusDetails::default());
        e
    }

    /// The method is known but this kind does not support it.
    pub fn not_supported_on(of: GroupResource<'_>, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{of}\"");
        Self::new(405, "MethodNotAllowed", message).about(of, "")
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {list}"))
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {list}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// History before the asked revision is gone: list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn too_old(requested: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// A continue token that outlived its snapshot; `token` carries on at the present state.
    pub fn continue_expired(token: String) -> Self {
        let mut e = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start \
             a new list without the continue parameter, or use the continue token in this response to \
             retrieve the remainder of the results. Continuing with the provided token results in an \
             inconsistent list - objects that were created, modified, or deleted between the time the first \
             chunk was returned and now may show up in the list.",
        );
        e.0.metadata.continue_ = Some(token);
        e
    }

    /// A resource version that this server has not reached.
    pub fn too_large_resource_version(requested: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {requested}, current: {current}");
        let mut e = Self::new(504, "Timeout", format!("Timeout: {message}"));
        e.0.details = Some(StatusDetails {
            causes: Some(vec![StatusCause {
                field: None,
                message: Some("Too large resource version".into()),
                reason: Some("ResourceVersionTooLarge".into()),
            }]),
            retry_after_seconds: Some(1),
            ..StatusDetails::default()
        });
        e
    }

    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_s: i32) -> Self {
        let mut e = Self::new(429, "TooManyRequests", message);
        e.0.details =
            Some(StatusDetails { retry_after_seconds: Some(retry_after_s), ..StatusDetails::default() });
        e
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    pub fn internal(why: impl fmt::Display) -> Self {
        let mut e = Self::new(500, "InternalError", format!("Internal error occurred: {why}"));
        e.0.details = Some(StatusDetails {
            causes: Some(vec![StatusCause { field: None, message: Some(why.to_string()), reason: None }]),
            ..StatusDetails::default()
        });
        e
    }

    pub fn code(&self) -> u16 {
        self.0.code.and_then(|c| u16::try_from(c).ok()).unwrap_or(500)
    }

    pub fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.0.message.as_deref().unwrap_or_default()
    }
}

/// A fault in one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The path, as `spec.containers[0].ports[1].hostPort`.
    pub field: String,
    /// What is wrong, as `Invalid value: 70000: must be between 1 and 65535, inclusive`.
    pub message: String,
    /// `FieldValueInvalid` and its like.
    pub reason: &'static str,
}

/// A value as the messages quote it: text in quotes, and nothing as Go has it; numbers and objects as JSON.
fn quoted(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(s) => format!("{s:?}"),
        serde_json::Value::Null => "\"null\"".to_owned(),
        other => other.to_string(),
    }
}

impl Cause {
    fn with_value(
        field: impl Into<String>,
        reason: &'static str,
        head: &str,
        value: &serde_json::Value,
        detail: &str,
    ) -> Self {
        let mut message = format!("{head}: {}", quoted(value));
        if !detail.is_empty() {
            message = format!("{message}: {detail}");
        }
        Self { field: field.into(), message, reason }
    }

    fn bare(field: impl Into<String>, reason: &'static str, head: &str, detail: &str) -> Self {
        let message = if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") };
        Self { field: field.into(), message, reason }
    }

    pub fn invalid(
        field: impl Into<String>,
        value: impl Into<serde_json::Value>,
        detail: impl AsRef<str>,
    ) -> Self {
        Self::with_value(field, "FieldValueInvalid", "Invalid value", &value.into(), detail.as_ref())
    }

    pub fn required(field: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::bare(field, "FieldValueRequired", "Required value", detail.as_ref())
    }

    pub fn duplicate(field: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        Self::with_value(field, "FieldValueDuplicate", "Duplicate value", &value.into(), "")
    }

    pub fn not_found(field: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        Self::with_value(field, "FieldValueNotFound", "Not found", &value.into(), "")
    }

    pub fn forbidden(field: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::bare(field, "FieldValueForbidden", "Forbidden", detail.as_ref())
    }

    /// A value outside a fixed set.
    pub fn not_supported(
        field: impl Into<String>,
        value: impl Into<serde_json::Value>,
        supported: &[&str],
    ) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = match list.is_empty() {
            true => String::new(),
            false => format!("supported values: {}", list.join(", ")),
        };
        Self::with_value(field, "FieldValueNotSupported", "Unsupported value", &value.into(), &detail)
    }

    pub fn too_long(field: impl Into<String>, limit: usize) -> Self {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        Self::bare(field, "FieldValueTooLong", "Too long", &format!("may not be more than {limit} {unit}"))
    }

    pub fn too_many(field: impl Into<String>, actual: usize, limit: usize) -> Self {
        let unit = if limit == 1 { "item" } else { "items" };
        let detail = format!("must have at most {limit} {unit}");
        Self::with_value(field, "FieldValueTooMany", "Too many", &actual.into(), &detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: GroupResource<'_> = GroupResource { group: "", resource: "pods" };
    const DEPLOYMENTS: GroupResource<'_> = GroupResource { group: "apps", resource: "deployments" };

    #[test]
    fn messages_are_those_clients_print() {
        let check = |e: StatusError, code: u16, text: &str| {
            assert_eq!(e.code(), code);
            assert_eq!(e.message(), text);
        };
        check(StatusError::not_found(DEPLOYMENTS, "a"), 404, r#"deployments.apps "a" not found"#);
        check(StatusError::already_exists(PODS, "a"), 409, r#"pods "a" already exists"#);
        check(
            StatusError::modified(PODS, "a"),
            409,
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your \
             changes to the latest version and try again",
        );
        check(
            StatusError::too_large_resource_version(9, 5),
            504,
            "Timeout: Too large resource version: 9, current: 5",
        );
    }

    #[test]
    fn several_causes_are_listed_in_brackets_and_repeats_once() {
        let causes = [
            Cause::required("spec.containers", ""),
            Cause::invalid("spec.hostPort", 70000, "must be between 1 and 65535, inclusive"),
            Cause::required("spec.containers", ""),
        ];
        let e = StatusError::invalid("", "Pod", "p", &causes);
        assert_eq!(
            e.message(),
            "Pod \"p\" is invalid: [spec.containers: Required value, spec.hostPort: Invalid value: 70000: \
             must be between 1 and 65535, inclusive]"
        );
        let one = StatusError::invalid("apps", "Deployment", "d", &causes[..1]);
        assert_eq!(one.message(), "Deployment.apps \"d\" is invalid: spec.containers: Required value");
    }

    #[test]
    fn unsupported_values_name_the_supported_ones() {
        let cause = Cause::not_supported("spec.type", "Foo", &["A", "B"]);
        assert_eq!(cause.message, r#"Unsupported value: "Foo": supported values: "A", "B""#);
    }
}
