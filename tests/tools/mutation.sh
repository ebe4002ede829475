#!/bin/sh
# SPDX-License-Identifier: MIT
# Do the tests notice when the library is broken? Copies the tree, breaks one place of lib/ at a
# time, and runs test programs until one fails. Prints which test noticed; mutants that nobody
# noticed are listed at the end, and make it fail.
#
#   tests/tools/mutation.sh [-nq] [-b DIRECTORY] [TEXT...]
#
#   -n    only look whether every mutation still applies, and compiles nothing
#   -q    run only the programs that are likely to notice, and not the rest of them if they do not
#   -b    build there and keep it; default: a temporary directory
#   TEXT  only mutations whose description has one of the texts in it
#
# Takes some twenty minutes: not part of make check.
set -u
src=$(cd "$(dirname "$0")/../.." && pwd)
dry=
quick=
work=
while getopts nqb: option; do
    case $option in
    q) quick=yes ;;
    n) dry=yes ;;
    b) work=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
newline='
'
texts=$(IFS=$newline; echo "$*")

# Those that a mutation does not name come after those that it does; each is given this many
# seconds. The one about swapped pages is run where swap space can be made.
programs="image bytes store writer distrust api compat mutable thaw pinned view holder delta export file save os-file os-lock os-memory os-object os-pagemap os-track os-write-block crash cost recovery model fault thread limit fork missing signal"
[ -z "$quick" ] || programs=
seconds=180

say()
{
    echo "$(date +%H:%M:%S) $*"
}

die()
{
    echo "mutation.sh: $*" >&2
    exit 2
}

if [ -z "$work" ]; then
    work=$(mktemp -d "${TMPDIR:-/tmp}/memsnap-mutation-XXXXXX") || exit 2
    trap 'rm -rf "$work"' EXIT
    trap 'exit 2' INT TERM HUP
fi
mkdir -p "$work/tree" || exit 2
(cd "$src" && tar cf - --exclude=./build --exclude=./.git --exclude=./.ci/logs .) | (cd "$work/tree" && tar xf -) || die "cannot copy"
touch "$work"/tree/lib/*.c "$work"/tree/lib/*/*.c      # what was built last there may be a mutant

# build TARGET...: in the copy; its output is kept for when it fails.
build()
{
    make -C "$work/build" "$@" >"$work/make.log" 2>&1
}

if [ -z "$dry" ]; then
    mkdir -p "$work/build"
    if [ ! -f "$work/build/Makefile" ]; then
        say "configuring"
        [ -x "$work/tree/configure" ] || (cd "$work/tree" && ./bootstrap) >"$work/make.log" 2>&1 || die "bootstrap: $work/make.log"
        (cd "$work/build" && ../tree/configure --enable-tests --disable-shared CFLAGS='-O2 -g') >"$work/make.log" 2>&1 ||
            die "configure: $work/make.log"
    fi
    say "building"
    build && build check TESTS= || die "the tree does not build as it is: $work/make.log"
fi

total=0
noticed=0
unnoticed=
broken=

# The test that failed, by the TAP in $work/out: the one that says so, else the one that came after
# the last that was well.
culprit()
{
    awk '
        /^not ok/ { sub(/^not ok ([0-9]+ )?/, ""); sub(/ - .*/, ""); print; found = 1; exit }
        /^ok/ { last = $0; sub(/^ok [0-9]+ /, "", last) }
        END { if (!found) print last == "" ? "before the first test" : "after " last }' "$work/out"
}

