/* posix_list.c - walking the directory, names in order.
 *
 * Below the starting point only real directories are entered, by descriptor and never through a link, so a directory
 * that is swapped for a link meanwhile leads nowhere. Links are looked up from the root, as a read would. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/names.h"
#include "server/origin/posix_impl.h"

#define DEPTH_MAX 64u

struct walk {
  struct posix *o;
  bool recursive;
  int (*each)(void *arg, const char *path, const struct origin_stat *st);
  void *arg;
  struct err *e;
  unsigned depth;
  size_t len; /* of path: the directory that is being walked */
  char path[NAME_KEY_MAX + 1];
};

struct names {
  char **v;
  size_t n, cap;
};

static void names_fini(struct names *names) {
  for (size_t i = 0; i < names->n; i++)
    free(names->v[i]);
  free(names->v);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int names_read(struct names *names, DIR *d) {
  for (;;) {
    errno = 0;
    struct dirent *ent = readdir(d);
    if (!ent)
      break;
    const char *name = ent->d_name;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
        strncmp(name, POSIX_TMP_PREFIX, sizeof POSIX_TMP_PREFIX - 1) == 0)
      continue;
    if (names->n == names->cap) {
      size_t cap = names->cap ? names->cap * 2 : 64;
      char **v = reallocarray(names->v, cap, sizeof *v);
      if (!v)
        return -ENOMEM;
      names->v = v;
      names->cap = cap;
    }
    if (!(names->v[names->n] = strdup(name)))
      return -ENOMEM;
    names->n++;
  }
  if (errno)
    return -errno;
  if (names->n)
    qsort(names->v, names->n, sizeof *names->v, by_name);
  return 0;
}

/* Appends a name to the path. False if that is no valid key: nobody could ask for it. */
static bool path_push(struct walk *w, const char *name) {
  size_t n = strlen(name), slash = w->len > 0;

  if (w->len + slash + n > NAME_KEY_MAX || name_check_key(name, n, NULL) < 0)
    return false;
  if (slash)
    w->path[w->len] = '/';
  memcpy(w->path + w->len + slash, name, n + 1);
  w->len += slash + n;
  return true;
}

static void path_cut(struct walk *w, size_t len) {
  w->len = len;
  w->path[len] = '\0';
}

/* 0, or a failure to end with; -ENOENT: leave it out. */
static int look_at(struct walk *w, int dir_fd, const char *name, struct stat *st, bool *ret_link) {
  if (fstatat(dir_fd, name, st, AT_SYMLINK_NOFOLLOW) < 0)
    return -errno;
  *ret_link = S_ISLNK(st->st_mode);
  if (!*ret_link)
    return 0;
  int fd = posix_open(w->o, w->path, O_PATH), r = 0;
  if (fd == -FB_EESCAPES || fd == -ELOOP || fd == -ENOTDIR || fd == -EACCES || fd == -ENAMETOOLONG)
    return -ENOENT; /* out, or nowhere that a read could get to */
  if (fd < 0)
    return fd;
  if (fstat(fd, st) < 0)
    r = -errno;
  close(fd);
  return r;
}

static int walk_dir(struct walk *w, int fd);

static int enter(struct walk *w, int dir_fd, const char *name) {
  char quoted[NAME_QUOTE_MAX];

  if (w->depth + 1 > DEPTH_MAX)
    return err_set(w->e, posix_count(w->o, -ELOOP), "origin: %s is nested deeper than %u directories",
                   name_quote(quoted, w->path, w->len), DEPTH_MAX);
  int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) {
    bool gone = errno == ENOENT || errno == ENOTDIR || errno == ELOOP; /* or something else by now */
    return gone ? 0 : posix_fail(w->o, w->e, -errno, "cannot open directory", w->path);
  }
  w->depth++;
  int r = walk_dir(w, fd);
  w->depth--;
  return r;
}

static int visit(struct walk *w, int dir_fd, const char *name) {
  struct stat st;
  bool link = false;

  int r = look_at(w, dir_fd, name, &st, &link);
  if (r < 0)
    return r == -ENOENT ? 0 : posix_fail(w->o, w->e, r, "cannot look up", w->path);
  bool dir = S_ISDIR(st.st_mode);
  if (dir && w->recursive)
    return link ? 0 : enter(w, dir_fd, name);
  if (!dir && !S_ISREG(st.st_mode))
    return 0;
  struct origin_stat version = posix_version(&st);
  return w->each(w->arg, w->path, &version);
}

/* Takes over fd. */
static int walk_dir(struct walk *w, int fd) {
  struct names names = {0};
  size_t len = w->len;
  DIR *d = fdopendir(fd);

  if (!d) {
    int r = -errno;
    close(fd);
    return posix_fail(w->o, w->e, r, "cannot read directory", w->path);
  }
  int r = names_read(&names, d);
  if (r < 0)
    posix_fail(w->o, w->e, r, "cannot read directory", w->path);
  for (size_t i = 0; i < names.n && r == 0; i++) {
    if (path_push(w, names.v[i])) {
      r = visit(w, dirfd(d), names.v[i]);
      path_cut(w, len);
    }
  }
  names_fini(&names);
  closedir(d);
  return r;
}

int posix_list(struct origin *base, const char *dir, bool recursive,
               int (*each)(void *arg, const char *path, const struct origin_stat *st), void *arg, struct err *e) {
  struct posix *o = (struct posix *)base;
  struct walk w = {.o = o, .recursive = recursive, .each = each, .arg = arg, .e = e, .len = strlen(dir)};

  atomic_fetch_add_explicit(&o->count.lists, 1, memory_order_relaxed);
  if (w.len > NAME_KEY_MAX)
    return posix_fail(o, e, -ENAMETOOLONG, "cannot list", dir);
  memcpy(w.path, dir, w.len + 1);
  int fd = posix_open(o, dir, O_RDONLY | O_DIRECTORY);
  return fd < 0 ? posix_fail(o, e, fd, "cannot list", dir) : walk_dir(&w, fd);
}
