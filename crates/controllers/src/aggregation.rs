//! Aggregated cluster roles: their rules are those of the roles that their selectors name.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use skiff_api::selector::Selector;
use skiff_client::{Error, ObjectKey, Requeue, WorkQueue, work};

use crate::context::{Context, feed};

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let roles = context.caches.cluster_roles.clone();
    // Any role may be part of any aggregated one, and there are few of these.
    let listed = roles.clone();
    let aggregated = move || {
        let all = listed.list();
        let own = all.iter().filter(|role| role.aggregation_rule.is_some());
        own.map(|role| ObjectKey::of(&**role)).collect::<Vec<_>>()
    };
    let all = aggregated.clone();
    let reconciler = context.clone();
    tokio::join!(
        feed(roles, queue.clone(), move |_: &ClusterRole| aggregated(), all),
        work("aggregation", queue, 1, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(role) = context.caches.cluster_roles.get(key) else { return Ok(Requeue::Never) };
    let Some(rules) = wanted(&role, &context.caches.cluster_roles.list()) else {
        return Ok(Requeue::Never);
    };
    let mut role = (*role).clone();
    role.rules = Some(rules);
    match context.client.update(&role).await {
        // Deleted meanwhile.
        Err(error) if error.is_not_found() => Ok(Requeue::Never),
        other => other.map(|_| Requeue::Never),
    }
}

/// The rules that an aggregated role should have, where it has others: each rule once, in the order of the
/// names of the roles that bring them.
fn wanted(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let selectors: Vec<Selector> = aggregation
        .cluster_role_selectors
        .iter()
        .flatten()
        .filter_map(|selector| Selector::from_object(Some(selector)).ok())
        .collect();
    let mut parts: Vec<&Arc<ClusterRole>> = all
        .iter()
        .filter(|part| part.metadata.name != role.metadata.name)
        .filter(|part| selectors.iter().any(|selector| selector.matches(part.metadata.labels.as_ref())))
        .collect();
    parts.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in parts.iter().flat_map(|part| part.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(name: &str, label: &str, verbs: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<_> = verbs
            .iter()
            .map(|verb| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}))
            .collect();
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules}),
            )
            .unwrap(),
        )
    }

    fn aggregated(label: &str, own: &[&str]) -> ClusterRole {
        let mut role = (*role("all", "x", own)).clone();
        role.aggregation_rule = Some(
            serde_json::from_value(json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}))
                .unwrap(),
        );
        role
    }

    fn verbs(rules: &[PolicyRule]) -> Vec<&str> {
        rules.iter().flat_map(|rule| rule.verbs.iter().map(String::as_str)).collect()
    }

    #[test]
    fn rules_come_from_the_selected_roles_in_order_of_names_each_once() {
        let all = [
            role("b", "part", &["get", "list"]),
            role("a", "part", &["watch", "get"]),
            role("c", "x", &["delete"]),
        ];
        let rules = wanted(&aggregated("part", &[]), &all).expect("it has none yet");
        assert_eq!(verbs(&rules), ["watch", "get", "list"]);
        assert_eq!(wanted(&aggregated("part", &["watch", "get", "list"]), &all), None);
    }

    #[test]
    fn an_aggregated_role_does_not_feed_itself_and_forgets_what_is_gone() {
        let own = aggregated("x", &["get"]);
        let rules = wanted(&own, &[Arc::new(own.clone())]).expect("its rules were another's");
        assert!(rules.is_empty());
    }

    #[test]
    fn other_roles_are_left_alone() {
        assert_eq!(wanted(&role("a", "x", &["get"]), &[]), None);
    }
}
