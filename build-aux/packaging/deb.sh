#!/bin/sh
# SPDX-License-Identifier: MIT
# Debian packages from a tarball: builds them, and with -c checks them.
#
#   deb.sh [-c] [-b BASE] [-d DIR] [-s SUITE] TARBALL
#
#   -c         also: lintian, autopkgtest, and a second build, which must give the same bytes
#   -b BASE    an unpacked system to build in; it is copied, not changed. Else mmdebstrap makes one.
#   -d DIR     work there (deb/); the packages are in DIR/packages
#   -s SUITE   bookworm, trixie ... (that of this system)
#
# Builds in a system of its own, which has the build dependencies and, while it builds, no network but loopback. Only root can make
# one (with mmdebstrap and ip); everybody else builds in place, which is said. DEBFULLNAME and DEBEMAIL are the maintainer,
# DEB_BUILD_OPTIONS is as for dpkg-buildpackage. PACKAGE_URL: of the project, if it has one.
set -eu

check=no base= work=deb suite= options=${DEB_BUILD_OPTIONS-}
while getopts cb:d:s: option; do
    case $option in
    c) check=yes ;;
    b) base=$OPTARG ;;
    d) work=$OPTARG ;;
    s) suite=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
test $# = 1 || { sed -n 's/^#   deb.sh/usage: deb.sh/p' "$0" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
tarball=$(realpath "$1")
version=$(basename "$tarball" .tar.xz)
version=${version#libmemsnap-}
test -n "$suite" || suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
# An address that cannot exist, where nobody gave one: packages for oneself.
maintainer="${DEBFULLNAME:-The libmemsnap authors} <${DEBEMAIL:-nobody@memsnap.invalid}>"
mkdir -p "$work"
work=$(cd "$work" && pwd)
mounted=

say()
{
    echo "deb.sh: $*"
}

unmount()
{
    test -z "$mounted" || umount "$mounted/dev/shm" "$mounted/dev" "$mounted/proc" 2>/dev/null || :
    mounted=
}
trap unmount EXIT
trap 'exit 1' HUP INT TERM

# run LOG COMMAND...: quiet unless it fails
run()
{
    log=$work/$1.log
    shift
    "$@" >"$log" 2>&1 </dev/null && return
    say "failed: $*; the end of $log:"
    tail -n 30 "$log"
    exit 1
}

# The source package, in $work/source.
make_source()
{
    rm -rf "$work/source"
    mkdir -p "$work/source"
    cp "$tarball" "$work/source/libmemsnap_$version.orig.tar.xz"
    tar -C "$work/source" -xf "$tarball"
    tree=$work/source/libmemsnap-$version
    cp -r "$here/debian" "$tree/debian"
    sed -i "s|@MAINTAINER@|$maintainer|" "$tree/debian/control" "$tree/debian/changelog"
    test -z "${PACKAGE_URL-}" || sed -i "s|^Standards-Version:.*|&\nHomepage: $PACKAGE_URL|" "$tree/debian/control"
    debian=$(sed -n '1s/.*(\(.*\)-[^-]*).*/\1/p' "$tree/debian/changelog")
    test "$debian" = "$version" || { say "debian/changelog is of $debian, the tarball of $version"; exit 1; }
    (cd "$work/source" && run source dpkg-source -b "libmemsnap-$version")
}

# The packages that the build needs, separated by commas.
build_depends()
{
    echo "build-essential fakeroot $(sed -n '/^Build-Depends:/,/^[^ ]*:/{/^ /p}' "$here/debian/control" |
        sed 's/([^)]*)//g; s/<[^>]*>//g; s/debhelper-compat/debhelper/' | tr -d ',\n')" | tr -s ' ' ','
}

make_base()
{
    test -z "$base" || return 0
    base=$work/base-$suite
    test ! -f "$base/complete" || return 0
    say "making a $suite system in $base"
    rm -rf "$base"
    run "mmdebstrap-$suite" mmdebstrap --variant=buildd --include="$(build_depends)" "$suite" "$base"
    touch "$base/complete"
}

enter()         # NAME: a copy of the base, in $root
{
    root=$work/$1
    rm -rf "$root"
    cp -a "$base" "$root"
    mount -t proc proc "$root/proc"
    mounted=$root
    mount --bind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
}

