/* posix_read.c - reading a range of exactly one version of a file.
 *
 * The version is looked at on the descriptor before and after the bytes are read. Two gaps are closed besides:
 *   - Timestamps have a granularity (4..10 ms on local file systems). A write within the same tick as the last one
 *     leaves the version as it was. So a file that changed less than SETTLE_NS ago is let grow that old first: any
 * later write shows, and everything that ever carried this version has ended.
 *   - mtime can be set back by anyone; ctime cannot. The version has both.
 * What remains is one write(2) that takes longer than SETTLE_NS to overwrite a file in place, and stores through a
 * shared mapping that the kernel has not noticed yet: those carry no new timestamp while they go on. Replacing files by
 * rename, as every tool does that writes shards, has no gap. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/names.h"
#include "server/origin/posix_impl.h"

#define SETTLE_NS (20 * NS_PER_MS)
/* A file server's clock may be ahead of ours by this; a time farther in the future was set by hand and tells nothing.
 */
#define SKEW_NS (10 * NS_PER_S)

static int64_t settle_wait_ns(struct timespec t, int64_t now) {
  int64_t then = (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;

  if (then > now)
    return then - now < SKEW_NS ? SETTLE_NS : 0;
  return now - then < SETTLE_NS ? SETTLE_NS - (now - then) : 0;
}

/* Waits until the file's last change is old enough to be told from the next one; *st is renewed then. */
static int settle(int fd, struct stat *st) {
  int64_t now = clock_wall_ns(), m = settle_wait_ns(st->st_mtim, now), c = settle_wait_ns(st->st_ctim, now);
  int64_t wait = m > c ? m : c;

  if (wait == 0)
    return 0;
  struct timespec until = clock_timespec(clock_mono_ns() + wait);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
    ;
  uint64_t before = posix_version(st).etag;
  if (fstat(fd, st) < 0)
    return -errno;
  return posix_version(st).etag == before ? 0 : -FB_ECHANGED;
}

/* Reads up to len bytes until the file ends. Bytes, or the negative errno. */
static ssize_t read_fully(int fd, void *buf, size_t len, uint64_t offset) {
  size_t done = 0;

  while (done < len) {
    ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -errno;
    if (n == 0)
      break;
    done += (size_t)n;
  }
  return (ssize_t)done;
}

/* Opens the current version; -FB_ECHANGED if another one is asked for. */
static int open_version(struct posix *o, const char *path, uint64_t etag, struct posix_file **ret, struct stat *st,
                        struct err *e) {
  char quoted[NAME_QUOTE_MAX];
  /* Without O_NONBLOCK a fifo would wait for its writer. */
  int fd = posix_open(o, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  bool special = fd == -ENXIO; /* a socket, or a device that is not there */

  if (fd < 0 && !special)
    return posix_fail(o, e, fd, "cannot open", path);
  atomic_fetch_add_explicit(&o->count.opens, 1, memory_order_relaxed);
  int r = special ? 0 : fstat(fd, st) < 0 ? -errno : 0;
  if (r == 0 && (special || !S_ISREG(st->st_mode)))
    r = !special && S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL;
  if (r == 0)
    r = settle(fd, st);
  if (r == 0 && etag != 0 && posix_version(st).etag != etag)
    r = -FB_ECHANGED;
  if (r < 0) {
    if (fd >= 0)
      close(fd);
    if (r == -EINVAL)
      return err_set(e, posix_count(o, r), "origin: %s is not a regular file: only those are read",
                     name_quote(quoted, path, strlen(path)));
    return posix_fail(o, e, r, "cannot read", path);
  }
  *ret = posix_files_add(&o->files, path, posix_version(st).etag, fd);
  return *ret ? 0 : posix_fail(o, e, -ENOMEM, "cannot read", path);
}

/* The file's version now, waiting for it to settle. */
static int version_now(struct posix_file *f, struct stat *st) {
  int r = fstat(f->fd, st) < 0 ? -errno : settle(f->fd, st);
  return r < 0 ? r : posix_version(st).etag == f->etag ? 0 : -FB_ECHANGED;
}

/* Reads min(len, size - offset) bytes of the version that *st was before. Bytes, or the negative code. */
static ssize_t read_version(struct posix_file *f, const struct stat *st, uint64_t offset, void *buf, size_t len) {
  if (offset > (uint64_t)st->st_size)
    return -FB_EPASTEND;
  size_t want = min_u64(min_u64(len, (uint64_t)st->st_size - offset), PTRDIFF_MAX);
  struct stat after;

  ssize_t n = read_fully(f->fd, buf, want, offset);
  if (n < 0)
    return n;
  if (fstat(f->fd, &after) < 0)
    return -errno;
  if (posix_version(&after).etag != f->etag)
    return -FB_ECHANGED;
  return (size_t)n < want ? -FB_ESHORT : n;
}

ssize_t posix_read(struct origin *base, const char *path, uint64_t etag, uint64_t offset, void *buf, size_t len,
                   struct origin_stat *ret_stat, struct err *e) {
  struct posix *o = (struct posix *)base;
  char quoted[NAME_QUOTE_MAX];
  ssize_t n = -ESTALE;
  struct stat st = {0};

  atomic_fetch_add_explicit(&o->count.reads, 1, memory_order_relaxed);
  /* The current version is asked of the path each time; a given one may come from a descriptor that is open. */
  struct posix_file *f = etag ? posix_files_get(&o->files, path, etag) : NULL;
  if (f) {
    n = version_now(f, &st);
    if (n == 0)
      n = read_version(f, &st, offset, buf, len);
    posix_files_put(&o->files, &f, n < 0 && n != -FB_EPASTEND);
  }
  if (n == -ESTALE || n == -FB_ECHANGED) { /* no descriptor, or one that is of no use: the path decides */
    int r = open_version(o, path, etag, &f, &st, e);
    if (r < 0)
      return r;
    assert(f);
    n = read_version(f, &st, offset, buf, len);
    posix_files_put(&o->files, &f, n < 0 && n != -FB_EPASTEND);
  }
  if (n == -FB_EPASTEND)
    return err_set(e, posix_count(o, -FB_EPASTEND), "origin: %s has %llu bytes: a read at %llu starts past its end",
                   name_quote(quoted, path, strlen(path)), (unsigned long long)st.st_size, (unsigned long long)offset);
  if (n < 0)
    return posix_fail(o, e, (int)n, "cannot read", path);
  atomic_fetch_add_explicit(&o->count.read_bytes, (uint64_t)n, memory_order_relaxed);
  if (ret_stat)
    *ret_stat = posix_version(&st);
  return n;
}
