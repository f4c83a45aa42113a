//! Whether the server is well: `/healthz`, `/livez` and `/readyz`, as a whole or check by check.
//!
//! A server answers only once its caches are filled and the platform's roles are there, so little can be
//! wrong while it lives: its disk may be full, so that it reads on and can't write, and it may be about to
//! stop, as it does when it can no longer follow its store.

use std::time::Duration;

use http::StatusCode;
use http::header::HeaderValue;

use crate::http_body::{Response, full};
use crate::render;
use crate::request::Query;
use crate::server::Inner;

/// How long the store may take to say whether it keeps what is written; it takes no time while it is well.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

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
pub(crate) async fn answer(server: &Inner, path: &str, query: Option<&str>) -> Option<Response> {
    let probe = path.trim_start_matches('/').split('/').next();
    if !PROBES.iter().any(|known| Some(*known) == probe) {
        return None;
    }
    // A disk may hang: then it is not well either.
    let kept = tokio::time::timeout(STORE_TIMEOUT, server.store.writable()).await;
    let is_kept = matches!(kept, Ok(Ok(())));
    let (code, text) = report(path, &Query::parse(query), server.stopping.is_cancelled(), is_kept)?;
    const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
    Some(render::with_type(code, TEXT, full(text)))
}

fn report(path: &str, query: &Query, stopping: bool, is_kept: bool) -> Option<(StatusCode, String)> {
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
        let fails = *goes_on && stopping || *name == "store" && !is_kept;
        lines += &match (excluded.contains(name), fails) {
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
        match report(path, &Query::parse(Some(query)), stopping, true) {
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
    fn a_server_that_can_write_nothing_is_not_well() {
        for probe in PROBES {
            let (code, text) = report(&format!("/{probe}"), &Query::parse(None), false, false).unwrap();
            assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
            assert!(text.contains("[-]store failed: reason withheld\n"), "{text}");
        }
        let (code, _) = report("/readyz", &Query::parse(Some("exclude=store")), false, false).unwrap();
        assert_eq!(code, StatusCode::OK);
    }

    #[test]
    fn a_server_that_stops_is_not_ready() {
        let said = said("/readyz", "exclude=store", true);
        assert!(said.starts_with("500 ") && said.ends_with("readyz check failed\n"), "{said}");
        assert!(said.contains("[-]shutdown failed: reason withheld\n"), "{said}");
    }
}
