/* SPDX-License-Identifier: MIT */
/**
 * \file        memsnap.h
 * \brief       Snapshots of memory and copy-on-write views of them
 *
 * A snapshot is a handle to a memory image of a fixed number of bytes. A view maps an image into
 * the address space, at an address that stays the same for as long as the view lives. Stores into
 * an ordinary view are private to it; stores into the one mutable view change the snapshot itself.
 * A snapshot taken from a view costs what was modified, not what is mapped.
 *
 * memsnap(7) has the concepts, the limits and the caveats; each function has a page in section 3.
 *
 * Rules that hold for everything below:
 *
 *  - Results. A function that returns int returns 0 or a count if it succeeded, and a negative
 *    errno value if it did not. The values are a closed set, which memsnap(7) lists. errno is not
 *    set.
 *  - Nothing is half done. Output parameters are written if the call succeeded, and only then.
 *    After an error every object is as it was and stays usable, and the same call may be made
 *    again, unless the function says otherwise.
 *  - Units. Sizes, offsets and lengths are bytes.
 *  - Arguments. A NULL handle or output parameter is -EINVAL (functions that return something other
 *    than int return 0 or NULL for a NULL handle); only the unref functions accept it, and do
 *    nothing. A flag bit that a function does not know is -EINVAL. A pointer to memory that is not
 *    there is undefined behaviour: SIGSEGV or -EFAULT.
 *  - Ownership. What a function returns through `out` belongs to the caller: one reference, to be
 *    given back with the unref function of its type. Memory, paths and descriptors that are passed
 *    in stay the caller's and are not kept.
 *  - Threads. Any function may be called from any thread, on any object, whatever other threads
 *    call on the same object at the same time. Somebody must hold a reference to it until the call
 *    returns. What threads do to the *bytes* of one view is the caller's affair; where it matters
 *    the function says so.
 *  - Signals. No function may be called from a signal handler. Reading and writing the bytes of an
 *    open view there is allowed.
 *  - The library prints nothing, does not abort, starts no thread, installs no signal handler and
 *    reads no environment variable.
 */
#ifndef MEMSNAP_H
#define MEMSNAP_H

#include <stddef.h>

