//! JSON of whole objects, read and written by code that exists once.
//!
//! Generic code is compiled anew in each crate that uses it, and a pod's reader alone is hundreds of
//! functions. Behind plain functions of this crate all the others share one.

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
    certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking, rbac::v1 as rbac,
    scheduling::v1 as scheduling,
};
use serde_json::{Result, Value};

/// A kind of which whole objects are read and written.
pub trait Json: Sized {
    fn from_json(json: &[u8]) -> Result<Self>;

    fn to_json(&self) -> Result<Vec<u8>>;

    /// Through text: for where it is seldom done.
    fn from_value(value: &Value) -> Result<Self> {
        Self::from_json(&serde_json::to_vec(value)?)
    }

    /// Through text: for where it is seldom done.
    fn to_value(&self) -> Result<Value> {
        serde_json::from_slice(&self.to_json()?)
    }
}

macro_rules! kinds {
    ($($kind:ty),* $(,)?) => {
        $(impl Json for $kind {
            #[inline(never)]
            fn from_json(json: &[u8]) -> Result<Self> {
                serde_json::from_slice(json)
            }

            #[inline(never)]
            fn to_json(&self) -> Result<Vec<u8>> {
                serde_json::to_vec(self)
            }
        })*
    };
}

kinds! {
    apps::ControllerRevision,
    apps::DaemonSet,
    apps::Deployment,
    apps::ReplicaSet,
    authentication::TokenReview,
    authorization::SubjectAccessReview,
    certificates::CertificateSigningRequest,
    coordination::Lease,
    core::ConfigMap,
    core::Endpoints,
    core::Event,
    core::Namespace,
    core::Node,
    core::Pod,
    core::Secret,
    core::Service,
    core::ServiceAccount,
    discovery::EndpointSlice,
    events::Event,
    networking::NetworkPolicy,
    rbac::ClusterRole,
    rbac::ClusterRoleBinding,
    rbac::Role,
    rbac::RoleBinding,
    scheduling::PriorityClass,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_and_value_are_the_same_object() {
        let value = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}});
        let node = core::Node::from_value(&value).unwrap();
        assert_eq!(node.metadata.name.as_deref(), Some("a"));
        assert_eq!(node.to_value().unwrap(), value);
        assert_eq!(core::Node::from_json(&node.to_json().unwrap()).unwrap(), node);
        assert!(core::Pod::from_value(&value).is_err(), "a node is no pod");
    }
}
