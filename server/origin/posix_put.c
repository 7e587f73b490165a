/* posix_put.c - writing a whole file so that it is there completely or not at all.
 *
 * Temporary file beside the final one, fsync, rename (or, where it must not exist yet, a rename that refuses to
 * replace; or a link where the file system has no such rename), fsync of the directory. A peer that is killed in
 * between leaves its temporary file; who puts into that directory later removes those older than an hour. That means
 * reading the whole directory, so it is done at most hourly in each and once a second in all. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/hash.h"
#include "common/names.h"
#include "server/origin/posix_impl.h"

#define IOV_BATCH 64u
#define LEFTOVER_NS (3600 * NS_PER_S)
#define SWEEP_GAP_NS NS_PER_S
#define TMP_TRIES 16

/* Opens a directory beneath the root, making it and what is missing above it. */
static int open_dir(struct posix *o, const char *dir) {
  int fd = posix_open(o, dir, O_RDONLY | O_DIRECTORY);
  char prefix[NAME_KEY_MAX + 1];

  if (fd != -ENOENT || strlen(dir) > NAME_KEY_MAX)
    return fd;
  int parent = posix_open(o, "", O_RDONLY | O_DIRECTORY);
  for (const char *at = dir; parent >= 0; at++) {
    const char *end = strchrnul(at, '/');
    size_t n = (size_t)(end - dir);
    memcpy(prefix, dir, n);
    prefix[n] = '\0';
    fd = posix_open(o, prefix, O_RDONLY | O_DIRECTORY);
    if (fd == -ENOENT) {
      int r = mkdirat(parent, prefix + (at - dir), 0777) < 0 && errno != EEXIST ? -errno : 0;
      if (r == 0 && fsync(parent) < 0)
        r = -errno;
      fd = r < 0 ? r : posix_open(o, prefix, O_RDONLY | O_DIRECTORY);
    }
    close(parent);
    parent = fd;
    if (!*end)
      break;
    at = end;
  }
  return parent;
}

/* Removes temporary files that a crash left, if that was not tried lately. The table forgets directories that share a
 * slot: then it is tried again, which only costs time. */
