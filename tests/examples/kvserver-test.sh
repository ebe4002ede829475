#!/bin/sh
# SPDX-License-Identifier: MIT
# The key-value server of doc/examples: does it speak the protocol, is what BGSAVE writes a consistent cut of what it
# acknowledged, and does a kill in the middle leave the old file or the new one? TAP. Loopback only, everything bounded.
# kvserver-faults-test.sh is about files, clients and systems that mean no good.

writers=4 saves=6
. "$(dirname "$0")/kvserver.sh"

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

# redis-benchmark asks for everything that Redis has. What there is here runs; the rest is refused by name, and
# redis-benchmark ends with that.
whole_benchmark()
{
    for name in ping_inline ping_mbulk set get incr mset; do
        timeout 60 redis-benchmark -p "$port" -q -t $name -n 1000 -c 10 -P 4 >"$work/bench" 2>&1 &&
            grep -q 'requests per second' "$work/bench" && ! grep -i error "$work/bench" || return
    done
    for name in lpush rpush lpop rpop sadd hset spop zadd zpopmin lrange_100; do
        timeout 60 redis-benchmark -p "$port" -q -t $name -n 100 -c 10 >"$work/bench" 2>&1
        cat "$work/bench"
        grep -q "ERR unknown command '" "$work/bench" || return
    done
    timeout 60 redis-benchmark -p "$port" -q -n 500 -c 10 >"$work/bench" 2>&1
    grep "Error from server: ERR unknown command 'LPUSH'" "$work/bench" && say PONG ping
}

cli_starts()
{
    printf 'help get\nset started yes\nget started\n' | cli >"$work/said" 2>&1
    cat "$work/said"
    grep 'summary' "$work/said" && grep '^yes' "$work/said" && ! grep -i error "$work/said"
}

redis_tools()
{
    if ! have_redis_tools; then
        for what in protocol start values benchmark everything BGSAVE SHUTDOWN; do
            skip "redis-tools: $what" 'redis-cli and redis-benchmark are not installed'
        done
        return
    fi
    start "$work/cli.img" || { not_ok 'the server starts'; return; }
    result 'redis-cli: every command, and its errors' protocol
    result 'redis-cli: starts, and has help on every command' cli_starts
    result 'redis-cli: large values, and a full data set' big_values
    result 'redis-benchmark: pipelined, without an error' benchmark
    result 'redis-benchmark: all that it knows, run or refused by name' whole_benchmark
    result 'BGSAVE, LASTSAVE, INFO' bgsave
    result 'SHUTDOWN saves, the next start loads' shutdown_and_load
    kill_server
}

# Every image saved under load is loaded by a server of its own and compared with the log.
cuts()
{
    rm -f "$work"/load.img*
    start "$work/load.img" || return
    timeout 200 "$check" run "$port" $writers $saves "$work/load.img" && take_fields || return
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
        patient "$check" epoch "$port" "$k" || return
        patient "$check" bgsave "$port" || return
        if test $moment = end; then patient "$check" wait "$port" || return; else sleep $moment; fi
        kill_server
        start "$work/kill.img" || return
        old=$(patient "$check" verify-epoch "$port" "$old" "$k") || return
        echo "epoch $k, killed after $moment: found $old"
        kill_server
    done
    test "$old" = "$k" || return
    # The lock file of a server that was killed stays.
    ls -A "$work" | grep kill | grep -v '^kill.img.lock$' >"$work/litter"
    test "$(wc -l <"$work/litter")" -le 1 || { cat "$work/litter"; return 1; }
}

# ---- thawing: after a save the view is as it was before the first one -----------------------------------

unstoppable="$talk unstoppable"     # there threads that store cannot be stopped: it is done under the server's locks

take_fields() { printf 'INFO\r\n' | timeout 60 "$talk" raw "$port" | tr -d '\r' >"$work/fields"; }

# is_thawed LEAST: so many thaws have come to their end, none failed, and nothing is private to the view, unless the
# system does not say what is
is_thawed()
{
    take_fields && grep -q '^thaw_in_progress:0' "$work/fields" && grep -q '^failed_thaws:0' "$work/fields" &&
        grep -q -e '^view_private:0$' -e '^view_dirty_source:compare$' "$work/fields" && test "$(sed -n 's/^thaws://p' "$work/fields")" -ge "$1"
}

