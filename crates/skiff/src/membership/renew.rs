//! Certificates are replaced while they are in use, long before they end.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use rand::RngExt;
use tracing::{error, warn};

use super::identity::Life;
use super::request::{Purpose, certificate};
use super::{Membership, join, now};

/// A clock that is set, or a machine that slept, is noticed this soon.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// When a certificate is replaced, in seconds since 1970: after seven to nine tenths of its life, as
/// upstream has it, so that nodes that joined together don't ask together. `share` is between 0 and 1.
fn due(life: Life, share: f64) -> i64 {
    let span = (life.not_after - life.not_before).max(0) as f64;
    life.not_before.saturating_add((span * (0.7 + 0.2 * share)).round() as i64)
}

/// What is to be done, and when to look again.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The client certificate, by itself.
    RenewClient,
    /// It has ended: nothing but another token helps, which an administrator has to give.
    Rejoin,
    Serving,
    Wait(Duration),
}

struct Lives {
    client: Life,
    serving: Option<Life>,
    /// The serving certificate names the node's address.
    is_addressed: bool,
    /// The API knows the node by its address.
    is_registered: bool,
}

fn step(lives: &Lives, now: i64, share: f64) -> Step {
    if lives.client.not_after <= now {
        return Step::Rejoin;
    }
    let client_due = due(lives.client, share);
    if client_due <= now {
        return Step::RenewClient;
    }
    let Some(serving) = lives.serving else { return Step::Serving };
    let serving_due = due(serving, share);
    if serving_due <= now || (lives.is_registered && !lives.is_addressed) {
        return Step::Serving;
    }
    let left = u64::try_from(client_due.min(serving_due) - now).unwrap_or_default();
    Step::Wait(Duration::from_secs(left).min(LOOK_EVERY))
}

impl Membership {
    /// Keeps the certificates fresh. Never returns.
    pub(crate) async fn keep(mut self) {
        let share = rand::rng().random_range(0.0..1.0);
        let mut retry = RETRY_MIN;
        loop {
            match self.look(share).await {
                Ok(Some(pause)) => {
                    retry = RETRY_MIN;
                    tokio::time::sleep(pause).await;
                }
                Ok(None) => retry = RETRY_MIN,
                Err(error) => {
                    if error.is::<super::Refused>() {
                        error!(error = format!("{error:#}"), "cannot renew the node's certificates");
                    } else {
                        warn!(error = format!("{error:#}"), "cannot renew the node's certificates, retrying");
                    }
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// One step; the time to wait when there is none.
    async fn look(&mut self, share: f64) -> anyhow::Result<Option<Duration>> {
        let kept = self.kept()?;
        let addressed = kept.serving.as_ref().is_some_and(|serving| serving.names(self.config.node_ip));
        let node = self.config.node_name.clone();
        // The first one is without addresses: those are the control plane's to confirm, once it has the node.
        let is_registered = addressed || (kept.serving.is_some() && self.is_registered().await?);
        let lives = Lives {
            client: kept.client.life()?,
            serving: kept.serving.as_ref().map(super::Issued::life).transpose()?,
            is_addressed: addressed,
            is_registered,
        };
        match step(&lives, now(), share) {
            Step::Wait(pause) if !is_registered => return Ok(Some(pause.min(RETRY_MIN))),
            Step::Wait(pause) => return Ok(Some(pause)),
            Step::RenewClient => {
                let issued = certificate(&self.client(), &node, &Purpose::Client).await?;
                self.take_client(issued)?;
            }
            Step::Rejoin => {
                let joined = join(&self.config, Some("the node's certificate has ended".to_owned())).await?;
                self.take_client(joined.client)?;
            }
            Step::Serving => {
                let ips = if is_registered { vec![IpAddr::V4(self.config.node_ip)] } else { Vec::new() };
                let issued = certificate(&self.client(), &node, &Purpose::Serving { ips }).await?;
                self.take_serving(issued)?;
            }
        }
        Ok(None)
    }

    /// Whether the API has the node with its address, which a serving certificate may name then.
    async fn is_registered(&self) -> anyhow::Result<bool> {
        let node = self.client().find::<Node>("", &self.config.node_name).await?;
        let addresses = node.as_ref().and_then(|node| node.status.as_ref()?.addresses.as_ref());
        let own = self.config.node_ip.to_string();
        Ok(addresses
            .is_some_and(|all| all.iter().any(|each| each.type_ == "InternalIP" && each.address == own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn life(from_day: i64, days: i64) -> Life {
        Life { not_before: from_day * DAY, not_after: (from_day + days) * DAY }
    }

    #[test]
    fn a_certificate_is_replaced_after_seven_to_nine_tenths() {
        let check =
            |share: f64, expected_day: i64| assert_eq!(due(life(100, 100), share), expected_day * DAY);
        check(0.0, 170);
        check(0.5, 180);
        check(1.0, 190);
        // One that ends before it begins is due at once.
        assert_eq!(due(Life { not_before: 5, not_after: 1 }, 0.5), 5);
    }

    #[test]
    fn what_is_due_is_done_one_by_one() {
        let lives = |client: Life, serving: Option<Life>| Lives {
            client,
            serving,
            is_addressed: true,
            is_registered: true,
        };
        let check =
            |lives: &Lives, day: i64, expected: Step| assert_eq!(step(lives, day * DAY, 0.0), expected);
        let both = lives(life(0, 100), Some(life(0, 200)));
        check(&both, 10, Step::Wait(LOOK_EVERY));
        check(&both, 70, Step::RenewClient);
        check(&both, 99, Step::RenewClient);
        check(&both, 100, Step::Rejoin);
        // The clock was set ahead by years: the token, or nobody.
        check(&both, 5_000, Step::Rejoin);
        let fresh = lives(life(0, 400), Some(life(0, 200)));
        check(&fresh, 140, Step::Serving);
        check(&lives(life(0, 100), None), 1, Step::Serving);
        let mut nameless = lives(life(0, 100), Some(life(0, 100)));
        nameless.is_addressed = false;
        check(&nameless, 1, Step::Serving);
        nameless.is_registered = false;
        check(&nameless, 1, Step::Wait(LOOK_EVERY));
        // Shortly before, the wait is as long as is left.
        let seconds = step(&both, 70 * DAY - 9, 0.0);
        assert_eq!(seconds, Step::Wait(Duration::from_secs(9)));
    }
}
