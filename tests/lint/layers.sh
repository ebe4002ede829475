#!/bin/sh
# SPDX-License-Identifier: MIT
# The folders of lib/ are its layers: what may include what, and what no file of the library
# contains.
set -u
: "${srcdir:=.}"
cd "$srcdir" || exit 99

# From the ground up; a file includes files of its own folder and of those before it. lib/ itself is
# the top.
floors="base os storage mapping lib"
# Of the public header, what lies below the top uses the constants only.
public_users="mapping/mapping mapping/protection mapping/restore mapping/thaw mapping/writer storage/fill
    os/address_space"
standard="assert errno limits stdalign stdarg stdatomic stdbool stddef stdint string"

failed=0
fail()
{
    echo "$*"
    failed=1
}

# has WORD LIST...
has()
{
    word=$1
    shift
    case " $* " in *" $word "*) return 0 ;; esac
    return 1
}

# The code of a file: comments blanked, line numbers kept.
code()
{
    awk '{
        line = $0; out = ""
        while (line != "") {
            if (inside) {
                at = index(line, "*/")
                if (!at) break
                line = substr(line, at + 2); inside = 0
            } else {
                at = index(line, "/*")
                if (!at) { out = out line; break }
                out = out substr(line, 1, at - 1) " "; line = substr(line, at + 2); inside = 1
            }
        }
        sub(/\/\/.*/, "", out)
        print out
    }' "$1"
}

# forbid FILE WHAT REGEX: no line of code matches.
forbid()
{
    hits=$(code "$1" | grep -nE "$3")
    test -z "$hits" || fail "$1: $2: $hits"
}

# floor NAME: the folder of lib/NAME.[ch].
floor()
{
    case $1 in */*) echo "${1%/*}" ;; *) echo lib ;; esac
}

# is_below A B: the folder A is the folder B or lies below it.
is_below()
{
    test "$1" = "$2" && return
    rest=${floors#*"$1"}
    test "$rest" != "$floors" && has "$2" $rest
}

check_own()      # FILE NAME FLOOR INCLUDED: #include "..."
{
    case $4 in
    config.h) return ;;
    memsnap.h)
        test "$3" = lib || has "$2" $public_users || fail "$1: includes the public header"
        return ;;
    esac
    test -f "lib/$4" || fail "$1: includes $4, which is not written in full from lib/"
    is_below "$(floor "$4")" "$3" || fail "$1: a file of $3 includes $4, which lies above it"
    case $3:$4 in
    os:* | *:os/os.h) ;;
    *:os/*) fail "$1: includes $4; what is above lib/os/ sees os/os.h alone" ;;
    esac
}

check_system()   # FILE NAME FLOOR INCLUDED: #include <...>
{
    has "${4%.h}" $standard && return
    case $2:$4 in base/annotate:valgrind/* | base/annotate:sanitizer/*) return ;; esac
    test "$3" = os || fail "$1: <$4> is no header of standard C that the core may use"
}

# tests/lint/layers.sh FILES... looks at these only.
test $# -gt 0 || set -- lib/*.[ch] lib/*/*.[ch]
for file; do
    name=${file#lib/}
    name=${name%.[ch]}
    from=$(floor "$name")
    has "$from" $floors || fail "$file lies in a folder that has no place in tests/lint/layers.sh"
    for included in $(code "$file" | sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\(.*\)".*/\1/p'); do
        check_own "$file" "$name" "$from" "$included"
    done
    for included in $(code "$file" | sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*<\(.*\)>.*/\1/p'); do
        check_system "$file" "$name" "$from" "$included"
    done
    forbid "$file" "a page size as a constant" '(^|[^[:alnum:]_])(4096|0x1000|PAGE_SIZE|PAGE_SHIFT|PAGE_MASK)([^[:alnum:]_]|$)'
    forbid "$file" "output, environment, signals or the end of the process" \
        '(^|[^[:alnum:]_>.])(abort|_?exit|quick_exit|v?f?printf|puts|fputs|perror|getenv|secure_getenv|sigaction|signal|raise)[[:space:]]*\('
    case $file in *.c)
        first=$(code "$file" | sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*//p' | head -n 1)
        test "$first" = '"config.h"' || fail "$file: config.h must be its first include"
    esac
done
test $failed = 0 || printf 'not '
echo "ok 1 - lib/ is layered"
echo 1..1
