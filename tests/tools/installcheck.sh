#!/bin/sh
# SPDX-License-Identifier: MIT
# An installed library, as its users find it: by pkg-config, CMake and meson, shared and static, from C and C++; its manual; and the
# tests that need no look inside. For `make installcheck`, and for packages that test what they installed. Needs the sources, but no
# configure and no build. TAP.
#
# srcdir: the sources. PKG_CONFIG_PATH, CMAKE_PREFIX_PATH, LD_LIBRARY_PATH: where the library is, if not where these tools look
# anyway. BINDIR, MANDIR: of the tools and the manual, likewise. DESTDIR: what is to be put before the paths in memsnap.pc.
set -u
: "${srcdir:=.}" "${CC:=cc}" "${CXX:=c++}" "${CFLAGS=-O2 -g}" "${LDFLAGS=}" "${BINDIR:=/usr/bin}" "${MANDIR:=/usr/share/man}"
: "${PKG_CONFIG:=pkg-config}" "${DESTDIR:=}"
srcdir=$(cd "$srcdir" && pwd) || exit 99
work=$(mktemp -d "${TMPDIR:-/tmp}/installcheck.XXXXXX") || exit 99
trap 'rm -rf "$work"' EXIT
trap 'exit 99' HUP INT TERM
n=0 failures=0

# Test programs that use the public functions alone.
programs="api/api api/compat api/crash api/export api/file api/signal api/view threads/thread"

# check WHAT COMMAND...: the command succeeds; 77 means that something is not here, its last line which.
check()
{
    what=$1
    n=$((n + 1))
    shift
    (cd "$work" && "$@") >"$work/out" 2>&1 </dev/null
    case $? in
    0) echo "ok $n - $what" ;;
    77) echo "ok $n - $what # SKIP $(tail -n 1 "$work/out")" ;;
    *)
        sed 's/^/# /' "$work/out"
        echo "not ok $n - $what"
        failures=$((failures + 1))
        ;;
    esac
}

memsnap_config() # OPTION...
{
    PKG_CONFIG_SYSROOT_DIR=$DESTDIR $PKG_CONFIG "$@" memsnap
}

need()          # PROGRAM
{
    command -v "$1" >/dev/null && return
    echo "no $1"
    exit 77
}

shared_program()
{
    $CC $CFLAGS -o shared "$srcdir/doc/examples/tour.c" $MEMSNAP_CFLAGS $LDFLAGS $MEMSNAP_LINK -lpthread && ./shared "$CHECKED_FILE"
}

static_program()
{
    libdir=$(memsnap_config --variable=libdir)
    test -f "$libdir/libmemsnap.a" || test -f "$DESTDIR$libdir/libmemsnap.a" || { echo "no static library"; exit 77; }
    $CC $CFLAGS -o static "$srcdir/doc/examples/tour.c" $MEMSNAP_CFLAGS $LDFLAGS -Wl,-Bstatic $(memsnap_config --static --libs) \
        -Wl,-Bdynamic -lpthread || exit 1
    # It runs without the shared one.
    LD_LIBRARY_PATH= ./static "$CHECKED_FILE"
}

cmake_programs()
{
    need cmake
    CFLAGS=$CFLAGS LDFLAGS=$LDFLAGS cmake -S "$srcdir/tests/installed" -B cmake ${CMAKE_PREFIX_PATH+"-DCMAKE_PREFIX_PATH=$CMAKE_PREFIX_PATH"} &&
        cmake --build cmake && cmake/shared "$CHECKED_FILE" && { ! test -f cmake/static || cmake/static "$CHECKED_FILE"; }
}

# The version that a program asks for is compared.
cmake_refuses()
{
    need cmake
    mkdir wanted && echo 'cmake_minimum_required(VERSION 3.5...3.31)
project(user C)
find_package(memsnap 99)
if(memsnap_FOUND)
    message(FATAL_ERROR "found")
endif()' >wanted/CMakeLists.txt && cmake -S wanted -B cmake-wanted ${CMAKE_PREFIX_PATH+"-DCMAKE_PREFIX_PATH=$CMAKE_PREFIX_PATH"}
}

meson_program()
{
    need meson
    need ninja
    mkdir meson-source && cp "$srcdir/tests/installed/meson.build" "$srcdir/doc/examples/tour.c" meson-source &&
        PKG_CONFIG_SYSROOT_DIR=$DESTDIR meson setup meson-build meson-source && ninja -C meson-build && meson-build/shared "$CHECKED_FILE"
}

# A page, or a link to one, for every function.
manual()
{
    test -f "$MANDIR/man7/memsnap.7" || test -f "$MANDIR/man7/memsnap.7.gz" || { echo "no manual in $MANDIR"; exit 77; }
    missing=
    for name in memsnap.hpp $(sed 's/\/\*.*\*\///' "$srcdir/include/memsnap.h" | grep -oE '\bmemsnap_[a-z0-9_]+ *\(' | tr -d ' ('); do
        ls "$MANDIR/man3/$name".3* >/dev/null 2>&1 || missing="$missing $name"
    done
    test -z "$missing" || { echo "no page:$missing"; exit 1; }
}

# shell_test FILE: one of the project's own, whose TAP tells whether it failed.
shell_test()
{
    ${SHELL:-/bin/sh} "$srcdir/tests/$1" >log 2>&1
    status=$?
    cat log
    test $status = 0 && grep -q '^ok' log && ! grep -q '^not ok' log
}

image_tool()
{
    test -x "$BINDIR/memsnap-image" || { echo "no memsnap-image"; exit 77; }
    MEMSNAP_IMAGE=$BINDIR/memsnap-image shell_test examples/memsnap-image-test.sh
}

test_program()  # ROLE/NAME
{
    $PKG_CONFIG --exists glib-2.0 || { echo "no GLib"; exit 77; }
    # The system's macros, as configure would set them.
    echo '#define _GNU_SOURCE 1
#define _FILE_OFFSET_BITS 64' >config.h
    $CC $CFLAGS -std=gnu11 -o test -I. -I"$srcdir/tests" -I"$srcdir/lib" $MEMSNAP_CFLAGS $($PKG_CONFIG --cflags glib-2.0) \
        "$srcdir/tests/$1-test.c" "$srcdir/tests/support/support.c" "$srcdir/tests/support/installed.c" \
        $LDFLAGS $MEMSNAP_LINK $($PKG_CONFIG --libs glib-2.0) -lpthread && ./test && ! nm -u test | grep ' ms_'
}

MEMSNAP_CFLAGS=$(memsnap_config --cflags) && MEMSNAP_LINK=$(memsnap_config --libs) ||
    { echo "Bail out! pkg-config knows no memsnap"; exit 1; }
# Not empty: what is, is taken for not given.
MEMSNAP_CFLAGS="$MEMSNAP_CFLAGS -DMEMSNAP_IS_INSTALLED"
CHECKED_FILE=$srcdir/tests/tools/installcheck.sh
export CC CXX CFLAGS LDFLAGS MEMSNAP_CFLAGS MEMSNAP_LINK srcdir

check "a program by pkg-config" shared_program
check "a static program by pkg-config" static_program
check "programs by CMake" cmake_programs
check "CMake finds no version that is not there" cmake_refuses
check "a program by meson" meson_program
check "the manual has a page for every function" manual
check "the examples of the manual" shell_test lint/examples.sh
check "the C++ header" shell_test lint/cxx.sh
check "memsnap-image" image_tool
for program in $programs; do
    check "$program-test" test_program "$program"
done
echo "1..$n"
test $failures = 0
