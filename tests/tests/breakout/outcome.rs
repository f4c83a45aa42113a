//! How an attempt ended, read from its container's status.

use serde_json::Value;

#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) succeeded: bool,
    pub(crate) said: String,
}

impl Outcome {
    pub(crate) fn blocked(said: impl Into<String>) -> Outcome {
        Outcome { succeeded: false, said: said.into() }
    }
}

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Tried(bool, String),
    /// The node did not start it.
    Refused(String),
}

/// None while it is open.
pub(crate) fn end(status: &Value) -> Option<End> {
    let said = |state: &Value| state["message"].as_str().unwrap_or_default().trim().to_owned();
    let waiting = &status["state"]["waiting"];
    if let Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") =
        waiting["reason"].as_str()
    {
        return Some(End::Refused(said(waiting)));
    }
    let ended = &status["state"]["terminated"];
    match ended["exitCode"].as_i64()? {
        0 => Some(End::Tried(true, "succeeded".into())),
        1 => Some(End::Tried(false, said(ended))),
        128 => Some(End::Refused(said(ended))),
        // Neither says that the attempt was made at all.
        other => panic!("{} ended with {other}: {ended}", status["name"]),
    }
}

/// Where only the attempt itself can stop it.
#[track_caller]
pub(crate) fn tried(end: End) -> Outcome {
    match end {
        End::Tried(succeeded, said) => Outcome { succeeded, said },
        End::Refused(said) => panic!("it was not started: {said}"),
    }
}

/// Where the node may refuse it, for a reason that says so.
#[track_caller]
pub(crate) fn tried_or_refused(end: End, reason: &str) -> Outcome {
    match end {
        End::Refused(said) => {
            assert!(said.contains(reason), "{said:?} says nothing of {reason:?}");
            Outcome::blocked(said)
        }
        end => tried(end),
    }
}
