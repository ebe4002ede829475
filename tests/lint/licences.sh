#!/bin/sh
# Every file that can hold a comment names its licence, and `reuse lint` finds nothing. TAP.
#
#   licences.sh -w    writes the missing lines instead
#
# SPDX-License-Identifier: MIT
set -u
: "${srcdir:=.}"
line="SPDX-License-Identifier"": MIT"        # in two, so that it is not taken for this file's
cd "$srcdir" || exit 99

# The project's own files, in which a line can be written without harm: texts and data are named in .reuse/dep5.
files=$(find bootstrap quickstart .ci/run configure.ac Makefile.am .clang-format m4/address.m4 build-aux include lib doc tests \
    \( -name '*.[ch]' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.sh' -o -name '*.[137]' -o -name '*.gp' -o -name '*.in' \
    -o -name '*.map' -o -name '*.ac' -o -name '*.am' -o -name address.m4 -o -name '*.spec' -o -name APKBUILD -o -name rules \
    -o -name CMakeLists.txt -o -name meson.build -o -name bootstrap -o -name quickstart -o -name run -o -name .clang-format \) \
    -type f ! -name ltmain.sh ! -name tap-driver.sh | sort)

# insert FILE LINE: as the second line, or as the first where nothing must come before what is there.
insert()
{
    case $(sed -n 1p "$1") in
    '#!'*) sed -i "1a\\
$2" "$1" ;;
    *) sed -i "1i\\
$2" "$1" ;;
    esac
}

write_line()    # FILE
{
    case $1 in
    *.[ch] | *.hpp | *.cpp | *.map) insert "$1" "/* $line */" ;;
    *.[137]) insert "$1" ".\\\\\" $line" ;;
    *.ac | *.m4) insert "$1" "dnl $line" ;;
    *) insert "$1" "# $line" ;;
    esac
}

missing=$(grep -L "$line" $files)
if test "${1-}" = -w; then
    for file in $missing; do write_line "$file"; done
    exit 0
fi

echo 1..2
test -z "$missing" || { echo "$missing"; printf 'not '; }
echo "ok 1 - every file names its licence"

# reuse wants the texts in a directory of the top level, which ours is not to have: it looks at a copy.
if ! command -v reuse >/dev/null; then
    echo "ok 2 # SKIP no reuse here"
elif ! test -e .git; then
    echo "ok 2 # SKIP this is no checkout: what is versioned is not known"
else
    copy=$(mktemp -d "${TMPDIR:-/tmp}/licences.XXXXXX") || exit 99
    trap 'rm -rf "$copy"' EXIT
    git ls-files -z | xargs -0 cp --parents -t "$copy" && mv "$copy/build-aux/licences" "$copy/LICENSES"
    (cd "$copy" && reuse lint) >"$copy.log" 2>&1 || { sed 's/^/# /' "$copy.log"; printf 'not '; }
    rm -f "$copy.log"
    echo "ok 2 - reuse lint finds nothing"
fi
