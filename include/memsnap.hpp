/**
 * \file        memsnap.hpp
 * \brief       libmemsnap for C++: handles that count their references, and exceptions
 *
 * Header only; needs C++11 and memsnap.h, which has the contract of every call. This file says
 * what is different in C++. memsnap.hpp(3) has a whole program.
 *
 *  - Handles. memsnap::snapshot and memsnap::view each hold one reference, or none. Copying a
 *    handle takes one more reference to the same object, moving hands the reference on, and the
 *    destructor gives it back. snapshot::clone() is what makes another snapshot.
 *  - Errors. A call that fails throws std::system_error with the errno value in
 *    std::generic_category() and the name of the C function. What is true of the objects then is
 *    what memsnap.h says of that error. Functions marked noexcept have no error.
 *  - Empty handles. Calls on an empty handle fail with EINVAL; size(), data() and is_mutable()
 *    return 0, a null pointer and false.
 *  - Constness is the handle's, as in std::shared_ptr: a const view can be written through.
 *  - Threads. As in memsnap.h for the objects. A handle is like any other variable: threads may
 *    use its const functions at once, and none may assign to it meanwhile.
 *  - Flags are the MEMSNAP_* constants of memsnap.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef MEMSNAP_HPP
#define MEMSNAP_HPP

#include <cerrno>
#include <cstddef>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#if __cplusplus >= 202002L
#include <version>
#endif
#ifdef __cpp_lib_span
#include <span>
#endif

#include <memsnap.h>

namespace memsnap
{

/** A range of bytes in an image: `offset` and `len`. Since: 0.1 */
using range = ::memsnap_range;

/**
 * What a snapshot or a view costs; the functions that return them set `size`. (In C++ the name of
 * such a structure means the function of the same name, unless "struct" stands before it.)
 * Since: 0.1
 */
using snapshot_stats = struct ::memsnap_snapshot_stats;
using view_stats = struct ::memsnap_view_stats;

/** The version of the library that the program runs with, "MAJOR.MINOR.PATCH". Since: 0.1 */
inline const char *version_string() noexcept
{
    return ::memsnap_version_string();
}

/** The size of a page, in bytes. Since: 0.1 */
inline std::size_t page_size() noexcept
{
    return ::memsnap_page_size();
}

/* ---- what the classes are made of; not for programs ------------------------------------------ */

namespace detail
{

/* A negative result becomes an exception, any other is returned. */
inline int check(int result, const char *function)
{
    if (result < 0)
        throw std::system_error(-result, std::generic_category(), function);
    return result;
}

/* A string as C takes it. A path with a null byte in it would name another file. */
inline const char *c_path(const std::string &path, const char *function)
{
    if (path.find('\0') != std::string::npos)
        check(-EINVAL, function);
    return path.c_str();
}

/* Calls found(range) for all ranges that next(cursor, ranges, max) finds. */
template <class Next, class Found> void each_range(Next next, Found &found)
{
    constexpr std::size_t max = 64;
    range ranges[max];
    std::size_t cursor = 0;
    while (int n = next(&cursor, ranges, max))
        for (int i = 0; i < n; i++)
            found(ranges[i]);
}

/* One reference to a T, or none. */
template <class T, T *(*Ref)(T *), T *(*Unref)(T *)> class handle
{
  public:
    handle() noexcept : object(nullptr)
    {
    }
    handle(const handle &other) noexcept : object(Ref(other.object))
    {
    }
    handle(handle &&other) noexcept : object(other.release())
    {
    }
    ~handle()
    {
        Unref(object);
    }
    handle &operator=(const handle &other) noexcept
    {
        handle(other).swap(*this);
        return *this;
    }
    handle &operator=(handle &&other) noexcept
    {
        handle(std::move(other)).swap(*this);
        return *this;
    }

    void swap(handle &other) noexcept
    {
        std::swap(object, other.object);
    }
    /** Gives the reference back: the handle is empty. */
    void reset() noexcept
    {
        handle().swap(*this);
    }
    /** The object for calls of memsnap.h; the reference stays the handle's. */
    T *get() const noexcept
    {
        return object;
    }
    /** The object with its reference, which is the caller's to give back: the handle is empty. */
    T *release() noexcept
    {
        T *released = object;
        object = nullptr;
        return released;
    }
    explicit operator bool() const noexcept
    {
        return object != nullptr;
    }
    /** Whether both hold the same object, or none. What they contain is not compared. */
    friend bool operator==(const handle &a, const handle &b) noexcept
    {
        return a.object == b.object;
    }
    friend bool operator!=(const handle &a, const handle &b) noexcept
    {
        return a.object != b.object;
    }

  protected:
    explicit handle(T *adopted) noexcept : object(adopted)
    {
    }

  private:
    T *object;
};

using snapshot_handle =
    handle<::memsnap_snapshot, ::memsnap_snapshot_ref, ::memsnap_snapshot_unref>;
using view_handle = handle<::memsnap_view, ::memsnap_view_ref, ::memsnap_view_unref>;

} // namespace detail

