#!/bin/sh
# SPDX-License-Identifier: MIT
# What a background save costs a server with its data in a mutable view, beside Redis, which forks: the same keys and
# values in both, in one run, in turn. Prints a table of the pauses, of what clients notice, and of the memory it takes.
#
#   bgsave.sh [-k FILE] [-m MIB] [-p DIR] [-r ROUNDS] [-s SAVES]
#
#   -k FILE    keep the results there (tab-separated, in the columns of run.sh), and those of each save of -s in FILE.saves
#   -m MIB     data in each server (1024); four times that of memory and twice of disk must be free
#   -p DIR     draw bgsave.svg, memory over time, there (needs gnuplot)
#   -r ROUNDS  saves of each kind (5); 0: the first one only
#   -s SAVES   saves in a row, 5 s between them, beside clients that write all the time (0); 20 take some 8 minutes
#
# KVSERVER, KVCHECK: the programs; default: where the build puts them. Loopback only. No server outlives the script.
# The pauses are what the servers themselves report: for Redis the fork alone (latest_fork_usec), for ours the time from
# the first writer stopped to the last one released (last_pause_usec).
set -u
server=${KVSERVER:-doc/examples/kvserver}
check=${KVCHECK:-tests/examples/kvcheck}
mib=1024 rounds=5 saves=0 keep= plots=
value=984           # with key and header a block of 1024 bytes in both
writers=4
while getopts k:m:p:r:s: option; do
    case $option in
    k) keep=$OPTARG ;;
    m) mib=$OPTARG ;;
    p) plots=$OPTARG ;;
    r) rounds=$OPTARG ;;
    s) saves=$OPTARG ;;
    *) exit 2 ;;
    esac
done
for program in "$server" "$check" redis-server redis-cli; do
    command -v "$program" >/dev/null || { echo "bgsave.sh: $program is missing, nothing measured" >&2; exit 77; }
done
keys=$((mib * 1024))
free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
if test "$free" -lt $((mib * 4)); then
    echo "bgsave.sh: $free MiB of memory are free, $((mib * 4)) are needed: give a smaller -m" >&2
    exit 77
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/bgsave.XXXXXX") || exit 1
our_guard= redis_guard= our_pid= redis_pid=
trap cleanup EXIT
trap 'exit 1' HUP INT TERM
cleanup()
{
    test -z "$our_pid" || kill -9 "$our_pid" 2>/dev/null
    test -z "$redis_pid" || kill -9 "$redis_pid" 2>/dev/null
    wait
    rm -rf "$work"
}

if test -t 2; then now() { printf '\r\033[K%s ...' "$*" >&2; }; else now() { :; }; fi
die() { echo "bgsave.sh: $*" >&2; exit 1; }

# ---- the servers -----------------------------------------------------------------------------------

# field PORT NAME
field() { timeout 60 redis-cli -p "$1" info | tr -d '\r' | sed -n "s/^$2://p"; }

