//! What is done to a container: probes, and hooks at its start and end.

use super::container::{choice, port_reference};
use super::cursor::At;
use super::names;
use crate::status::Cause;

pub(super) fn check(probe: &At<'_>, field: &str, faults: &mut Vec<Cause>) {
    if !probe.is_there() {
        return;
    }
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], faults);
    for seconds in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        let place = probe.get(seconds);
        if let Some(number) = place.number().filter(|number| *number < 0) {
            faults.push(Cause::invalid(place.path, number, "must be greater than or equal to 0"));
        }
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    if let Some(number) = grace.number().filter(|number| *number <= 0) {
        faults.push(Cause::invalid(grace.path.clone(), number, "must be greater than 0"));
    }
    if field == "readinessProbe" && grace.is_there() {
        let detail = "must not be set for readinessProbes";
        faults.push(Cause::invalid(grace.path, grace.value.clone(), detail));
    }
    let successes = probe.get("successThreshold");
    if field != "readinessProbe" && successes.number().is_some_and(|number| number != 1) {
        faults.push(Cause::invalid(successes.path.clone(), successes.value.clone(), "must be 1"));
    }
}

/// What is run when a container has started, or before it is ended.
pub(super) fn hook(hook: &At<'_>, faults: &mut Vec<Cause>) {
    if hook.is_there() {
        handler(hook, &["exec", "httpGet", "tcpSocket", "sleep"], faults);
    }
}

/// One of the kinds, whose fields are as they have to be.
fn handler(place: &At<'_>, kinds: &[&str], faults: &mut Vec<Cause>) {
    let given: Vec<At<'_>> =
        kinds.iter().map(|kind| place.get(kind)).filter(|handler| handler.is_there()).collect();
    if given.is_empty() {
        faults.push(Cause::required(place.path.clone(), "must specify a handler type"));
    }
    for extra in given.iter().skip(1) {
        faults.push(Cause::forbidden(extra.path.clone(), "may not specify more than 1 handler type"));
    }
    let exec = place.get("exec");
    if exec.is_there() && exec.get("command").is_empty() {
        faults.push(Cause::required(exec.child("command"), ""));
    }
    let http = place.get("httpGet");
    if http.is_there() {
        if http.get("path").is_empty() {
            faults.push(Cause::required(http.child("path"), ""));
        }
        choice(&http.get("scheme"), &["HTTP", "HTTPS"], faults);
        for header in http.get("httpHeaders").items() {
            let name = header.get("name");
            if let Some(fault) = names::http_header(name.text()) {
                // Upstream names the list, not the header.
                faults.push(Cause::invalid(http.child("httpHeaders"), name.text(), fault));
            }
        }
    }
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        let handler = place.get(kind);
        if handler.is_there() {
            port_reference(&handler.get("port"), faults);
        }
    }
}
