#!/bin/sh
# SPDX-License-Identifier: MIT
# Cuts the power during saves, on each file system that can be had, and looks whether a file is what it was or what it was to be. For
# root, who may use loop devices.
#
#   tests/tools/power-cut.sh PROGRAM
#
# PROGRAM is tests/tools/power-cut, which copies the device at each step. A copy is what a power cut would leave: it is checked by the
# file system's own tool, mounted, and its file compared. POWER_CUT_DIRECTORY: where devices and copies are, by default /var/tmp: 1 GiB.
# POWER_CUT_SYSTEMS: which file systems. Exits with 77 if none can be had. The last line counts.
set -u
program=${1-}
[ -n "$program" ] || exit 2
: "${POWER_CUT_SYSTEMS:=ext4 ext4-without-journal ext2 xfs btrfs}"
checked=0 lost=0 systems=0 mounted=

skip()
{
    echo "no power can be cut here: $*"
    exit 77
}

[ "$(id -u)" = 0 ] || skip "not root"
[ -e /dev/loop-control ] || skip "no loop devices"
dir=$(mktemp -d "${POWER_CUT_DIRECTORY:-/var/tmp}/memsnap-cut-XXXXXX") || skip "no directory"
mkdir "$dir/mounted" "$dir/copies" "$dir/after"

clean()
{
    umount "$dir/after" 2>/dev/null
    umount "$dir/mounted" 2>/dev/null
    rm -rf "$dir"
}
trap clean EXIT
trap 'exit 1' INT TERM HUP

# format SYSTEM FILE: makes the file system in a new file, or tells what is lacking.
format()
{
    rm -f "$2"
    case $1 in
    ext4) truncate -s 16M "$2" && mkfs.ext4 -q -F "$2" ;;
    ext4-without-journal) truncate -s 16M "$2" && mkfs.ext4 -q -F -O ^has_journal "$2" ;;
    ext2) truncate -s 16M "$2" && mkfs.ext2 -q -F "$2" ;;
    xfs) truncate -s 512M "$2" && mkfs.xfs -q -f "$2" ;;
    btrfs) truncate -s 128M "$2" && mkfs.btrfs -q -f "$2" ;;
    *) false ;;
    esac >"$dir/why" 2>&1
}

# repair SYSTEM FILE: what a machine does when it comes up again. xfs and btrfs do it when they are mounted.
repair()
{
    case $1 in
    ext*) e2fsck -fy "$2" >/dev/null 2>&1; [ $? -lt 4 ] ;;
    esac
}

# unmount DIRECTORY: somebody may be looking at it in this moment.
unmount()
{
    for try in 1 2 3 4 5; do
        umount "$1" 2>/dev/null && return
        sleep 1
    done
    echo "$1 stays mounted"
    exit 1
}

# found NAME: what the mounted copy has there.
found()
{
    if [ ! -e "$dir/after/$1" ]; then echo none
    elif cmp -s "$dir/after/$1" "$dir/copies/one"; then echo one
    elif cmp -s "$dir/after/$1" "$dir/copies/two"; then echo two
    else echo "other bytes"
    fi
}

# examine SYSTEM WAY: all copies of one run.
examine()
{
    while read -r copy name allowed; do
        is="no file system"
        if repair "$1" "$dir/copies/$copy" && mount -o loop "$dir/copies/$copy" "$dir/after" 2>/dev/null; then
            is=$(found "$name")
            unmount "$dir/after"
        fi
        checked=$((checked + 1))
        case "|$allowed|" in
        *"|$is|"*) ;;
        *)
            lost=$((lost + 1))
            echo "$1, $2, copy $copy: $name may be $allowed and is $is"
            ;;
        esac
        rm -f "$dir/copies/$copy"
    done <"$dir/copies/list"
}

for system in $POWER_CUT_SYSTEMS; do
    done=
    for way in nameless named copied; do
        if ! format "$system" "$dir/device" || ! mount -o loop "$dir/device" "$dir/mounted" 2>"$dir/why"; then
            echo "$system: left out: $(tail -n 1 "$dir/why")"
            break
        fi
        sync -f "$dir/mounted"
        "$program" "$dir/device" "$dir/mounted" "$dir/copies" $way || { lost=$((lost + 1)); echo "$system, $way: the program failed"; }
        unmount "$dir/mounted"
        examine "$system" $way
        done=yes
    done
    [ -z "$done" ] || systems=$((systems + 1))
done
[ $systems -gt 0 ] || skip "no file system could be made and mounted"
echo "$systems file systems, $checked power cuts, $lost lost"
[ $lost -eq 0 ]
