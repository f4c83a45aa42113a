//! A request's address: which resource, which object, which verb, and the query's options.

use std::borrow::Cow;
use std::num::{IntErrorKind, ParseIntError};

use http::Method;
use skiff_api::selector::FieldSelector;
use skiff_api::status::StatusError;

use crate::names;
use crate::resources::{self, Resource};

/// What a path addresses.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows the subresource (`proxy/…`), without a leading slash.
    pub(crate) rest: String,
    /// The path goes through a namespace, as that of a namespace itself does not.
    pub(crate) within: bool,
    /// A path of the old form `/api/v1/watch/…`, which is a watch by itself.
    pub(crate) watch: bool,
}

impl Address {
    /// `None` for a path that addresses no resource.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
        let (group, version) = match parts.next()? {
            "api" => (String::new(), parts.next()?.to_owned()),
            "apis" => (parts.next()?.to_owned(), parts.next()?.to_owned()),
            _ => return None,
        };
        let rest: Vec<String> = parts.map(|p| decode_percent(p).into_owned()).collect();
        let rest = match rest.last().map(String::as_str) {
            // A trailing slash addresses the same.
            Some("") => &rest[..rest.len() - 1],
            _ => &rest[..],
        };
        let mut address = Self { group, version, ..Self::default() };
        let rest = match rest {
            [watch, rest @ ..] if watch == "watch" && !rest.is_empty() => {
                address.watch = true;
                rest
            }
            rest => rest,
        };
        let own = |s: &String| s.clone();
        let after = match rest {
            [] => return None,
            [ns, namespace, resource, after @ ..]
                if ns == "namespaces" && !matches!(resource.as_str(), "status" | "finalize") =>
            {
                address.namespace = own(namespace);
                address.resource = own(resource);
                address.within = true;
                after
            }
            [resource, after @ ..] => {
                address.resource = own(resource);
                after
            }
        };
        address.name = after.first().map(own).unwrap_or_default();
        address.subresource = after.get(1).map(own).unwrap_or_default();
        address.rest = after.get(2..).map(|rest| rest.join("/")).unwrap_or_default();
        if address.resource == "namespaces" && address.group.is_empty() && !address.within {
            address.namespace = address.name.clone();
        }
        Some(address)
    }

    /// The one name that a list or watch is about, when its field selector says so: rules that name objects
    /// then hold for it.
    pub(crate) fn selected_name(&self, verb: &str, field_selector: &str) -> Option<String> {
        if !matches!(verb, "list" | "watch") || !self.name.is_empty() || field_selector.is_empty() {
            return None;
        }
        let selector = FieldSelector::parse(field_selector).ok()?;
        selector.exact("metadata.name").filter(|name| names::path_segment(name).is_none()).map(str::to_owned)
    }

    /// The namespace that objects of this row are looked up in.
    pub(crate) fn namespace_of(&self, row: &Resource) -> String {
        if row.namespaced { self.namespace.clone() } else { String::new() }
    }

    /// Whether there may be such an address of a row's objects: with a namespace where they have one, and with
    /// nothing behind a subresource but what a proxy hands on.
    pub(crate) fn fits(&self, row: &Resource) -> bool {
        let placed = match row.namespaced {
            true => !self.namespace.is_empty() || self.name.is_empty(),
            false => !self.within,
        };
        let known =
            self.subresource.is_empty() || (!self.watch && row.subresource(&self.subresource).is_some());
        placed && known && (self.rest.is_empty() || self.subresource == "proxy")
    }

    pub(crate) fn row(&self) -> Option<&'static Resource> {
        let row = resources::find(&self.group, &self.resource)?;
        (row.version == self.version).then_some(row)
    }
}

/// The API verb of a method on an address.
pub(crate) fn verb(method: &Method, address: &Address, query: &Query) -> &'static str {
    let one = !address.name.is_empty();
    match *method {
        // Whatever the method, as upstream: it is allowed as a watch, or not, before it is refused.
        _ if address.watch => "watch",
        // Whose path names one object gets that object, whatever the query says.
        Method::GET | Method::HEAD if one => "get",
        Method::GET | Method::HEAD if query.flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    }
}

