/* cluster.c - what a peer says about itself and the ring: its counters, how it sees the others, who owns a key. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/names.h"
#include "server/service/internal.h"

void service_stats(struct service *s, void (*with)(void *arg, const struct service_stats *st), void *arg) {
  struct service_counter c[M_COUNT + 8];
  struct tier_stats t;
  unsigned n = 0, n_peers = 0;
  struct ring *ring = service_ring(s);
  struct service_peer *peers = calloc(ring_size(ring), sizeof *peers);

#define X(name, unit, help)                                                                                            \
  c[n++] = (struct service_counter){#name, atomic_load_explicit(&s->metrics[M_##name], memory_order_relaxed)};
#include "server/service/metrics.def"
#undef X
  tier_stats(s->tier, &t);
  c[n++] = (struct service_counter){"tier_blocks", t.blocks};
  c[n++] = (struct service_counter){"tier_kept_bytes", t.kept_bytes};
  c[n++] = (struct service_counter){"tier_hits", t.hits};
  c[n++] = (struct service_counter){"tier_misses", t.misses};
  c[n++] = (struct service_counter){"tier_evictions", t.evictions};
  c[n++] = (struct service_counter){"tier_refused", t.refused};
  c[n++] = (struct service_counter){"fills_in_flight", flight_count(s->block_flights)};
  for (unsigned i = 0; peers && i < ring_size(ring); i++) {
    struct peer *p = service_peer_of(s, ring, i);
    if (!p)
      continue;
    struct service_peer *sp = &peers[n_peers++];
    sp->name = ring_member(ring, i)->name;
    sp->reachable = peer_usable(p);
    if (!sp->reachable)
      peer_last_failure(p, sp->text, sizeof sp->text);
    peer_unref(&p);
  }
  struct service_stats st = {.uptime_ns = (uint64_t)(clock_mono_ns() - s->started_ns),
                             .ram_used_bytes = t.used_bytes,
                             .ram_max_bytes = t.max_bytes,
                             .draining = atomic_load(&s->draining),
                             .n_counters = n,
                             .counters = c,
                             .n_peers = n_peers,
                             .peers = peers};
  with(arg, &st);
  free(peers);
  ring_unref(&ring);
}

struct locate_op {
  struct service *s;
  uint64_t offset;
  locate_done_fn done;
  void *arg;
  char key[];
};

static void located(void *arg, int code, const char *text, struct ns *ns) {
  struct locate_op *op = arg;
  unsigned owners[RING_RANKS];
  struct locate_reply r = {0};

  if (code < 0) {
    op->done(op->arg, code, text, NULL);
    free(op);
    return;
  }
  struct ring *ring = service_ring(op->s);
  struct hash128 h = place_key(ns->r.id, ns->r.version, op->key, ns_whole(ns), op->offset);
  r.slot = ring_slot(ring, h.hi);
  r.n = ring_owners(ring, r.slot, owners);
  for (unsigned i = 0; i < r.n; i++)
    r.owners[i] = ring_member(ring, owners[i])->name;
  ns_unref(&ns);
  op->done(op->arg, 0, "", &r);
  ring_unref(&ring);
  free(op);
}

void service_locate(struct service *s, const char *ns, const char *key, uint64_t offset, int64_t deadline_ns,
                    locate_done_fn done, void *arg) {
  static const struct route any = {0};
  struct err e = {0};
  size_t len = strlen(key);

  (void)deadline_ns; /* bounded by the catalog's own pull */
  if (name_check_key(key, len, &e) < 0) {
    done(arg, e.code, e.text, NULL);
    return;
  }
  struct locate_op *op = malloc(sizeof *op + len + 1);
  if (!op) {
    done(arg, -ENOMEM, "out of memory", NULL);
    return;
  }
  *op = (struct locate_op){.s = s, .offset = offset, .done = done, .arg = arg};
  memcpy(op->key, key, len + 1);
  ns_find(s, ns, &any, located, op);
}
