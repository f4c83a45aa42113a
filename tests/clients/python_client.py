"""What a program written with the Python client does, as one run: every step prints what it saw.

Usage: python_client.py NAMESPACE. Each line is `step: value`; the test compares the lines.
"""

import sys
import threading
import time

from kubernetes import client, config, stream, watch
from kubernetes.client.rest import ApiException

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "labels": {"app": "p"}},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {
                "name": "c",
                "image": "alpine",
                "command": ["sh", "-c", "echo one; echo two; sleep 999999 & wait"],
            }
        ],
    },
}


def say(step, value):
    print(f"{step}: {value}", flush=True)


def until(events, wanted):
    """The first event's object for which `wanted` holds."""
    for event in events:
        if wanted(event):
            return event
    raise SystemExit("the watch ended first")


def ready(pod):
    conditions = pod.status.conditions or []
    return any(c.type == "Ready" and c.status == "True" for c in conditions)


def pods(core, namespace):
    before = core.list_namespaced_pod(namespace)
    say("empty list", before.items)
    made = core.create_namespaced_pod(namespace, POD)
    say("created", made.metadata.name)
    watched = watch.Watch().stream(
        core.list_namespaced_pod,
        namespace,
        resource_version=before.metadata.resource_version,
        timeout_seconds=120,
    )
    kinds = []

    def is_ready(event):
        kinds.append(event["type"])
        return ready(event["object"])

    pod = until(watched, is_ready)["object"]
    say("watched", f"{kinds[0]}, then {sorted(set(kinds[1:]))}")
    say("phase", pod.status.phase)
    say("listed by label", [p.metadata.name for p in core.list_namespaced_pod(namespace, label_selector="app=p").items])
    # It is ready as soon as it runs; what it prints then may come a little later.
    end = time.monotonic() + 120
    while len(core.read_namespaced_pod_log("p", namespace).split()) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    say("log", core.read_namespaced_pod_log("p", namespace).split())
    say("tail", core.read_namespaced_pod_log("p", namespace, tail_lines=1).split())


def execs(core, namespace):
    def run(command, **arguments):
        arguments = {"stdin": False, "stdout": True, "stderr": True, "tty": False, **arguments}
        return stream.stream(core.connect_get_namespaced_pod_exec, "p", namespace, command=command, **arguments)

    say("exec", run(["echo", "hello"]).strip())
    shell = run(["sh"], stdin=True, _preload_content=False)
    shell.write_stdin("echo out; echo err >&2; exit 5\n")
    shell.run_forever(timeout=120)
    say("shell", (shell.read_stdout().strip(), shell.read_stderr().strip(), shell.returncode))
    big = run(["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"])
    say("a megabyte", (len(big), set(big)))


def changes(core, namespace):
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "m"}, "data": {"a": "1"}})
    merged = core.patch_namespaced_config_map("m", namespace, {"data": {"b": "2"}})
    say("patched", merged.data)
    listed = core.patch_namespaced_config_map("m", namespace, [{"op": "remove", "path": "/data/a"}])
    say("JSON-patched", listed.data)
    current = core.read_namespaced_config_map("m", namespace)
    current.data["c"] = "3"
    say("replaced", core.replace_namespaced_config_map("m", namespace, current).data)
    try:
        core.replace_namespaced_config_map("m", namespace, current)
    except ApiException as error:
        say("stale", (error.status, error.reason))
    try:
        core.read_namespaced_config_map("nobody", namespace)
    except ApiException as error:
        say("missing", error.status)


def deletes(core, namespace):
    version = core.list_namespaced_pod(namespace).metadata.resource_version
    gone = []
    watched = watch.Watch().stream(
        core.list_namespaced_pod, namespace, resource_version=version, timeout_seconds=120
    )
    watching = threading.Thread(target=lambda: gone.append(until(watched, lambda e: e["type"] == "DELETED")))
    watching.start()
    core.delete_namespaced_pod("p", namespace)
    watching.join(120)
    say("deleted", [event["object"].metadata.name for event in gone])
    say("none left", core.list_namespaced_pod(namespace).items)


def main():
    config.load_kube_config()
    core = client.CoreV1Api()
    namespace = sys.argv[1]
    say("nodes", len(core.list_node().items))
    for step in (pods, execs, changes, deletes):
        step(core, namespace)


main()
