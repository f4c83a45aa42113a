pub(crate) async fn run(_context: crate::context::Context) {
    std::future::pending().await
}
