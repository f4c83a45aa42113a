//! Paths and operations. Clients read three things there: which kind a path serves, which actions an
//! operation stands for, and which parameters it takes (`dryRun`, `fieldValidation`).

use serde_json::{Map, Value, json};

use super::definitions::{WATCH_EVENT, of_kind, reference};
use super::{Own, Served, Spec};
use crate::schema;

const JSON: &str = "application/json";
const BODIES: [&str; 3] = [JSON, "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const LIST: [(&str, &str); 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: [(&str, &str); 3] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const DELETE: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// Path → item for these resources.
pub(crate) fn paths(served: &[&Served], spec: Spec, own: &Own) -> Map<String, Value> {
    let mut out: Map<String, Value> = Map::new();
    for s in served {
        let root = format!("/{}", s.group_path());
        let scoped = match s.namespaced {
            true => format!("{root}/namespaces/{{namespace}}/{}", s.resource),
            false => format!("{root}/{}", s.resource),
        };
        if s.subresource.is_empty() {
            put(
                &mut out,
                scoped.clone(),
                s,
                (spec, own),
                &[("list", "get"), ("create", "post"), ("deletecollection", "delete")],
            );
            if s.namespaced {
                put(&mut out, format!("{root}/{}", s.resource), s, (spec, own), &[("list", "get")]);
            }
            let single = [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")];
            put(&mut out, format!("{scoped}/{{name}}"), s, (spec, own), &single);
            if s.is_watched(own) {
                let old = |path: &str| path.replacen(&root, &format!("{root}/watch"), 1);
                let mut lists = vec![old(&scoped)];
                lists.extend(s.namespaced.then(|| format!("{root}/watch/{}", s.resource)));
                for path in lists {
                    put(&mut out, path, s, (spec, own), &[("watchlist", "get")]);
                }
                put(&mut out, format!("{}/{{name}}", old(&scoped)), s, (spec, own), &[("watch", "get")]);
            }
        } else {
            let all = [
                ("get", "get"),
                ("create", "post"),
                ("update", "put"),
                ("patch", "patch"),
                ("delete", "delete"),
            ];
            put(&mut out, format!("{scoped}/{{name}}/{}", s.subresource), s, (spec, own), &all);
        }
    }
    out
}

fn put(
    out: &mut Map<String, Value>,
    path: String,
    s: &Served,
    (spec, own): (Spec, &Own),
    verbs: &[(&str, &str)],
) {
    let mut item = Map::new();
    for (verb, method) in verbs {
        // Of the old paths of watches both kinds are one verb.
        if s.verbs.contains(verb) || *verb == "watchlist" {
            item.insert((*method).to_owned(), operation(s, verb, &path, spec, own));
        }
    }
    if item.is_empty() {
        return;
    }
    let mut parameters = Vec::new();
    for name in ["name", "namespace"] {
        if path.contains(&format!("{{{name}}}")) {
            parameters.push(parameter(name, "path", "string", spec));
        }
    }
    if !parameters.is_empty() {
        item.insert("parameters".into(), parameters.into());
    }
    out.insert(path, item.into());
}

fn operation(s: &Served, verb: &str, path: &str, spec: Spec, own: &Own) -> Value {
    let (group, version, kind) = s.kind;
    let definition = |kind: &str| of_kind((group, version, kind), spec, own);
    let body = definition(kind);
    let status = of_kind(("", "v1", "Status"), spec, own);
    let answer = match verb {
        // Of a kind of the server's own there may be one answer only, which is no list.
        "list" => definition(&format!("{kind}List")).or_else(|| body.clone()),
        "delete" | "deletecollection" => status,
        "watch" | "watchlist" => Some(reference(WATCH_EVENT, spec)),
        _ => body.clone(),
    };
    let query: &[(&str, &str)] = match verb {
        _ if (s.group, s.version) == (own.group, own.version) => {
            own.parameters.get(s.resource).map(Vec::as_slice).unwrap_or_default()
        }
        "list" | "watch" | "watchlist" => &LIST,
        "create" | "update" => &WRITE,
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" | "deletecollection" => &DELETE,
        _ => &[],
    };
    let mut parameters: Vec<Value> =
        query.iter().map(|(name, ty)| parameter(name, "query", ty, spec)).collect();
    let (sent, media): (Option<Value>, &[&str]) = match verb {
        "create" | "update" => (body, &BODIES),
        "patch" => (Some(json!({"type": "object"})), &PATCHES),
        "delete" | "deletecollection" => (of_kind(("", "v1", "DeleteOptions"), spec, own), &BODIES),
        _ => (None, &[]),
    };
    let action = match verb {
        "create" => "post",
        "update" => "put",
        verb => verb,
    };
    let mut out = json!({
        "operationId": operation_id(s, verb, path),
        "tags": [format!("{}_{}", tag(s.group), s.version)],
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    if let Some(text) = deprecation(verb, kind) {
        out["description"] = text.into();
    }
    match spec {
        Spec::V2 => {
            if let Some(schema) = sent {
                let needed = matches!(verb, "create" | "update" | "patch");
                parameters.push(json!({"name": "body", "in": "body", "required": needed, "schema": schema}));
                out["consumes"] = media.into();
            }
            out["produces"] = BODIES.into();
            let mut ok = json!({"description": "OK"});
            if let Some(answer) = answer {
                ok["schema"] = answer;
            }
            out["responses"] = json!({ "200": ok });
        }
        Spec::V3 => {
            if let Some(schema) = sent {
                out["requestBody"] = json!({ "content": content(media, &schema) });
            }
            let mut ok = json!({"description": "OK"});
            if let Some(answer) = answer {
                ok["content"] = content(&BODIES, &answer);
            }
            out["responses"] = json!({ "200": ok });
        }
    }
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    out
}

/// What is said of the old paths of watches, in upstream's words.
fn deprecation(verb: &str, kind: &str) -> Option<String> {
    const INSTEAD: &str = "deprecated: use the 'watch' parameter with a list operation instead";
    match verb {
        "watch" => Some(format!(
            "watch changes to an object of kind {kind}. {INSTEAD}, filtered to a single item with the 'fieldSelector' \
             parameter."
        )),
        "watchlist" => Some(format!("watch individual changes to a list of {kind}. {INSTEAD}.")),
        _ => None,
    }
}

fn content(media: &[&str], schema: &Value) -> Value {
    media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

fn parameter(name: &str, place: &str, ty: &str, spec: Spec) -> Value {
    let mut out = json!({"name": name, "in": place});
    match spec {
        Spec::V2 => {
            out["type"] = ty.into();
            out["uniqueItems"] = true.into();
        }
        Spec::V3 => out["schema"] = json!({"type": ty, "uniqueItems": true}),
    }
    if place == "path" {
        out["required"] = true.into();
    }
    out
}

/// `rbacAuthorization` from `rbac.authorization.k8s.io`.
fn tag(group: &str) -> String {
    if group.is_empty() {
        return "core".into();
    }
    let mut parts = group.trim_end_matches(".k8s.io").split('.');
    let mut out = parts.next().unwrap_or("").to_owned();
    parts.for_each(|part| out.push_str(&capital(part)));
    out
}

fn operation_id(s: &Served, verb: &str, path: &str) -> String {
    let list = if verb == "watchlist" { "List" } else { "" };
    let verb = match verb {
        "get" => "read",
        "update" => "replace",
        "deletecollection" => "deleteCollection",
        "watchlist" => "watch",
        verb => verb,
    };
    let group = format!("{}{}", capital(&tag(s.group)), capital(s.version));
    let scope = if path.contains("{namespace}") { "Namespaced" } else { "" };
    let everywhere = if s.namespaced && scope.is_empty() { "ForAllNamespaces" } else { "" };
    // A subresource is named after the object it belongs to, not after its own kind.
    let kind = schema_kind(s);
    format!("{verb}{group}{scope}{kind}{list}{}{everywhere}", capital(s.subresource))
}

/// The kind of the resource itself: `Pod` for `pods` and `pods/binding`.
fn schema_kind(s: &Served) -> String {
    if s.subresource.is_empty() {
        return s.kind.2.to_owned();
    }
    let found = schema::kinds()
        .iter()
        .find(|row| row.0 == s.group && row.1 == s.version && plural_of(row.2, s.resource))
        .map(|row| row.2);
    found.unwrap_or(s.kind.2).to_owned()
}

/// English plurals as the API builds them: `pods`, `classes`, `policies`, `endpoints`.
fn plural_of(kind: &str, resource: &str) -> bool {
    let lower = kind.to_ascii_lowercase();
    let stem = lower.strip_suffix('y').map(|s| format!("{s}ies"));
    resource == lower
        || resource == format!("{lower}s")
        || resource == format!("{lower}es")
        || stem.as_deref() == Some(resource)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}
