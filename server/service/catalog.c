/* catalog.c - which namespaces there are, as this peer knows it.
 *
 * A record has a revision; of two records of a name the one with the higher (revision, id) holds, on every peer, in
 * whatever order they come: the catalogs of all peers converge by exchanging what they have. An id says who made it, so
 * two records that are equal in both are one. A drop leaves a tombstone, so that an old record does not come back; a
 * full table gives up its oldest. Creates and drops of a name are made at one peer, the owner of the name's slot
 * (ns.c), so two of them race only while the cluster is split. What it looks like on disk: catalog_file.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/service/catalog.h"

/* ---- namespaces ------------------------------------------------------------------------------------------------- */

struct ns *ns_ref(struct ns *n) {
  atomic_fetch_add(&n->refs, 1);
  return n;
}

void ns_unref(struct ns **np) {
  struct ns *n = *np;

  *np = NULL;
  if (!n || atomic_fetch_sub(&n->refs, 1) != 1)
    return;
  origin_free(&n->origin);
  pthread_mutex_destroy(&n->origin_mtx);
  free(n->store);
  free(n);
}

struct ns *ns_make(const struct ns_record *r) {
  size_t a = strlen(r->name) + 1, b = strlen(r->origin) + 1, c = strlen(r->version) + 1;
  struct ns *n = calloc(1, sizeof *n);

  if (!n || !(n->store = malloc(a + b + c))) {
    free(n);
    return NULL;
  }
  atomic_init(&n->refs, 1);
  pthread_mutex_init(&n->origin_mtx, NULL);
  n->r = *r;
  n->r.name = memcpy(n->store, r->name, a);
  n->r.origin = memcpy(n->store + a, r->origin, b);
  n->r.version = memcpy(n->store + a + b, r->version, c);
  return n;
}

