//! What a node's refusal means, in one sentence that says what to do.

use http::StatusCode;
use skiff_client::Error;

/// The sentence for an answer of `node` other than success.
pub(crate) fn of_answer(node: &str, status: StatusCode, body: &[u8]) -> String {
    let parsed = serde_json::from_slice::<serde_json::Value>(body).ok();
    let told = parsed.as_ref().and_then(|value| value.get("message")?.as_str());
    let text = String::from_utf8_lossy(body);
    let message = told.unwrap_or(text.trim());
    let unnamed = "the node gives no reason";
    let message = if message.is_empty() { unnamed } else { message };
    // The API server's own refusals are Status objects; the agent's are plain text.
    let from_api = told.is_some();
    match status {
        StatusCode::UNAUTHORIZED => {
            "the cluster does not know the user of this kubeconfig: get a new one from its administrator"
                .into()
        }
        StatusCode::FORBIDDEN => format!("{message}: use the kubeconfig of somebody who may"),
        StatusCode::NOT_FOUND if from_api => {
            format!("the cluster has no node {node:?}: choose one that `skiff node ls` lists")
        }
        _ if from_api && status.is_server_error() => {
            format!(
                "the agent of node {node} cannot be reached: see `skiff status`, and `skiff logs {node}` there"
            )
        }
        _ => of_agent(node, message),
    }
}

/// An agent's own words, with what to do where they don't say it.
fn of_agent(node: &str, message: &str) -> String {
    if let Some((reference, "")) = quoted(message, "image ", " is not present") {
        return format!(
            "node {node} has no image {reference:?}: see `skiff image ls`, or `skiff image load` it"
        );
    }
    if let Some((reference, containers)) = quoted(message, "image ", " is in use by ") {
        return format!(
            "image {reference:?} has {containers}: delete the pods that use it first, or take just its name away \
             with --force"
        );
    }
    if let Some((reference, reason)) = quoted(message, "couldn't parse image name ", ": ") {
        return format!("{reference:?} is no image name ({reason}): write [REGISTRY/]NAME[:TAG]");
    }
    if let Some((reference, reason)) = quoted(message, "failed to pull and unpack image ", ": ") {
        return format!(
            "node {node} cannot pull {reference:?}, load it with `skiff image load` or see to its registry: {reason}"
        );
    }
    match message.strip_prefix("cannot load the archive: ") {
        Some(reason) => reason.to_owned(),
        None => format!("node {node}: {message}"),
    }
}

/// What is quoted between two texts, and what follows.
fn quoted<'a>(message: &'a str, before: &str, after: &str) -> Option<(&'a str, &'a str)> {
    message.strip_prefix(before)?.strip_prefix('"')?.split_once(&format!("\"{after}"))
}

/// The sentence for a request that found no answer.
pub(crate) fn of_error(error: &Error) -> String {
    let mut causes = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        causes = format!("{causes}: {next}");
        cause = next.source();
    }
    match error {
        Error::Transport(_) if causes.contains("certificate") => {
            "the server is not the cluster of this kubeconfig, or its certificate has ended: get a new kubeconfig"
                .into()
        }
        Error::Transport(_) | Error::Timeout { .. } => {
            "the cluster's API does not answer: see `skiff status`, or name another cluster with --name or \
             --kubeconfig"
                .into()
        }
        Error::Status(_) | Error::Decode(_) | Error::Encode(_) => format!("{error}{causes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_in_use_is_left_alone_and_said_to_be() {
        let answer = of_answer("n1", StatusCode::CONFLICT, br#"image "alpine" is in use by 2 containers"#);
        assert_eq!(
            answer,
            "image \"alpine\" has 2 containers: delete the pods that use it first, or take just its name away \
             with --force"
        );
    }

    #[test]
    fn refusals_say_what_to_do() {
        let check = |status: u16, body: &str, expected: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(of_answer("n1", status, body.as_bytes()), expected);
        };
        check(
            500,
            "image \"docker.io/library/a:latest\" is not present\n",
            "node n1 has no image \"docker.io/library/a:latest\": see `skiff image ls`, or `skiff image load` it",
        );
        check(
            500,
            "couldn't parse image name \"A B\": invalid reference format",
            "\"A B\" is no image name (invalid reference format): write [REGISTRY/]NAME[:TAG]",
        );
        check(
            500,
            "failed to pull and unpack image \"r.example/a:1\": no such host",
            "node n1 cannot pull \"r.example/a:1\", load it with `skiff image load` or see to its registry: no such host",
        );
        check(400, "cannot load the archive: it is no tar archive", "it is no tar archive");
        check(507, "cannot write: No space left on device", "node n1: cannot write: No space left on device");
        check(500, "", "node n1: the node gives no reason");
        check(
            404,
            r#"{"kind":"Status","message":"nodes \"n1\" not found"}"#,
            "the cluster has no node \"n1\": choose one that `skiff node ls` lists",
        );
        check(
            500,
            r#"{"message":"Internal error occurred: dial tcp 10.0.0.2:10250: connection refused"}"#,
            "the agent of node n1 cannot be reached: see `skiff status`, and `skiff logs n1` there",
        );
        check(
            403,
            r#"{"message":"nodes \"n1\" is forbidden: User \"u\" cannot get resource \"nodes/proxy\""}"#,
            "nodes \"n1\" is forbidden: User \"u\" cannot get resource \"nodes/proxy\": use the kubeconfig of somebody who may",
        );
        check(
            401,
            "Unauthorized",
            "the cluster does not know the user of this kubeconfig: get a new one from its administrator",
        );
    }

    #[test]
    fn no_answer_is_told_without_the_wires_words() {
        let wire = |text: &str| of_error(&Error::Transport(text.into()));
        let refused = wire("tcp connect error: Connection refused (os error 111)");
        assert!(
            refused.starts_with("the cluster's API does not answer") && !refused.contains("tcp"),
            "{refused}"
        );
        assert_eq!(refused, of_error(&Error::Timeout { seconds: 5 }));
        assert!(wire("invalid peer certificate: UnknownIssuer").contains("get a new kubeconfig"));
        assert_eq!(of_error(&Error::Decode("odd".into())), "cannot decode the API server's answer: odd");
    }
}
