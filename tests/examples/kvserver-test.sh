#!/bin/sh
# The key-value server of doc/examples: does it speak the protocol, is what BGSAVE writes a consistent cut of what it
# acknowledged, and does a kill in the middle leave the old file or the new one? TAP. Loopback only, everything bounded.
#
# KVSERVER, KVCHECK: the programs; default: where the build puts them.

server=${KVSERVER:-doc/examples/kvserver}
check=${KVCHECK:-tests/examples/kvcheck}
writers=4 saves=6

for program in "$server" "$check"; do
    if ! test -x "$program"; then
        echo "1..0 # SKIP $program is not built"
        exit 0
    fi
done

work=$(mktemp -d "${TMPDIR:-/tmp}/kvserver-test.XXXXXX") || exit 99
pid= n=0
trap 'cleanup' EXIT
trap 'exit 99' HUP INT TERM

cleanup()
{
    test -z "$pid" || kill_server
    rm -rf "$work"
}

ok() { n=$((n + 1)); echo "ok $n - $1"; }

not_ok()
{
    n=$((n + 1))
    echo "not ok $n - $1"
    sed 's/^/# /' "$work/out" "$work/log" 2>/dev/null
}

skip() { n=$((n + 1)); echo "ok $n - $1 # SKIP $2"; }

# result DESCRIPTION COMMAND...: ok if the command succeeds
result()
{
    what=$1
    shift
    if "$@" >"$work/out" 2>&1; then ok "$what"; else not_ok "$what"; fi
}

# start FILE [OPTION...]: a server on a free port. Sets pid, port and guard, which ends it whatever becomes of us.
start()
{
    file=$1
    shift
    test -z "$pid" || kill_server
    : >"$work/log"
    timeout -s KILL 300 "$server" --port 0 --size 16M --file "$file" "$@" >"$work/log" 2>&1 &
    guard=$!
    for delay in 0.02 0.05 0.1 0.2 0.5 1 1 2 2 3 5 5 10; do
        sleep $delay
        ready=$(sed -n 's/.*process \([0-9]*\) is ready on 127\.0\.0\.1:\([0-9]*\),.*/\1 \2/p' "$work/log")
        pid=${ready% *} port=${ready#* }
        test -z "$ready" || return 0
        kill -0 "$guard" 2>/dev/null || break
    done
    cat "$work/log"
    kill "$guard" 2>/dev/null
    return 1
}

wait_for_end()
{
    wait "$guard"
    status=$?
    pid=
    return $status
}

stop()
{
    kill "$pid"
    wait_for_end
}

kill_server()
{
    { kill -9 "$pid"; wait "$guard"; } 2>/dev/null
    pid=
    true
}

cli() { timeout 60 redis-cli -p "$port" "$@"; }

# say EXPECTED COMMAND...
say()
{
    want=$1
    shift
    got=$(cli "$@")
    test "$got" = "$want" || { echo "$*: $got instead of $want"; return 1; }
}

protocol()
{
    say PONG ping && say hello ping hello && say OK set a 41 && say 42 incr a && say 42 get a && say '' get none &&
        say OK set word abc && say 'ERR value is not an integer or out of range' incr word && say 2 exists a word x &&
        say 2 dbsize && say 1 del a x && say 1 dbsize && say OK set word '' && say '' get word && say 1 exists word &&
        say OK set n 9223372036854775807 && say 'ERR increment or decrement would overflow' incr n &&
        say "ERR unknown command 'nosuch', with args beginning with: " nosuch &&
        say "ERR wrong number of arguments for 'get' command" get &&
        say 2 dbsize
}

big_values()
{
    head -c 3000000 /dev/zero | tr '\0' x >"$work/big"
    test "$(cli -x set big <"$work/big")" = OK && cli get big | head -c 3000000 | cmp - "$work/big" &&
        case $(head -c 15000000 /dev/zero | tr '\0' y | cli -x set huge) in
        *'data set is full'*) say 0 exists huge && say 1 del big ;;
        *) false ;;
        esac
}