# 0: the first program that fails names the test in $by. 1: none does. 2: it does not compile.
run_tests()
{
    tried=
    for t in $* $programs; do
        case " $tried " in *" $t "*) continue ;; esac
        tried="$tried $t"
        program=$(cd "$work/tree" && echo tests/*/$t-test.c)
        program=${program%.c}
        build "$program" || return 2
        under=
        [ "$t" != swap ] || under="sh ../tree/tests/tools/with-swap.sh"
        { (cd "$work/build" && srcdir=../tree $under timeout -k 5 $seconds "$program" >"$work/out" 2>"$work/err" </dev/null); status=$?; } 2>/dev/null
        case $status in 0 | 77) continue ;; esac
        case $status in
        124 | 137) by="$t-test, which hangs $(culprit)" ;;
        *) by="$t-test, $(culprit)" ;;
        esac
        return 0
    done
    return 1
}

is_wanted()
(
    [ -n "$texts" ] || exit 0
    IFS=$newline
    for text in $texts; do
        case $1 in *"$text"*) exit 0 ;; esac
    done
    exit 1
)

if [ -z "$dry$quick" ]; then
    say "running the tests on the library as it is"
    run_tests && die "they fail: $by; see $work/out and $work/err"
fi

# mutate DESCRIPTION FILE SED-EXPRESSION TESTS: one mutant. TESTS: programs that are likely to
# notice, without -test.
mutate()
{
    is_wanted "$1" || return 0
    total=$((total + 1))
    file=$work/tree/lib/$2
    cp -p "$file" "$work/original" || die "no lib/$2"
    sed "$3" "$work/original" >"$work/mutant" || die "$1: bad expression"
    if cmp -s "$work/original" "$work/mutant"; then
        say "$1: DOES NOT APPLY ANY MORE (lib/$2)"
        broken="$broken
    $1 (lib/$2)"
        return 0
    fi
    [ -z "$dry" ] || return 0
    cp "$work/mutant" "$file"
    run_tests "$4"
    case $? in
    0)
        noticed=$((noticed + 1))
        say "$1: noticed by $by"
        ;;
    1)
        say "$1: NOT NOTICED"
        unnoticed="$unnoticed
    $1 (lib/$2)"
        ;;
    *)
        say "$1: DOES NOT COMPILE (lib/$2)"
        broken="$broken
    $1 (lib/$2)"
        ;;
    esac
    cp "$work/original" "$file"
    touch "$file"
}

# ---- the radix tree -----------------------------------------------------------------------------

mutate "the last child of a block is forgotten" storage/image.c 's/child_index(b, b.end - 1) + 1;/child_index(b, b.end - 1);/' image
mutate "a slot takes no reference to what replaces it" storage/image.c '/^static void slot_replace/,/^}/s/slots_ref(&by, 1);//' image
mutate "a slot gives no reference back" storage/image.c '/^static void slot_drop/,/^}/s/ms_chunk_unref(s->chunk, r);/(void)r;/' image
mutate "an edit changes nodes that others share" storage/image.c '/^static bool is_owned/,/^}/s/is_node(s) \&\& .*;/is_node(s);/' image
mutate "runs of other chunks count as continuing" storage/image.c '/^void ms_image_run/,/^}/s/if (!slot_same(&c.slot, &wanted))/if (c.slot.page == IS_NODE)/' image
mutate "full nodes are never collapsed" storage/image.c '/^static bool node_is_run/,/^}/s/if (is_node(&v\[0\]))/if (v)/' image
mutate "nodes without slots stay" storage/image.c '/^static void slot_collapse/,/^}/s/if (!n->own)/if (!n)/' image
mutate "nothing is known to have been given back" storage/store.c '/^static void family_give_back/,/^}/s/atomic_exchange_explicit.*//' store
mutate "what was given back is never forgotten" storage/store.c '/^bool ms_family_usage_test_and_clear_freed/,/^}/s/atomic_exchange_explicit(&c->freed, 0, memory_order_relaxed)/true/' store
mutate "a store that is gone has given nothing back" storage/store.c '/^void ms_store_unref/,/^}/s/family_give_back(s->family, s->pages);/atomic_fetch_sub(\&s->family->pages, s->pages);/' store
mutate "a full node keeps what none of its children is part of" storage/image.c '/^static void slot_collapse/,/^}/s/n->own == all \&\& n->rest.chunk/!n/' image
mutate "when the rest goes its zero children keep their slots" storage/image.c '/^static void slot_collapse/,/^}/s/mask = all;//' image
mutate "slots that say no more than the rest stay" storage/image.c '/^static void slot_collapse/,/^}/s/node_merge(n, b, mask, r);//' image
mutate "new slots of an owned node take no reference" storage/image.c '/^static int slot_own/,/^}/s/ms_chunk_ref_many(.*);/(void)n;/' image
mutate "a copied node takes no reference to the rest" storage/image.c '/^static int slot_own/,/^}/s/slots_ref(&n->rest, 1);//' image
mutate "a node keeps its reference to the rest" storage/image.c '/^static void slot_drop/,/^}/s/ms_chunk_unref(n->rest.chunk, r);//' image
mutate "the rest reaches over the next slot" storage/image.c '/^static void cursor_enter/,/^}/s/lowest_bit(behind)/lowest_bit(behind) + 1/' image
mutate "the rest begins before the slot in front" storage/image.c '/^static void cursor_enter/,/^}/s/highest_bit(before) + 1/highest_bit(before)/' image
mutate "nodes of different rests differ in their slots only" storage/image.c '/^static children_mask may_differ/,/^}/s/if (!slot_same(rest_of_a, rest_of_b))/if (!a)/' image
mutate "slots of the second node only do not count" storage/image.c '/^static children_mask may_differ/,/^}/s/(is_node(b) ? b->node->own : 0)/0/' image
mutate "the rest counts once for each child" storage/image.c '/^static int inventory_take/,/^}/s/exclusive \&\& has_own(n, i)/exclusive/' image
mutate "the rest does not count" storage/image.c '/^static int inventory_take/,/^}/s/inventory_rest(.*);/(void)n;/' image
mutate "a chunk that others refer to counts as exclusive" storage/image.c '/^bool ms_image_is_exclusive/,/^}/s/ms_chunk_refs(root->chunk) != 1/false/' "image mutable"
mutate "an image that others refer to counts as exclusive" storage/image.c '/^bool ms_image_is_exclusive/,/^}/s/ms_ref_count(&i->refs) != 1/false/' "image mutable"
mutate "an image that others remember counts as exclusive" storage/image.c '/^bool ms_image_is_exclusive/,/^}/s/ms_ref_count(&i->remembered) != 1/false/' "image"
mutate "a difference ends one page early" storage/image.c '/^bool ms_image_differs/,/^}/s/\*pages = d.end - d.first;/*pages = d.end - d.first > 1 ? d.end - d.first - 1 : 1;/' image
mutate "shared nodes count as this image's own" storage/image.c '/^static int inventory_take/,/^}/s/exclusive = exclusive .*;//' image
mutate "a child whose first page changed is mapped in pieces" mapping/mapping.c 's/open = from_start(r, shortest);/open = r;/' cost
mutate "a child whose last page changed is mapped in pieces" mapping/mapping.c 's/to_end(open, pages, shortest)/open/' cost

# ---- chunks, stores, free space -----------------------------------------------------------------

mutate "the forks counter is ignored when space is given back" storage/store.c '/^bool ms_chunk_may_change/,/^}/s/c->forks == ms_forks()/true/' fork
mutate "a child gives back its parent's space" storage/store.c '/^bool ms_chunk_may_change/,/^}/{s/ && c->store->process == ms_process_generation() &&/ \&\&/;s/c->forks == ms_forks()/true/;}' fork
mutate "space still in use is given back with a chunk" storage/store.c '/^static void reclaim_add/,/^}/s/r->len = len;/r->len = len + ms_os->page_size();/' "view model"
mutate "reused space stays free" storage/freelist.c '/^static void take_out/,/^}/s/set_free(g, first, pages, false);//' store
mutate "free space may be shorter than what is asked for" storage/freelist.c '/^static size_t find_run/,/^}/s/(~word) >= pages)/(~word) >= 1)/' store
mutate "used space is handed out where zeros were asked for" storage/store.c 's/if (!reuse_ok || !reuse(/if (!reuse(/' "store mutable model"
mutate "offsets of a store wrap around" storage/store.c 's/if (offset > INT64_MAX || len > INT64_MAX - offset)/if (!len)/' store
mutate "a store grows by setting its length" storage/fill.c 's/return e < 0 || now >= c->offset + len ? e : write_all(c, "", 1, len - 1);/return e < 0 || now >= c->offset + len ? e : ms_os->object_grow(\&c->store->object, c->offset + len);/' thread
mutate "allocating takes no lock" storage/store.c '/^static int anon_allocate/,/^}/{s/ms_store_lock(s);//;s/ms_store_unlock(s);//;}' "store thread"
mutate "the end of the last page is not cleared in what is taken" storage/fill.c '/^int ms_batch_add/,/^}/s/if (len < whole)/if (len > whole)/' "view mutable"
mutate "writes that do not adjoin go out as one" storage/fill.c '/^int ms_batch_add/,/^}/s/ && b->offset + b->len == c->offset//' view
mutate "a segment's window is never unmapped" storage/store.c '/^static void segment_unref/,/^}/s/if (g->window)/if (!g)/' api
mutate "a store keeps its descriptor" storage/store.c '/^void ms_store_unref/,/^}/s/ms_os->object_close(&s->object);/(void)s;/' api
mutate "a file that became shorter is not noticed" storage/fill.c 's/return e < 0 ? e : now < size ? -EIO : 0;/return e;/' recovery
mutate "space is not asked for before it is mapped" storage/fill.c '/^int ms_chunk_prepare_shared/,/^}/s/return e < 0 ? e : ms_os->object_commit.*/return e;/' "cost limit"
mutate "a family has one store for ever, forks or not" storage/pool.c 's/ms_family_usage_stores(p->family) >= MS_MAX_STORES/true/' fork
mutate "a child appends to its parent's store" storage/pool.c 's/if (s->process != ms_process_generation())/if (!s)/' fork
mutate "every chunk is the first of its segment" storage/store.c '/^static int anon_allocate/,/^}/s/s->used += bytes;//' "view model"
mutate "free runs that reach from word to word are not found" storage/freelist.c '/^static size_t find_run/,/^}/s/        run = (size_t)__builtin_clzll(~word);/        run = 0;/' store
mutate "free runs are thought shorter than they are" storage/freelist.c '/^static size_t run_around/,/^}/s/from > 0 \&\& first - from < BITS/from > first/' store
mutate "a store keeps by what it has itself" storage/store.c '/^static uint64_t worth_keeping/,/^}/s/atomic_load_explicit(&s->family->pages, memory_order_relaxed)/s->pages/' store
mutate "a family counts stores that are gone" storage/store.c '/^void ms_store_unref/,/^}/s/family_give_back(s->family, s->pages);/atomic_exchange(\&s->family->freed, true);/' store
mutate "heap pages are not freed" storage/store.c '/^void ms_chunk_unref/,/^}/s/heap_release(c);/(void)c;/' api

# ---- what is dirty ------------------------------------------------------------------------------

mutate "swapped pages are skipped by PAGEMAP_SCAN" os/pagemap.c 's/OURS, OURS, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, OURS/OURS, OURS, PAGE_IS_PRESENT, OURS/' swap
mutate "swapped pages are skipped in the pagemap file" os/pagemap.c 's/(entry & (ENTRY_PRESENT | ENTRY_SWAPPED))/(entry \& ENTRY_PRESENT)/' swap
mutate "the self-test of the pagemap is skipped" os/pagemap.c 's/return is_honest(source) ? ask/return source < OS_SOURCES ? ask/' distrust
mutate "the self-test believes any answer" os/pagemap.c 's/return answer == TEST_PATTERN ? HONEST : USELESS;/return HONEST;/' distrust
mutate "a child asks its parent's pagemap" os/descriptors.c 's/if (f->process != ms_process_generation() ||/if (/' "os-pagemap fork"
mutate "more regions are asked for than the kernel counts right" os/pagemap.c 's/REGIONS = 96, ENTRIES/REGIONS = 2048, ENTRIES/;s/max - n < REGIONS ? max - n : REGIONS/REGIONS/' "os-pagemap view"
mutate "guards are pages like others" os/pagemap.c 's/(r->categories & PAGE_IS_GUARD) != 0/false/' holder
mutate "guards in the pagemap file are pages like others" os/pagemap.c 's/(entries\[i\] & ENTRY_GUARDED) != 0/false/' holder
mutate "a part of a mapping counts as one" os/pagemap.c 's/ && (uintptr_t)addr + len <= q.vma_end//' holder
mutate "a scan forgets the last run of each call" os/pagemap.c '/^static bool add_run/,/^}/s/if (\*n == max)/if (*n + 1 == max)/' "os-pagemap view"
mutate "all of the last page counts" mapping/dirty.c 's/return page + 1 == m->pages ? m->size - page \* ps : ps;/return m ? ps + 0 * page : 0;/' "view mutable"
mutate "a candidate is dirty without a comparison" mapping/dirty.c '/^static int compare/,/^}/s/return !ms_bytes_equal(now, .*/return now || expected;/' view
mutate "a page that the holder dropped counts as the base" mapping/dirty.c '/^static bool find_shown/,/^}/s/d->scan.written || //;/^static bool find_shown/,/^}/s/!ms_image_differs/true || !ms_image_differs/' holder
mutate "guards are not looked for where nothing tells" mapping/dirty.c '/^static bool is_guarded/,/^}/s/return .*/return at > end_of_memory(len);/;s/^static bool is_guarded/static uintptr_t end_of_memory(size_t len)\n{\n    return UINTPTR_MAX - len;\n}\n\n&/' holder
mutate "a run is read from its beginning" mapping/dirty.c 's/r->run.chunk_page + page - r->run.first, 1/r->run.chunk_page, 1/' view
mutate "equality ends one byte early" base/bytes.c '/^INLINE bool is_equal/,/^}/s/at < len;/at + 1 < len;/' bytes
mutate "equality looks at half a block" base/bytes.c 's/add_difference(&sum, a, b, 3 \* VECTOR);//' bytes
mutate "bytes are compared by memcmp" base/bytes.c '/^INLINE bool compare/,/^}/s/return b ? is_equal(a, b, len)/return b ? memcmp(a, b, len) == 0/' bytes
mutate "equality ends one byte early where there is no AVX2" base/bytes.c '/^bool ms_bytes_equal_anywhere/,/^}/s/compare(a, b, len)/compare(a, b, len - (len > 0))/' bytes

# ---- collecting ---------------------------------------------------------------------------------

mutate "a take ignores the take before" mapping/capture.c 's/capture_since(last ? last : m->base,/capture_since(m->base,/' view
mutate "a view keeps what was last taken" mapping/capture.c '/^int ms_capture(/,/^}/s/ms_image_unref(last);//' view
mutate "zero pages are stored" mapping/capture.c '/^static int capture_page/,/^}/s/if (ms_bytes_equal(data, NULL, bytes))/if (!data)/' view
mutate "pages written back to the base are stored" mapping/capture.c '/^static int capture_page/,/^}/s/if (ms_bytes_equal(data, old, bytes))/if (!data)/' view
mutate "protected pages are looked at as they are" mapping/capture.c '/^static int capture_since/,/^}/s/e = ms_mapping_make_readable(m);/e = 0;/' "view mutable"
mutate "protected pages are like their neighbours meanwhile" mapping/mapping.c '/^int ms_mapping_make_readable/,/^}/s/p->access | OS_ACCESS_LOOK/MEMSNAP_ACCESS_READ/' limit
mutate "protections that cannot be put back are none" mapping/mapping.c '/^static int put_back/,/^}/s/hide(m);/(void)hide;/' recovery
mutate "protections are not put back after a take" mapping/capture.c 's/ms_mapping_reprotect(m);//' recovery
mutate "a torn mapping is taken" mapping/capture.c 's/if (m->torn)/if (!m)/' recovery
mutate "neighbours in the view count as neighbours in the image" mapping/capture.c 's/c->first + c->pages == page && c->data + c->bytes == data/c->first + c->pages <= page/' view
mutate "the last batch stays unwritten" mapping/capture.c '/^static int store_rest/,/^}/s/return e < 0 ? e : ms_batch_flush(&c->batch);/return e;/' view

# ---- mapping ------------------------------------------------------------------------------------

mutate "a freeze maps shared again" mapping/mapping.c '/^int ms_mapping_freeze/,/^}/s/OS_PRIVATE/OS_SHARED_WRITE/' mutable
mutate "a failed freeze does not put the shared mapping back" mapping/mapping.c '/^static int map_chunk/,/^}/s/ms_os->map_over(.*else_how) == 0/false/' recovery
mutate "a freeze forgets that children must not inherit" mapping/mapping.c '/^static int map_chunk/,/^}/s/renew_advice_of(.*);//' crash
mutate "a freeze forgets the protections" mapping/writer.c 's/e = ms_mapping_renew_protections(&w->mapping);/e = 0;/' "crash mutable recovery"
mutate "a mutable view holds its address" mapping/writer.c 's/if (w->mapping.fixed)/if (false)/' view
mutate "a new base keeps the old takes" mapping/mapping.c '/^void ms_mapping_set_base/,/^}/s/ms_image_remember(&m->last_taken, NULL);//' "view model"
mutate "what is not mapped is not copied in" mapping/mapping.c '/^static int finish_open/,/^}/s/copy_where_differs(m, m->base, 0, m->pages)/0/' view
mutate "an exchange copies nothing in" mapping/mapping.c '/^int ms_mapping_exchange/,/^}/s/e = copy_where_differs(m, i, 0, m->pages);/e = 0;/' view
mutate "an exchange cut short is not known to be" mapping/mapping.c '/^static int exchange_in_steps/,/^}/s/m->torn = true;//' recovery
mutate "a cut exchange keeps what it had mapped before" mapping/mapping.c '/^static int exchange_in_steps/,/^}/{s/ms_image_unref(m->mapped);//;s/m->mapped = ms_image_ref(mapped);/(void)mapped;/;}' recovery
mutate "a protection that came in part stays" mapping/mapping.c '/^int ms_mapping_protect/,/^}/s/ms_mapping_renew_protections(m);//' recovery
mutate "a view takes any number of mappings" mapping/mapping.h 's/#define MS_MAX_MAPPINGS 1024/#define MS_MAX_MAPPINGS 1000000/' "view limit"
mutate "views are mapped shared" mapping/mapping.c '/^static int open_planned/,/^}/s/OS_PRIVATE/OS_SHARED_WRITE/' view
mutate "the writer is mapped private" mapping/mapping.c '/^int ms_mapping_open_shared/,/^}/s/OS_SHARED_WRITE/OS_PRIVATE/' mutable
mutate "protections are forgotten without being undone" mapping/mapping.c '/^int ms_mapping_unprotect/,/^}/s/int e = ms_os->protect(.*);/int e = 0;/' view
mutate "the rest of a range that is cut in two is lost" mapping/protection.c '/^static size_t cut/,/^}/s/tail.first = end;//' recovery

# That parked views are not poisoned would be noticed under a checker only (crash-test, parked).

# ---- restoring and recycling --------------------------------------------------------------------

mutate "the last block of a page is not restored" mapping/restore.c '/^static bool put_page/,/^}/s/bytes + at, ps - at)/bytes + at, ps - at - BLOCK)/' view
mutate "old pages are dropped although another image is mapped there" mapping/restore.c '/^static bool is_old/,/^}/s/shows_target(p, page, page + 1, &from, &pages)/(from = pages = 0, true)/' "view model"
mutate "pages are dropped although another image is mapped there" mapping/restore.c '/^static int drop_run/,/^}/s/if (shows_target(p, first, end, &from, &pages))/if (p)/' "view model"
mutate "old pages are never dropped" mapping/restore_policy.c '/^bool ms_policy_is_old/,/^}/s/> p->limit/> UINT32_MAX - 1/' restore-policy
mutate "what is read does not matter to the policy" mapping/restore_policy.c 's/whole = WHOLE + READ_FAULT \* p->read_faults/whole = WHOLE/' restore-policy
mutate "whole drops never ask again" mapping/restore_policy.c 's/++p->whole_rounds < WHOLE_ROUNDS/p->whole_rounds < WHOLE_ROUNDS/' restore-policy
mutate "the first block that differs is all that is restored" mapping/restore.c '/^static bool put_page/,/^}/s/bytes + at, ps - at)/bytes + at, BLOCK)/' view
mutate "a restore keeps the old takes" mapping/restore.c '/^int ms_restore(/,/^}/s/ms_image_remember(&m->last_taken, NULL);//' "view model"
mutate "restore_to copies dirty pages only" mapping/restore.c '/^static int copy_where_mapped_differs/,/^}/s/p->done < limit/p->done < limit \&\& false/' view
mutate "restore_to leaves what differs behind the last candidate" mapping/restore.c '/^static int go_through/,/^}/s/e = copy_where_mapped_differs(p, p->m->pages);/e = 0;/' view
mutate "memory that was given back is taken for restored" mapping/restore.c '/^static int pass_over/,/^}/s/keep_from_being_freed(p, page);/(void)keep_from_being_freed;/' holder
mutate "guards outlive a restore" mapping/restore.c '/^static int bring_run/,/^}/s/unguard(p->m, run->first, run->pages)/0/' holder
mutate "restore_to keeps the protections" mapping/restore.c '/^int ms_restore_to/,/^}/s/int e = ms_mapping_unprotect(m);/int e = 0;/' view
mutate "a restore that failed half way is called done" mapping/restore.c "/^int ms_restore(/,/^}/s/if (e == 0 || m->torn)/if (e == 0)/" recovery
mutate "a recycled view is not restored" view.c 's/ || ms_restore(m) < 0)/)/' view
mutate "a view that its holder changed is parked" view.c 's/ || !ms_mapping_is_intact(m)//' holder
mutate "a recycled view faults" view.c '/^static int wake/,/^}/s/MEMSNAP_VIEW_PREFAULT ?/0 ?/' cost
mutate "a recycled view keeps any number of pages" view.c 's/m->resident_private > MAX_PARKED_PAGES/m->resident_private > SIZE_MAX - 1/' view
mutate "a parked view is opened with other flags" mapping/recycler.c 's/ && (\*at)->mapping.flags != flags//' store
mutate "views of another image are parked" mapping/recycler.c '/^bool ms_recycler_put/,/^}/s/l->image == p->mapping.base && //' store
mutate "views of another image are taken from the recycler" mapping/recycler.c '/^struct parked \*ms_recycler_get/,/^}/s/l->image == i ? \*at : NULL/*at/' store
mutate "one view too many is parked" mapping/recycler.c '/^bool ms_recycler_put/,/^}/s/detach(l, l->limit)/detach(l, l->limit + 1)/' store
mutate "the newest is evicted" mapping/recycler.c '/^static struct parked \*detach/,/^}/s/i < keep/i < keep \&\& keep != l->n - 1/' store
mutate "a process parks any number" mapping/recycler.c 's/^#define MAX_PARKED 1024/#define MAX_PARKED 1000000/' store
mutate "nothing gives way at the limit" mapping/recycler.c '/^bool ms_make_room/,/^}/s/evict(true)/(0 \&\& evict(true))/' "store limit"
mutate "the recycler is not locked" mapping/recycler.c '/^struct parked \*ms_recycler_get/,/^}/{s/ms_recycler_lock(l);//;s/ms_recycler_unlock(l);//;}' thread

# ---- the writer ---------------------------------------------------------------------------------

mutate "stores behind the end of the image stay" mapping/writer.c 's/if (!c->writer.tail_dirty)/if (c)/' mutable
mutate "the parent's writer is used in a child" mapping/writer.c 's/return (w->leased || w->mapping.no_fork) && w->process != ms_process_generation();/return !w;/' "fork crash mutable"
mutate "a child that was not given a writer's memory is not told" mapping/writer.c 's/(w->leased || w->mapping.no_fork) && /w->leased \&\& /' recovery
mutate "a closed writer stays torn" mapping/writer.c 's/w->mapping.torn && !w->leased ? ms_restore(&w->mapping) : 0;/0;/' recovery
mutate "a direct writer is not frozen" mapping/writer.c '/^static int freeze/,/^}/s/int e = ms_mapping_freeze(&w->mapping, w->chunk, w->mapping.pages);/int e = 0;/' mutable
mutate "a chunk is gathered into though others refer to it" mapping/writer.c 's/ || u.exclusive_pages != u.stored_pages//' mutable
mutate "a closed writer's memory is not inherited" mapping/writer.c '/^void ms_writer_release/,/^}/s/ms_os->advise(.*OS_FORK);//' fork
mutate "what was collected is not the base" mapping/writer.c '/^static int capture_mapping/,/^}/s/ms_mapping_set_base(&w->mapping, i);//' mutable
mutate "an atomic take of an ordinary view does not stop the writers" view.c '/^static int take_ordinary/,/^}/{s/if (atomic \&\& m->pages)/if (atomic \&\& !m->pages)/;s/atomic \&\& m->pages ? &block : NULL/NULL/;}' oracle
mutate "an atomic take does not stop the writers" mapping/writer.c 's/bool blocked = atomic && w->leased;/bool blocked = atomic \&\& !w->leased;/' mutable
mutate "two mutable views at a time" mapping/writer.c '/^int ms_writer_may_open/,/^}/s/if (w->leased)/if (!w)/' mutable
mutate "parked views keep a writer from being direct" snapshot.c '/^int ms_snapshot_lease/,/^}/s/ms_recycler_set_image(s->recycler, NULL);//' "mutable view"
mutate "an image that is exchanged has the tail of the one before" mapping/writer.c '/^void ms_current_set_image/,/^}/s/c->writer.tail_dirty = false;//' mutable
mutate "closed writers collect free space for ever" view.c '/^static void lease_close/,/^}/s/ms_pool_trim(.*);//' mutable
mutate "where space cannot be given back it is not used again" mapping/consolidate.c '/^int ms_new_own_chunk/,/^}/s/\*fresh = ms_os->caps .*;/*fresh = true;/' mutable
mutate "a read stores to the caller's memory with a lock held" snapshot.c '/^static int read_live/,/^}/{s/offset + done, between, n/offset + done, buf + done, n/;s/memcpy(buf + done, between, n);/(void)0;/;}' writers
mutate "a writer is captured to be read" mapping/writer.c '/^int ms_writer_read/,/^}/s/if (m->torn/if (m->address || m->torn/' mutable
mutate "a read does not see what is private" mapping/writer.c '/^int ms_writer_read/,/^}/s/read_private(m, offset, to, len);/(void)read_private;/' mutable
mutate "protected memory is read" mapping/writer.c '/^static bool is_readable/,/^}/s/return false;/return true;/' mutable
mutate "a capture that began too early serves who came later" mapping/writer.c '/^int ms_writer_bring_up_to_date/,/^}/s/c->captured_by > arrived/c->captured_by >= arrived/' writer
mutate "every waiter captures" mapping/writer.c '/^int ms_writer_bring_up_to_date/,/^}/s/!atomic .. c->captured_by > arrived/!c/' writer
mutate "statistics wait for a take" mapping/writer.c '/^static void begin_copying/,/^}/s/ms_unlock(&c->look);//;/^static void end_copying/,/^}/s/ms_lock(&c->look);//' writers
mutate "holes are not punched when the image is gathered again" mapping/consolidate.c '/^static int write_run/,/^}/s/e = ms_os->object_punch(.*);/return 0;/' mutable

# ---- thawing ------------------------------------------------------------------------------------

mutate "a writer is thawed though others refer to its pages" mapping/thaw.c '/^static int find_chunk/,/^}/s/: check_unshared(c)/: 0/' thaw
mutate "a thawed block is exchanged unblocked" mapping/thaw.c '/^static int thaw_part/,/^}/s/live ? exchange_blocked(t) : exchange(t, NULL)/exchange(t, NULL)/' writers
mutate "what changed behind the copying is lost" mapping/thaw.c '/^static int exchange(/,/^}/s/int e = copy_private(t, block, &changed);/int e = 0; (void)block; (void)changed;/' thaw
mutate "what was captured of a block is lost" mapping/thaw.c '/^static int copy_ahead/,/^}/s/int e = ms_consolidate(.*);/int e = 0;/' thaw
mutate "a thawed block is not the base" mapping/thaw.c '/^static void commit/,/^}/s/ms_mapping_set_base(m, t->image);//' "thaw model"
mutate "a thawed part is handed out without being frozen" mapping/writer.c '/^static int capture_shadow/,/^}/s/e = ms_writer_freeze_thawed(c);/e = 0;/' thaw
mutate "a rollback forgets that a part is shared" mapping/writer.c '/^int ms_writer_restore_to/,/^}/s/? ms_writer_freeze_thawed(c)/? 0/' thaw
mutate "the tail of a thawed writer is not cleared" mapping/thaw.c '/^static void move_on/,/^}/s/w->tail_dirty = .*;//' thaw
mutate "thawing makes small pages of huge ones" mapping/thaw.c '/^static bool wants_huge/,/^}/s/return ms_os->caps/return !t \&\& ms_os->caps/' thaw
mutate "thawing takes memory for holes" mapping/thaw.c '/^static size_t stored_bytes/,/^}/s/data_bytes(.r)/r.pages * ms_os->page_size()/' thaw
mutate "mapped and image share nodes when they are counted" mapping/thaw.c '/^int ms_thaw_begin/,/^}/s/if (m->mapped != c->image)/if (!m)/' thaw
mutate "parts of a block keep it in small pages" mapping/thaw.c '/^static void move_on/,/^}/s/ms_mapping_renew(.*);/(void)0;/' thaw
mutate "pinned pages are exchanged" mapping/writer.c '/^static int open_anonymous/,/^}/s/!(flags . MEMSNAP_VIEW_PINNABLE) .. //' pinned

# ---- the system ---------------------------------------------------------------------------------

mutate "a store can shrink" os/memfd.c 's/fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);//' os-object
mutate "a file without seals counts as sealed" os/memfd.c 's/ || seals < 0 || / || /' export
mutate "what was stored behind a memfd's end is adopted" file.c 's/^           has_zero_tail(file, size, pages);/           file;/' file
mutate "an exported descriptor can be written to" os/memfd.c 's/#define ALL_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)/#define ALL_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)/' export
mutate "a save renames before the file is synced" os/atomic_file.c 's/e = finish_writing(file->fd, sync);/e = finish_writing(file->fd, false);/' save
mutate "a save does not sync the directory" os/atomic_file.c 's/if (e == 0 && sync)$/if (e == 0 \&\& !p)/' save
mutate "a replaced file's permissions are lost" os/atomic_file.c '/^static int take_access/,/^}/s/e = set_access(fd, &now);/e = 0;/' save
mutate "permissions are those that the file had first" os/atomic_file.c '/^static int take_current_access/,/^}/s/int e = look(p);/int e = 0;/' save
mutate "a file is not synced again when it has a name" os/atomic_file.c '/^static int sync_again/,/^}/s/sync && p->unsynced/!p/' save
mutate "links in sticky directories are followed, whosever they are" os/atomic_file.c 's/if (!may_follow(p))/if (!p)/' save
mutate "a descriptor's path is taken for what it says" os/atomic_file.c '/^static int find_place/,/^}/s/if (p->pointed \&\&/if (!p \&\&/' save
mutate "a directory's access control list stays" os/atomic_file.c 's/return fremovexattr(fd, ACCESS_LIST) == 0 .*/return true;/' save
mutate "a lost access control list leaves the group" os/atomic_file.c 's/return list ? mode : mode & .*/return list ? mode : mode;/' save
mutate "a lost owner may gain" os/atomic_file.c '/^static mode_t kept_mode/,/^}/s/if (!owner)/if (!a)/' save
mutate "where links are refused nothing is saved" os/atomic_file.c '/^static int copy_to_named/,/^}/s/int e = ms_file_size(file, &size);/int e = -EACCES;/' save
mutate "only the plain temporary name is removed" os/atomic_file.c 's/if (p->crowded)/if (!p)/' save
mutate "live files are replaced" os/live_files.c 's/    return found;/    return false;/' save
mutate "a live file stays one" mapping/writer.c 's/ms_live_file_remove(&w->live);//' save
mutate "a failed save leaves its temporary file" os/atomic_file.c '/^void ms_save_abandon/,/^}/s/remove_temporary(s->place);//' save
mutate "another file under the descriptor's number is believed" os/descriptors.c 's/if ((uint64_t)st->st_dev != o->dev .*/if (!o)/' "limit os-object"
mutate "the limit of file sizes is met the hard way" os/common.c 's/return end > limit.rlim_cur ? -EFBIG : 0;/return 0;/' "limit os-object"
mutate "a short write counts as whole" os/files.c '/^int ms_object_write/,/^}/s/advance(&v, &n, &skip, (size_t)done);/n = 0;/' "os-object save"
mutate "descriptors 0 to 2 are used" os/descriptors.c 's/if (fd >= STANDARD || fd < 0)/if (fd >= -1)/;s/taken = fcntl(fd, F_GETFD) >= 0 || put_placeholder(fd);/(void)put_placeholder;/' "limit os-object"
mutate "descriptors 0 to 2 are used for a moment" os/descriptors.c 's/taken = fcntl(fd, F_GETFD) >= 0 || put_placeholder(fd);/(void)put_placeholder;/' system
mutate "a placeholder is removed while another thread counts on it" os/descriptors.c 's/if (placeholders.users > 0 \&\& --placeholders.users == 0)/if (placeholders.users-- || 1)/' system
mutate "a shared descriptor is closed by its number" os/descriptors.c '/^int ms_shared_file(/,/^}/s/ms_object_close(&f->file);/close(f->file.fd), f->file.fd = -1;/' system
mutate "descriptors outlive the library" os/track.c 's/^    ms_shared_file_close(&tracker);//' system
mutate "a fork in a handler waits for its own thread" os/lock.c 's/if (inside || is_abandoned)/if (is_abandoned)/' system
mutate "a handler of an earlier pthread_atfork takes the locks again" os/lock.c 's/return is_forking || is_abandoned;/return is_abandoned;/' system
mutate "strict accounting is assumed without /proc" os/memfd.c 's/return refused \&\& !limited ? YES : NO;/return YES;/' system
mutate "all of a temporary file is allocated" os/files.c 's/if (bytes_of_holes(o, offset, offset + len) > MAX_COMMIT)/if (!o)/' system
mutate "a write block never makes the kernel wait" os/write_block.c 's/int fd = ms_open_userfaultfd(0);/int fd = ms_open_userfaultfd(UFFD_USER_MODE_ONLY);/' system
mutate "a full directory is good enough for a temporary file" os/files.c 's/const uint64_t enough = 64 << 20;/const uint64_t enough = 1;/' system
mutate "a sealed size is the one from before" file.c 's/ && now >= size;/;/' system
mutate "load_delta is a cancellation point" delta.c '/^int memsnap_snapshot_load_delta/,/^}/s/int before = ms_uncancellable();/int before = 0;/' system
mutate "the tail of a live file shows" mapping/writer.c 's/^        clear_file_tail(c);/        (void)clear_file_tail;/' system
mutate "holes become heap memory" storage/fill.c 's/return c->store->kind == STORE_HEAP ||/return/' file
mutate "memory that is not there is asked for" storage/fill.c 's/return size > ms_os->memory_left() ? -ENOMEM : 0;/return 0;/' system
mutate "heap pages are handed out where huge ones are required" storage/fill.c 's/if (flags \& MEMSNAP_HUGE_REQUIRE \&\& c->store->kind == STORE_HEAP)/if (!c)/' system
mutate "what is behind the end of a file is left as it was in the buffer" os/files.c '/^int ms_object_read/,/^}/s/fill_with_zeros(v, n, skip);/(void)fill_with_zeros;/' "os-object file"
mutate "EPERM is an input or output error" os/common.c '/^    case EPERM:$/d' os-memory
mutate "too many mappings are too little memory" os/address_space.c 's/if (e == ENOMEM && mappings_exhausted())/if (!e \&\& mappings_exhausted())/' "limit os-memory"
mutate "a fork does not wait for threads inside the library" os/lock.c '/^static void before_fork/,/^}/s/pthread_rwlock_wrlock(\&fork_lock);//;/^static void in_parent/,/^}/s/pthread_rwlock_unlock(\&fork_lock);//;/^static void in_child/,/^}/s/pthread_rwlock_unlock(\&fork_lock);//' "thread fork"
mutate "a write block does not stop anybody" os/write_block.c '/^static int protect_range/,/^}/s/r = write_protect(g);/(void)write_protect;/' "os-write-block thread"
mutate "a write block takes swapped pages for absent ones" os/write_block.c 's/bool swap = swap_exists();/bool swap = swap_exists() \&\& !g;/;s/if (r == 0 && !swap && swap_exists())/if (r < -1000)/;s/mark_candidates(g, false, true) < 0/false/' swap
mutate "a look at whether a range is tracked takes its first page" os/track.c 's/PAGEMAP_TRACKED, &v, 1)/PAGEMAP_WRITTEN, \&v, 1)/' os-track
mutate "only the first parts are asked for" os/track.c '/^static bool find_parts/,/^}/s/ && p->end == end;/;/' os-track
mutate "only the first parts of many are asked for" os/track.c '/^static bool find_parts/,/^}/s/p->end == end && p->bytes/p->bytes/' os-track
mutate "what does not fit is reported as done" os/track.c '/^int ms_written/,/^}/s/        if (n < max)$/        if (n <= max)/' os-track
mutate "steps that are not asked for first are left out" os/track.c '/^int ms_written/,/^}/s/parts.v\[0\] = (struct os_range){at, next, false};/parts.v[0] = (struct os_range){at, next < at + step ? next : at + step, false};/' os-track
mutate "tracking goes on after a take that failed" mapping/writer.c '/what was reported is lost/,/return e/s/ms_mapping_untrack(&w->mapping);/(void)w;/' "fault mutable"
mutate "tracking is believed after an exchange" mapping/mapping.c '/^static void forget_properties/,/^}/s/m->tracked = false;//' mutable
mutate "signals stay blocked behind a write block" os/write_block.c '/^static void forget/,/^}/s/pthread_sigmask(.*);//' "os-write-block thread"

# ---- saving and deltas --------------------------------------------------------------------------

mutate "a delta's data is not checked" delta.c 's/if (e == 0 && ms_crc32c(0, data, len) != delta_get32(sums + 4))/if (e == 0 \&\& !data)/' delta
mutate "a delta's table is not checked" delta.c 's/return ms_crc32c(0, l->table, len) == r->table_sum ? 0 : -EBADMSG;/return 0;/' delta
mutate "a delta's header is not checked" delta.c 's/ || delta_get32(p + 60) != ms_crc32c(0, p, DELTA_HEADER - 4)//' delta
mutate "a delta applies to any base" delta.c 's/return e < 0 ? e : is == sum ? 0 : -EINVAL;/return e;/' delta
mutate "holes are looked at" save.c '/^int ms_image_extent/,/^}/s/start > from ? 0 : found;/start > from ? 1 : found;/' delta
mutate "loading can be cancelled" delta.c '/^int memsnap_snapshot_load_delta/,/^}/s/int before = ms_uncancellable();/int before = 0;/' delta
mutate "the sum of zeros forgets a bit" base/crc32c.c '/^uint32_t ms_crc32c_zeros/,/^}/s/if (len & 1)/if (len \& 1 \&\& len > 1)/' delta
mutate "a delta's records may overlap" delta.c 's/r->first < next || //' delta
mutate "what follows a delta's last record is ignored" delta.c 's/return e < 0 ? e : l->offset == l->file_size ? 0 : -EBADMSG;/return e;/' delta
mutate "a checksum skips its last byte" base/crc32c.c '/by_instruction(uint32_t/,/^}/s/len > 0; len--/len > 1; len--/' delta
mutate "a mapped file that was cut is saved as zeros" save.c 's/return e < 0 ? e : now < need ? -EIO : 0;/return e;/' save
mutate "zero pages are written out" save.c 's/if (!ms_bytes_equal(p + done, NULL, n))/if (n)/' save

# ---- the interface ------------------------------------------------------------------------------

mutate "a take does not look at whose lease it is" view.c '/^static int take(/,/^}/s/if (s && v->process != ms_process_generation())/if (!v)/' fork
mutate "unknown flags are ignored" view.c 's/if (!v || !out || flags & ~MEMSNAP_TAKE_ATOMIC)/if (!v || !out)/' api
mutate "a failed clone leaks the image" snapshot.c '/^int memsnap_snapshot_clone/,/^}/s/ms_image_unref(i);//' api
mutate "closing changes errno" view.c '/^memsnap_view \*memsnap_view_unref/,/^}/s/errno = keep;/errno = 0 * keep;/' "api view"
mutate "ranges reach beyond the image" view.c '/^static int list_dirty_ranges/,/^}/s/v\[n - 1\].len = m->size - v\[n - 1\].offset;//' view

# ---- the end ------------------------------------------------------------------------------------

if [ -n "$dry" ]; then
    echo "$total mutations"
else
    echo "$noticed of $total mutants noticed"
    [ -z "$unnoticed" ] || echo "not noticed:$unnoticed"
fi
[ -z "$broken" ] || echo "no longer applicable:$broken"
[ -z "$unnoticed$broken" ]