/* ---- snapshots ------------------------------------------------------------------------------- */

class view;

/** A handle to a memory image. Since: 0.1 */
class snapshot : public detail::snapshot_handle
{
  public:
    /** An empty handle. */
    snapshot() noexcept = default;
    /** A handle that takes over a reference of the caller's. */
    static snapshot adopt(::memsnap_snapshot *s) noexcept
    {
        return snapshot(s);
    }

    /** memsnap_snapshot_new(): an image of these bytes, which are copied. */
    static snapshot from_bytes(const void *data, std::size_t size, unsigned flags = 0)
    {
        ::memsnap_snapshot *s;
        detail::check(::memsnap_snapshot_new(data, size, flags, &s), "memsnap_snapshot_new");
        return snapshot(s);
    }
#ifdef __cpp_lib_span
    static snapshot from_bytes(std::span<const std::byte> bytes, unsigned flags = 0)
    {
        return from_bytes(bytes.data(), bytes.size(), flags);
    }
#endif
    /** memsnap_snapshot_new_zeroed(): `size` bytes of zeros. */
    static snapshot zeroed(std::size_t size, unsigned flags = 0)
    {
        ::memsnap_snapshot *s;
        detail::check(::memsnap_snapshot_new_zeroed(size, flags, &s),
                      "memsnap_snapshot_new_zeroed");
        return snapshot(s);
    }
    /** memsnap_snapshot_new_from_file(): an image of a file. */
    static snapshot from_file(const std::string &path, unsigned flags = 0)
    {
        const char *function = "memsnap_snapshot_new_from_file";
        ::memsnap_snapshot *s;
        detail::check(::memsnap_snapshot_new_from_file(detail::c_path(path, function), flags, &s),
                      function);
        return snapshot(s);
    }
    /** memsnap_snapshot_new_from_fd(): an image of an open file. `fd` stays the caller's. */
    static snapshot from_fd(int fd, unsigned flags = 0)
    {
        ::memsnap_snapshot *s;
        detail::check(::memsnap_snapshot_new_from_fd(fd, flags, &s),
                      "memsnap_snapshot_new_from_fd");
        return snapshot(s);
    }
    /** memsnap_snapshot_load_delta(): `base`, changed as a file of save_delta() says. */
    static snapshot load_delta(const snapshot &base, const std::string &path, unsigned flags = 0)
    {
        const char *function = "memsnap_snapshot_load_delta";
        ::memsnap_snapshot *s;
        detail::check(::memsnap_snapshot_load_delta(base.get(), detail::c_path(path, function),
                                                    flags, &s),
                      function);
        return snapshot(s);
    }

