#!/bin/sh
# boot.sh ROOT LAYER    boots the Debian in ROOT as process 1 of namespaces of its
# own. What it writes goes into the folder LAYER, so that ROOT stays as it is. The
# process that runs this is that process 1, seen from outside.
set -eu
if [ "${inside-}" != yes ]; then
	cgroups=$(mktemp -d)
	mount -t cgroup2 cgroup2 "$cgroups"
	own=$cgroups/gateway-test-$$
	mkdir "$own"
	echo $$ >"$own/cgroup.procs"
	umount "$cgroups"
	rmdir "$cgroups"
	export inside=yes
	# --kill-child: nothing is left when the test is gone.
	exec unshare --mount --pid --ipc --uts --net --cgroup --fork --kill-child --propagation private sh "$0" "$@"
fi
root=$1 layer=$2
mkdir -p "$layer/upper" "$layer/work" "$layer/root"
new=$layer/root
mount -t overlay overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" "$new"
mount -t proc proc "$new/proc"
mount -t sysfs -o ro sysfs "$new/sys"
mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$new/run"
mount -t tmpfs tmpfs "$new/tmp"
mount -t tmpfs -o mode=755 tmpfs "$new/dev"
mkdir "$new/dev/pts" "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$new/dev/pts"
mount -t tmpfs tmpfs "$new/dev/shm"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
for n in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
	IFS=: read -r name major minor <<-END
		$n
	END
	mknod -m 666 "$new/dev/$name" c "$major" "$minor"
done
ip link set lo up
hostname gateway-test
mkdir -p "$new/mnt"
cd "$new"
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
exec env -i container=gateway-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-level=notice --show-status=0 >/dev/console-log 2>&1 </dev/null
