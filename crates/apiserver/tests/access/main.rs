//! Who may do what: every served resource and verb for every kind of caller, by real requests, compared with
//! `matrix.txt`. A kind that is served and not in the table fails.
//!
//! The requests do nothing: who may write sends what can't be read, and who may delete names what is not
//! there. What matters is whether the answer is a 403.

#[path = "../api/mod.rs"]
mod api;

use std::collections::{BTreeMap, BTreeSet};

use api::{Api, pod};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_apiserver::Identity;

const EXPECTED: &str = include_str!("matrix.txt");

/// Callers, and the name of the objects that they ask about. What is called `own` is named by a pod on the
/// node of that name.
fn callers() -> Vec<(String, Identity, &'static str)> {
    let mut callers = vec![
        ("anonymous".to_owned(), Identity::anonymous(), "own"),
        ("pod".to_owned(), Identity::account("default", "robot"), "own"),
        ("viewer".to_owned(), Identity::new("viewer", &[]), "own"),
        ("editor".to_owned(), Identity::new("editor", &[]), "own"),
        ("admin of the namespace".to_owned(), Identity::new("admin-of-it", &[]), "own"),
        ("node, its own".to_owned(), Identity::new("system:node:own", &["system:nodes"]), "own"),
        ("node, another's".to_owned(), Identity::new("system:node:own", &["system:nodes"]), "other"),
        ("system:kube-scheduler".to_owned(), Identity::new("system:kube-scheduler", &[]), "own"),
        (
            "system:kube-controller-manager".to_owned(),
            Identity::new("system:kube-controller-manager", &[]),
            "own",
        ),
    ];
    let controllers = [
        "certificate-controller",
        "clusterrole-aggregation-controller",
        "daemon-set-controller",
        "deployment-controller",
        "endpoint-controller",
        "endpointslice-controller",
        "endpointslicemirroring-controller",
        "event-ttl-controller",
        "generic-garbage-collector",
        "namespace-controller",
        "node-controller",
        "pod-garbage-collector",
        "replicaset-controller",
        "root-ca-cert-publisher",
        "service-account-controller",
        "token-cleaner",
        "token-controller",
    ];
    let accounts = controllers
        .iter()
        .map(|name| (format!("controller {name}"), Identity::account("kube-system", name), "own"));
    callers.extend(accounts);
    callers
}

