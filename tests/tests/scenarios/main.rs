//! Every row of the scenarios, as a test named after it, with real kubectl against the real kernel.

mod a_sandbox;
mod b_network;
mod bad_input;
mod c_host_network;
mod d_host_port;
mod e_services;
mod f_host_pid_ipc;
mod g_kubectl;
mod h1_contexts;
mod h2_pod_security;
mod h3_policies;
mod h_at_rest;
mod h_loopback;
mod h_private;
mod pod_ends;
mod pod_names;
mod pull_secrets;