static void sweep(struct posix *o, const char *dir, int dir_fd) {
  uint64_t hash = hash_bytes64(dir, strlen(dir)), slot = hash % POSIX_SWEPT;
  uint64_t hour = (uint64_t)(clock_mono_ns() / LEFTOVER_NS), mark = (hash & ~UINT64_C(0xffff)) | (hour & 0xffff) | 1;

  int64_t last = atomic_load(&o->swept_ns), mono = clock_mono_ns();
  if (atomic_load(&o->swept_dir[slot]) == mark || mono - last < SWEEP_GAP_NS ||
      !atomic_compare_exchange_strong(&o->swept_ns, &last, mono))
    return;
  atomic_store(&o->swept_dir[slot], mark);
  int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *d = fd < 0 ? NULL : fdopendir(fd);
  if (!d) {
    if (fd >= 0)
      close(fd);
    return;
  }
  int64_t now = clock_wall_ns();
  struct dirent *ent;
  while ((ent = readdir(d))) {
    struct stat st;
    if (strncmp(ent->d_name, POSIX_TMP_PREFIX, sizeof POSIX_TMP_PREFIX - 1) == 0 &&
        fstatat(fd, ent->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
        now - ((int64_t)st.st_mtim.tv_sec * NS_PER_S + st.st_mtim.tv_nsec) > LEFTOVER_NS)
      unlinkat(fd, ent->d_name, 0);
  }
  closedir(d);
}

/* Writes all pieces. Bytes written, or the negative errno. */
static int64_t write_all(int fd, const struct iovec *iov, unsigned n) {
  struct iovec batch[IOV_BATCH];
  uint64_t done = 0;
  size_t skip = 0; /* bytes of iov[0] that are written */

  while (n > 0) {
    unsigned k = 0;
    for (; k < n && k < IOV_BATCH; k++)
      batch[k] = iov[k];
    batch[0].iov_base = (char *)batch[0].iov_base + skip;
    batch[0].iov_len -= skip;
    ssize_t w = writev(fd, batch, (int)k);
    if (w < 0 && errno == EINTR)
      continue;
    if (w < 0)
      return -errno;
    bool moved = w > 0;
    done += (uint64_t)w;
    size_t left = (size_t)w + skip;
    while (n > 0 && left >= iov->iov_len) {
      left -= iov->iov_len;
      iov++;
      n--;
      moved = true;
    }
    skip = left;
    if (!moved)
      return -EIO; /* a write that neither writes nor fails: never again and again */
  }
  return (int64_t)done;
}

/* Gives the temporary file its name. */
static int publish(int dir_fd, const char *tmp, const char *name, bool overwrite) {
  if (overwrite)
    return renameat(dir_fd, tmp, dir_fd, name) < 0 ? -errno : 0;
  if (renameat2(dir_fd, tmp, dir_fd, name, RENAME_NOREPLACE) == 0)
    return 0;
  if (errno != EINVAL && errno != ENOSYS)
    return -errno;
  if (linkat(dir_fd, tmp, dir_fd, name, 0) < 0) /* NFS */
    return -errno;
  unlinkat(dir_fd, tmp, 0);
  return 0;
}

/* Refuses early what could only fail after all bytes are written; tells the mode that the file has and should keep. */
static int look_at_old(int dir_fd, const char *name, bool overwrite, mode_t *ret_mode) {
  struct stat st;

  if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return errno == ENOENT ? 0 : -errno;
  if (!overwrite)
    return -EEXIST;
  if (S_ISDIR(st.st_mode))
    return -EISDIR;
  if (S_ISREG(st.st_mode))
    *ret_mode = st.st_mode & 0777;
  return 0;
}

static int create_tmp(struct posix *o, int dir_fd, char *name, size_t cap) {
  int fd = -EEXIST;

  for (int i = 0; i < TMP_TRIES && fd == -EEXIST; i++) {
    snprintf(name, cap, POSIX_TMP_PREFIX "%016" PRIx64 ".%" PRIu64, o->tmp_tag,
             (uint64_t)atomic_fetch_add(&o->tmp_count, 1));
    fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
      fd = -errno;
  }
  return fd;
}

/* Returns the bytes written. */
static int64_t put_in(struct posix *o, int dir_fd, const char *name, const struct iovec *iov, unsigned n,
                      bool overwrite, struct stat *st) {
  char tmp[sizeof POSIX_TMP_PREFIX + 48];
  mode_t mode = 0;

  int64_t r = look_at_old(dir_fd, name, overwrite, &mode);
  if (r < 0)
    return r;
  int fd = create_tmp(o, dir_fd, tmp, sizeof tmp);
  if (fd < 0)
    return fd;
  r = write_all(fd, iov, n);
  int64_t bytes = r;
  if (r >= 0)
    r = (mode && fchmod(fd, mode) < 0) || fsync(fd) < 0 ? -errno : publish(dir_fd, tmp, name, overwrite);
  if (r < 0) {
    unlinkat(dir_fd, tmp, 0);
  } else if ((fsync(dir_fd) < 0 && errno != EINVAL) || fstat(fd, st) < 0) {
    r = -errno; /* EINVAL: a file system that has nothing to sync in a directory */
  }
  close(fd);
  return r < 0 ? r : bytes;
}

int posix_put(struct origin *base, const char *path, const struct iovec *iov, unsigned n, bool overwrite,
              struct origin_stat *ret, struct err *e) {
  struct posix *o = (struct posix *)base;
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  char dir[NAME_KEY_MAX + 1] = "";
  struct stat st;

  atomic_fetch_add_explicit(&o->count.puts, 1, memory_order_relaxed);
  int r = name_check_key(path, strlen(path), e);
  if (r < 0)
    return posix_count(o, r);
  if (strncmp(name, POSIX_TMP_PREFIX, sizeof POSIX_TMP_PREFIX - 1) == 0)
    return err_set(e, posix_count(o, -EINVAL), "origin: names that begin with %s are for files in the making",
                   POSIX_TMP_PREFIX);
  if (slash)
    memcpy(dir, path, (size_t)(slash - path));
  int dir_fd = open_dir(o, dir);
  if (dir_fd < 0)
    return posix_fail(o, e, dir_fd, "cannot make the directory of", path);
  sweep(o, dir, dir_fd);
  int64_t bytes = put_in(o, dir_fd, name, iov, n, overwrite, &st);
  close(dir_fd);
  if (bytes < 0)
    return posix_fail(o, e, (int)bytes, "cannot write", path);
  atomic_fetch_add_explicit(&o->count.put_bytes, (uint64_t)bytes, memory_order_relaxed);
  if (ret)
    *ret = posix_version(&st);
  return 0;
}
