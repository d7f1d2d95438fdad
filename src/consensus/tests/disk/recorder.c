/* Records what a process does to the files under one directory, in order.
 *
 * Preloaded into a test. What was written, and what was synced, goes into a
 * journal, from which journal.rs builds what a disk holds if the power fails
 * at any moment. sync_file_range is not recorded: it promises nothing.
 *
 * CIRO_RECORD_DIR      the directory
 * CIRO_RECORD_JOURNAL  where the journal goes
 * CIRO_RECORD_NOTES    writes to this file go into the journal as notes
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAKE = 1, MAKE_DIR, RENAME, UNLINK, WRITE, LENGTH, SYNC_BEGIN, SYNC_END, NOTE };

#define FDS 65536

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static const char *root, *notes;
static int journal = -1;
static uint64_t inodes[FDS]; /* of tracked descriptors; 1 for the notes */
static uint64_t syncs;

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("CIRO_RECORD_JOURNAL");
  root = getenv("CIRO_RECORD_DIR");
  notes = getenv("CIRO_RECORD_NOTES");
  if (path && root && notes)
    journal = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int ours(const char *path) { return journal >= 0 && strncmp(path, root, strlen(root)) == 0; }

static void put(const void *bytes, size_t length) {
  const char *at = bytes;
  while (length > 0) {
    ssize_t done = syscall(SYS_write, journal, at, length);
    if (done <= 0) abort();
    at += done;
    length -= done;
  }
}

/* With the turn held. */
static void record(uint64_t kind, uint64_t a, uint64_t b, const char *path, const void *data, uint64_t length) {
  uint64_t head[5] = {kind, a, b, path ? strlen(path) : 0, length};
  put(head, sizeof head);
  if (path) put(path, head[3]);
  put(data, length);
}

static uint64_t tracked(int fd) { return fd >= 0 && fd < FDS ? inodes[fd] : 0; }

static int open_at(const char *path, int flags, mode_t mode) {
  struct stat meta;
  pthread_mutex_lock(&turn);
  int mine = ours(path), is_notes = journal >= 0 && strcmp(path, notes) == 0;
  int existed = mine && fstatat(AT_FDCWD, path, &meta, 0) == 0;
  int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
  int saved = errno;
  if (fd >= FDS) abort();
  if (fd >= 0) inodes[fd] = is_notes;
  if (fd >= 0 && mine && fstat(fd, &meta) == 0) {
    inodes[fd] = meta.st_ino;
    if (!existed) record(MAKE, meta.st_ino, 0, path, 0, 0);
    else if (flags & O_TRUNC) record(LENGTH, meta.st_ino, 0, 0, 0, 0);
  }
  pthread_mutex_unlock(&turn);
  errno = saved;
  return fd;
}

#define MODE                                                                                                           \
  mode_t mode = 0;                                                                                                     \
  if (flags & (O_CREAT | O_TMPFILE)) {                                                                                 \
    va_list list;                                                                                                      \
    va_start(list, flags);                                                                                             \
    mode = va_arg(list, mode_t);                                                                                       \
    va_end(list);                                                                                                      \
  }

int open(const char *path, int flags, ...) { MODE return open_at(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return open_at(path, flags | O_LARGEFILE, mode); }

int close(int fd) {
  pthread_mutex_lock(&turn);
  if (fd >= 0 && fd < FDS) inodes[fd] = 0;
  int done = syscall(SYS_close, fd);
  pthread_mutex_unlock(&turn);
  return done;
}

static ssize_t write_at(int fd, const void *bytes, size_t length, off_t at, int here) {
  uint64_t inode = tracked(fd);
  if (!inode) return here ? syscall(SYS_write, fd, bytes, length) : syscall(SYS_pwrite64, fd, bytes, length, at);
  pthread_mutex_lock(&turn);
  if (here && inode != 1) at = lseek(fd, 0, SEEK_CUR);
  ssize_t done = here ? syscall(SYS_write, fd, bytes, length) : syscall(SYS_pwrite64, fd, bytes, length, at);
  int saved = errno;
  if (done > 0) record(inode == 1 ? NOTE : WRITE, inode, at, 0, bytes, done);
  pthread_mutex_unlock(&turn);
  errno = saved;
  return done;
}

ssize_t write(int fd, const void *bytes, size_t length) { return write_at(fd, bytes, length, 0, 1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return write_at(fd, bytes, length, at, 0); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) { return write_at(fd, bytes, length, at, 0); }

/* A short write is allowed: the first part only. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (!tracked(fd)) return syscall(SYS_writev, fd, parts, count);
  for (int n = 0; n < count; n++)
    if (parts[n].iov_len > 0) return write_at(fd, parts[n].iov_base, parts[n].iov_len, 0, 1);
  return 0;
}

/* Copies are made by read and write then. */
ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t length, unsigned flags) {
  (void)in, (void)from, (void)out, (void)to, (void)length, (void)flags;
  errno = ENOSYS;
  return -1;
}
ssize_t sendfile(int out, int in, off_t *from, size_t length) {
  (void)out, (void)in, (void)from, (void)length;
  errno = EINVAL;
  return -1;
}
ssize_t sendfile64(int out, int in, off_t *from, size_t length) { return sendfile(out, in, from, length); }

int ftruncate(int fd, off_t length) {
  pthread_mutex_lock(&turn);
  int done = syscall(SYS_ftruncate, fd, length);
  if (done == 0 && tracked(fd)) record(LENGTH, tracked(fd), length, 0, 0, 0);
  pthread_mutex_unlock(&turn);
  return done;
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

static int sync_by(long call, int fd) {
  uint64_t inode = tracked(fd), id = 0;
  if (inode) {
    pthread_mutex_lock(&turn);
    id = ++syncs;
    record(SYNC_BEGIN, inode, id, 0, 0, 0);
    pthread_mutex_unlock(&turn);
  }
  int done = syscall(call, fd), saved = errno;
  if (inode && done == 0) {
    pthread_mutex_lock(&turn);
    record(SYNC_END, inode, id, 0, 0, 0);
    pthread_mutex_unlock(&turn);
  }
  errno = saved;
  return done;
}

int fsync(int fd) { return sync_by(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_by(SYS_fdatasync, fd); }

int mkdir(const char *path, mode_t mode) {
  struct stat meta;
  pthread_mutex_lock(&turn);
  int done = syscall(SYS_mkdirat, AT_FDCWD, path, mode), saved = errno;
  if (done == 0 && ours(path) && fstatat(AT_FDCWD, path, &meta, 0) == 0)
    record(MAKE_DIR, meta.st_ino, 0, path, 0, 0);
  pthread_mutex_unlock(&turn);
  errno = saved;
  return done;
}

int rename(const char *from, const char *to) {
  pthread_mutex_lock(&turn);
  int done = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0), saved = errno;
  if (done == 0 && ours(from)) record(RENAME, 0, 0, from, to, strlen(to));
  pthread_mutex_unlock(&turn);
  errno = saved;
  return done;
}

int unlink(const char *path) {
  pthread_mutex_lock(&turn);
  int done = syscall(SYS_unlinkat, AT_FDCWD, path, 0), saved = errno;
  if (done == 0 && ours(path)) record(UNLINK, 0, 0, path, 0, 0);
  pthread_mutex_unlock(&turn);
  errno = saved;
  return done;
}