    /** memsnap_snapshot_clone(): another snapshot with the same content. */
    snapshot clone() const
    {
        ::memsnap_snapshot *s;
        detail::check(::memsnap_snapshot_clone(get(), &s), "memsnap_snapshot_clone");
        return snapshot(s);
    }
    /** Bytes. */
    std::size_t size() const noexcept
    {
        return ::memsnap_snapshot_size(get());
    }
    /** memsnap_snapshot_read(): copies `len` bytes from `offset` on to `buf`. */
    void read(std::size_t offset, void *buf, std::size_t len) const
    {
        detail::check(::memsnap_snapshot_read(get(), offset, buf, len), "memsnap_snapshot_read");
    }
#ifdef __cpp_lib_span
    void read(std::size_t offset, std::span<std::byte> buf) const
    {
        read(offset, buf.data(), buf.size());
    }
#endif
    /**
     * memsnap_snapshot_diff(): calls found(range) for each run of pages in which this snapshot
     * and `other` differ, in ascending order. What `found` throws ends the search.
     */
    template <class Found> void diff(const snapshot &other, Found found) const
    {
        detail::each_range(
            [&](std::size_t *cursor, range *ranges, std::size_t max) {
                return detail::check(::memsnap_snapshot_diff(get(), other.get(), cursor, ranges,
                                                             max),
                                     "memsnap_snapshot_diff");
            },
            found);
    }
    /** All of these ranges. */
    std::vector<range> diff(const snapshot &other) const
    {
        std::vector<range> all;
        diff(other, [&](const range &r) { all.push_back(r); });
        return all;
    }
    /** memsnap_snapshot_set_recycling(): how many closed views wait to be opened again. */
    void set_recycling(unsigned max_views) const
    {
        detail::check(::memsnap_snapshot_set_recycling(get(), max_views),
                      "memsnap_snapshot_set_recycling");
    }

    /** memsnap_snapshot_view(): a private, copy-on-write view. */
    memsnap::view view(unsigned flags = 0) const;
    /** memsnap_snapshot_view_mut(): the mutable view. */
    memsnap::view view_mut(unsigned flags = 0) const;
    /** memsnap_snapshot_view_at(): a view that starts at `address`. */
    memsnap::view view_at(void *address, unsigned flags = 0) const;

    /** memsnap_snapshot_save(): writes the image to a file, as plain bytes. */
    void save(const std::string &path, unsigned flags = 0) const
    {
        const char *function = "memsnap_snapshot_save";
        detail::check(::memsnap_snapshot_save(get(), detail::c_path(path, function), flags),
                      function);
    }
    /** memsnap_snapshot_save_delta(): writes what differs from `base` to a file. */
    void save_delta(const snapshot &base, const std::string &path, unsigned flags = 0) const
    {
        const char *function = "memsnap_snapshot_save_delta";
        detail::check(::memsnap_snapshot_save_delta(get(), base.get(),
                                                    detail::c_path(path, function), flags),
                      function);
    }
    /** memsnap_snapshot_export_fd(): a sealed descriptor, which the caller is to close. */
    int export_fd() const
    {
        int fd;
        detail::check(::memsnap_snapshot_export_fd(get(), &fd), "memsnap_snapshot_export_fd");
        return fd;
    }
    /** memsnap_snapshot_stats(). */
    snapshot_stats stats() const
    {
        snapshot_stats stats = {};
        stats.size = sizeof stats;
        detail::check(::memsnap_snapshot_stats(get(), &stats), "memsnap_snapshot_stats");
        return stats;
    }

  private:
    explicit snapshot(::memsnap_snapshot *adopted) noexcept : detail::snapshot_handle(adopted)
    {
    }
};

/* ---- views ----------------------------------------------------------------------------------- */

/** An image mapped into the address space. Since: 0.1 */
class view : public detail::view_handle
{
  public:
    /** An empty handle. */
    view() noexcept = default;
    /** A handle that takes over a reference of the caller's. */
    static view adopt(::memsnap_view *v) noexcept
    {
        return view(v);
    }

