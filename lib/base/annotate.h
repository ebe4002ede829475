/* SPDX-License-Identifier: MIT */
/* What the checkers (valgrind's tools, AddressSanitizer, ThreadSanitizer, clang's thread-safety
 * analysis) cannot see by themselves, in one place. helgrind.h alone serves DRD too: their
 * happens-before requests have the same numbers. */
#ifndef MS_ANNOTATE_H
#define MS_ANNOTATE_H

#include "config.h"

#include <stddef.h>

#if defined MS_WITH_VALGRIND && !defined NVALGRIND
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#include <valgrind/helgrind.h>
#include <valgrind/memcheck.h>
#pragma GCC diagnostic pop
#define MS_RELEASES(p) ANNOTATE_HAPPENS_BEFORE(p)
#define MS_ACQUIRES(p)                                                                             \
    do {                                                                                           \
        ANNOTATE_HAPPENS_AFTER(p);                                                                 \
        ANNOTATE_HAPPENS_BEFORE_FORGET_ALL(p);                                                     \
    } while (0)
#define MS_DEFINED(p, n) ((void)VALGRIND_MAKE_MEM_DEFINED(p, n))
#define MS_VG_NOACCESS(p, n) ((void)VALGRIND_MAKE_MEM_NOACCESS(p, n))
#define MS_READ_ONLY_MAPPING(p, n) VALGRIND_HG_DISABLE_CHECKING(p, n)
#else
#define MS_RELEASES(p) ((void)(p))
#define MS_ACQUIRES(p) ((void)(p))
#define MS_DEFINED(p, n) ((void)(p), (void)(n))
#define MS_VG_NOACCESS(p, n) ((void)(p), (void)(n))
#define MS_READ_ONLY_MAPPING(p, n)                                                                 \
    ((void)(p), (void)(n)) /* by everybody, for as long as it is mapped */
#endif

#if defined __has_feature
#if __has_feature(address_sanitizer)
#define MS_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define MS_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define MS_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define MS_TSAN 1
#endif

#ifdef MS_ASAN
#include <sanitizer/asan_interface.h>
#define MS_ASAN_POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define MS_ASAN_UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define MS_ASAN_POISON(p, n) ((void)(p), (void)(n))
#define MS_ASAN_UNPOISON(p, n) ((void)(p), (void)(n))
#endif

/* The bytes of a view are the caller's; the library looks at them while other threads may store
 * (a page that changes under the copy differs from its base at the next look). */
#ifdef MS_TSAN
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
#define MS_RACY_READ_BEGIN() AnnotateIgnoreReadsBegin(__FILE__, __LINE__)
#define MS_RACY_READ_END() AnnotateIgnoreReadsEnd(__FILE__, __LINE__)
#else
#define MS_RACY_READ_BEGIN() ((void)0)
#define MS_RACY_READ_END() ((void)0)
#endif

/* Which lock guards a field, and what a function does with locks or wants held: clang checks it
 * when it compiles (-Wthread-safety). base/lock_order.h names the locks. A guarded field may be
 * touched without its lock where no other thread can know the object: the object's
 * ms_..._is_unshared() says so to the analysis. */
#ifdef __clang__
#define MS_ANALYSIS(attribute) __attribute__((attribute))
#else
#define MS_ANALYSIS(attribute)
#endif
#define MS_CAPABILITY(kind) MS_ANALYSIS(capability(kind))
#define MS_GUARDED_BY(lock) MS_ANALYSIS(guarded_by(lock))
#define MS_ACQUIRED_AFTER(lock) MS_ANALYSIS(acquired_after(lock))
#define MS_ACQUIRE(...) MS_ANALYSIS(acquire_capability(__VA_ARGS__))
#define MS_ACQUIRE_SHARED(lock) MS_ANALYSIS(acquire_shared_capability(lock))
/* returns `result` if it has them, and something else if not */
#define MS_TRY_ACQUIRE(result, ...) MS_ANALYSIS(try_acquire_capability(result, __VA_ARGS__))
#define MS_RELEASE(...) MS_ANALYSIS(release_capability(__VA_ARGS__))
#define MS_RELEASE_SHARED(lock) MS_ANALYSIS(release_shared_capability(lock))
#define MS_REQUIRES(...) MS_ANALYSIS(requires_capability(__VA_ARGS__))
#define MS_REQUIRES_SHARED(lock) MS_ANALYSIS(requires_shared_capability(lock))
#define MS_EXCLUDES(lock) MS_ANALYSIS(locks_excluded(lock))
#define MS_ASSERTS(lock) MS_ANALYSIS(assert_capability(lock))
/* For the few functions that lock and unlock: their bodies are taken on trust. */
#define MS_LOCKS MS_ANALYSIS(no_thread_safety_analysis)

/* A closed view's memory is nobody's until it is opened again. */
#define MS_POISON(p, n)                                                                            \
    do {                                                                                           \
        MS_VG_NOACCESS(p, n);                                                                      \
        MS_ASAN_POISON(p, n);                                                                      \
    } while (0)
#define MS_UNPOISON(p, n)                                                                          \
    do {                                                                                           \
        MS_DEFINED(p, n);                                                                          \
        MS_ASAN_UNPOISON(p, n);                                                                    \
    } while (0)

#endif
