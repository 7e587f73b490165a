/* ns_find.c - finding a namespace for every other operation, and learning of namespaces from the other peers.
 *
 * A name that this peer does not know may be news: the others are asked, all at once, before the answer is FB_ENONS, at
 * most once a second. Besides, every peer asks another one, in turn, every catalog.sync_ms: so who was away when a
 * namespace was made or dropped learns it. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/names.h"
#include "forebay/v1/admin.pb-c.h"
#include "server/service/catalog.h"
#include "server/service/parts.h"

#define PULL_PAUSE_NS NS_PER_S
#define WARN_NS (60 * NS_PER_S) /* between two log lines about a ring that differs, or a record that is refused */
#define WAIT_NS NS_PER_S        /* how much longer than the others may take a waiter stays */

/* ---- learning from the others ----------------------------------------------------------------------------------- */

/* True once a minute. */
static bool may_warn(_Atomic int64_t *again_ns) {
  int64_t now = clock_mono_ns(), due = atomic_load(again_ns);
  return now >= due && atomic_compare_exchange_strong(again_ns, &due, now + WARN_NS);
}

static void learn(struct service *s, const char *peer, const Forebay__V1__SyncCatalogReply *g) {
  struct ns_record *r = g->n_records <= NS_MAX ? ns_records_from_pb(g->records, g->n_records) : NULL;
  struct err e = {0};

  if (!r)
    err_set(&e, -FB_EPROTO, "%zu records", g->n_records);
  else
    catalog_apply(s->catalog, r, (unsigned)g->n_records, NULL, &e);
  free(r);
  if (e.code && may_warn(&s->record_warn_again_ns))
    log_event(LOG_ERROR, "namespaces of another peer are refused", LOGF_S("peer", peer), LOGF_S("error", e.text));
}

void catalog_ask_init(struct service *s, Forebay__V1__SyncCatalogRequest *q) {
  struct ring *ring = service_ring(s);

  forebay__v1__sync_catalog_request__init(q);
  q->ring_hash = ring_hash(ring).hi;
  ring_unref(&ring);
}

static void pulled(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  struct service *s = arg;

  (void)payload;
  if (code == 0)
    learn(s, "the one asked in turn", (const Forebay__V1__SyncCatalogReply *)reply);
  else if (code == -FB_ERING && may_warn(&s->ring_warn_again_ns)) {
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
      catalog_ask_init(s, &q);
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
  learn(((struct pull_all *)arg)->s, peer, (const Forebay__V1__SyncCatalogReply *)reply);
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

/* Hands the reference over. */
static void conclude(const char *name, const struct route *route, struct ns *ns, ns_found_fn found, void *arg) {
  struct err e;

  if (!ns) {
    err_set(&e, -FB_ENONS, "no such namespace: create it with `forebay ns create %s`, or see `forebay ns list`", name);
    found(arg, e.code, e.text, NULL);
  } else if (route->ns_id && route->ns_id != ns->r.id) {
    ns_unref(&ns);
    found(arg, -FB_ENONS, "the namespace was dropped and made again: look it up anew", NULL);
  } else {
    found(arg, 0, "", ns);
  }
}

static void find_again(struct flight_waiter *w, const struct flight_result *r) {
  struct find_wait *fw = (struct find_wait *)w;
  struct ns *ns = catalog_find(fw->s->catalog, fw->name);

  if (!ns && r->code < 0)
    fw->found(fw->arg, r->code, "the other peers did not say in time whether there is such a namespace: try again",
              NULL);
  else
    conclude(fw->name, &fw->route, ns, fw->found, fw->arg);
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
    conclude(name, route, ns, found, arg);
    return;
  }
  /* The fan-out ends by its own deadlines, so the waiter outlasts it; only the end of the service ends it earlier. */
  *w = (struct find_wait){.w = {.done = find_again, .deadline_ns = attempt_deadline(s, DEADLINE_NONE) + WAIT_NS},
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
  catalog_ask_init(s, &q);
  fanout(s, SYNC_METHOD, &q.base, &forebay__v1__sync_catalog_reply__descriptor, DEADLINE_NONE, pull_all_reply,
         pull_all_done, p);
}
