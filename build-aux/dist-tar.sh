#!/bin/sh
# SPDX-License-Identifier: MIT
# dist-tar.sh DIRECTORY: writes it to the standard output as a tar archive that depends on the names and contents of the files
# alone. For `make dist`; needs GNU tar.
#
# SOURCE_DATE_EPOCH: the time of all files, in seconds; else that of the last commit, or of the newest file in the directory.
set -eu

directory=$1
tar --version 2>/dev/null | grep -q 'GNU tar' || { echo "dist-tar.sh: this is not GNU tar" >&2; exit 1; }

time=${SOURCE_DATE_EPOCH-}
if test -z "$time" && test -e "${srcdir:=.}/.git"; then
    time=$(git -C "$srcdir" log -1 --format=%ct)
fi
test -n "$time" ||
    time=$(find "$directory" -type f -printf '%T@\n' | sort -n | sed -n '$s/\..*//p')

LC_ALL=C TZ=UTC0 exec tar --format=ustar --sort=name --mtime="@$time" --owner=0 --group=0 --numeric-owner --mode=u+rw,go=rX \
    -cf - "$directory"
