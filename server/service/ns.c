/* ns.c - the operations on namespaces.
 *
 * Creates and drops are made by the owner of the name's slot, saved there, then told to everybody; who is away learns
 * it when it asks (ns_find.c). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/names.h"
#include "forebay/v1/admin.pb-c.h"
#include "server/service/catalog.h"

static const struct name_list nobody = {0};

/* ---- create and drop -------------------------------------------------------------------------------------------- */

struct ns_op {
  struct pool_job job; /* first */
  struct service *s;
  struct ns *ns; /* the record in work, ours alone: it never has an origin, and so outlives the service */
  struct route route;
  int64_t deadline_ns;
  ns_done_fn done;
  void *arg;
  bool drop;
  uint64_t bytes, blocks;
  struct candidates cand;
  bool cand_valid;
  struct err last;
  char name[NAME_NS_MAX + 1]; /* for texts, so a longer one may be cut */
};

static void finish(struct ns_op *op, int code, const char *text, const struct name_list *unreachable) {
  if (code < 0) {
    struct err e;
    fail_object(&e, code, op->name, NULL, text);
    op->done(op->arg, code, e.text, NULL, 0, 0, &nobody);
  } else {
    op->done(op->arg, 0, "", &op->ns->r, op->bytes, op->blocks, unreachable);
  }
  if (op->cand_valid)
    candidates_fini(&op->cand);
  ns_unref(&op->ns);
  free(op);
}

static void told(void *arg, const char *peer, const ProtobufCMessage *reply) {
  (void)peer;
  ((struct ns_op *)arg)->bytes += ((const Forebay__V1__SyncCatalogReply *)reply)->freed_bytes;
}

static void told_all(void *arg, int code, const struct name_list *unreachable) {
  finish(arg, code, code ? "no memory to ask the other peers: try again" : "", unreachable);
}

static void tell_all(struct ns_op *op) {
  Forebay__V1__SyncCatalogRequest q;
  Forebay__V1__Namespace **pb = ns_records_to_pb(&op->ns->r, 1);

  if (!pb) {
    finish(op, 0, "", &nobody); /* done here; the others will ask */
    return;
  }
  catalog_ask_init(op->s, &q);
  q.records = pb;
  q.n_records = 1;
  fanout(op->s, SYNC_METHOD, &q.base, &forebay__v1__sync_catalog_reply__descriptor, op->deadline_ns, told, told_all,
         op);
  ns_records_pb_free(pb, 1);
}

static uint64_t next_revision(struct service *s, const char *name) {
  return max_u64((uint64_t)clock_wall_ns(), catalog_revision(s->catalog, name) + 1);
}

/* Whether the origin can be opened, told to who creates and not to the first reader. */
static int try_origin(struct service *s, const struct ns *ns, struct err *e) {
  struct origin *o;

  if (!ns_has_origin(ns))
    return 0;
  struct ns *probe = ns_make(&ns->r);
  int r = probe ? ns_origin(s, probe, &o, e) : err_set(e, -ENOMEM, "out of memory");
  ns_unref(&probe);
  return r;
}

/* The same on two sides of a split is another: two creates with one revision must not have one id. */
static uint64_t make_id(const struct service *s, const struct ns_record *r) {
  return hash_mix64(hash_bytes64(r->name, strlen(r->name)) ^ r->revision ^
                    hash_mix64(hash_bytes64(s->self, strlen(s->self)))) |
         1;
}

static int create_here(struct ns_op *op, struct err *e) {
  struct service *s = op->s;
  struct ns_record *r = &op->ns->r;
  int rc = try_origin(s, op->ns, e);

  if (rc < 0)
    return rc;
  r->created_ns = clock_wall_ns();
  r->revision = next_revision(s, r->name);
  r->id = make_id(s, r);
  if ((rc = catalog_create(s->catalog, r, e)) < 0)
    return rc;
  if ((rc = catalog_save(s->catalog, e)) < 0) {
    /* Not on disk, so not acknowledged: take it back. */
    struct ns_record undo = *r;
    undo.dropped = true;
    undo.revision++;
    catalog_apply(s->catalog, &undo, 1, NULL, NULL);
  }
  return rc;
}

static int drop_here(struct ns_op *op, struct err *e) {
  struct service *s = op->s;
  struct ns_record r = op->ns->r;
  int rc;

  r.dropped = true;
  r.revision = next_revision(s, r.name);
  struct ns *tomb = ns_make(&r);
  if (!tomb)
    return err_set(e, -ENOMEM, "out of memory");
  rc = catalog_drop(s->catalog, &r, &op->bytes, e);
  if (rc == 0 && (rc = catalog_save(s->catalog, e)) < 0)
    err_prefix(e, "it is dropped here and will be elsewhere, but a restart may bring it back");
  if (rc < 0) {
    ns_unref(&tomb);
    return rc;
  }
  ns_unref(&op->ns);
  op->ns = tomb;
  return 0;
}