int ns_origin(struct service *s, struct ns *n, struct origin **ret, struct err *e) {
  int r = 0;

  pthread_mutex_lock(&n->origin_mtx);
  if (!n->origin) {
    r = origin_posix_new(&n->origin, n->r.origin, s->origin_roots, s->n_origin_roots, s->conf.origin_open_files, e);
    if (r == 0)
      origin_posix_share_fds(n->origin, &s->origin_fds);
  }
  if (r == 0)
    *ret = n->origin;
  pthread_mutex_unlock(&n->origin_mtx);
  return r;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

int catalog_new(struct catalog **ret, struct service *s, const char *state_dir, struct err *e) {
  struct catalog *c = calloc(1, sizeof *c);

  if (!c || !(c->dir = strdup(state_dir))) {
    free(c);
    return err_set(e, -ENOMEM, "out of memory");
  }
  c->s = s;
  c->job.fn = catalog_save_run;
  pthread_mutex_init(&c->mtx, NULL);
  pthread_mutex_init(&c->save_mtx, NULL);
  *ret = c;
  return 0;
}

void catalog_free(struct catalog **cp) {
  struct catalog *c = *cp;

  if (!c)
    return;
  for (unsigned i = 0; i < c->n; i++)
    ns_unref(&c->v[i]);
  free(c->v);
  free(c->dir);
  pthread_mutex_destroy(&c->save_mtx);
  pthread_mutex_destroy(&c->mtx);
  free(c);
  *cp = NULL;
}

/* Index of the name, or where it would stand. */
static unsigned position(const struct catalog *c, const char *name, bool *ret_there) {
  unsigned lo = 0, hi = c->n;

  while (lo < hi) {
    unsigned mid = (lo + hi) / 2;
    int d = strcmp(c->v[mid]->r.name, name);
    if (d == 0) {
      *ret_there = true;
      return mid;
    }
    if (d < 0)
      lo = mid + 1;
    else
      hi = mid;
  }
  *ret_there = false;
  return lo;
}

struct ns *catalog_find(struct catalog *c, const char *name) {
  struct ns *n = NULL;
  bool there;

  pthread_mutex_lock(&c->mtx);
  unsigned i = position(c, name, &there);
  if (there && !c->v[i]->r.dropped)
    n = ns_ref(c->v[i]);
  pthread_mutex_unlock(&c->mtx);
  return n;
}

bool catalog_lives(struct catalog *c, const struct ns *n) {
  bool there;

  pthread_mutex_lock(&c->mtx);
  unsigned i = position(c, n->r.name, &there);
  bool lives = there && !c->v[i]->r.dropped && c->v[i]->r.id == n->r.id;
  pthread_mutex_unlock(&c->mtx);
  return lives;
}

uint64_t catalog_revision(struct catalog *c, const char *name) {
  bool there;

  pthread_mutex_lock(&c->mtx);
  unsigned i = position(c, name, &there);
  uint64_t revision = there ? c->v[i]->r.revision : 0;
  pthread_mutex_unlock(&c->mtx);
  return revision;
}

/* Index of the oldest tombstone, n if there is none. Under mtx. */
static unsigned oldest_tombstone(const struct catalog *c) {
  unsigned oldest = c->n;

  for (unsigned i = 0; i < c->n; i++)
    if (c->v[i]->r.dropped && (oldest == c->n || c->v[i]->r.revision < c->v[oldest]->r.revision))
      oldest = i;
  return oldest;
}

/* Makes room in a full table, which keeps the newest tombstones: so peers agree on them, and do not hand each other in
 * turn what the other one has just given up. 1: there is room, 0: not for this one, -FB_EBUSY. Under mtx. */
static int make_room(struct catalog *c, const struct ns *fresh) {
  if (c->n < NS_MAX)
    return 1;
  unsigned oldest = oldest_tombstone(c);
  if (fresh->r.dropped && (oldest == c->n || fresh->r.revision < c->v[oldest]->r.revision))
    return 0;
  if (oldest == c->n)
    return -FB_EBUSY;
  ns_unref(&c->v[oldest]);
  memmove(&c->v[oldest], &c->v[oldest + 1], (c->n - oldest - 1) * sizeof *c->v);
  c->n--;
  return 1;
}

/* 1: taken; *ret_old (may be NULL) is what it replaced, with its reference. 0: not news. Under mtx. */
static int take(struct catalog *c, struct ns *fresh, struct ns **ret_old) {
  bool there;
  unsigned i = position(c, fresh->r.name, &there);

  *ret_old = NULL;
  if (there) {
    const struct ns_record *old = &c->v[i]->r;
    if (fresh->r.revision < old->revision || (fresh->r.revision == old->revision && fresh->r.id <= old->id))
      return 0;
    *ret_old = c->v[i];
    c->v[i] = fresh;
    return 1;
  }
  int room = make_room(c, fresh);
  if (room <= 0)
    return room;
  i = position(c, fresh->r.name, &there);
  if (c->n == c->cap) {
    unsigned cap = c->cap ? c->cap * 2 : 16;
    struct ns **v = reallocarray(c->v, cap, sizeof *v);
    if (!v)
      return -ENOMEM;
    c->v = v;
    c->cap = cap;
  }
  memmove(&c->v[i + 1], &c->v[i], (c->n - i) * sizeof *c->v);
  c->v[i] = fresh;
  c->n++;
  return 1;
}

static int took_error(int took, struct err *e) {
  if (took == -FB_EBUSY)
    return err_set(e, took, "there are %u namespaces already, the most there may be", NS_MAX);
  return err_set(e, took, "out of memory");
}

/* What a record replaced: its blocks go, unless it is the same namespace still. */
static void let_go(struct catalog *c, struct ns **old, const struct ns_record *r, uint64_t *freed) {
  if (*old && !(*old)->r.dropped && (r->dropped || r->id != (*old)->r.id)) {
    uint64_t bytes = tier_drop(c->s->tier, (*old)->r.id, NULL, NULL, NULL);
    if (freed)
      *freed += bytes;
    attr_forget_matching(c->s, *old, "");
  }
  ns_unref(old);
}

int catalog_take(struct catalog *c, const struct ns_record *r, uint64_t *freed, struct err *e) {
  struct ns *fresh = ns_make(r), *old;

  if (!fresh)
    return err_set(e, -ENOMEM, "out of memory");
  pthread_mutex_lock(&c->mtx);
  int took = take(c, fresh, &old);
  if (took > 0)
    c->dirty = true;
  pthread_mutex_unlock(&c->mtx);
  if (took <= 0)
    ns_unref(&fresh);
  let_go(c, &old, r, freed);
  return took < 0 ? took_error(took, e) : 0;
}

int catalog_apply(struct catalog *c, const struct ns_record *records, unsigned n, uint64_t *freed, struct err *e) {
  int first = 0;

  for (unsigned i = 0; i < n; i++) {
    struct err *to = first ? NULL : e;
    int r = ns_record_check(&records[i], to);
    if (r == 0)
      r = ns_record_check_revision(&records[i], to);
    if (r == 0)
      r = catalog_take(c, &records[i], freed, to);
    first = first ? first : r;
  }
  return first;
}

int catalog_create(struct catalog *c, const struct ns_record *r, struct err *e) {
  struct ns *fresh = ns_make(r), *old = NULL;
  bool there;

  if (!fresh)
    return err_set(e, -ENOMEM, "out of memory");
  pthread_mutex_lock(&c->mtx);
  unsigned i = position(c, r->name, &there);
  int took = there && !c->v[i]->r.dropped ? 0 : take(c, fresh, &old);
  if (took > 0)
    c->dirty = true;
  pthread_mutex_unlock(&c->mtx);
  if (took <= 0)
    ns_unref(&fresh);
  ns_unref(&old); /* a tombstone, if anything */
  if (took == 0)
    return err_set(e, -FB_ENSEXISTS, "namespace exists already: drop it first, or choose another name");
  return took < 0 ? took_error(took, e) : 0;
}

int catalog_drop(struct catalog *c, const struct ns_record *tombstone, uint64_t *freed, struct err *e) {
  struct ns *fresh = ns_make(tombstone), *old = NULL;
  bool there;

  if (!fresh)
    return err_set(e, -ENOMEM, "out of memory");
  pthread_mutex_lock(&c->mtx);
  unsigned i = position(c, tombstone->name, &there);
  int took = there && !c->v[i]->r.dropped && c->v[i]->r.id == tombstone->id ? take(c, fresh, &old) : 0;
  if (took > 0)
    c->dirty = true;
  pthread_mutex_unlock(&c->mtx);
  if (took <= 0)
    ns_unref(&fresh);
  let_go(c, &old, tombstone, freed);
  if (took == 0)
    return err_set(e, -FB_ENONS, "namespace was dropped meanwhile");
  return took < 0 ? took_error(took, e) : 0;
}

int catalog_all(struct catalog *c, bool tombstones, ns_list_fn f, void *arg) {
  unsigned n = 0;

  pthread_mutex_lock(&c->mtx);
  struct ns **held = calloc(c->n ? c->n : 1, sizeof *held);
  struct ns_record *r = calloc(c->n ? c->n : 1, sizeof *r);
  bool ok = held && r;
  for (unsigned i = 0; ok && i < c->n; i++)
    if (tombstones || !c->v[i]->r.dropped) {
      held[n] = ns_ref(c->v[i]);
      r[n++] = c->v[i]->r;
    }
  pthread_mutex_unlock(&c->mtx);
  if (ok)
    f(arg, r, n);
  for (unsigned i = 0; i < n; i++)
    ns_unref(&held[i]);
  free(held);
  free(r);
  return ok ? 0 : -ENOMEM;
}