async fn cluster() -> Api {
    let api = Api::new().await;
    for name in ["own", "other"] {
        let account = json!({"metadata": {"name": name}});
        api.ok(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
    }
    let mut own = pod("own");
    own["spec"]["nodeName"] = "own".into();
    own["spec"]["serviceAccountName"] = "own".into();
    own["spec"]["volumes"] = json!([
        {"name": "a", "secret": {"secretName": "own"}},
        {"name": "b", "configMap": {"name": "own"}},
    ]);
    api.ok(Method::POST, api::PODS, own).await;
    for (user, role) in [("viewer", "view"), ("editor", "edit"), ("admin-of-it", "admin")] {
        let binding = json!({
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": user}],
        });
        let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
        api.ok(Method::POST, path, binding).await;
    }
    api
}

/// A row: `resource.group` or `resource.group/subresource`, and what it takes to ask for it.
struct Served {
    row: String,
    base: String,
    plural: String,
    subresource: String,
    namespaced: bool,
    verbs: Vec<String>,
}

async fn served(api: &Api) -> Vec<Served> {
    let mut bases = vec![(String::new(), "/api/v1".to_owned())];
    let groups = api.ok(Method::GET, "/apis", Value::Null).await;
    for group in groups["groups"].as_array().expect("groups") {
        let name = group["name"].as_str().expect("a name").to_owned();
        for version in group["versions"].as_array().expect("versions") {
            bases.push((
                name.clone(),
                format!("/apis/{}", version["groupVersion"].as_str().expect("a version")),
            ));
        }
    }
    let mut served = Vec::new();
    for (group, base) in bases {
        let list = api.ok(Method::GET, &base, Value::Null).await;
        for resource in list["resources"].as_array().expect("resources") {
            let name = resource["name"].as_str().expect("a name");
            let (plural, subresource) = name.split_once('/').unwrap_or((name, ""));
            let group = if group.is_empty() { String::new() } else { format!(".{group}") };
            let subresource_part =
                if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
            served.push(Served {
                row: format!("{plural}{group}{subresource_part}"),
                base: base.clone(),
                plural: plural.to_owned(),
                subresource: subresource.to_owned(),
                namespaced: resource["namespaced"] == true,
                verbs: resource["verbs"]
                    .as_array()
                    .expect("verbs")
                    .iter()
                    .map(|verb| verb.as_str().expect("a verb").to_owned())
                    .collect(),
            });
        }
    }
    served
}

impl Served {
    /// A request for this verb that changes nothing, whoever sends it.
    fn request(&self, verb: &str, name: &str) -> (Method, String) {
        let namespace = match (self.namespaced, self.plural.as_str()) {
            (false, _) => String::new(),
            (true, "leases") => "/namespaces/kube-node-lease".to_owned(),
            (true, _) => "/namespaces/default".to_owned(),
        };
        let collection = format!("{}{namespace}/{}", self.base, self.plural);
        let object = match self.subresource.as_str() {
            "" => format!("{collection}/{name}"),
            subresource => format!("{collection}/{name}/{subresource}"),
        };
        match verb {
            "get" => (Method::GET, object),
            "list" => (Method::GET, collection),
            "watch" => (Method::GET, format!("{collection}?watch=true")),
            "create" if self.subresource.is_empty() => (Method::POST, collection),
            "create" => (Method::POST, object),
            "update" => (Method::PUT, object),
            "patch" => (Method::PATCH, object),
            "delete" => (Method::DELETE, object),
            // Not a selector, so that nothing is selected.
            "deletecollection" => (Method::DELETE, format!("{collection}?labelSelector=%3D")),
            other => panic!("{} has the verb {other}", self.row),
        }
    }
}

async fn code(api: &Api, who: &Identity, method: Method, path: &str) -> StatusCode {
    let mut request = api.request(method, path, &Value::String("nothing that can be read".into()));
    request.extensions_mut().insert(who.clone());
    api.send(request).await.status()
}

/// Whether a caller is of a group.
type IsIn<'a> = &'a dyn Fn(&String) -> bool;

/// Callers who may do the same are told together.
fn together(callers: &mut BTreeMap<String, BTreeSet<String>>) {
    let all: Vec<String> = self::callers().into_iter().map(|(caller, ..)| caller).collect();
    let known = |caller: &String| caller != "anonymous";
    let account = |caller: &String| caller == "pod" || caller.starts_with("controller ");
    let groups: [(&str, IsIn<'_>); 2] = [("everybody who is known", &known), ("every account", &account)];
    for (name, is_in) in groups {
        let members: Vec<&String> = all.iter().filter(|caller| is_in(caller)).collect();
        let verbs: BTreeSet<Option<&BTreeSet<String>>> =
            members.iter().map(|member| callers.get(*member)).collect();
        if let (1, Some(Some(same))) = (verbs.len(), verbs.first()) {
            let same = (*same).clone();
            members.iter().for_each(|member| drop(callers.remove(*member)));
            callers.insert(name.to_owned(), same);
        }
    }
}

/// Per row, who may do what.
type Matrix = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn read(text: &str) -> Matrix {
    let mut matrix = Matrix::new();
    let mut row = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("    ") {
            None => {
                row = line.to_owned();
                matrix.entry(row.clone()).or_default();
            }
            Some(entry) => {
                let (who, verbs) = entry.split_once(": ").expect("WHO: VERBS");
                let verbs = verbs.split(' ').map(str::to_owned).collect();
                matrix.entry(row.clone()).or_default().insert(who.to_owned(), verbs);
            }
        }
    }
    matrix
}

fn written(matrix: &Matrix) -> String {
    let mut text = String::new();
    for (row, callers) in matrix {
        text += &format!("{row}\n");
        for (who, verbs) in callers {
            let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
            text += &format!("    {who}: {}\n", verbs.join(" "));
        }
    }
    text
}

/// Paths that are no resources.
const PATHS: &[&str] = &[
    "/",
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/apis/apps/v1",
    "/healthz",
    "/livez",
    "/livez/ping",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/skiff/v1/certificates",
    "/skiff/v1/cluster",
    "/skiff/v1/nothing",
    "/version",
];

#[tokio::test]
async fn everybody_may_do_what_the_table_says_and_nothing_else() {
    let api = cluster().await;
    let mut found = Matrix::new();
    let served = served(&api).await;
    for one in &served {
        let row = found.entry(one.row.clone()).or_default();
        for (caller, who, name) in callers() {
            for verb in &one.verbs {
                let (method, path) = one.request(verb, name);
                if code(&api, &who, method, &path).await != StatusCode::FORBIDDEN {
                    row.entry(caller.clone()).or_default().insert(verb.clone());
                }
            }
        }
    }
    for path in PATHS {
        let row = found.entry((*path).to_owned()).or_default();
        for (caller, who, _) in callers() {
            if code(&api, &who, Method::GET, path).await != StatusCode::FORBIDDEN {
                row.entry(caller).or_default().insert("get".into());
            }
        }
    }
    found.values_mut().for_each(together);
    let expected = read(EXPECTED);
    let unlisted: Vec<&String> = found.keys().filter(|row| !expected.contains_key(*row)).collect();
    let gone: Vec<&String> = expected.keys().filter(|row| !found.contains_key(*row)).collect();
    let mut wrong: Vec<String> = Vec::new();
    for (row, callers) in &found {
        let Some(listed) = expected.get(row) else { continue };
        for who in callers.keys().chain(listed.keys()).collect::<BTreeSet<_>>() {
            let (may, should) = (callers.get(who), listed.get(who));
            if may != should {
                wrong.push(format!("{row}: {who} may {may:?}, and should {should:?}"));
            }
        }
    }
    assert!(
        unlisted.is_empty() && gone.is_empty() && wrong.is_empty(),
        "not in the table: {unlisted:?}\nnot served: {gone:?}\n{}\nAll of it:\n{}",
        wrong.join("\n"),
        written(&found)
    );
}

#[tokio::test]
async fn administrators_may_do_everything() {
    let api = cluster().await;
    let who = Identity::new("root", &["system:masters"]);
    for one in &served(&api).await {
        for verb in &one.verbs {
            let (method, path) = one.request(verb, "absent");
            assert_ne!(code(&api, &who, method, &path).await, StatusCode::FORBIDDEN, "{verb} {}", one.row);
        }
    }
}
