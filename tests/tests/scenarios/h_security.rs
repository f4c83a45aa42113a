//! H: what pods may do to their nodes, to each other, and to the API. One module a row.

mod h2_pod_security;