static void change_run(struct pool_job *job) {
  struct ns_op *op = (struct ns_op *)job;
  struct err e = {0};
  int r = op->drop ? drop_here(op, &e) : create_here(op, &e);

  if (r < 0)
    finish(op, r, e.text, NULL);
  else
    tell_all(op);
}

/* Blocking work (files, fsync): off the caller's thread. */
static void change_local(struct ns_op *op) {
  op->job.fn = change_run;
  int r = pool_submit(op->s->put_pool, &op->job);
  if (r < 0)
    finish(op, r, "too many changes wait: try again", NULL);
}

static void change_forward(struct ns_op *op);

static void take_unreachable(struct ns_op *op, size_t n, char **names) {
  finish(op, 0, "", &(struct name_list){.n = (unsigned)n, .v = (const char *const *)names});
}

static void change_forwarded(void *arg, int code, const char *text, const ProtobufCMessage *reply,
                             struct blob *payload) {
  struct ns_op *op = arg;

  (void)payload;
  if (code < 0) {
    err_set(&op->last, code, "%s", text);
    if (code == -FB_EPEERDOWN) /* never after a timeout: the owner may have done it */
      change_forward(op);
    else
      finish(op, code, text, NULL);
    return;
  }
  if (op->drop) {
    const Forebay__V1__DropNamespaceReply *g = (const Forebay__V1__DropNamespaceReply *)reply;
    op->bytes = g->freed_bytes;
    take_unreachable(op, g->n_unreachable, g->unreachable);
    return;
  }
  const Forebay__V1__CreateNamespaceReply *g = (const Forebay__V1__CreateNamespaceReply *)reply;
  struct ns_record *r = g->ns ? ns_records_from_pb(&g->ns, 1) : NULL;
  struct ns *made = r && ns_record_check(r, NULL) == 0 ? ns_make(r) : NULL;
  free(r);
  if (!made) {
    finish(op, -FB_EPROTO, "the owner's answer lacks the record", NULL);
    return;
  }
  ns_unref(&op->ns);
  op->ns = made;
  take_unreachable(op, g->n_unreachable, g->unreachable);
}

static void change_forward(struct ns_op *op) {
  Forebay__V1__Route route;
  struct peer *p;

  switch (walk_next(&op->cand, op->s, op->deadline_ns, &p)) {
  case WALK_SELF:
    change_local(op);
    return;
  case WALK_END:
    finish(op, walk_verdict(&op->cand, &op->last), op->last.text, NULL);
    return;
  case WALK_PEER:
    break;
  }
  route_to_peer(op->cand.ring, NULL, false, &route);
  Forebay__V1__DropNamespaceRequest d = FOREBAY__V1__DROP_NAMESPACE_REQUEST__INIT;
  Forebay__V1__CreateNamespaceRequest c = FOREBAY__V1__CREATE_NAMESPACE_REQUEST__INIT;
  Forebay__V1__Namespace **pb = ns_records_to_pb(&op->ns->r, 1);
  if (!pb) {
    peer_unref(&p);
    finish(op, -ENOMEM, "out of memory", NULL);
    return;
  }
  d.name = (char *)op->ns->r.name;
  c.ns = pb[0];
  c.route = d.route = &route;
  struct peer_call_args a = {.method = op->drop ? "/forebay.v1.Namespaces/Drop" : "/forebay.v1.Namespaces/Create",
                             .request = op->drop ? &d.base : &c.base,
                             .reply_type = op->drop ? &forebay__v1__drop_namespace_reply__descriptor
                                                    : &forebay__v1__create_namespace_reply__descriptor,
                             .deadline_ns = op->deadline_ns};
  struct rpc_call *call = peer_call(p, &a, change_forwarded, op);
  rpc_call_unref(&call);
  peer_unref(&p);
  ns_records_pb_free(pb, 1);
}

static void change(struct ns_op *op) {
  if (op->route.local) {
    change_local(op);
    return;
  }
  candidates_init(&op->cand, op->s, place_ns(op->ns->r.name));
  op->cand_valid = true;
  change_forward(op);
}

static struct ns_op *op_new(struct service *s, const char *name, const struct route *route, int64_t deadline_ns,
                            ns_done_fn done, void *arg) {
  struct ns_op *op = calloc(1, sizeof *op);

  if (!op)
    done(arg, -ENOMEM, "out of memory", NULL, 0, 0, &nobody);
  else
    *op = (struct ns_op){.s = s, .route = *route, .deadline_ns = deadline_ns, .done = done, .arg = arg};
  if (op)
    snprintf(op->name, sizeof op->name, "%s", name);
  return op;
}

