/* topology.c - the ring as this client knows it, where that comes from, and whom to ask for what.
 *
 * The ring is never taken from a peer: the member list is, and the ring is computed from it here. Its hash must then be
 * the one that the peer computed, otherwise two versions of the placement are at work and keys would be looked for
 * where they are not. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib/request.h"
#include "common/bytes.h"

#define ASK_AT_ONCE 8u
#define REFRESH_EVERY_NS NS_PER_S

struct topology {
  atomic_uint refs; /* the client's, for the newest, and one of each call that plans with it */
  struct ring *ring;
  pthread_mutex_t mtx;
  struct peer *peers[]; /* under mtx; references; NULL: not asked yet */
};

struct ring *topology_ring(struct topology *t) {
  return t->ring;
}
uint64_t topology_hash(struct topology *t) { return ring_hash(t->ring).hi; }

struct topology *topology_ref(struct topology *t) {
  atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
  return t;
}

void topology_unref(struct topology **tp) {
  struct topology *t = *tp;

  *tp = NULL;
  if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
    return;
  for (unsigned i = 0; i < ring_size(t->ring); i++)
    peer_unref(&t->peers[i]);
  ring_unref(&t->ring);
  pthread_mutex_destroy(&t->mtx);
  free(t);
}

struct peer *topology_peer(struct topology *t, fb_client *c, unsigned index) {
  const char *address = ring_member(t->ring, index)->address;

  pthread_mutex_lock(&t->mtx);
  struct peer *p = t->peers[index];
  for (unsigned i = 0; !p && i < c->o.n_peers; i++) /* a seed has a connection already, and a breaker that knows it */
    if (strcmp(peer_address(c->seeds[i]), address) == 0)
      p = t->peers[index] = peer_ref(c->seeds[i]);
  if (!p && peer_new(&p, c->loop, address, MESSAGE_MAX_BYTES, NULL) == 0)
    t->peers[index] = p;
  if (p)
    peer_ref(p);
  pthread_mutex_unlock(&t->mtx);
  return p;
}

/* Takes over what `old` knows about members that stay. */
static void inherit(struct topology *t, struct topology *old) {
  pthread_mutex_lock(&old->mtx);
  for (unsigned i = 0; i < ring_size(t->ring); i++) {
    const struct ring_member *m = ring_member(t->ring, i);
    int was = ring_find(old->ring, m->name);
    if (was >= 0 && old->peers[was] && strcmp(ring_member(old->ring, (unsigned)was)->address, m->address) == 0)
      t->peers[i] = peer_ref(old->peers[was]);
  }
  pthread_mutex_unlock(&old->mtx);
}

/* ---- fetching --------------------------------------------------------------------------------------------------- */

struct ask {
  struct request q;
  Forebay__V1__GetRingRequest message;
};

struct fetch {
  struct peer **peers; /* borrowed */
  unsigned n, asked;
  unsigned left_out; /* failures that did not fit into the text */
  struct topology *ret;
  struct peer *answered; /* borrowed: who decided */
  struct err e;          /* why the others did not */
};

static bool ask_next(struct batch *b, struct request *q) {
  struct fetch *f = b->arg;
  struct ask *a = (struct ask *)q;

  if (f->asked == f->n)
    return false;
  *a = (struct ask){.message = FOREBAY__V1__GET_RING_REQUEST__INIT};
  q->method = "/forebay.v1.Cluster/GetRing";
  q->message = &a->message.base;
  q->reply_type = &forebay__v1__get_ring_reply__descriptor;
  q->only = f->peers[f->asked++];
  return true;
}

static int build(const Forebay__V1__GetRingReply *reply, struct ring **ret, struct err *e) {
  struct ring_member *members;
  struct ring *ring;

  if (reply->n_members > RING_MEMBERS_MAX)
    return err_set(e, -FB_EPROTO, "it names %zu members; at most %u are possible", reply->n_members, RING_MEMBERS_MAX);
  if (!(members = calloc(reply->n_members + 1, sizeof *members)))
    return err_set(e, -ENOMEM, "out of memory for %zu members", reply->n_members);
  for (size_t i = 0; i < reply->n_members; i++)
    members[i] = (struct ring_member){.name = reply->members[i]->name,
                                      .address = reply->members[i]->address,
                                      .weight = reply->members[i]->weight,
                                      .domain = reply->members[i]->domain};
  int r = ring_new(&ring, members, (unsigned)reply->n_members, reply->slots, reply->epoch, e);
  free(members);
  if (r < 0)
    return r == -ENOMEM ? r : err_set(e, -FB_EPROTO, "its member list makes no ring: %s", e->text);
  struct hash128 h = ring_hash(ring);
  if (h.hi != reply->ring_hash || (reply->ring_hash_lo && h.lo != reply->ring_hash_lo)) {
    ring_unref(&ring);
    return err_set(
        e, -FB_ERING,
        "it computed ring %016llx from its members, this client computed %016llx: they run different versions "
        "of Forebay's placement",
        (unsigned long long)reply->ring_hash, (unsigned long long)h.hi);
  }
  *ret = ring;
  return 0;
}

