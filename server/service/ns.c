/* ns.c - the operations on namespaces, and finding one for every other operation.
 *
 * A name that this peer does not know may be news: the others are asked, all at once, before the answer is FB_ENONS, at
 * most once a second. Creates and drops are made by the owner of the name's slot, saved there, then told to everybody;
 * who is away learns it when it asks (catalog_pull: every peer asks another one every catalog.sync_ms). */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/names.h"
#include "forebay/v1/admin.pb-c.h"
#include "server/service/catalog.h"
#include "server/service/parts.h"

#define PULL_PAUSE_NS NS_PER_S
#define RING_WARN_NS (60 * NS_PER_S) /* between two log lines about a ring that differs */
#define SYNC_METHOD "/forebay.v1.Namespaces/SyncCatalog"

static const struct name_list nobody = {0};

/* ---- learning from the others ----------------------------------------------------------------------------------- */

static void learn(struct service *s, const Forebay__V1__SyncCatalogReply *g) {
  struct ns_record *r = ns_records_from_pb(g->records, g->n_records);

  if (r && g->n_records <= NS_MAX)
    catalog_apply(s->catalog, r, (unsigned)g->n_records, NULL, NULL);
  free(r);
}

static void ask_init(struct service *s, Forebay__V1__SyncCatalogRequest *q) {
  struct ring *ring = service_ring(s);

  forebay__v1__sync_catalog_request__init(q);
  q->ring_hash = ring_hash(ring).hi;
  ring_unref(&ring);
}

static void pulled(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  struct service *s = arg;

  (void)payload;
  if (code == 0)
    learn(s, (const Forebay__V1__SyncCatalogReply *)reply);
  else if (code == -FB_ERING && clock_mono_ns() >= atomic_load(&s->ring_warn_again_ns)) {
    atomic_store(&s->ring_warn_again_ns, clock_mono_ns() + RING_WARN_NS);
    log_event(LOG_ERROR, "another peer has a different ring and refuses us", LOGF_S("error", text));
  }
  atomic_store(&s->pulling, false);
}

void catalog_pull(struct service *s, int64_t now_ns) {
  Forebay__V1__SyncCatalogRequest q;
  struct ring *ring = service_ring(s);
  unsigned n = ring_size(ring);
  struct peer *p = NULL;

  (void)now_ns;
  if (n > 1 && !atomic_exchange(&s->pulling, true)) {
    for (unsigned i = 0; i < n && !p; i++)
      p = service_peer_of(s, ring, atomic_fetch_add(&s->pull_turn, 1) % n);
    if (p) {
      ask_init(s, &q);
      struct peer_call_args a = {.method = SYNC_METHOD,
                                 .request = &q.base,
                                 .reply_type = &forebay__v1__sync_catalog_reply__descriptor,
                                 .deadline_ns = attempt_deadline(s, DEADLINE_NONE)};
      metric_add(s, M_catalog_pulls, 1);
      struct rpc_call *call = peer_call(p, &a, pulled, s);
      rpc_call_unref(&call);
    } else {
      atomic_store(&s->pulling, false);
    }
    peer_unref(&p);
  }
  ring_unref(&ring);
}

struct pull_all {
  struct service *s;
  struct flight *flight;
};

static void pull_all_reply(void *arg, const char *peer, const ProtobufCMessage *reply) {
  (void)peer;
  learn(((struct pull_all *)arg)->s, (const Forebay__V1__SyncCatalogReply *)reply);
}

static void pull_all_done(void *arg, int code, const struct name_list *unreachable) {
  struct pull_all *p = arg;

  (void)unreachable;
  if (code == 0)
    atomic_store(&p->s->pulled_all_ns, clock_mono_ns());
  flight_land(p->s->attr_flights, p->flight, &(struct flight_result){.text = ""});
  free(p);
}

/* ---- finding ---------------------------------------------------------------------------------------------------- */

struct find_wait {
  struct flight_waiter w; /* first */
  struct service *s;
  struct route route;
  ns_found_fn found;
  void *arg;
  char name[NAME_NS_MAX + 1];
};