start_ours()
{
    : >"$work/ours.log"         # looked at before the server has opened it
    timeout -s KILL 1800 "$server" --port 0 --size $((mib * 9 / 8 + 64))M --file "$work/ours.img" \
        >"$work/ours.log" 2>&1 &
    for delay in 0.05 0.1 0.2 0.5 1 2 5; do
        sleep $delay
        ready=$(sed -n 's/.*process \([0-9]*\) is ready on 127\.0\.0\.1:\([0-9]*\),.*/\1 \2/p' "$work/ours.log")
        our_pid=${ready% *} our_port=${ready#* }
        test -z "$ready" || return 0
    done
    die "kvserver does not start: $(cat "$work/ours.log")"
}

start_redis()
{
    for try in 1 2 3 4 5 6 7 8; do
        redis_port=$(awk -v s="$$$try" 'BEGIN { srand(s); print 20000 + int(rand() * 12000) }')
        timeout -s KILL 1800 redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$work" --dbfilename redis.rdb \
            --save '' --appendonly no --rdbcompression no --daemonize no >"$work/redis.log" 2>&1 &
        for delay in 0.1 0.2 0.5 1; do
            sleep $delay
            redis_pid=$(field "$redis_port" process_id 2>/dev/null)
            # somebody else's server may have been there already
            test -n "$redis_pid" && grep -q "^$redis_pid:M .*Ready to accept" "$work/redis.log" && return 0
            redis_pid=
        done
    done
    die "redis-server does not start: $(tail -n 3 "$work/redis.log")"
}

pause_of()
{
    if test "$1" = ours; then field "$our_port" last_pause_usec; else field "$redis_port" latest_fork_usec; fi
}

port_of() { if test "$1" = ours; then echo "$our_port"; else echo "$redis_port"; fi; }

wait_for_save() { timeout 300 "$check" wait "$(port_of "$1")" || die "a save of $1 failed"; }
begin_save() { timeout 300 "$check" bgsave "$(port_of "$1")" || die "$1 refuses to save"; }

# ---- memory: what belongs to nobody else, in MiB. Pages of a memfd count whether mapped or not. ---------

private_of() { awk '/^Pss_Anon/ { n += $2 } END { print int(n / 1024) }' "/proc/$1/smaps_rollup" 2>/dev/null; }

memory_of()
{
    if test "$1" = redis; then
        total=$(private_of "$redis_pid")
        for child in $(cat "/proc/$redis_pid/task/$redis_pid/children" 2>/dev/null); do
            part=$(private_of "$child")
            total=$((total + ${part:-0}))
        done
        echo "$total"
        return
    fi
    blocks=0
    for fd in /proc/"$our_pid"/fd/*; do
        case $(readlink "$fd") in
        /memfd:*) blocks=$((blocks + $(stat -Lc %b "$fd" 2>/dev/null || echo 0))) ;;
        esac
    done
    echo $(($(private_of "$our_pid") + blocks / 2048))
}

is_saving() { test "$(field "$(port_of "$1")" rdb_bgsave_in_progress)" = 1; }
is_before() { test "$(date +%s%N)" -lt "$1"; }

# watch SIDE COMMAND...: "SECONDS MIB" lines to $work/SIDE.memory as long as the command succeeds
watch()
{
    watched=$1 begin=$(date +%s.%N)
    shift
    while :; do
        size=$(memory_of "$watched")
        awk -v a="$begin" -v b="$(date +%s.%N)" -v m="$size" 'BEGIN { printf "%.2f\t%d\n", b - a, m }' \
            >>"$work/$watched.memory"
        "$@" || break
        sleep 0.1
    done
}

peak_of() { cut -f 2 "$work/$1.memory" | sort -n | tail -n 1; }

# ---- numbers ---------------------------------------------------------------------------------------------

put() { echo "$3" >>"$work/$1.$2"; }           # put SIDE CASE NUMBER
from_load() { sed -n "s/.*$1=\([0-9.]*\).*/\1/p" "$work/load"; }
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
greatest() { sort -n "$1" | tail -n 1; }

# ---- what is done to each side ------------------------------------------------------------------------------

first_save()
{
    begin_save "$1"
    wait_for_save "$1"
    put "$1" first "$(pause_of "$1")"
}

later_save()
{
    "$check" load "$(port_of "$1")" "$keys" $value 1 60000 1000 >/dev/null || die "$1 refuses writes"
    start=$(date +%s%N)
    begin_save "$1"
    wait_for_save "$1"
    put "$1" later "$(pause_of "$1")"
    put "$1" save $((($(date +%s%N) - start) / 1000))
}

# The load begins before the save and goes on to its end: what writers notice, and what memory it takes.
loaded_save()
{
    "$check" load "$(port_of "$1")" "$keys" $value $writers 120000 >"$work/load" &
    client=$!
    sleep 1
    rm -f "$work/$1.memory"
    before=$(memory_of "$1")
    begin_save "$1"
    watch "$1" is_saving "$1"
    wait_for_save "$1"
    put "$1" loaded "$(pause_of "$1")"
    kill $client
    wait $client || die "$1 refuses writes"
    put "$1" growth $(($(peak_of "$1") - before))
    put "$1" wait "$(from_load longest_us)"
    put "$1" write "$(from_load per_write_us)"
}

quiet_load()
{
    "$check" load "$(port_of "$1")" "$keys" $value $writers 3000 >"$work/load" || die "$1 refuses writes"
    put "$1" quietwait "$(from_load longest_us)"
    put "$1" quietwrite "$(from_load per_write_us)"
}

# What the clients noticed since this was asked last, to $work/load: a line more, when it is there.
ask_load()
{
    lines=$(wc -l <"$work/all-load")
    kill -USR1 $client || die "the clients are gone"
    until test "$(wc -l <"$work/all-load")" -gt "$lines"; do sleep 0.01; done
    tail -n 1 "$work/all-load" >"$work/load"
}

load_rate() { awk -v t="$(from_load per_write_us)" 'BEGIN { print (t > 0 ? int(1000000 / t) : 0) }'; }

# One of the saves in a row, and the 5 s behind it. What is left to be done after a save falls into those.
save_in_a_row()
{
    rm -f "$work/$1.memory"
    begin_save "$1"
    watch "$1" is_saving "$1"
    wait_for_save "$1"
    ask_load
    pause=$(pause_of "$1") wait=$(from_load longest_us) rate=$(load_rate)
    put "$1" rowpause "$pause"
    put "$1" rowwait "$wait"
    put "$1" rowwrite "$(from_load per_write_us)"
    watch "$1" is_before $(($(date +%s%N) + 5000000000))
    after=$(memory_of "$1")
    ask_load
    put "$1" rowpeak "$(peak_of "$1")"
    put "$1" rowafter "$after"
    put "$1" rowwaitbetween "$(from_load longest_us)"
    put "$1" rowwritebetween "$(from_load per_write_us)"
    printf '%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n' "$1" "$2" "$pause" "$wait" "$(from_load longest_us)" \
        "$(peak_of "$1")" "$after" "$rate" "$(load_rate)" >>"$work/saves.tsv"
}

saves_in_a_row()
{
    "$check" load "$(port_of "$1")" "$keys" $value $writers 1700000 >"$work/all-load" &
    client=$!
    sleep 2
    ask_load
    for number in $(seq 1 "$saves"); do
        now "save in a row, $1, $number of $saves"
        save_in_a_row "$1" "$number"
    done
    kill $client
    wait $client || die "$1 refuses writes"
}

now "starting both servers"
start_ours
start_redis
for side in ours redis; do
    now "filling $side with $mib MiB"
    timeout 600 "$check" fill "$(port_of $side)" $keys $value || die "$side cannot be filled"
done
for side in ours redis; do
    now "first save, $side"
    first_save $side
done
for round in $(seq 1 "$rounds"); do
    for side in ours redis; do
        now "save after 1000 writes, $side, $round of $rounds"
        later_save $side
    done
done
for side in ours redis; do
    now "writing, $side"
    quiet_load $side
done
for round in $(seq 1 "$rounds"); do
    for side in ours redis; do
        now "save while $writers clients write, $side, $round of $rounds"
        loaded_save $side
    done
done
printf '# side\tsave\tpause_us\twait_us\twait_between_us\tpeak_mib\tafter_5s_mib\twrites_per_s\twrites_per_s_between\n' \
    >"$work/saves.tsv"
if test "$saves" -gt 0; then
    for side in ours redis; do
        saves_in_a_row $side
    done
fi
now "checking what was saved"
timeout 60 redis-cli -p "$our_port" shutdown nosave >/dev/null 2>&1
timeout 60 redis-cli -p "$redis_port" shutdown nosave >/dev/null 2>&1
test "$(stat -c %s "$work/ours.img")" -gt $((mib << 20)) || die "the saved image is too small"
test -t 2 && printf '\r\033[K' >&2

# ---- results --------------------------------------------------------------------------------------------------

results=$work/results.tsv
row()               # NAME CASE HOW PEER TARGET; nothing if that was not measured
{
    test -s "$work/ours.$2" || return 0
    awk -v name="$1" -v a="$($3 "$work/ours.$2")" -v b="$($3 "$work/redis.$2")" -v peer="$4" -v target="$5" 'BEGIN {
        ratio = a > 0 ? b / a : 0
        verdict = target == "-" ? "-" : ratio >= target ? "ok" : "short"
        printf "%s\t%.3f\t%s\t%.3f\t%.3f\t%s\t%s\t-\t-\t-\t-\n", name, a, peer, b, ratio, target, verdict
    }' >>"$results"
}
{
    echo "# $(uname -sr) $(uname -m), $(getconf _NPROCESSORS_ONLN) CPUs; $mib MiB in $keys keys;" \
        "$(redis-server --version | cut -d ' ' -f 1-3)"
    printf '# name\tours_us\tpeer\tpeer_us\tratio\ttarget\tverdict\tour_faults\tpeer_faults\tour_calls\tpeer_calls\n'
} >"$results"
row "pause of BGSAVE, the first one" first median "redis fork" 5
row "pause of BGSAVE, 1000 keys written before" later median "redis fork" 5
row "pause of BGSAVE, $writers clients writing" loaded median "redis fork" -
row "longest wait of a client, no save" quietwait greatest "redis" -
row "longest wait of a client, BGSAVE meanwhile" wait greatest "redis" -
row "time per write, no save" quietwrite median "redis" -
row "time per write, BGSAVE meanwhile" write median "redis" -
row "BGSAVE to its end" save median "redis" -
row "memory growth of BGSAVE under writes, MiB" growth greatest "redis" -
row "pause, $saves saves in a row, median" rowpause median "redis fork" -
row "pause, $saves saves in a row, longest" rowpause greatest "redis fork" -
row "wait of a client, $saves saves, longest" rowwait greatest "redis" -
row "wait of a client, between them, longest" rowwaitbetween greatest "redis" -
row "time per write, $saves saves" rowwrite median "redis" -
row "time per write, between them" rowwritebetween median "redis" -
row "memory, $saves saves, peak, MiB" rowpeak greatest "redis" -
row "memory, 5 s after a save, MiB" rowafter greatest "redis" -

awk -F '\t' '/^# name/ { next } /^#/ { print substr($0, 3); next }
!heading {
    printf "\n%-46s %14s  %-12s %14s", "microseconds unless it says MiB", "kvserver", "peer", "peer"
    printf " %9s %7s\n", "ratio", "target"
    heading = 1
}
{ printf "%-46s %14.2f  %-12s %14.2f %9.2f %7s %s\n", $1, $2, $3, $4, $5, $6, $7 == "-" ? "" : $7 }' "$results"

if test -n "$plots"; then
    if command -v gnuplot >/dev/null; then
        gnuplot -e "from='$work'; to='$plots'" "$(dirname "$0")/bgsave.gp" || die "the plot failed"
    else
        echo "bgsave.sh: no gnuplot, no plot" >&2
    fi
fi
if test "$saves" -gt 0; then
    echo
    cat "$work/saves.tsv"
fi
if test -n "$keep"; then
    cp "$results" "$keep" || die "the results cannot be kept"
    test "$saves" = 0 || cp "$work/saves.tsv" "$keep.saves" || die "the results cannot be kept"
fi
