#!/bin/sh
# Installs the guest's package in an unpacked Debian, looks at what came of it, and removes it again.
# Runs in mount, PID and network namespaces of its own, so that nothing of it is left however it ends: the root is on a
# tmpfs in there, and no package manager reaches an archive.
# $1 the root's archive, $2 the package, $3 an empty folder, $4 the package's version. Prints "built RELEASE" for each
# kernel, and what make says of the installed source with all warnings on.
set -eu
archive=$1 package=$2 root=$3 version=$4

say() { echo "== $*"; }
die() {
    echo "FAILED: $*"
    exit 1
}
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }

mount -t tmpfs -o size=3g,mode=0755 imr-root "$root"
tar -C "$root" --zstd -xf "$archive"
mount -t proc proc "$root/proc"
releases=$(cd "$root/usr/src" && ls -d linux-headers-*-cloud-* | sed 's/^linux-headers-//')
[ -n "$releases" ] || die "no kernel headers in $archive"

# What installing the kernel itself does; headers may come alone.
for release in $releases; do
    [ -e "$root/lib/modules/$release/modules.dep" ] || inside depmod "$release"
done

cp "$package" "$root/imr.deb"
say "install"
inside dpkg -i /imr.deb
[ -z "$(inside dpkg --audit)" ] || die "dpkg: $(inside dpkg --audit)"
changed=$(inside dpkg --verify imr-guest-dkms)
[ -z "$changed" ] || die "installed files differ from md5sums: $changed"
inside dkms status

looked_at() {
    for release in $releases; do
        say "$1 $release"
        inside modinfo -k "$release" imr_guest || die "no imr_guest for $release"
        [ "$(inside modinfo -k "$release" -F license imr_guest)" = GPL ] || die "license"
        inside modinfo -k "$release" -F vermagic imr_guest | grep -q "^$release " || die "built for another kernel"
        for parm in $(sed -n 's/^module_param(\([a-z_]*\),.*/\1/p' "$root/usr/src/imr-guest-$version"/*.c); do
            inside modinfo -k "$release" -F parm imr_guest | grep -q "^$parm:" || die "no parameter $parm"
        done
        inside modprobe -n -v -S "$release" imr_guest | grep -q "imr_guest.ko" || die "modprobe does not find it"
        echo "built $release"
    done
}
looked_at "module of"

for release in $releases; do
    say "warnings $release"
    rm -rf "$root/tmp/warnings"
    cp -r "$root/usr/src/imr-guest-$version" "$root/tmp/warnings"
    inside make -C "/lib/modules/$release/build" M=/tmp/warnings W=1 CONFIG_DEBUG_INFO_BTF_MODULES= modules 2>&1 ||
        die "make W=1"
done

say "again, as an upgrade does"
inside dpkg -i /imr.deb
inside dkms status | grep -q "^imr-guest.*installed" || die "not installed after the upgrade"

say "remove"
inside dpkg --purge imr-guest-dkms
left=$(find "$root/usr/src" "$root/lib/modules" "$root/var/lib/dkms" "$root/usr/share/doc" \
    \( -name 'imr[-_]guest*' -o -name 'imr_*.ko*' \) 2>/dev/null)
[ -z "$left" ] || die "left behind: $left"
say "done"