static int ask_take(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__GetRingReply *reply = (const Forebay__V1__GetRingReply *)q->reply;
  struct call *k = b->call;
  struct fetch *f = b->arg;
  struct ring *ring = NULL;

  if (k->topology && reply->ring_hash == topology_hash(k->topology)) {
    f->ret = topology_ref(k->topology);
  } else {
    int r = build(reply, &ring, e);
    if (r < 0)
      return r == -FB_ERING ? r : -FB_EPROTO;
    f->ret = calloc(1, sizeof *f->ret + ring_size(ring) * sizeof *f->ret->peers);
    if (!f->ret) {
      ring_unref(&ring);
      return err_set(e, -ENOMEM, "out of memory for the member table");
    }
    f->ret->ring = ring;
    atomic_init(&f->ret->refs, 1);
    pthread_mutex_init(&f->ret->mtx, NULL);
    if (k->topology)
      inherit(f->ret, k->topology);
  }
  f->answered = q->only;
  b->enough = true;
  return 0;
}

/* Collects the reasons, as many as fit. */
static int ask_failed(struct batch *b, struct request *q, int code, const struct err *e) {
  struct fetch *f = b->arg;
  size_t len = strlen(f->e.text), room = sizeof f->e.text - len;

  if (code == -ENOMEM)
    return code;
  if (code == -FB_ERING || f->e.code == 0)
    f->e.code = code == -FB_ERING ? code : -FB_EPEERDOWN;
  (void)q;
  if (room > strlen(e->text) + 24)
    snprintf(f->e.text + len, room, "%s%s", len ? "; " : "", e->text);
  else
    f->left_out++;
  return 0;
}

/* Asks all `peers`, a few at a time, until one has answered well. */
static int fetch(struct call *k, struct peer **peers, unsigned n, struct fetch *f) {
  struct ask asks[ASK_AT_ONCE];
  struct request *requests[ASK_AT_ONCE];
  struct batch b = {
      .call = k, .requests = requests, .next = ask_next, .take = ask_take, .failed = ask_failed, .arg = f};

  *f = (struct fetch){.peers = peers, .n = n};
  b.n = n < ASK_AT_ONCE ? n : ASK_AT_ONCE;
  memset(asks, 0, sizeof asks);
  for (unsigned i = 0; i < b.n; i++)
    requests[i] = &asks[i].q;
  int r = batch_run(&b);
  if (r < 0 || f->ret)
    return r;
  size_t len = strlen(f->e.text);
  if (f->left_out)
    snprintf(f->e.text + len, sizeof f->e.text - len, " (and %u more)", f->left_out);
  return err_set(&k->e, f->e.code, "%s", f->e.text);
}

int topology_open(struct call *k) {
  fb_client *c = k->c;
  struct fetch f;

  int r = fetch(k, c->seeds, c->o.n_peers, &f);
  if (r < 0) {
    topology_unref(&f.ret);
    if (r == -FB_EPEERDOWN)
      err_prefix(&k->e, "none of the %u peer%s answers", c->o.n_peers, c->o.n_peers == 1 ? "" : "s");
    return r;
  }
  unsigned start = 0;
  if (c->o.any_peer) {
    while (c->seeds[start] != f.answered)
      start++;
  } else {
    start = (unsigned)(client_random(c) % ring_size(f.ret->ring));
  }
  atomic_store(&c->preferred, start);
  pthread_mutex_lock(&c->mtx);
  c->topology = f.ret;
  c->refreshed_ns = clock_mono_ns();
  pthread_mutex_unlock(&c->mtx);
  return 0;
}

/* Makes `t` (consumed) the client's ring unless that is newer; the call's in any case becomes the client's. */
static int adopt(struct call *k, struct topology *t) {
  fb_client *c = k->c;
  struct topology *old = k->topology, *spare = t;

  pthread_mutex_lock(&c->mtx);
  c->refreshed_ns = clock_mono_ns();
  if (ring_epoch(t->ring) >= ring_epoch(c->topology->ring)) {
    spare = c->topology;
    c->topology = t;
  }
  k->topology = topology_ref(c->topology);
  pthread_mutex_unlock(&c->mtx);
  int same = topology_hash(old) == topology_hash(k->topology);
  topology_unref(&spare);
  topology_unref(&old);
  return same;
}

