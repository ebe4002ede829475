#!/bin/sh
# SPDX-License-Identifier: MIT
# check-abi.sh [-u]: compares the interface of the library that was built with the release's, build-aux/abi/libmemsnap-MACHINE.abi.
# Nothing may be missing or changed, but structures that begin with their size may have grown; what was added is listed. TAP.
#
#   -u    writes that file instead, from this build: at a release
#
# srcdir: the sources; the current directory is that of the build. Needs abidw and abidiff (Debian: abigail-tools), and a build
# with -g.
set -u
: "${srcdir:=.}"
file=${ABI_FILE-$srcdir/build-aux/abi/libmemsnap-$(uname -m).abi}
library=.libs/libmemsnap.so
out=check-abi.log

skip()
{
    echo "1..0 # SKIP $*"
    exit 0
}

command -v abidiff >/dev/null || skip "no abidiff here (Debian: abigail-tools)"
test -f "$library" || skip "no shared library was built"
readelf -S "$library" 2>/dev/null | grep -q '\.debug_info' || skip "the library has no debugging information: build with -g"

if test "${1-}" = -u; then
    # A machine's paths do not belong into the file.
    abidw --headers-dir "$srcdir/include" --drop-private-types --no-comp-dir-path --no-corpus-path --no-show-locs \
        --out-file "$file" "$library" && echo "wrote $file"
    exit
fi
test -f "$file" || skip "no release has an interface for $(uname -m) yet: $file"

echo 1..1
abidiff "$file" "$library" >$out 2>&1
status=$?
sed -n 's/^ *\[A\]/# added:/p' $out
# Bit 0 and 1: abidiff failed; bit 2: something changed; bit 3: what links with the old one does not get along with the new.
# Structures whose first member is their size may grow at their end: then members are inserted, and no other moves.
changes="data member change|data member deletion|entity changed|type name changed|type size hasn't changed|return type changed|enumerator|Removed function:"
if test $((status & 11)) = 0 && ! grep -qE "$changes" $out; then
    echo "ok 1 - the library does what the release's interface says"
else
    sed 's/^/# /' $out
    echo "not ok 1 - the library differs from the release's interface"
    exit 1
fi
