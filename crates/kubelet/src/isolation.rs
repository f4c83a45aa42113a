//! Whoever filters the traffic of pods, as the kubelet knows it.
//!
//! It is told of a pod's address before anything in the pod runs, and nothing is started until it says that
//! what restricts the pod is in force: so a pod's very first packet is filtered. Between the two nothing
//! waits for long: what must be in force is asked while the sandbox is made.

use std::net::Ipv4Addr;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[async_trait]
pub trait Isolation: Send + Sync + 'static {
    /// The version of all restrictions that a pod of this namespace, made by now, must find in force.
    async fn required(&self, namespace: &str) -> Result<u64, BoxError>;
    /// The pod has this address now; returns when it is restricted as of that version, or of any for a
    /// pod that runs already.
    async fn admit(&self, pod: &Pod, ip: Ipv4Addr, required: Option<u64>) -> Result<(), BoxError>;
    /// The address is about to be nobody's.
    fn release(&self, ip: Ipv4Addr);
}

/// Restricts nothing: for a node without anybody who does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unrestricted;

#[async_trait]
impl Isolation for Unrestricted {
    async fn required(&self, _namespace: &str) -> Result<u64, BoxError> {
        Ok(0)
    }

    async fn admit(&self, _pod: &Pod, _ip: Ipv4Addr, _required: Option<u64>) -> Result<(), BoxError> {
        Ok(())
    }

    fn release(&self, _ip: Ipv4Addr) {}
}
