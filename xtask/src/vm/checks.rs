//! What is looked at in the virtual machine: shell scripts, each of which holds if it ends well.
//!
//! They run one after the other as root, with `set -e` and [`PRELUDE`] before them, and find the binary,
//! kubectl, images and manifests below `/work`. Their output is shown where they fail.

/// What the machine starts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Init {
    Systemd,
    Plain,
}

impl Init {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Plain => "no systemd",
        }
    }

    /// For the kernel's command line.
    pub(super) fn kernel(self) -> &'static str {
        match self {
            Self::Systemd => "",
            Self::Plain => "init=/sbin/plain-init",
        }
    }
}

pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) script: &'static str,
    /// Others rely on it, so that no filter leaves it out.
    pub(super) needed: bool,
    only: Option<Init>,
}

impl Check {
    const fn needed(name: &'static str, script: &'static str) -> Self {
        Self { name, script, needed: true, only: None }
    }

    const fn new(name: &'static str, script: &'static str) -> Self {
        Self { name, script, needed: false, only: None }
    }

    /// Of machines with that alone.
    const fn only(init: Init, name: &'static str, script: &'static str) -> Self {
        Self { name, script, needed: false, only: Some(init) }
    }

    pub(super) fn runs_with(&self, init: Init) -> bool {
        self.only.is_none_or(|only| only == init)
    }
}

