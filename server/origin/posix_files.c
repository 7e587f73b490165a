/* posix_files.c - descriptors of recently read files, so that a chunk read in blocks is opened once.
 *
 * They are found by path and version together: a file that was replaced is another entry, and the old one's descriptor
 * serves the old version's bytes or, once the file system says that it changed, is forgotten. What was not used for
 * half a minute is closed by whoever comes next, so that deleted files do not hold their space for ever. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/hash.h"
#include "server/origin/posix_impl.h"

#define IDLE_NS (30 * NS_PER_S)

int posix_files_init(struct posix_files *f, unsigned max) {
  pthread_mutex_init(&f->mtx, NULL);
  f->max = max;
  f->n_buckets = 16;
  while (f->n_buckets < max)
    f->n_buckets *= 2;
  f->buckets = calloc(f->n_buckets, sizeof *f->buckets);
  return f->buckets ? 0 : -ENOMEM;
}

static struct posix_file **bucket_of(struct posix_files *f, const char *path, uint64_t etag) {
  return &f->buckets[(hash_bytes64(path, strlen(path)) ^ etag) & (f->n_buckets - 1)];
}

static struct posix_file *find_locked(struct posix_files *f, const char *path, uint64_t etag) {
  struct posix_file *file = *bucket_of(f, path, etag);

  while (file && (file->etag != etag || strcmp(file->path, path) != 0))
    file = file->next;
  return file;
}

static void order_remove(struct posix_files *f, struct posix_file *file) {
  *(file->newer ? &file->newer->older : &f->newest) = file->older;
  *(file->older ? &file->older->newer : &f->oldest) = file->newer;
}

static void order_insert(struct posix_files *f, struct posix_file *file) {
  file->newer = NULL;
  file->older = f->newest;
  *(f->newest ? &f->newest->newer : &f->oldest) = file;
  f->newest = file;
}

static bool fds_take(struct posix_files *f) {
  if (!f->fds)
    return true;
  if (atomic_fetch_add(&f->fds->used, 1) < f->fds->max)
    return true;
  atomic_fetch_sub(&f->fds->used, 1);
  return false;
}

static void fds_give(struct posix_files *f) {
  if (f->fds)
    atomic_fetch_sub(&f->fds->used, 1);
}

static void forget_locked(struct posix_files *f, struct posix_file *file) {
  struct posix_file **at = bucket_of(f, file->path, file->etag);

  while (*at != file)
    at = &(*at)->next;
  *at = file->next;
  order_remove(f, file);
  file->kept = false;
  f->n--;
  fds_give(f);
}

/* Closing can take long (a network file system): never under the lock. */
static void file_close(struct posix_file *file) {
  if (!file)
    return;
  close(file->fd);
  free(file->path);
  free(file);
}

/* The oldest file that no call holds, if it is idle or must go anyway; forgotten, the caller closes it. */
static struct posix_file *reap_locked(struct posix_files *f, bool must, int64_t now) {
  struct posix_file *file = f->oldest;

  while (must && file && file->users > 0)
    file = file->newer;
  if (!file || file->users > 0 || (!must && now - file->used_ns < IDLE_NS))
    return NULL;
  forget_locked(f, file);
  return file;
}

struct posix_file *posix_files_get(struct posix_files *f, const char *path, uint64_t etag) {
  int64_t now = clock_mono_ns();

  pthread_mutex_lock(&f->mtx);
  struct posix_file *file = find_locked(f, path, etag);
  if (file) {
    file->users++;
    file->used_ns = now;
    order_remove(f, file);
    order_insert(f, file);
  }
  struct posix_file *idle = reap_locked(f, false, now);
  pthread_mutex_unlock(&f->mtx);
  file_close(idle);
  return file;
}

struct posix_file *posix_files_add(struct posix_files *f, const char *path, uint64_t etag, int fd) {
  struct posix_file *file = calloc(1, sizeof *file), *gone = NULL;
  char *copy = strdup(path);

  if (!file || !copy) {
    free(file);
    free(copy);
    close(fd);
    return NULL;
  }
  *file = (struct posix_file){.fd = fd, .etag = etag, .path = copy, .users = 1, .used_ns = clock_mono_ns()};
  pthread_mutex_lock(&f->mtx);
  if (f->max > 0 && !find_locked(f, path, etag)) { /* another call may have been first: then ours is only for us */
    bool room = f->n < f->max && fds_take(f);
    if (!room && (gone = reap_locked(f, true, 0)))
      room = fds_take(f); /* the place that was given up, unless another origin was quicker */
    if (room) {
      struct posix_file **bucket = bucket_of(f, path, etag);
      file->next = *bucket;
      *bucket = file;
      order_insert(f, file);
      file->kept = true;
      f->n++;
    }
  }
  pthread_mutex_unlock(&f->mtx);
  file_close(gone);
  return file;
}

void posix_files_put(struct posix_files *f, struct posix_file **file, bool stale) {
  struct posix_file *it = *file;

  *file = NULL;
  if (!it)
    return;
  pthread_mutex_lock(&f->mtx);
  it->users--;
  if (stale && it->kept)
    forget_locked(f, it);
  bool last = !it->kept && it->users == 0;
  pthread_mutex_unlock(&f->mtx);
  if (last)
    file_close(it);
}

void posix_files_fini(struct posix_files *f) {
  struct posix_file *file;

  while ((file = f->oldest)) {
    assert(file->users == 0);
    forget_locked(f, file);
    file_close(file);
  }
  free(f->buckets);
  pthread_mutex_destroy(&f->mtx);
}
