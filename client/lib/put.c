/* put.c - stores one value of a derived namespace.
 *
 * A put whose answer is lost may or may not have been carried out, and may then meet itself: the next attempt says that
 * the key exists. Keys are written once, so the question is only whether what is there are our bytes; we read it and
 * compare its checksum. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib/request.h"

#define SLOWEST_BYTES_PER_S (UINT64_C(20) << 20) /* a large value may take longer than an attempt's usual time */

struct put_args {
  struct blob *value;
  uint32_t crc;
  bool overwrite, ambiguous;
  struct fb_info info;
};

static int take_put(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__ObjectInfo *m = ((const Forebay__V1__PutReply *)q->reply)->info;
  struct put_args *a = b->arg;

  if (!m || m->etag == 0 || m->size != a->value->len)
    return err_set(e, -FB_EPROTO, "the answer to a put does not describe the value that was put");
  a->info = (struct fb_info){.size = m->size, .mtime_ns = m->mtime_ns, .etag = m->etag};
  return 0;
}

static int put_once(struct call *k, void *arg) {
  Forebay__V1__PutRequest m = FOREBAY__V1__PUT_REQUEST__INIT;
  Forebay__V1__Route route;
  struct put_args *a = arg;
  struct request q = {.message = &m.base,
                      .route = &route,
                      .value = a->value,
                      .extra_ns = (int64_t)(a->value->len / SLOWEST_BYTES_PER_S) * NS_PER_S};

  q.picker.placed = true;
  q.picker.hash = place_key(k->record.id, k->record.version, k->key, true, 0).hi;
  m.ns = (char *)(uintptr_t)k->ns;
  m.key = (char *)(uintptr_t)k->key;
  m.size = a->value->len;
  m.crc32c = a->crc;
  m.overwrite = a->overwrite;
  m.route = &route;
  int r = request_run(k, &q, take_put, a);
  a->ambiguous |= q.ambiguous;
  return r;
}

/* -EEXIST, or 0 if what exists is our value. */
static int is_ours(struct call *k, struct put_args *a) {
  struct err said = k->e;
  struct fb_info info;
  uint32_t crc;

  int r = read_crc(k, a->value->len, &crc, &info);
  if (r == 0 && info.size == a->value->len && crc == a->crc) {
    a->info = info;
    return 0;
  }
  if (r < 0 && r != -FB_ETOOBIG && r != -ENOENT)
    return err_prefix(&k->e, "the put's answer was lost and what is there now cannot be read");
  k->e = said;
  return -EEXIST;
}

int fb_put(fb_client *c, const char *ns, const char *key, const void *data, size_t len,
           const struct fb_put_options *options, struct fb_info *ret, struct fb_error *err) {
  struct put_args a = {.overwrite = options && options->overwrite};
  struct call k;

  int r = call_begin(&k, c, CALL_NS | CALL_KEY | (c && c->o.any_peer ? 0 : CALL_RECORD), ns, key);
  if (r == 0 && len > SSIZE_MAX)
    r = err_set(&k.e, -FB_ETOOBIG, "a value of %zu bytes; accepted: up to %zd", len, SSIZE_MAX);
  if (r == 0 && len && !data)
    r = err_set(&k.e, -EINVAL, "there are no data: the pointer is NULL");
  /* A copy, because gRPC may hold what it sends for a while after a call was given up, and the caller may not. It also
   * makes the checksum that of the bytes that are sent, whatever the caller does to them meanwhile. */
  if (r == 0 && !(a.value = blob_copy(data, len)))
    r = err_set(&k.e, -ENOMEM, "out of memory for a value of %zu bytes", len);
  if (r == 0) {
    a.crc = blob_crc32c(a.value);
    r = call_run(&k, put_once, &a);
    if (r == -EEXIST && a.ambiguous && !a.overwrite)
      r = is_ours(&k, &a);
  }
  blob_unref(&a.value);
  if (r == 0 && ret)
    *ret = a.info;
  return (int)call_end(&k, r, err);
}
