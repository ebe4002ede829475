#!/bin/sh
# SPDX-License-Identifier: MIT
# check-dist.sh DIST-COMMAND...: makes the tarball twice, and looks that both are the same, that every versioned file is in it,
# and that everything its documents name is. For `make check-dist`. TAP.
#
# srcdir: the sources. distdir: the name without .tar.xz.
set -u
work=$(mktemp -d "${TMPDIR:-/tmp}/check-dist.XXXXXX") || exit 99
trap 'rm -rf "$work"' EXIT
trap 'exit 99' HUP INT TERM
n=0

# Are in a checkout only: they tell git what to leave alone.
checkout_only='^\.gitignore$|^\.gitattributes$'

result()        # TEXT: failed if there are lines in $work/wrong
{
    n=$((n + 1))
    if test -s "$work/wrong"; then
        sed 's/^/# /' "$work/wrong"
        printf 'not '
        failed=1
    fi
    echo "ok $n - $1"
}


# What the documents name: paths that begin with a directory of the project. NAME and the like, and what ends in a dash (before a
# wildcard), stand for something.
named()
{
    grep -ohE '(^|[^A-Za-z0-9_./-])(doc|tests|lib|include|build-aux|m4|\.ci)/[A-Za-z0-9_./-]+' README doc/[A-Z]* doc/*.txt |
        sed 's/^[^.a-z]*//; s/[.:]*$//' | grep -vE 'NAME|-$' | sort -u
}

failed=0
echo 1..3
: >"$work/wrong"
{
    (umask 022 && "$@") && mv "$distdir.tar.xz" "$work/a.tar.xz" && sleep 1 &&
        (umask 077 && "$@") && mv "$distdir.tar.xz" "$work/b.tar.xz"
} >"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 99; }
cmp "$work/a.tar.xz" "$work/b.tar.xz" >"$work/wrong" 2>&1
result "two tarballs, made at different times, are the same bytes"

(cd "$work" && tar -xf a.tar.xz) || exit 99
if test -e "$srcdir/.git"; then
    (cd "$srcdir" && git ls-files) >"$work/versioned"
    grep -vE "$checkout_only" "$work/versioned" | while read -r file; do
        test -e "$work/$distdir/$file" || echo "not in the tarball: $file"
    done >"$work/wrong"
    result "every versioned file is in the tarball"
else
    n=$((n + 1))
    echo "ok $n - every versioned file is in the tarball # SKIP this is no checkout"
fi

cd "$work/$distdir" || exit 99
named | while read -r path; do
    # A program is named without the suffix of its source.
    test -e "$path" || test -e "$path.c" || echo "named in a document, but not there: $path"
done >"$work/wrong"
result "everything that the documents name is in the tarball"
exit $failed
