/* posix_impl.h - the POSIX origin's insides, shared by its files: posix.c (paths, stat, construction), posix_read.c,
 * posix_files.c (open files kept), posix_list.c, posix_put.c.
 *
 * Everything starts at root_fd: a path is never put together with the root's name, so no link above or below it, and no
 * rename of the root, can lead a call elsewhere. */
#ifndef FB_ORIGIN_POSIX_IMPL_H
#define FB_ORIGIN_POSIX_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "server/origin/origin.h"

/* Files that are being put, in their final directory. Peers on several machines may write to one: the middle is random
 * per origin, the counter tells our own apart. */
#define POSIX_TMP_PREFIX ".forebay-tmp."

/* --- open files (posix_files.c) --------------------------------------------------------------------------------- */

/* An open descriptor of one version of a file. Kept ones hang in a table with the keeper's reference of none: they go
 * when they are the least recently used and no call holds them. */
struct posix_file {
  int fd;        /* constant, as are the next two */
  uint64_t etag; /* the version it was when opened */
  char *path;
  unsigned users; /* from here on: under the keeper's mtx */
  bool kept;
  int64_t used_ns;
  struct posix_file *next;          /* in its bucket */
  struct posix_file *newer, *older; /* in order of use */
};

struct posix_files {
  pthread_mutex_t mtx;
  unsigned max, n;        /* max is constant */
  struct origin_fds *fds; /* constant once in use; NULL: no bound but our own */
  unsigned n_buckets;
  struct posix_file **buckets;
  struct posix_file *newest, *oldest;
};

int posix_files_init(struct posix_files *f, unsigned max); /* 0 or -ENOMEM */
void posix_files_fini(struct posix_files *f);              /* nothing may be held */
/* A kept file of this version, held; or NULL. */
struct posix_file *posix_files_get(struct posix_files *f, const char *path, uint64_t etag);
/* Takes over an open descriptor and keeps it if there is room. Held. NULL when out of memory (fd is closed then). */
struct posix_file *posix_files_add(struct posix_files *f, const char *path, uint64_t etag, int fd);
/* Ends a hold; `stale`: it is not that version any more, forget it. NULLs it; accepts NULL. */
void posix_files_put(struct posix_files *f, struct posix_file **file, bool stale);

/* --- the origin ------------------------------------------------------------------------------------------------- */

#define POSIX_SWEPT 64u

struct posix {
  struct origin base;
  int root_fd;
  struct posix_files files;
  uint64_t tmp_tag; /* random */
  atomic_uint_least64_t tmp_count;
  /* When the directory with this hash was last searched for left-over temporary files; see posix_put.c. */
  atomic_uint_least64_t swept_dir[POSIX_SWEPT];
  atomic_int_least64_t swept_ns;
  struct {
    atomic_uint_least64_t opens, reads, read_bytes, stats, lists, puts, put_bytes, errors;
  } count;
};

/* Opens `path` ("" = the root) beneath the root with O_CLOEXEC. A descriptor, or the negative errno; a path that leads
 * out is -FB_EESCAPES. */
int posix_open(struct posix *o, const char *path, int flags);
/* Counts the failure r as an error, unless it is an ordinary answer. Returns r. */
int posix_count(struct posix *o, int r);
/* Counts the failure r of doing `what` to `path` and says it in words. Returns r. */
int posix_fail(struct posix *o, struct err *e, int r, const char *what, const char *path);
/* What the contract tells of a file. */
struct origin_stat posix_version(const struct stat *st);

ssize_t posix_read(struct origin *o, const char *path, uint64_t etag, uint64_t offset, void *buf, size_t len,
                   struct origin_stat *ret_stat, struct err *e);
int posix_list(struct origin *o, const char *dir, bool recursive,
               int (*each)(void *arg, const char *path, const struct origin_stat *st), void *arg, struct err *e);
int posix_put(struct origin *o, const char *path, const struct iovec *iov, unsigned n, bool overwrite,
              struct origin_stat *ret, struct err *e);

#endif
