#!/bin/sh
# SPDX-License-Identifier: MIT
# The public header compiles alone, twice, as C99, C11, C17 and C++ with pedantic warnings as
# errors.
set -u
: "${srcdir:=.}" "${CC:=cc}" "${CXX:=c++}"
tmp=header.$$
mkdir "$tmp" || exit 99
trap 'rm -rf "$tmp"' EXIT

cat >"$tmp/user.c" <<'END'
#include <memsnap.h>
#include <memsnap.h>
size_t user(memsnap_view *v);
size_t user(memsnap_view *v)
{
    struct memsnap_range range = {0, 0};
    size_t cursor = 0;
    return memsnap_view_dirty(v, &cursor, &range, 1) > 0 ? range.len + memsnap_view_size(v) : MEMSNAP_VIEW_COPY;
}
END
cp "$tmp/user.c" "$tmp/user.cc"

failed=0
check()         # STANDARD FILE COMPILER...
{
    standard=$1 file=$2
    shift 2
    "$@" -std="$standard" -pedantic -Wall -Wextra -Wundef -Werror -fsyntax-only -I"$srcdir/include" "$tmp/$file" ||
        { echo "the header does not compile as $standard"; failed=1; }
}

for standard in c99 c11 c17; do
    # CC may hold options.
    check $standard user.c $CC
done
if printf 'int x;\n' >"$tmp/try.cc" && $CXX -fsyntax-only "$tmp/try.cc" 2>/dev/null; then
    for standard in c++98 c++11 c++17; do
        check $standard user.cc $CXX -Wshadow
    done
else
    echo "no C++ compiler: tried as C only"
fi
test $failed = 0 || printf 'not '
echo "ok 1 - the header compiles alone"
echo 1..1
