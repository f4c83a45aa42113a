//! What names must look like. Each rule returns the fault's wording, `None` when the name is good.

pub(crate) use skiff_api::validate::names::{label, path_segment, subdomain};

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
