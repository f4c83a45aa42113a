//! A server in this process with a store in memory, and requests to it as an administrator.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::http_body::full;
use skiff_apiserver::{ApiServer, Config, Identity, Router};
use skiff_store::{MemoryStore, Store};
use tower_service::Service;

pub(crate) struct Api {
    router: Router,
    store: Arc<dyn Store>,
    server: ApiServer,
}

impl Api {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let api = Self::on(config, Arc::new(MemoryStore::default())).await;
        let account = json!({"metadata": {"name": "default"}});
        api.ok(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
        api
    }

    /// A server on a store of the test's own.
    pub(crate) async fn on(config: Config, store: Arc<dyn Store>) -> Self {
        let server = ApiServer::build(config, Arc::clone(&store)).await.expect("builds");
        Self { router: server.router(), store, server }
    }

    pub(crate) fn stop(&self) {
        self.server.stop();
    }

    /// Another server on the same store, after the first one.
    pub(crate) async fn restarted(&self) -> Self {
        self.server.stop();
        Self::on(Config::default(), Arc::clone(&self.store)).await
    }

    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> http::Request<skiff_apiserver::Body> {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let mut request =
            http::Request::builder().method(method).uri(path).body(full(bytes)).expect("a request");
        request.extensions_mut().insert(Identity::new("admin", &["system:masters"]));
        request
    }

    pub(crate) async fn send(
        &self,
        request: http::Request<skiff_apiserver::Body>,
    ) -> http::Response<skiff_apiserver::Body> {
        self.router.clone().call(request).await.expect("infallible")
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.answer(self.request(method, path, &body)).await
    }

    /// As this user.
    pub(crate) async fn call_as(
        &self,
        who: &Identity,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let mut request = self.request(method, path, &body);
        request.extensions_mut().insert(who.clone());
        self.answer(request).await
    }

    pub(crate) fn server(&self) -> &ApiServer {
        &self.server
    }

    /// As a client that shows a bearer token and nothing else.
    pub(crate) async fn with_token(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let mut request = self.request(method, path, &body);
        request.extensions_mut().remove::<Identity>();
        let value = format!("Bearer {token}").parse().expect("a header's value");
        request.headers_mut().insert(http::header::AUTHORIZATION, value);
        self.answer(request).await
    }

    async fn answer(&self, request: http::Request<skiff_apiserver::Body>) -> (StatusCode, Value) {
        let response = self.send(request).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (
            code,
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into())),
        )
    }

    /// The code and the message of a request's answer.
    pub(crate) async fn told(&self, request: http::Request<skiff_apiserver::Body>) -> (u16, String) {
        let (code, answer) = self.answer(request).await;
        (code.as_u16(), answer["message"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn ok(&self, method: Method, path: &str, body: Value) -> Value {
        let (code, value) = self.call(method, path, body).await;
        assert!(code.is_success(), "{path}: {code} {value}");
        value
    }

    pub(crate) async fn refused(&self, method: Method, path: &str, body: Value, code: u16) -> String {
        let (got, value) = self.call(method, path, body).await;
        assert_eq!(got.as_u16(), code, "{path}: {value}");
        value["message"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The next line of a watch.
pub(crate) async fn next(body: &mut skiff_apiserver::Body, rest: &mut Vec<u8>) -> Value {
    loop {
        if let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            return serde_json::from_slice(&line).expect("a frame is JSON");
        }
        let frame = body.frame().await.expect("the watch goes on").expect("no error");
        rest.extend_from_slice(&frame.into_data().expect("data"));
    }
}
