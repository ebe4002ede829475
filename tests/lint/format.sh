#!/bin/sh
# SPDX-License-Identifier: MIT
# The C and C++ files are laid out as .clang-format says, and no line is longer than 100 columns. TAP.
set -u
: "${srcdir:=.}"
cd "$srcdir" || exit 99
files=$(ls include/*.h include/*.hpp lib/*.[ch] lib/*/*.[ch] tests/*/*.[ch] tests/*/*.cpp 2>/dev/null)

echo 1..2
long=$(awk 'length > 100 { print FILENAME ":" FNR }' $files)
test -z "$long" || { echo "$long"; printf 'not '; }
echo "ok 1 - no line is longer than 100 columns"

# Other versions lay some lines out in another way.
program=
for name in clang-format-14 clang-format; do
    case $($name --version 2>/dev/null) in *"version 14."*) program=$name; break ;; esac
done
if test -z "$program"; then
    echo "ok 2 # SKIP no clang-format 14"
elif ! test -f .clang-format; then
    echo "ok 2 # SKIP .clang-format is not here"
else
    wrong=$(for file in $files; do $program --dry-run -Werror "$file" 2>/dev/null || echo "$file"; done)
    test -z "$wrong" || { echo "run clang-format -i on:" $wrong; printf 'not '; }
    echo "ok 2 - laid out by .clang-format"
fi
