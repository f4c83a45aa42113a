//! Steps about a pod's volumes, and the tokens in them.

use skiff_explain::start::Phase;
use tracing::debug;

use crate::env::Facts;
use crate::given::{Given, Told};
use crate::images::chain;
use crate::observed::TokenState;
use crate::volumes::{self, Part};
use crate::worker::{Done, Worker};

impl Worker {
    pub(super) async fn mount_volumes(&mut self) {
        let part = if self.seen.tokens == TokenState::Settled { Part::All } else { Part::WithoutTokens };
        let began = crate::time::now();
        self.context.memory.begin(&self.uid, Phase::Volumes, began);
        match self.set_up_volumes(part).await {
            Ok(()) => {
                self.context.memory.mark(&self.uid, Phase::Volumes, began);
                self.seen.volumes_ready = true;
                self.pod_recovered();
            }
            Err(message) => self.pod_failure("FailedMount", message),
        }
    }

    pub(super) async fn mount_tokens(&mut self) {
        match self.set_up_volumes(Part::All).await {
            Ok(()) => {
                self.seen.tokens = TokenState::Settled;
                self.pod_recovered();
            }
            Err(message) => self.pod_failure("FailedMount", message),
        }
    }

    /// Asks for tokens that are missing or due, unless that is being done.
    pub(crate) fn fetch_tokens(&mut self) {
        if self.seen.tokens == TokenState::Wanted {
            self.seen.tokens = TokenState::Fetching;
        }
        self.replacing_tokens = true;
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.background.spawn(async move { Done::Tokens(context.tokens.fetch(&pod).await) });
    }

    async fn set_up_volumes(&mut self, part: Part) -> Result<(), String> {
        let objects = self.context.references.of(&self.pod).await?;
        let (tokens, _) = self.context.tokens.of(&self.uid);
        let given = Given { objects, tokens, metadata: Told::of(&self.pod) };
        if part == Part::All && self.mounted.as_ref() == Some(&given) {
            return Ok(());
        }
        let failed_with = given.objects.clone();
        let mounted = given.clone();
        let pod_dir = self.pod_dir();
        let (pod, pod_ip) = (self.pod.clone(), self.seen.ip);
        let made_paths = self.context.made_paths.clone();
        let (node_ip, capacity) = (self.context.config.node_ip(), self.context.capacity);
        // A disk may be slow, and other pods shall not wait for it.
        let made = tokio::task::spawn_blocking(move || {
            let facts = Facts {
                pod: &pod,
                pod_ip,
                node_ip,
                node_cpu_milli: capacity.cpu_milli,
                node_memory_bytes: i64::try_from(capacity.memory_bytes).unwrap_or(i64::MAX),
                node_disk_bytes: i64::try_from(capacity.disk_told_bytes()).unwrap_or(i64::MAX),
            };
            skiff_runtime::private::make_dir(&pod_dir).map_err(|error| error.to_string())?;
            volumes::set_up(&pod_dir, &facts, &given, part, &made_paths).map_err(|error| chain(&error))
        });
        let made = made.await.map_err(|error| error.to_string())?;
        match made {
            Ok(()) if part == Part::All => self.mounted = Some(mounted),
            Ok(()) => {}
            Err(_) => self.failed_with = Some(failed_with),
        }
        made
    }

    /// Brings the content of volumes up to date while the pod runs.
    pub(crate) async fn refresh_volumes(&mut self) {
        let ends = self.seen.removed || self.pod.metadata.deletion_timestamp.is_some();
        let has_content = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| {
            volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.downward_api.is_some()
                || volume.projected.is_some()
        });
        let settled = self.seen.volumes_ready && self.seen.tokens == TokenState::Settled;
        if !settled || ends || !has_content {
            return;
        }
        // An object that was deleted leaves what the pod has of it.
        if let Err(error) = self.set_up_volumes(Part::All).await {
            debug!(pod = self.uid, error, "cannot refresh volumes");
        }
    }
}
