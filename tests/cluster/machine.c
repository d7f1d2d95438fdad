/* The machine that a node believes to run on. Preloaded, this takes three native
 * 64-bit numbers from a file of the node's directory, read at every call:
 *
 *   0  milliseconds that are added to the wall clock, as when somebody sets it;
 *      monotonic clocks, timers and waits stay as they are
 *   1  the disk's free space in bytes; below zero: what it really is
 *   2  milliseconds that every sync of a file takes longer */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *told;

__attribute__((constructor)) static void open_told(void) {
    const char *data = getenv("CIRO__NODE__DATA_DIR");
    char path[4096];
    if (!data || snprintf(path, sizeof path, "%s/../machine", data) >= (int)sizeof path) return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *map = mmap(NULL, 3 * sizeof *told, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) told = map;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && told && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t offset = told[0], ns = time->tv_nsec + (offset % 1000) * 1000000;
        time->tv_sec += offset / 1000 + (ns >= 1000000000) - (ns < 0);
        time->tv_nsec = (ns + 1000000000) % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int statvfs(const char *path, struct statvfs *out) {
    struct statfs real;
    if (syscall(SYS_statfs, path, &real) != 0) return -1;
    memset(out, 0, sizeof *out);
    out->f_bsize = out->f_frsize = real.f_bsize;
    out->f_blocks = real.f_blocks, out->f_bfree = real.f_bfree, out->f_bavail = real.f_bavail;
    if (told && told[1] >= 0) out->f_bavail = told[1] / out->f_frsize;
    return 0;
}

int statvfs64(const char *path, struct statvfs64 *out) { return statvfs(path, (struct statvfs *)out); }

static int late(int result) {
    if (told && told[2] > 0) {
        struct timespec more = {.tv_sec = told[2] / 1000, .tv_nsec = told[2] % 1000 * 1000000};
        nanosleep(&more, NULL);
    }
    return result;
}

int fsync(int file) { return late((int)syscall(SYS_fsync, file)); }
int fdatasync(int file) { return late((int)syscall(SYS_fdatasync, file)); }
