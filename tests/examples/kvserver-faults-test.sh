#!/bin/sh
# SPDX-License-Identifier: MIT
# The key-value server of doc/examples among files, clients and systems that mean no good: it lets no damaged file in,
# keeps what it needs to save and to stop, and loses nothing that it acknowledged. TAP. Loopback only, everything bounded.
#
# KVSERVER_SEED: of the random damage; default: another each time.

. "$(dirname "$0")/kvserver.sh"
seed=${KVSERVER_SEED:-$(date +%s)}
case $0 in /*) here=$(dirname "$0") ;; *) here=$PWD/$(dirname "$0") ;; esac

# The order of bytes in a number, here and so in the files.
case $(printf '\001\000' | od -An -tu2 | tr -d ' ') in
1) order=little ;;
*) order=big ;;
esac

# randoms COUNT LIMIT: numbers below the limit
randoms()
{
    seed=$((seed + 1))
    awk -v n="$1" -v limit="$2" -v seed="$seed" 'BEGIN { srand(seed); while (n-- > 0) print int(rand() * limit) }'
}

# change FILE OFFSET: turns one byte over
change()
{
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf "\\$(printf %03o $((byte ^ 85)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# put FILE OFFSET NUMBER: in eight bytes, the lowest or the highest first, as the file has it
put()
{
    low= k=0 number=$3
    while test $k -lt 8; do
        digit="\\$(printf %03o $((number & 255)))"
        if test "$order" = little; then low=$low$digit; else low=$digit$low; fi
        number=$((number >> 8)) k=$((k + 1))
    done
    printf "$low" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# refuses FILE WORDS: a server does not begin to serve, says why, and names the file
refuses()
{
    timeout 20 "$server" --port 0 --size 16M --file "$1" >"$work/said" 2>&1 </dev/null
    status=$?
    cat "$work/said"
    test $status = 1 && grep -q -e "$2" "$work/said" && grep -q -F "$1" "$work/said"
}

# ---- files. The layout is that of doc/examples/kv/kvserver.h. ------------------------------------------

version_at=12 size_at=16 buckets_at=24 table_at=32 unused_at=40 shards_at=48 checksum_at=51248
free_at=$((shards_at + 32)) next_at=$((shards_at + 16))

# An image with entries and free blocks of several sizes, some of which expire: $work/good, and its used bytes.
make_good()
{
    start "$work/good" --size 2M && timeout 60 "$check" fill "$port" 1500 100 || return
    {
        k=0
        while test $k -lt 300; do
            printf '> DEL key:%012d\n1\n> SET key:%012d %0*d\nOK\n' $k $((k + 300)) $((k * 7)) 0
            k=$((k + 1))
        done
        printf '> EXPIRE key:000000000700 10000\n1\n> DEL key:000000000500\n1\n'
    } | holds && used=$(info image_used) && stop
}

whole_file()
{
    size=$(wc -c <"$work/good")
    start "$work/good" && says '> DBSIZE
1199' && stop || return
    # The server has saved it again: the checksum covers every used byte.
    echo "seed $seed"
    for at in 0 8 11 12 16 24 32 40 48 60 $free_at 51247 $checksum_at 51255 $((used - 1)) \
        $(randoms 15 51000) $(randoms 15 "$used"); do
        cp "$work/good" "$work/bad" && change "$work/bad" "$at" && echo "byte $at" && refuses "$work/bad" 'cannot use' ||
            return
    done
    for length in 0 1 8 100 51247 51256 1048576 "$used" $((size - 4096)) $((size - 1)); do
        head -c "$length" "$work/good" >"$work/bad" && echo "length $length" && refuses "$work/bad" 'cannot use' || return
    done
    swapped='\001\002\003\004'
    test $order = little || swapped='\004\003\002\001'
    cp "$work/good" "$work/bad" && printf $swapped | dd of="$work/bad" bs=1 seek=8 conv=notrunc status=none &&
        refuses "$work/bad" 'byte order' || return
    cp "$work/good" "$work/bad" && printf x >>"$work/bad" && refuses "$work/bad" 'longer' &&
        head -c "$size" /dev/zero >"$work/bad" && refuses "$work/bad" 'not a data set' &&
        echo 'not an image' >"$work/bad" && refuses "$work/bad" 'not a data set' &&
        { printf '\211MSDELT\n' && head -c 100000 /dev/urandom; } >"$work/bad" && refuses "$work/bad" 'not a data set' &&
        : >"$work/bad" && refuses "$work/bad" 'empty' && refuses "$work" 'not a regular file' &&
        mkfifo "$work/fifo" && refuses "$work/fifo" 'not a regular file' && refuses "$work/no/such" 'No such file' &&
        ln -s "$work/nowhere" "$work/dangling" && refuses "$work/dangling" 'leads nowhere' && refuses /dev/null 'cannot'
}

# The former format: no checksum, and nothing expires.
make_former()
{
    cp "$work/former.img" "$1" && put "$1" $checksum_at 0 &&
        case $order in
        little) printf '\001' | dd of="$1" bs=1 seek=$version_at conv=notrunc status=none ;;
        *) printf '\001' | dd of="$1" bs=1 seek=$((version_at + 3)) conv=notrunc status=none ;;
        esac
}

former_file()
{
    start "$work/former.img" --size 2M && timeout 60 "$check" fill "$port" 1500 200 && says '> DEL key:000000001400 key:000000000003
2
> SET key:000000001400 x
OK' && stop && make_former "$work/former" || return
    start "$work/former" && says '> DBSIZE
1499
> GET key:000000001400
x
> EXPIRE key:000000001400 1000
1' && stop && start "$work/former" && says '> TTL key:000000001400
< 900 1000' && stop || return
    # Of a version to come
    cp "$work/good" "$work/bad" && change "$work/bad" $version_at && refuses "$work/bad" 'version'
}

# Without a checksum only the structure can tell: whatever is let in must be harmless. Damage to a value is not seen.
structure()
{
    echo "seed $seed"
    make_former "$work/former" && start "$work/former" && stop && make_former "$work/former" && first=$(od -An -tu8 -j $((next_at)) -N 8 "$work/former" | tr -d ' ') || return
    size=$(wc -c <"$work/former")
    for value in 7 8 51264 $((first - 8)) $((size - 8)) "$size" $((1 << 40)); do
        make_former "$work/bad" && put "$work/bad" $free_at $value && echo "free list at $value" &&
            refuses "$work/bad" 'cannot use' || return
    done
    make_former "$work/bad" && put "$work/bad" $next_at 64 && refuses "$work/bad" 'cannot use' &&
        make_former "$work/bad" && put "$work/bad" $unused_at $((size + 8)) && refuses "$work/bad" 'cannot use' &&
        make_former "$work/bad" && put "$work/bad" $unused_at $((first - 64)) && refuses "$work/bad" 'cannot use' &&
        make_former "$work/bad" && put "$work/bad" $buckets_at 64 && refuses "$work/bad" 'cannot use' &&
        make_former "$work/bad" && put "$work/bad" $table_at 51272 && refuses "$work/bad" 'cannot use' &&
        make_former "$work/bad" && put "$work/bad" $shards_at 100000 && refuses "$work/bad" 'cannot use' || return
    table=$((51264 + 8192 * 8)) let_in=0
    for at in $(randoms 12 51264) $(randoms 10 $table) $(randoms 10 400000 | awk -v t=$table '{ print t + $1 }'); do
        make_former "$work/bad" && change "$work/bad" "$at" || return
        if start "$work/bad" >"$work/said"; then
            timeout 60 "$talk" workout "$port" "$seed" && timeout 60 "$check" wait "$port" && stop ||
                { echo "byte $at: let in, and then it ended"; return 1; }
            let_in=$((let_in + 1))
        else
            grep -q 'cannot use' "$work/said" || { echo "byte $at"; cat "$work/said"; return 1; }
        fi
    done
    echo "$let_in were let in"
}

locked()
{
    start "$work/one.img" && says '> SET a 1
OK' && ln -s "$work/one.img" "$work/link.img" && mkdir "$work/sub" || return
    # There is no file yet, but whose it will be is clear.
    refuses "$work/one.img" "another server (process $pid) uses .*give another --file" || return
    says '> SAVE
OK' || return
    for name in "$work/one.img" "$work/sub/../one.img" "$work/link.img"; do
        timeout 20 "$server" --port 0 --file "$name" >"$work/said" 2>&1
        test $? = 1 && grep "process $pid) uses $work/one.img " "$work/said" || { cat "$work/said"; return 1; }
    done
    (cd "$work" && timeout 20 "$server" --port 0 --file one.img 2>&1) | grep "uses $work/one.img" || return
    # Whoever is refused leaves the lock alone; whoever stops takes it along; who is killed leaves it, without effect.
    test -e "$work/one.img.lock" && stop && test ! -e "$work/one.img.lock" && start "$work/link.img" && kill_server &&
        test -e "$work/one.img.lock" && test -L "$work/link.img" && start "$work/one.img" && says '> GET a
1'
}

# ---- clients ------------------------------------------------------------------------------------------------

# Whatever is quoted, each command has one reply.
forged()
{
    start "$work/forged.img" && holds <<'END'
> nosuch\r\n+forged
~ ERR unknown command 'nosuch  +forged'*
> nosuch a\r\n$6\r\nforged b\r\n+forged
~ ERR unknown command 'nosuch'*
> \r\n \r\n
~ ERR unknown command*
> EXPIRE a 1 X\r\n+forged
~ ERR Unsupported option X*
> CLIENT SETNAME a\r\n+forged
~ ERR Client names*
> CLIENT SETINFO LIB-NAME a\r\n+forged
~ ERR lib-name*
> CLIENT \r\n+forged
~ ERR unknown subcommand*
> HELLO 2 SETNAME a\r\n+forged
~ ERR Client names*
> HELLO 2\r\n+forged
~ ERR Protocol version*
> SET a 1 EX\r\n+forged 1
ERR syntax error
> SELECT \r\n+forged
~ ERR value*
> CONFIG \r\n+forged
~ ERR CONFIG*
> COMMAND \r\n+forged
~ ERR COMMAND*
> PING
PONG
END
    test $? = 0 || return
    # A page in a browser may make it send such lines.
    printf 'POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nSET forged 1\r\n' | timeout 20 "$talk" raw "$port" >"$work/said"
    test ! -s "$work/said" && says '> EXISTS forged
0' && field_reaches protocol_errors 1 && grep 'speaks HTTP' "$work/log"
}

# breaks REQUEST WORDS: the request is answered with an error that has these words, and the connection is closed
breaks()
{
    printf "$1" | timeout 20 "$talk" raw "$port" >"$work/said" && cat -A "$work/said" &&
        head -n 1 "$work/said" | grep -q -e "^-ERR Protocol error: .*$2" && test "$(wc -l <"$work/said")" = 1
}

malformed()
{
    start "$work/malformed.img" && breaks '*1\r\n$x\r\nPING\r\n' 'bulk length' && breaks '*1\r\n$-5\r\nPING\r\n' bulk &&
        breaks '*1\r\n$67108865\r\n' bulk && breaks '*1\r\n$99999999999999999999\r\n' bulk &&
        breaks '*1\r\n$000000000000000000000000000000000000000' bulk && breaks '*65537\r\n' multibulk &&
        breaks '*x\r\n' multibulk && breaks '*1\r\n+PING\r\n' 'expected' && breaks '*1\r\n$4\r\nPINGxx*1\r\n' 'as long' || return
    { printf '*3\r\n$3\r\nSET\r\n$1100000\r\n' && head -c 1100000 /dev/zero && printf '\r\n$67108864\r\n'; } |
        timeout 20 "$talk" raw "$port" | grep 'invalid bulk length' || return
    head -c 70000 /dev/zero | tr '\0' a | timeout 20 "$talk" raw "$port" | grep 'too big inline' || return
    # What comes after the error is not run, and these are fine.
    printf '*x\r\nSET a 1\r\n' | timeout 20 "$talk" raw "$port"
    printf '*0\r\n*-1\r\n\r\nPING\n  PING   one \r\n*1\r\n$4\r\nPING\r\n' | timeout 20 "$talk" raw "$port" >"$work/said"
    test "$(tr -d '\r' <"$work/said" | tr '\n' ' ')" = '+PONG $3 one +PONG ' && says '> EXISTS a
0' && field_reaches protocol_errors 11
}

# The end of a client's requests is not the end of its interest in the replies.
half_closed()
{
    start "$work/half.img" && head -c 2000000 /dev/zero | tr '\0' v >"$work/value" &&
        { printf '*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$2000000\r\n' && cat "$work/value" && printf '\r\n'; } |
            timeout 20 "$talk" raw "$port" && { for k in 1 2 3 4 5 6 7 8; do printf 'GET big\r\n'; done; } |
            timeout 60 "$talk" raw "$port" | wc -c >"$work/said" && cat "$work/said" &&
        test "$(cat "$work/said")" = $((8 * (10 + 2000000 + 2))) || return
    yes PING | head -n 200000 | timeout 60 "$talk" raw "$port" | wc -l >"$work/said"
    test "$(cat "$work/said")" = 200000 && timeout 60 "$talk" drip "$port" 20000 &&
        until_true field_is connected_clients 1
}

# What asks for a field may still be counted: some of the last ten are served. Sets second.
crowd_is_turned_away()
{
    : >"$work/second"
    timeout 60 "$talk" crowd "$port" 200 >"$work/second" &
    second=$!
    until_true grep -e 'refused=19[0-9]' -e 'refused=200' "$work/second"
}

# Fewer are let in than there are descriptors: there are always some for saving, and for stopping.
crowded()
{
    prepare='ulimit -n 128'
    start "$work/crowd.img"
    started=$?
    prepare=true
    test $started = 0 && timeout 60 "$check" fill "$port" 2000 100 || return
    until_true field_is connected_clients 1 && timeout 60 "$talk" crowd "$port" 50 >"$work/first" &
    first=$!
    until_true grep 'served=50 refused=0' "$work/first" && crowd_is_turned_away || return
    kill $second && wait $second
    until_true field_is connected_clients 51 && field_reaches rejected_connections 180 && field_is maxclients 60 &&
        grep 'turned away' "$work/log" && test "$(grep -c 'turned away' "$work/log")" -lt 50 || return
    for k in 1 2 3 4 5 6 7 8; do
        timeout 60 "$check" bgsave "$port" && timeout 60 "$check" wait "$port" && says '> INCR saves
...' || return
    done
    crowd_is_turned_away && stop || return
    kill $first $second 2>/dev/null
    start "$work/crowd.img" && timeout 60 "$check" check-fill "$port" 2000 100 && says '> GET saves
8' && stop || return
    (ulimit -n 40 && timeout 20 "$server" --port 0 --file "$work/crowd.img") >"$work/said" 2>&1
    test $? = 1 && grep 'ulimit -n' "$work/said"
}

# Requests that are never whole, and replies that nobody reads: bounded, given back, and others do not notice.
greedy()
{
    start "$work/greedy.img" --max-buffers 8M --timeout 1 && head -c 1000000 /dev/zero | tr '\0' v >"$work/value" &&
        { printf '*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$1000000\r\n' && cat "$work/value" && printf '\r\n'; } |
            timeout 20 "$talk" raw "$port" || return
    timeout 60 "$talk" hoard "$port" 12 2500000 >"$work/hoard" &
    hoarder=$!
    until_true grep held "$work/hoard" && says '> PING
PONG
> SET small 1
OK' && test "$(info client_buffers)" -le 8388608 && wait $hoarder && cat "$work/hoard" &&
        grep 'closed: -ERR the server.s buffers are full' "$work/hoard" &&
        field_reaches client_query_buffer_limit_disconnections 1 && field_reaches stalled_disconnections 1 &&
        until_true field_is client_buffers 0 || return
    # Who was served and stays connected keeps nothing.
    timeout 60 "$talk" idle "$port" 20 1000000 >"$work/idle" &
    idle=$!
    until_true grep idle=20 "$work/idle" && field_is client_buffers 0 && field_is connected_clients 21 && kill $idle ||
        return
    timeout 60 "$talk" deaf "$port" 12 big 100 >"$work/deaf" &
    deaf=$!
    until_true grep deaf "$work/deaf" && says '> PING
PONG
> GET small
1' && test "$(info client_buffers)" -le 8388608 && until_true field_is client_buffers 0 &&
        field_reaches replies_over_buffer_limit 1 && kill $deaf || return
    # A request, or a reply, that can never fit; what is small passes still.
    { printf '*3\r\n$3\r\nSET\r\n$4\r\nmore\r\n$20000000\r\n' && head -c 20000000 /dev/zero && printf '\r\n'; } |
        timeout 60 "$talk" raw "$port" >"$work/said"
    grep 'buffers are full' "$work/said" || return
    { printf 'MGET' && for k in 1 2 3 4 5 6 7 8 9 10 11 12; do printf ' big'; done && printf '\r\nGET small\r\n'; } |
        timeout 60 "$talk" raw "$port" | tr -d '\r' >"$work/said"
    grep -e '^-ERR the reply does not fit' "$work/said" && test "$(tail -n 1 "$work/said")" = 1
}

# ---- what happens to a server --------------------------------------------------------------------------------------

# unsaved DIRECTORY: a server with an image in it and a key, and no way to save
unsaved()
{
    mkdir "$1" && start "$1/x.img" && says '> SET before 1
OK' && timeout 60 "$check" bgsave "$port" && timeout 60 "$check" wait "$port" && says '> SET after 1
OK' && mv "$1" "$1.away"
}

save_fails()
{
    unsaved "$work/gone" && timeout 60 "$check" bgsave "$port" && ! timeout 60 "$check" wait "$port" &&
        grep "cannot save $work/gone/x.img: .*the file is as it was" "$work/log" && field_is rdb_last_bgsave_status err &&
        field_is failed_saves 1 && says '> SAVE
~ ERR *
> SHUTDOWN
~ ERR Errors trying to SHUTDOWN*
> SET later 1
OK' || return
    kill -TERM "$pid" && kill -HUP "$pid" && until_true field_reaches failed_saves 4 && says '> INCR later
2' && mv "$work/gone.away" "$work/gone" && says '> SAVE
OK' && field_is rdb_last_bgsave_status ok && stop && start "$work/gone/x.img" && says '> MGET before after later
1
1
2' && says '> SHUTDOWN NOSAVE
...' 2>/dev/null
    wait_for_end
}

# Clients that save all the time do not keep the server from stopping.
stops_among_saves()
{
    start "$work/saves.img" || return
    for k in 1 2 3; do
        for k in $(seq 1 300); do printf '> SAVE\n...\n> BGSAVE\n...\n'; done | holds >/dev/null 2>&1 &
    done
    until_true field_reaches captures 10 && stop && grep stopped "$work/log"
}

# Each is sent while somebody saves: what was acknowledged is saved.
signals()
{
    for signal in TERM INT HUP XCPU; do
        start "$work/signal.$signal" && timeout 60 "$check" fill "$port" 3000 100 || return
        timeout 60 "$check" bgsave "$port" && says "> SET signal $signal
OK" && stop $signal || { echo "$signal: status $status"; return 1; }
        grep stopped "$work/log" && start "$work/signal.$signal" && timeout 60 "$check" check-fill "$port" 3000 100 &&
            says "> GET signal
$signal" || return
    done
    # Who says nohup means it.
    wrapper=nohup
    start "$work/nohup.img"
    started=$?
    wrapper=
    test $started = 0 && kill -HUP "$pid" && sleep 0.2 && says '> SET a 1
OK' && stop
}

# Standard error is a pipe that is closed, then one that nobody reads.
deaf_errors()
{
    mkfifo "$work/errors" && errors=$work/errors || return
    true <"$work/errors" &
    unsaved "$work/closed"
    failed=$?
    errors=$work/log
    test $failed = 0 && says '> SHUTDOWN
~ ERR *' && says '> SHUTDOWN
~ ERR *' && mv "$work/closed.away" "$work/closed" && stop && start "$work/closed/x.img" && says '> GET after
1' || return
    errors=$work/errors
    sleep 100 <"$work/errors" &
    sleeper=$!
    unsaved "$work/full"
    failed=$?
    errors=$work/log
    test $failed = 0 && for k in $(seq 1 700); do printf '> SHUTDOWN\n~ ERR *\n'; done | holds &&
        mv "$work/full.away" "$work/full" && stop && kill $sleeper && start "$work/full/x.img" && says '> GET after
1'
}

# A limit on the size of files is an error of saving like others.
file_limit()
{
    prepare='ulimit -f 4'
    start "$work/limit.img"
    started=$?
    prepare=true
    if test $started != 0; then
        grep -e 'cannot' "$work/log" "$work/out"
        return
    fi
    says '> SET a 1
OK
> SHUTDOWN
~ ERR *
> GET a
1' && field_reaches failed_saves 1
}

# A file system that is full: the file is as it was, the server goes on.
full_disk()
{
    disk=$work/disk
    mkdir "$disk" && wrapper=$work/on-small-disk
    start "$disk/x.img"
    started=$?
    wrapper=
    test $started = 0 && timeout 60 "$check" fill "$port" 1000 300 && says '> SAVE
OK' && cp "/proc/$pid/root$disk/x.img" "$work/copy" && timeout 60 "$check" fill "$port" 20000 300 || return
    says '> SAVE
~ ERR *
> SET a 1
OK' && cat "$work/log" && grep 'cannot save.*No space' "$work/log" && field_is failed_saves 1 &&
        cmp "/proc/$pid/root$disk/x.img" "$work/copy" && kill -TERM "$pid" && until_true field_is failed_saves 2 &&
        timeout 60 "$check" check-fill "$port" 20000 300
}

small_disk()
{
    cat >"$work/on-small-disk" <<END
#!/bin/sh
exec unshare -rm sh -c 'mount -t tmpfs -o size=3m none "$work/disk" && exec "\$0" "\$@"' "\$@"
END
    chmod +x "$work/on-small-disk"
    mkdir -p "$work/disk"
    if ! test -e /proc/self/root; then
        skip 'a disk that is full: the file is as it was' 'without /proc its file cannot be looked at'
    elif "$work/on-small-disk" true 2>"$work/said"; then
        rmdir "$work/disk"
        result 'a disk that is full: the file is as it was' full_disk
    else
        skip 'a disk that is full: the file is as it was' "no file system can be mounted: $(head -n 1 "$work/said")"
    fi
}

# Where 127.0.0.1 cannot be reached the tests say so.
no_loopback()
{
    what='without loopback the tests are skipped'
    if ! unshare -rn true 2>/dev/null; then
        skip "$what" 'no network namespaces'
        return
    fi
    result "$what" skipped_alone
}

skipped_alone()
{
    for script in kvserver-test.sh kvserver-faults-test.sh; do
        KVSERVER=$server timeout 60 unshare -rn sh "$here/$script" >"$work/said" 2>&1
        status=$?
        cat "$work/said"
        test $status = 0 && grep '^1\.\.0 # SKIP no connection to 127.0.0.1' "$work/said" || return
    done
}

echo 1..17
result 'a file to damage' make_good
result 'damaged files, cut files and files of other kinds are refused' whole_file
result 'a file of the former format is loaded' former_file
result 'damaged structure without a checksum: refused, or harmless' structure
result 'one server for a file' locked
result 'no reply can be forged' forged
result 'what is no request is told so, and not run' malformed
result 'replies after the last request, many at once, a byte at a time' half_closed
result 'a crowd takes no descriptor that saving or stopping needs' crowded
result 'buffers are bounded and given back' greedy
result 'a save that fails: the server goes on, and says so' save_fails
result 'SIGTERM, SIGINT, SIGHUP and SIGXCPU save and stop' signals
result 'the server stops among clients that save' stops_among_saves
result 'standard error closed, or never read' deaf_errors
result 'a limit on the size of files' file_limit
small_disk
no_loopback
