/* posix.c - an origin that is a directory: resolving paths beneath it, stat, and setting it up. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/names.h"
#include "server/origin/posix_impl.h"

#define RESOLVE_TRIES 64 /* a rename anywhere makes openat2 give up when it meets ".." */
#define OPEN_FILES_MAX 65536u

static int open_how(int dir_fd, const char *path, int flags, uint64_t resolve) {
  struct open_how how = {.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC), .resolve = resolve};

  for (int tries = 0;; tries++) {
    long fd = syscall(SYS_openat2, dir_fd, path, &how, sizeof how);
    if (fd >= 0)
      return (int)fd;
    if ((errno != EAGAIN && errno != EINTR) || tries == RESOLVE_TRIES)
      return -errno;
  }
}

int posix_open(struct posix *o, const char *path, int flags) {
  const char *at = *path ? path : ".";
  int fd = open_how(o->root_fd, at, flags, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);

  if (fd == -ELOOP) { /* a circle of links, or a magic link: the latter leaves the tree by definition */
    int again = open_how(o->root_fd, at, O_PATH, RESOLVE_BENEATH);
    if (again >= 0)
      close(again);
    if (again != -ELOOP)
      return -FB_EESCAPES;
  }
  return fd == -EXDEV ? -FB_EESCAPES : fd;
}

int posix_count(struct posix *o, int r) {
  if (r != -ENOENT && r != -EEXIST)
    atomic_fetch_add_explicit(&o->count.errors, 1, memory_order_relaxed);
  return r;
}

int posix_fail(struct posix *o, struct err *e, int r, const char *what, const char *path) {
  char quoted[NAME_QUOTE_MAX];

  posix_count(o, r);
  if (r == -FB_EESCAPES)
    return err_set(e, r, "origin: %s %s: it leads out of the origin directory through \"..\" or a symbolic link", what,
                   name_quote(quoted, path, strlen(path)));
  return err_set(e, r, "origin: %s %s: %s", what, *path ? name_quote(quoted, path, strlen(path)) : "the root",
                 err_describe(r));
}

static int64_t timespec_ns(struct timespec t) { return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec; }

/* No st_dev in the etag: it is numbered by each machine as it mounts, and all peers must see one version in one file.
 * The inode's number tells a replaced file from a rewritten one, ctime tells what mtime was set back to hide. */
struct origin_stat posix_version(const struct stat *st) {
  uint8_t v[32];

  put_le64(v, (uint64_t)st->st_size);
  put_le64(v + 8, (uint64_t)timespec_ns(st->st_mtim));
  put_le64(v + 16, (uint64_t)timespec_ns(st->st_ctim));
  put_le64(v + 24, st->st_ino);
  uint64_t etag = hash_bytes64(v, sizeof v);
  return (struct origin_stat){
      .size = (uint64_t)st->st_size,
      .mtime_ns = timespec_ns(st->st_mtim),
      .etag = etag ? etag : 1,
      .directory = S_ISDIR(st->st_mode),
  };
}

static int posix_stat(struct origin *base, const char *path, struct origin_stat *ret, struct err *e) {
  struct posix *o = (struct posix *)base;
  struct stat st;
  char quoted[NAME_QUOTE_MAX];

  atomic_fetch_add_explicit(&o->count.stats, 1, memory_order_relaxed);
  int fd = posix_open(o, path, O_PATH); /* opens nothing: no fifo waits, no device wakes */
  if (fd < 0)
    return posix_fail(o, e, fd, "cannot look up", path);
  int r = fstat(fd, &st) < 0 ? -errno : 0;
  close(fd);
  if (r < 0)
    return posix_fail(o, e, r, "cannot look up", path);
  if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
    return err_set(e, posix_count(o, -EINVAL), "origin: %s is neither a file nor a directory: only those are served",
                   name_quote(quoted, path, strlen(path)));
  *ret = posix_version(&st);
  return 0;
}

