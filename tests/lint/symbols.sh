#!/bin/sh
# SPDX-License-Identifier: MIT
# The public functions are the same everywhere: in the header, the symbol map, the shared library
# and the man pages.
set -u
: "${srcdir:=.}" "${NM:=nm}"
tmp=symbols.$$
mkdir "$tmp" || exit 99
trap 'rm -rf "$tmp"' EXIT

sed 's/\/\*.*\*\///' "$srcdir/include/memsnap.h" | grep -oE '\bmemsnap_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u >"$tmp/header"
grep -oE '\bmemsnap_[a-z0-9_]+;' "$srcdir/lib/memsnap.map" | tr -d ';' | sort -u >"$tmp/map"
test -s "$tmp/header" || { echo "no functions found in the header"; exit 99; }

failed=0
compare()       # NAME: the list of that name against the header's
{
    difference=$(diff "$tmp/header" "$tmp/$1" | sed -n "s/^< /only in the header: /p; s/^> /only in the $1: /p")
    test -z "$difference" && return
    echo "$difference"
    failed=1
}

compare map

library=$(ls .libs/libmemsnap.so .libs/libmemsnap.dylib 2>/dev/null | head -n 1)
if test -n "$library"; then
    # NM may hold options.
    $NM -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u >"$tmp/library"
    # Instrumented builds (coverage, sanitizers) add symbols of their own beside the library's.
    if grep -qE '^(__|mangle_path)' "$tmp/library"; then
        grep -vE '^(__|mangle_path)' "$tmp/library" >"$tmp/plain"
        mv "$tmp/plain" "$tmp/library"
    fi
    compare library
else
    echo "no shared library here: not compared"
fi

# Every function is named by a page as one of its own, and no page describes one that does not
# exist.
for page in "$srcdir"/doc/*.3; do
    test -f "$page" || continue
    sed -n '/^\.Sh NAME/,/^\.Nd/s/^\.Nm \([a-z_0-9]*\)\( ,\)*$/\1/p' "$page"
done | sort -u >"$tmp/names"
for page in "$srcdir"/doc/*.3; do
    test -f "$page" || continue
    sed -n '/^\.Sh SYNOPSIS/,/^\.Sh [^S]/s/^\.F[no] "*\([a-z_0-9]*\).*/\1/p' "$page"
done | sort -u >"$tmp/synopses"
compare names
compare synopses

test $failed = 0 || printf 'not '
echo "ok 1 - header, symbol map, library and man pages name the same functions"
echo 1..1
