//! Requests by what they ask for and how they ended.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::head;
use super::histogram::Histogram;
use crate::request::Address;

/// What a request asks for, in words of a bounded number: what names nothing that is served has no name here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Labels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    dry_run: bool,
}

/// Paths that are no resources and are counted by name.
const PATHS: &[&str] =
    &["/healthz", "/livez", "/readyz", "/version", "/metrics", "/api", "/apis", "/openapi/v2", "/openapi/v3"];

impl Labels {
    pub(crate) fn of_path(method: &http::Method, path: &str) -> Self {
        let path = PATHS.iter().find(|known| **known == path).copied().unwrap_or_default();
        Self { verb: of_method(method), subresource: path, ..Self::default() }
    }

    pub(crate) fn of_resource(verb: &'static str, address: &Address, dry_run: bool) -> Self {
        let Some(row) = address.row() else { return Self::default() };
        let subresource = match address.subresource.as_str() {
            "" => "",
            given => row.subresource(given).map_or("", |sub| sub.name),
        };
        let verb = match subresource {
            "exec" | "attach" | "portforward" | "proxy" | "log" => "CONNECT",
            _ => of_verb(verb),
        };
        let scope = match (address.name.is_empty(), address.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        Self {
            verb,
            group: row.group,
            version: row.version,
            resource: row.plural,
            subresource,
            scope,
            dry_run,
        }
    }

    /// Whether it takes as long as its client likes, which says nothing of the server.
    fn lasts(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT")
    }

    fn text(&self) -> String {
        let Self { verb, group, version, resource, subresource, scope, dry_run } = self;
        let dry_run = if *dry_run { "All" } else { "" };
        format!(
            "component=\"apiserver\",dry_run=\"{dry_run}\",group=\"{group}\",resource=\"{resource}\",\
             scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
        )
    }
}

fn of_verb(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "",
    }
}

fn of_method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "",
    }
}

#[derive(Default)]
struct Series {
    by_code: Mutex<BTreeMap<u16, u64>>,
    times: Histogram,
}

/// All requests since the server was started.
#[derive(Default)]
pub(crate) struct Requests(RwLock<HashMap<Labels, Arc<Series>>>);

impl Requests {
    pub(crate) fn ended(&self, labels: Labels, code: u16, took: Duration) {
        let known = self.0.read().get(&labels).cloned();
        let series = known.unwrap_or_else(|| Arc::clone(self.0.write().entry(labels).or_default()));
        *series.by_code.lock().entry(code).or_default() += 1;
        if !labels.lasts() {
            series.times.observe(took);
        }
    }

    pub(crate) fn write(&self, out: &mut String) {
        let all: BTreeMap<Labels, Arc<Series>> =
            self.0.read().iter().map(|(labels, series)| (*labels, Arc::clone(series))).collect();
        head(
            out,
            "apiserver_request_total",
            "counter",
            "Requests that were answered, by what they asked for.",
        );
        for (labels, series) in &all {
            let labels = labels.text();
            for (code, count) in series.by_code.lock().iter() {
                let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",{labels}}} {count}");
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(out, name, "histogram", "From a request's header to its answer's, watches and streams apart.");
        for (labels, series) in &all {
            series.times.write(out, name, &labels.text());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(verb: &'static str, path: &str) -> String {
        Labels::of_resource(verb, &Address::parse(path).expect("a resource"), false).text()
    }

    #[test]
    fn labels_are_upstreams() {
        assert_eq!(
            labels("list", "/apis/apps/v1/namespaces/n/deployments"),
            "component=\"apiserver\",dry_run=\"\",group=\"apps\",resource=\"deployments\",scope=\"namespace\",\
             subresource=\"\",verb=\"LIST\",version=\"v1\""
        );
        assert_eq!(
            labels("get", "/api/v1/namespaces/n/pods/p/exec"),
            "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",\
             subresource=\"exec\",verb=\"CONNECT\",version=\"v1\""
        );
    }

    #[test]
    fn what_a_client_makes_up_gets_no_label() {
        let none = Labels::default();
        let address = Address::parse("/apis/x.example/v1/made-up").expect("an address");
        assert_eq!(Labels::of_resource("list", &address, false), none);
        let sub = Address::parse("/api/v1/namespaces/n/pods/p/made-up").expect("an address");
        assert_eq!(Labels::of_resource("get", &sub, false).subresource, "");
        assert_eq!(Labels::of_path(&http::Method::GET, "/made-up").subresource, "");
    }

    #[test]
    fn codes_are_counted_apart_and_watches_take_no_time() {
        let requests = Requests::default();
        let of = |verb: &'static str| {
            Labels::of_resource(verb, &Address::parse("/api/v1/pods").expect("an address"), false)
        };
        for code in [200, 200, 410] {
            requests.ended(of("list"), code, Duration::from_millis(3));
            requests.ended(of("watch"), code, Duration::from_millis(3));
        }
        let mut text = String::new();
        requests.write(&mut text);
        let count = |start: &str, part: &str| {
            text.lines()
                .filter(|l| l.starts_with(start) && l.contains(part))
                .map(|l| l.rsplit(' ').next().unwrap_or_default())
                .collect::<Vec<_>>()
        };
        assert_eq!(count("apiserver_request_total{code=\"200\"", "verb=\"LIST\""), ["2"]);
        assert_eq!(count("apiserver_request_total{code=\"410\"", "verb=\"WATCH\""), ["1"]);
        assert_eq!(count("apiserver_request_duration_seconds_count", "verb=\"LIST\""), ["3"]);
        assert!(count("apiserver_request_duration_seconds_count", "verb=\"WATCH\"").is_empty());
    }
}