static void conclude(struct service *s, const char *name, const struct route *route, struct ns *ns, ns_found_fn found,
                     void *arg) {
  struct err e;

  (void)s;
  if (!ns) {
    err_set(&e, -FB_ENONS, "no such namespace: create it with `forebay ns create %s`, or see `forebay ns list`", name);
    found(arg, e.code, e.text, NULL);
  } else if (route->ns_id && route->ns_id != ns->r.id) {
    found(arg, -FB_ENONS, "the namespace was dropped and made again: look it up anew", NULL);
  } else {
    found(arg, 0, "", ns);
  }
}

static void find_again(struct flight_waiter *w, const struct flight_result *r) {
  struct find_wait *fw = (struct find_wait *)w;
  struct ns *ns = catalog_find(fw->s->catalog, fw->name);

  (void)r;
  conclude(fw->s, fw->name, &fw->route, ns, fw->found, fw->arg);
  ns_unref(&ns);
  free(fw);
}

int ring_check(struct service *s, uint64_t theirs, struct err *e) {
  struct ring *ring = service_ring(s);
  uint64_t ours = ring_hash(ring).hi;
  uint64_t epoch = ring_epoch(ring);

  ring_unref(&ring);
  if (!theirs || theirs == ours)
    return 0;
  metric_add(s, M_ring_refused, 1);
  return err_set(e, -FB_ERING,
                 "ring %016" PRIx64 " of the caller is not ring %016" PRIx64 " of peer %s (epoch %" PRIu64
                 "): give all peers the same cluster.members and cluster.slots",
                 theirs, ours, s->self, epoch);
}

void ns_find(struct service *s, const char *name, const struct route *route, ns_found_fn found, void *arg) {
  static const char key[] = "pull"; /* shorter than any attribute's flight key */
  struct err e = {0};
  struct flight *f;

  if (ring_check(s, route->ring_hash, &e) < 0 || name_check_ns(name, &e) < 0) {
    found(arg, e.code, e.text, NULL);
    return;
  }
  struct ns *ns = catalog_find(s->catalog, name);
  bool asked = atomic_load(&s->pulled_all_ns) && clock_mono_ns() - atomic_load(&s->pulled_all_ns) < PULL_PAUSE_NS;
  struct find_wait *w = ns || asked ? NULL : malloc(sizeof *w);
  if (!w) {
    conclude(s, name, route, ns, found, arg);
    ns_unref(&ns);
    return;
  }
  *w = (struct find_wait){.w = {.done = find_again, .deadline_ns = attempt_deadline(s, DEADLINE_NONE)},
                          .s = s,
                          .route = *route,
                          .found = found,
                          .arg = arg};
  snprintf(w->name, sizeof w->name, "%s", name);
  if (!flight_join(s->attr_flights, key, sizeof key, hash_bytes128(key, sizeof key), &w->w, &f))
    return;
  struct pull_all *p = malloc(sizeof *p);
  if (!p) {
    flight_land(s->attr_flights, f, &(struct flight_result){.code = -ENOMEM, .text = "out of memory"});
    return;
  }
  *p = (struct pull_all){.s = s, .flight = f};
  Forebay__V1__SyncCatalogRequest q;
  ask_init(s, &q);
  fanout(s, SYNC_METHOD, &q.base, &forebay__v1__sync_catalog_reply__descriptor, DEADLINE_NONE, pull_all_reply,
         pull_all_done, p);
}

/* ---- create and drop -------------------------------------------------------------------------------------------- */

struct ns_op {
  struct pool_job job; /* first */
  struct service *s;
  struct ns *ns; /* the record in work (create: ours alone; drop, show: the live one); reference */
  struct route route;
  int64_t deadline_ns;
  ns_done_fn done;
  void *arg;
  bool drop;
  uint64_t bytes, blocks;
  struct candidates cand;
  bool cand_valid;
  struct err last;
};