/* Looked up before it is made, so that a peer that has not heard of the name yet asks the others first. */
static void create_found(void *arg, int code, const char *text, struct ns *ns) {
  struct ns_op *op = arg;

  ns_unref(&ns);
  if (code == 0)
    finish(op, -FB_ENSEXISTS, "namespace exists already: drop it first, or choose another name", NULL);
  else if (code == -FB_ENONS)
    change(op);
  else
    finish(op, code, text, NULL);
}

void service_ns_create(struct service *s, const struct ns_record *want, const struct route *route, int64_t deadline_ns,
                       ns_done_fn done, void *arg) {
  struct ns_record r = *want;
  struct err e = {0};
  struct ns_op *op;

  r.id = r.revision = 0;
  r.dropped = false;
  r.block_bytes = r.block_bytes ? r.block_bytes : 1u << 20;
  r.attr_ttl_ms = r.attr_ttl_ms ? r.attr_ttl_ms : 1000;
  r.replicas = r.replicas ? r.replicas : 1;
  if (r.kind == NS_DERIVED && r.ack == ACK_DEFAULT)
    r.ack = *r.origin ? ACK_ORIGIN : ACK_RAM;
  if (ns_record_check(&r, &e) < 0) {
    done(arg, e.code, e.text, NULL, 0, 0, &nobody);
    return;
  }
  if (!(op = op_new(s, r.name, route, deadline_ns, done, arg)))
    return;
  if (!(op->ns = ns_make(&r))) {
    finish(op, -ENOMEM, "out of memory", NULL);
    return;
  }
  struct route any = {.ring_hash = route->ring_hash};
  ns_find(s, op->ns->r.name, &any, create_found, op);
}

/* Takes a copy of what was found. False: the operation is over. */
static bool take_found(struct ns_op *op, int code, const char *text, struct ns *ns) {
  op->ns = code == 0 ? ns_make(&ns->r) : NULL;
  ns_unref(&ns);
  if (op->ns)
    return true;
  finish(op, code ? code : -ENOMEM, code ? text : "out of memory", NULL);
  return false;
}

static void drop_found(void *arg, int code, const char *text, struct ns *ns) {
  if (take_found(arg, code, text, ns))
    change(arg);
}

void service_ns_drop(struct service *s, const char *name, const struct route *route, int64_t deadline_ns,
                     ns_done_fn done, void *arg) {
  struct ns_op *op = op_new(s, name, route, deadline_ns, done, arg);

  if (!op)
    return;
  op->drop = true;
  ns_find(s, name, route, drop_found, op);
}

/* ---- show, list, sync ------------------------------------------------------------------------------------------- */

static void show_reply(void *arg, const char *peer, const ProtobufCMessage *reply) {
  const Forebay__V1__ShowNamespaceReply *g = (const Forebay__V1__ShowNamespaceReply *)reply;
  struct ns_op *op = arg;

  (void)peer;
  op->bytes += g->resident_bytes;
  op->blocks += g->resident_blocks;
}

static void show_found(void *arg, int code, const char *text, struct ns *ns) {
  struct ns_op *op = arg;

  if (!take_found(op, code, text, ns))
    return;
  tier_usage(op->s->tier, op->ns->r.id, &op->bytes, &op->blocks);
  if (op->route.local) {
    finish(op, 0, "", &nobody);
    return;
  }
  Forebay__V1__ShowNamespaceRequest q = FOREBAY__V1__SHOW_NAMESPACE_REQUEST__INIT;
  Forebay__V1__Route route;
  struct ring *ring = service_ring(op->s);
  route_to_peer(ring, op->ns, false, &route);
  ring_unref(&ring);
  q.name = (char *)op->ns->r.name;
  q.route = &route;
  fanout(op->s, "/forebay.v1.Namespaces/Show", &q.base, &forebay__v1__show_namespace_reply__descriptor, op->deadline_ns,
         show_reply, told_all, op);
}

void service_ns_show(struct service *s, const char *name, const struct route *route, int64_t deadline_ns,
                     ns_done_fn done, void *arg) {
  struct ns_op *op = op_new(s, name, route, deadline_ns, done, arg);

  if (op)
    ns_find(s, name, route, show_found, op);
}

int service_ns_list(struct service *s, bool tombstones, ns_list_fn each_all, void *arg) {
  return catalog_all(s->catalog, tombstones, each_all, arg);
}

int service_ns_sync(struct service *s, const struct ns_record *records, unsigned n, uint64_t ring_hash,
                    uint64_t *ret_freed, ns_list_fn each_all, void *arg, struct err *e) {
  uint64_t freed = 0;
  int r = ring_check(s, ring_hash, e);

  if (r == 0)
    r = catalog_apply(s->catalog, records, n, &freed, e);
  if (r < 0)
    return r;
  *ret_freed = freed;
  /* Who tells us something is not asking; who asks gets all, tombstones too. */
  if (n > 0)
    each_all(arg, NULL, 0);
  else if ((r = catalog_all(s->catalog, true, each_all, arg)) < 0)
    err_set(e, r, "out of memory");
  return r;
}
