/* fake_origin.c - an origin in memory; see fake_origin.h. */
#include "tests/lib/fake_origin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/hash.h"

struct fake_file {
  struct fake_file *next; /* in order of path */
  char *path;
  char *data;
  size_t len, cut;
  uint64_t version;
};

static struct fake_origin *of(struct origin *o) { return (struct fake_origin *)o; }

static struct fake_file **find_locked(struct fake_origin *f, const char *path) {
  struct fake_file **at = &f->files;

  while (*at && strcmp((*at)->path, path) < 0)
    at = &(*at)->next;
  return at;
}

static struct fake_file *get_locked(struct fake_origin *f, const char *path) {
  struct fake_file *file = *find_locked(f, path);
  return file && strcmp(file->path, path) == 0 ? file : NULL;
}

static struct origin_stat stat_of(const struct fake_file *file) {
  return (struct origin_stat){
      .size = file->len, .mtime_ns = (int64_t)file->version, .etag = hash_mix64(file->version) | 1};
}

/* Whether some file lies below the directory. */
static bool is_dir_locked(struct fake_origin *f, const char *path) {
  size_t n = strlen(path);

  for (struct fake_file *file = f->files; file; file = file->next)
    if (n == 0 || (strncmp(file->path, path, n) == 0 && file->path[n] == '/'))
      return true;
  return n == 0;
}

static void set_locked(struct fake_origin *f, const char *path, char *data, size_t len) {
  struct fake_file **at = find_locked(f, path), *file = *at;

  if (!file || strcmp(file->path, path) != 0) {
    file = calloc(1, sizeof *file);
    if (!file || !(file->path = strdup(path)))
      abort();
    file->next = *at;
    *at = file;
  }
  free(file->data);
  file->data = data;
  file->len = len;
  file->cut = SIZE_MAX;
  file->version = ++f->version;
}

void fake_origin_set(struct fake_origin *f, const char *path, const void *data, size_t len) {
  char *copy = malloc(len ? len : 1);

  if (!copy)
    abort();
  if (len)
    memcpy(copy, data, len);
  pthread_mutex_lock(&f->mtx);
  set_locked(f, path, copy, len);
  pthread_mutex_unlock(&f->mtx);
}

void fake_origin_remove(struct fake_origin *f, const char *path) {
  pthread_mutex_lock(&f->mtx);
  struct fake_file **at = find_locked(f, path), *file = *at;
  if (file && strcmp(file->path, path) == 0) {
    *at = file->next;
    free(file->path);
    free(file->data);
    free(file);
  }
  pthread_mutex_unlock(&f->mtx);
}

void fake_origin_cut(struct fake_origin *f, const char *path, size_t len) {
  pthread_mutex_lock(&f->mtx);
  struct fake_file *file = get_locked(f, path);
  if (file)
    file->cut = len;
  pthread_mutex_unlock(&f->mtx);
}

uint64_t fake_origin_etag(struct fake_origin *f, const char *path) {
  pthread_mutex_lock(&f->mtx);
  struct fake_file *file = get_locked(f, path);
  uint64_t etag = file ? stat_of(file).etag : 0;
  pthread_mutex_unlock(&f->mtx);
  return etag;
}

static int fake_stat(struct origin *o, const char *path, struct origin_stat *ret, struct err *e) {
  struct fake_origin *f = of(o);
  int r = fault_step(&f->stat);

  pthread_mutex_lock(&f->mtx);
  f->count.stats++;
  struct fake_file *file = get_locked(f, path);
  if (r == 0 && file)
    *ret = stat_of(file);
  else if (r == 0 && is_dir_locked(f, path))
    *ret = (struct origin_stat){.directory = true, .etag = 1};
  else if (r == 0)
    r = -ENOENT;
  f->count.errors += r < 0 && r != -ENOENT;
  pthread_mutex_unlock(&f->mtx);
  int late = fault_step(&f->stat_late);
  r = r ? r : late;
  return r < 0 ? err_set(e, r, "fake origin: stat %s: %s", path, err_describe(r)) : 0;
}

/* Copies bytes [at, at+len) if the file is still of that version. Bytes (fewer where it is cut), or -FB_ECHANGED. */
static ssize_t copy_locked(struct fake_origin *f, const char *path, uint64_t etag, uint64_t at, char *buf, size_t len) {
  struct fake_file *file = get_locked(f, path);

  if (!file || stat_of(file).etag != etag)
    return -FB_ECHANGED;
  uint64_t end = min_u64(min_u64(file->len, file->cut), at + len);
  if (at >= end)
    return 0;
  memcpy(buf, file->data + at, end - at);
  return (ssize_t)(end - at);
}

