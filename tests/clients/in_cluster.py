"""What a program in a pod does with the Python client's in-cluster configuration: says who it is, and lists
the pods of its namespace. Each line is `step: value`; the test compares the lines.
"""

from kubernetes import client, config
from kubernetes.client.rest import ApiException

config.load_incluster_config()
with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
    namespace = file.read()
print("namespace:", namespace)
review = client.AuthenticationV1Api().create_self_subject_review({})
print("user:", review.status.user_info.username)
print("groups:", sorted(review.status.user_info.groups))
core = client.CoreV1Api()
print("pods:", [pod.metadata.name for pod in core.list_namespaced_pod(namespace).items])
try:
    core.list_namespaced_secret(namespace)
except ApiException as error:
    print("secrets:", error.status)
