/* SPDX-License-Identifier: MIT */
/* memsnap.hpp: every function of the interface is called through it, handles count references, and
 * what fails throws. tests/lint/cxx.sh compiles it with the compilers and standards that there
 * are. TAP, without GLib. */
#include <memsnap.hpp>

#include <dirent.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace
{

int tests, failures;

void ok(bool holds, const char *what)
{
    std::printf("%sok %d - %s\n", holds ? "" : "not ", ++tests, what);
    failures += !holds;
}

/* Whether the call throws exactly this: the error, and the name of the function that failed. */
template <class Call> bool throws(int error, const char *function, Call call)
{
    try {
        call();
    } catch (const std::system_error &e) {
        return e.code() == std::error_code(error, std::generic_category()) &&
               std::strstr(e.what(), function) != nullptr;
    }
    return false;
}

char *chars(const memsnap::view &v)
{
    return static_cast<char *>(v.data());
}

char first(const memsnap::snapshot &s)
{
    char c;
    s.read(0, &c, 1);
    return c;
}

int descriptors()
{
    int n = 0;
    DIR *fds = opendir("/proc/self/fd");
    while (fds != nullptr && readdir(fds) != nullptr)
        n++;
    if (fds != nullptr)
        closedir(fds);
    return n;
}

/* A directory for the files of the test. */
struct scratch {
    std::string name;
    scratch()
    {
        char path[] = "/tmp/memsnap-cxx.XXXXXX";
        if (mkdtemp(path) == nullptr)
            std::exit(99);
        name = path;
    }
    scratch(const scratch &) = delete;
    scratch &operator=(const scratch &) = delete;
    ~scratch()
    {
        for (const char *file : {"/image", "/delta"})
            unlink((name + file).c_str());
        rmdir(name.c_str());
    }
};

const std::size_t size = 3 * memsnap::page_size() + 5;

memsnap::snapshot letters(char c)
{
    return memsnap::snapshot::from_bytes(std::string(size, c).data(), size);
}

void test_handles()
{
    static_assert(std::is_nothrow_move_constructible<memsnap::snapshot>::value &&
                      std::is_nothrow_copy_assignable<memsnap::view>::value,
                  "handles fit into containers");
    static_assert(!std::is_convertible<memsnap::snapshot, bool>::value, "no arithmetic on handles");

    memsnap::snapshot none, s = letters('a'), same = s, moved = std::move(same);
    ok(!none && !same && s && moved == s && s != none,
       "copies are the same object, moving empties");
    same = moved;
    memsnap::snapshot &self = same;
    same = self;
    self = std::move(same);
    ok(self == s && first(self) == 'a', "assigning a handle to itself keeps it");
    ok(s.clone() != s && first(s.clone()) == 'a', "a clone is another object with the same bytes");
    none.swap(same);
    ok(none == s && !same, "swap");

    memsnap_snapshot *raw = s.release();
    ok(!s && raw == none.get(), "release hands the reference out");
    s = memsnap::snapshot::adopt(raw);
    ok(s == none, "adopt takes it over");

    memsnap::view v = s.view_mut(), w = v;
    v.reset();
    ok(throws(EBUSY, "memsnap_snapshot_view_mut", [&] { s.view_mut(); }),
       "a view is open as long as one handle holds it");
    w = memsnap::view();
    v = s.view_mut();
    ok(v.is_mutable(), "the last handle closes it");
    memsnap_view *raw_view = v.release();
    v = memsnap::view::adopt(raw_view);
    s.reset();
    none.reset();
    moved.reset();
    ok(chars(v)[size - 1] == 'a', "a view outlives the handles to its snapshot");
}

void test_empty()
{
    const memsnap::snapshot s;
    const memsnap::view v;
    memsnap::snapshot copy = s;
    ok(!copy && s.size() == 0 && v.size() == 0 && v.data() == nullptr && !v.is_mutable(),
       "empty handles have nothing");
    ok(throws(EINVAL, "memsnap_snapshot_clone", [&] { s.clone(); }) &&
           throws(EINVAL, "memsnap_snapshot_view", [&] { s.view(); }) &&
           throws(EINVAL, "memsnap_snapshot_stats", [&] { s.stats(); }) &&
           throws(EINVAL, "memsnap_snapshot_diff", [&] { s.diff(s); }) &&
           throws(EINVAL, "memsnap_snapshot_set_recycling", [&] { s.set_recycling(1); }) &&
           throws(EINVAL, "memsnap_snapshot_export_fd", [&] { s.export_fd(); }) &&
           throws(EINVAL, "memsnap_snapshot_save", [&] { s.save("x"); }) &&
           throws(EINVAL, "memsnap_view_take_snapshot", [&] { v.take(); }) &&
           throws(EINVAL, "memsnap_view_restore", [&] { v.restore(); }) &&
           throws(EINVAL, "memsnap_view_dirty", [&] { v.dirty(); }) &&
           throws(EINVAL, "memsnap_view_flush", [&] { v.flush(); }) &&
           throws(EINVAL, "memsnap_view_stats", [&] { v.stats(); }),
       "calls on empty handles are EINVAL");
}

void test_views()
{
    memsnap::snapshot s = letters('a');
    s.set_recycling(2);
    memsnap::view v = s.view(MEMSNAP_VIEW_PREFAULT);
    ok(v.size() == size && s.size() == size && !v.is_mutable(), "sizes");
    chars(v)[0] = 'b';
    chars(v)[size - 1] = 'z';
    std::vector<memsnap::range> dirty = v.dirty();
    const std::size_t page = memsnap::page_size();
    ok(dirty.size() == 2 && dirty[0].offset == 0 && dirty[0].len == page &&
           dirty[1].offset == 3 * page && dirty[1].len == 5,
       "the dirty pages of a view");

    memsnap::snapshot t = v.take();
    std::size_t bytes = 0;
    t.diff(s, [&](const memsnap::range &r) { bytes += r.len; });
    ok(first(t) == 'b' && first(s) == 'a' && bytes == page + 5 && t.diff(t).empty(),
       "a snapshot of a view, and what differs");
    v.restore();
    ok(chars(v)[0] == 'a' && v.dirty().empty(), "restore");
    v.restore_to(t);
    ok(chars(v)[size - 1] == 'z', "restore to another");
    v.protect(0, page, MEMSNAP_ACCESS_READ);
    ok(throws(EINVAL, "memsnap_view_protect", [&] { v.protect(1, page, 0); }), "protect");
    ok(v.stats().restores == 2 && v.stats().size == sizeof(memsnap::view_stats) &&
           t.stats().stored_bytes > 0,
       "statistics");

    void *address = s.view().data(); /* free, or parked: then it is taken */
    s.set_recycling(0);
    memsnap::view at = s.view_at(address);
    ok(at.data() == address &&
           throws(EEXIST, "memsnap_snapshot_view_at", [&] { s.view_at(address); }),
       "a view at an address");
}

void test_thaw()
{
    memsnap::snapshot s = memsnap::snapshot::zeroed(size), taken;
    memsnap::view v = s.view_mut();
    chars(v)[0] = 'a';
    taken = v.take();
    chars(v)[0] = 'b';
    if (throws(ENOTSUP, "memsnap_view_thaw", [&] { v.thaw(); })) {
        std::printf("ok %d - thaw # SKIP stores cannot go into snapshots here\n", ++tests);
        return;
    }
    ok(throws(EBUSY, "memsnap_view_thaw", [&] { v.thaw(); }),
       "a snapshot taken keeps a view frozen");
    taken.reset();
    bool more = true;
    while (more)
        more = v.thaw(0, 1);
    ok(!v.thaw() && first(s) == 'b', "thawed to the end, with all bytes");
}

/* Many runs: the search takes several calls of the C function. */
void test_many_ranges()
{
    const std::size_t page = memsnap::page_size(), runs = 200;
    memsnap::snapshot s = memsnap::snapshot::zeroed(2 * runs * page);
    memsnap::view v = s.view();
    for (std::size_t i = 0; i < runs; i++)
        chars(v)[2 * i * page] = 1;
    std::vector<memsnap::range> dirty = v.dirty();
    bool right = dirty.size() == runs;
    for (std::size_t i = 0; right && i < runs; i++)
        right = dirty[i].offset == 2 * i * page && dirty[i].len == page;
    ok(right, "all ranges of many");

    int seen = 0;
    try {
        v.dirty([&](const memsnap::range &) {
            if (++seen == 70)
                throw seen;
        });
    } catch (int) {
    }
    ok(seen == 70, "what the function throws ends the search");
}

void test_files(const std::string &directory)
{
    const std::string image = directory + "/image", delta = directory + "/delta";
    memsnap::snapshot base = letters('a'), changed;
    {
        memsnap::view v = base.view();
        chars(v)[0] = 'c';
        changed = v.take();
    }
    base.save(image, MEMSNAP_SAVE_NOSYNC);
    changed.save_delta(base, delta, MEMSNAP_SAVE_NOSYNC);
    memsnap::snapshot read = memsnap::snapshot::from_file(image);
    ok(read.diff(base).empty() && memsnap::snapshot::load_delta(read, delta).diff(changed).empty(),
       "saved, and saved as a delta");
    ok(throws(EEXIST, "memsnap_snapshot_save", [&] { base.save(image, MEMSNAP_SAVE_EXCL); }) &&
           throws(ENOENT, "memsnap_snapshot_new_from_file",
                  [&] { memsnap::snapshot::from_file(directory + "/none"); }),
       "files that are in the way, or missing");
    ok(throws(EINVAL, "memsnap_snapshot_save", [&] { base.save(image + '\0' + "more"); }),
       "a path with a null byte names no file");

    memsnap::view shared = memsnap::snapshot::from_file(image, MEMSNAP_FILE_SHARED).view_mut();
    chars(shared)[0] = 'd';
    shared.flush();
    shared.flush(0, 1);
    ok(first(memsnap::snapshot::from_file(image)) == 'd', "a shared file is written");
}

void test_descriptors()
{
    memsnap::snapshot s = letters('a');
    int fd = -1;
    if (throws(ENOTSUP, "memsnap_snapshot_export_fd", [&] { fd = s.export_fd(); })) {
        std::printf("ok %d - a descriptor # SKIP there are no sealed memory objects here\n",
                    ++tests);
        return;
    }
    memsnap::snapshot adopted = memsnap::snapshot::from_fd(fd);
    close(fd);
    ok(adopted != s && adopted.diff(s).empty(), "a descriptor hands the image over");
    ok(throws(EBADF, "memsnap_snapshot_new_from_fd", [] { memsnap::snapshot::from_fd(-1); }),
       "a descriptor that is not open");
}

#ifdef __cpp_lib_span
void test_spans()
{
    const char text[] = "some bytes";
    memsnap::snapshot s = memsnap::snapshot::from_bytes(std::as_bytes(std::span(text)));
    std::byte copy[sizeof text];
    s.read(0, copy);
    memsnap::view v = s.view();
    ok(std::memcmp(copy, text, sizeof text) == 0 && v.bytes().size() == sizeof text &&
           v.bytes().back() == std::byte{0},
       "spans");
}
#else
void test_spans()
{
    std::printf("ok %d - spans # SKIP this standard has none\n", ++tests);
}
#endif

/* What the library opens once is no leak. */
/* What the library opens once for the process is no leak: by one descriptor it asks which pages are
 * private, by one whether a view that is closed is as it was. */
void warm_up()
{
    memsnap::view v = memsnap::snapshot::zeroed(1u << 20).view();
    chars(v)[0] = 'b';
    memsnap::snapshot taken = v.take();
    v.dirty();
    v.restore();
    memsnap::view closed = taken.view();
}

} // namespace

int main()
{
    ok(std::strlen(memsnap::version_string()) >= 5, "the version");
    warm_up();
    int before = descriptors();
    {
        scratch directory;
        test_handles();
        test_empty();
        test_views();
        test_thaw();
        test_many_ranges();
        test_files(directory.name);
        test_descriptors();
        test_spans();
    }
    ok(descriptors() == before, "no descriptor is left");
    std::printf("1..%d\n", tests);
    return failures != 0;
}
