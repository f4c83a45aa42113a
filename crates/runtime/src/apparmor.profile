# What a container may do where nothing else is asked for: all that its capabilities, mounts and devices allow,
# but nothing that changes the machine through /proc and /sys, no mounts, and no tracing of others.
profile skiff-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  unix,

  # The node ends its containers; these talk among themselves.
  signal (receive) peer=unconfined,
  signal (send,receive) peer=skiff-default,
  ptrace (trace,read,tracedby,readby) peer=skiff-default,

  deny mount,

  # Files at the top of /proc; then what is neither a process's nor /proc/sys.
  deny /proc/* w,
  deny /proc/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  # Of /proc/sys, the segments of shared memory are the pod's own (kernel.shm*).
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # Of /sys, only the control groups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
