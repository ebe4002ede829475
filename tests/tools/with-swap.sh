#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs a command on a machine that has swap space, and takes the space away again however it ends.
# For root.
#
#   tests/tools/with-swap.sh COMMAND...
#
# Exits as the command does, with 77 if no swap space can be had. SWAP_DIRECTORY: where the file is
# made, by default /var/tmp: on a file system that swap files may be on, which tmpfs and overlayfs
# are not; a loop device is tried then.
set -u

skip()
{
    echo "no swap space can be made here: $*"
    exit 77
}

[ $# -gt 0 ] || exit 2
[ "$(id -u)" = 0 ] || skip "not root"
for tool in mkswap swapon swapoff mkfifo; do
    command -v $tool >/dev/null || skip "no $tool"
done

dir=$(mktemp -d "${SWAP_DIRECTORY:-/var/tmp}/memsnap-swap-XXXXXX") || skip "no directory"
mkfifo "$dir/alive" || { rm -rf "$dir"; skip "no pipe"; }
(umask 077 && dd if=/dev/zero of="$dir/swap" bs=1048576 count=128 2>/dev/null) && mkswap "$dir/swap" >/dev/null 2>&1 ||
    { rm -rf "$dir"; skip "no room"; }

# Waits until this script is gone, by whatever signal, and cleans up. It is there before there is
# anything to clean up.
(
    trap '' INT TERM HUP QUIT
    cat "$dir/alive" >/dev/null
    swap=$dir/swap
    [ ! -f "$dir/loop" ] || swap=$(cat "$dir/loop")
    swapoff "$swap" 2>/dev/null
    [ ! -f "$dir/loop" ] || losetup -d "$swap"
    rm -rf "$dir"
) >/dev/null 2>&1 &
guard=$!
exec 3>"$dir/alive"

finish()
{
    exec 3>&-
    wait $guard
}

if ! swapon "$dir/swap" 2>"$dir/why"; then
    losetup -f --show "$dir/swap" >"$dir/loop.new" 2>/dev/null && mv "$dir/loop.new" "$dir/loop" && swapon "$(cat "$dir/loop")" 2>>"$dir/why" || {
        why=$(cat "$dir/why")
        finish
        skip "$why"
    }
fi
"$@" 3>&-
status=$?
finish
exit $status
