#!/bin/busybox sh
# Process 1 of the machine: makes the host's files its root, all writes in memory, and runs the tests.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /host /root /upper /out
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /early/*; do insmod "$module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 out /out || poweroff -f
if grep -qw namegate.hello /proc/cmdline; then
    echo hello >/out/hello
    sync
    poweroff -f
fi
. /machine.env
# The host's root is exported read-only; what is written stays in memory and ends with the machine.
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=1048576 root /host
mount -t tmpfs upper /upper
mkdir /upper/files /upper/work
mount -t overlay overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work /root
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm /root/lib/modules
mount -t devpts devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t tmpfs run /root/run
mount -t bpf bpf /root/sys/fs/bpf
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount --bind "/host$MODULES" /root/lib/modules
mkdir -p /root/run/lock /root/run/netns /root/run/machine/out
mount --move /out /root/run/machine/out
# The kernel asks for modules by this path, as it does on any other machine.
cp /bin/busybox /root/run/machine/busybox
for name in sh modprobe timeout poweroff; do ln -s busybox "/root/run/machine/$name"; done
echo /run/machine/modprobe >/proc/sys/kernel/modprobe
cp /tests.sh /root/run/machine/tests.sh
ip link set lo up
# Not a chroot: who enters a namespace by its file would be out of it.
exec switch_root /root /run/machine/sh /run/machine/tests.sh