has_tried() { take_fields && ! grep -q '^thaws:0' "$work/fields" || ! grep -q '^failed_thaws:0' "$work/fields"; }

cannot_thaw()
{
    start "$work/probe.img" && says '> SAVE
OK' && until_true has_tried >&2 && grep -q '^last_thaw_error:.*not supported' "$work/fields"
}

# thawing DESCRIPTION COMMAND [WRAPPER]
thawing()
{
    wrapper=${3:-}
    if test -n "$wrapper" && ! $wrapper true >/dev/null; then
        skip "$1" 'no system call can be refused'
    elif cannot_thaw; then
        skip "$1" 'stores cannot go into an image'
    else
        result "$1" "$2"
    fi
    wrapper=
}

thawed_again_and_again()
{
    start "$work/thaw.img" --size 64M && timeout 100 "$check" fill "$port" 40000 900 || return
    timeout 200 "$check" load "$port" 40000 900 $writers 200000 >"$work/load" &
    loader=$!
    for k in 1 2 3 4 5; do
        patient "$check" bgsave "$port" && patient "$check" wait "$port" && until_true is_thawed $k || break
        grep -e thaw -e view_ -e pause "$work/fields"
    done
    kill $loader
    wait $loader && cat "$work/load" && is_thawed 5
}

thawed_under_locks() { thawed_again_and_again && field_is last_thaw_live 0; }

# In each image but the first is what was written before, during and after a thaw.
thawed_cuts() { cuts && grep thaw "$work/fields" && grep -q '^thaws:[1-9]' "$work/fields"; }

# A save begins while the view is thawed; the thaw is begun anew.
saved_while_thawing()
{
    start "$work/meanwhile.img" --size 64M && timeout 100 "$check" fill "$port" 40000 900 || return
    for k in 1 2 3 4 5 6; do
        patient "$check" epoch "$port" $k && patient "$check" bgsave "$port" && patient "$check" wait "$port" || return
    done
    until_true is_thawed 1 && kill_server && start "$work/meanwhile.img" &&
        patient "$check" verify-epoch "$port" 6 6 || return
    # A client's SAVE, too, and stopping does not wait for the end of it.
    patient "$check" epoch "$port" 7 && patient "$check" bgsave "$port" && patient "$check" wait "$port" && says '> SAVE
OK' && stop && start "$work/meanwhile.img" && patient "$check" verify-epoch "$port" 7 7 && timeout 60 "$check" check-fill "$port" 40000 900
}

killed_while_thawing()
{
    hit=0
    start "$work/killed.img" --size 64M && timeout 100 "$check" fill "$port" 40000 900 || return
    for k in 1 2 3 4 5; do
        patient "$check" epoch "$port" $k && patient "$check" bgsave "$port" && patient "$check" wait "$port" || return
        test $k = 1 || sleep 0.00$k
        test "$(info thaw_in_progress)" = 0 || hit=$((hit + 1))
        kill_server
        start "$work/killed.img" && patient "$check" verify-epoch "$port" $k $k && timeout 60 "$check" check-fill "$port" 40000 900 || return
    done
    echo "$hit of 5 times it was still thawing"
}

misuse()
{
    for options in '--size 1' '--size 1T' --port '--port 65536' '--nosuch 1' '--threads 0' '--max-clients 0' \
        '--max-buffers x' '--timeout -1'; do
        ! timeout 20 "$server" $options >"$work/said" 2>&1 || return
        grep -e "${options%% *}" "$work/said" || return
    done
    "$server" --help | grep -e '--max-clients'
}

