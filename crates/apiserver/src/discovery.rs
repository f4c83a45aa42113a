//! Discovery: which groups, versions and resources there are, legacy and aggregated.

use http::StatusCode;
use http::header::{ACCEPT, HeaderValue};
use serde_json::{Map, Value, json};
use skiff_api::status::StatusError;

use crate::explain;
use crate::http_body::{Request, Response, full};
use crate::render;
use crate::resources::{RESOURCES, Resource, Subresource};
use crate::server::Inner;

/// Resources that are served without being stored.
struct Virtual {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    namespaced: bool,
}

static VIRTUAL: &[Virtual] = &[
    Virtual {
        group: "",
        version: "v1",
        plural: "bindings",
        singular: "binding",
        kind: "Binding",
        namespaced: true,
    },
    Virtual {
        group: "authentication.k8s.io",
        version: "v1",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        kind: "SelfSubjectReview",
        namespaced: false,
    },
    Virtual {
        group: "authentication.k8s.io",
        version: "v1",
        plural: "tokenreviews",
        singular: "tokenreview",
        kind: "TokenReview",
        namespaced: false,
    },
    Virtual {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        kind: "SelfSubjectAccessReview",
        namespaced: false,
    },
    Virtual {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        kind: "SelfSubjectRulesReview",
        namespaced: false,
    },
    Virtual {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        kind: "SubjectAccessReview",
        namespaced: false,
    },
    Virtual {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        kind: "LocalSubjectAccessReview",
        namespaced: true,
    },
];

/// Groups in upstream's order of priority.
const GROUPS: &[&str] = &[
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "certificates.k8s.io",
    "networking.k8s.io",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    skiff_explain::GROUP,
];

/// Whether there are resources of this group and version.
pub(crate) fn serves(group: &str, version: &str) -> bool {
    version == "v1" && groups().any(|served| served == group)
}

/// All groups, the core group (an empty name) first.
pub(crate) fn groups() -> impl Iterator<Item = &'static str> {
    std::iter::once("").chain(GROUPS.iter().copied())
}

pub(crate) fn answer(server: &Inner, path: &str, request: &Request) -> Result<Option<Response>, StatusError> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let found = match parts.as_slice() {
        [""] => json!({"paths": root_paths()}),
        ["api"] => match aggregated(request) {
            Some(version) => return Ok(Some(aggregated_answer(version, &[""]))),
            None => json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{
                    "clientCIDR": "0.0.0.0/0",
                    "serverAddress": format!("{}:{}", server.config.advertise.0, server.config.advertise.1),
                }],
            }),
        },
        ["apis"] => match aggregated(request) {
            Some(version) => return Ok(Some(aggregated_answer(version, GROUPS))),
            None => json!({
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": GROUPS.iter().map(|g| group(g)).collect::<Vec<_>>(),
            }),
        },
        ["apis", name] if GROUPS.contains(name) => {
            let mut found = group(name);
            found["kind"] = "APIGroup".into();
            found["apiVersion"] = "v1".into();
            found
        }
        ["api", "v1"] => resource_list(""),
        ["apis", name, "v1"] if GROUPS.contains(name) => resource_list(name),
        _ => return Ok(None),
    };
    render::negotiate(request.headers(), false)?;
    Ok(Some(render::json_response(StatusCode::OK, full(found.to_string()))))
}

fn root_paths() -> Vec<String> {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis"].map(String::from).into();
    for group in GROUPS {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/v1"));
    }
    let others = [
        "/.well-known/openid-configuration",
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    paths.extend(others.map(String::from));
    paths.sort();
    paths
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

/// A resource of either sort, as discovery shows it.
pub(crate) struct Listed {
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    pub(crate) verbs: &'static [&'static str],
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) subresources: &'static [Subresource],
}

