//! What a pod's volumes are made of, as it is now. Volumes whose makings are as before are left alone.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};

use crate::env::Sources;
use crate::references::Objects;
use crate::tokens::{Values, Wanted};

/// The makings of one pod's volumes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Given {
    pub(crate) objects: Objects,
    pub(crate) tokens: Values,
    pub(crate) metadata: Told,
}

/// What a pod can learn of itself by a volume and that may change while it runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Told {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self { labels: pod.metadata.labels.clone(), annotations: pod.metadata.annotations.clone() }
    }
}

impl Sources for Given {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.objects.config_map(name)
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.objects.secret(name)
    }

    fn token(&self, wanted: &Wanted) -> Option<&str> {
        self.tokens.get(wanted).map(|token| &**token)
    }
}
