//! `/metrics`: how the server does, in the text format that Prometheus reads, under upstream's names.
//!
//! A request costs one look-up and three additions here; the text is made when it is asked for.

mod histogram;
mod process;
mod requests;

use std::fmt::Write as _;

pub(crate) use requests::{Labels, Requests};

use crate::limits::Kind;
use crate::server::Inner;

pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that this process has to tell.
pub(crate) fn text(server: &Inner) -> String {
    let mut out = String::with_capacity(64 << 10);
    server.requests.write(&mut out);
    head(&mut out, "apiserver_current_inflight_requests", "gauge", "Requests that are being answered.");
    for (name, kind) in [("readOnly", Kind::ReadOnly), ("mutating", Kind::Mutating)] {
        let count = server.gate.inflight(kind);
        let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"{name}\"}} {count}");
    }
    head(&mut out, "apiserver_storage_objects", "gauge", "Objects that are stored, by resource.");
    for (resource, count) in server.caches.counts() {
        let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
    }
    head(&mut out, "skiff_connections", "gauge", "Connections that are open.");
    let _ = writeln!(out, "skiff_connections {}", server.connections.total());
    head(&mut out, "kubernetes_build_info", "gauge", "Which version this is; always 1.");
    let version = &server.config.version;
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let _ = writeln!(
        out,
        "kubernetes_build_info{{git_version=\"{version}\",major=\"{major}\",minor=\"{minor}\"}} 1"
    );
    if let Some(more) = server.config.more_metrics {
        more(&mut out);
    }
    out.push_str(&server.config.starts.prometheus());
    process::write(&mut out);
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
