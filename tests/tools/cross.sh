#!/bin/sh
# The library on machines of the other byte order and of larger pages, which are emulated: a
# big-endian one (s390x, by qemu's user mode: seconds), and one with pages of 64 KiB (ppc64el, a
# whole emulated machine with a kernel: a minute). On each runs what tests/tools/cross.c checks; the
# corpus of tests/random/data is loaded; files that are made there are compared with those made
# here, and each side loads the other's.
#
#   cross.sh [s390x] [ppc64el]      default: both
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

# ---- the other byte order ----------------------------------------------------------------------------

big_endian()
{
    have s390x-linux-gnu-gcc || { skip s390x "no cross compiler (gcc-s390x-linux-gnu, libc6-dev-s390x-cross)"; return; }
    have qemu-s390x || { skip s390x "no qemu-s390x (qemu-user)"; return; }
    build s390x s390x-linux-gnu-gcc --host=s390x-linux-gnu || return
    ran=$((ran + 1))
    rm -rf s390x/made
    mkdir s390x/made
    begun=$(date +%s)
    for step in about api "corpus $src/tests/random/data" "load $top/native/made" "load $top/s390x/made"; do
        test "$step" != "load $top/s390x/made" || timeout 60 qemu-s390x s390x/cross make "$top/s390x/made" >s390x/sums
        timeout 300 qemu-s390x s390x/cross $step || { fail s390x "cross $step"; return; }
    done
    native/cross load "$top/s390x/made" || fail s390x "a file made there cannot be loaded here"
    compare s390x base.image 1.delta 2.delta 3.delta all.delta flat.delta
    echo "    $(($(date +%s) - begun)) s"
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

test $# -gt 0 || set -- s390x ppc64el
native
for machine in "$@"; do
    case $machine in
    s390x) big_endian ;;
    ppc64el) large_pages ;;
    *) echo "usage: cross.sh [s390x] [ppc64el]" >&2; exit 2 ;;
    esac
done
echo "$ran machines tried, $failed failures"
test $failed = 0 || exit 1
test $ran != 0 || exit 77