# build NAME: the packages in $work/NAME. The build is somebody's who is not root.
build_apart()
{
    make_base
    enter "root-$1"
    chroot "$root" useradd -m builder
    cp "$work"/source/*.dsc "$work"/source/*.tar.* "$root/home/builder"
    chroot "$root" su builder -c "cd && dpkg-source -x *.dsc tree" >/dev/null
    # A network namespace of its own, which has nothing but the loopback interface.
    run "build-$1" unshare -n sh -c "ip link set lo up && exec \"\$@\"" sh \
        chroot "$root" su builder -c "cd ~/tree && DEB_BUILD_OPTIONS='$options' dpkg-buildpackage -us -uc -b"
    cp "$root"/home/builder/*.deb "$root"/home/builder/*.changes "$root"/home/builder/*.buildinfo "$work/$1"
    unmount
    rm -rf "$root"
}

build_here()
{
    rm -rf "$work/here"
    mkdir "$work/here"
    cp "$work"/source/*.dsc "$work"/source/*.tar.* "$work/here"
    (cd "$work/here" && run unpack dpkg-source -x ./*.dsc tree && cd tree && DEB_BUILD_OPTIONS=$options run "build-$1" dpkg-buildpackage -us -uc -b)
    cp "$work"/here/*.deb "$work"/here/*.changes "$work"/here/*.buildinfo "$work/$1"
}

build()
{
    rm -rf "$work/$1"
    mkdir "$work/$1"
    if test -n "$why_here"; then build_here "$1"; else build_apart "$1"; fi
    say "built in $work/$1: $(cd "$work/$1" && echo *.deb)"
    sed -n 's/^# \(TOTAL\|PASS\|SKIP\|FAIL\|ERROR\): *\(.*\)/\1 \2/p' "$work/build-$1.log" | tr '\n' ' ' | sed 's/^/deb.sh: its tests: /; s/$/\n/'
}

same_again()
{
    options="$options nocheck"
    build again
    different=$(cd "$work/packages" && for file in *.deb; do cmp -s "$file" "../again/$file" || echo "$file"; done)
    test -z "$different" || { say "another build gave other bytes:" $different; exit 1; }
    say "built twice, the same bytes"
}

check_lintian()
{
    command -v lintian >/dev/null || { say "no lintian: skipped"; return 0; }
    cp "$work"/source/*.dsc "$work"/source/*.tar.* "$work/packages"
    lintian -EviIL +pedantic --show-overrides --fail-on error,warning,info,pedantic "$work/packages"/*.dsc "$work/packages"/*.changes >"$work/lintian.log" 2>&1 ||
        { grep '^[EWIPX]:' "$work/lintian.log"; say "see $work/lintian.log"; exit 1; }
    say "lintian: $(grep -c '^[EWIPX]:' "$work/lintian.log") tags, $(grep -c '^O:' "$work/lintian.log") overridden"
}

check_autopkgtest()
{
    command -v autopkgtest >/dev/null || { say "no autopkgtest: skipped"; return 0; }
    test -z "$why_here" || { say "autopkgtest: skipped, it would install the packages on this system"; return 0; }
    enter root-test
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    # It makes an archive of the packages there.
    run update chroot "$root" apt-get update
    run apt-utils chroot "$root" apt-get install -qy --no-install-recommends apt-utils
    run autopkgtest autopkgtest "$work"/source/*.dsc "$work"/packages/*.deb --no-built-binaries -- chroot "$root"
    unmount
    rm -rf "$root"
    say "autopkgtest: $(sed -n 's/.*\(installcheck *PASS\).*/\1/p' "$work/autopkgtest.log" | tail -n 1), $(grep -c '^.*ok [0-9]' "$work/autopkgtest.log") checks"
}

why_here=
test "$(id -u)" = 0 || why_here="this is not root"
test -n "$why_here" || test -n "$base" || command -v mmdebstrap >/dev/null || why_here="there is no mmdebstrap"
test -n "$why_here" || command -v ip >/dev/null || why_here="there is no ip (Debian: iproute2)"
make_source
if test -n "$why_here"; then say "builds in place: $why_here"; else say "builds in a $suite system of its own, without a network"; fi
build packages
test $check = no || { check_lintian && check_autopkgtest && same_again; }
