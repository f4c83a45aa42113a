//! Private images: which secrets are used, and what is told of those that don't help.

use serde_json::json;

use super::*;

fn spec(secrets: &[&str]) -> Value {
    let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
    json!({
        "containers": [{"name": "c", "image": "private:1", "imagePullPolicy": "Always"}],
        "imagePullSecrets": secrets,
    })
}

/// For docker's own registry, by `username` and `password`.
fn put_secret(agent: &Agent, name: &str, user: &str, password: &str) {
    let auths = json!({"https://index.docker.io/v1/": {"username": user, "password": password}});
    let config = json!({"auths": auths}).to_string();
    agent.api.put(
        &format!("/api/v1/namespaces/default/secrets/{name}"),
        json!({
            "kind": "Secret", "metadata": {"name": name, "namespace": "default"},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": k8s_openapi::ByteString(config.into_bytes())},
        }),
    );
}

#[tokio::test]
async fn each_secret_is_tried_until_one_opens_the_registry() {
    let agent = Agent::new();
    put_secret(&agent, "first", "other", "wrong");
    put_secret(&agent, "second", "u", "right");
    agent.apply(spec(&["first", "", "gone", "second"]));
    agent.until_running().await;
    let asked: Vec<String> =
        agent.runtime.calls().into_iter().filter(|call| call.starts_with("ask for")).collect();
    assert_eq!(asked, ["ask for private:1 as other", "ask for private:1 as u"]);
    assert_eq!(
        agent.event("FailedToRetrieveImagePullSecret").await,
        "Unable to retrieve some image pull secrets (gone); attempting to pull the image may not succeed."
    );
    agent.delete(1);
    agent.until_gone().await;
}

#[tokio::test]
async fn without_the_right_one_it_says_what_each_came_to() {
    let agent = Agent::new();
    put_secret(&agent, "first", "other", "wrong");
    put_secret(&agent, "second", "u", "hunter2");
    agent.apply(spec(&["first", "second"]));
    let message = |status: &Value| {
        let waiting = &status["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == "ErrImagePull")
            .then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    };
    let status = agent.until("fails to pull", |status| message(status).is_some()).await;
    assert_eq!(
        message(&status).as_deref(),
        Some(
            "[failed to pull and unpack image \"private:1\": denied to other, failed to pull and unpack image \"private:1\": denied to u]"
        )
    );
    let told = serde_json::to_string(&agent.api.all("/events/")).expect("events");
    assert!(!told.contains("hunter2") && !told.contains("FailedToRetrieve"), "{told}");
    agent.delete(1);
    agent.until_gone().await;
}

#[tokio::test]
async fn who_asks_for_nothing_waits_for_no_secret() {
    let agent = Agent::new();
    agent.apply(spec(&[]));
    agent
        .until("fails to pull", |status| {
            status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull"
        })
        .await;
    assert!(agent.runtime.calls().contains(&"ask for private:1 as nobody".to_owned()));
    agent.delete(1);
    agent.until_gone().await;
}

/// A pod of the same image that is on the node, as `policy` says.
async fn beside_a_private_image(policy: &str, secrets: &[&str]) -> Agent {
    let agent = Agent::new();
    put_secret(&agent, "right", "u", "right");
    agent.apply(spec(&["right"]));
    agent.until_running().await;
    agent.delete(1);
    agent.until_gone().await;
    let mut spec = spec(secrets);
    spec["containers"][0]["imagePullPolicy"] = json!(policy);
    agent.apply(spec);
    agent
}

#[tokio::test]
async fn that_an_image_is_there_opens_it_to_nobody() {
    for (policy, reason) in [("IfNotPresent", "ErrImagePull"), ("Never", "ErrImageNeverPull")] {
        let agent = beside_a_private_image(policy, &[]).await;
        agent
            .until("is refused", |status| {
                status["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
            })
            .await;
        agent.delete(1);
        agent.until_gone().await;
    }
}

#[tokio::test]
async fn whose_secret_opened_it_needs_no_registry() {
    for policy in ["IfNotPresent", "Never"] {
        let agent = beside_a_private_image(policy, &["right"]).await;
        agent.until_running().await;
        let asked = agent.runtime.calls().into_iter().filter(|call| call.starts_with("ask for")).count();
        assert_eq!(asked, 1, "{policy}");
        agent.delete(1);
        agent.until_gone().await;
    }
}
