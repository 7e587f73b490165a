/* origin.h - where the canonical bytes live: a directory of a shared filesystem now, a bucket later.
 *
 * All calls block (run them in a worker pool) and are thread-safe. Errors of the filesystem are passed on as its own
 * errnos. Paths are relative keys that names.h has checked; nothing here ever resolves above the root, through a magic
 * link, or through a symbolic link that leads out of it (openat2 with RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS):
 * that is -FB_EESCAPES. */
#ifndef FB_ORIGIN_ORIGIN_H
#define FB_ORIGIN_ORIGIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/err.h"

struct origin_stat {
  uint64_t size;
  int64_t mtime_ns;
  uint64_t etag; /* hash of size, mtime, ctime and inode, on every machine the same; never 0. Equal: the same bytes. */
  bool directory;
};

struct origin_stats { /* totals; errors: calls that failed with anything but -ENOENT and -EEXIST */
  uint64_t opens, reads, read_bytes, stats, lists, puts, put_bytes, errors;
};

struct origin;
struct origin_ops {
  const char *kind;
  int (*stat)(struct origin *o, const char *path, struct origin_stat *ret, struct err *e);
  ssize_t (*read)(struct origin *o, const char *path, uint64_t etag, uint64_t offset, void *buf, size_t len,
                  struct origin_stat *ret_stat, struct err *e);
  int (*list)(struct origin *o, const char *dir, bool recursive,
              int (*each)(void *arg, const char *path, const struct origin_stat *st), void *arg, struct err *e);
  int (*put)(struct origin *o, const char *path, const struct iovec *iov, unsigned n, bool overwrite,
             struct origin_stat *ret, struct err *e);
  void (*stats)(struct origin *o, struct origin_stats *ret);
  void (*free)(struct origin *o);
};
struct origin {
  const struct origin_ops *ops; /* first member of every implementation */
};

/* Regular files and directories; anything else (fifo, device, socket) is -EINVAL with a text. -ENOENT, -EACCES, ... */
static inline int origin_stat(struct origin *o, const char *path, struct origin_stat *ret, struct err *e) {
  return o->ops->stat(o, path, ret, e);
}
/* Reads exactly min(len, size - offset) bytes of version `etag` (0 = the current one, told in ret_stat, which may be
 * NULL). The version is checked before and after the read, so bytes are never of two versions:
 *   -FB_ECHANGED  the file is, or became, another version
 *   -FB_ESHORT    fewer bytes than the size promises, though the version held
 *   -FB_EPASTEND  offset > size
 * A file that was changed less than the timestamp granularity ago is waited for (at most 20 ms), so that a later write
 * cannot hide behind an equal timestamp. */
static inline ssize_t origin_read(struct origin *o, const char *path, uint64_t etag, uint64_t offset, void *buf,
                                  size_t len, struct origin_stat *ret_stat, struct err *e) {
  return o->ops->read(o, path, etag, offset, buf, len, ret_stat, e);
}
/* Calls each() for entries below directory `dir` ("" = root): one level with its directories, or, recursive, all files.
 * Paths are relative to the root. Order: by name within a directory. Symbolic links are followed if they stay inside
 * (to files only when recursive), silently left out if they lead out or nowhere. Names that are no valid key are left
 * out too. Files that are being put (temporary names) never appear. each() != 0 stops and is returned. Depth is
 * bounded (64; beyond it: -ELOOP), memory by the largest directory. */
static inline int origin_list(struct origin *o, const char *dir, bool recursive,
                              int (*each)(void *arg, const char *path, const struct origin_stat *st), void *arg,
                              struct err *e) {
  return o->ops->list(o, dir, recursive, each, arg, e);
}
/* Writes a whole file: temporary file in the same directory, fsync, rename (or link, when it must not exist: -EEXIST),
 * fsync of the directory; parent directories are made. Overwriting keeps the old file's permission bits, and replaces a
 * symbolic link, not its target. On any failure (-ENOSPC, -EDQUOT, -EIO ...) the old file is as it was and no temporary
 * one is left; but if only the last step fails, the fsync of the directory, the new one is in place and a power cut
 * could still undo that. */
static inline int origin_put(struct origin *o, const char *path, const struct iovec *iov, unsigned n, bool overwrite,
                             struct origin_stat *ret, struct err *e) {
  return o->ops->put(o, path, iov, n, overwrite, ret, e);
}
static inline void origin_stats(struct origin *o, struct origin_stats *ret) { o->ops->stats(o, ret); }
static inline void origin_free(struct origin **o) {
  if (*o)
    (*o)->ops->free(*o);
  *o = NULL;
}

/* posix.c: the directory `root` (absolute). roots[0..n_roots): directories below one of which (or equal to one) it must
 * lie after all links are resolved: else -FB_EORIGINROOT. -ENOENT, -ENOTDIR, -EACCES, -EINVAL (not absolute).
 * Keeps at most max_open_files descriptors of recently read files. */
int origin_posix_new(struct origin **ret, const char *root, char *const *roots, unsigned n_roots,
                     unsigned max_open_files, struct err *e);

/* A bound on the descriptors that several origins keep open together. It outlives them. */
struct origin_fds {
  unsigned max;     /* constant */
  atomic_uint used; /* theirs */
};
/* From now on the origin (of posix.c) keeps a file open only within `fds` too: it gives up one of its own for it, or
 * reads without keeping. Before the origin's first use. */
void origin_posix_share_fds(struct origin *o, struct origin_fds *fds);

#endif