/// The resources of a group's one version.
pub(crate) fn listed(group: &str) -> Vec<Listed> {
    let stored = RESOURCES.iter().filter(|r| r.group == group).map(|r: &'static Resource| Listed {
        plural: r.plural,
        singular: r.singular,
        kind: r.kind,
        namespaced: r.namespaced,
        verbs: r.verbs,
        short_names: r.short_names,
        categories: r.categories,
        subresources: r.subresources,
    });
    let others = VIRTUAL.iter().filter(|v| v.group == group && v.version == "v1").map(|v| Listed {
        plural: v.plural,
        singular: v.singular,
        kind: v.kind,
        namespaced: v.namespaced,
        verbs: &["create"],
        short_names: &[],
        categories: &[],
        subresources: &[],
    });
    let explained = explain::listed().filter(|_| group == skiff_explain::GROUP);
    let mut all: Vec<Listed> = stored.chain(others).chain(explained).collect();
    all.sort_by_key(|r| r.plural);
    all
}

fn resource_list(group: &str) -> Value {
    let group_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    let mut resources = Vec::new();
    for r in listed(group) {
        let mut entry = Map::new();
        entry.insert("name".into(), r.plural.into());
        entry.insert("singularName".into(), r.singular.into());
        entry.insert("namespaced".into(), r.namespaced.into());
        entry.insert("kind".into(), r.kind.into());
        entry.insert("verbs".into(), json!(r.verbs));
        if !r.short_names.is_empty() {
            entry.insert("shortNames".into(), json!(r.short_names));
        }
        if !r.categories.is_empty() {
            entry.insert("categories".into(), json!(r.categories));
        }
        resources.push(Value::Object(entry));
        for s in r.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", r.plural, s.name), "singularName": "",
                "namespaced": r.namespaced, "kind": s.kind, "verbs": s.verbs,
            });
            if !s.group.is_empty() {
                entry["group"] = s.group.into();
                entry["version"] = s.version.into();
            }
            resources.push(entry);
        }
    }
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    })
}

/// The version of aggregated discovery that the client takes first, if it takes any.
fn aggregated(request: &Request) -> Option<&'static str> {
    let accept = request.headers().get(ACCEPT)?.to_str().ok()?;
    for clause in accept.split(',').map(str::trim) {
        let mut parts = clause.split(';').map(str::trim);
        if !matches!(parts.next(), Some("application/json")) {
            continue;
        }
        let parameters: Vec<&str> = parts.collect();
        if !parameters.contains(&"as=APIGroupDiscoveryList") {
            // A clause that asks for the plain form before any aggregated one.
            if parameters.iter().all(|p| p.starts_with("q=")) {
                return None;
            }
            continue;
        }
        if parameters.contains(&"v=v2") {
            return Some("v2");
        }
        if parameters.contains(&"v=v2beta1") {
            return Some("v2beta1");
        }
    }
    None
}

fn aggregated_answer(version: &str, groups: &[&str]) -> Response {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({
                "metadata": metadata,
                "versions": [{
                    "version": "v1", "freshness": "Current",
                    "resources": listed(group).iter().map(aggregated_resource).collect::<Vec<_>>(),
                }],
            })
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let content_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    let mut response =
        render::own(StatusCode::OK, HeaderValue::from_static(content_type), full(body.to_string()));
    response.headers_mut().insert(http::header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_resource(r: &Listed) -> Value {
    let mut entry = json!({
        "resource": r.plural,
        "responseKind": {"group": "", "version": "", "kind": r.kind},
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": r.singular,
        "verbs": r.verbs,
    });
    if !r.short_names.is_empty() {
        entry["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        entry["categories"] = json!(r.categories);
    }
    if !r.subresources.is_empty() {
        let subresources: Vec<Value> = r
            .subresources
            .iter()
            .map(|s| {
                json!({
                    "subresource": s.name,
                    "responseKind": {"group": s.group, "version": s.version, "kind": s.kind},
                    "verbs": s.verbs,
                })
            })
            .collect();
        entry["subresources"] = subresources.into();
    }
    entry
}
