//! Nobody grants what they do not have: a role's rules, or those of the role that a binding names, must be
//! covered by the writer's own, unless the writer may `escalate` or `bind` that role.

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde_json::Value;
use skiff_api::status::{GroupResource, StatusError};

use super::index::RoleName;
use super::rule::{Lacking, Rule, lacking, lines, quoted};
use super::{GROUP, rule};
use crate::access::Access;
use crate::auth::{Attributes, Identity};
use crate::metadata;
use crate::resources::{Cx, Resource};

/// Upstream's word for a role that may do all.
const AGGREGATION: &str = "must have cluster-admin privileges to use the aggregationRule";

fn refused(kind: &Resource, object: &Value, why: &str) -> StatusError {
    StatusError::forbidden(kind.group_resource(), metadata::text(object, "name"), why)
}

/// Whether a write needs no look at what it grants: nothing is granted anew, or its writer may do so to the role
/// of that name.
fn is_excused(
    cx: &Cx<'_>,
    (new, old): (&Value, Option<&Value>),
    verb: &str,
    resource: &str,
    name: &str,
) -> bool {
    let namespace = metadata::text(new, "namespace");
    let asked = Attributes { verb, group: GROUP, resource, namespace, name, ..Attributes::default() };
    cx.who.in_group("system:masters")
        || old.is_some_and(|old| same_grant(new, old))
        || cx.server.access.allows(cx.who, &asked)
}

/// Before a role of either kind is written.
pub(crate) fn check_role(
    cx: &Cx<'_>,
    kind: &Resource,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), StatusError> {
    let namespace = metadata::text(new, "namespace");
    if is_excused(cx, (new, old), "escalate", kind.plural, metadata::text(new, "name")) {
        return Ok(());
    }
    check_rules(&cx.server.access, cx.who, namespace, &rules(&new["rules"]))
        .map_err(|why| refused(kind, new, &why))?;
    let aggregates = |role: &Value| role["aggregationRule"].is_object();
    if aggregates(new) || old.is_some_and(aggregates) {
        let everything = [
            Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() },
            Rule { verbs: star(), urls: star(), ..Rule::default() },
        ];
        check_rules(&cx.server.access, cx.who, "", &everything)
            .map_err(|_| refused(kind, new, AGGREGATION))?;
    }
    Ok(())
}

fn star() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Before a binding of either kind is written.
pub(crate) fn check_binding(
    cx: &Cx<'_>,
    kind: &Resource,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), StatusError> {
    // What is no role at all is found by the validation that follows.
    let Ok(reference) = serde_json::from_value::<RoleRef>(new["roleRef"].clone()) else { return Ok(()) };
    let resource = match reference.kind.as_str() {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        _ => return Ok(()),
    };
    let namespace = metadata::text(new, "namespace");
    if is_excused(cx, (new, old), "bind", resource, &reference.name) {
        return Ok(());
    }
    let granted = cx
        .server
        .access
        .index(|index| index.rules(namespace, &RoleName::from(&reference)).map(<[_]>::to_vec));
    let Some(granted) = granted else {
        return Err(StatusError::not_found(GroupResource { group: GROUP, resource }, &reference.name));
    };
    check_rules(&cx.server.access, cx.who, namespace, &granted).map_err(|why| refused(kind, new, &why))
}

/// Whether an update leaves alone what is granted and to whom.
fn same_grant(new: &Value, old: &Value) -> bool {
    ["rules", "aggregationRule", "roleRef", "subjects"].iter().all(|field| {
        let empty = |value: Option<&Value>| {
            value.filter(|v| !v.is_null() && v.as_array().is_none_or(|list| !list.is_empty())).cloned()
        };
        empty(new.get(field)) == empty(old.get(field))
    })
}

fn rules(list: &Value) -> Vec<Rule> {
    let parsed = |rule: &Value| serde_json::from_value::<PolicyRule>(rule.clone()).ok();
    list.as_array().into_iter().flatten().filter_map(|rule| Some(Rule::from(&parsed(rule)?))).collect()
}

/// `Err` says what is lacking, in upstream's words.
fn check_rules(access: &Access, who: &Identity, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
    let (owned, absent) = access.index(|index| index.rules_of(who, namespace));
    let lacking = lacking(&owned, wanted);
    if lacking == Lacking::default() {
        return Ok(());
    }
    let more = if lacking.and_more {
        "\n(and more, or too many to compare: give them by several roles)"
    } else {
        ""
    };
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}{more}",
        &*who.user,
        quoted(who.groups.iter().map(|group| &**group)),
        lines(lacking.rules)
    );
    if !absent.is_empty() {
        let absent: Vec<String> = absent.iter().map(ToString::to_string).collect();
        message = format!("{message}; resolution errors: [{}]", rule::aggregate(&absent));
    }
    Err(message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_update_grants_anew_where_rules_roles_or_subjects_change() {
        let role = || json!({"rules": [{"verbs": ["get"]}], "metadata": {"labels": {"a": "b"}}});
        let mut labeled = role();
        labeled["metadata"]["labels"]["a"] = "c".into();
        assert!(same_grant(&labeled, &role()));
        for field in ["rules", "aggregationRule", "roleRef", "subjects"] {
            let mut changed = role();
            changed[field] = json!([{"name": "x"}]);
            assert!(!same_grant(&changed, &role()), "{field}");
            assert!(!same_grant(&role(), &changed), "{field}");
        }
        // Nothing has several forms.
        for nothing in [json!({}), json!({"subjects": null}), json!({"subjects": []})] {
            assert!(same_grant(&nothing, &json!({})), "{nothing}");
        }
        assert!(!same_grant(&json!({"aggregationRule": {}}), &json!({})), "an empty rule selects nothing");
    }
}
