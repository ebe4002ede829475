#!/bin/sh
# Every complete program among the examples of the man pages compiles, links against the library and
# runs.
set -u
: "${srcdir:=.}" "${CC:=cc}" "${CFLAGS=}" "${LDFLAGS=}"
tmp=examples.$$
mkdir "$tmp" || exit 99
trap 'rm -rf "$tmp"' EXIT

# Writes the literal blocks of EXAMPLES that define main to PREFIX-1.c, PREFIX-2.c ... and undoes
# mdoc's escapes.
extract()       # PAGE PREFIX
{
    awk -v prefix="$2" '
        /^\.Sh / { examples = /^\.Sh EXAMPLES/ }
        examples && /^\.Bd .*-literal/ { inside = 1; text = ""; next }
        inside && /^\.Ed/ {
            inside = 0
            if (text ~ /(^|[^a-z_])main *\(/)
                printf "%s", text > (prefix "-" ++n ".c")
            next
        }
        inside && /^\./ { next }
        inside {
            gsub(/\\&/, ""); gsub(/\\-/, "-"); gsub(/\\\(aq/, "\047"); gsub(/\\\(dq/, "\""); gsub(/\\\(ti/, "~")
            gsub(/\\\(ha/, "^"); gsub(/\\e|\\\(rs/, "\\"); text = text $0 "\n"
        }' "$1"
}

try()           # PROGRAM without its suffix
{
    $CC $CFLAGS -std=c99 -D_XOPEN_SOURCE=700 -Wall -Wextra -Werror -I"$srcdir/include" -c -o "$1.o" "$1.c" &&
        ./libtool --quiet --tag=CC --mode=link $CC $CFLAGS $LDFLAGS -o "$1" "$1.o" libmemsnap.la -lpthread &&
        (cd "$tmp" && "./$(basename "$1")")
}

failed=0
found=0
for page in "$srcdir"/doc/*.[37]; do
    test -f "$page" || continue
    extract "$page" "$tmp/$(basename "$page" | tr . -)"
done
for source in "$tmp"/*.c; do
    test -f "$source" || continue
    found=$((found + 1))
    try "${source%.c}" || { echo "the example fails: $(basename "$source" .c)"; failed=1; }
done
echo "$found examples"
test $found -gt 0 || failed=1
test $failed = 0 || printf 'not '
echo "ok 1 - the examples of the man pages compile and run"
echo 1..1