/// A query string's pairs, decoded.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode_form(key), decode_form(value))
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The value, when it is there and not empty.
    pub(crate) fn given(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|v| !v.is_empty())
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.choice(key).unwrap_or(false)
    }

    /// A flag that need not be there. As upstream's conversion reads it: whatever is not a denial agrees.
    pub(crate) fn choice(&self, key: &str) -> Option<bool> {
        self.get(key).map(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }

    /// As Go's `ParseInt` reads it, to whom an empty text is no number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, StatusError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|error: ParseIntError| {
            let why = match error.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            StatusError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
        })
    }

    /// `dryRun=All`.
    pub(crate) fn dry_run(&self) -> Result<bool, StatusError> {
        let mut asked = false;
        for value in self.all("dryRun").filter(|v| !v.is_empty()) {
            if value != "All" {
                let message = format!("dryRun: Unsupported value: {value:?}: supported values: \"All\"");
                return Err(StatusError::bad_request(message));
            }
            asked = true;
        }
        Ok(asked)
    }
}

fn decode_form(text: &str) -> String {
    decode_percent(&text.replace('+', " ")).into_owned()
}

pub(crate) fn decode_percent(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|c| char::from(*c).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Option<[String; 5]> {
        let a = Address::parse(path)?;
        Some([a.group, a.namespace, a.resource, a.name, a.subresource])
    }

    #[test]
    fn paths_address_resources() {
        let check = |path: &str, expected: [&str; 5]| {
            assert_eq!(parts(path), Some(expected.map(String::from)), "{path}");
        };
        check("/api/v1/pods", ["", "", "pods", "", ""]);
        check("/api/v1/namespaces/n/pods/p/log", ["", "n", "pods", "p", "log"]);
        check("/api/v1/namespaces", ["", "", "namespaces", "", ""]);
        check("/api/v1/namespaces/n", ["", "n", "namespaces", "n", ""]);
        check("/api/v1/namespaces/n/status", ["", "n", "namespaces", "n", "status"]);
        check("/api/v1/namespaces/n/pods/", ["", "n", "pods", "", ""]);
        check("/apis/apps/v1/namespaces/n/deployments/d", ["apps", "n", "deployments", "d", ""]);
        check("/api/v1/nodes/a%2Fb", ["", "", "nodes", "a/b", ""]);
        assert_eq!(parts("/api/v1"), None);
        assert_eq!(parts("//api/v1/pods"), None);
        assert_eq!(parts("/healthz"), None);
    }

    #[test]
    fn an_address_fits_the_kind_that_it_names() {
        for (path, expected) in [
            ("/api/v1/pods", true),
            ("/api/v1/pods/p", false),
            ("/api/v1/namespaces/n/pods/p", true),
            ("/api/v1/namespaces/n/pods/p/status", true),
            ("/api/v1/namespaces/n/pods/p/nothing", false),
            ("/api/v1/namespaces/n/pods/p/status/more", false),
            ("/api/v1/namespaces/n/pods/p/proxy/more", true),
            ("/api/v1/nodes/n", true),
            ("/api/v1/namespaces/n/nodes/n", false),
            ("/api/v1/namespaces/n/nodes", false),
            ("/api/v1/namespaces/n/finalize", true),
            ("/api/v1/namespaces", true),
            ("/api/v1/namespaces/n/namespaces", false),
            ("/api/v1/namespaces/n/namespaces/n", false),
            ("/api/v1/watch/namespaces", true),
            ("/api/v1/watch/namespaces/n", true),
            ("/api/v1/watch/namespaces/n/pods", true),
            ("/api/v1/watch/namespaces/n/pods/p", true),
            ("/api/v1/watch/namespaces/n/pods/p/status", false),
            ("/api/v1/watch/namespaces/n/nodes", false),
            ("/api/v1/watch/pods/p", false),
        ] {
            let address = Address::parse(path).expect("a resource");
            assert_eq!(address.fits(address.row().expect("served")), expected, "{path}");
        }
    }

    #[test]
    fn old_paths_of_watches_are_watches_of_what_follows() {
        let read = |path: &str| Address::parse(path).expect("a resource");
        let old = read("/apis/apps/v1/watch/namespaces/n/deployments/d");
        assert_eq!(old, Address { watch: true, ..read("/apis/apps/v1/namespaces/n/deployments/d") });
        for method in [Method::GET, Method::POST] {
            assert_eq!(verb(&method, &old, &Query::default()), "watch");
        }
        assert!(!read("/api/v1/watch").watch, "a resource of that name");
    }

    #[test]
    fn a_list_by_name_has_that_name() {
        let address = Address::parse("/api/v1/namespaces/n/secrets").expect("a resource");
        assert_eq!(address.selected_name("watch", "metadata.name=a").as_deref(), Some("a"));
        assert_eq!(address.selected_name("list", "metadata.name!=a,x=y"), None);
        assert_eq!(address.selected_name("list", "metadata.name=a/b"), None);
        assert_eq!(address.selected_name("deletecollection", "metadata.name=a"), None);
    }

    #[test]
    fn what_follows_a_proxy_is_kept() {
        let address = Address::parse("/api/v1/nodes/n/proxy/skiff/ps").expect("a resource");
        assert_eq!((address.subresource.as_str(), address.rest.as_str()), ("proxy", "skiff/ps"));
    }

    #[test]
    fn one_object_is_not_watched_by_its_own_path() {
        let verb = |path: &str, query: &str| {
            verb(&Method::GET, &Address::parse(path).expect("a resource"), &Query::parse(Some(query)))
        };
        for query in ["watch=true", "watch", "watch=maybe"] {
            assert_eq!(verb("/api/v1/namespaces/n/pods", query), "watch", "{query}");
            assert_eq!(verb("/api/v1/namespaces/n/pods/p", query), "get", "{query}");
            assert_eq!(verb("/api/v1/namespaces/n", query), "get", "{query}");
            assert_eq!(verb("/api/v1/namespaces/n/pods/p/log", query), "get", "{query}");
            assert_eq!(verb("/api/v1/watch/namespaces/n/pods/p", query), "watch", "{query}");
        }
        for query in ["watch=false", "watch=0", "watch=False", ""] {
            assert_eq!(verb("/api/v1/namespaces/n/pods", query), "list", "{query}");
        }
    }

    #[test]
    fn flags_and_numbers_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("", None),
            ("x", Some(true)),
            ("x=", Some(true)),
            ("x=maybe", Some(true)),
            ("x=no", Some(true)),
            ("x=00", Some(true)),
            ("x=1", Some(true)),
            ("x=0", Some(false)),
            ("x=false", Some(false)),
            ("x=FALSE", Some(false)),
            ("x=false&x=true", Some(false)),
        ] {
            let query = Query::parse(Some(text));
            assert_eq!(query.choice("x"), expected, "{text}");
            assert_eq!(query.flag("x"), expected == Some(true), "{text}");
        }
        let syntax = |text: &str| Err(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
        let range = |text: &str| Err(format!("strconv.ParseInt: parsing {text:?}: value out of range"));
        for (text, expected) in [
            ("", Ok(None)),
            ("x=-5", Ok(Some(-5))),
            ("x=%2B5", Ok(Some(5))),
            ("x=007", Ok(Some(7))),
            ("x=-9223372036854775808", Ok(Some(i64::MIN))),
            ("x=9223372036854775808", range("9223372036854775808")),
            ("x=-9223372036854775809", range("-9223372036854775809")),
            ("x=", syntax("")),
            ("x=5s", syntax("5s")),
            ("x=0x5", syntax("0x5")),
            ("x=1_0", syntax("1_0")),
            ("x=-", syntax("-")),
        ] {
            let read = Query::parse(Some(text)).number("x").map_err(|error| {
                assert_eq!(error.code(), 400);
                error.message().to_owned()
            });
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc&watch=1&x=a+b&dryRun=All"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.get("x"), Some("a b"));
        assert!(query.flag("watch"));
        assert_eq!(query.dry_run(), Ok(true));
        assert!(Query::parse(Some("dryRun=some")).dry_run().is_err());
    }
}
