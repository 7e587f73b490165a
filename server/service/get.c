/* get.c - reading a range: here, or at its owner.
 *
 *   get -> namespace -> local? ----------------------------> attributes -> blocks (hit or fill) -> one reply
 *                        | no: owners, best first -> forward -> (down, late, busy: the next one, at last ourselves)
 *                        | crosses a chunk boundary: two gets (get_split.c)
 *
 * A value that lives in RAM only and is not here may be with another candidate of its slot (it was put while we were
 * away): they are asked, with resident_only, before the answer is ENOENT. A dataset read that names no version and
 * meets a change begins anew, three times at most. So does a read of a value in RAM that a put replaces: its blocks are
 * gone as soon as the new ones are visible. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/names.h"
#include "forebay/v1/cache.pb-c.h"
#include "server/service/internal.h"

#define CHANGED_TRIES 3u
#define REPLACED_TRIES 16u /* of values in RAM: nothing but the tier is asked */

struct part {
  struct get_op *op;
  struct blob *data;
  uint32_t crc;
  int source, code;
};

struct get_op {
  struct service *s;
  struct ns *ns;    /* reference, once found */
  struct get_req q; /* ns and key point into `names` */
  get_done_fn done;
  void *arg;
  struct attr attr;
  unsigned tries;
  /* forwarding */
  struct candidates cand;
  bool cand_valid;
  struct err last; /* of the last candidate that failed */
  /* local blocks */
  atomic_uint pending;
  unsigned n_parts;
  uint64_t first_block;
  struct part *parts;
  pthread_mutex_t mtx; /* guards first_err while parts come in */
  struct err first_err;
  char names[];
};

static void op_free(struct get_op *op) {
  for (unsigned i = 0; i < op->n_parts; i++)
    blob_unref(&op->parts[i].data);
  free(op->parts);
  if (op->cand_valid)
    candidates_fini(&op->cand);
  ns_unref(&op->ns);
  pthread_mutex_destroy(&op->mtx);
  free(op);
}

static void finish(struct get_op *op, int code, const char *text, const struct get_reply *r) {
  struct service *s = op->s;
  struct err e;

  metric_add(s, M_get_requests, 1);
  ns_unref(&op->ns);
  if (code < 0) {
    metric_add(s, M_get_errors, 1);
    fail_object(&e, code, op->q.ns, op->q.key, text);
    op->done(op->arg, code, e.text, NULL);
  } else {
    op->done(op->arg, 0, "", r);
  }
  op_free(op);
}

static void get_local(struct get_op *op);
static void forward_next(struct get_op *op);

/* ---- here ------------------------------------------------------------------------------------------------------- */

static void reply_local(struct get_op *op) {
  uint32_t bs = op->ns->r.block_bytes;
  struct get_reply r = {.info = {.size = op->attr.size, .mtime_ns = op->attr.mtime_ns, .etag = op->attr.etag},
                        .source = SOURCE_RAM,
                        .peer = op->s->self};
  uint64_t end = min_u64(op->q.offset + op->q.length, op->attr.size);
  int code = 0;

  r.data = blob_new(op->n_parts ? op->n_parts : 1);
  if (!r.data)
    code = -ENOMEM;
  for (unsigned i = 0; i < op->n_parts && code == 0; i++) {
    struct part *p = &op->parts[i];
    uint64_t start = (op->first_block + i) * bs;
    uint64_t from = max_u64(op->q.offset, start), to = min_u64(end, start + bs);
    if (p->data->len < to - start)
      code = -FB_ESHORT; /* a block of this version that does not hold what the version's size says */
    else
      code = blob_append_range(r.data, p->data, from - start, to - from);
    if (p->source == SOURCE_ORIGIN)
      r.source = SOURCE_ORIGIN;
  }
  if (code < 0) {
    blob_unref(&r.data);
    finish(op, code, code == -ENOMEM ? "out of memory" : "cached block is shorter than its version", NULL);
    return;
  }
  bool whole = op->n_parts == 1 && r.data->len == op->parts[0].data->len;
  r.crc = whole ? op->parts[0].crc : blob_crc32c(r.data);
  metric_add(op->s, r.source == SOURCE_ORIGIN ? M_get_origin_bytes : M_get_ram_bytes, r.data->len);
  finish(op, 0, "", &r);
  blob_unref(&r.data);
}

static void parts_free(struct get_op *op) {
  for (unsigned i = 0; i < op->n_parts; i++)
    blob_unref(&op->parts[i].data);
  free(op->parts);
  op->parts = NULL;
  op->n_parts = 0;
}

