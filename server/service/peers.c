/* peers.c - the other peers of a service: whom to ask for a key, in which order, and asking all of them at once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "forebay/v1/common.pb-c.h"
#include "server/service/internal.h"
#include "server/service/parts.h"

/* ---- the other peers, by address -------------------------------------------------------------------------------- */

/* Open addressing, insert only: a peer that leaves the ring keeps its (idle) entry until the service ends. */
struct peer_table {
  pthread_mutex_t mtx;
  unsigned n, cap;
  struct peer **v;
};

int peer_table_new(struct peer_table **ret) {
  struct peer_table *t = calloc(1, sizeof *t);

  if (!t || !(t->v = calloc(t->cap = 16, sizeof *t->v))) {
    free(t);
    return -ENOMEM;
  }
  pthread_mutex_init(&t->mtx, NULL);
  *ret = t;
  return 0;
}

void peer_table_free(struct peer_table **t) {
  if (!*t)
    return;
  for (unsigned i = 0; i < (*t)->cap; i++)
    peer_unref(&(*t)->v[i]);
  pthread_mutex_destroy(&(*t)->mtx);
  free((*t)->v);
  free(*t);
  *t = NULL;
}

static struct peer **peer_place(struct peer **v, unsigned cap, const char *address) {
  unsigned i = (unsigned)hash_bytes64(address, strlen(address)) & (cap - 1);

  while (v[i] && strcmp(peer_address(v[i]), address) != 0)
    i = (i + 1) & (cap - 1);
  return &v[i];
}

static void peer_table_grow(struct peer_table *t) {
  unsigned cap = t->cap * 2;
  struct peer **v = calloc(cap, sizeof *v);

  if (!v)
    return; /* fuller than we like, still correct until the last place */
  for (unsigned i = 0; i < t->cap; i++)
    if (t->v[i])
      *peer_place(v, cap, peer_address(t->v[i])) = t->v[i];
  free(t->v);
  t->v = v;
  t->cap = cap;
}

struct peer *service_peer_of(struct service *s, struct ring *ring, unsigned index) {
  const struct ring_member *m = ring_member(ring, index);
  struct peer_table *t = s->peers;
  struct peer *p = NULL;

  if (strcmp(m->name, s->self) == 0)
    return NULL;
  pthread_mutex_lock(&t->mtx);
  if (t->n * 2 >= t->cap)
    peer_table_grow(t);
  if (t->n + 1 < t->cap) {
    struct peer **at = peer_place(t->v, t->cap, m->address);
    if (!*at && peer_new(at, s->loop, m->address, MESSAGE_MAX_BYTES, NULL) == 0)
      t->n++;
    if (*at)
      p = peer_ref(*at);
  }
  pthread_mutex_unlock(&t->mtx);
  return p;
}

/* ---- whom to ask ------------------------------------------------------------------------------------------------ */

void candidates_init(struct candidates *c, struct service *s, struct hash128 h) {
  unsigned owners[RING_RANKS], n, later[RING_RANKS], n_later = 0;

  *c = (struct candidates){.ring = member_ring(s->member)};
  c->self = ring_find(c->ring, s->self);
  n = ring_owners(c->ring, ring_slot(c->ring, h.hi), owners);
  c->first = owners[0];
  for (unsigned i = 0; i < n; i++) {
    c->self_owns |= (int)owners[i] == c->self;
    struct peer *p = (int)owners[i] == c->self ? NULL : service_peer_of(s, c->ring, owners[i]);
    if (p && !peer_usable(p))
      later[n_later++] = owners[i];
    else
      c->index[c->n++] = owners[i];
    peer_unref(&p);
  }
  for (unsigned i = 0; i < n_later; i++)
    c->index[c->n++] = later[i];
}

void candidates_fini(struct candidates *c) { ring_unref(&c->ring); }

enum walk walk_next(struct candidates *c, struct service *s, int64_t deadline_ns, struct peer **ret) {
  while (c->next < c->n && clock_mono_ns() < deadline_ns) {
    unsigned index = c->index[c->next++];
    if ((int)index == c->self) {
      if (c->others_only)
        continue;
      c->self_tried = true;
      return WALK_SELF;
    }
    struct peer *p = service_peer_of(s, c->ring, index);
    if (!p)
      continue;
    if (index != c->first && !c->others_only)
      metric_add(s, M_peer_failovers, 1);
    *ret = p;
    return WALK_PEER;
  }
  /* No candidate can be reached: any peer is as good as another, where the origin has the bytes. */
  if (!c->others_only && !c->self_tried && c->self >= 0 && clock_mono_ns() < deadline_ns) {
    c->self_tried = true;
    return WALK_SELF;
  }
  return WALK_END;
}

