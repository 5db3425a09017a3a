/* What a process asks of the disk below one folder: recorded, refused, or its last act.

Preloaded into a process (LD_PRELOAD), it stands between Python and libc. Nothing happens until
shim_watch is called, or the environment names a folder (SHIM_ROOT) whose disk is full for as long
as a file exists (SHIM_FLAG).

Kinds of calls, one letter each:
    o open for writing   w write   s fsync   n rename   m mkdir   u unlink   d rmdir   t truncate
    r open for reading   g read

A sync of a watched process is noted and not made, for the machine goes on when the process ends.
*/

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF, RECORD, FAIL, FULL, KILL, TEAR, FLAG };
enum { GO_ON, HALF };

static int mode = OFF, code, trace = -1;
static long at, calls;
static char root[PATH_MAX], kinds[16];

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* Begin: mode, the number of the call that it is about (from 1), which kinds count. */
void shim_watch(const char *folder, int how, long number, int error, const char *which,
                const char *recording)
{
    snprintf(root, sizeof root, "%s", folder);
    snprintf(kinds, sizeof kinds, "%s", which);
    at = number;
    calls = 0;
    code = error;
    if (recording)
        trace = syscall(SYS_openat, AT_FDCWD, recording, O_CREAT | O_WRONLY | O_APPEND, 0600);
    mode = how;
}

long shim_calls(void) { return calls; }

static void put(char kind, const char *one, const void *two, uint32_t length, int64_t number)
{
    struct __attribute__((packed)) { char kind; uint32_t one, two; int64_t number; } head =
        {kind, strlen(one), length, number};
    if (mode != RECORD || trace < 0)
        return;
    syscall(SYS_write, trace, &head, sizeof head);
    syscall(SYS_write, trace, one, strlen(one));
    syscall(SYS_write, trace, two, length);
}

/* A word of the caller's in the recording: what it was told had been done. */
void shim_mark(const char *word) { put('!', word, "", 0, 0); }

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("SHIM_ROOT");
    if (folder)
        shim_watch(folder, FLAG, 0, ENOSPC, "owsm", NULL);
}

/* The path that a call is about, absolute; whether it lies below the folder. */
static int find(int folder, const char *path, char *found)
{
    char link[64];
    ssize_t length = 0;
    if (path && path[0] == '/') {
        snprintf(found, PATH_MAX, "%s", path);
    } else {
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        length = readlink(link, found, PATH_MAX - 1);
        if (length < 0)
            return 0;
        snprintf(found + length, PATH_MAX - length, "%s%s", path ? "/" : "", path ? path : "");
    }
    return !strncmp(found, root, strlen(root));
}

/* What becomes of a call: -1 it fails, GO_ON it is made, HALF it is made by half. */
static int judge(char kind, int folder, const char *path, char *found)
{
    found[0] = 0;
    if (mode == OFF || !find(folder, path, found)) {
        found[0] = 0;
        return GO_ON;
    }
    if (!strchr(kinds, kind))
        return GO_ON;
    calls++;
    if (mode == KILL && calls == at)
        kill(getpid(), SIGKILL);
    if (mode == TEAR && calls == at) {
        if (kind == 'w')
            return HALF;
        kill(getpid(), SIGKILL);
    }
    if (mode == FULL && calls == at && kind == 'w')
        return HALF;
    if ((mode == FAIL && calls == at) || (mode == FULL && calls >= at)
        || (mode == FLAG && !syscall(SYS_faccessat, AT_FDCWD, getenv("SHIM_FLAG"), F_OK))) {
        errno = code;
        return -1;
    }
    return GO_ON;
}

static int open_in(int folder, const char *path, int flags, mode_t permissions,
                   int (*real)(int, const char *, int, ...))
{
    char found[PATH_MAX];
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    if (judge(writes ? 'o' : 'r', folder, path, found) < 0)
        return -1;
    int result = real(folder, path, flags, permissions);
    if (result >= 0 && writes && found[0])
        put('o', found, "", 0, flags & O_TRUNC ? 1 : 0);
    return result;
}

#define PERMISSIONS \
    va_list rest; \
    va_start(rest, flags); \
    mode_t permissions = va_arg(rest, int); \
    va_end(rest)

int openat(int folder, const char *path, int flags, ...)
{
    PERMISSIONS;
    REAL(openat);
    return open_in(folder, path, flags, permissions, real);
}

int openat64(int folder, const char *path, int flags, ...)
{
    PERMISSIONS;
    REAL(openat64);
    return open_in(folder, path, flags, permissions, real);
}

int open(const char *path, int flags, ...)
{
    PERMISSIONS;
    return openat(AT_FDCWD, path, flags, permissions);
}

int open64(const char *path, int flags, ...)
{
    PERMISSIONS;
    return openat64(AT_FDCWD, path, flags, permissions);
}

ssize_t read(int file, void *data, size_t length)
{
    char found[PATH_MAX];
    REAL(read);
    return judge('g', file, NULL, found) < 0 ? -1 : real(file, data, length);
}

ssize_t write(int file, const void *data, size_t length)
{
    char found[PATH_MAX];
    REAL(write);
    int verdict = judge('w', file, NULL, found);
    if (verdict < 0)
        return -1;
    int64_t place = mode == RECORD && found[0] ? lseek(file, 0, SEEK_CUR) : 0;
    if (mode == RECORD && found[0] && fcntl(file, F_GETFL) & O_APPEND)
        place = lseek(file, 0, SEEK_END);
    ssize_t result = real(file, data, verdict == HALF ? (length + 1) / 2 : length);
    if (verdict == HALF && mode == TEAR)
        kill(getpid(), SIGKILL);
    if (result > 0 && found[0])
        put('w', found, data, result, place);
    return result;
}

int fsync(int file)
{
    char found[PATH_MAX];
    REAL(fsync);
    int result = judge('s', file, NULL, found) < 0 ? -1 : root[0] && mode != FLAG ? 0 : real(file);
    if (!result && found[0])
        put('s', found, "", 0, 0);
    return result;
}

int ftruncate64(int file, off64_t length)
{
    char found[PATH_MAX];
    REAL(ftruncate64);
    int result = judge('t', file, NULL, found) < 0 ? -1 : real(file, length);
    if (!result && found[0])
        put('t', found, "", 0, length);
    return result;
}

int renameat(int from, const char *old, int to, const char *new)
{
    char found[PATH_MAX], target[PATH_MAX];
    REAL(renameat);
    if (judge('n', from, old, found) < 0)
        return -1;
    int result = real(from, old, to, new);
    if (!result && found[0] && find(to, new, target))
        put('n', found, target, strlen(target), 0);
    return result;
}

int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int mkdirat(int folder, const char *path, mode_t permissions)
{
    char found[PATH_MAX];
    REAL(mkdirat);
    int result = judge('m', folder, path, found) < 0 ? -1 : real(folder, path, permissions);
    if (!result && found[0])
        put('m', found, "", 0, 0);
    return result;
}

int mkdir(const char *path, mode_t permissions) { return mkdirat(AT_FDCWD, path, permissions); }

int unlinkat(int folder, const char *path, int flags)
{
    char found[PATH_MAX];
    char kind = flags & AT_REMOVEDIR ? 'd' : 'u';
    REAL(unlinkat);
    int result = judge(kind, folder, path, found) < 0 ? -1 : real(folder, path, flags);
    if (!result && found[0])
        put(kind, found, "", 0, 0);
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
