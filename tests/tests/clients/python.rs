//! The Python client of PyPI, by `clients/python_client.py`.

use std::process::Command;

use skiff_tests::{Cluster, run};

#[test]
fn the_python_client_lists_watches_execs_and_patches() {
    let namespace = Cluster::shared().namespace("python");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python_client.py");
    let packages = std::env::var_os("SKIFF_PYTHON_PACKAGES")
        .expect("SKIFF_PYTHON_PACKAGES is set by `cargo xtask test`");
    let mut command = Command::new("python3");
    command.args([program, "python"]).env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    let printed = run(command.env("KUBECONFIG", &namespace.cluster.kubeconfig)).ok();
    let wanted = "\
nodes: 3
empty list: []
created: p
watched: ADDED, then ['MODIFIED']
phase: Running
listed by label: ['p']
log: ['one', 'two']
tail: ['two']
exec: hello
shell: ('out', 'err', 5)
a megabyte: (1000000, {'x'})
patched: {'a': '1', 'b': '2'}
JSON-patched: {'b': '2'}
replaced: {'b': '2', 'c': '3'}
stale: (409, 'Conflict')
missing: 404
deleted: ['p']
none left: []
";
    assert_eq!(printed, wanted);
}
