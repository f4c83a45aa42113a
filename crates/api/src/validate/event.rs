//! Events.

use super::cursor::At;
use crate::status::Cause;

/// An event is told in the namespace of what it is about; one about what has none in `default` or
/// `kube-system`.
pub(super) fn check(event: &At<'_>, faults: &mut Vec<Cause>) {
    let own = event.get("metadata").get("namespace").text();
    let about = event.get("involvedObject").get("namespace");
    let fits = match about.text() {
        "" => ["", "default", "kube-system"].contains(&own),
        theirs => theirs == own,
    };
    if !fits {
        faults.push(Cause::invalid(about.path.clone(), about.text(), "does not match event.namespace"));
    }
}
