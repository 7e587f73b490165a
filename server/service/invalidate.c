/* invalidate.c - making peers forget: here, and (unless the request is for here only) on all the others at once.
 *
 * What is forgotten can be had again: blocks and attributes that an origin stands behind. Values that live in RAM only
 * stay; dropping them is `ns drop`. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/glob.h"
#include "forebay/v1/cache.pb-c.h"
#include "server/service/internal.h"

struct invalidate_op {
  struct service *s;
  struct invalidate_req q; /* ns and pattern point into `names` */
  invalidate_done_fn done;
  void *arg;
  uint64_t blocks, bytes;
  char names[];
};

static void finish(struct invalidate_op *op, int code, const char *text, const struct name_list *unreachable) {
  static const struct name_list nobody = {0};
  struct err e;

  if (code < 0) {
    fail_object(&e, code, op->q.ns, NULL, text);
    op->done(op->arg, code, e.text, 0, 0, &nobody);
  } else {
    op->done(op->arg, 0, "", op->blocks, op->bytes, unreachable ? unreachable : &nobody);
  }
  free(op);
}

static bool block_matches(void *arg, const void *key, uint32_t key_len, bool kept) {
  const char *pattern = arg, *name;
  char copy[HASH_KEY_MAX + 1];
  uint64_t etag, index;
  size_t len;

  if (kept || !block_id_parse(key, key_len, &name, &len, &etag, &index) || len > HASH_KEY_MAX)
    return false;
  memcpy(copy, name, len);
  copy[len] = '\0';
  return !*pattern || glob_match(pattern, copy);
}

static void on_reply(void *arg, const char *peer, const ProtobufCMessage *reply) {
  const Forebay__V1__InvalidateReply *g = (const Forebay__V1__InvalidateReply *)reply;
  struct invalidate_op *op = arg;

  (void)peer;
  op->blocks += g->blocks;
  op->bytes += g->bytes;
}

static void on_all(void *arg, int code, const struct name_list *unreachable) {
  finish(arg, code, code ? "no memory to tell the other peers: try again" : "", unreachable);
}

static void found(void *arg, int code, const char *text, struct ns *ns) {
  struct invalidate_op *op = arg;
  struct service *s = op->s;
  uint64_t blocks = 0;

  if (code < 0) {
    finish(op, code, text, NULL);
    return;
  }
  attr_forget_matching(s, ns, op->q.pattern);
  op->bytes = tier_drop(s->tier, ns->r.id, block_matches, (void *)op->q.pattern, &blocks);
  op->blocks = blocks;
  metric_add(s, M_invalidated_blocks, blocks);
  if (op->q.route.local) {
    ns_unref(&ns);
    finish(op, 0, "", NULL);
    return;
  }
  Forebay__V1__InvalidateRequest q = FOREBAY__V1__INVALIDATE_REQUEST__INIT;
  Forebay__V1__Route route;
  struct ring *ring = service_ring(s);
  route_to_peer(ring, ns, false, &route);
  ring_unref(&ring);
  ns_unref(&ns);
  q.ns = (char *)op->q.ns;
  q.pattern = (char *)op->q.pattern;
  q.route = &route;
  fanout(s, "/forebay.v1.Cache/Invalidate", &q.base, &forebay__v1__invalidate_reply__descriptor, op->q.deadline_ns,
         on_reply, on_all, op);
}

void service_invalidate(struct service *s, const struct invalidate_req *q, invalidate_done_fn done, void *arg) {
  static const struct name_list nobody = {0};
  size_t ns_len = strlen(q->ns), pat_len = strlen(q->pattern);
  struct invalidate_op *op = calloc(1, sizeof *op + ns_len + pat_len + 2);
  struct err e = {0};

  if (!op) {
    done(arg, -ENOMEM, "out of memory", 0, 0, &nobody);
    return;
  }
  *op = (struct invalidate_op){.s = s, .q = *q, .done = done, .arg = arg};
  op->q.ns = memcpy(op->names, q->ns, ns_len + 1);
  op->q.pattern = memcpy(op->names + ns_len + 1, q->pattern, pat_len + 1);
  if (*q->pattern && glob_check(q->pattern, &e) < 0)
    finish(op, e.code, e.text, NULL);
  else
    ns_find(s, op->q.ns, &op->q.route, found, op);
}
