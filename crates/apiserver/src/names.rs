//! What names must look like. Each rule returns the fault's wording, `None` when the name is good.

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

fn is_label(text: &str) -> bool {
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            good(*first) && good(*last) && bytes.iter().all(|c| good(*c) || *c == b'-')
        }
        _ => false,
    }
}

/// RFC 1123 subdomain: the rule for most names.
pub(crate) fn subdomain(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some("must be no more than 253 bytes".into());
    }
    (!name.split('.').all(is_label)).then(|| SUBDOMAIN.into())
}

/// RFC 1123 label: namespaces and services.
pub(crate) fn label(name: &str) -> Option<String> {
    if name.len() > 63 {
        return Some("must be no more than 63 bytes".into());
    }
    (!is_label(name)).then(|| LABEL.into())
}

/// What a name in a path can't be, whatever its kind.
pub(crate) fn path_segment(name: &str) -> Option<String> {
    match name {
        "." | ".." => Some(format!("may not be '{name}'")),
        name if name.contains('/') => Some("may not contain '/'".into()),
        name if name.contains('%') => Some("may not contain '%'".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subdomains_are_dotted_labels() {
        for good in ["a", "a.b", "0-9.x", &"a".repeat(253)] {
            assert_eq!(subdomain(good), None, "{good}");
        }
        for bad in ["", "A", "a..b", "-a", "a-", "a_b", ".a", &"a".repeat(254)] {
            assert!(subdomain(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn labels_have_no_dots() {
        assert_eq!(label("kube-system"), None);
        assert!(label("a.b").is_some());
        assert!(label(&"a".repeat(64)).is_some());
    }
}
