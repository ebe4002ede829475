#!/bin/sh
# SPDX-License-Identifier: MIT
# The tool of doc/examples that keeps images as a base and deltas: what comes back is what was saved, and every damage
# is found and named with file and byte. TAP.
#
# MEMSNAP_IMAGE: the program; default: where the build puts it.

tool=${MEMSNAP_IMAGE:-doc/examples/memsnap-image}
if ! test -x "$tool"; then
    echo "1..0 # SKIP $tool is not built"
    exit 0
fi
case $tool in /*) ;; *) tool=$PWD/$tool ;; esac
# A program that gives up leaves its memory to the system.
ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
export ASAN_OPTIONS
work=$(mktemp -d "${TMPDIR:-/tmp}/memsnap-image-test.XXXXXX") || exit 99
trap 'rm -rf "$work"' EXIT
trap 'exit 99' HUP INT TERM
cd "$work" || exit 99
n=0

result()
{
    what=$1
    n=$((n + 1))
    shift
    if "$@" >out 2>&1; then echo "ok $n - $what"; else echo "not ok $n - $what"; sed 's/^/# /' out; fi
}

image() { timeout 60 "$tool" "$@"; }

# refuses STATUS WORDS COMMAND...: fails with the status, and says the words
refuses()
{
    want=$1 words=$2
    shift 2
    image "$@" >said 2>&1
    status=$?
    cat said
    test $status = "$want" && grep -q -- "$words" said
}

# change FILE OFFSET: turns one byte over
change()
{
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf "\\$(printf %03o $((byte ^ 85)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

make_days()
{
    # Its first byte is not zero: that the third day changes it, and the second does not, is looked at below.
    { printf x && head -c 2999999 /dev/urandom && head -c 2000001 /dev/zero; } >day0 || return
    cp day0 day1 && change day1 5 && change day1 123456 && change day1 4999999 && change day1 4000000 || return
    cp day1 day2 && change day2 5 && change day2 2222222 &&
        dd if=/dev/zero of=day2 bs=4096 count=50 conv=notrunc status=none
}

save_chain()
{
    image save -o base day0 && image save -o d1 day1 base && image save -o d2 day2 base d1 && cmp base day0 &&
        test "$(wc -c <d1)" -lt 100000 && test "$(du -k base | cut -f1)" -lt 3500
}

apply_chain()
{
    image apply -o r0 base && cmp r0 day0 && image apply -o r1 base d1 && cmp r1 day1 &&
        image apply -n -o r2 base d1 d2 && cmp r2 day2
}

squash_chain()
{
    image squash -o d12 base d1 d2 && image apply -f -o r2 base d12 && cmp r2 day2
}

inspect_all()
{
    image inspect base d1 d2 | tee said && grep -q 'images of 5000001 bytes' said && grep -q 'zeroed *50 blocks' said
}

verify_chain()
{
    image verify base d1 d2 && image verify -c day2 base d1 d2 &&
        refuses 1 'day1: byte 0: differs' verify -c day1 base d1 d2
}

# The second day changes nothing that the first one did: only unchanged blocks can tell that the first one is missing.
missing_link()
{
    cp day0 e1 && change e1 1234567 && cp e1 e2 && change e2 2900000 && image save -o ed1 e1 base &&
        image save -o ed2 e2 base ed1 && image verify -c e2 base ed1 ed2 &&
        refuses 1 'made against another' verify base ed2
}

wrong_chain()
{
    refuses 1 'd2: made against another base.*byte 0 ' verify base d2 && refuses 2 'd1: a delta where' verify d1 base &&
        refuses 2 'day1: byte 0: not a delta' verify base day1 && head -c 10 day0 >small &&
        refuses 1 'd1: byte 24: made for images of 5000001' verify small d1 &&
        refuses 2 'has 10 bytes' save -o x small base
}

# Whatever byte is turned over, and wherever the file is cut off: refused, with a place named.
damage()
{
    size=$(wc -c <d1)
    for at in 0 3 8 13 20 24 33 40 50 60 63 64 70 80 84 $((size / 3)) $((size / 2)) $((size - 1)); do
        cp d1 bad && change bad "$at" && echo "byte $at:" || return
        refuses 1 '^memsnap-image verify: bad: byte [0-9]*: ' verify base bad ||
            refuses 2 'bad: byte 0: not a delta' verify base bad || return
    done
    for size in 9 63 64 70 $((size - 1)); do
        head -c "$size" d1 >bad && refuses 1 "bad: byte $size: the file ends here" verify base bad || return
    done
    cp d1 bad && echo >>bad && refuses 1 "bad: byte $(wc -c <d1): the file should end here" verify base bad
}

# own_input OUT COMMAND...: whatever OUT is called, and even with -f, no file that is read is replaced
own_input()
{
    out=$1
    shift
    refuses 2 "$out: the same file as" "$@" -f -o "$out" $inputs && cmp base base.kept && cmp d1 d1.kept &&
        cmp day1 day1.kept
}

own_inputs()
{
    for file in base d1 day1; do cp $file $file.kept && ln -s $file $file.link && ln $file $file.hard || return; done
    mkdir sub && ln -s .. sub/up || return
    inputs='day1 base d1'
    for out in base d1 day1 ./d1 "$work/base" base.link d1.hard sub/up/day1; do own_input "$out" save || return; done
    inputs='base d1'
    for verb in apply squash; do
        for out in base base.link base.hard d1 d1.link; do own_input "$out" $verb || return; done
    done
    inputs=base.link
    own_input base.hard save && own_input base save && own_input base apply || return
    refuses 2 'not a regular file' apply -f -o sub base && refuses 2 'writes nothing' verify -o x base &&
        refuses 2 'compares nothing' apply -o x -c day0 base && test ! -e x && mkfifo pipe &&
        refuses 2 'not a regular file' apply -f -o pipe base && test -p pipe && image save -f -o again day1 base
}

existing()
{
    refuses 2 'base: there is a file' save -o base day1 && cmp base day0 && image save -f -o again day0 &&
        image save -f -o again day1 && cmp again day1 && refuses 2 'nosuch: ' save -o x nosuch &&
        refuses 2 'nosuch/x: cannot be written' save -o nosuch/x day0 && refuses 2 'not a regular file' verify . &&
        refuses 2 'usage' save day0 && refuses 2 'usage' frobnicate && refuses 2 'usage' squash -o x base &&
        image --help
}

empty()
{
    : >nothing && image save -o e nothing && image save -o ed nothing e && image apply -o er e ed && cmp er nothing &&
        image inspect e ed
}

echo 1..12
result 'files to try it on' make_days
result 'save: an image and deltas' save_chain
result 'apply: every day comes back' apply_chain
result 'squash: one delta for two' squash_chain
result 'inspect: what is in them' inspect_all
result 'verify: a whole chain, and against a file' verify_chain
result 'a chain out of order, or with something left out' wrong_chain
result 'a chain with a link left out that the next one does not touch' missing_link
result 'every damage is found, with its byte' damage
result 'files that are there, files that are not, usage' existing
result 'no file that is read is replaced, through links neither' own_inputs
result 'an empty file' empty