static void posix_stats(struct origin *base, struct origin_stats *ret) {
  struct posix *o = (struct posix *)base;

  *ret = (struct origin_stats){
      .opens = atomic_load(&o->count.opens),
      .reads = atomic_load(&o->count.reads),
      .read_bytes = atomic_load(&o->count.read_bytes),
      .stats = atomic_load(&o->count.stats),
      .lists = atomic_load(&o->count.lists),
      .puts = atomic_load(&o->count.puts),
      .put_bytes = atomic_load(&o->count.put_bytes),
      .errors = atomic_load(&o->count.errors),
  };
}

static void posix_free(struct origin *base) {
  struct posix *o = (struct posix *)base;

  posix_files_fini(&o->files);
  if (o->root_fd >= 0)
    close(o->root_fd);
  free(o);
}

static const struct origin_ops posix_ops = {
    .kind = "posix",
    .stat = posix_stat,
    .read = posix_read,
    .list = posix_list,
    .put = posix_put,
    .stats = posix_stats,
    .free = posix_free,
};

/* Whether `path` is `root` or below it, by their text. */
static bool is_below(const char *path, const char *root) {
  size_t n = strlen(root);

  while (n > 0 && root[n - 1] == '/')
    n--;
  return strncmp(path, root, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* Resolves the root and holds it against the allowed ones. *ret_path is malloc'd. */
static int resolve_root(const char *root, char *const *roots, unsigned n_roots, char **ret_path, struct err *e) {
  char *path = realpath(root, NULL);
  int r = path ? 0 : -errno;
  bool allowed = false;

  for (unsigned i = 0; i < n_roots && !allowed; i++) {
    char *real = path ? realpath(roots[i], NULL) : NULL;
    /* What cannot be resolved is only told of by name where names may be known. */
    allowed = path ? real && is_below(path, real) : is_below(root, roots[i]);
    free(real);
  }
  if (!allowed) {
    free(path);
    return err_set(e, -FB_EORIGINROOT,
                   "origin directory %s is not below any directory that this peer may read: add it or a directory "
                   "above it to `origin.roots` in the peer's configuration",
                   root);
  }
  if (r < 0)
    return err_set(e, r, "origin directory %s: %s", root, err_describe(r));
  *ret_path = path;
  return 0;
}

void origin_posix_share_fds(struct origin *o, struct origin_fds *fds) { ((struct posix *)o)->files.fds = fds; }

int origin_posix_new(struct origin **ret, const char *root, char *const *roots, unsigned n_roots,
                     unsigned max_open_files, struct err *e) {
  char *path = NULL;

  if (!root || root[0] != '/')
    return err_set(e, -EINVAL, "origin directory \"%s\": give an absolute path", root ? root : "");
  if (max_open_files > OPEN_FILES_MAX)
    return err_set(e, -EINVAL, "origin keeps at most %u files open, not %u", OPEN_FILES_MAX, max_open_files);
  int r = resolve_root(root, roots, n_roots, &path, e);
  if (r < 0)
    return r;
  struct posix *o = calloc(1, sizeof *o);
  if (!o) {
    free(path);
    return err_set(e, -ENOMEM, "out of memory");
  }
  o->base.ops = &posix_ops;
  /* The path that was checked has no links: if one has got into it since, this fails. */
  o->root_fd = open_how(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
  free(path);
  r = posix_files_init(&o->files, max_open_files);
  if (o->root_fd < 0) {
    r = o->root_fd;
    if (r == -ENOSYS || r == -EPERM)
      err_set(e, r,
              "origin directory %s: the system call openat2 is refused (%s): it takes Linux 5.6 and a seccomp "
              "profile that allows it",
              root, err_describe(r));
    else
      err_set(e, r, "origin directory %s: %s", root, err_describe(r));
  } else if (r < 0) {
    err_set(e, r, "out of memory");
  }
  if (r == 0 && getrandom(&o->tmp_tag, sizeof o->tmp_tag, 0) != (ssize_t)sizeof o->tmp_tag)
    o->tmp_tag = (uint64_t)clock_wall_ns() ^ (uint64_t)getpid() << 32; /* O_EXCL is what makes names safe */
  if (r < 0) {
    posix_free(&o->base);
    return r;
  }
  *ret = &o->base;
  return 0;
}
