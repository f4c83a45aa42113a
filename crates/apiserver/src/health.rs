//! Whether the server is well: `/healthz`, `/livez` and `/readyz`, as a whole or check by check.
//!
//! A server answers only once its caches are filled and the platform's roles are there, so little can be
//! wrong while it lives: it may be about to stop, as it does when it can no longer follow its store.

use http::StatusCode;
use http::header::HeaderValue;

use crate::http_body::{Response, full};
use crate::render;
use crate::request::Query;

const PROBES: &[&str] = &["healthz", "livez", "readyz"];

/// A check, and whether it is one of a server that goes on.
const CHECKS: &[(&str, bool)] = &[
    ("ping", false),
    ("log", false),
    ("store", true),
    ("poststarthook/rbac/bootstrap-roles", false),
    ("shutdown", true),
];

/// `None` for a path that is none of these.
pub(crate) fn answer(path: &str, query: Option<&str>, stopping: bool) -> Option<Response> {
    let (code, text) = report(path, &Query::parse(query), stopping)?;
    const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
    Some(render::with_type(code, TEXT, full(text)))
}

fn report(path: &str, query: &Query, stopping: bool) -> Option<(StatusCode, String)> {
    let (probe, one) = path.trim_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
    if !PROBES.contains(&probe) {
        return None;
    }
    // A server that is about to stop is alive, and takes no more work.
    let of_probe = |(name, _): &&(&str, bool)| *name != "shutdown" || probe == "readyz";
    let checks: Vec<&(&str, bool)> =
        CHECKS.iter().filter(of_probe).filter(|(name, _)| one.is_empty() || *name == one).collect();
    if checks.is_empty() {
        return None;
    }
    let excluded: Vec<&str> = query.all("exclude").filter(|name| !name.is_empty()).collect();
    let mut lines = String::new();
    let mut well = true;
    for (name, goes_on) in &checks {
        lines += &match (excluded.contains(name), *goes_on && stopping) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (false, false) => format!("[+]{name} ok\n"),
            (false, true) => {
                well = false;
                format!("[-]{name} failed: reason withheld\n")
            }
        };
    }
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !checks.iter().any(|(check, _)| check == *name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !unknown.is_empty() {
        let unknown = unknown.join(",");
        lines += &format!("warn: some health checks cannot be excluded: no matches for {unknown}\n");
    }
    if !well {
        return Some((StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{probe} check failed\n")));
    }
    let text = match one.is_empty() && query.flag("verbose") {
        true => format!("{lines}{probe} check passed\n"),
        false => "ok".to_owned(),
    };
    Some((StatusCode::OK, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, query: &str, stopping: bool) -> String {
        match report(path, &Query::parse(Some(query)), stopping) {
            Some((code, text)) => format!("{} {text}", code.as_u16()),
            None => String::new(),
        }
    }

    #[test]
    fn a_server_that_is_well_says_so() {
        for path in ["/healthz", "/livez", "/readyz", "/readyz/", "/livez/ping", "/readyz/shutdown"] {
            assert_eq!(said(path, "", false), "200 ok", "{path}");
        }
        assert_eq!(said("/healthz/nothing", "", false), "");
        assert_eq!(said("/health", "", false), "");
    }

    #[test]
    fn who_asks_for_more_gets_every_check() {
        assert_eq!(
            said("/livez", "verbose", false),
            "200 [+]ping ok\n[+]log ok\n[+]store ok\n[+]poststarthook/rbac/bootstrap-roles ok\n\
             livez check passed\n"
        );
        assert_eq!(
            said("/readyz", "verbose=true&exclude=store&exclude=x", false),
            "200 [+]ping ok\n[+]log ok\n[+]store excluded: ok\n[+]poststarthook/rbac/bootstrap-roles ok\n\
             [+]shutdown ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\n\
             readyz check passed\n"
        );
    }

    #[test]
    fn a_server_that_stops_is_not_ready() {
        let said = said("/readyz", "exclude=store", true);
        assert!(said.starts_with("500 ") && said.ends_with("readyz check failed\n"), "{said}");
        assert!(said.contains("[-]shutdown failed: reason withheld\n"), "{said}");
    }
}