static ssize_t fake_read(struct origin *o, const char *path, uint64_t etag, uint64_t offset, void *buf, size_t len,
                         struct origin_stat *ret_stat, struct err *e) {
  struct fake_origin *f = of(o);
  struct origin_stat st = {0};
  ssize_t n = fault_step(&f->read), n2 = 0;
  size_t want = 0;

  pthread_mutex_lock(&f->mtx);
  f->count.reads++;
  struct fake_file *file = get_locked(f, path);
  if (n == 0 && !file)
    n = is_dir_locked(f, path) ? -EISDIR : -ENOENT;
  if (n == 0) {
    st = stat_of(file);
    n = etag && etag != st.etag ? -FB_ECHANGED : offset > st.size ? -FB_EPASTEND : 0;
  }
  if (n == 0) {
    want = min_u64(len, st.size - offset);
    n = copy_locked(f, path, st.etag, offset, buf, want / 2);
  }
  pthread_mutex_unlock(&f->mtx);
  int r = n < 0 ? 0 : fault_step(&f->read_half);
  pthread_mutex_lock(&f->mtx);
  if (n >= 0)
    n2 = r < 0 ? r : copy_locked(f, path, st.etag, offset + want / 2, (char *)buf + want / 2, want - want / 2);
  n = n < 0 ? n : n2 < 0 ? n2 : n + n2;
  if (n >= 0 && (size_t)n < want)
    n = -FB_ESHORT;
  if (n >= 0)
    f->count.read_bytes += (uint64_t)n;
  f->count.errors += n < 0 && n != -ENOENT;
  pthread_mutex_unlock(&f->mtx);
  if (n < 0)
    return err_set(e, (int)n, "fake origin: read %s: %s", path, err_describe((int)n));
  if (ret_stat)
    *ret_stat = st;
  return n;
}

static int fake_list(struct origin *o, const char *dir, bool recursive,
                     int (*each)(void *arg, const char *path, const struct origin_stat *st), void *arg, struct err *e) {
  struct fake_origin *f = of(o);
  int r = fault_step(&f->list);
  size_t n = strlen(dir), count = 0, cap = 0;
  struct entry {
    char *path;
    struct origin_stat st;
  } *v = NULL;

  pthread_mutex_lock(&f->mtx);
  f->count.lists++;
  if (r == 0 && !is_dir_locked(f, dir))
    r = get_locked(f, dir) ? -ENOTDIR : -ENOENT;
  for (struct fake_file *file = f->files; file && r == 0; file = file->next) {
    if (n > 0 && (strncmp(file->path, dir, n) != 0 || file->path[n] != '/'))
      continue;
    const char *slash = recursive ? NULL : strchr(file->path + n + (n > 0), '/');
    size_t len = slash ? (size_t)(slash - file->path) : strlen(file->path);
    if (slash && count && strlen(v[count - 1].path) == len && strncmp(v[count - 1].path, file->path, len) == 0)
      continue; /* the same directory again */
    if (count == cap && !(v = realloc(v, (cap = cap ? cap * 2 : 64) * sizeof *v)))
      abort();
    v[count].path = strndup(file->path, len);
    v[count].st = slash ? (struct origin_stat){.directory = true, .etag = 1} : stat_of(file);
    count++;
  }
  pthread_mutex_unlock(&f->mtx);
  if (r < 0)
    err_set(e, r, "fake origin: list %s: %s", dir, err_describe(r));
  for (size_t i = 0; i < count; i++) {
    if (r == 0)
      r = each(arg, v[i].path, &v[i].st);
    free(v[i].path);
  }
  free(v);
  return r;
}

static int fake_put(struct origin *o, const char *path, const struct iovec *iov, unsigned n, bool overwrite,
                    struct origin_stat *ret, struct err *e) {
  struct fake_origin *f = of(o);
  int r = fault_step(&f->put);
  size_t len = 0;

  for (unsigned i = 0; i < n; i++)
    len += iov[i].iov_len;
  char *data = malloc(len ? len : 1);
  if (!data)
    abort();
  len = 0;
  for (unsigned i = 0; i < n; i++) {
    if (iov[i].iov_len)
      memcpy(data + len, iov[i].iov_base, iov[i].iov_len);
    len += iov[i].iov_len;
  }
  pthread_mutex_lock(&f->mtx);
  f->count.puts++;
  if (r == 0 && !overwrite && get_locked(f, path))
    r = -EEXIST;
  if (r == 0) {
    set_locked(f, path, data, len);
    data = NULL;
    f->count.put_bytes += len;
    if (ret)
      *ret = stat_of(get_locked(f, path));
  }
  f->count.errors += r < 0 && r != -EEXIST;
  pthread_mutex_unlock(&f->mtx);
  free(data);
  int late = fault_step(&f->put_late);
  r = r ? r : late;
  return r < 0 ? err_set(e, r, "fake origin: put %s: %s", path, err_describe(r)) : 0;
}

static void fake_stats(struct origin *o, struct origin_stats *ret) {
  struct fake_origin *f = of(o);

  pthread_mutex_lock(&f->mtx);
  *ret = f->count;
  pthread_mutex_unlock(&f->mtx);
}

static void fake_free(struct origin *o) {
  struct fake_origin *f = of(o);

  while (f->files)
    fake_origin_remove(f, f->files->path);
  fault_fini(&f->stat);
  fault_fini(&f->stat_late);
  fault_fini(&f->read);
  fault_fini(&f->read_half);
  fault_fini(&f->list);
  fault_fini(&f->put);
  fault_fini(&f->put_late);
  pthread_mutex_destroy(&f->mtx);
  free(f);
}

static const struct origin_ops fake_ops = {
    .kind = "fake",
    .stat = fake_stat,
    .read = fake_read,
    .list = fake_list,
    .put = fake_put,
    .stats = fake_stats,
    .free = fake_free,
};

struct fake_origin *fake_origin_new(void) {
  struct fake_origin *f = calloc(1, sizeof *f);

  if (!f)
    abort();
  f->base.ops = &fake_ops;
  pthread_mutex_init(&f->mtx, NULL);
  fault_init(&f->stat);
  fault_init(&f->stat_late);
  fault_init(&f->read);
  fault_init(&f->read_half);
  fault_init(&f->list);
  fault_init(&f->put);
  fault_init(&f->put_late);
  return f;
}
