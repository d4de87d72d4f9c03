#!/bin/busybox sh
# shellcheck shell=dash
# First process of a test guest. modules.order lists the modules in the order of their dependencies.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do
  /bin/busybox insmod "/modules/$module" || echo "FAILED insmod $module"
done < /modules.order
for word in $(/bin/busybox cat /proc/cmdline); do
  if [ "$word" = evac.role=disk ]; then
    tries=0
    while [ ! -b /dev/vda ] && [ "$tries" -lt 50 ]; do
      /bin/busybox sleep 0.1
      tries=$((tries + 1))
    done
    /bin/busybox mount -t ext4 /dev/vda /mnt || echo "FAILED mount /dev/vda"
  fi
done
exec /bin/guest-work
