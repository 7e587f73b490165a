/* ram_room.c - the RAM tier's budget, and who goes when it is used up.
 *
 * The budget is a single counter that is raised before memory is taken and lowered after it is given back, so it is
 * never exceeded. Who finds no room makes some: one thread at a time (room_mtx; several would all evict for the same
 * shortage), from the shard whose oldest block is oldest of all. If the bytes are there but not in one piece, the
 * victim's neighbours in memory go with it: at most as many bytes as are wanted, so even a full change of block sizes
 * costs no more than the eviction of what the new blocks need. All static functions run under room_mtx, but for
 * budget_take and those that the arena calls. */
#include <errno.h>

#include "server/tier/ram_impl.h"

#define SPAN_TRIES 64u /* blocks of a shard to look around of for room, oldest first */

static bool budget_take(struct ram *t, uint64_t n) {
  uint64_t used = atomic_load(&t->used);

  do {
    if (n > atomic_load(&t->max) || used > atomic_load(&t->max) - n)
      return false;
  } while (!atomic_compare_exchange_weak(&t->used, &used, used + n));
  return true;
}

void ram_budget_give(struct ram *t, uint64_t n) { atomic_fetch_sub(&t->used, n); }

static struct ram_entry *entry_of(struct lru_node *n) {
  return (struct ram_entry *)((char *)n - offsetof(struct ram_entry, lru));
}

/* For arena_span, under the arena's lock. A chunk that is being freed or not yet written has no references. */
static bool entry_can_go(void *p) {
  struct ram_entry *e = p;
  return atomic_load_explicit(&e->refs, memory_order_acquire) == 1 && !e->kept &&
         atomic_load_explicit(&e->state, memory_order_relaxed) == RAM_VISIBLE;
}

struct taken {
  struct ram_entry **v;
  unsigned n, cap;
};

static void take_entry(void *arg, void *p) {
  struct taken *taken = arg;
  struct ram_entry *e = p;
  unsigned refs = atomic_load_explicit(&e->refs, memory_order_relaxed);

  if (taken->n == taken->cap)
    return;
  do {
    if (refs == 0)
      return;
  } while (
      !atomic_compare_exchange_weak_explicit(&e->refs, &refs, refs + 1, memory_order_acquire, memory_order_relaxed));
  taken->v[taken->n++] = e;
}

/* Takes the oldest block that nobody uses out of a shard; its reference is the caller's. NULL if there is none. Pinned
 * blocks keep their place: evicting them would free nothing. With `size`, so do those whose going would not help to
 * `size` bytes in one piece, because of pinned or kept blocks too near on both sides. */
static struct ram_entry *evict_from(struct ram *t, struct ram_shard *s, uint64_t size) {
  struct ram_entry *victim = NULL;
  unsigned tries = SPAN_TRIES;

  pthread_mutex_lock(&s->mtx);
  for (struct lru_node *n = s->lru.oldest; n && !victim && tries > 0; n = n->newer) {
    struct ram_entry *e = entry_of(n);
    if (atomic_load_explicit(&e->refs, memory_order_relaxed) != 1)
      continue;
    if (size && !arena_span(t->arena, e, size, entry_can_go, NULL, NULL))
      tries--;
    else
      victim = e;
  }
  if (victim) {
    ram_unlink_locked(t, s, victim);
    s->evictions++;
  }
  pthread_mutex_unlock(&s->mtx);
  return victim;
}

/* The oldest such block of all shards, but for races. */
static struct ram_entry *evict_oldest(struct ram *t, uint64_t size) {
  uint64_t tried = 0;

  for (;;) {
    unsigned best = t->shards;
    uint64_t best_age = LRU_EMPTY;
    for (unsigned i = 0; i < t->shards; i++) {
      uint64_t age = atomic_load_explicit(&t->age[i], memory_order_relaxed);
      if (age < best_age && !(tried >> i & 1)) {
        best = i;
        best_age = age;
      }
    }
    if (best == t->shards)
      return NULL;
    struct ram_entry *e = evict_from(t, &t->shard[best], size);
    if (e)
      return e;
    tried |= UINT64_C(1) << best; /* nothing in it can go */
  }
}

/* Evicts an entry on which the caller has a reference (which goes with it), unless it is in use, kept or a fill. */
static bool evict_this(struct ram *t, struct ram_entry *e) {
  struct ram_shard *s = ram_shard(t, e->lo);

  pthread_mutex_lock(&s->mtx);
  bool go = e->state == RAM_VISIBLE && !e->kept && atomic_load_explicit(&e->refs, memory_order_relaxed) == 2;
  if (go) {
    ram_unlink_locked(t, s, e);
    s->evictions++;
  }
  pthread_mutex_unlock(&s->mtx);
  if (go)
    ram_unref(t, e);
  ram_unref(t, e);
  return go;
}

/* Evicts those neighbours of `victim` that make one piece of `size` bytes with it, unless one has come into use. */
static void evict_neighbours(struct ram *t, struct ram_entry *victim, uint64_t size) {
  struct ram_entry *v[256];
  struct taken taken = {.v = v, .cap = sizeof v / sizeof *v};
  bool going;

  do {
    taken.n = 0;
    going = arena_span(t->arena, victim, size, entry_can_go, take_entry, &taken);
    for (unsigned i = 0; i < taken.n; i++)
      going &= evict_this(t, v[i]);
  } while (going && taken.n == taken.cap);
}

/* After the budget was lowered: empties the end of the arena. Stops at what cannot go; later calls go on from there. */
static void trim(struct ram *t) {
  for (;;) {
    struct ram_entry *e;
    struct taken taken = {.v = &e, .cap = 1};
    if (arena_trim(t->arena, take_entry, &taken) || !taken.n || !evict_this(t, e))
      return;
  }
}

int ram_make_budget(struct ram *t, uint64_t n) {
  if (budget_take(t, n))
    return 0;
  int r = 0;
  pthread_mutex_lock(&t->room_mtx);
  trim(t);
  while (r == 0 && !budget_take(t, n)) {
    struct ram_entry *victim = n <= atomic_load(&t->max) ? evict_oldest(t, 0) : NULL;
    if (victim)
      ram_unref(t, victim);
    else
      r = -ENOSPC;
  }
  pthread_mutex_unlock(&t->room_mtx);
  return r;
}

void *ram_make_room(struct ram *t, uint64_t size) {
  void *p = arena_alloc(t->arena, size);

  if (p)
    return p;
  pthread_mutex_lock(&t->room_mtx);
  trim(t);
  while (!(p = arena_alloc(t->arena, size))) {
    struct ram_entry *victim = evict_oldest(t, size);
    if (!victim)
      break;
    evict_neighbours(t, victim, size);
    ram_unref(t, victim);
  }
  pthread_mutex_unlock(&t->room_mtx);
  return p;
}

int ram_set_max(struct ram *t, uint64_t max_bytes) {
  pthread_mutex_lock(&t->room_mtx);
  int r = arena_resize(t->arena, max_bytes);
  if (r == 0) {
    atomic_store(&t->max, max_bytes);
    trim(t); /* by place, not by age: the memory has to go back, and it goes from the end */
    while (atomic_load(&t->used) > max_bytes) {
      struct ram_entry *victim = evict_oldest(t, 0);
      if (!victim)
        break;
      ram_unref(t, victim);
    }
  }
  pthread_mutex_unlock(&t->room_mtx);
  return r;
}
