//! The runtime against the real kernel. Needs root, and `/bin/busybox` of Debian's package `busybox-static`, and `runc` of its package `runc`.

mod basics;
mod isolation;
mod node;
mod restart;
mod runc;
mod streams;
mod users;
mod weakness;
