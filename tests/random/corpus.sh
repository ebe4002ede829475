#!/bin/sh
# SPDX-License-Identifier: MIT
# The delta files of tests/random/data are those that make-corpus makes, and the loader gets through
# all of them; what the files of tests/random/seeds tell the model to do comes out as it says. TAP.
: "${srcdir:=.}"
if ! test -x tests/random/make-corpus; then
    echo "1..0 # SKIP its programs are not built"
    exit 0
fi
tmp=corpus.$$
mkdir "$tmp" || exit 99
trap 'rm -rf "$tmp"' EXIT

result()
{
    what=$1
    shift
    "$@" || printf 'not '
    echo "ok $((n += 1)) - $what"
}

made()
{
    tests/random/make-corpus "$tmp" && diff -r "$tmp" "$srcdir/tests/random/data"
}

n=0
result "the files are as made" made
result "each is loaded or refused" tests/random/fuzz-delta "$srcdir"/tests/random/data/*-*
result "each seed's calls do what they should" tests/random/fuzz-api "$srcdir"/tests/random/seeds/*
echo 1..$n
