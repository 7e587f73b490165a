/* ram_index.c - the RAM tier's entries: how they are found, and the lists on which they hang; see ram_impl.h. */
#include <stdlib.h>
#include <string.h>

#include "server/tier/ram_impl.h"

/* A block that was used while the newest 1/16 of all blocks came in keeps its place: hits on hot blocks, and all hits
 * while nothing is filled, then write to no list, whose neighbours other cores have in their caches (250 -> 54 ns per
 * hit with two cores on 4,096 blocks). With less than 16 blocks the order is exact. */
#define LRU_SLACK 16u

void ram_ns_drop_ref(struct ram *t, struct ram_ns *ns) {
  if (ram_ns_unref(&t->ns, ns))
    ram_budget_give(t, ram_ns_cost(&t->ns));
}

void ram_unref(struct ram *t, struct ram_entry *e) {
  if (atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) != 1)
    return;
  uint64_t cost = arena_cost(ram_entry_size(e->len, e->key_len));
  if (e->kept)
    atomic_fetch_sub(&t->kept, cost);
  arena_release(t->arena, e);
  ram_budget_give(t, cost);
}

static bool entry_is(struct ram_entry *e, const struct block_id *id) {
  return e->lo == id->hash.lo && e->hi == id->hash.hi && e->key_len == id->key_len && e->ns->id == id->ns_id &&
         memcmp(ram_key(e), id->key, id->key_len) == 0;
}

/* The shard has used the lowest 6 bits up. */
static uint64_t bucket_of(const struct ram_shard *s, uint64_t lo) { return (lo >> 6) & (s->n_buckets - 1); }

struct ram_entry *ram_find_locked(struct ram_shard *s, const struct block_id *id) {
  struct ram_entry *e = s->buckets[bucket_of(s, id->hash.lo)];

  while (e && !entry_is(e, id))
    e = e->next;
  return e;
}

static void age_changed(struct ram *t, struct ram_shard *s) {
  uint64_t age = lru_age(&s->lru);
  unsigned i = (unsigned)(s - t->shard);

  if (atomic_load_explicit(&t->age[i], memory_order_relaxed) != age)
    atomic_store_explicit(&t->age[i], age, memory_order_relaxed);
}

void ram_use_locked(struct ram *t, struct ram_shard *s, struct ram_entry *e) {
  if (e->kept)
    return;
  lru_use(&s->lru, &e->lru, atomic_load_explicit(&t->now, memory_order_relaxed),
          atomic_load_explicit(&t->blocks, memory_order_relaxed) / LRU_SLACK);
  age_changed(t, s);
}

void ram_link_locked(struct ram *t, struct ram_shard *s, struct ram_entry *e) {
  struct ram_entry **bucket = &s->buckets[bucket_of(s, e->lo)];
  struct ram_entry **list = &e->ns->blocks_of[s - t->shard];

  e->state = RAM_VISIBLE;
  e->next = *bucket;
  *bucket = e;
  e->ns_next = *list;
  e->ns_link = list;
  if (e->ns_next)
    e->ns_next->ns_link = &e->ns_next;
  *list = e;
  s->blocks++;
  atomic_fetch_add_explicit(&t->blocks, 1, memory_order_relaxed);
  atomic_fetch_add(&e->ns->blocks, 1);
  atomic_fetch_add(&e->ns->bytes, e->len);
  if (!e->kept) {
    lru_insert(&s->lru, &e->lru, atomic_load_explicit(&t->now, memory_order_relaxed));
    age_changed(t, s);
  }
}

void ram_unlink_locked(struct ram *t, struct ram_shard *s, struct ram_entry *e) {
  struct ram_entry **at = &s->buckets[bucket_of(s, e->lo)];

  while (*at != e)
    at = &(*at)->next;
  *at = e->next;
  *e->ns_link = e->ns_next;
  if (e->ns_next)
    e->ns_next->ns_link = e->ns_link;
  s->blocks--;
  atomic_fetch_sub_explicit(&t->blocks, 1, memory_order_relaxed);
  atomic_fetch_sub(&e->ns->blocks, 1);
  atomic_fetch_sub(&e->ns->bytes, e->len);
  if (!e->kept) {
    lru_remove(&s->lru, &e->lru);
    age_changed(t, s);
  }
  e->state = RAM_GONE;
  ram_ns_drop_ref(t, e->ns);
  e->ns = NULL;
}

void ram_grow_buckets(struct ram *t, struct ram_shard *s, uint64_t n_old) {
  uint64_t n = n_old * 2;

  if (ram_make_budget(t, n * sizeof *s->buckets) < 0)
    return;
  struct ram_entry **fresh = calloc(n, sizeof *fresh), **old = NULL;
  uint64_t give = n;
  if (fresh) {
    pthread_mutex_lock(&s->mtx);
    if (s->n_buckets == n_old) {
      old = s->buckets;
      s->buckets = fresh;
      s->n_buckets = n;
      for (uint64_t i = 0; i < n_old; i++)
        for (struct ram_entry *e = old[i], *next; e; e = next) {
          next = e->next;
          struct ram_entry **bucket = &fresh[bucket_of(s, e->lo)];
          e->next = *bucket;
          *bucket = e;
        }
      give = n_old;
    } else {
      old = fresh; /* somebody else was faster */
    }
    pthread_mutex_unlock(&s->mtx);
  }
  free(old);
  ram_budget_give(t, give * sizeof *s->buckets);
}
