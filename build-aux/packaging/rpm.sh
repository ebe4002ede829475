#!/bin/sh
# SPDX-License-Identifier: MIT
# RPM packages from a tarball: builds them in place, and with -c checks them.
#
#   rpm.sh [-cn] [-d DIR] TARBALL
#
#   -c        also: rpmlint, and a second build, which must have the same content
#   -n        without the tests
#   -d DIR    work there (rpm/); the packages are in DIR/RPMS
#
# Needs rpmbuild. Where the system's packages are not RPMs, build dependencies are not looked at, and the macros are those of plain
# rpm and foreign_system below: Fedora's set more compiler flags. DEBFULLNAME and DEBEMAIL are the maintainer. PACKAGE_URL: of the project, if it has one.
set -eu

check=no work=rpm tests=
while getopts cd:n option; do
    case $option in
    c) check=yes ;;
    d) work=$OPTARG ;;
    n) tests=--nocheck ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
test $# = 1 || { sed -n 's/^#   rpm.sh/usage: rpm.sh/p' "$0" >&2; exit 2; }
command -v rpmbuild >/dev/null || { echo "rpm.sh: no rpmbuild here (Debian: rpm)" >&2; exit 77; }

here=$(cd "$(dirname "$0")" && pwd)
tarball=$(realpath "$1")
version=$(basename "$tarball" .tar.xz)
version=${version#libmemsnap-}
mkdir -p "$work"
work=$(cd "$work" && pwd)

say()
{
    echo "rpm.sh: $*"
}

# What Fedora does by itself: packages of debugging symbols, and compressed man pages, by a script that needs bash.
foreign=
compress="/bin/bash %{_rpmconfigdir}/brp-compress %{_prefix}"
foreign_system()
{
    for program in find-debuginfo eu-strip; do
        command -v $program >/dev/null || { say "no $program here (Debian: debugedit, elfutils)"; exit 77; }
    done
    foreign=--nodeps
    sed -i 's/^%prep/%debug_package\n\n&/' "$top/SPECS/libmemsnap.spec"
}

# build DIRECTORY OPTION...
build()
{
    top=$work/$1
    shift
    rm -rf "$top"
    mkdir -p "$top/SOURCES" "$top/SPECS"
    cp "$tarball" "$top/SOURCES"
    sed "s|@VERSION@|$version|; s|@MAINTAINER@|${DEBFULLNAME:-The libmemsnap authors} <${DEBEMAIL:-nobody@memsnap.invalid}>|
        s|^@URL@|${PACKAGE_URL:+URL:            $PACKAGE_URL}|" "$here/rpm/libmemsnap.spec" >"$top/SPECS/libmemsnap.spec"
    set -- "$@" --define "_topdir $top" --define "_buildhost localhost" --define "use_source_date_epoch_as_buildtime 1" \
        --define "source_date_epoch_from_changelog 1" --define "clamp_mtime_to_source_date_epoch 1"
    test -f /etc/redhat-release || foreign_system
    rpmbuild -ba $foreign "$@" ${foreign:+--define "__os_install_post $compress"} "$top/SPECS/libmemsnap.spec" \
        >"$top/log" 2>&1 </dev/null || { tail -n 30 "$top/log"; say "failed: see $top/log"; exit 1; }
    say "built in $top/RPMS: $(cd "$top/RPMS" && echo */*)"
    sed -n 's/^# \(TOTAL\|PASS\|SKIP\|FAIL\|ERROR\): *\(.*\)/\1 \2/p' "$top/log" | tr '\n' ' ' | sed 's/^\(.\)/rpm.sh: its tests: \1/; s/$/\n/'
}

# What is in a package, and what it says of itself.
content()
{
    rpm -qp --dump "$1"
    rpm -qp --provides --requires "$1"
}

same_again()
{
    build again --nocheck
    (cd "$work/packages/RPMS" && ls */*) | while read -r file; do
        content "$work/packages/RPMS/$file" >"$work/one"
        content "$work/again/RPMS/$file" >"$work/two"
        cmp -s "$work/one" "$work/two" || { say "another build gave another $file:"; diff "$work/one" "$work/two" | head -n 5; exit 1; }
    done
    say "built twice, the same content"
}

say "builds in place"
build packages $tests
test $check = no || {
    if command -v rpmlint >/dev/null; then
        rpmlint --strict -c "$here/rpm/rpmlint.toml" "$work/packages/RPMS"/*/*.rpm "$work/packages/SPECS"/*.spec >"$work/rpmlint.log" 2>&1 ||
            { grep -E ': [EW]: ' "$work/rpmlint.log"; say "rpmlint: see $work/rpmlint.log"; exit 1; }
        say "rpmlint: $(tail -n 1 "$work/rpmlint.log" | tr -d '=')"
    else
        say "no rpmlint: skipped"
    fi
    same_again
}