static void parts_done(struct get_op *op) {
  if (atomic_fetch_sub(&op->pending, 1) != 1)
    return;
  if (op->first_err.code == 0) {
    reply_local(op);
    return;
  }
  struct err e = op->first_err;
  op->first_err = (struct err){0};
  parts_free(op);
  if (ns_has_origin(op->ns)) {
    if (e.code == -FB_ECHANGED && op->q.etag == 0 && ++op->tries < CHANGED_TRIES) {
      attr_forget(op->s, op->ns, op->q.key);
      get_local(op);
      return;
    }
  } else if (e.code == -FB_ECHANGED || e.code == -ENOENT) {
    if (++op->tries < REPLACED_TRIES) {
      get_local(op);
      return;
    }
    err_set(&e, -FB_ECHANGED, "value is replaced faster than it can be read");
  }
  finish(op, e.code, e.text, NULL);
}

static void got_block(void *arg, int code, const char *text, const struct block_result *r) {
  struct part *p = arg;
  struct get_op *op = p->op;

  if (code < 0) {
    pthread_mutex_lock(&op->mtx);
    if (op->first_err.code == 0)
      err_set(&op->first_err, code, "%s", text);
    pthread_mutex_unlock(&op->mtx);
  } else {
    p->data = blob_ref(r->data);
    p->crc = r->crc;
    p->source = r->source;
  }
  parts_done(op);
}

static void got_attr(void *arg, int code, const char *text, const struct attr *a) {
  struct get_op *op = arg;

  if (code == -ENOENT && !ns_has_origin(op->ns) && !op->q.route.resident_only && !op->cand.others_only) {
    if (!op->cand_valid)
      candidates_init(&op->cand, op->s, place_key(op->ns->r.id, op->ns->r.version, op->q.key, true, 0));
    op->cand_valid = true;
    walk_others(&op->cand);
    forward_next(op);
    return;
  }
  if (code == -FB_ECHANGED && op->q.etag == 0 && ++op->tries < CHANGED_TRIES) {
    get_local(op);
    return;
  }
  if (code < 0) {
    finish(op, code, text, NULL);
    return;
  }
  if (a->directory) {
    finish(op, -EISDIR, "is a directory: name a file", NULL);
    return;
  }
  op->attr = *a;
  if (op->q.offset > a->size) {
    struct err e;
    err_set(&e, -FB_EPASTEND, "range starts at %llu, the size is %llu", (unsigned long long)op->q.offset,
            (unsigned long long)a->size);
    finish(op, e.code, e.text, NULL);
    return;
  }
  uint64_t end = min_u64(op->q.offset + op->q.length, a->size);
  if (end == op->q.offset) {
    reply_local(op);
    return;
  }
  uint32_t bs = op->ns->r.block_bytes;
  op->first_block = op->q.offset / bs;
  unsigned n = (unsigned)((end - 1) / bs - op->first_block + 1);
  op->parts = calloc(n, sizeof *op->parts);
  if (!op->parts) {
    finish(op, -ENOMEM, "out of memory", NULL);
    return;
  }
  op->n_parts = n;
  atomic_store(&op->pending, n + 1); /* one is ours, so that no callback ends the operation under our feet */
  for (unsigned i = 0; i < n; i++) {
    op->parts[i].op = op;
    if (op->q.route.resident_only)
      block_get_resident(op->s, op->ns, op->q.key, &op->attr, op->first_block + i, got_block, &op->parts[i]);
    else
      block_get(op->s, op->ns, op->q.key, &op->attr, op->first_block + i, op->q.deadline_ns, got_block, &op->parts[i]);
  }
  parts_done(op);
}

static void get_local(struct get_op *op) {
  if (op->q.route.resident_only) {
    struct attr a;
    int code = attr_known(op->s, op->ns, op->q.key, op->q.etag, &a);
    if (code == 0 && op->q.etag && a.etag != op->q.etag)
      code = -FB_ECHANGED;
    got_attr(op, code, code ? "not resident here" : "", &a);
    return;
  }
  attr_get(op->s, op->ns, op->q.key, op->q.etag, op->tries > 0, op->q.deadline_ns, got_attr, op);
}

/* ---- elsewhere -------------------------------------------------------------------------------------------------- */

