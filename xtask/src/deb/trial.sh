#!/bin/sh
# In a fresh Debian, in network, mount and process namespaces of its own: what an administrator does with the
# package, from the first day to the last.
set -eu
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
fail() { echo "trial: $*" >&2; exit 1; }
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs run /run
mkdir -p /run/netns /run/lock
ip link set lo up

echo "== install"
dpkg -i /root/first.deb
namegate version
namegate config check
[ -f /lib/systemd/system/namegate.service ] || fail "no unit"
[ -f /usr/share/man/man1/namegate.1.gz ] && [ -f /usr/share/man/man5/namegate-config.5.gz ] || fail "no manual"
schema=$(sed -n '1s/.*\$schema=//p' /etc/namegate/config.yaml)
grep -q dns_ttl_floor "$schema" || fail "no schema at $schema"

echo "== run, with one workload and no policy"
ip netns add job
ip link add host0 type veth peer name eth0 netns job
ip addr add 10.0.0.1/24 dev host0
ip link set host0 up
ip -n job addr add 10.0.0.2/24 dev eth0
ip -n job link set eth0 up
ip -n job link set lo up
printf 'name: job\nlabels: {app: job}\nnetns: /run/netns/job\n' >/etc/namegate/endpoints/job.yaml
# Elsewhere than by default: what removes the package finds it all the same.
pins=/sys/fs/bpf/elsewhere
echo "bpf_dir: $pins" >/etc/namegate/config.d/pins.yaml
start() {
    : >/root/said
    namegate run >/root/said 2>/root/log &
    daemon=$!
    for _ in $(seq 200); do
        grep -q ready /root/said && return
        sleep 0.1
    done
    cat /root/log >&2
    fail "not ready"
}
start
namegate status
ip netns exec job ping -c 1 -W 2 10.0.0.1 >/dev/null 2>&1 || command -v ping >/dev/null || echo "(no ping here)"

echo "== a changed configuration outlives an upgrade, and so does what is enforced"
echo 'audit: true' >>/etc/namegate/config.yaml
kill -TERM $daemon
wait $daemon || fail "the daemon ended with $?"
dpkg -i --force-confold /root/second.deb
grep -q '^audit: true' /etc/namegate/config.yaml || fail "the configuration was overwritten"
[ -d $pins/links ] || fail "an upgrade took enforcement away"
start
namegate status
namegate endpoint list

echo "== remove"
kill -TERM $daemon
wait $daemon || fail "the daemon ended with $?"
dpkg -r namegate
[ ! -e $pins ] || fail "pins are left"
[ -z "$(ip -o link | grep -v 'lo:\|host0' || true)" ] || fail "links are left: $(ip -o link)"
[ -f /etc/namegate/config.yaml ] || fail "a removal took the configuration"
[ -d /var/lib/namegate ] || fail "a removal took what was learned"

echo "== purge"
dpkg -P namegate
[ -f /etc/namegate/endpoints/job.yaml ] || fail "a purge took what the package did not bring"
rm /etc/namegate/endpoints/job.yaml /etc/namegate/config.d/pins.yaml
rmdir /etc/namegate/endpoints /etc/namegate/config.d /etc/namegate
left=$(find / -xdev -name '*namegate*' -not -path '/proc/*' -not -path '/var/log/*')
[ -z "$left" ] || fail "left: $left"
echo "== done"
