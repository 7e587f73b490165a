/* cluster.c - the cluster as an operator sees it: every member's own figures, and where a key lives. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib/request.h"

#define ASK_AT_ONCE 64u
#define COUNTERS_MAX 4096u

struct ask {
  struct request q;
  Forebay__V1__GetStatsRequest message;
  unsigned member;
};

struct survey {
  struct fb_cluster *cl;
  struct peer **peers; /* references, by member */
  unsigned next, answered;
};

static bool ask_next(struct batch *b, struct request *q) {
  struct survey *s = b->arg;
  struct ask *a = (struct ask *)q;

  if (s->next == s->cl->n_peers)
    return false;
  *a = (struct ask){.message = FOREBAY__V1__GET_STATS_REQUEST__INIT, .member = s->next};
  q->method = "/forebay.v1.Cluster/GetStats";
  q->message = &a->message.base;
  q->reply_type = &forebay__v1__get_stats_reply__descriptor;
  q->only = s->peers[s->next++];
  return true;
}

static int take_stats(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__GetStatsReply *m = (const Forebay__V1__GetStatsReply *)q->reply;
  struct survey *s = b->arg;
  struct fb_peer *p = &s->cl->peers[((struct ask *)q)->member];

  if (m->n_counters > COUNTERS_MAX)
    return err_set(e, -FB_EPROTO, "it answered with %zu counters", m->n_counters);
  struct fb_counter *counters = calloc(m->n_counters + 1, sizeof *counters);
  if (!counters)
    return err_set(e, -ENOMEM, "out of memory for %zu counters", m->n_counters);
  for (size_t i = 0; i < m->n_counters; i++) {
    snprintf(counters[i].name, sizeof counters[i].name, "%s", m->counters[i]->name);
    counters[i].value = m->counters[i]->value;
  }
  p->counters = counters;
  p->n_counters = m->n_counters;
  p->reachable = true;
  p->text[0] = '\0';
  snprintf(p->version, sizeof p->version, "%s", m->version);
  p->uptime_ns = m->uptime_ns;
  p->epoch = m->epoch;
  p->ring_hash = m->ring_hash;
  p->ram_used_bytes = m->ram_used_bytes;
  p->ram_max_bytes = m->ram_max_bytes;
  p->connections = m->connections;
  p->connections_max = m->connections_max;
  p->draining = m->draining;
  p->round_trip_ns = q->received_ns - q->sent_ns;
  /* the peer read its clock about half a round trip before the answer came */
  int64_t wall_then = clock_wall_ns() - (clock_mono_ns() - q->received_ns) - p->round_trip_ns / 2;
  p->clock_skew_ns = m->wall_clock_ns - wall_then;
  s->answered++;
  return 0;
}

static int not_reached(struct batch *b, struct request *q, int code, const struct err *e) {
  struct survey *s = b->arg;
  struct fb_peer *p = &s->cl->peers[((struct ask *)q)->member];

  if (code == -ENOMEM)
    return code;
  snprintf(p->text, sizeof p->text, "%.*s", (int)sizeof p->text - 1, e->text);
  return 0;
}

static struct fb_cluster *describe(struct ring *ring) {
  struct fb_cluster *cl = calloc(1, sizeof *cl);
  unsigned n = ring_size(ring);

  if (!cl || !(cl->peers = calloc(n, sizeof *cl->peers))) {
    free(cl);
    return NULL;
  }
  cl->n_peers = n;
  cl->epoch = ring_epoch(ring);
  cl->ring_hash = ring_hash(ring).hi;
  cl->slots = ring_slots(ring);
  for (unsigned i = 0; i < n; i++) {
    const struct ring_member *m = ring_member(ring, i);
    struct fb_peer *p = &cl->peers[i];
    snprintf(p->name, sizeof p->name, "%s", m->name);
    snprintf(p->address, sizeof p->address, "%s", m->address);
    snprintf(p->domain, sizeof p->domain, "%s", m->domain && *m->domain ? m->domain : m->name);
    snprintf(p->text, sizeof p->text, "no answer within the time limit");
    p->weight = m->weight;
    p->slots_owned = ring_load(ring, i, 0);
  }
  return cl;
}

