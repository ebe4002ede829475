#!/bin/sh
# SPDX-License-Identifier: MIT
# The README's two commands in an empty Debian: what somebody meets who has nothing but a shell. As
# root and as a user, with and without --install-deps, from a checkout and from a release.
#
#   chroot.sh [-q] [-b BASE] [-d DIR] SUITE [TARBALL]
#
#   -b BASE    an unpacked system, instead of having debootstrap make one; it is copied, not changed
#   -d DIR     work there (a directory in /var/tmp; 2 GB); removed at the end, unless something failed
#   -q         without make check
#   SUITE      bookworm, trixie ...
#   TARBALL    of make dist; without it only the checkout is tried
#
# srcdir: the checkout (the current directory). Needs root, debootstrap and a network; not part of
# make check. The last line counts.
set -u
: "${srcdir:=.}"
base= work= quick=no
while getopts b:d:q option; do
    case $option in
    b) base=$OPTARG ;;
    d) work=$OPTARG ;;
    q) quick=yes ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
suite=${1-} tarball=${2-}
test -n "$suite" || { sed -n 's/^#   chroot/usage: chroot/p' "$0" >&2; exit 2; }
test "$(id -u)" = 0 || { echo "chroot.sh: needs root" >&2; exit 77; }
test -n "$base" || command -v debootstrap >/dev/null || { echo "chroot.sh: debootstrap is missing" >&2; exit 77; }
if test -n "$work"; then mkdir -p "$work"; else work=$(mktemp -d /var/tmp/memsnap-chroot.XXXXXX); fi || exit 99
work=$(cd "$work" && pwd) || exit 99
passed=0 failed=0 root=

leave()
{
    test -n "$root" || return 0
    umount "$root/dev/shm" "$root/dev" "$root/proc" 2>/dev/null
    root=
}

finish()
{
    leave
    # Never across a mount that could not be undone.
    test $failed != 0 || grep -q " $work/" /proc/mounts || rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# enter NAME: a new copy of the empty system, with the sources in /home/somebody/src-checkout and
# src-release
enter()
{
    leave
    rm -rf "$work/root"
    cp -a "$base" "$work/root" || exit 99
    root=$work/root
    cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null
    mount -t proc proc "$root/proc" && mount --bind /dev "$root/dev" && mount -t tmpfs shm "$root/dev/shm" || exit 99
    chroot "$root" useradd -m somebody || exit 99
    mkdir "$root/home/somebody/checkout" && git -C "$srcdir" ls-files -z | tar -C "$srcdir" --null -T - -cf - |
        tar -C "$root/home/somebody/checkout" --no-same-owner -xf - || exit 99
    if test -n "$tarball"; then
        mkdir "$root/home/somebody/release"
        tar -C "$root/home/somebody/release" --no-same-owner --strip-components=1 -xf "$tarball" || exit 99
    fi
    chroot "$root" chown -R somebody: /home/somebody
}

# try WHAT USER KIND STATUS WORDS COMMAND...: the command in the sources of the kind ends with the
# status and says the words
try()
{
    what=$1 user=$2 kind=$3 status=$4 words=$5
    shift 5
    begun=$(date +%s)
    timeout -k 10 3000 chroot "$root" su "$user" -c "cd /home/somebody/$kind && $*" >"$work/out" 2>&1 </dev/null
    got=$?
    took=$(($(date +%s) - begun))
    if test $got = "$status" && grep -q -e "$words" "$work/out"; then
        echo "ok     $suite, $what ($took s): $(grep -e "$words" "$work/out" | tail -n 1 | cut -c 1-90)"
        passed=$((passed + 1))
        return
    fi
    failed=$((failed + 1))
    cp "$work/out" "$work/failed-$failed"
    echo "FAILED $suite, $what: status $got, wanted $status and \"$words\"; the end of $work/failed-$failed:"
    tail -n 15 "$work/out" | sed 's/^/    /'
}

# again KIND: as if nobody had built there
again()
{
    chroot "$root" sh -c "rm -rf /home/somebody/$1/build; chown -R somebody: /home/somebody/$1"
}

if test -z "$base"; then
    base=$work/base
    debootstrap --variant=minbase "$suite" "$base" >"$work/debootstrap.log" 2>&1 ||
        { echo "chroot.sh: debootstrap failed:" >&2; tail -n 5 "$work/debootstrap.log" >&2; exit 99; }
fi

kinds=checkout
test -z "$tarball" || kinds="checkout release"
for kind in $kinds; do
    enter
    try "$kind, root, nothing installed: run" root $kind 1 '^    apt-get update && apt-get install' ./quickstart run
    try "$kind, root, nothing installed: check" root $kind 1 'missing:.* glib' ./quickstart check
    try "$kind, user, nothing installed: run" somebody $kind 1 '^    sudo apt-get update' ./quickstart run
    try "$kind, user without sudo, --install-deps run" somebody $kind 1 'There is no sudo here; as root: apt-get' \
        ./quickstart --install-deps run
    again $kind
    try "$kind, root, --install-deps run" root $kind 0 'held' ./quickstart --install-deps run
    try "$kind, root, run FILE" root $kind 0 'held' ./quickstart run /bin/sh
    again $kind
    try "$kind, user, nothing missing: run" somebody $kind 0 'held' ./quickstart run
    test $quick = no || continue
    try "$kind, root, --install-deps check" root $kind 0 ' 0 failed' ./quickstart --install-deps check
    again $kind
    try "$kind, user, nothing missing: check" somebody $kind 0 ' 0 failed' ./quickstart check
done
echo "$passed passed, $failed failed"
test $failed = 0
