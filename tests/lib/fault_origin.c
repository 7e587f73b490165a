/* fault_origin.c - an origin wrapper that counts, holds and fails; see fault_origin.h. */
#include "tests/lib/fault_origin.h"

#include <stdlib.h>

static struct fault_origin *of(struct origin *o) { return (struct fault_origin *)o; }

static int fo_stat(struct origin *o, const char *path, struct origin_stat *ret, struct err *e) {
  int r = fault_step(&of(o)->stat);
  return r < 0 ? err_set(e, r, "injected") : origin_stat(of(o)->inner, path, ret, e);
}

static ssize_t fo_read(struct origin *o, const char *path, uint64_t etag, uint64_t offset, void *buf, size_t len,
                       struct origin_stat *ret_stat, struct err *e) {
  int r = fault_step(&of(o)->read);
  return r < 0 ? err_set(e, r, "injected") : origin_read(of(o)->inner, path, etag, offset, buf, len, ret_stat, e);
}

static int fo_list(struct origin *o, const char *dir, bool recursive,
                   int (*each)(void *arg, const char *path, const struct origin_stat *st), void *arg, struct err *e) {
  int r = fault_step(&of(o)->list);
  return r < 0 ? err_set(e, r, "injected") : origin_list(of(o)->inner, dir, recursive, each, arg, e);
}

static int fo_put(struct origin *o, const char *path, const struct iovec *iov, unsigned n, bool overwrite,
                  struct origin_stat *ret, struct err *e) {
  int r = fault_step(&of(o)->put);
  return r < 0 ? err_set(e, r, "injected") : origin_put(of(o)->inner, path, iov, n, overwrite, ret, e);
}

static void fo_stats(struct origin *o, struct origin_stats *ret) { origin_stats(of(o)->inner, ret); }

static void fo_free(struct origin *o) {
  struct fault_origin *f = of(o);

  origin_free(&f->inner);
  fault_fini(&f->stat);
  fault_fini(&f->read);
  fault_fini(&f->list);
  fault_fini(&f->put);
  free(f);
}

static const struct origin_ops fo_ops = {
    .kind = "fault",
    .stat = fo_stat,
    .read = fo_read,
    .list = fo_list,
    .put = fo_put,
    .stats = fo_stats,
    .free = fo_free,
};

struct fault_origin *fault_origin_new(struct origin **inner) {
  struct fault_origin *f = calloc(1, sizeof *f);

  if (!f)
    abort();
  f->base.ops = &fo_ops;
  f->inner = *inner;
  *inner = NULL;
  fault_init(&f->stat);
  fault_init(&f->read);
  fault_init(&f->list);
  fault_init(&f->put);
  return f;
}