/* Members whose breaker is shut, then the seeds; at most `cap`. References. */
static unsigned candidates(struct call *k, struct peer **peers, unsigned cap) {
  unsigned n = 0, size = ring_size(k->topology->ring), start = (unsigned)(client_random(k->c) % size);

  for (unsigned i = 0; i < size && n < cap; i++) {
    struct peer *p = topology_peer(k->topology, k->c, (start + i) % size);
    if (p && peer_usable(p))
      peers[n++] = p;
    else
      peer_unref(&p);
  }
  for (unsigned i = 0; i < k->c->o.n_peers && n < cap; i++)
    peers[n++] = peer_ref(k->c->seeds[i]);
  return n;
}

int topology_refresh(struct call *k, struct peer *first) {
  fb_client *c = k->c;
  struct peer *peers[2 * ASK_AT_ONCE];
  struct fetch f = {0};
  int r = -1;

  pthread_mutex_lock(&c->mtx);
  bool newer = topology_hash(c->topology) != topology_hash(k->topology);
  struct topology *t = newer ? topology_ref(c->topology) : NULL;
  pthread_mutex_unlock(&c->mtx);
  if (newer) {
    topology_unref(&k->topology);
    k->topology = t;
    return 0;
  }
  if (first)
    r = fetch(k, &first, 1, &f);
  if (r < 0) {
    topology_unref(&f.ret);
    unsigned n = candidates(k, peers, 2 * ASK_AT_ONCE);
    r = fetch(k, peers, n, &f);
    for (unsigned i = 0; i < n; i++)
      peer_unref(&peers[i]);
  }
  if (r < 0) {
    topology_unref(&f.ret);
    return r;
  }
  return adopt(k, f.ret);
}

/* ---- picking ---------------------------------------------------------------------------------------------------- */

static unsigned n_candidates(const struct call *k) {
  return k->c->o.any_peer ? k->c->o.n_peers : ring_size(k->topology->ring);
}

static struct peer *candidate(struct call *k, unsigned index) {
  return k->c->o.any_peer ? peer_ref(k->c->seeds[index]) : topology_peer(k->topology, k->c, index);
}

static bool was_tried(const struct picker *p, unsigned index) {
  for (unsigned i = 0; i < p->n_tried; i++)
    if (p->tried[i] == index)
      return true;
  return false;
}

/* The `i`-th of the order, i < 2 n: with a place, its owners and then all by index (owners come up twice). */
static unsigned in_order(struct call *k, const struct picker *p, unsigned i, unsigned n) {
  unsigned owners[RING_RANKS];

  if (k->c->o.any_peer || !p->placed)
    return (atomic_load_explicit(&k->c->preferred, memory_order_relaxed) + i) % n;
  unsigned n_owners = ring_owners(k->topology->ring, ring_slot(k->topology->ring, p->hash), owners);
  return i < n_owners ? owners[i] : (i - n_owners) % n;
}

int pick_peer(struct call *k, struct picker *p, struct pick *ret) {
  unsigned n = n_candidates(k);

  if (p->seen != k->topology) {
    p->seen = k->topology;
    p->n_tried = 0;
  }
  for (int usable = 1; usable >= 0; usable--) {
    if (!usable && p->n_tried)
      break; /* those behind open breakers come only when nobody else is there */
    for (unsigned i = 0; i < n + RING_RANKS; i++) {
      unsigned index = in_order(k, p, i, n);
      if (was_tried(p, index))
        continue;
      struct peer *peer = candidate(k, index);
      if (!peer)
        return err_set(&k->e, -ENOMEM, "out of memory for a connection");
      if (!usable || peer_usable(peer)) {
        *ret = (struct pick){.peer = peer, .index = index, .ignore_breaker = !usable};
        return 0;
      }
      peer_unref(&peer);
    }
  }
  p->n_tried = 0;
  return 1;
}

void pick_failed(struct call *k, struct picker *p, unsigned index) {
  unsigned n = n_candidates(k), preferred = atomic_load(&k->c->preferred);

  if (p->seen != k->topology)
    return;
  if (!was_tried(p, index) && p->n_tried < TRIES_MAX)
    p->tried[p->n_tried++] = (uint32_t)index;
  if ((k->c->o.any_peer || !p->placed) && preferred % n == index)
    atomic_compare_exchange_strong(&k->c->preferred, &preferred, (index + 1) % n);
}
