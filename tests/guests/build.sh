#!/usr/bin/env bash
# Builds the test guest: kernel, initrd and the base file of its disk. Prints the folder it is in.
# Cached by content under $EVAC_CACHE (default /var/cache/evacgw-guests); needs the network only
# when the Debian packages are not in the cache yet.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${EVAC_CACHE:-/var/cache/evacgw-guests}
mkdir -p "$cache/deb"
exec 9>"$cache/lock"
flock 9

say() { printf 'guests: %s\n' "$*" >&2; }

# The kernel stays at the version fetched first: a newer one would only cost a download.
kernel_deb=$(find "$cache/deb" -name 'linux-image-*-cloud-amd64_*.deb' | sort | tail -n 1)
if [ -z "$kernel_deb" ]; then
  say "downloading the Debian cloud kernel (27 MB)"
  wanted='s/.*Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p'
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n "$wanted" | head -n 1)
  if [ -z "$package" ]; then
    say "reading the package lists"
    apt-get -q update >&2
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n "$wanted" | head -n 1)
  fi
  [ -n "$package" ] || { say "apt does not know linux-image-cloud-amd64"; exit 1; }
  fetched=$(mktemp -d "$cache/deb/fetch.XXXXXX")
  (cd "$fetched" && apt-get -q -o APT::Sandbox::User=root download "$package" >&2)
  mv "$fetched"/*.deb "$cache/deb/"
  rmdir "$fetched"
  kernel_deb=$(find "$cache/deb" -name 'linux-image-*-cloud-amd64_*.deb' | sort | tail -n 1)
fi
busybox=$(command -v busybox)

sources=("$here/guest-work.c" "$here/init.sh" "$here/build.sh" "$busybox")
key=$(cat "${sources[@]}" <(basename "$kernel_deb") | sha256sum | cut -c1-16)
out="$cache/$key"
if [ -f "$out/complete" ]; then echo "$out"; exit 0; fi

say "building the guest image"
work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
dpkg -x "$kernel_deb" "$work/kernel"
moduledir="$work/kernel"
if [ -d "$work/kernel/usr/lib/modules" ]; then moduledir="$work/kernel/usr"; fi
version=$(basename "$(find "$moduledir/lib/modules" -mindepth 1 -maxdepth 1 -type d)")
depmod -b "$moduledir" "$version"

root="$work/root"
mkdir -p "$root"/{bin,dev,proc,sys,mnt,modules} "$work/out"
install -m 755 "$busybox" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
install -m 755 "$here/init.sh" "$root/init"
gcc -std=c17 -O2 -Wall -Wextra -static -pthread -o "$root/bin/guest-work" "$here/guest-work.c"
: > "$root/modules.order"
for module in virtio_pci virtio_blk crc32c_generic ext4; do
  needed=$(modprobe -S "$version" -d "$moduledir" --show-depends "$module" 2>/dev/null || true)
  while read -r verb path _; do
    [ "$verb" = insmod ] || continue  # "builtin" needs nothing
    name=$(basename "$path")
    grep -qx "$name" "$root/modules.order" && continue
    install -m 644 "$path" "$root/modules/$name"
    echo "$name" >> "$root/modules.order"
  done <<< "$needed"
done
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc) | gzip -n -6 > "$work/out/initrd.gz"
install -m 644 "$moduledir/boot/vmlinuz-$version" "$work/out/vmlinuz" 2>/dev/null ||
  install -m 644 "$work/kernel/boot/vmlinuz-$version" "$work/out/vmlinuz"
install -m 755 "$root/bin/guest-work" "$work/out/guest-work"
# Same seed as the guests' shared memory, so that the disk has blocks that RAM has too.
mkdir "$work/out/disk"
"$root/bin/guest-work" --generate 77 48 > "$work/out/disk/base.dat"
sha256sum "$work/out/disk/base.dat" | cut -d' ' -f1 > "$work/out/base.sha256"
touch "$work/out/complete"
rm -rf "$out"
mv "$work/out" "$out"
echo "$out"
