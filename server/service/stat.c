/* stat.c - what a key is: asked of the owner of its first chunk, so that one peer answers for its freshness. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/names.h"
#include "forebay/v1/cache.pb-c.h"
#include "server/service/internal.h"

struct stat_op {
  struct service *s;
  struct ns *ns; /* reference, once found */
  struct stat_req q;
  stat_done_fn done;
  void *arg;
  struct candidates cand;
  bool cand_valid;
  struct err last;
  char names[];
};

static void finish(struct stat_op *op, int code, const char *text, const struct object_info *info, const char *peer) {
  struct err e;

  metric_add(op->s, M_stat_requests, 1);
  ns_unref(&op->ns);
  if (code < 0) {
    fail_object(&e, code, op->q.ns, op->q.key, text);
    op->done(op->arg, code, e.text, NULL, NULL);
  } else {
    op->done(op->arg, 0, "", info, peer);
  }
  if (op->cand_valid)
    candidates_fini(&op->cand);
  free(op);
}

static void stat_forward(struct stat_op *op);

static void place(struct stat_op *op) {
  if (!op->cand_valid)
    candidates_init(&op->cand, op->s, place_key(op->ns->r.id, op->ns->r.version, op->q.key, ns_whole(op->ns), 0));
  op->cand_valid = true;
}

static void got_attr(void *arg, int code, const char *text, const struct attr *a) {
  struct stat_op *op = arg;

  if (code == -ENOENT && !ns_has_origin(op->ns) && !op->q.route.resident_only && !op->cand.others_only) {
    place(op);
    walk_others(&op->cand);
    stat_forward(op);
    return;
  }
  if (code < 0) {
    finish(op, code, text, NULL, NULL);
    return;
  }
  struct object_info info = {.size = a->size, .mtime_ns = a->mtime_ns, .etag = a->etag, .directory = a->directory};
  finish(op, 0, "", &info, op->s->self);
}

static void stat_local(struct stat_op *op) {
  if (op->q.route.resident_only) {
    struct attr a;
    int code = attr_known(op->s, op->ns, op->q.key, 0, &a);
    got_attr(op, code, code ? "not resident here" : "", &a);
    return;
  }
  attr_get(op->s, op->ns, op->q.key, 0, op->q.fresh, op->q.deadline_ns, got_attr, op);
}

static void forwarded(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  struct stat_op *op = arg;
  const Forebay__V1__StatReply *g = (const Forebay__V1__StatReply *)reply;

  (void)payload;
  if (code < 0) {
    err_set(&op->last, code, "%s", text);
    op->cand.absent |= code == -ENOENT;
    if (retry_elsewhere(code) || op->cand.others_only)
      stat_forward(op);
    else
      finish(op, code, text, NULL, NULL);
  } else if (!g->info) {
    finish(op, -FB_EPROTO, "the owner's answer lacks its info", NULL, NULL);
  } else {
    struct object_info info = {
        .size = g->info->size, .mtime_ns = g->info->mtime_ns, .etag = g->info->etag, .directory = g->info->directory};
    finish(op, 0, "", &info, g->peer);
  }
}

static void stat_forward(struct stat_op *op) {
  struct peer *p;

  switch (walk_next(&op->cand, op->s, op->q.deadline_ns, &p)) {
  case WALK_SELF:
    stat_local(op);
    return;
  case WALK_END:
    finish(op, walk_verdict(&op->cand, &op->last), op->last.text, NULL, NULL);
    return;
  case WALK_PEER:
    break;
  }
  Forebay__V1__StatRequest q = FOREBAY__V1__STAT_REQUEST__INIT;
  Forebay__V1__Route route;
  route_to_peer(op->cand.ring, op->ns, op->cand.others_only, &route);
  q.ns = (char *)op->q.ns;
  q.key = (char *)op->q.key;
  q.fresh = op->q.fresh;
  q.route = &route;
  struct peer_call_args a = {.method = "/forebay.v1.Cache/Stat",
                             .request = &q.base,
                             .reply_type = &forebay__v1__stat_reply__descriptor,
                             .deadline_ns = attempt_deadline(op->s, op->q.deadline_ns)};
  struct rpc_call *call = peer_call(p, &a, forwarded, op);
  rpc_call_unref(&call);
  peer_unref(&p);
}

static void found(void *arg, int code, const char *text, struct ns *ns) {
  struct stat_op *op = arg;

  if (code < 0) {
    finish(op, code, text, NULL, NULL);
    return;
  }
  op->ns = ns;
  if (op->q.route.local || op->q.route.resident_only) {
    stat_local(op);
    return;
  }
  place(op);
  stat_forward(op);
}

void service_stat(struct service *s, const struct stat_req *q, stat_done_fn done, void *arg) {
  size_t ns_len = strlen(q->ns), key_len = strlen(q->key);
  struct stat_op *op = calloc(1, sizeof *op + ns_len + key_len + 2);
  struct err e = {0};

  if (!op) {
    done(arg, -ENOMEM, "out of memory", NULL, NULL);
    return;
  }
  *op = (struct stat_op){.s = s, .q = *q, .done = done, .arg = arg};
  op->q.ns = memcpy(op->names, q->ns, ns_len + 1);
  op->q.key = memcpy(op->names + ns_len + 1, q->key, key_len + 1);
  if (name_check_key(q->key, key_len, &e) < 0)
    finish(op, e.code, e.text, NULL, NULL);
  else
    ns_find(s, op->q.ns, &op->q.route, found, op);
}
