#!/bin/sh
# Installs the Debian packages that the tests need, as far as they are missing.
set -eu

# runc and crun are what sandboxes are compared with; `minirun ps` runs ps; qemu-user-static runs arm64 programs;
# criu saves and restores containers, in the guest: it need not know the kernel of the host; uidmap has newuidmap, for
# containers of ordinary users, and passt and slirp4netns connect them; systemd makes cgroups, in the guest, and dbus connects a user's to it; erofs-utils checks images of layers; xfsprogs makes
# a disk with project quotas.
packages="busybox-static e2fsprogs kmod xz-utils runc procps qemu-user-static criu uidmap systemd dbus erofs-utils xfsprogs passt slirp4netns"
# Tools that read and write images; the engines that have minirun as their runtime, and what they run.
packages="$packages skopeo umoci docker-registry podman conmon netavark buildah containerd docker.io crun containernetworking-plugins iptables iproute2 nftables"
# What speaks to minirund, unless another edition of it is there.
command -v kubectl >/dev/null || packages="$packages kubernetes-client"
# The virtual machine is an amd64 one and only used on such hosts.
[ "$(uname -m)" != x86_64 ] || packages="$packages qemu-system-x86 qemu-system-common"

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	echo "deps: this is no Debian system; install what these packages hold: $packages" >&2
	exit 1
fi

missing=
for p in $packages; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
done
# Debian 12 has virtiofsd in qemu-system-common, later releases in a package of its own.
virtiofsd() { [ -x /usr/lib/qemu/virtiofsd ] || [ -x /usr/libexec/virtiofsd ]; }
if [ -z "$missing" ] && { [ "$(uname -m)" != x86_64 ] || virtiofsd; }; then
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "deps: as root: apt-get update && apt-get install --no-install-recommends$missing" >&2
	exit 1
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# The packages of engines would start their daemons.
policy=
if [ ! -e /usr/sbin/policy-rc.d ]; then
	policy=/usr/sbin/policy-rc.d
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
trap 'rm -f "$log" $policy' EXIT
run() {
	"$@" </dev/null >"$log" 2>&1 || {
		cat "$log" >&2
		echo "deps: $* exited with an error" >&2
		exit 1
	}
}
run apt-get update -q
if [ -n "$missing" ]; then
	echo "deps: installing$missing"
	# shellcheck disable=SC2086 # a list of words
	run apt-get install -qy --no-install-recommends $missing
fi
if [ "$(uname -m)" = x86_64 ] && ! virtiofsd; then
	echo "deps: installing virtiofsd"
	run apt-get install -qy --no-install-recommends virtiofsd
fi