strings()
{
    start "$work/commands.img" && holds <<'END'
> SET a 1
OK
> GET a
1
> GET none
(nil)
> SET a 2 NX
(nil)
> SET b 2 NX
OK
> SET c 3 XX
(nil)
> SET b 3 XX GET
2
> SET none 1 XX GET
(nil)
> SET b 4 NX GET
3
> GET b
3
> SET a 1 EX
ERR syntax error
> SET a 1 NX XX
ERR syntax error
> SET a 1 EX 10 PX 10
ERR syntax error
> SET a 1 EX 10 KEEPTTL
ERR syntax error
> SET a 1 EX 0
ERR invalid expire time in 'set' command
> SET a 1 EX -5
ERR invalid expire time in 'set' command
> SET a 1 EX 9223372036854775807
ERR invalid expire time in 'set' command
> SET a 1 EX x
ERR value is not an integer or out of range
> SET a
ERR wrong number of arguments for 'set' command
> MSET a 1 b 2 c 3 a 4
OK
> MGET a b none c
4
2
(nil)
3
> MSET a 1 b
ERR wrong number of arguments for 'mset' command
> INCR a
5
> INCRBY a -10
-5
> DECR a
-6
> DECRBY a 4
-10
> INCR fresh
1
> DECRBY fresh -9223372036854775808
ERR decrement would overflow
> INCRBY a x
ERR value is not an integer or out of range
> SET n 9223372036854775807
OK
> INCR n
ERR increment or decrement would overflow
> SET n -9223372036854775808
OK
> DECR n
ERR increment or decrement would overflow
> SET word 12x
OK
> INCR word
ERR value is not an integer or out of range
> SET word 007
OK
> INCR word
ERR value is not an integer or out of range
> SET word -0
OK
> INCR word
ERR value is not an integer or out of range
> SET word -
OK
> INCR word
ERR value is not an integer or out of range
> APPEND word abc
4
> APPEND word \e
4
> APPEND text 0123456789012345678901234567890123456789
40
> STRLEN text
40
> STRLEN none
0
> GETSET word new
-abc
> GETSET none there
(nil)
> GETDEL none
there
> GETDEL none
(nil)
> SETNX word x
0
> SETNX none x
1
> EXISTS a a none nosuch
3
> TYPE a
string
> TYPE nosuch
none
> DEL a a nosuch
1
> UNLINK b c nosuch
2
> SET \e \e
OK
> GET \e
\e
> SET line a\r\nb
OK
> STRLEN line
4
END
}

expiry()
{
    now=$(date +%s)
    start "$work/expiry.img" && holds <<END
> SET a 1 EX 100
OK
> TTL a
< 99 100
> PTTL a
< 90000 100000
> TTL none
-2
> PTTL none
-2
> INCR a
2
> APPEND a 0
2
> TTL a
< 95 100
> SET a 1 KEEPTTL
OK
> TTL a
< 95 100
> GETSET a 1
1
> TTL a
-1
> EXPIRE a 50
1
> TTL a
< 45 50
> EXPIRE a 60 NX
0
> EXPIRE a 60 LT
0
> EXPIRE a 70 GT
1
> TTL a
< 65 70
> EXPIRE a 70 GT LT
~ ERR NX and XX*
> EXPIRE a 70 SOON
ERR Unsupported option SOON
> EXPIRE a x
ERR value is not an integer or out of range
> EXPIRE a 9223372036854775807
ERR invalid expire time in 'expire' command
> PERSIST a
1
> PERSIST a
0
> EXPIRE a 60 XX
0
> EXPIRE a 60 GT
0
> EXPIRE none 60
0
> PEXPIRE a 60000
1
> TTL a
< 55 60
> EXPIREAT a $((now + 500))
1
> TTL a
< 450 500
> EXPIRETIME a
$((now + 500))
> PEXPIREAT a $((now + 600))123
1
> PEXPIRETIME a
$((now + 600))123
> PEXPIRETIME none
-2
> SET a 1
OK
> EXPIRETIME a
-1
> EXPIRE a 0
1
> EXISTS a
0
> SETEX b 100 v
OK
> TTL b
< 95 100
> PSETEX b 100000 v
OK
> PTTL b
< 95000 100000
> SETEX b 0 v
ERR invalid expire time in 'setex' command
> MSET b 1
OK
> TTL b
-1
> SET past x EXAT 1000
OK
> GET past
(nil)
> SET soon x PX 30
OK
! 60
> GET soon
(nil)
> SET soon x PX 1
OK
! 20
> SET soon y NX
OK
> SET soon x PX 1
OK
! 20
> INCR soon
1
> TTL soon
-1
> SET soon x PX 1
OK
! 20
> APPEND soon y
1
> DEL soon
1
> SET soon x PX 1
OK
! 20
> DEL soon
0
END
}

