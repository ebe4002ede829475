#!/bin/sh
# SPDX-License-Identifier: MIT
# The test programs in places where something is missing or short: without /proc, with little of
# it, behind system call filters, under limits, as somebody else. Everywhere they pass, or skip with
# a reason. For root, in a build directory after make check TESTS=.
#
#   places.sh [-p PROGRAM]... [PLACE...]      default: the programs of DEFAULT, all places
#
# Exit status: 1 if a program failed, 77 if no place could be had.
set -u
DEFAULT="tests/unit/store-test tests/faults/system-test"
limit=300 # seconds for a program

programs=
while getopts p: option; do
    case $option in
    p) programs="$programs $OPTARG" ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
test -n "$programs" || programs=$DEFAULT
test $# -gt 0 || set -- no-proc pid-only no-sysctl small-shm no-calls address-space data-size \
    file-size few-descriptors small-stack somebody no-loopback
ran=0 failed=0

# mounted SCRIPT PROGRAM: the program after SCRIPT has changed what is mounted, for it alone
mounted()
{
    unshare -m --propagation private sh -c "$1"'; exec timeout '$limit' "$0" --tap' "$2"
}

# limited OPTION VALUE PROGRAM
limited()
{
    sh -c 'ulimit '"$1"' '"$2"' && exec timeout '$limit' "$0" --tap' "$3"
}

# at PLACE PROGRAM
at()
{
    case $1 in
    no-proc) mounted 'mount -t tmpfs none /proc' "$2" ;;
    pid-only) mounted 'mount -t proc -o subset=pid proc /proc' "$2" ;;
    no-sysctl) mounted 'mount -t tmpfs none /proc/sys' "$2" ;;
    small-shm) mounted 'mount -t tmpfs -o size=64k none /dev/shm' "$2" ;;
    no-calls) timeout $limit tests/tools/deny "$2" --tap ;;
    address-space) limited -v 3000000 "$2" ;;
    data-size) limited -d 3000000 "$2" ;;
    file-size) limited -f 2000000 "$2" ;;
    few-descriptors) limited -n 24 "$2" ;;
    small-stack) limited -s 256 "$2" ;;
    somebody) timeout $limit setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent "$2" --tap ;;
    no-loopback) timeout $limit unshare -n "$2" --tap ;;
    *) return 99 ;;
    esac
}

test "$(id -u)" = 0 || { echo "places.sh: skipped: for root"; exit 77; }
for place; do
    at "$place" /bin/true >/dev/null 2>&1 || { echo "$place: cannot be had here"; continue; }
    ran=$((ran + 1))
    for program in $programs; do
        log=places-$place-$(basename "$program").log
        at "$place" "./$program" >"$log" 2>&1
        status=$?
        if test $status = 0 && ! grep -q '^not ok' "$log"; then
            echo "PASS: $place $program: $(grep -c '^ok' "$log"), $(grep -c '# SKIP' "$log") skipped"
            rm -f "$log"
        else
            failed=$((failed + 1))
            echo "FAIL: $place $program: status $status, see $log"
            grep -E '^not ok|^Bail out' "$log" | head -n 3 | sed 's/^/    /'
        fi
    done
done
echo "$ran places, $failed failures"
test $failed = 0 || exit 1
test $ran != 0 || exit 77
