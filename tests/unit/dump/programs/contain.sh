#!/bin/sh
# Runs a program as the first process of what a container runtime would make: a root on overlayfs, /proc, /dev and
# /dev/shm of its own, a session of its own. To be started in new mount, pid, net and uts namespaces.
#   contain.sh SCRATCH_DIRECTORY PROGRAM ARGUMENT...
set -e
scratch=$1
shift
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
cd "$scratch/root"
mount -t proc proc proc
mount -t tmpfs tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/fuse c 10 229
mkdir dev/pts dev/shm dev/mqueue volume
ln -s pts/ptmx dev/ptmx
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666
mount -t tmpfs shm dev/shm
mount -t mqueue mqueue dev/mqueue
mount -t tmpfs volume volume
mkdir -p container-old-root
pivot_root . container-old-root
cd /
umount -l container-old-root
ip link set lo up
ip address add 192.0.2.7/32 dev lo
exec setsid "$@" < /dev/null
