#!/bin/sh
# SPDX-License-Identifier: MIT
# The library on machines and C libraries other than this one's: musl, words of 32 bits (i686),
# another processor (riscv64) and a big-endian one (s390x), emulated by qemu's user mode where this
# one cannot run them: seconds; and one with pages of 64 KiB (ppc64el, a whole emulated machine with
# a kernel: a minute). On each runs what tests/tools/cross.c checks; the corpus of tests/random/data
# is loaded; files that are made there are compared with those made here, and each side loads the
# other's.
#
#   cross.sh [musl] [i686] [riscv64] [s390x] [ppc64el]      default: all
#
# srcdir: the sources; default: the current directory. Works in cross/ of the current directory.
# PPC64_KERNEL: a kernel with pages of 64 KiB; default: the distribution's, fetched and unpacked in
# cross/ by means of apt. What cannot be run is skipped, and it is said why. Exit status: 77 if all
# of it was.
set -u
: "${srcdir:=.}" "${CC:=cc}"
src=$(cd "$srcdir" && pwd) || exit 99
mkdir -p cross && cd cross || exit 99
top=$PWD
ran=0 failed=0

skip() { echo "$1: skipped: $2"; }

fail()
{
    echo "$1: FAILED: $2"
    failed=$((failed + 1))
}

have() { command -v "$1" >/dev/null 2>&1; }

# build NAME COMPILER [CONFIGURE-ARGUMENT...]: the library and the program, in NAME/
build()
{
    name=$1 compiler=$2
    shift 2
    mkdir -p "$top/$name" || return
    (
        cd "$top/$name" || exit
        if ! test -f config.status; then
            "$src/configure" --disable-tests --disable-shared --with-valgrind=no CC="$compiler" CFLAGS='-O2 -g' "$@" || exit
        fi
        make libmemsnap.la &&
            $compiler -O2 -g -Wall -Wextra -static -pthread -I"$src/include" -I"$src/tests" -o cross "$src/tests/tools/cross.c" .libs/libmemsnap.a
    ) >"$top/$name.log" 2>&1 && return
    fail "$name" "it cannot be built, see cross/$name.log"
    tail -n 5 "$top/$name.log" | sed 's/^/    /'
    return 1
}

# ---- here: what the others are compared with -------------------------------------------------------

native()
{
    build native "$CC" || exit 1
    rm -rf native/made
    mkdir native/made
    native/cross about && native/cross make "$top/native/made" >native/sums && native/cross load "$top/native/made" || exit 1
}

# compare NAME FILE...: the sums are those of the files made here
compare()
{
    name=$1
    shift
    for file in "$@"; do
        line=$(grep "^SUM $file " native/sums)
        if ! grep -qx "$line" "$name/sums"; then
            fail "$name" "$file is not, byte for byte, the one made here"
        fi
    done
    echo "    the same, byte for byte, as made here: $(grep -cxFf native/sums "$name/sums") of $(grep -c '^SUM' native/sums) files"
}

# ---- other processors and C libraries ----------------------------------------------------------------

# machine NAME RUN COMPILER [CONFIGURE-ARGUMENT...]: RUN is what runs its programs; "": this machine does
machine()
{
    name=$1 run=$2
    shift 2
    build "$name" "$@" || return
    ran=$((ran + 1))
    rm -rf "$name/made"
    mkdir "$name/made"
    begun=$(date +%s)
    for step in about api "corpus $src/tests/random/data" "load $top/native/made" "load $top/$name/made"; do
        test "$step" != "load $top/$name/made" || timeout 60 $run "$name/cross" make "$top/$name/made" >"$name/sums"
        timeout 300 $run "$name/cross" $step || { fail "$name" "cross $step"; return; }
    done
    native/cross load "$top/$name/made" || fail "$name" "a file made there cannot be loaded here"
    compare "$name" base.image 1.delta 2.delta 3.delta all.delta flat.delta
    echo "    $(($(date +%s) - begun)) s"
}

# emulated NAME TRIPLET: a processor of another kind
emulated()
{
    have "$2-gcc" || { skip "$1" "no $2-gcc (gcc-$2, and its C library)"; return; }
    have "qemu-$1" || { skip "$1" "no qemu-$1 (qemu-user)"; return; }
    machine "$1" "qemu-$1" "$2-gcc" --host="$2"
}

# Words of 32 bits; most machines that can build this can run it too.
small_words()
{
    have i686-linux-gnu-gcc || { skip i686 "no i686-linux-gnu-gcc (gcc-i686-linux-gnu, libc6-dev-i386-cross)"; return; }
    case $(uname -m) in
    x86_64 | i?86) run= ;;
    *) have qemu-i386 || { skip i686 "no qemu-i386 (qemu-user)"; return; }; run=qemu-i386 ;;
    esac
    machine i686 "$run" i686-linux-gnu-gcc --host=i686-linux-gnu
}

