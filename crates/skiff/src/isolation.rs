//! What the kubelet asks of who filters pods' traffic, answered by the network policies of the proxy.

use std::net::Ipv4Addr;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use skiff_kubelet::{BoxError, Isolation};
use skiff_proxy::policy::{Policies, Subject};

pub(crate) struct ByPolicies(pub(crate) Policies);

#[async_trait]
impl Isolation for ByPolicies {
    async fn required(&self, namespace: &str) -> Result<u64, BoxError> {
        Ok(self.0.newest(namespace).await?)
    }

    async fn admit(&self, pod: &Pod, ip: Ipv4Addr, required: Option<u64>) -> Result<(), BoxError> {
        let subject = Subject::of_own(pod);
        match required {
            Some(newest) => self.0.admit(ip, subject, newest).await?,
            None => self.0.claim(ip, subject),
        }
        Ok(())
    }

    fn release(&self, ip: Ipv4Addr) {
        self.0.release(ip);
    }
}
