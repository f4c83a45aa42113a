# Makes what looks like a machine of its own: namespaces, control groups and a /run. $1: its name.
# Prints "ready" and then only holds the namespaces.
set -e
name=$1
grep -E ' - cgroup2? ' /proc/self/mountinfo | grep ' /sys/fs/cgroup' | while read -r line; do
  point=$(echo "$line" | cut -d' ' -f5)
  mkdir -p "$point/$name"
  # A v1 cpuset takes no process before it has CPUs and memory nodes.
  for file in cpuset.cpus cpuset.mems; do
    if [ -e "$point/$name/$file" ]; then cat "$point/$file" > "$point/$name/$file" 2>/dev/null || true; fi
  done
  echo $$ > "$point/$name/cgroup.procs"
done
exec unshare --net --mount --uts --ipc --cgroup --pid --fork --kill-child --mount-proc sh -ec '
  hostname "$1"
  layout=$(grep -E " - cgroup2? " /proc/self/mountinfo | grep " /sys/fs/cgroup")
  mount -t sysfs none /sys
  case "$layout" in *" - cgroup "*) mount -t tmpfs none /sys/fs/cgroup ;; esac
  echo "$layout" | while read -r line; do
    point=$(echo "$line" | cut -d" " -f5)
    kind=$(echo "$line" | sed "s/.* - //" | cut -d" " -f1)
    options=$(echo "$line" | sed "s/.* - //" | cut -d" " -f3 | sed "s/^rw,//; s/xattr,//; s/,release_agent=[^,]*//")
    case "$options" in name=*) options="none,$options" ;; esac
    mkdir -p "$point"
    if [ "$kind" = cgroup2 ]; then mount -t cgroup2 none "$point"; else mount -t cgroup -o "$options" none "$point"; fi
  done
  mount -t tmpfs none /run
  mount -t tmpfs none /dev/shm
  ip link set lo up
  echo ready
  exec sleep infinity
' sh "$name"