/// Runs all checks and says how they went on the second serial line.
pub(super) const RUN: &str = r#"#!/bin/sh
exec > /dev/ttyS1 2>&1 < /dev/null
stty -F /dev/ttyS1 raw -echo 2>/dev/null
cp /work/bin/* /usr/local/bin/
for check in /work/checks/*; do
  name=$(basename "$check" | cut -d' ' -f2-)
  began=$(cut -d. -f1 /proc/uptime)
  echo "@@ run $name"
  if timeout 600 sh -ec '. /work/prelude; . "$1"' sh "$check" > /tmp/output 2>&1 < /dev/null; then
    echo "@@ ok $name ($(($(cut -d. -f1 /proc/uptime) - began)) s)"
  else
    echo "@@ FAILED $name"
    tail -60 /tmp/output | sed 's/^/@@ | /'
  fi
done
echo "@@ end"
if [ -e /work/keep ]; then
  stty -F /dev/ttyS1 sane
  . /work/prelude
  setsid -c bash -i < /dev/ttyS1 > /dev/ttyS1 2>&1
fi
poweroff -f || busybox poweroff -f
"#;

pub(super) const PRELUDE: &str = r#"
export KUBECONFIG=/var/lib/skiff/skiff/kubeconfig HOME=/root M=/work/manifests
CP=skiff-control-plane W1=skiff-worker-1 W2=skiff-worker-2
# fails unless the first text has the second
has() { case "$1" in *"$2"*) ;; *) echo "not said: $2"; echo "$1"; return 1 ;; esac; }
hasnt() { case "$1" in *"$2"*) echo "said: $2"; echo "$1"; return 1 ;; esac; }
is() { [ "$1" = "$2" ] || { echo "it is '$1', not '$2'"; return 1; }; }
eventually() { n=0; until "$@" > /tmp/try 2>&1; do n=$((n+1)); if [ $n -ge 300 ]; then echo "never: $*"; cat /tmp/try; return 1; fi; sleep 0.3; done; cat /tmp/try; }
refuses() { if "$@"; then echo "it is not refused: $*"; return 1; fi; }
ready() { kubectl wait --for=condition=Ready --timeout=120s "$@" || { kubectl describe "$@"; return 1; }; }
field() { kubectl get "$1" "$2" -o jsonpath="$3"; }
ip_of() { field pod "$1" '{.status.podIP}'; }
host_of() { field pod "$1" '{.status.hostIP}'; }
node_ip() { field node "$1" '{.status.addresses[?(@.type=="InternalIP")].address}'; }
get() { wget -T 10 -t 1 -q -O - "http://$1"; }
# whether the kernel is older than that version
older() { [ "$(uname -r)" != "$1" ] && [ "$(printf '%s\n%s\n' "$1" "$(uname -r)" | sort -V | head -1)" != "$1" ]; }
# the control group of a pod on the machine
group_of() { find /sys/fs/cgroup/skiff-skiff -type d -name "pod$(field pod "$1" '{.metadata.uid}')"; }
# pod NAME NODE 'more of the spec' 'more of the container'
pod() {
  kubectl apply -f - <<END
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: $1}}
spec:
  nodeSelector: {kubernetes.io/hostname: $2}
  terminationGracePeriodSeconds: 1
  $3
  containers:
  - name: main
    image: skiff/peer:v1
    command: [peer, tcp, "7000"]
    $4
END
}
"#;

/// In their order: what a check leaves behind, the next ones find.
pub(super) const CHECKS: &[Check] = &[
    Check::needed(
        "the kernel is stock and its control groups are of version 2 alone",
        r#"
uname -a
is "$(stat -f -c %T /sys/fs/cgroup)" cgroup2fs
refuses grep -q ' cgroup ' /proc/mounts
is "$(cat /sys/module/apparmor/parameters/enabled)" Y
test -e /proc/net/if_inet6
has "$(ls /sys/kernel/security)" apparmor
caps=$(sed -n 's/^CapEff:\t//p' /proc/self/status)
test $((0x$caps >> 24 & 1)) = 1
"#,
    ),
    Check::new(
        "where modules can't be loaded, up says which are missing, and leaves nothing",
        r#"
lsmod
before=$(cat /proc/sys/kernel/modprobe)
echo /bin/false > /proc/sys/kernel/modprobe
said=$(skiff up --detach 2>&1) && code=0 || code=$?
echo "$before" > /proc/sys/kernel/modprobe
echo "$said"
refuses test "$code" = 0
for module in overlay veth bridge nf_tables; do has "$said" "$module"; done
has "$said" "modprobe"
refuses test -e /var/lib/skiff/skiff
"#,
    ),
    Check::needed(
        "up makes three nodes",
        r#"
ip -o link > /tmp/links.before
skiff up --nodes 3 --images /work/images --detach
has "$(kubectl get nodes)" skiff-worker-2
is "$(kubectl get nodes --no-headers | grep -cw Ready)" 3
lsmod
"#,
    ),
    Check::new(
        "the machine's own tables and groups are left alone",
        r#"
is "$(nft list tables)" ""
ls /sys/fs/cgroup
cat /sys/fs/cgroup/cgroup.subtree_control
"#,
    ),
    Check::needed(
        "a pod with a hostPort",
        r#"
kubectl apply -f $M/simpleweb-hostport.yaml -f $M/host-port.yaml
ready pod/simpleweb pod/kubia-hostport
has "$(eventually get $(host_of simpleweb):9001)" "Host:simpleweb | IP:10.244."
has "$(eventually get $(host_of kubia-hostport):9000)" "You've hit kubia-hostport"
refuses get $(node_ip $CP):9001
has "$(skiff ps | grep simpleweb)" Running
"#,
    ),
    Check::new(
        "pods in the node's network, processes and IPC",
        r#"
kubectl apply -f $M/host-network.yaml -f $M/host-pid-ipc.yaml
ready pod/pod-with-host-network pod/pod-with-host-pid-and-ipc
has "$(kubectl exec pod-with-host-network -- ifconfig)" cbr0
has "$(kubectl exec pod-with-host-pid-and-ipc -- ps aux)" kubelet
kubectl delete -f $M/host-pid-ipc.yaml --grace-period=1
"#,
    ),
    Check::needed(
        "pods of two nodes talk, and by services, names and node ports",
        r#"
pod left $W1; pod right $W2
ready pod/left pod/right
has "$(kubectl exec left -- peer get $(ip_of right):7000)" "right $(ip_of left)"
kubectl expose pod right --type=NodePort --port=80 --target-port=7000
has "$(eventually kubectl exec left -- peer get $(field service right '{.spec.clusterIP}'):80)" right
has "$(kubectl exec left -- nslookup right.default.svc.cluster.local)" "$(field service right '{.spec.clusterIP}')"
port=$(field service right '{.spec.ports[0].nodePort}')
for node in $CP $W1 $W2; do has "$(kubectl exec left -- peer get $(node_ip $node):$port)" right; done
kubectl exec left -- ping -c 1 -W 5 $(node_ip $CP)
"#,
    ),
    Check::new(
        "exec, logs, attach, cp and port-forward",
        r#"
kubectl run teller --image=alpine --restart=Never --overrides='{"spec":{"terminationGracePeriodSeconds":1}}' -- sh -c 'echo told; exec sleep 9999'
ready pod/teller
has "$(eventually kubectl logs teller)" told
is "$(echo in | kubectl exec -i teller -- cat)" in
kubectl exec teller -- sh -c 'exit 7' && exit 1 || is $? 7
script -qec 'kubectl exec -it teller -- tty' /dev/null < /dev/null > /tmp/tty 2>&1 || true
has "$(cat /tmp/tty)" /dev/pts/
kubectl port-forward pod/left 17000:7000 > /tmp/forward 2>&1 & forward=$!
eventually grep -q Forwarding /tmp/forward
has "$(echo | nc 127.0.0.1 17000 2>&1 || busybox nc -w 5 127.0.0.1 17000 < /dev/null)" left
kill $forward
kubectl delete pod teller --grace-period=1
"#,
    ),
    Check::new(
        "limits are the kernel's: memory.max, cpu.max, cpu.weight, and the class's group",
        r#"
pod limited $W1 '' 'resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}'
pod sure $W1 '' 'resources: {limits: {cpu: 500m, memory: 64Mi}}'
pod modest $W1
ready pod/limited pod/sure pod/modest
has "$(group_of limited)" /kubepods/burstable/pod
has "$(group_of modest)" /kubepods/besteffort/pod
has "$(group_of sure)" /kubepods/pod
is "$(cat $(group_of limited)/memory.max)" 67108864
is "$(cat $(group_of limited)/cpu.max)" "50000 100000"
own=$(dirname $(find $(group_of limited) -mindepth 2 -name memory.max | grep -v pause | head -1))
is "$(cat $own/memory.max) $(cat $own/memory.swap.max 2>/dev/null || echo 0) $(cat $own/memory.oom.group)" "67108864 0 1"
is "$(cat $own/cpu.max)" "50000 100000"
is "$(kubectl exec limited -- cat /sys/fs/cgroup/memory.max)" 67108864
is "$(kubectl exec limited -- cat /sys/fs/cgroup/cgroup.procs | head -1)" 1
refuses kubectl exec limited -- sh -c 'echo max > /sys/fs/cgroup/memory.max'
# what only CAP_SYS_RESOURCE may do
is "$(kubectl exec sure -- cat /proc/1/oom_score_adj)" -997
is "$(kubectl exec modest -- cat /proc/1/oom_score_adj)" 1000
has "$(kubectl exec modest -- grep 'open files' /proc/1/limits | tr -s ' ')" "1048576 1048576"
kubectl get --raw /api/v1/nodes/$W1/proxy/stats/summary | grep -q workingSetBytes
kubectl delete pod limited sure modest --grace-period=1
is "$(find /sys/fs/cgroup/skiff-skiff -name 'pod*' | wc -l)" "$(kubectl get pods -A --no-headers | wc -l)"
"#,
    ),
    Check::new(
        "a container that takes too much memory is killed, and the pod says so",
        r#"
kubectl apply -f - <<END
apiVersion: v1
kind: Pod
metadata: {name: eater}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "skiff/peer:v1", command: [peer, eat, "200"], resources: {limits: {memory: 32Mi}}}
END
eventually sh -c 'kubectl get pod eater -o jsonpath="{.status.containerStatuses[0].state.terminated.reason}" | grep -x OOMKilled'
is "$(field pod eater '{.status.containerStatuses[0].state.terminated.exitCode}')" 137
kubectl delete pod eater
"#,
    ),
    Check::new(
        "devices are those of the list, unless the container is privileged",
        r#"
pod plain $W1; pod mighty $W1 '' 'securityContext: {privileged: true}'
ready pod/plain pod/mighty
kubectl exec plain -- sh -c 'mknod /tmp/disk b 254 0; head -c 1 /dev/zero | wc -c'
has "$(kubectl exec plain -- sh -c 'head -c 512 /tmp/disk 2>&1 | cat')" "Operation not permitted"
is "$(kubectl exec mighty -- sh -c 'head -c 512 /dev/vda | wc -c')" 512
refuses kubectl exec plain -- sh -c 'echo 1 > /proc/sys/kernel/sysrq'
kubectl delete pod plain mighty --grace-period=1
"#,
    ),
    Check::new(
        "a pod with users of its own",
        r#"
token=
if older 6.3; then
  # a tmpfs, which a token lies on, takes no users of its own there, and the pod says so
  pod tokened $W2 'hostUsers: false'
  eventually sh -c 'kubectl get pod tokened -o jsonpath="{.status.containerStatuses[0].state.waiting.message}" | grep MOUNT_ATTR_IDMAP'
  kubectl delete pod tokened --grace-period=1
  token='automountServiceAccountToken: false'
fi
pod mapped $W2 "hostUsers: false
  $token"
ready pod/mapped
is "$(kubectl exec mapped -- id -u)" 0
has "$(kubectl exec mapped -- sh -c 'touch /root/own; ls -ln /root/own')" " 0 "
has "$(kubectl exec mapped -- cat /proc/self/uid_map)" 65536
hasnt "$(kubectl exec mapped -- cat /proc/self/uid_map | tr -s ' ')" " 0 0 "
has "$(skiff explain pod mapped)" "user      own"
kubectl delete pod mapped --grace-period=1
"#,
    ),
    Check::new(
        "system calls are filtered",
        r#"
pod filtered $W1 'securityContext: {seccompProfile: {type: RuntimeDefault}}' 'securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, runAsUser: 1000, runAsNonRoot: true}'
ready pod/filtered
is "$(kubectl exec filtered -- sed -n 's/^Seccomp:\t//p' /proc/1/status)" 2
is "$(kubectl exec filtered -- sed -n 's/^NoNewPrivs:\t//p' /proc/1/status)" 1
is "$(kubectl exec filtered -- sed -n 's/^CapBnd:\t//p' /proc/1/status)" 0000000000000000
refuses kubectl exec filtered -- unshare -r true
kubectl delete pod filtered --grace-period=1
"#,
    ),
    Check::new(
        "AppArmor confines: by the default profile, by a loaded one, and not by one that is not there",
        r#"
apparmor_parser --version | head -1
cat > /tmp/guard <<END
profile vm-guard flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  signal,
  unix,
  ptrace,
  deny /tmp/** w,
}
END
apparmor_parser --skip-cache --replace /tmp/guard
pod usual $W1
pod default $W1 '' 'securityContext: {appArmorProfile: {type: RuntimeDefault}, capabilities: {add: [SYS_ADMIN]}}'
pod guarded $W1 'securityContext: {appArmorProfile: {type: Localhost, localhostProfile: vm-guard}}'
pod open $W1 'securityContext: {appArmorProfile: {type: Unconfined}}'
pod mighty $W1 '' 'securityContext: {privileged: true}'
pod stranger $W1 '' 'securityContext: {appArmorProfile: {type: Localhost, localhostProfile: nobody}}'
ready pod/usual pod/default pod/guarded pod/open pod/mighty
is "$(kubectl exec usual -- cat /proc/1/attr/current)" "skiff-default (enforce)"
is "$(kubectl exec default -- cat /proc/1/attr/current)" "skiff-default (enforce)"
is "$(kubectl exec default -- cat /proc/self/attr/current)" "skiff-default (enforce)"
is "$(kubectl exec guarded -- cat /proc/1/attr/current)" "vm-guard (enforce)"
is "$(kubectl exec guarded -- cat /proc/self/attr/current)" "vm-guard (enforce)"
is "$(kubectl exec open -- cat /proc/1/attr/current)" unconfined
is "$(kubectl exec mighty -- cat /proc/1/attr/current)" unconfined
# what the profiles forbid, and what they don't
refuses kubectl exec guarded -- touch /tmp/new
kubectl exec guarded -- touch /root/new
kubectl exec usual -- touch /tmp/new
kubectl exec default -- mkdir -p /mnt
refuses kubectl exec default -- mount -t tmpfs none /mnt
kubectl exec mighty -- sh -c 'mkdir -p /mnt; mount -t tmpfs none /mnt'
waiting='{.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}'
eventually sh -c "kubectl get pod stranger -o jsonpath='$waiting' | grep '^CreateContainerError: .*apparmor profile not found nobody'"
# the pod's programs end when they are told to
kubectl delete pod usual default guarded open mighty stranger --grace-period=30 --timeout=60s
"#,
    ),
    Check::new(
        "a safe kernel parameter is the pod's own",
        r#"
before=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)
pod tuned $W1 'securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "80"}]}'
ready pod/tuned
is "$(kubectl exec tuned -- cat /proc/sys/net/ipv4/ip_unprivileged_port_start)" 80
is "$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)" "$before"
kubectl delete pod tuned --grace-period=1
"#,
    ),
    Check::new(
        "a network policy keeps strangers out, by IPv6 too",
        r#"
pod near $W2; ready pod/near
kubectl exec left -- peer get $(ip_of right):7000
six=$(kubectl exec right -- ip -6 -o addr show dev eth0 | grep -o 'fe80[^/ ]*' || true)
echo "the server's own link address: $six"
kubectl apply -f - <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: right}}
  ingress: [{from: [{podSelector: {matchLabels: {app: left}}}]}]
END
eventually refuses kubectl exec near -- peer get $(ip_of right):7000 700
kubectl exec left -- peer get $(ip_of right):7000
if [ -n "$six" ]; then
  refuses kubectl exec near -- ping -6 -c 1 -W 2 "$six%eth0"
fi
has "$(skiff trace near pod/right:7000)" friends
kubectl delete networkpolicy friends
eventually kubectl exec near -- peer get $(ip_of right):7000 700
kubectl delete pod near --grace-period=1
"#,
    ),
    Check::new(
        "pods and connections are explained",
        r#"
said=$(skiff explain pod pod-with-host-network)
has "$said" "net       host"
has "$said" cbr0
said=$(skiff explain pod left)
has "$said" "net       own"
has "$said" ":7000/TCP"
has "$(skiff trace left pod/right:7000)" reaches
has "$(skiff trace left svc/right:80)" reaches
said=$(skiff trace left pod/right:7000 --live)
echo "$said"
has "$said" "reaches"
has "$(skiff trace left pod/kubia-hostport --compare)" hostPort
has "$(skiff explain start left)" "image"
"#,
    ),
    Check::new(
        "an agent that dies is started again, and its pods go on",
        r#"
pid=$(skiff status | awk '$2 == "skiff-worker-2" && $3 == "agent" { print $4 }')
before=$(field pod right '{.status.containerStatuses[0].containerID}')
kill -9 "$pid"
eventually kubectl exec right -- true
is "$(field pod right '{.status.containerStatuses[0].containerID}')" "$before"
is "$(field pod right '{.status.containerStatuses[0].restartCount}')" 0
"#,
    ),
    Check::needed(
        "down leaves nothing, and proves it",
        r#"
said=$(skiff down --prove)
echo "$said"
has "$said" "Nothing of ours is left."
refuses test -e /sys/fs/cgroup/skiff-skiff
refuses grep skiff-default /sys/kernel/security/apparmor/profiles
ip -o link > /tmp/links.after
is "$(cut -d: -f2 /tmp/links.after)" "$(cut -d: -f2 /tmp/links.before)"
"#,
    ),
    Check::new(
        "server and reset on the machine itself",
        r#"
ip link add lan0 type dummy; ip address add 192.0.2.7/24 dev lan0; ip link set lan0 up
skiff server --node-ip 192.0.2.7 > /tmp/server.log 2>&1 & server=$!
export KUBECONFIG=/var/lib/skiff/server/kubeconfig
eventually kubectl get node debian
ready node/debian
for image in /work/images/*peer*; do skiff image load "$image"; done
pod here debian; ready pod/here
eventually get "$(ip_of here):7000" || has "$(busybox nc -w 5 $(ip_of here) 7000 < /dev/null)" here
is "$(kubectl exec here -- cat /proc/1/oom_score_adj)" 1000
has "$(cat /proc/$(pgrep -xf 'peer tcp 7000')/cgroup)" "0::/kubepods/besteffort/pod"
is "$(kubectl exec here -- cat /proc/1/attr/current)" "skiff-default (enforce)"
kill $server; wait $server || true
said=$(skiff reset --prove)
echo "$said"
has "$said" "Nothing of ours is left."
refuses test -e /sys/fs/cgroup/kubepods
refuses grep skiff-default /sys/kernel/security/apparmor/profiles
ip link delete lan0
"#,
    ),
    Check::only(
        Init::Systemd,
        "a service of systemd, whose restart pods outlive, and systemd-resolved's servers in pods",
        r#"
readlink /etc/resolv.conf
systemctl is-active systemd-resolved
ip link add lan0 type dummy; ip address add 192.0.2.7/24 dev lan0; ip link set lan0 up
resolvectl dns lan0 192.0.2.53
eventually grep 192.0.2.53 /run/systemd/resolve/resolv.conf
cat > /etc/systemd/system/skiff.service <<END
[Unit]
Description=Skiff
[Service]
ExecStart=/usr/local/bin/skiff server --node-ip 192.0.2.7
KillMode=process
Delegate=yes
Restart=always
END
systemctl daemon-reload
systemctl start skiff
export KUBECONFIG=/var/lib/skiff/server/kubeconfig
eventually kubectl get node debian
ready node/debian
for image in /work/images/*peer*; do skiff image load "$image"; done
pod here debian 'dnsPolicy: Default'; ready pod/here
has "$(kubectl exec here -- cat /etc/resolv.conf)" "nameserver 192.0.2.53"
hasnt "$(kubectl exec here -- cat /etc/resolv.conf)" 127.0.0.53
before=$(field pod here '{.status.containerStatuses[0].containerID}')
pid=$(pgrep -xf 'peer tcp 7000')
systemctl restart skiff
eventually kubectl exec here -- true
is "$(field pod here '{.status.containerStatuses[0].containerID}')" "$before"
is "$(pgrep -xf 'peer tcp 7000')" "$pid"
cat /sys/fs/cgroup/cgroup.subtree_control
# systemd looks after the groups that it made; ours keep their controllers and limits
systemctl daemon-reload
systemctl restart systemd-journald
has "$(cat /sys/fs/cgroup/kubepods/cgroup.controllers)" memory
has "$(cat /proc/$pid/cgroup)" "0::/kubepods/besteffort/pod"
systemctl stop skiff
said=$(skiff reset --prove)
echo "$said"
has "$said" "Nothing of ours is left."
refuses test -e /sys/fs/cgroup/kubepods
refuses grep skiff-default /sys/kernel/security/apparmor/profiles
refuses pgrep -xf 'peer tcp 7000'
ip link delete lan0
"#,
    ),
];
