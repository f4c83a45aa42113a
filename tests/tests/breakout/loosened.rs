//! Guards that a pod may ask to be left out, as fields.

use serde_json::{Value, json};

use crate::attempts::{Attempt, Loosened, Way};

/// Attempts by the fields that their pods need. What only the runtime could leave out is not among them, nor
/// what has no guard over the default setting.
pub(crate) fn pods(attempts: &[&'static Attempt]) -> Vec<(Value, Vec<&'static Attempt>)> {
    let mut pods: Vec<(Value, Vec<&'static Attempt>)> = Vec::new();
    for attempt in attempts.iter().copied().filter(|attempt| can_be_asked_for(attempt)) {
        let fields = of_pod(attempt);
        match pods.iter_mut().find(|(other, _)| *other == fields) {
            Some((_, group)) => group.push(attempt),
            None => pods.push((fields, vec![attempt])),
        }
    }
    pods
}

fn can_be_asked_for(attempt: &Attempt) -> bool {
    let is_program = matches!(attempt.way, Way::Program(_) | Way::Against(_));
    let of_runtime = |guard: &Loosened| {
        matches!(
            guard,
            Loosened::LinksFollowed
                | Loosened::DescriptorsLeaked
                | Loosened::ProgramWritable
                | Loosened::VolumesTrusted
                | Loosened::ProcMountedOver
        )
    };
    // A node of the tests' cluster is itself in a control group namespace, where no agent is named.
    is_program && attempt.name != "release-agent" && !attempt.loosened.iter().any(of_runtime)
}

fn of_pod(attempt: &Attempt) -> Value {
    let mut fields = json!({});
    if attempt.sees_node || attempt.loosened.contains(&Loosened::NodesProcesses) {
        fields["hostPID"] = true.into();
    }
    if attempt.loosened.contains(&Loosened::NodesNetwork) {
        fields["hostNetwork"] = true.into();
    }
    fields
}

pub(crate) fn of_container(guards: &[Loosened]) -> Value {
    // A default profile, where the kernel has any, is one more guard.
    let mut fields = json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}});
    for guard in guards {
        match guard {
            Loosened::Capability(name) => fields["securityContext"]["capabilities"]["add"] = json!([name]),
            // `procMount: Unmasked` takes users of the pod's own; among the node's it takes all.
            Loosened::Unmasked | Loosened::Unbound => fields["securityContext"]["privileged"] = true.into(),
            Loosened::Terminal => fields["tty"] = true.into(),
            _ => {}
        }
    }
    fields
}
