#!/bin/sh
# SPDX-License-Identifier: MIT
# Every complete program among the examples of the man pages compiles, links against the library and runs. TAP.
#
# MEMSNAP_CFLAGS, MEMSNAP_LINK: how a program finds the library, if it is not the one of this build.
set -u
: "${srcdir:=.}" "${CC:=cc}" "${CXX:=c++}" "${CFLAGS=}" "${LDFLAGS=}"
: "${MEMSNAP_CFLAGS=-I$srcdir/include}"
tmp=examples.$$
mkdir "$tmp" || exit 99
trap 'rm -rf "$tmp"' EXIT

# Writes the literal blocks of EXAMPLES that define main to PREFIX-1.SUFFIX, PREFIX-2.SUFFIX ... and undoes mdoc's escapes.
extract()       # PAGE PREFIX SUFFIX
{
    awk -v prefix="$2" -v suffix="$3" '
        /^\.Sh / { examples = /^\.Sh EXAMPLES/ }
        examples && /^\.Bd .*-literal/ { inside = 1; text = ""; next }
        inside && /^\.Ed/ {
            inside = 0
            if (text ~ /(^|[^a-z_])main *\(/)
                printf "%s", text > (prefix "-" ++n "." suffix)
            next
        }
        inside && /^\./ { next }
        inside {
            gsub(/\\&/, ""); gsub(/\\-/, "-"); gsub(/\\\(aq/, "\047"); gsub(/\\\(dq/, "\""); gsub(/\\\(ti/, "~")
            gsub(/\\\(ha/, "^"); gsub(/\\e|\\\(rs/, "\\"); text = text $0 "\n"
        }' "$1"
}

link()          # COMPILER PROGRAM: from PROGRAM.o
{
    if test -n "${MEMSNAP_LINK-}"; then
        $1 $CFLAGS $LDFLAGS -o "$2" "$2.o" $MEMSNAP_LINK
    else
        ./libtool --quiet --tag=CC --mode=link $1 $CFLAGS $LDFLAGS -o "$2" "$2.o" libmemsnap.la -lpthread
    fi
}

try()           # SOURCE
{
    program=${1%.*}
    case $1 in
    *.c) compiler=$CC standard="-std=c99 -D_XOPEN_SOURCE=700" ;;
    *) compiler=$CXX standard=-std=c++11 ;;
    esac
    $compiler $CFLAGS $standard -Wall -Wextra -Werror $MEMSNAP_CFLAGS -c -o "$program.o" "$1" && link "$compiler" "$program" &&
        (cd "$tmp" && "./$(basename "$program")")
}

try_all()       # N WHAT SOURCE...
{
    n=$1 what=$2
    shift 2
    test -f "$1" || { echo "not ok $n - there are no $what"; return; }
    failed=
    for source; do
        try "$source" || failed="$failed $(basename "$source")"
    done
    test -z "$failed" || { echo "failed:$failed"; printf 'not '; }
    echo "ok $n - the $# $what of the man pages compile and run"
}

for page in "$srcdir"/doc/*.[37]; do
    case $page in
    *.hpp.3) extract "$page" "$tmp/$(basename "$page" | tr . -)" cpp ;;
    *) extract "$page" "$tmp/$(basename "$page" | tr . -)" c ;;
    esac
done
echo 1..2
try_all 1 'C examples' "$tmp"/*.c
echo '#include <string>' >"$tmp/try"
if $CXX -std=c++11 -x c++ -fsyntax-only "$tmp/try" 2>/dev/null; then
    try_all 2 'C++ examples' "$tmp"/*.cpp
else
    echo "ok 2 # SKIP no C++ compiler"
fi
