/* A disk that tells what it really holds: preloaded into a process, it copies a file to NAME.durable
   whenever the file was synced, and fails syncs with EIO while the file $OUTBOX_DISK_FAILS exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_outbox(const char *path) {
    const char *name = strrchr(path, '/');
    return name && (strcmp(name, "/outbox.db") == 0 || strcmp(name, "/outbox.db-wal") == 0);
}

/* pread on the caller's descriptor: opening and closing the file would drop SQLite's locks on it. */
static void keep(int fd, const char *path) {
    char durable[4200], fresh[4200], block[65536];
    snprintf(durable, sizeof durable, "%s.durable", path);
    snprintf(fresh, sizeof fresh, "%s.fresh", path);
    int copy = open(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (copy < 0) abort();
    off_t place = 0;
    ssize_t got;
    while ((got = pread(fd, block, sizeof block, place)) > 0) {
        if (write(copy, block, got) != got) abort();
        place += got;
    }
    close(copy);
    if (rename(fresh, durable)) abort();
}

static int sync_and_keep(const char *call, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    const char *fails = getenv("OUTBOX_DISK_FAILS");
    if (is_outbox(path) && fails && access(fails, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
    int result = real(fd);
    if (result == 0 && is_outbox(path)) keep(fd, path);
    return result;
}

int fsync(int fd) { return sync_and_keep("fsync", fd); }
int fdatasync(int fd) { return sync_and_keep("fdatasync", fd); }
