//! Certificate signing requests: who asked is the server's to say; deciding and signing are rights of
//! their own, for each signer.

use serde_json::{Value, json};
use skiff_api::certificates::{CLIENT_SIGNER, Request};
use skiff_api::status::StatusError;

use super::{Cx, Strategy, find};
use crate::auth::Attributes;
use crate::server::authorize;
use crate::{clock, metadata};

pub(crate) struct CertificateSigningRequests;

const GROUP: &str = "certificates.k8s.io";
const ADMINISTRATORS: &str = "system:masters";

impl Strategy for CertificateSigningRequests {
    fn prepare_create(&self, cx: &Cx<'_>, new: &mut Value) -> Result<(), StatusError> {
        if !new["spec"].is_object() {
            new["spec"] = json!({});
        }
        let spec = new["spec"].as_object_mut().expect("made an object above");
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        spec.insert("username".into(), (*cx.who.user).into());
        if !cx.who.uid.is_empty() {
            spec.insert("uid".into(), (*cx.who.uid).into());
        }
        let groups: Vec<&str> = cx.who.groups.iter().map(|group| &**group).collect();
        spec.insert("groups".into(), json!(groups));
        if !cx.who.extra.is_empty() {
            spec.insert("extra".into(), json!(*cx.who.extra));
        }
        makes_no_administrator(new)
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<(), StatusError> {
        new["spec"] = old["spec"].clone();
        match cx.subresource {
            "approval" => {
                keep_certificate(new, old);
                may(cx, new, "approve")?;
            }
            "status"
                if new["status"]["certificate"] != old["status"]["certificate"]
                    || condition(new, "Failed") != condition(old, "Failed") =>
            {
                may(cx, new, "sign")?;
            }
            _ => {}
        }
        date_conditions(new, old);
        Ok(())
    }
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}

fn keep_certificate(new: &mut Value, old: &Value) {
    let Some(certificate) = old["status"].get("certificate") else {
        if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
            status.remove("certificate");
        }
        return;
    };
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    new["status"]["certificate"] = certificate.clone();
}

/// Nobody becomes an administrator for good by a request.
fn makes_no_administrator(csr: &Value) -> Result<(), StatusError> {
    if csr["spec"]["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let pem = skiff_api::validate::certificate_request_pem(csr);
    let request = Request::parse(&pem).unwrap_or_default();
    if !request.organizations.iter().any(|organization| organization == ADMINISTRATORS) {
        return Ok(());
    }
    let of = find(GROUP, "certificatesigningrequests").expect("requests are in the table").group_resource();
    let why = format!("use of {CLIENT_SIGNER} signer with {ADMINISTRATORS} group is not allowed");
    Err(StatusError::forbidden(of, metadata::text(csr, "name"), &why))
}

/// Whether the caller may `verb` requests to this signer, or to all of its domain.
fn may(cx: &Cx<'_>, csr: &Value, verb: &str) -> Result<(), StatusError> {
    let signer = csr["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let allowed = [signer, &domain].into_iter().any(|name| {
        let what = Attributes { verb, group: GROUP, resource: "signers", name, ..Attributes::default() };
        authorize(cx.server, cx.who, &what).is_ok()
    });
    if allowed {
        return Ok(());
    }
    let of = find(GROUP, "certificatesigningrequests").expect("requests are in the table").group_resource();
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(StatusError::forbidden(of, metadata::text(csr, "name"), &why))
}

fn date_conditions(new: &mut Value, old: &Value) {
    let now = clock::rfc3339(clock::now());
    let conditions = new["status"]["conditions"].as_array_mut();
    for one in conditions.into_iter().flatten() {
        if one["lastUpdateTime"].is_null() {
            one["lastUpdateTime"] = now.as_str().into();
        }
        if one["lastTransitionTime"].is_null() {
            let before = condition(old, one["type"].as_str().unwrap_or_default())
                .filter(|before| before["status"] == one["status"])
                .map(|before| before["lastTransitionTime"].clone())
                .filter(|time| !time.is_null());
            one["lastTransitionTime"] = before.unwrap_or_else(|| now.as_str().into());
        }
    }
}
