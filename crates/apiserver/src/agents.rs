//! How the server reaches the agents of nodes: `https://NODE_IP:10250`, with its client certificate.

use std::sync::Arc;

pub(crate) struct Agents {
    /// `None`: this server was not told how to reach agents.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Agents {
    pub(crate) fn new(tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self { tls }
    }
}
