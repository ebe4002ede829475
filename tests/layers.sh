#!/bin/sh
# The layers of lib/ and the direction of their dependencies: what may include what, and what no file of the library contains.
set -u
: "${srcdir:=.}"
cd "$srcdir" || exit 99

base="annotate checked refcount"                # headers without a layer: anybody may include them
core="bytes image chunk crc32c freelist store fill pool mapping dirty collect restore protection trim"
api="snapshot view writer lot file stats save delta export"
# Beside the API files: what uses its constants.
public_users="mapping protection restore fill os/linux os/posix"
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

# layer NAME: the layer of lib/NAME.[ch].
layer()
{
    case $1 in os/*) echo os; return ;; esac
    if has "$1" $base; then echo base
    elif has "$1" $core; then echo core
    elif has "$1" $api; then echo api
    fi
}

check_own()      # FILE NAME LAYER INCLUDED: #include "..."
{
    case $4 in
    config.h | os/os.h) return ;;
    memsnap.h)
        test "$3" = api || has "$2" $public_users || fail "$1: includes the public header"
        return ;;
    esac
    to=$(layer "${4%.h}")
    case $3:$to in
    *:) fail "$1: $4 belongs to no layer (see the lists in tests/layers.sh)" ;;
    *:base | os:os | core:core | api:core | api:api) ;;
    *) fail "$1: a file of layer $3 includes $4 of layer $to" ;;
    esac
}

check_system()   # FILE NAME LAYER INCLUDED: #include <...>
{
    has "${4%.h}" $standard && return
    case $2:$4 in annotate:valgrind/* | annotate:sanitizer/*) return ;; esac
    test "$3" = os || fail "$1: <$4> is no header of standard C that the core may use"
}

# tests/layers.sh FILES... looks at these only.
test $# -gt 0 || set -- lib/*.[ch] lib/os/*.[ch]
for file; do
    name=${file#lib/}
    name=${name%.[ch]}
    from=$(layer "$name")
    test -n "$from" || fail "$file belongs to no layer (see the lists in tests/layers.sh)"
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
