/* get_split.c - a range that lies in two chunks, and so with two owners: two gets, one answer.
 *
 * The second get is pinned to the version that the first one met, so the bytes are never of two versions. If that
 * version is gone by then and the caller had named none, the origin is asked which one is current (the first owner
 * would give its old blocks for another attr_ttl_ms) and both are read anew, pinned to that; three times at most. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/service/internal.h"

#define TRIES 3u

struct split {
  struct service *s;
  struct get_req q; /* ns and key point into `names` */
  get_done_fn done;
  void *arg;
  struct get_reply first;
  uint64_t etag; /* the version that both parts must be of; 0: what the first one meets */
  unsigned tries;
  char names[];
};

static void finish(struct split *sp, int code, const char *text, const struct get_reply *r) {
  sp->done(sp->arg, code, text, r);
  blob_unref(&sp->first.data);
  free(sp);
}

static void begin(struct split *sp);

static void got_current(void *arg, int code, const char *text, const struct object_info *info, const char *peer) {
  struct split *sp = arg;

  (void)peer;
  if (code < 0) {
    finish(sp, code, text, NULL);
    return;
  }
  sp->etag = info->etag;
  begin(sp);
}

/* True: the version is gone, and another attempt is under way. */
static bool again(struct split *sp, int code) {
  if (code != -FB_ECHANGED || sp->q.etag != 0 || ++sp->tries >= TRIES)
    return false;
  blob_unref(&sp->first.data);
  struct stat_req q = {
      .ns = sp->q.ns, .key = sp->q.key, .fresh = true, .route = sp->q.route, .deadline_ns = sp->q.deadline_ns};
  service_stat(sp->s, &q, got_current, sp);
  return true;
}

static void got_second(void *arg, int code, const char *text, const struct get_reply *r) {
  struct split *sp = arg;
  struct get_reply both = sp->first;

  if (again(sp, code))
    return;
  if (code < 0) {
    finish(sp, code, text, NULL);
    return;
  }
  both.data = blob_new(2);
  if (!both.data || blob_append_range(both.data, sp->first.data, 0, sp->first.data->len) < 0 ||
      blob_append_range(both.data, r->data, 0, r->data->len) < 0) {
    finish(sp, -ENOMEM, "out of memory", NULL);
  } else {
    if (r->source == SOURCE_ORIGIN)
      both.source = SOURCE_ORIGIN;
    both.peer = r->peer;
    both.crc = blob_crc32c(both.data);
    finish(sp, 0, "", &both);
  }
  blob_unref(&both.data);
}

static void got_first(void *arg, int code, const char *text, const struct get_reply *r) {
  struct split *sp = arg;
  uint64_t boundary = (chunk_of(sp->q.offset) + 1) * CHUNK_BYTES;

  if (again(sp, code))
    return;
  /* A file that ends in the first chunk has no second part. */
  if (code < 0 || r->info.size <= boundary) {
    finish(sp, code, text, r);
    return;
  }
  sp->first = *r;
  sp->first.data = blob_ref(r->data);
  struct get_req q = sp->q;
  q.etag = r->info.etag;
  q.length -= (uint32_t)(boundary - q.offset);
  q.offset = boundary;
  service_get(sp->s, &q, got_second, sp);
}

static void begin(struct split *sp) {
  struct get_req q = sp->q;

  q.etag = sp->etag;
  q.length = (uint32_t)((chunk_of(q.offset) + 1) * CHUNK_BYTES - q.offset);
  service_get(sp->s, &q, got_first, sp);
}

void get_split(struct service *s, const struct get_req *q, get_done_fn done, void *arg) {
  size_t ns_len = strlen(q->ns), key_len = strlen(q->key);
  struct split *sp = calloc(1, sizeof *sp + ns_len + key_len + 2);

  if (!sp) {
    done(arg, -ENOMEM, "out of memory", NULL);
    return;
  }
  *sp = (struct split){.s = s, .q = *q, .done = done, .arg = arg};
  sp->q.ns = memcpy(sp->names, q->ns, ns_len + 1);
  sp->q.key = memcpy(sp->names + ns_len + 1, q->key, key_len + 1);
  sp->etag = q->etag;
  begin(sp);
}
