//! The runtime against the real kernel. Needs root, and `/bin/busybox` of Debian's package `busybox-static`.

mod basics;
mod isolation;
mod node;
mod restart;
mod streams;
mod users;
