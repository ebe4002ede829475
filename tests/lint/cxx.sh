#!/bin/sh
# SPDX-License-Identifier: MIT
# memsnap.hpp with every C++ compiler and standard that there is: no warning, and tests/api/cxx-test.cpp passes. What that program
# calls is every function of memsnap.h.
#
# MEMSNAP_CFLAGS, MEMSNAP_LINK: how a program finds the library, if it is not the one of this build.
set -u
: "${srcdir:=.}" "${CXX:=c++}" "${NM:=nm}" "${LDFLAGS=}"
: "${MEMSNAP_CFLAGS=-I$srcdir/include}"
tmp=cxx.$$
mkdir "$tmp" || exit 99
trap 'rm -rf "$tmp"' EXIT

warnings="-Wall -Wextra -Wpedantic -Wold-style-cast -Wshadow -Wconversion -Wsign-conversion -Wnon-virtual-dtor -Werror"
source=$srcdir/tests/api/cxx-test.cpp
n=0

# result STATUS TEXT: one test, with what was said if it failed.
result()
{
    n=$((n + 1))
    if test "$1" = 0; then
        echo "ok $n - $2"
    else
        sed 's/^/# /' "$tmp/out"
        echo "not ok $n - $2"
    fi
}

link()          # PROGRAM
{
    if test -n "${MEMSNAP_LINK-}"; then
        $compiler -o "$1" "$1.o" $LDFLAGS $MEMSNAP_LINK
    else
        ./libtool --quiet --tag=CC --mode=link $compiler $LDFLAGS -o "$1" "$1.o" libmemsnap.la -lpthread
    fi
}

# knows STANDARD: $compiler does, and the C++ library here goes with it (an old clang and a new library may not).
knows()
{
    printf '#include <string>\n#include <vector>\nstd::string s;\n' >"$tmp/try.cpp"
    $compiler -std="$1" -fsyntax-only "$tmp/try.cpp" >/dev/null 2>&1
}

# Whether programs of $compiler run with the library: not with one for another machine, or one that is instrumented.
links()
{
    echo 'extern "C" const char *memsnap_version_string(void); int main() { return !memsnap_version_string(); }' >"$tmp/try.cpp"
    { $compiler -c -o "$tmp/try.o" "$tmp/try.cpp" && link "$tmp/try" && "$tmp/try"; } >/dev/null 2>&1
}

try()           # NAME, with $compiler and $standard
{
    $compiler -std="$standard" $warnings $MEMSNAP_CFLAGS -c -o "$tmp/$1.o" "$source" &&
        link "$tmp/$1" && "$tmp/$1"
}

# version COMPILER: the same for one compiler under two names. CXX may hold options.
version()
{
    $1 --version 2>/dev/null | sed '1!d; s/^[^ ]* //'
}

try_standards() # with $compiler
{
    for standard in c++11 c++14 c++17 c++20 c++23; do
        # What a compiler called the standard before it had its number.
        knows $standard || { test $standard = c++23 && standard=c++2b && knows $standard; } || continue
        try "test-$n" >"$tmp/out" 2>&1
        result $? "$compiler -std=$standard"
    done
}

seen=:
for compiler in "$CXX" g++ clang++; do
    version=$(version "$compiler")
    case $seen in *":$version:"*) continue ;; esac
    seen=$seen$version:
    knows c++11 || continue
    if links; then try_standards; else echo "# programs of $compiler do not run with this build of the library"; fi
done
if test $n = 0; then
    echo "1..0 # SKIP no C++ compiler whose programs run with this build of the library"
    exit 0
fi

sed 's/\/\*.*\*\///' "$srcdir/include/memsnap.h" | grep -oE '\bmemsnap_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u >"$tmp/functions"
$NM -u "$tmp/test-0.o" | grep -o 'memsnap_[a-z0-9_]*$' | sort -u >"$tmp/called"
diff "$tmp/functions" "$tmp/called" | sed -n 's/^< /not called by the C++ test: /p' >"$tmp/out"
test -s "$tmp/functions" && ! test -s "$tmp/out"
result $? "every function is called from C++"
echo "1..$n"
