/* A library to preload: calls on chosen files fail, as those of a failing disk do.

   COTBAL_FAULT is "CALL:FIRST:COUNT:PATTERN": of the calls of this kind on files whose path matches the pattern
   (fnmatch), those from the FIRST-th on fail with EIO, COUNT of them (0: all). It is read at each call, so that a forked
   child can set it. CALL is open, read, write, sync or rename. Each failure is told in the file COTBAL_FAULT_SEEN. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_int calls;
static __thread int inside;

static int fails(const char *call, const char *path) {
  const char *fault = getenv("COTBAL_FAULT");
  char kind[16], pattern[PATH_MAX];
  int first, count;
  if (fault == NULL || inside || sscanf(fault, "%15[^:]:%d:%d:%4095s", kind, &first, &count, pattern) != 4) return 0;
  if (strcmp(kind, call) != 0 || fnmatch(pattern, path, 0) != 0) return 0;
  int number = atomic_fetch_add(&calls, 1) + 1;
  if (number < first || (count > 0 && number >= first + count)) return 0;
  const char *seen = getenv("COTBAL_FAULT_SEEN");
  inside = 1;
  int file = seen == NULL ? -1 : REAL(open)(seen, O_WRONLY | O_CREAT | O_APPEND, 0666);
  if (file >= 0) {
    dprintf(file, "%s\n", path);
    close(file);
  }
  inside = 0;
  errno = EIO;
  return 1;
}

static int fails_at(const char *call, int file) {
  if (getenv("COTBAL_FAULT") == NULL) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails(call, path);
}

#define OPEN(name)                                     \
  int name(const char *path, int flags, ...) {         \
    va_list rest;                                      \
    va_start(rest, flags);                             \
    int mode = va_arg(rest, int);                      \
    va_end(rest);                                      \
    if (fails("open", path)) return -1;                \
    return REAL(name)(path, flags, mode);              \
  }
OPEN(open)
OPEN(open64)

#define OPEN_AT(name)                                          \
  int name(int folder, const char *path, int flags, ...) {     \
    va_list rest;                                              \
    va_start(rest, flags);                                     \
    int mode = va_arg(rest, int);                              \
    va_end(rest);                                              \
    if (fails("open", path)) return -1;                        \
    return REAL(name)(folder, path, flags, mode);              \
  }
OPEN_AT(openat)
OPEN_AT(openat64)

FILE *fopen(const char *path, const char *mode) { return fails("open", path) ? NULL : REAL(fopen)(path, mode); }
FILE *fopen64(const char *path, const char *mode) { return fails("open", path) ? NULL : REAL(fopen64)(path, mode); }

#define ON_FILE(call, kind, name, parameters, ...)           \
  kind name parameters {                                     \
    if (fails_at(call, file)) return -1;                     \
    return REAL(name)(__VA_ARGS__);                          \
  }
ON_FILE("read", ssize_t, read, (int file, void *at, size_t size), file, at, size)
ON_FILE("read", ssize_t, pread, (int file, void *at, size_t size, off_t place), file, at, size, place)
ON_FILE("read", ssize_t, pread64, (int file, void *at, size_t size, off64_t place), file, at, size, place)
ON_FILE("read", ssize_t, readv, (int file, const struct iovec *parts, int count), file, parts, count)
ON_FILE("write", ssize_t, write, (int file, const void *from, size_t size), file, from, size)
ON_FILE("write", ssize_t, pwrite, (int file, const void *from, size_t size, off_t place), file, from, size, place)
ON_FILE("write", ssize_t, pwrite64, (int file, const void *from, size_t size, off64_t place), file, from, size, place)
ON_FILE("write", ssize_t, writev, (int file, const struct iovec *parts, int count), file, parts, count)
ON_FILE("sync", int, fsync, (int file), file)
ON_FILE("sync", int, fdatasync, (int file), file)

int rename(const char *path, const char *target) { return fails("rename", target) ? -1 : REAL(rename)(path, target); }
