//! The queries of the client's request and of the agent's.

use std::fmt::Write;

use skiff_api::status::{Cause, StatusError};
use skiff_streams::Wants;

use crate::request::Query;

/// The streams that an exec or attach wants.
pub(super) fn wants(query: &Query) -> Result<Wants, StatusError> {
    let wants = Wants {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        tty: query.flag("tty"),
    };
    if !(wants.stdin || wants.stdout || wants.stderr) {
        return Err(StatusError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(wants)
}

/// A path with a query, each part encoded.
pub(super) struct Path(String, char);

impl Path {
    pub(super) fn new(parts: &[&str]) -> Self {
        let mut path = String::new();
        for part in parts {
            path.push('/');
            encode(part, &mut path);
        }
        Self(path, '?')
    }

    pub(super) fn add(&mut self, name: &str, value: &str) {
        self.0.push(self.1);
        self.1 = '&';
        encode(name, &mut self.0);
        self.0.push('=');
        encode(value, &mut self.0);
    }

    /// Adds `name=1` if it is so.
    pub(super) fn flag(&mut self, name: &str, is_so: bool) {
        if is_so {
            self.add(name, "1");
        }
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            _ => write!(out, "%{byte:02X}").expect("a string takes all"),
        }
    }
}

/// The agent's path for a command's streams.
pub(super) fn command_path(
    kind: &str,
    [namespace, pod, container]: [&str; 3],
    wants: Wants,
    query: &Query,
) -> String {
    let mut path = Path::new(&[kind, namespace, pod, container]);
    for word in query.all("command") {
        path.add("command", word);
    }
    path.flag("input", wants.stdin);
    path.flag("output", wants.stdout);
    path.flag("error", wants.has_stderr());
    path.flag("tty", wants.tty);
    path.into_string()
}

/// The agent's path for logs, or every fault of the query.
pub(super) fn log_path([namespace, pod, container]: [&str; 3], query: &Query) -> Result<String, StatusError> {
    let mut faults = Vec::new();
    let mut path = Path::new(&["containerLogs", namespace, pod, container]);
    for name in ["follow", "previous", "timestamps"] {
        if query.flag(name) {
            path.add(name, "true");
        }
    }
    let smallest = [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)];
    for (name, least) in smallest {
        let Some(number) = query.number(name)? else { continue };
        if number < least {
            let detail = match least {
                0 => "must be greater than or equal to 0",
                _ => "must be greater than 0",
            };
            faults.push(Cause::invalid(name, number, detail));
        }
        path.add(name, &number.to_string());
    }
    if let Some(time) = query.given("sinceTime") {
        if query.given("sinceSeconds").is_some() {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            faults.push(Cause::forbidden("", detail));
        }
        path.add("sinceTime", time);
    }
    if let Some(stream) = query.given("stream") {
        if !["All", "Stdout", "Stderr"].contains(&stream) {
            faults.push(Cause::not_supported("stream", stream, &["All", "Stderr", "Stdout"]));
        }
        path.add("stream", stream);
    }
    match faults.is_empty() {
        true => Ok(path.into_string()),
        false => Err(StatusError::invalid("", "PodLogOptions", pod, &faults)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_becomes_the_agents_path() {
        let query = Query::parse(Some(
            "command=sh&command=-c&command=echo+%26&stdout=true&tty=1&stdin=true&stderr=true",
        ));
        let wants = wants(&query).expect("streams are wanted");
        assert_eq!(
            command_path("exec", ["ns", "p", "c"], wants, &query),
            "/exec/ns/p/c?command=sh&command=-c&command=echo%20%26&input=1&output=1&tty=1"
        );
        let none = super::wants(&Query::parse(Some("stdin=false"))).map_err(|error| error.code());
        assert_eq!(none, Err(400));
    }

    #[test]
    fn log_options_are_checked() {
        let check = |query: &str| {
            let path = log_path(["ns", "p", "c"], &Query::parse(Some(query)));
            path.unwrap_or_else(|error| format!("{} {}", error.code(), error.message()))
        };
        assert_eq!(check("container=c"), "/containerLogs/ns/p/c");
        assert_eq!(check("follow=true&tailLines=5"), "/containerLogs/ns/p/c?follow=true&tailLines=5");
        assert_eq!(
            check("tailLines=-1"),
            "422 PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"
        );
        assert!(check("limitBytes=0").starts_with("422 "));
        assert!(check("tailLines=x").starts_with("400 "));
    }
}
