/* Preloaded into a process: opening a file below a folder fails while another file exists.
 *
 * SOAK_ERRORS_BELOW=/a/folder SOAK_ERRORS_WHILE=/a/file LD_PRELOAD=./read_errors.so program
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fails(const char *path, int flags) {
  const char *below = getenv("SOAK_ERRORS_BELOW"), *file = getenv("SOAK_ERRORS_WHILE");
  if (!below || !file || !path || (flags & O_ACCMODE) != O_RDONLY || (flags & O_DIRECTORY)) return 0;
  return strncmp(path, below, strlen(below)) == 0 && access(file, F_OK) == 0;
}

#define MODE(flags)                                  \
  mode_t mode = 0;                                   \
  if (flags & (O_CREAT | __O_TMPFILE)) {             \
    va_list rest;                                    \
    va_start(rest, flags);                           \
    mode = va_arg(rest, mode_t);                     \
    va_end(rest);                                    \
  }

#define OPEN(name)                                                        \
  int name(const char *path, int flags, ...) {                            \
    static int (*real)(const char *, int, ...);                           \
    MODE(flags)                                                           \
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
    if (fails(path, flags)) return errno = EIO, -1;                       \
    return real(path, flags, mode);                                       \
  }

#define OPENAT(name)                                                      \
  int name(int at, const char *path, int flags, ...) {                    \
    static int (*real)(int, const char *, int, ...);                      \
    MODE(flags)                                                           \
    if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name); \
    if (fails(path, flags)) return errno = EIO, -1;                       \
    return real(at, path, flags, mode);                                   \
  }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