# The kernel's headers are the system's.
other_libc()
{
    have musl-gcc || { skip musl "no musl-gcc (musl-tools)"; return; }
    machine musl "" "musl-gcc -idirafter /usr/include -idirafter /usr/include/$("$CC" -print-multiarch)"
}

# ---- larger pages ----------------------------------------------------------------------------------------

# Sets kernel. The package lists of the other architecture are kept apart: the system's apt knows
# nothing of it.
find_kernel()
{
    kernel=${PPC64_KERNEL:-$(ls "$top"/kernel/boot/vmlinux-* 2>/dev/null | head -n 1)}
    test -z "$kernel" || return 0
    have apt-get && have dpkg-deb || return
    mkdir -p apt/lists/partial apt/cache/archives/partial
    : >apt/status
    cat >apt/conf <<END
APT::Architecture "ppc64el";
APT::Architectures { "ppc64el"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Dir::State "$top/apt";
Dir::State::status "$top/apt/status";
Dir::Cache "$top/apt/cache";
END
    {
        APT_CONFIG=$top/apt/conf apt-get -q update
        package=$(APT_CONFIG=$top/apt/conf apt-cache search --names-only '^linux-image-[0-9.-]+[+a-z0-9]*-powerpc64le(-64k)?$' |
            cut -d ' ' -f 1 | sort -V | awk '/-64k$/ { k = $0 } { last = $0 } END { print k ? k : last }')
        test -n "$package" && (cd apt && APT_CONFIG=$top/apt/conf apt-get -q download "$package") &&
            dpkg-deb -x apt/linux-image-*.deb kernel
    } >kernel.log 2>&1
    kernel=$(ls "$top"/kernel/boot/vmlinux-* 2>/dev/null | head -n 1)
    test -n "$kernel"
}

# What the first process finds: itself, the corpus, and the files that were made here.
pack_root()
{
    rm -rf ppc64el/root
    mkdir -p ppc64el/root/data ppc64el/root/made ppc64el/root/dev ppc64el/root/proc ppc64el/root/tmp || return
    cp ppc64el/cross ppc64el/root/cross && cp "$src"/tests/random/data/* ppc64el/root/data && cp native/made/* ppc64el/root/made &&
        (cd ppc64el/root && find . | cpio -o -H newc --quiet | gzip) >ppc64el/root.gz
}

large_pages()
{
    have powerpc64le-linux-gnu-gcc ||
        { skip ppc64el "no cross compiler (gcc-powerpc64le-linux-gnu, libc6-dev-ppc64el-cross)"; return; }
    have qemu-system-ppc64 || { skip ppc64el "no qemu-system-ppc64 (qemu-system-ppc)"; return; }
    have cpio || { skip ppc64el "no cpio"; return; }
    find_kernel || { skip ppc64el "no kernel: PPC64_KERNEL is not set, and none could be fetched (cross/kernel.log)"; return; }
    build ppc64el powerpc64le-linux-gnu-gcc --host=powerpc64le-linux-gnu && pack_root || return
    ran=$((ran + 1))
    begun=$(date +%s)
    timeout 600 qemu-system-ppc64 -M pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off -cpu POWER9 \
        -m 1024 -nographic -nodefaults -serial stdio -vga none -kernel "$kernel" -initrd ppc64el/root.gz \
        -append "console=hvc0 quiet panic=1 rdinit=/cross" -no-reboot </dev/null 2>&1 | tr -d '\r' >ppc64el/console
    grep -v -e '^HEX' -e '^FILE' -e '^SUM' -e '^$' ppc64el/console | sed -n '/endian/,/^CROSS/p'
    grep -qx 'CROSS passed' ppc64el/console || { fail ppc64el "see cross/ppc64el/console"; return; }
    grep -q 'pages of 64 KiB' ppc64el/console || echo "    this kernel has no pages of 64 KiB; checked all the same"
    grep '^SUM' ppc64el/console >ppc64el/sums
    rm -rf ppc64el/made
    mkdir ppc64el/made
    native/cross unpack "$top/ppc64el/made" <ppc64el/console && native/cross load "$top/ppc64el/made" ||
        fail ppc64el "a file made there cannot be loaded here"
    # Others may differ in the unchanged blocks that they name: these are where an image's pieces
    # begin.
    compare ppc64el base.image flat.delta
    echo "    $(($(date +%s) - begun)) s"
}

test $# -gt 0 || set -- musl i686 riscv64 s390x ppc64el
native
for target; do
    case $target in
    musl) other_libc ;;
    i686) small_words ;;
    riscv64) emulated riscv64 riscv64-linux-gnu ;;
    s390x) emulated s390x s390x-linux-gnu ;;
    ppc64el) large_pages ;;
    *) echo "usage: cross.sh [musl] [i686] [riscv64] [s390x] [ppc64el]" >&2; exit 2 ;;
    esac
done
echo "$ran machines tried, $failed failures"
test $failed = 0 || exit 1
test $ran != 0 || exit 77
