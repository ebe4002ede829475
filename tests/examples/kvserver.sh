# SPDX-License-Identifier: MIT
# What the tests of kvserver have in common; they read it. It ends a test that cannot run, with the reason.
#
# KVSERVER, KVCHECK, KVTALK: the programs; default: where the build puts them.

server=${KVSERVER:-doc/examples/kvserver}
check=${KVCHECK:-tests/examples/kvcheck}
talk=${KVTALK:-tests/examples/kvtalk}

skip_all()
{
    echo "1..0 # SKIP $1"
    exit 0
}

for program in "$server" "$check" "$talk"; do
    test -x "$program" || skip_all "$program is not built"
done
case $server in /*) ;; *) server=$PWD/$server ;; esac
# The wrapper that libtool makes takes ten times as long to start as the server, which is started 200 times.
real=${server%/*}/.libs/${server##*/}
if test -x "$real"; then
    LD_LIBRARY_PATH=$PWD/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
    server=$real
fi
reason=$("$talk" loopback) || skip_all "${reason#kvtalk: }"

work=$(mktemp -d "${TMPDIR:-/tmp}/kvserver-test.XXXXXX") || exit 99
work=$(cd "$work" && pwd -P)
pid= n=0
prepare=true            # run in the shell that becomes the server: limits, signals
errors=$work/log        # where its standard error goes
wrapper=                # a program that runs it
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
    (eval "$prepare" && exec timeout -s KILL 300 $wrapper "$server" --port 0 --size 16M --file "$file" "$@") \
        >>"$work/log" 2>>"$errors" &
    guard=$!
    for delay in 0.01 0.02 0.05 0.1 0.2 0.5 1 1 2 2 3 5 5 10; do
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

# stop [SIGNAL]
stop()
{
    kill "-${1:-TERM}" "$pid"
    wait_for_end
}

kill_server()
{
    { kill -9 "$pid"; wait "$guard"; } 2>/dev/null
    pid=
    true
}

# patient COMMAND...: with a limit of time; if it fails, it says how, and where the server's threads are
patient()
{
    timeout 100 "$@"
    patient_status=$?
    test $patient_status != 0 || return 0
    {
        echo "$*: status $patient_status"
        for task in /proc/"$pid"/task/*; do
            echo "$(cat "$task/comm"): $(sed -n 's/^State:[^a-zA-Z]*//p' "$task/status") $(cat "$task/wchan")"
        done
    } >&2
    return $patient_status
}

# The commands and replies on standard input hold (see kvtalk.c).
holds() { timeout 60 "$talk" script "$port"; }

# says LINES: so does a script given as text
says() { printf '%s\n' "$1" | holds; }

# info NAME: a field of INFO
info() { printf 'INFO\r\n' | timeout 60 "$talk" raw "$port" | tr -d '\r' | sed -n "s/^$1://p"; }

# until_true COMMAND...: waits for it, half a minute at the most
until_true()
{
    for delay in 0.05 0.1 0.2 0.3 0.5 0.5 1 1 1 2 2 3 4 5 10; do
        ! "$@" || return 0
        sleep $delay
    done
    echo "never: $*"
    return 1
}

# field_is NAME VALUE, field_reaches NAME LEAST
field_is() { test "$(info "$1")" = "$2"; }
field_reaches() { test "$(info "$1")" -ge "$2"; }

have_redis_tools() { command -v redis-cli >/dev/null && command -v redis-benchmark >/dev/null; }
