/* SPDX-License-Identifier: MIT */
/* The contract with the operating system (lib/os/os.h): locks, and fork. */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os.h"
#include "support/os_table.h"

static struct ms_mutex lock;
static int counter;

static void *count_up(void *unused)
{
    for (int i = 0; i < 1000; i++) {
        ms_lock(&lock);
        counter++;
        ms_unlock(&lock);
    }
    return unused;
}

static void test_lock(void)
{
    pthread_t threads[4];
    counter = 0;
    ms_lock_init(&lock);
    for (size_t i = 0; i < 4; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, count_up, NULL), ==, 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    g_assert_cmpint(counter, ==, 4000);
    ms_lock_destroy(&lock);
}

static atomic_int stop_threads, inside;

static void *go_in_and_out(void *unused)
{
    while (!atomic_load(&stop_threads)) {
        ms_enter();
        atomic_fetch_add(&inside, 1);
        atomic_fetch_sub(&inside, 1);
        ms_leave();
    }
    return unused;
}

static size_t process_before, forks_before;

/* In a child nobody is inside, and it can enter; so can a child of the child. */
static void check_forked(void)
{
    g_assert_true(atomic_load(&inside) == 0);
    g_assert_true(ms_process_generation() == process_before + 1 && ms_forks() == forks_before + 1);
    ms_enter();
    ms_leave();
    pid_t pid = fork();
    if (pid == 0) {
        ms_enter();
        bool right =
            ms_process_generation() == process_before + 2 && ms_forks() == forks_before + 2;
        ms_leave();
        child_exit(right ? 0 : 1);
    }
    int status;
    g_assert_true(waitpid(pid, &status, 0) == pid && status == 0);
    g_assert_true(ms_process_generation() == process_before + 1 && ms_forks() == forks_before + 2);
}

static void test_fork_lock(void)
{
    enum { THREADS = 4 };
    int n = on_valgrind() ? 3 : 20;
    pthread_t threads[THREADS];
    stop_threads = 0;
    for (size_t i = 0; i < THREADS; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL, go_in_and_out, NULL), ==, 0);
    for (int i = 0; i < n; i++) {
        process_before = ms_process_generation();
        forks_before = ms_forks();
        in_child(check_forked);
        g_assert_cmpuint(ms_process_generation(), ==, process_before);
        g_assert_cmpuint(ms_forks(), ==, forks_before + 1);
    }
    atomic_store(&stop_threads, 1);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    static const struct os_test tests[] = {
        {"lock", test_lock, OS_ANY},
        {"fork-lock", test_fork_lock, OS_ANY},
        {NULL, NULL, 0},
    };
    return os_test_main(argc, argv, tests);
}