void walk_others(struct candidates *c) {
  c->next = 0;
  c->others_only = true;
  c->absent = c->self_owns;
}

int walk_verdict(const struct candidates *c, struct err *last) {
  if (c->next < c->n) /* the walk goes on as long as there is time */
    return err_set(last, -ETIMEDOUT, "deadline passed");
  if (c->others_only && (c->absent || !last->code))
    return err_set(last, -ENOENT, "no such value");
  return last->code ? last->code : err_set(last, -ETIMEDOUT, "deadline passed");
}

bool retry_elsewhere(int code) {
  /* A call that meets the end of a peer's drain is cancelled by that peer; we cancel none that we still want. */
  return code == -FB_EPEERDOWN || code == -ETIMEDOUT || code == -ECANCELED;
}

int64_t attempt_deadline(struct service *s, int64_t deadline_ns) {
  int64_t limit = deadline_in_ms(atomic_load(&s->peer_timeout_ms));
  int64_t drain_ns = atomic_load(&s->drain_deadline_ns);

  if (atomic_load(&s->draining) && drain_ns < limit)
    limit = drain_ns;
  return deadline_ns < limit ? deadline_ns : limit;
}

void route_to_peer(struct ring *ring, const struct ns *ns, bool resident_only, Forebay__V1__Route *ret) {
  forebay__v1__route__init(ret);
  ret->ring_hash = ring_hash(ring).hi;
  ret->local = true;
  ret->ns_id = ns ? ns->r.id : 0;
  ret->resident_only = resident_only;
}

/* ---- fan-out ---------------------------------------------------------------------------------------------------- */

struct fanout {
  pthread_mutex_t mtx; /* serialises `reply` and guards failed[] */
  struct ring *ring;
  unsigned pending; /* under mtx */
  unsigned n_failed;
  const char **failed; /* names inside ring */
  fanout_reply_fn reply;
  fanout_done_fn done;
  void *arg;
};

struct fanout_leg {
  struct fanout *f;
  unsigned index;
};

static void fanout_leave(struct fanout *f) {
  pthread_mutex_lock(&f->mtx);
  bool last = --f->pending == 0;
  pthread_mutex_unlock(&f->mtx);
  if (!last)
    return;
  f->done(f->arg, 0, &(struct name_list){.n = f->n_failed, .v = f->failed});
  ring_unref(&f->ring);
  pthread_mutex_destroy(&f->mtx);
  free(f->failed);
  free(f);
}

static void fanout_replied(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  struct fanout_leg *leg = arg;
  struct fanout *f = leg->f;
  const char *name = ring_member(f->ring, leg->index)->name;

  (void)text;
  (void)payload;
  pthread_mutex_lock(&f->mtx);
  if (code < 0)
    f->failed[f->n_failed++] = name;
  else if (f->reply)
    f->reply(f->arg, name, reply);
  pthread_mutex_unlock(&f->mtx);
  free(leg);
  fanout_leave(f);
}

void fanout(struct service *s, const char *method, const ProtobufCMessage *request,
            const ProtobufCMessageDescriptor *reply_type, int64_t deadline_ns, fanout_reply_fn reply,
            fanout_done_fn done, void *arg) {
  static const struct name_list nobody = {0};
  struct fanout *f = calloc(1, sizeof *f);
  struct ring *ring = member_ring(s->member);

  if (f)
    f->failed = calloc(ring_size(ring), sizeof *f->failed);
  if (!f || !f->failed) {
    free(f);
    ring_unref(&ring);
    done(arg, -ENOMEM, &nobody);
    return;
  }
  pthread_mutex_init(&f->mtx, NULL);
  f->ring = ring;
  f->reply = reply;
  f->done = done;
  f->arg = arg;
  f->pending = 1;
  int self = ring_find(ring, s->self);
  for (unsigned i = 0; i < ring_size(ring); i++) {
    if ((int)i == self)
      continue;
    struct peer *p = service_peer_of(s, ring, i);
    struct fanout_leg *leg = p ? malloc(sizeof *leg) : NULL;
    pthread_mutex_lock(&f->mtx);
    f->pending++;
    pthread_mutex_unlock(&f->mtx);
    if (!leg) {
      pthread_mutex_lock(&f->mtx);
      f->failed[f->n_failed++] = ring_member(ring, i)->name;
      pthread_mutex_unlock(&f->mtx);
      fanout_leave(f);
    } else {
      *leg = (struct fanout_leg){.f = f, .index = i};
      struct peer_call_args a = {.method = method,
                                 .request = request,
                                 .reply_type = reply_type,
                                 .deadline_ns = attempt_deadline(s, deadline_ns)};
      struct rpc_call *call = peer_call(p, &a, fanout_replied, leg);
      rpc_call_unref(&call);
    }
    peer_unref(&p);
  }
  fanout_leave(f);
}