#ifdef __cplusplus
/* g++ -Wshadow minds structures and functions of one name, which C programs are used to. */
#if defined __GNUC__ && !defined __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif
extern "C" {
#endif

/* ---- version and system ---------------------------------------------------------------------- */

/**
 * \brief       The version of this header
 *
 * What the program was compiled with. memsnap_version_string() tells what it runs with.
 *
 * Since: 0.1
 */
#define MEMSNAP_VERSION_MAJOR 0
#define MEMSNAP_VERSION_MINOR 1
#define MEMSNAP_VERSION_PATCH 0

/**
 * \brief       The version of the library that the program runs with
 *
 * \return      "MAJOR.MINOR.PATCH". The string is static; do not free it.
 *
 * Since: 0.1
 */
const char *memsnap_version_string(void);

/**
 * \brief       The size of a page, in bytes
 *
 * Sharing, dirtiness and protection are decided page by page. The size is the operating system's: a
 * power of two, 4096 on many machines, 16384 or 65536 on others. It does not change while the
 * process runs.
 *
 * \return      The size of a page. There is no error.
 *
 * Since: 0.1
 */
size_t memsnap_page_size(void);

/* ---- types ----------------------------------------------------------------------------------- */

/**
 * \brief       A handle to a memory image
 *
 * The image changes only through the snapshot's mutable view (memsnap_snapshot_view_mut()); as long
 * as none was ever opened it never changes. Reference counted: the object goes with its last
 * reference, its memory with the last snapshot or view that uses it.
 *
 * Thread rule: any number of threads may use one snapshot at once, for any calls.
 *
 * Since: 0.1
 */
typedef struct memsnap_snapshot memsnap_snapshot;

/**
 * \brief       An image mapped into the address space
 *
 * Reference counted. A view lives on after the last reference to its snapshot is gone.
 *
 * Thread rule: any number of threads may make calls on one view at once. Loads and stores of its
 * bytes need the same care as those of any memory that threads share; memsnap_view_take_snapshot()
 * and memsnap_view_dirty() read these bytes, and memsnap_view_restore() and
 * memsnap_view_restore_to() write them: see there.
 *
 * Since: 0.1
 */
typedef struct memsnap_view memsnap_view;

/**
 * \brief       A range of bytes in an image
 *
 * Filled in by memsnap_snapshot_diff() and memsnap_view_dirty(). `offset` is a multiple of the page
 * size; `len` is too, but for a range that ends at the end of the image, which ends with the
 * image's last byte.
 *
 * Since: 0.1
 */
struct memsnap_range {
    size_t offset, len;
};

/* ---- making snapshots ------------------------------------------------------------------------ */

/**
 * \brief       Flags of the functions that make a snapshot
 *
 * MEMSNAP_NO_FD holds for a snapshot's children too (what memsnap_snapshot_clone() and
 * memsnap_view_take_snapshot() make from it). The others concern the making alone.
 *
 * Since: 0.1
 */
/** Never use huge pages. Without a MEMSNAP_HUGE_* flag they are used where they pay and can be
 * had: for images of at least half a huge page. A last one that is half used or more is taken
 * whole; what is left of it holds what children change. */
#define MEMSNAP_HUGE_NEVER (1u << 0)
/** Fail with -ENOTSUP unless every whole huge page's worth of the image is stored in a huge
 * page, and so is a rest of half of one or more. */
#define MEMSNAP_HUGE_REQUIRE (1u << 1)
/** Files: map the file instead of keeping an image of it. Whoever changes or truncates the file
 * is seen. */
#define MEMSNAP_FILE_MAP (1u << 2)
/** Files: the mutable view writes to the file. Implies MEMSNAP_FILE_MAP. */
#define MEMSNAP_FILE_SHARED (1u << 3)
/** Keep the image in heap memory and make no descriptor for it: for sandboxes that forbid
 * memfd_create(2) and userfaultfd(2), which are never called. Views are copies, and
 * MEMSNAP_VIEW_TRACK and MEMSNAP_TAKE_ATOMIC are -ENOTSUP. */
#define MEMSNAP_NO_FD (1u << 4)

/**
 * \brief       Make a snapshot of bytes in memory
 *
 * The bytes are copied: afterwards `data` may change or go away. Keep other threads from storing to
 * it during the call.
 *
 * \param       data    The bytes. May be NULL if `size` is 0.
 * \param       size    How many bytes. Any number, 0 included; it is kept exactly.
 * \param       flags   0 or MEMSNAP_HUGE_NEVER, MEMSNAP_HUGE_REQUIRE, MEMSNAP_NO_FD
 * \param       out     The new snapshot, one reference
 *
 * \return      0, or
 *              - -EINVAL: `out` is NULL; `data` is NULL and `size` is not 0; a flag is unknown or
 *                for files; both HUGE flags
 *              - -ENOMEM: out of memory or address space, or `size` is more than an address space
 *                can hold
 *              - -EMLINK: the process has as many memory mappings as the system allows
 *              - -ENOTSUP: MEMSNAP_HUGE_REQUIRE, and huge pages cannot be had (never with
 *                MEMSNAP_NO_FD, nor for an image that is smaller than half a huge page)
 *              - -EMFILE, -ENFILE: the process or the system has no descriptor left
 *              - -EFBIG: beyond RLIMIT_FSIZE
 *              - -ENOSPC, -EDQUOT: the file system that the pages are kept on is full
 *              - -EIO: the pages could not be written
 *              Nothing was made; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_new(const void *data, size_t size, unsigned flags, memsnap_snapshot **out);

/**
 * \brief       Make a snapshot of zeros
 *
 * Takes no memory for pages and no descriptor, whatever the size: pages cost when they are written,
 * and reading them costs nothing. With MEMSNAP_HUGE_REQUIRE all of its memory is made at once, in
 * huge pages.
 *
 * \param       size    How many bytes. Any number, 0 included; it is kept exactly.
 * \param       flags   As for memsnap_snapshot_new()
 * \param       out     The new snapshot, one reference
 *
 * \return      0, or
 *              - -EINVAL: `out` is NULL; a flag is unknown or for files; both HUGE flags
 *              - -ENOMEM: out of memory, or `size` is more than an address space can hold
 *              - -ENOTSUP: MEMSNAP_HUGE_REQUIRE (which makes the memory at once, in huge pages), as
 *                for memsnap_snapshot_new()
 *              Nothing was made; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_new_zeroed(size_t size, unsigned flags, memsnap_snapshot **out);

/**
 * \brief       Make a snapshot of a file
 *
 * By default this is an image of the file as it is now, which nothing that is done to the file
 * later can change. A file that changes during the call may be caught half changed. See
 * MEMSNAP_FILE_MAP and MEMSNAP_FILE_SHARED for the alternatives.
 *
 * \param       path    A regular file. The string stays the caller's. It need not stay where it is.
 * \param       flags   0 or any MEMSNAP_HUGE_*, MEMSNAP_FILE_* or MEMSNAP_NO_FD that go together
 * \param       out     The new snapshot, one reference. Its size is the size of the file.
 *
 * \return      0, or
 *              - -EINVAL: `path` or `out` is NULL; unknown flag; both HUGE flags; MEMSNAP_FILE_*
 *                with MEMSNAP_NO_FD; a FIFO, socket, device or the like
 *              - -EISDIR: a directory
 *              - -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG: there is no such file
 *              - -EACCES, -EROFS: it may not be read, or, with MEMSNAP_FILE_SHARED, not be written
 *              - -EIO: it could not be read, or became shorter while it was
 *              - -EFBIG: it is larger than an address space, or than RLIMIT_FSIZE lets an image be
 *              - -ENOTSUP: MEMSNAP_HUGE_REQUIRE, and huge pages cannot be had (never with
 *                MEMSNAP_FILE_*); or the file system does not let files be mapped
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -ENOSPC, -EDQUOT: as for
 *                memsnap_snapshot_new()
 *              Nothing was made; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_new_from_file(const char *path, unsigned flags, memsnap_snapshot **out);

/**
 * \brief       Make a snapshot of an open file
 *
 * As memsnap_snapshot_new_from_file(). The whole file counts, from its first byte, wherever the
 * descriptor's file offset is; the offset is neither used nor moved. A memfd that is sealed against
 * writing and shrinking (memsnap_snapshot_export_fd() makes such) is adopted as it is: nothing is
 * copied.
 *
 * \param       fd      A regular file or memfd, open for reading (with MEMSNAP_FILE_SHARED: and
 *                      writing). It stays the caller's, who may close it as soon as the call
 *                      returns.
 * \param       flags   As for memsnap_snapshot_new_from_file()
 * \param       out     The new snapshot, one reference. Its size is the size of the file.
 *
 * \return      0, or
 *              - -EBADF: `fd` is not open
 *              - -EACCES: it is not open for reading (with MEMSNAP_FILE_SHARED: and writing)
 *              - -EINVAL, -EISDIR, -EIO, -EFBIG, -ENOTSUP, -ENOMEM, -EMLINK, -EMFILE, -ENFILE,
 *                -ENOSPC, -EDQUOT: as for memsnap_snapshot_new_from_file()
 *              Nothing was made; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_new_from_fd(int fd, unsigned flags, memsnap_snapshot **out);

/**
 * \brief       Make an independent snapshot with the same content
 *
 * Takes constant time and shares all pages. Neither snapshot sees what is done to the other through
 * a mutable view. If a mutable view of `s` is open, the clone is what memsnap_view_take_snapshot()
 * of it would be, without a flag: the same thread rule holds. The clone of a MEMSNAP_FILE_SHARED
 * snapshot is an image of its own, which does not write to the file.
 *
 * \param       s       The snapshot to clone
 * \param       out     The new snapshot, one reference
 *
 * \return      0, or
 *              - -EINVAL: an argument is NULL
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT: as for
 *                memsnap_snapshot_new()
 *              - -EIO, -EBADF: the pages of `s` cannot be reached, see memsnap(7)
 *              Nothing was made, no store through the mutable view is lost, and the call may be
 *              repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_clone(memsnap_snapshot *s, memsnap_snapshot **out);

/* ---- using snapshots ------------------------------------------------------------------------- */

/**
 * \brief       Take one more reference to a snapshot
 *
 * \param       s       A snapshot to which the caller holds a reference
 *
 * \return      `s`. There is no error; NULL for NULL.
 *
 * Since: 0.1
 */
memsnap_snapshot *memsnap_snapshot_ref(memsnap_snapshot *s);

/**
 * \brief       Give back a reference to a snapshot
 *
 * With the last one the snapshot goes, and the memory that no other snapshot or view uses. Views
 * that are open, the mutable one included, stay open. errno is left as it was.
 *
 * \param       s       A snapshot to which the caller holds a reference, or NULL, which is ignored.
 *                      The caller must not use this reference any more.
 *
 * \return      NULL, so that `s = memsnap_snapshot_unref(s);` leaves nothing dangling.
 *
 * Since: 0.1
 */
memsnap_snapshot *memsnap_snapshot_unref(memsnap_snapshot *s);

/**
 * \brief       The size of a snapshot
 *
 * \param       s       A snapshot
 *
 * \return      Bytes, exactly as asked for when it was made: not rounded to pages. 0 for NULL.
 *
 * Since: 0.1
 */
size_t memsnap_snapshot_size(memsnap_snapshot *s);

/**
 * \brief       Copy bytes out of a snapshot, without a view
 *
 * If a mutable view is open, the bytes are those at the moment of the call.
 *
 * \param       s       A snapshot
 * \param       offset  Where to start, at most the snapshot's size
 * \param       buf     Where to put `len` bytes. May be NULL if `len` is 0.
 * \param       len     How many bytes; `offset` + `len` must not exceed the snapshot's size
 *
 * \return      0: all `len` bytes were copied. Or
 *              - -EINVAL: `s` is NULL; `buf` is NULL and `len` is not 0; the range is not inside
 *                the snapshot
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT: a mutable view is
 *                open, and there is no room to keep its modifications
 *              - -EIO, -EBADF: the pages of `s` cannot be reached, see memsnap(7)
 *              The content of `buf` is undefined after -EIO and -EBADF, and unchanged after the
 *              others.
 *
 * Since: 0.1
 */
int memsnap_snapshot_read(memsnap_snapshot *s, size_t offset, void *buf, size_t len);

/**
 * \brief       Find the pages in which two snapshots differ
 *
 * Pages that both share are not looked at; the others are compared, so a page is listed if, and
 * only if, a byte of it differs. Call until the result is 0:
 *
 * \code
 *      struct memsnap_range r[64];
 *      size_t cursor = 0;
 *      int n;
 *      while ((n = memsnap_snapshot_diff(a, b, &cursor, r, 64)) > 0)
 *          for (int i = 0; i < n; i++)
 *              use(r[i].offset, r[i].len);
 * \endcode
 *
 * Each call compares the content at its own moment: if a mutable view is being written to
 * meanwhile, compare clones.
 *
 * \param       a       A snapshot
 * \param       b       A snapshot of the same size. `a` itself is allowed.
 * \param       cursor  In: where to start, in bytes; 0 for the first call. Out: behind what was
 *                      looked at. Not changed by a call that fails.
 * \param       ranges  Filled in with ranges that ascend, do not touch and lie at or after the
 *                      cursor's page. (A run of pages may be cut in two where one call ends and the
 *                      next begins.)
 * \param       max     How many ranges there is room for, at least 1
 *
 * \return      How many ranges were filled in; 0: there are no more. Or
 *              - -EINVAL: a pointer is NULL; the sizes differ; `max` is 0; `*cursor` is beyond the
 *                size
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT, -EIO, -EBADF: as for
 *                memsnap_snapshot_read()
 *              The content of `ranges` is undefined after an error; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_diff(memsnap_snapshot *a, memsnap_snapshot *b, size_t *cursor,
                          struct memsnap_range *ranges, size_t max);

/**
 * \brief       Say how many closed views wait with the snapshot to be opened again
 *
 * A view that is closed is restored and kept, so that the next memsnap_snapshot_view() takes it
 * without a system call. The default is 8. Waiting views cost address space, mappings, and the
 * memory of the pages that were written in them (within a limit; for the whole process 1,024 views
 * and 64 MiB). They give way when a call finds no memory or no mapping left. Nothing that one
 * holder did to a view reaches the next: a view of which the system does not tell that its mapping
 * is as it was (Linux before 6.11, images mapped in several runs) is unmapped instead.
 *
 * \param       s       A snapshot
 * \param       max_views How many, at the most. Those that are too many are unmapped by this call;
 *                      0 turns recycling off.
 *
 * \return      0, or -EINVAL: `s` is NULL
 *
 * Since: 0.1
 */
int memsnap_snapshot_set_recycling(memsnap_snapshot *s, unsigned max_views);

/* ---- opening views --------------------------------------------------------------------------- */

/**
 * \brief       Flags of the functions that open a view
 *
 * Since: 0.1
 */
/** Copy everything now: no page faults later, and nothing in common with the snapshot's memory. */
#define MEMSNAP_VIEW_COPY (1u << 0)
/** Make all pages readable without a page fault. Copies nothing: the first store to a page
 * still faults. */
#define MEMSNAP_VIEW_PREFAULT (1u << 1)
/** Leave the view out of core dumps, where the system can do that. What snapshots have stored
 * in memory objects is in them as part of views only; what they keep in the program's heap
 * (images of at most sixteen pages, and anything with MEMSNAP_NO_FD) is. */
#define MEMSNAP_VIEW_NODUMP (1u << 2)
/** memsnap_snapshot_view_at() only: open the mutable view. */
#define MEMSNAP_VIEW_MUTABLE (1u << 3)
/**
 * The mutable view only: notice which pages are stored to, so that each later take costs what was
 * stored since the one before it. Without it every page that was changed since the first take is
 * looked at each time. The price: the first store to a page after a take costs a page fault again,
 * and pages are brought in one by one when they are first read. What a device stores through memory
 * it has pinned (O_DIRECT or registered io_uring buffers that point into the view) is not noticed:
 * see MEMSNAP_VIEW_PINNABLE. Needs userfaultfd(2), Linux 6.7 and more: else -ENOTSUP.
 */
#define MEMSNAP_VIEW_TRACK (1u << 4)
/**
 * The mutable view only: its pages may be registered with io_uring, or pinned by a device, for as
 * long as it is open. They stay the view's: no take and no thaw exchanges them. So stores never go
 * straight into the snapshot, and every take copies what was changed. memsnap_view_restore_to() may
 * still exchange pages. Not with MEMSNAP_VIEW_TRACK: -EINVAL.
 */
#define MEMSNAP_VIEW_PINNABLE (1u << 5)

/**
 * \brief       Open a private, copy-on-write view of a snapshot
 *
 * The view shows the snapshot as it is at the moment of the call, stores through an open mutable
 * view included (with the thread rule of memsnap_view_take_snapshot()), and never sees a later one.
 * All of it may be read and written; what is written is seen by the users of this view alone. Any
 * number of views may be open at once.
 *
 * \param       s       A snapshot. The view keeps what it needs of it: the caller's reference may
 *                      go.
 * \param       flags   0 or MEMSNAP_VIEW_COPY, MEMSNAP_VIEW_PREFAULT, MEMSNAP_VIEW_NODUMP
 * \param       out     The new view, one reference
 *
 * \return      0, or
 *              - -EINVAL: an argument is NULL; unknown flag, MEMSNAP_VIEW_MUTABLE or
 *                MEMSNAP_VIEW_TRACK
 *              - -ENOMEM: out of memory or address space (RLIMIT_AS, RLIMIT_DATA and strict
 *                overcommit included)
 *              - -EMLINK: the process has as many memory mappings as the system allows; unmapping
 *                any helps
 *              - -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT: a mutable view is open, and there is
 *                no room to keep its modifications
 *              - -EIO, -EBADF: the pages of `s` cannot be reached, see memsnap(7)
 *              Nothing was opened; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_view(memsnap_snapshot *s, unsigned flags, memsnap_view **out);

/**
 * \brief       Open the mutable view of a snapshot
 *
 * What is stored through it changes the snapshot: it is seen by every view, clone, take, read, diff
 * and save of the snapshot made afterwards, and by no view opened before. There is one at a time.
 * Closing it (the last memsnap_view_unref()) loses nothing; afterwards another may be opened.
 *
 * \param       s       A snapshot. The view keeps what it needs of it: the caller's reference may
 *                      go.
 * \param       flags   0 or MEMSNAP_VIEW_PREFAULT, MEMSNAP_VIEW_NODUMP, MEMSNAP_VIEW_COPY
 *                      (accepted, but the bytes are the snapshot's: it promises nothing),
 *                      MEMSNAP_VIEW_TRACK or MEMSNAP_VIEW_PINNABLE
 * \param       out     The new view, one reference
 *
 * \return      0, or
 *              - -EBUSY: a mutable view of `s` is open; close it first
 *              - -ENOTSUP: MEMSNAP_VIEW_TRACK, and it cannot be had here, or `s` was made with
 *                MEMSNAP_FILE_SHARED
 *              - -EINVAL, -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT, -EIO,
 *                -EBADF: as for memsnap_snapshot_view()
 *              Nothing was opened; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_view_mut(memsnap_snapshot *s, unsigned flags, memsnap_view **out);

/**
 * \brief       Open a view at a given address
 *
 * For images that hold pointers into themselves. The view starts at `address` and nowhere else, and
 * nothing that is mapped there is replaced. Such a view is never recycled.
 *
 * \param       s       A snapshot. The view keeps what it needs of it: the caller's reference may
 *                      go.
 * \param       address Where the view starts: a multiple of the page size, not NULL. A multiple of
 *                      2 MiB lets huge pages be used.
 * \param       flags   As for memsnap_snapshot_view(). MEMSNAP_VIEW_MUTABLE: open the mutable view,
 *                      as memsnap_snapshot_view_mut() does; then also MEMSNAP_VIEW_TRACK or
 *                      MEMSNAP_VIEW_PINNABLE.
 * \param       out     The new view, one reference
 *
 * \return      0, or
 *              - -EEXIST: something is mapped in the range
 *              - -EBUSY: MEMSNAP_VIEW_MUTABLE, and a mutable view of `s` is open
 *              - -ENOTSUP: MEMSNAP_VIEW_TRACK, as for memsnap_snapshot_view_mut()
 *              - -EINVAL: also if `address` is NULL or not a multiple of the page size
 *              - -ENOMEM: also if the range is not within the address space
 *              - -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT, -EIO, -EBADF: as for
 *                memsnap_snapshot_view()
 *              Nothing was opened; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_view_at(memsnap_snapshot *s, void *address, unsigned flags,
                             memsnap_view **out);

/* ---- using views ----------------------------------------------------------------------------- */

/**
 * \brief       Take one more reference to a view
 *
 * \param       v       A view to which the caller holds a reference
 *
 * \return      `v`. There is no error; NULL for NULL.
 *
 * Since: 0.1
 */
memsnap_view *memsnap_view_ref(memsnap_view *v);

/**
 * \brief       Give back a reference to a view
 *
 * The last one closes the view: what was stored in an ordinary view is gone; what was stored
 * through a mutable view is in the snapshot. This cannot fail. errno is left as it was.
 *
 * \param       v       A view to which the caller holds a reference, or NULL, which is ignored.
 *                      After the last reference no thread may touch the view's memory any more.
 *
 * \return      NULL
 *
 * Since: 0.1
 */
memsnap_view *memsnap_view_unref(memsnap_view *v);

/**
 * \brief       The address of a view's first byte
 *
 * \param       v       A view
 *
 * \return      A page-aligned address, the same for as long as the view lives. Not NULL, not even
 *              for an empty snapshot. (NULL for NULL.)
 *
 * Since: 0.1
 */
void *memsnap_view_data(memsnap_view *v);

/**
 * \brief       The size of a view
 *
 * \param       v       A view
 *
 * \return      Bytes: exactly the snapshot's size. The rest of the last page reads as zeros in a
 *              new view; it is not part of the image, and what is stored there is not kept. 0 for
 *              NULL.
 *
 * Since: 0.1
 */
size_t memsnap_view_size(memsnap_view *v);

/**
 * \brief       Whether a view is a mutable view
 *
 * \param       v       A view
 *
 * \return      1 if stores through it change its snapshot; 0 if they are private, and for NULL
 *
 * Since: 0.1
 */
int memsnap_view_is_mutable(memsnap_view *v);

/**
 * \brief       Flag of memsnap_view_take_snapshot(): the view at a single instant, or -ENOTSUP
 *
 * Since: 0.1
 */
#define MEMSNAP_TAKE_ATOMIC (1u << 0)

/**
 * \brief       Make a snapshot of what a view holds
 *
 * Costs time and memory for the pages that were modified; all others are shared with the view's
 * base. The new snapshot is independent of `v` and of its snapshot. `v` keeps its address, its
 * content and its base: a later memsnap_view_restore() goes back to what it was opened on, not to
 * this snapshot.
 *
 * Thread rule: a store that another thread makes during the call never gets lost from the view.
 * With MEMSNAP_TAKE_ATOMIC the new snapshot is the view at one instant: it has all stores made
 * before and none made after. Without the flag that is promised for the first cut only of a mutable
 * view whose pages nobody else shares, after it was opened or thawed (where the flag costs
 * nothing); otherwise keep writers off, or the new snapshot may hold half a store.
 *
 * \param       v       A view of either kind. Pages that are protected are taken like the others.
 * \param       flags   0 or MEMSNAP_TAKE_ATOMIC: stop threads that store to the view until the
 *                      snapshot is made
 * \param       out     The new snapshot, one reference
 *
 * \return      0, or
 *              - -EINVAL: an argument is NULL; unknown flag
 *              - -ENOTSUP: MEMSNAP_TAKE_ATOMIC, and the writers of this view cannot be stopped
 *                here; try without the flag, with writers kept off
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT: as for
 *                memsnap_snapshot_new()
 *              - -EIO, -EBADF: pages cannot be reached, see memsnap(7); or an earlier restore
 *                failed (-EIO)
 *              Nothing was made, the view is as it was, and the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_view_take_snapshot(memsnap_view *v, unsigned flags, memsnap_snapshot **out);

/**
 * \brief       Put a view back to its base
 *
 * The base is what the view was opened on, or the snapshot of the last memsnap_view_restore_to().
 * All pages become readable and writable again. A mutable view always equals its snapshot, so no
 * byte of it changes; only protections are put back.
 *
 * Thread rule: keep other threads from loads and stores in an ordinary view during the call. A
 * store made meanwhile may stay or go.
 *
 * \param       v       A view of either kind
 *
 * \return      0, or
 *              - -EINVAL: `v` is NULL
 *              - -ENOMEM, -EMLINK, -EIO, -EBADF: the view cannot be put back now. Some of its pages
 *                may have been restored already and others not. The address is the same, and the
 *                call may be repeated. Until a restore succeeds memsnap_view_take_snapshot() and
 *                memsnap_view_dirty() may return -EIO.
 *
 * Since: 0.1
 */
int memsnap_view_restore(memsnap_view *v);

/**
 * \brief       Make a view show another snapshot, in place
 *
 * Afterwards the view holds what `s` holds at the moment of the call, at the same address, readable
 * and writable everywhere, and `s` (as it is now) is its base. Only pages that differ are touched.
 * On a mutable view this rolls the snapshot itself back (or forward): it is as if the bytes had
 * been stored.
 *
 * Thread rule: as for an ordinary view with memsnap_view_restore(), for both kinds. Threads may
 * store meanwhile only where no byte can change: in a mutable view that is restored to its own
 * snapshot.
 *
 * \param       v       A view of either kind
 * \param       s       A snapshot of the same size. It need not be related to the view's own. It is
 *                      not changed by what is stored in the view later.
 *
 * \return      0, or
 *              - -EINVAL: an argument is NULL; the sizes differ
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT, -EIO, -EBADF: as for
 *                memsnap_view_restore(), and the base is still the old one: memsnap_view_restore()
 *                goes back to that. A mutable view has no such base: until a
 *                memsnap_view_restore_to() succeeds its snapshot may be partly the one and partly
 *                the other. Clone it first where that must not be. Where not even that can be said,
 *                calls that need its content return -EIO as long as the view is open; once it is
 *                closed the snapshot holds what `s` held.
 *
 * Since: 0.1
 */
int memsnap_view_restore_to(memsnap_view *v, memsnap_snapshot *s);

/**
 * \brief       What may be done with a page: the `access` of memsnap_view_protect()
 *
 * MEMSNAP_ACCESS_WRITE implies MEMSNAP_ACCESS_READ.
 *
 * Since: 0.1
 */
#define MEMSNAP_ACCESS_NONE 0
#define MEMSNAP_ACCESS_READ (1 << 0)
#define MEMSNAP_ACCESS_WRITE (1 << 1)
#define MEMSNAP_ACCESS_EXEC (1 << 2)

/**
 * \brief       Change what may be done with pages of a view
 *
 * An access that is not allowed is a SIGSEGV, as after mprotect(2). Lasts until the next
 * memsnap_view_protect(), memsnap_view_restore() or memsnap_view_restore_to(), or until the view is
 * closed. The library itself takes, compares and restores protected pages like all others. Use this
 * function rather than mprotect(2).
 *
 * \param       v       A view of either kind
 * \param       offset  A multiple of the page size, at most the view's size
 * \param       len     A multiple of the page size, or such that `offset` + `len` is the view's
 *                      size. 0: nothing is done.
 * \param       access  MEMSNAP_ACCESS_NONE, or any of the others, or-ed
 *
 * \return      0, or
 *              - -EINVAL: `v` is NULL; the range is not aligned or not inside the view; unknown bit
 *                in `access`
 *              - -EACCES: the system does not allow this access (MEMSNAP_ACCESS_EXEC, often)
 *              - -ENOMEM: out of memory
 *              - -EMLINK: the process has as many memory mappings as the system allows
 *              - -EBADF: a mutable view in a forked child
 *              The protections are as they were. Should the system refuse that (-EMLINK, as other
 *              threads use up the mappings), no page of the view may be accessed until this
 *              function or memsnap_view_restore() has allowed it again; the same holds for other
 *              calls on the view that return -EMLINK or -ENOMEM.
 *
 * Since: 0.1
 */
int memsnap_view_protect(memsnap_view *v, size_t offset, size_t len, int access);

/**
 * \brief       Find the pages of a view that differ from its base
 *
 * Exact: a page that was written, but holds what the base holds, is not listed. A mutable view is
 * its own base, so nothing is ever listed. The cursor and the ranges work as in
 * memsnap_snapshot_diff().
 *
 * Thread rule: a page to which another thread is just storing may be listed or not.
 *
 * \param       v       A view
 * \param       cursor  In: where to start, in bytes; 0 for the first call. Out: behind what was
 *                      looked at. Not changed by a call that fails.
 * \param       ranges  Filled in with ranges that ascend, do not touch and lie at or after the
 *                      cursor's page
 * \param       max     How many ranges there is room for, at least 1
 *
 * \return      How many ranges were filled in; 0: there are no more. Or
 *              - -EINVAL: a pointer is NULL; `max` is 0; `*cursor` is beyond the view's size
 *              - -ENOMEM, -EMLINK, -EIO, -EBADF: pages cannot be looked at, see memsnap(7)
 *              The content of `ranges` is undefined after an error; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_view_dirty(memsnap_view *v, size_t *cursor, struct memsnap_range *ranges, size_t max);

/**
 * \brief       Make what was stored in a MEMSNAP_FILE_SHARED mutable view durable in the file
 *
 * When the call returns, all stores to the range made before it are on the storage device, as after
 * fsync(2).
 *
 * \param       v       The mutable view of a snapshot made with MEMSNAP_FILE_SHARED
 * \param       offset  Where the range starts, at most the view's size. It need not be aligned.
 * \param       len     How many bytes; `offset` + `len` must not exceed the view's size. 0: nothing
 *                      is done.
 *
 * \return      0, or
 *              - -EINVAL: `v` is NULL or another kind of view; the range is not inside the view
 *              - -EIO, -ENOSPC, -EDQUOT: the bytes could not be written. Assume that some were and
 *                some were not; the view still holds all of them.
 *              - -EBADF: the file's descriptor was closed behind the library's back, or the process
 *                is a forked child
 *
 * Since: 0.1
 */
int memsnap_view_flush(memsnap_view *v, size_t offset, size_t len);

/**
 * \brief       Flag of memsnap_view_thaw(): threads may be storing to the view
 *
 * Since: 0.1
 */
#define MEMSNAP_THAW_LIVE (1u << 0)

/**
 * \brief       Let stores to a mutable view go straight into its snapshot again
 *
 * When a snapshot of a mutable view is taken the first time, no page is copied: what is stored from
 * then on becomes private to the view, and later takes have to look for it, compare it and copy it.
 * Once the snapshot taken has been freed that can be undone while the view is open: what is private
 * moves back, and the next take is an exchange of the mapping again, a single instant of some 0.3
 * ms whatever was stored. No byte of the view changes, and its address stays.
 *
 * It goes over the view in steps of 2 MiB, and over `max` bytes at the most, so that a program can
 * do it bit by bit. Every other call on the view and its snapshot may come between two steps. One
 * that needs the snapshot's content (a take, a view, a clone, a save) gets it, and the next thaw
 * begins anew, with what was stored since.
 *
 * What was stored behind the end of the snapshot, in its last page, may become zero. Pages that a
 * device or io_uring has pinned lose their tie to the view, as they do at a take: see
 * MEMSNAP_VIEW_PINNABLE.
 *
 * Thread rule: with MEMSNAP_THAW_LIVE other threads may load and store meanwhile. One that stores
 * to the 2 MiB of a step waits for it, less than 1 ms on an idle machine; no store is lost. A
 * system call that stores there waits, too, or fails with EFAULT where the process is allowed
 * userfaultfd(2) for user mode only. Without the flag the caller keeps stores off.
 *
 * \param       v       A mutable view
 * \param       flags   0 or MEMSNAP_THAW_LIVE
 * \param       max     How many bytes of the view to go over, not 0. Less than a step is a step.
 *                      SIZE_MAX: all of it.
 *
 * \return      1: there is more to do. 0: it is done, or there was nothing to do (always so for
 *              MEMSNAP_FILE_SHARED). Or
 *              - -EINVAL: `v` is NULL or no mutable view; unknown flag; `max` is 0
 *              - -EBUSY: a snapshot, view or call in progress still refers to pages of the
 *                snapshot; try again when it is gone
 *              - -ENOTSUP: stores cannot go into the snapshot (MEMSNAP_NO_FD, or heap memory is all
 *                that can be had; MEMSNAP_VIEW_PINNABLE); or MEMSNAP_THAW_LIVE, and threads cannot
 *                be stopped here: try without it, with stores kept off
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT: as for
 *                memsnap_snapshot_new()
 *              - -EIO, -EBADF: as for memsnap_view_take_snapshot()
 *              After an error the view is as it was, or thawed further; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_view_thaw(memsnap_view *v, unsigned flags, size_t max);

/* ---- keeping and sharing --------------------------------------------------------------------- */

/**
 * \brief       Flags of the functions that write a file
 *
 * Since: 0.1
 */
/** Do not wait for the storage device. By default the file's content and its directory entry
 * are synced. */
#define MEMSNAP_SAVE_NOSYNC (1u << 0)
/** Fail with -EEXIST rather than replace a file. */
#define MEMSNAP_SAVE_EXCL (1u << 1)

/**
 * \brief       Write a snapshot to a file, as plain bytes
 *
 * The file holds the image and nothing else: memsnap_snapshot_size() bytes, with holes where the
 * image is zero and the file system has holes. It is written without a name or under a temporary
 * one in the same directory, and put in its place when it is whole: at every instant, also after a
 * crash, `path` names the old file or the whole new one, and when the call has returned 0 the new
 * one is there to stay. (A process that is killed may leave the temporary name, ".NAME.memsnap",
 * with "-" and 16 digits if several do; the next save to `path` removes it.)
 *
 * A file that is replaced hands on its permissions and access control list, and its owner and group
 * where the process may set them, as they are at the end of the call. Where something of this
 * cannot be kept the new file allows less, never more. A new file has mode 0666 less the umask.
 * What has the name is looked at when the call begins and again before it is replaced.
 *
 * If a mutable view is open, what is saved is the snapshot at the moment of the call, with the
 * thread rule of memsnap_view_take_snapshot() without a flag. From then on other threads store,
 * open and take while the file is being written.
 *
 * \param       s       A snapshot
 * \param       path    The file to write. The string stays the caller's. A symbolic link is
 *                      followed; in a sticky directory where anybody may make one, only if it is
 *                      the caller's or the directory owner's.
 * \param       flags   0 or MEMSNAP_SAVE_NOSYNC, MEMSNAP_SAVE_EXCL
 *
 * \return      0, or
 *              - -EINVAL: a pointer is NULL; unknown flag; `path` is a FIFO, socket, device or the
 *                like
 *              - -EEXIST: MEMSNAP_SAVE_EXCL, and there is something at `path`
 *              - -EISDIR: `path` is a directory
 *              - -EBUSY: `path` is the file of a MEMSNAP_FILE_SHARED snapshot that exists in this
 *                process, or something is mounted on it
 *              - -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG: the directory does not exist, the name
 *                is too long, `path` leads over /proc to a file that has lost its name, or has
 *                become a symbolic link during the call
 *              - -EACCES, -EROFS: the directory may not be written to, a link not be followed, or
 *                the system calls that rename are forbidden
 *              - -ENOSPC, -EDQUOT, -EFBIG, -EIO: no room, no quota, beyond RLIMIT_FSIZE or what the
 *                file system can hold, or a failing device
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EBADF: as for memsnap_snapshot_clone()
 *              What was at `path` is still there and the temporary file is gone, unless it is the
 *              name that could not be made durable (-EIO): then the new file is there, but may not
 *              survive a crash. The call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_save(memsnap_snapshot *s, const char *path, unsigned flags);

/**
 * \brief       Write what differs between a snapshot and a base to a file
 *
 * The file is small if the difference is; of what both share only a bounded sample is read, by
 * which the base is known again. It can be loaded with a base that holds the same bytes, whether or
 * not it is the same object, on any machine: byte order and page size do not matter. Everything in
 * it is under a checksum. doc/file-format.txt describes it.
 *
 * \param       s       A snapshot
 * \param       base    A snapshot of the same size
 * \param       path    The file to write, as in memsnap_snapshot_save()
 * \param       flags   As for memsnap_snapshot_save()
 *
 * \return      0, or
 *              - -EINVAL: also if the sizes differ
 *              - the others of memsnap_snapshot_save(), and what that says of them
 *
 * Since: 0.1
 */
int memsnap_snapshot_save_delta(memsnap_snapshot *s, memsnap_snapshot *base, const char *path,
                                unsigned flags);

/**
 * \brief       Make a snapshot from a base and a file of memsnap_snapshot_save_delta()
 *
 * The result shares all pages with `base` but those that the file has. All checksums are verified
 * before anything is returned: those of the file, and those of the base's blocks that it replaces
 * or samples (a base that differs elsewhere only is not noticed). Needs no more memory than the
 * result, and no more time than the file and what is stored of the base take to read, whatever the
 * file says.
 *
 * \param       base    A snapshot with the content that the file was made against. It is not
 *                      changed.
 * \param       path    The file. The string stays the caller's.
 * \param       flags   0 or MEMSNAP_HUGE_NEVER
 * \param       out     The new snapshot, one reference
 *
 * \return      0, or
 *              - -EINVAL: a pointer is NULL; unknown flag; `path` is a FIFO, socket, device or the
 *                like; the file was made against another base
 *              - -EBADMSG: not such a file, or a damaged one
 *              - -ENOTSUP: the file needs a feature that this version does not know
 *              - -EISDIR, -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG, -EACCES, -EIO: the file cannot
 *                be read
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EBADF: as for
 *                memsnap_snapshot_clone()
 *              Nothing was made; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_load_delta(memsnap_snapshot *base, const char *path, unsigned flags,
                                memsnap_snapshot **out);

/**
 * \brief       Get a descriptor to hand the image to another process
 *
 * The descriptor is a memfd that is open for reading only, close-on-exec, and sealed: nobody, the
 * caller included, can change, grow or shrink it. Send it over a Unix socket, or clear its
 * close-on-exec flag for a child; memsnap_snapshot_new_from_fd() adopts it without a copy, and its
 * views are copy-on-write as here. Takes constant time where the image is a whole memfd already,
 * and copies it otherwise.
 *
 * \param       s       A snapshot
 * \param       fd      The descriptor. It is the caller's to close; the snapshot may go before or
 *                      after.
 *
 * \return      0, or
 *              - -EINVAL: an argument is NULL
 *              - -ENOTSUP: the system has no sealed memory objects, or the snapshot was made with
 *                MEMSNAP_NO_FD
 *              - -ENOMEM, -EMLINK, -EMFILE, -ENFILE, -EFBIG, -ENOSPC, -EDQUOT, -EIO, -EBADF: as for
 *                memsnap_snapshot_clone()
 *              Nothing was opened; the call may be repeated.
 *
 * Since: 0.1
 */
int memsnap_snapshot_export_fd(memsnap_snapshot *s, int *fd);

/* ---- what it costs --------------------------------------------------------------------------- */

/**
 * \brief       What a snapshot costs
 *
 * Set `size` to sizeof(struct memsnap_snapshot_stats) and the rest to anything. The structure may
 * grow at its end in later versions; a program and a library of different versions understand each
 * other through `size`.
 *
 * The figures are those of the image as it was when somebody last needed it: what was stored
 * through a mutable view since then is not in them.
 *
 * Since: 0.1
 */
struct memsnap_snapshot_stats {
    /** Set by the caller: the size of this structure, in bytes. Not changed. */
    size_t size;
    /** Bytes in chunks that this snapshot's image refers to. A chunk counts whole, and once. */
    size_t stored_bytes;
    /** Of these, bytes in chunks that nothing else refers to: what would be freed with this
     * snapshot. */
    size_t exclusive_bytes;
    /** Bytes that are really backed by huge pages. */
    size_t huge_bytes;
    /** Runs of pages that the image consists of; zero pages are in none. */
    size_t extents;
    /** Chunks that the image refers to. */
    size_t chunks;
    /** Closed views that wait to be opened again. */
    size_t parked_views;
    /** Where the pages are: "memfd", "file", "heap", or "none" if nothing was stored yet.
     * Static. */
    const char *backend;
};

/**
 * \brief       What a view costs
 *
 * `size` as in struct memsnap_snapshot_stats.
 *
 * Since: 0.1
 */
struct memsnap_view_stats {
    /** Set by the caller: the size of this structure, in bytes. Not changed. */
    size_t size;
    /** Bytes that are mapped from where the snapshot is stored. Zero pages and pages copied in
     * are not. */
    size_t mapped_bytes;
    /** Bytes in pages of the view's own, copied or written. All of them where `dirty_source` is
     * "compare". */
    size_t private_bytes;
    /** Memory mappings that opening the view took; protections may split them further. */
    size_t mappings;
    /** Pages that were copied rather than mapped when the view was opened. */
    size_t copied_pages;
    /** How often the view was restored. A recycled view brings its counts along. */
    size_t restores;
    /** Pages that restoring copied back. */
    size_t restored_pages;
    /** How often restoring dropped all of the view's pages at once, or mapped them anew. */
    size_t remaps;
    /** How modified pages are found: "pagemap-scan", "pagemap", "compare"; "write-protect" with
     * MEMSNAP_VIEW_TRACK. Static. */
    const char *dirty_source;
    /** Private pages that restoring dropped one by one or in runs, because it is cheaper to
     * take a page fault for them than to keep them. */
    size_t dropped_pages;
};

/**
 * \brief       Ask what a snapshot costs
 *
 * The figures belong to one moment, and may be out of date as soon as other threads go on.
 *
 * \param       s       A snapshot
 * \param       stats   `size` set by the caller. What lies within `size` and is known to this
 *                      library is filled in; the rest stays as it is.
 *
 * \return      0, or
 *              - -EINVAL: an argument is NULL; `size` is smaller than the member itself
 *              - -ENOMEM: out of memory
 *              Nothing was filled in.
 *
 * Since: 0.1
 */
int memsnap_snapshot_stats(memsnap_snapshot *s, struct memsnap_snapshot_stats *stats);

/**
 * \brief       Ask what a view costs
 *
 * The figures belong to one moment, and may be out of date as soon as other threads go on.
 *
 * \param       v       A view of either kind
 * \param       stats   As for memsnap_snapshot_stats()
 *
 * \return      0, or
 *              - -EINVAL: an argument is NULL; `size` is smaller than the member itself
 *              - -EBADF: a mutable view in a forked child
 *              Nothing was filled in.
 *
 * Since: 0.1
 */
int memsnap_view_stats(memsnap_view *v, struct memsnap_view_stats *stats);

#ifdef __cplusplus
}
#if defined __GNUC__ && !defined __clang__
#pragma GCC diagnostic pop
#endif
#endif

#endif