    /** The address of the first byte: the same for as long as the view lives. */
    void *data() const noexcept
    {
        return ::memsnap_view_data(get());
    }
    /** Bytes. */
    std::size_t size() const noexcept
    {
        return ::memsnap_view_size(get());
    }
#ifdef __cpp_lib_span
    /** All bytes. Not to be used after the last handle to the view is gone. */
    std::span<std::byte> bytes() const noexcept
    {
        return {static_cast<std::byte *>(data()), size()};
    }
#endif
    /** Whether stores through it change its snapshot. */
    bool is_mutable() const noexcept
    {
        return ::memsnap_view_is_mutable(get()) != 0;
    }
    /** memsnap_view_take_snapshot(): a snapshot of what the view holds. */
    snapshot take(unsigned flags = 0) const
    {
        ::memsnap_snapshot *s;
        detail::check(::memsnap_view_take_snapshot(get(), flags, &s), "memsnap_view_take_snapshot");
        return snapshot::adopt(s);
    }
    /** memsnap_view_restore(): back to the base. */
    void restore() const
    {
        detail::check(::memsnap_view_restore(get()), "memsnap_view_restore");
    }
    /** memsnap_view_restore_to(): to another snapshot, in place. */
    void restore_to(const snapshot &s) const
    {
        detail::check(::memsnap_view_restore_to(get(), s.get()), "memsnap_view_restore_to");
    }
    /** memsnap_view_dirty(): calls found(range) for each run of pages that differ from the base. */
    template <class Found> void dirty(Found found) const
    {
        detail::each_range(
            [&](std::size_t *cursor, range *ranges, std::size_t max) {
                return detail::check(::memsnap_view_dirty(get(), cursor, ranges, max),
                                     "memsnap_view_dirty");
            },
            found);
    }
    /** All of these ranges. */
    std::vector<range> dirty() const
    {
        std::vector<range> all;
        dirty([&](const range &r) { all.push_back(r); });
        return all;
    }
    /** memsnap_view_protect(): `access` is of MEMSNAP_ACCESS_*. */
    void protect(std::size_t offset, std::size_t len, int access) const
    {
        detail::check(::memsnap_view_protect(get(), offset, len, access), "memsnap_view_protect");
    }
    /** memsnap_view_flush(): what was stored in the range is durable in the file. */
    void flush(std::size_t offset, std::size_t len) const
    {
        detail::check(::memsnap_view_flush(get(), offset, len), "memsnap_view_flush");
    }
    /** The same for all bytes. */
    void flush() const
    {
        flush(0, size());
    }
    /** memsnap_view_thaw(): lets stores go straight into the snapshot. Is there more to do? */
    bool thaw(unsigned flags = 0, std::size_t max = static_cast<std::size_t>(-1)) const
    {
        return detail::check(::memsnap_view_thaw(get(), flags, max), "memsnap_view_thaw") != 0;
    }
    /** memsnap_view_stats(). */
    view_stats stats() const
    {
        view_stats stats = {};
        stats.size = sizeof stats;
        detail::check(::memsnap_view_stats(get(), &stats), "memsnap_view_stats");
        return stats;
    }

  private:
    explicit view(::memsnap_view *adopted) noexcept : detail::view_handle(adopted)
    {
    }
};

inline view snapshot::view(unsigned flags) const
{
    ::memsnap_view *v;
    detail::check(::memsnap_snapshot_view(get(), flags, &v), "memsnap_snapshot_view");
    return memsnap::view::adopt(v);
}

inline view snapshot::view_mut(unsigned flags) const
{
    ::memsnap_view *v;
    detail::check(::memsnap_snapshot_view_mut(get(), flags, &v), "memsnap_snapshot_view_mut");
    return memsnap::view::adopt(v);
}

inline view snapshot::view_at(void *address, unsigned flags) const
{
    ::memsnap_view *v;
    detail::check(::memsnap_snapshot_view_at(get(), address, flags, &v),
                  "memsnap_snapshot_view_at");
    return memsnap::view::adopt(v);
}

} // namespace memsnap

#endif
