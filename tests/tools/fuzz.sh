#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds the fuzzers in ./fuzz with a compiler that has libFuzzer's option, and runs each for half
# of the time:
#
#     fuzz.sh SOURCE-DIRECTORY SECONDS SOURCE...
#
# SOURCE: the library and what the fuzzers share. Variables: FUZZ_CC (clang; afl-clang-fast with 0
# SECONDS builds for afl-fuzz), CFLAGS of GLib in GLIB_CFLAGS, GLIB_LIBS. What they found is in
# ./fuzz: NAME.log, crash-*, and in corpus-NAME what reaches new code, for next time.
set -u
top=$1 seconds=$2
shift 2
: "${FUZZ_CC:=clang}"
flags="-g -O1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined"
flags="$flags -DHAVE_CONFIG_H -D_GNU_SOURCE -I. -I$top/include -I$top/lib -I$top/tests ${GLIB_CFLAGS-}"

if ! command -v "$FUZZ_CC" >/dev/null; then
    echo "fuzz.sh: there is no $FUZZ_CC; it takes clang and its runtime library (FUZZ_CC)" >&2
    exit 1
fi
mkdir -p fuzz || exit 1

compile()
{
    object=fuzz/$(echo "${1%.c}" | tr / -).o
    $FUZZ_CC $flags -c "$top/$1" -o "$object" && objects="$objects $object"
}

# build NAME: the fuzzer, from the shared objects and its own.
build()
{
    objects=$shared
    compile "tests/random/fuzz-$1.c" && $FUZZ_CC $flags -fsanitize=fuzzer $objects ${GLIB_LIBS-} -o "fuzz/fuzz-$1"
}

# run NAME SEEDS: says what came of it.
run()
{
    log=fuzz/$1.log
    mkdir -p "fuzz/corpus-$1"
    UBSAN_OPTIONS=print_stacktrace=1 "fuzz/fuzz-$1" -max_total_time=$((seconds / 2)) -max_len=4096 -timeout=60 -rss_limit_mb=4096 \
        -print_final_stats=1 -artifact_prefix=fuzz/ "fuzz/corpus-$1" "$2" >"$log" 2>&1
    status=$?
    [ $status = 0 ] || tail -n 40 "$log"
    awk -v name="fuzz-$1" -v failed=$status '/ cov: / { covered = $4 } /number_of_executed_units/ { n = $2 }
        END { print name ": " n + 0 " executions, " covered + 0 " edges, " (failed ? "FAILED" : "nothing found") }' "$log"
    [ $status = 0 ] && passed=$((passed + 1)) || bad=$((bad + 1))
}

objects=
for source in "$@"; do
    case $source in *.c) compile "$source" || exit 1 ;; esac
done
shared=$objects
build delta && build api || exit 1
[ "$seconds" -gt 0 ] || exit 0
passed=0 bad=0
run delta "$top/tests/random/data"
run api "$top/tests/random/seeds"
echo "# PASS: $passed"
echo "# FAIL: $bad"
[ $bad = 0 ]
