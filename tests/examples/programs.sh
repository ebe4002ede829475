#!/bin/sh
# SPDX-License-Identifier: MIT
# The examples that check what they claim: the tour, and an image handed to another process. TAP.
#
# The programs are where the build puts them.

work=$(mktemp -d "${TMPDIR:-/tmp}/programs.XXXXXX") || exit 99
trap 'rm -rf "$work"' EXIT
trap 'exit 99' HUP INT TERM
n=0

# holds WHAT WORDS PROGRAM ARGUMENT...: ends well, and says the words
holds()
{
    what=$1 words=$2
    n=$((n + 1))
    shift 2
    if ! test -x "$1"; then
        echo "ok $n - $what # SKIP $1 is not built"
        return
    fi
    timeout 300 "$@" >"$work/out" 2>&1 </dev/null
    status=$?
    if test $status = 2; then
        echo "ok $n - $what # SKIP $(tail -n 1 "$work/out")"
    elif test $status = 0 && grep -q -e "$words" "$work/out"; then
        echo "ok $n - $what"
    else
        echo "not ok $n - $what"
        sed 's/^/# /' "$work/out"
    fi
}

refuses()
{
    what=$1
    n=$((n + 1))
    shift
    if ! test -x "$1"; then
        echo "ok $n - $what # SKIP $1 is not built"
    elif "$@" >"$work/out" 2>&1; then
        echo "not ok $n - $what"
    else
        echo "ok $n - $what"
    fi
}

head -c 3000001 /dev/urandom >"$work/file"
: >"$work/empty"
cp "$work/file" "$work/copy"
echo 1..6
holds 'the tour over a file' 'claims held' doc/examples/tour "$work/file"
n=$((n + 1))
if cmp "$work/file" "$work/copy" >"$work/out" 2>&1; then echo "ok $n - the file is as it was"; else echo "not ok $n - the file is as it was"; fi
holds 'an image of 8 MiB handed over' 'content too' doc/examples/handoff 8
refuses 'a tour over nothing' doc/examples/tour "$work/missing"
refuses 'a tour over an empty file' doc/examples/tour "$work/empty"
refuses 'a size that is none' doc/examples/handoff -3
