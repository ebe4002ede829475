#!/bin/sh
# SPDX-License-Identifier: MIT
# clang's thread-safety analysis finds nothing in the library, and does find what is wrong on purpose. TAP.
set -u
: "${srcdir:=.}"
tmp=locks.$$
mkdir "$tmp" || exit 99
trap 'rm -rf "$tmp"' EXIT

analyse()       # FILE...
{
    clang -std=gnu11 -fsyntax-only -Wthread-safety -Wthread-safety-beta -Werror -D_GNU_SOURCE -I. -I"$srcdir/lib" -I"$srcdir/include" "$@"
}

n=0
result()        # STATUS WHAT
{
    n=$((n + 1))
    test "$1" = 0 || printf 'not '
    echo "ok $n - $2"
}

if ! clang -fsyntax-only -Wthread-safety-beta -Werror -x c /dev/null 2>/dev/null; then
    echo '1..0 # SKIP no clang'
    exit 0
fi

status=0
for file in "$srcdir"/lib/*.c "$srcdir"/lib/*/*.c; do
    analyse "$file" 2>&1 || status=1
done
result $status "the library holds its locks"

# wrong WHAT MESSAGE: the functions on standard input hold to no rule, and the analysis says so.
wrong()
{
    {
        echo '#include "config.h"'
        echo '#include "save.h"'
        echo '#include "snapshot.h"'
        echo '#include "view.h"'
        cat
    } >"$tmp/wrong.c"
    analyse -Wno-unused-function "$tmp/wrong.c" >"$tmp/said" 2>&1
    grep -q "$2" "$tmp/said"
    result $? "it would say: $1"
}

wrong "a field is read without its lock" "reading variable 'image' requires" <<'END'
static void *f(struct memsnap_snapshot *s)
{
    return s->current.image;
}
END

wrong "a writer's state is read without the lock" "reading variable 'state' requires" <<'END'
static int f(struct memsnap_view *v)
{
    return v->lease->current.writer.state;
}
END

wrong "a function is called without the lock that it wants" "'ms_writer_release' requires" <<'END'
static void f(struct memsnap_snapshot *s)
{
    ms_enter();
    ms_writer_release(&s->current);
    ms_leave();
}
END

wrong "a lock is held at the end" "not held on every path" <<'END'
static int f(struct memsnap_snapshot *s, int n)
{
    ms_enter();
    ms_snapshot_lock(s);
    if (n)
        ms_snapshot_unlock(s);
    ms_leave();
    return n;
}
END

wrong "two of a kind are held" "'ms_snapshot_locks' that is already held" <<'END'
static void f(struct memsnap_snapshot *a, struct memsnap_snapshot *b)
{
    ms_enter();
    ms_snapshot_lock(a);
    ms_snapshot_lock(b);
    ms_snapshot_unlock(b);
    ms_snapshot_unlock(a);
    ms_leave();
}
END

wrong "locks are taken in the other order" "'ms_pool_mutex' must be acquired before 'ms_store_mutex'" <<'END'
static void f(struct pool *p, struct store *s)
{
    ms_enter();
    ms_store_lock(s);
    ms_pool_lock(p);
    ms_pool_unlock(p);
    ms_store_unlock(s);
    ms_leave();
}
END

wrong "ms_enter twice" "'ms_fork_lock' that is already held" <<'END'
static void f(void)
{
    ms_enter();
    ms_enter();
    ms_leave();
}
END
wrong "a lock is taken outside" "'ms_recycler_set_limit' requires holding lock 'ms_fork_lock'" <<'END'
static void f(struct memsnap_snapshot *s)
{
    ms_recycler_set_limit(s->recycler, 0);
}
END

wrong "storage is waited for inside" "'ms_write_image' while .*'ms_fork_lock' is held" <<'END'
static int f(const struct image *i, const struct os_object *to)
{
    ms_enter();
    int e = ms_write_image(i, 1, to);
    ms_leave();
    return e;
}
END
echo "1..$n"
