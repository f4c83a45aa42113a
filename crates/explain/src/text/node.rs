//! `explain node` as text.

use super::{Paint, heading, missing, wrapped};
use crate::counted;
use crate::namespaces::Kind;
use crate::node::NodeExplanation;

/// The node's namespaces with the pods in them.
pub fn node(told: &NodeExplanation, paint: Paint) -> String {
    let mut out = String::new();
    let name = paint.bold(&told.metadata.name);
    let (Some(processes), Some(pods)) = (told.processes, told.pods) else {
        wrapped(&mut out, "", &format!("Node {name}: what runs on it is not known"));
        missing(&mut out, paint, &told.missing);
        return out;
    };
    let (processes, count) = (counted(processes, "process", "processes"), counted(pods, "pod", "pods"));
    wrapped(&mut out, "", &format!("Node {name}: {processes}, {count}"));
    out.push('\n');
    out.push_str("NAMESPACE INODE        PODS IN IT\n");
    for own in &told.namespaces {
        // All pods share these unless they ask for user namespaces; their names would say nothing.
        let by_nature = matches!(own.namespace, Kind::User | Kind::Time) && own.pods.len() == pods;
        let text = match own.pods.as_slice() {
            [] => own.sentence.clone(),
            _ if by_nature => own.sentence.clone(),
            pods => format!("{}: {}", own.sentence, pods.join(" ")),
        };
        let mark = if own.pods.is_empty() || by_nature { ' ' } else { '!' };
        wrapped(&mut out, &format!("{:<9} {:<10} {mark} ", own.namespace, own.inode), &text);
    }
    if !told.shared.is_empty() {
        heading(&mut out, paint, "Pods' own namespaces that others are in");
        for own in &told.shared {
            let text = format!("{} {} of {}: {}", own.namespace, own.inode, own.pods.join(" "), own.sentence);
            wrapped(&mut out, "  ! ", &text);
        }
    }
    missing(&mut out, paint, &told.missing);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Missing;

    #[test]
    fn of_a_silent_node_nothing_is_counted() {
        let why = Missing::new("facts of the node", "node n did not answer within 2.5 s");
        let text = node(&NodeExplanation::unknown("n", why), Paint::Plain);
        assert!(text.starts_with("Node n: what runs on it is not known\n"), "{text}");
        assert!(!text.contains('0') && text.contains("did not answer within 2.5 s"), "{text}");
    }
}
