#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs the benchmark programs and prints one table of what they found.
#
#   run.sh [-k FILE] [-p DIR] [-t FACTOR] [PROGRAM-DIR [WORD ...]]
#
#   -k FILE    keep the results there (tab-separated; doc/performance.tsv is the one that is distributed)
#   -p DIR     draw ratios.svg, restore.svg and take.svg there (needs gnuplot)
#   -t FACTOR  repeat for that many times as long
#   WORD       only cases whose name has it
#
# The exit status tells whether the programs ran, not whether the targets were reached: machines
# differ.
set -u
here=$(dirname "$0")
keep= plots= factor=1
while getopts k:p:t: option; do
    case $option in
    k) keep=$OPTARG ;;
    p) plots=$OPTARG ;;
    t) factor=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
programs=${1:-.}
[ $# -gt 0 ] && shift

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
results=$work/results.tsv
status=0

read_first() { cat "$1" 2>/dev/null || echo unknown; }
{
    model=$(sed -n 's/^model name[^:]*: */, /p' /proc/cpuinfo | head -n 1)
    echo "# $(uname -sr) $(uname -m), $(getconf _NPROCESSORS_ONLN) CPUs$model"
    echo "# transparent huge pages: $(read_first /sys/kernel/mm/transparent_hugepage/enabled);" \
        "shmem: $(read_first /sys/kernel/mm/transparent_hugepage/shmem_enabled)"
    printf '# name\tours_us\tpeer\tpeer_us\tratio\ttarget\tverdict\tour_faults\tpeer_faults\tour_calls\tpeer_calls\n'
} >"$results"

for question in create open threads read restore take save pause memory; do
    "$programs/$question" -o "$results" -t "$factor" "$@" >/dev/null || {
        echo "run.sh: $question failed" >&2
        status=1
    }
done
[ -t 2 ] && printf '\r\033[K' >&2

# Faults and system calls are per operation, the library's and the peer's.
awk -F '\t' '
/^# name/ { next }
/^#/ { print substr($0, 3); next }
!heading {
    printf "\n%-46s %12s  %-24s %12s %9s %7s %-6s %13s %13s\n", "microseconds, medians", "library", "peer", "peer",
           "ratio", "target", "", "faults", "calls"
    heading = 1
}
/^sweep/ { next }
{
    printf "%-46s %12.2f  %-24s %12.2f %9.2f %7s %-6s %13s %13s\n", $1, $2, $3, $4, $5, $6, $7, $8 "/" $9, $10 "/" $11
    if ($7 == "ok") reached++
    if ($7 == "short") short++
}
END { printf "\n%d targets reached, %d short\n", reached, short }' "$results"

if [ -n "$plots" ]; then
    if command -v gnuplot >/dev/null 2>&1; then
        # One file per plot: rows with a least ratio, and the sweeps turned into columns.
        awk -F '\t' '!/^#/ && $6 != "-" && $6 !~ /^\+/ { printf "%s, against %s\t%s\t%s\n", $1, $3, $5, $6 }' \
            "$results" >"$work/ratios"
        for sweep in restore take; do
            awk -F '\t' -v sweep="sweep: $sweep" 'index($1, sweep) == 1 {
                n = $1; sub(/ of .*/, "", n); sub(/.*, /, "", n)
                if (!(n in ours)) order[++count] = n
                ours[n] = $2; peers[n] = peers[n] "\t" $4
            }
            END { for (i = 1; i <= count; i++) print order[i] "\t" ours[order[i]] peers[order[i]] }' \
                "$results" >"$work/$sweep"
        done
        gnuplot -e "from='$work'; to='$plots'" "$here/plots.gp" || status=1
    else
        echo "run.sh: no gnuplot, no plots" >&2
    fi
fi
if [ -n "$keep" ]; then
    cp "$results" "$keep" || status=1
fi
exit $status