# What lives on is in the file with its time; what expired unseen goes without anybody asking for it.
expiry_is_saved()
{
    start "$work/lives.img" && says '> MSET forever 1 long 2 short 3
OK
> EXPIRE long 1000
1
> PEXPIRE short 400
1' && stop && sleep 0.4 && start "$work/lives.img" && says '> TTL long
< 900 1000
> TTL forever
-1
> GET short
(nil)
> MGET forever long
1
2' || return
    for key in $(seq 1 500); do
        printf '> SET unseen:%s 12345678901234567890 PX 200\nOK\n' "$key"
    done | holds && until_true field_is db0 keys=2,expires=1 && field_reaches expired_keys 501
}

scanning()
{
    start "$work/scan.img" && holds <<'END' || return
> MSET user:1 a user:2 b user:10 c other d [x] e
OK
> KEYS user:?
~ user:[12]
~ user:[12]
> KEYS user:*0
user:10
> KEYS \\[x]
[x]
> KEYS [^u]*er
other
> KEYS [a-o]*
other
> KEYS *e*e*1*
~ (empty)
> KEYS *s*r*1
user:1
> KEYS
ERR wrong number of arguments for 'keys' command
> SCAN x
ERR invalid cursor
> SCAN 0 MATCH
ERR syntax error
> SCAN 0 COUNT 0
ERR syntax error
> SCAN 0 COUNT x
ERR value is not an integer or out of range
> SCAN 0 TYPE list
0
(empty)
> SCAN 99999999999
0
(empty)
> DBSIZE
5
> FLUSHALL NOW
ERR syntax error
> FLUSHALL ASYNC
OK
> DBSIZE
0
> KEYS *
(empty)
> SET again 1
OK
> FLUSHDB
OK
> GET again
(nil)
END
    timeout 60 "$check" fill "$port" 3000 20 || return
    # Every key, by any COUNT, once: nothing is written meanwhile.
    for count in 1 100 100000; do
        timeout 60 "$talk" scan "$port" $count >"$work/keys" && test "$(sort -u "$work/keys" | wc -l)" = 3000 &&
            test "$(wc -l <"$work/keys")" = 3000 || return
    done
    # A full flush gives all room back, and it is filled again.
    says '> FLUSHALL
OK' && timeout 60 "$check" fill "$port" 3000 3000 && says '> FLUSHALL
OK' && timeout 60 "$check" fill "$port" 30000 100 && stop && start "$work/scan.img" &&
        timeout 60 "$check" check-fill "$port" 30000 100
}

connections()
{
    start "$work/clients.img" --max-clients 77 && holds <<'END'
> PING
PONG
> PING hello
hello
> PING a b
ERR wrong number of arguments for 'ping' command
> ECHO x
x
> SELECT 0
OK
> SELECT 1
~ ERR DB index is out of range*
> SELECT x
ERR value is not an integer or out of range
> HELLO
server
kvserver
version
~ [0-9]*.[0-9]*
proto
2
...
> HELLO 3
~ NOPROTO *
> HELLO x
~ ERR Protocol version is not an integer*
> HELLO 2 AUTH a b
~ ERR *
> HELLO 2 SETNAME greeter
server
...
> CLIENT GETNAME
greeter
> CLIENT ID
< 1 1000
> CLIENT SETNAME me
OK
> CLIENT SETNAME a\sb
~ ERR Client names cannot contain spaces*
> CLIENT SETNAME 1234567890123456789012345678901234567890123456789012345678901234
~ ERR Client names cannot be longer*
> CLIENT GETNAME
me
> CLIENT SETINFO LIB-NAME lib
OK
> CLIENT SETINFO LIB-VER 1.2
OK
> CLIENT SETINFO LIB-AGE 1
~ ERR Unrecognized option*
> CLIENT LIST
~ id=* addr=127.0.0.1:* name=me * db=0 * lib-name=lib lib-ver=1.2 resp=2*
> CLIENT INFO
~ id=* name=me *
> CLIENT SETNAME \e
OK
> CLIENT GETNAME
(nil)
> CLIENT NOSUCH
~ ERR unknown subcommand*
> CONFIG GET maxclients
maxclients
77
> CONFIG GET save appendonl?
appendonly
no
save
\e
> CONFIG GET nosuch
(empty)
> CONFIG SET save x
~ ERR CONFIG knows*
> COMMAND COUNT
< 40 200
> COMMAND INFO get nosuch
get
2
readonly
fast
1
1
1
(nil)
> COMMAND DOCS get
get
summary
~ *
group
string
> COMMAND DOCS nosuch
(empty)
> TIME
< 1000000000 9999999999
< 0 999999
> INFO keyspace
~ # Keyspace*
> SET a 1 EX 1000
OK
> INFO keyspace
~ # Keyspace*db0:keys=1,expires=1*
> INFO nosuch
\e
> INFO server clients
~ # Server*# Clients*connected_clients:1*
> INFO stats
~ # Stats*total_commands_processed:[1-9]*total_error_replies:[1-9]*
> SAVE
OK
> LASTSAVE
< 1000000000 9999999999
> BGSAVE NOW
ERR syntax error
> SHUTDOWN NOW
ERR syntax error
> QUIT
OK
END
}

