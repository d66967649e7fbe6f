#!/bin/sh
# PID 1 of one lab host. `unshare` has just given it its own pid, mount, uts, ipc and network namespaces.
#
#   host.sh swarmpy-lab LAB HOST FOLDER
#
# The first three arguments mark the process, so that `swarmpy dev down` finds it without any record.
# It makes the host's own /proc, /run and /etc/hosts, says that it is ready by FOLDER/init.pid, and from
# then on only reaps what is orphaned. Everything inside dies with it: that is what makes cleaning certain.
set -eu

host=$3
cd "$4"

# The machine's own /proc is still mounted here, so this is the pid as the machine sees it.
read -r pid _ </proc/self/stat

mount -n -t proc proc /proc
echo "$host" >/proc/sys/kernel/hostname
[ ! -e hosts ] || [ ! -e /etc/hosts ] || mount -n --bind hosts /etc/hosts

# A fresh /run as after a boot; /run/swarmpy stays reachable from the machine as FOLDER/run.
mount -n -t tmpfs -o mode=0755 tmpfs boot
mkdir boot/swarmpy boot/netns boot/lock
mount -n --bind run boot/swarmpy
mount -n --move boot /run

echo "$pid" >init.tmp
mv init.tmp init.pid

trap : HUP INT TERM
while :; do
    sleep 1000000 &
    wait $! || :
done