static void finish(struct ns_op *op, int code, const char *text, const struct name_list *unreachable) {
  if (code < 0) {
    struct err e;
    fail_object(&e, code, op->ns->r.name, NULL, text);
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
  ask_init(op->s, &q);
  q.records = pb;
  q.n_records = 1;
  fanout(op->s, SYNC_METHOD, &q.base, &forebay__v1__sync_catalog_reply__descriptor, op->deadline_ns, told, told_all,
         op);
  ns_records_pb_free(pb, 1);
}

static uint64_t next_revision(struct service *s, const char *name) {
  return max_u64((uint64_t)clock_wall_ns(), catalog_revision(s->catalog, name) + 1);
}

static int create_here(struct ns_op *op, struct err *e) {
  struct service *s = op->s;
  struct ns_record *r = &op->ns->r;
  struct origin *o;
  int rc;

  if (ns_has_origin(op->ns) && (rc = ns_origin(s, op->ns, &o, e)) < 0)
    return rc;
  r->created_ns = clock_wall_ns();
  r->revision = next_revision(s, r->name);
  r->id = hash_mix64(hash_bytes64(r->name, strlen(r->name)) ^ r->revision) | 1;
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
  if ((rc = catalog_apply(s->catalog, &r, 1, &op->bytes, e)) < 0 || (rc = catalog_save(s->catalog, e)) < 0)
    return rc;
  struct ns *tomb = ns_make(&r);
  if (!tomb)
    return err_set(e, -ENOMEM, "out of memory");
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

static struct ns_op *op_new(struct service *s, const struct route *route, int64_t deadline_ns, ns_done_fn done,
                            void *arg) {
  struct ns_op *op = calloc(1, sizeof *op);

  if (!op)
    done(arg, -ENOMEM, "out of memory", NULL, 0, 0, &nobody);
  else
    *op = (struct ns_op){.s = s, .route = *route, .deadline_ns = deadline_ns, .done = done, .arg = arg};
  return op;
}

/* Looked up before it is made, so that a peer that has not heard of the name yet asks the others first. */
static void create_found(void *arg, int code, const char *text, struct ns *ns) {
  struct ns_op *op = arg;

  (void)ns;
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
  if (!(op = op_new(s, route, deadline_ns, done, arg)))
    return;
  if (!(op->ns = ns_make(&r))) {
    free(op);
    done(arg, -ENOMEM, "out of memory", NULL, 0, 0, &nobody);
    return;
  }
  struct route any = {.ring_hash = route->ring_hash};
  ns_find(s, op->ns->r.name, &any, create_found, op);
}

static void drop_found(void *arg, int code, const char *text, struct ns *ns) {
  struct ns_op *op = arg;

  if (code < 0) {
    op->done(op->arg, code, text, NULL, 0, 0, &nobody);
    free(op);
    return;
  }
  op->ns = ns_ref(ns);
  change(op);
}

void service_ns_drop(struct service *s, const char *name, const struct route *route, int64_t deadline_ns,
                     ns_done_fn done, void *arg) {
  struct ns_op *op = op_new(s, route, deadline_ns, done, arg);

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

  if (code < 0) {
    op->done(op->arg, code, text, NULL, 0, 0, &nobody);
    free(op);
    return;
  }
  assert(ns);
  op->ns = ns_ref(ns);
  tier_usage(op->s->tier, ns->r.id, &op->bytes, &op->blocks);
  if (op->route.local) {
    finish(op, 0, "", &nobody);
    return;
  }
  Forebay__V1__ShowNamespaceRequest q = FOREBAY__V1__SHOW_NAMESPACE_REQUEST__INIT;
  Forebay__V1__Route route;
  struct ring *ring = service_ring(op->s);
  route_to_peer(ring, ns, false, &route);
  ring_unref(&ring);
  q.name = (char *)ns->r.name;
  q.route = &route;
  fanout(op->s, "/forebay.v1.Namespaces/Show", &q.base, &forebay__v1__show_namespace_reply__descriptor, op->deadline_ns,
         show_reply, told_all, op);
}

void service_ns_show(struct service *s, const char *name, const struct route *route, int64_t deadline_ns,
                     ns_done_fn done, void *arg) {
  struct ns_op *op = op_new(s, route, deadline_ns, done, arg);

  if (op)
    ns_find(s, name, route, show_found, op);
}

void service_ns_list(struct service *s, bool tombstones, ns_list_fn each_all, void *arg) {
  catalog_all(s->catalog, tombstones, each_all, arg);
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
  if (n == 0)
    catalog_all(s->catalog, true, each_all, arg);
  else
    each_all(arg, NULL, 0);
  return 0;
}