# Also in what is saved, while the clients write.
together()
{
    start "$work/together.img" || return
    timeout 60 "$talk" together "$port" 600 >"$work/said" &
    looker=$!
    for k in 1 2 3; do
        timeout 60 "$check" bgsave "$port" && timeout 60 "$check" wait "$port" &&
            cp "$work/together.img" "$work/together.$k" || return
    done
    wait $looker || { cat "$work/said"; return 1; }
    cat "$work/said"
    for k in 1 2 3; do
        start "$work/together.$k" && timeout 60 "$talk" together "$port" 0 || return
    done
}

odd_size()
{
    start "$work/odd.img" --size 1234567 && timeout 60 "$check" fill "$port" 2000 300 && stop &&
        test "$(wc -c <"$work/odd.img")" = 1234567 && start "$work/odd.img" &&
        timeout 60 "$check" check-fill "$port" 2000 300
}

# Room can be made in a full data set: values become shorter, expiry goes, keys are removed.
full()
{
    long=$(head -c 2000 /dev/zero | tr '\0' x)
    start "$work/full.img" --size 1M && ! timeout 60 "$check" fill "$port" 20000 100 && says "> SET new $long
~ OOM the data set is full*
> EXISTS new
0
> STRLEN key:000000000002
100
> APPEND key:000000000002 $long
~ OOM the data set is full*
> STRLEN key:000000000002
100
> MSET key:000000000002 short new $long
~ OOM the data set is full*
> STRLEN key:000000000002
100
> SET key:000000000002 $long GET
~ OOM the data set is full*
> STRLEN key:000000000002
100
> SET key:000000000001 short
OK
> EXPIRE key:000000000001 1000
1
> PERSIST key:000000000001
1
> DEL key:000000000002
1" && stop && start "$work/full.img" && says '> GET key:000000000001
short
> EXISTS key:000000000002
0'
}

echo 1..25
redis_tools
result 'SET and its options, MSET, MGET, INCR, APPEND and the like' strings
result 'expiry: set, changed, taken back, and over' expiry
result 'expiry is saved, and what expired goes unasked' expiry_is_saved
result 'KEYS, SCAN, FLUSHALL' scanning
result 'HELLO, SELECT, CLIENT, CONFIG, COMMAND, INFO' connections
result 'MSET and MGET are all or nothing, also in what is saved' together
result 'a size that is no multiple of a page' odd_size
result 'a full data set' full
result "$saves saves under write load: each is one consistent cut" cuts
result 'every value is there after a restart' kept
result "killed 12 times during a save: the old file or the new one, and no litter" killed
thawing 'after each of 5 saves under write load stores go straight into the image again' thawed_again_and_again
thawing 'the same where the server keeps its writers off' thawed_under_locks "$unstoppable"
thawing "$saves saves with thaws between them: each is one consistent cut" thawed_cuts
thawing 'the same where the server keeps its writers off' thawed_cuts "$unstoppable"
thawing 'saved and stopped while thawing' saved_while_thawing "$unstoppable"
thawing 'killed while thawing: the file is the last save' killed_while_thawing "$unstoppable"
result 'options it cannot use are refused' misuse