static int survey(struct call *k, struct survey *s) {
  struct request *slots[ASK_AT_ONCE];
  unsigned n = (unsigned)s->cl->n_peers;
  struct batch b = {
      .call = k, .requests = slots, .next = ask_next, .take = take_stats, .failed = not_reached, .arg = s};
  int r = 0;

  b.n = n < ASK_AT_ONCE ? n : ASK_AT_ONCE;
  struct ask *asks = calloc(b.n, sizeof *asks);
  s->peers = calloc(n, sizeof *s->peers);
  if (!asks || !s->peers)
    r = err_set(&k->e, -ENOMEM, "out of memory for %u peers", n);
  for (unsigned i = 0; r == 0 && i < n; i++)
    if (!(s->peers[i] = topology_peer(k->topology, k->c, i)))
      r = err_set(&k->e, -ENOMEM, "out of memory for %u connections", n);
  for (unsigned i = 0; r == 0 && i < b.n; i++)
    slots[i] = &asks[i].q;
  if (r == 0)
    r = batch_run(&b);
  for (unsigned i = 0; s->peers && i < n; i++)
    peer_unref(&s->peers[i]);
  free(s->peers);
  free(asks);
  if (r == 0 && !s->answered)
    r = err_set(&k->e, -FB_EPEERDOWN, "none of the %u members answers; the first: %s", n, s->cl->peers[0].text);
  if (r == -ETIMEDOUT && s->answered)
    r = 0; /* those that were not heard of say so */
  return r;
}

int fb_cluster_status(fb_client *c, struct fb_cluster **ret, struct fb_error *err) {
  struct survey s = {0};
  struct call k;

  int r = call_begin(&k, c, 0, NULL, NULL);
  if (r == 0) {
    topology_refresh(&k, NULL); /* what is new; if nobody answers, the old members are still asked */
    k.e.code = 0;
    k.e.text[0] = '\0';
    s.cl = describe(topology_ring(k.topology));
    r = s.cl ? survey(&k, &s) : err_set(&k.e, -ENOMEM, "out of memory for the member list");
  }
  if (r == 0)
    *ret = s.cl;
  else
    fb_cluster_free(&s.cl);
  return (int)call_end(&k, r, err);
}

void fb_cluster_free(struct fb_cluster **clp) {
  struct fb_cluster *cl = *clp;

  *clp = NULL;
  if (!cl)
    return;
  for (size_t i = 0; i < cl->n_peers; i++)
    free(cl->peers[i].counters);
  free(cl->peers);
  free(cl);
}

struct locate_args {
  uint64_t offset;
  struct fb_location *ret;
};

static int locate_once(struct call *k, void *arg) {
  struct locate_args *a = arg;
  struct ring *ring = topology_ring(k->topology);
  unsigned owners[RING_RANKS];

  struct hash128 h = place_key(k->record.id, k->record.version, k->key, k->record.whole, a->offset);
  memset(a->ret, 0, sizeof *a->ret);
  a->ret->slot = ring_slot(ring, h.hi);
  a->ret->n_owners = ring_owners(ring, a->ret->slot, owners);
  for (unsigned i = 0; i < a->ret->n_owners; i++) {
    const struct ring_member *m = ring_member(ring, owners[i]);
    snprintf(a->ret->owners[i], sizeof a->ret->owners[i], "%s", m->name);
    snprintf(a->ret->addresses[i], sizeof a->ret->addresses[i], "%s", m->address);
  }
  return 0;
}

int fb_locate(fb_client *c, const char *ns, const char *key, uint64_t offset, struct fb_location *ret,
              struct fb_error *err) {
  struct locate_args a = {.offset = offset, .ret = ret};
  struct call k;

  int r = call_begin(&k, c, CALL_NS | CALL_KEY | CALL_RECORD, ns, key);
  if (r == 0)
    r = call_run(&k, locate_once, &a);
  return (int)call_end(&k, r, err);
}