benchmark()
{
    timeout 120 redis-benchmark -p "$port" -q -t ping,set,get,incr -n 20000 -r 5000 -c 20 -P 8 >"$work/bench" 2>&1 &&
        ! grep -i -e error -e warning "$work/bench" && test "$(grep -c 'requests per second' "$work/bench")" -ge 5 &&
        test "$(cli dbsize)" -gt 4000
}

bgsave()
{
    before=$(cli lastsave)
    say 'Background saving started' bgsave || return
    for i in 1 2 3 4 5 6 7 8 9 10; do
        cli info persistence | grep -q 'rdb_bgsave_in_progress:0' && break
        sleep 0.5
    done
    cli info persistence | grep -q 'rdb_last_bgsave_status:ok' && test "$(cli lastsave)" -gt "$before" &&
        cli info | grep -q '^last_pause_usec:[0-9]' && test "$(stat -c %s "$work/cli.img")" = 16777216
}

shutdown_and_load()
{
    say OK set survivor yes && keys=$(cli dbsize) && cli shutdown && wait_for_end && start "$work/cli.img" &&
        say yes get survivor && say "$keys" dbsize
}

redis_tools()
{
    if ! command -v redis-cli >/dev/null || ! command -v redis-benchmark >/dev/null; then
        for what in protocol values benchmark BGSAVE SHUTDOWN; do
            skip "redis-tools: $what" 'redis-cli and redis-benchmark are not installed'
        done
        return
    fi
    start "$work/cli.img" || { not_ok 'the server starts'; return; }
    result 'redis-cli: every command, and its errors' protocol
    result 'redis-cli: large values, and a full data set' big_values
    result 'redis-benchmark: pipelined, without an error' benchmark
    result 'BGSAVE, LASTSAVE, INFO' bgsave
    result 'SHUTDOWN saves, the next start loads' shutdown_and_load
    kill_server
}

# Every image saved under load is loaded by a server of its own and compared with the log.
cuts()
{
    start "$work/load.img" || return
    timeout 200 "$check" run "$port" $writers $saves "$work/load.img" || return
    kill_server
    for image in 1 2 3 4 5 6; do
        start "$work/load.img.$image" || return
        timeout 100 "$check" verify "$port" "$work/load.img.$image.log" || return
        kill_server
    done
}

kept()
{
    start "$work/fill.img" && timeout 100 "$check" fill "$port" 20000 300 && stop && start "$work/fill.img" &&
        timeout 100 "$check" check-fill "$port" 20000 300 && stop
}

# The kill comes at a moment that moves through the save and, the last time, after it. Old or new, and whole, is what
# the file must be, whichever of them was reached.
killed()
{
    old=0 k=0
    for moment in 0 0.001 0.002 0.004 0.007 0.01 0.015 0.02 0.03 0.05 0.1 0.2 end; do
        k=$((k + 1))
        start "$work/kill.img" || return
        timeout 100 "$check" epoch "$port" "$k" || return
        timeout 100 "$check" bgsave "$port" || return
        if test $moment = end; then timeout 100 "$check" wait "$port" || return; else sleep $moment; fi
        kill_server
        start "$work/kill.img" || return
        old=$(timeout 100 "$check" verify-epoch "$port" "$old" "$k") || return
        echo "epoch $k, killed after $moment: found $old"
        kill_server
    done
    test "$old" = "$k" || return
    # The lock file of a server that was killed stays.
    ls -A "$work" | grep kill | grep -v '^kill.img.lock$' >"$work/litter"
    test "$(wc -l <"$work/litter")" -le 1 || { cat "$work/litter"; return 1; }
}

refuses()
{
    echo 'not an image' >"$work/bad.img"
    ! "$server" --port 0 --file "$work/bad.img" && ! "$server" --port 0 --file "$work" && ! "$server" --size 1 &&
        ! "$server" --port && ! "$server" --nosuch 1 && "$server" --help
}

echo 1..9
redis_tools
result "$saves saves under write load: each is one consistent cut" cuts
result 'every value is there after a restart' kept
result "killed 12 times during a save: the old file or the new one, and no litter" killed
result 'files and options it cannot use are refused' refuses
