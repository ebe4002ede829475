/* SPDX-License-Identifier: MIT */
/* replace-kill.c - what a process leaves behind that is killed while it replaces a file.
 *
 * A file without a name (O_TMPFILE) can be linked under a name that is free, in one system call;
 * linkat() does not replace, renameat2() wants a name for what it moves, and RENAME_EXCHANGE
 * two. So to replace takes two calls, and whoever is killed between them leaves a name. The
 * table counts how often that is, among processes that do nothing else, and how often a file is
 * left that has a name from the start: ten times as often, and the more, the longer writing
 * takes.
 *
 * cc -O2 replace-kill.c -o replace-kill && ./replace-kill [KILLS] */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BYTES = 256 * 1024 };

static char content[BYTES], self[64];

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static int nameless(void)
{
    int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    check(fd >= 0 && write(fd, content, BYTES) == BYTES, "O_TMPFILE");
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    return fd;
}

static void link_and_rename(void)
{
    int fd = nameless();

    unlink("temporary");
    check(linkat(AT_FDCWD, self, AT_FDCWD, "temporary", AT_SYMLINK_FOLLOW) == 0 &&
              rename("temporary", "file") == 0,
          "replace");
    close(fd);
}

static void link_where_nothing_is(void)
{
    int fd = nameless();

    unlink("file");
    check(linkat(AT_FDCWD, self, AT_FDCWD, "file", AT_SYMLINK_FOLLOW) == 0, "link");
    close(fd);
}

static void write_and_rename(void)
{
    int fd = open("temporary", O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

    check(fd >= 0 && write(fd, content, BYTES) == BYTES && rename("temporary", "file") == 0,
          "replace");
    close(fd);
}

static void count(const char *what, void (*save)(void), int kills)
{
    int left = 0;
    struct stat st;

    for (int i = 0; i < kills; i++) {
        pid_t pid = fork();

        check(pid >= 0, "fork");
        while (pid == 0)
            save();
        usleep(1000 + (unsigned)rand() % 5000);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        left += stat("temporary", &st) == 0;
        unlink("temporary");
        check(stat("file", &st) < 0 || st.st_size == BYTES, "half a file");
    }
    printf("%-44s left a name %d times in %d kills\n", what, left, kills);
}

static void tell(const char *what, int result)
{
    printf("%-44s %s\n", what, result == 0 ? "works" : strerror(errno));
}

int main(int argc, char **argv)
{
    char directory[] = "replace-kill-XXXXXX";
    int kills = argc > 1 ? atoi(argv[1]) : 600;

    check(mkdtemp(directory) && chdir(directory) == 0, directory);
    memset(content, 7, sizeof content);
    link_and_rename();
    int fd = nameless();
    tell("linkat() over a file", linkat(AT_FDCWD, self, AT_FDCWD, "file", AT_SYMLINK_FOLLOW));
    tell("renameat2() of an open file without a name",
         renameat2(AT_FDCWD, self, AT_FDCWD, "file", 0));
    tell("renameat2(RENAME_EXCHANGE) of one",
         renameat2(AT_FDCWD, self, AT_FDCWD, "file", RENAME_EXCHANGE));
    close(fd);
    count("new file: write, link", link_where_nothing_is, kills);
    count("replace: write, link, rename", link_and_rename, kills);
    count("replace: named from the start, rename", write_and_rename, kills);
    unlink("file");
    check(chdir("..") == 0 && rmdir(directory) == 0, directory);
    return 0;
}
