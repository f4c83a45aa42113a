//! `explain pending` as text.

use std::fmt::Write as _;

use super::{Paint, heading, missing, wrapped};
use crate::pending::{Change, NodeVerdict, PendingExplanation};
use crate::waits::Wait;

/// The whole explanation.
pub fn pending(told: &PendingExplanation, paint: Paint) -> String {
    let mut out = String::new();
    let name = format!("{}/{}", told.metadata.namespace, told.metadata.name);
    wrapped(&mut out, "", &format!("Pod {name}: {}", told.summary));
    if !told.message.is_empty() {
        wrapped(&mut out, "  scheduler: ", &told.message);
    }
    for node in &told.nodes {
        self::node(&mut out, node, paint);
    }
    for wait in &told.waits {
        self::wait(&mut out, wait, told.last_told.as_deref());
    }
    if let Some(preemption) = &told.preemption {
        heading(&mut out, paint, "Preemption");
        let considered = if preemption.considered { "considered" } else { "not considered" };
        wrapped(&mut out, "  ", &format!("{considered}: {}", preemption.why));
        if !preemption.victims.is_empty() {
            wrapped(&mut out, "  would end: ", &preemption.victims.join(" "));
        }
    }
    if !told.nodes.is_empty() {
        heading(&mut out, paint, "Smallest single change that admits it");
        match &told.smallest_change {
            Some(change) => self::change(&mut out, change),
            None => out.push_str("  none: no single change of the kinds that are tried is enough\n"),
        }
    }
    missing(&mut out, paint, &told.missing);
    out
}

fn node(out: &mut String, told: &NodeVerdict, paint: Paint) {
    let verdict = if told.fits { "takes the pod" } else { "refuses the pod" };
    heading(out, paint, &format!("Node {} {verdict}", told.node));
    for filter in &told.filters {
        let mark = if filter.passes { "passes " } else { "refuses" };
        let head = format!("  {:<20} {mark} ", filter.filter);
        wrapped(out, &head, &filter.compared);
        for used in &filter.used_by {
            wrapped(out, &format!("{:31}", ""), &format!("- {} takes {}", used.pod, used.amount));
        }
    }
    for holder in &told.port_holders {
        let who = match &holder.pod {
            Some(pod) => format!("process {} ({}) of pod {pod}", holder.pid, holder.command),
            None => format!("host process {} ({})", holder.pid, holder.command),
        };
        let text = format!("{}:{}/{} is held by {who}", holder.address, holder.port, holder.protocol);
        wrapped(out, "  ! on this node: ", &text);
    }
    if let Some(change) = told.change.as_ref().filter(|_| !told.fits) {
        wrapped(out, "  would take it if: ", &change.text);
    }
}

fn change(out: &mut String, change: &Change) {
    wrapped(out, "  ", &format!("{} (then {} can take it)", change.text, change.node));
    // Whole, however long: it is there to be copied.
    let _ = writeln!(out, "  how: {}", change.how);
    let checked =
        if change.checked { "checked by running the scheduler's filters on it" } else { "not checked" };
    let _ = writeln!(out, "  {checked}");
}

fn wait(out: &mut String, wait: &Wait, last_told: Option<&str>) {
    let head = if last_told.is_some() { "  waited for " } else { "  waits for " };
    wrapped(out, head, &format!("{}: {}", wait.subject(), wait.reason));
    if let Some(at) = last_told {
        wrapped(out, "    last told  ", &format!("{at}, when the node was last heard of"));
    }
    for (label, text) in
        [("since", &wait.since), ("last error", &wait.last_error), ("next try", &wait.next_try)]
    {
        if let Some(text) = text {
            wrapped(out, &format!("    {label:<11}"), text);
        }
    }
}