static void forwarded(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  struct get_op *op = arg;

  if (code < 0) {
    err_set(&op->last, code, "%s", text);
    /* Asking around for a RAM-only value: any answer but the value sends us on. */
    op->cand.absent |= code == -ENOENT;
    if (retry_elsewhere(code) || op->cand.others_only)
      forward_next(op);
    else
      finish(op, code, text, NULL);
    return;
  }
  const Forebay__V1__GetReply *g = (const Forebay__V1__GetReply *)reply;
  struct get_reply r = {.info = {.size = g->size, .mtime_ns = g->mtime_ns, .etag = g->etag},
                        .source = (int)g->source,
                        .peer = g->peer,
                        .crc = g->crc32c,
                        .data = payload ? blob_ref(payload) : blob_new(1)};
  if (!r.data) {
    finish(op, -ENOMEM, "out of memory", NULL);
  } else if (r.data->len > op->q.length) {
    finish(op, -FB_EPROTO, "the owner sent more than was asked for", NULL);
  } else {
    metric_add(op->s, M_get_forwarded_bytes, r.data->len);
    finish(op, 0, "", &r);
  }
  blob_unref(&r.data);
}

static void forward_next(struct get_op *op) {
  struct service *s = op->s;
  struct peer *p;

  switch (walk_next(&op->cand, s, op->q.deadline_ns, &p)) {
  case WALK_SELF:
    get_local(op);
    return;
  case WALK_END:
    finish(op, walk_verdict(&op->cand, &op->last), op->last.text, NULL);
    return;
  case WALK_PEER:
    break;
  }
  Forebay__V1__GetRequest q = FOREBAY__V1__GET_REQUEST__INIT;
  Forebay__V1__Route route;
  route_to_peer(op->cand.ring, op->ns, op->cand.others_only, &route);
  q.ns = (char *)op->q.ns;
  q.key = (char *)op->q.key;
  q.offset = op->q.offset;
  q.length = op->q.length;
  q.etag = op->q.etag;
  q.route = &route;
  struct peer_call_args a = {.method = "/forebay.v1.Cache/Get",
                             .request = &q.base,
                             .reply_type = &forebay__v1__get_reply__descriptor,
                             .want_payload = true,
                             .deadline_ns = attempt_deadline(s, op->q.deadline_ns)};
  metric_add(s, M_get_forwarded, 1);
  struct rpc_call *call = peer_call(p, &a, forwarded, op);
  rpc_call_unref(&call);
  peer_unref(&p);
}

/* ---- the start -------------------------------------------------------------------------------------------------- */

static void found(void *arg, int code, const char *text, struct ns *ns) {
  struct get_op *op = arg;
  struct get_req *q = &op->q;

  if (code < 0) {
    finish(op, code, text, NULL);
    return;
  }
  op->ns = ns;
  if (q->route.local || q->route.resident_only) {
    get_local(op);
    return;
  }
  if (!ns_whole(ns) && q->length && chunk_of(q->offset) != chunk_of(q->offset + q->length - 1)) {
    ns_unref(&op->ns);
    get_split(op->s, q, op->done, op->arg);
    op_free(op);
    return;
  }
  candidates_init(&op->cand, op->s, place_key(ns->r.id, ns->r.version, q->key, ns_whole(ns), q->offset));
  op->cand_valid = true;
  forward_next(op);
}

void service_get(struct service *s, const struct get_req *q, get_done_fn done, void *arg) {
  size_t ns_len = strlen(q->ns), key_len = strlen(q->key);
  struct get_op *op = calloc(1, sizeof *op + ns_len + key_len + 2);
  struct err e = {0};

  if (!op) {
    done(arg, -ENOMEM, "out of memory", NULL);
    return;
  }
  *op = (struct get_op){.s = s, .q = *q, .done = done, .arg = arg};
  pthread_mutex_init(&op->mtx, NULL);
  op->q.ns = memcpy(op->names, q->ns, ns_len + 1);
  op->q.key = memcpy(op->names + ns_len + 1, q->key, key_len + 1);
  if (name_check_key(q->key, key_len, &e) < 0)
    finish(op, e.code, e.text, NULL);
  else if (q->length > GET_MAX_BYTES)
    finish(op, -FB_ETOOBIG, "length is over the limit of 4194304 bytes: ask in pieces", NULL);
  else if (q->offset > INT64_MAX - GET_MAX_BYTES)
    finish(op, -FB_EPASTEND, "offset is beyond any file", NULL);
  else
    ns_find(s, op->q.ns, &op->q.route, found, op);
}
