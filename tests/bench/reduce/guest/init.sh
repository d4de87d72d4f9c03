#!/bin/busybox sh
# shellcheck shell=dash
# First process of a corpus guest: modules, then the root file system of the disk.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do
  /bin/busybox insmod "/modules/$module" || echo "FAILED insmod $module"
done < /modules.order
tries=0
while [ ! -b /dev/vda ] && [ "$tries" -lt 50 ]; do
  /bin/busybox sleep 0.1
  tries=$((tries + 1))
done
/bin/busybox mount -t ext4 /dev/vda /mnt || echo "FAILED mount /dev/vda"
/bin/busybox mount -t tmpfs run /mnt/run
/bin/busybox cp /workload.sh /mnt/run/workload.sh
/bin/busybox umount /dev /proc
exec /bin/busybox switch_root /mnt /run/workload.sh
