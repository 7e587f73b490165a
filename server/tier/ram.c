/* ram.c - blocks in RAM under one byte budget: a sharded hash table over an arena, evicted least recently used first.
 * The operations of tier.h; how it is built stands in ram_impl.h. */
#include "server/tier/ram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "server/tier/ram_impl.h"

#define BUCKETS_MIN 64u

static struct ram *ram_of(struct tier *t) { return (struct ram *)t; }

static int ram_get(struct tier *tier, const struct block_id *id, struct tier_view *ret) {
  struct ram *t = ram_of(tier);
  struct ram_shard *s = ram_shard(t, id->hash.lo);

  pthread_mutex_lock(&s->mtx);
  struct ram_entry *e = ram_find_locked(s, id);
  if (e) {
    s->hits++;
    atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
    ram_use_locked(t, s, e);
  } else {
    s->misses++;
  }
  pthread_mutex_unlock(&s->mtx);
  if (!e)
    return -ENOENT;
  *ret = (struct tier_view){.data = ram_data(e), .len = e->len, .crc = e->crc, .pin = e};
  return 0;
}

static void ram_release(struct tier *tier, struct tier_view *v) {
  struct ram_entry *e = v->pin;

  *v = (struct tier_view){0};
  ram_unref(ram_of(tier), e);
}

static int ram_reserve(struct tier *tier, const struct block_id *id, uint32_t len, unsigned flags,
                       struct tier_slot *ret) {
  struct ram *t = ram_of(tier);
  uint64_t size = ram_entry_size(len, id->key_len), cost = arena_cost(size), ns_cost = ram_ns_cost(&t->ns);
  bool made;

  if (len == 0 || len > TIER_BLOCK_MAX || id->key_len > TIER_KEY_MAX)
    return -EMSGSIZE;
  if (ram_make_budget(t, cost + ns_cost) < 0) {
    atomic_fetch_add(&t->refused, 1);
    return -ENOSPC;
  }
  struct ram_ns *ns = ram_ns_make(&t->ns, id->ns_id, &made);
  if (!ns) {
    ram_budget_give(t, cost + ns_cost);
    return -ENOMEM;
  }
  if (!made)
    ram_budget_give(t, ns_cost);
  uint64_t generation = atomic_load(&ns->generation);
  struct ram_entry *e = ram_make_room(t, size);
  if (!e) {
    ram_budget_give(t, cost);
    ram_ns_drop_ref(t, ns);
    atomic_fetch_add(&t->refused, 1);
    return -ENOSPC;
  }
  e->kept = flags & TIER_KEEP;
  e->state = RAM_FILLING;
  e->key_len = (uint16_t)id->key_len;
  e->len = len;
  e->hi = id->hash.hi;
  e->lo = id->hash.lo;
  e->ns = ns;
  e->generation = generation;
  if (id->key_len)
    memcpy(ram_key(e), id->key, id->key_len);
  if (e->kept)
    atomic_fetch_add(&t->kept, cost);
  atomic_store_explicit(&e->refs, 1, memory_order_release);
  *ret = (struct tier_slot){.data = ram_data(e), .len = len, .fill = e};
  return 0;
}

static int ram_commit(struct tier *tier, struct tier_slot *slot, uint32_t crc, struct tier_view *ret_view) {
  struct ram *t = ram_of(tier);
  struct ram_entry *e = slot->fill, *old = NULL;
  struct ram_shard *s = ram_shard(t, e->lo);
  struct block_id id = {
      .hash = {.hi = e->hi, .lo = e->lo}, .ns_id = e->ns->id, .key = ram_key(e), .key_len = e->key_len};

  *slot = (struct tier_slot){0};
  e->crc = crc;
  pthread_mutex_lock(&s->mtx);
  /* A drop raises the generation before it empties the shards: what it does not find here, it makes stale. */
  bool stale = atomic_load(&e->ns->generation) != e->generation;
  if (!stale) {
    old = ram_find_locked(s, &id);
    if (old)
      ram_unlink_locked(t, s, old);
    atomic_fetch_add_explicit(&t->now, 1, memory_order_relaxed);
    ram_link_locked(t, s, e);
    s->commits++;
    if (ret_view)
      atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
  } else {
    e->state = RAM_GONE;
    ram_ns_drop_ref(t, e->ns);
    e->ns = NULL;
  }
  uint64_t n_buckets = s->n_buckets;
  bool grow = s->blocks > n_buckets;
  if (ret_view)
    *ret_view = (struct tier_view){.data = ram_data(e), .len = e->len, .crc = crc, .pin = e};
  pthread_mutex_unlock(&s->mtx);
  if (old)
    ram_unref(t, old);
  if (stale && !ret_view)
    ram_unref(t, e);
  if (grow)
    ram_grow_buckets(t, s, n_buckets);
  return stale ? -ESTALE : 0;
}

static void ram_abort(struct tier *tier, struct tier_slot *slot) {
  struct ram *t = ram_of(tier);
  struct ram_entry *e = slot->fill;

  *slot = (struct tier_slot){0};
  ram_ns_drop_ref(t, e->ns);
  e->ns = NULL;
  ram_unref(t, e);
}

static bool ram_contains(struct tier *tier, const struct block_id *id) {
  struct ram *t = ram_of(tier);
  struct ram_shard *s = ram_shard(t, id->hash.lo);

  pthread_mutex_lock(&s->mtx);
  bool found = ram_find_locked(s, id) != NULL;
  pthread_mutex_unlock(&s->mtx);
  return found;
}

static int ram_remove(struct tier *tier, const struct block_id *id) {
  struct ram *t = ram_of(tier);
  struct ram_shard *s = ram_shard(t, id->hash.lo);

  pthread_mutex_lock(&s->mtx);
  struct ram_entry *e = ram_find_locked(s, id);
  if (e)
    ram_unlink_locked(t, s, e);
  pthread_mutex_unlock(&s->mtx);
  if (!e)
    return -ENOENT;
  ram_unref(t, e);
  return 0;
}

static uint64_t ram_drop(struct tier *tier, uint64_t ns_id,
                         bool (*match)(void *arg, const void *key, uint32_t key_len, bool kept), void *arg,
                         uint64_t *ret_blocks) {
  struct ram *t = ram_of(tier);
  struct ram_ns *ns = ram_ns_find(&t->ns, ns_id);
  uint64_t bytes = 0, blocks = 0;

  if (ns && !match)
    atomic_fetch_add(&ns->generation, 1);
  for (unsigned i = 0; ns && i < t->shards; i++) {
    struct ram_shard *s = &t->shard[i];
    struct ram_entry *gone = NULL;
    pthread_mutex_lock(&s->mtx);
    for (struct ram_entry *e = ns->blocks_of[i], *next; e; e = next) {
      next = e->ns_next;
      if (match && !match(arg, ram_key(e), e->key_len, e->kept))
        continue;
      bytes += e->len;
      blocks++;
      ram_unlink_locked(t, s, e);
      e->next = gone; /* nobody else looks at it any more */
      gone = e;
    }
    pthread_mutex_unlock(&s->mtx);
    for (struct ram_entry *e = gone, *next; e; e = next) {
      next = e->next;
      ram_unref(t, e);
    }
  }
  if (ns)
    ram_ns_drop_ref(t, ns);
  if (ret_blocks)
    *ret_blocks = blocks;
  return bytes;
}

static int ram_scan(struct tier *tier, uint64_t ns_id,
                    int (*each)(void *arg, const void *key, uint32_t key_len, const struct tier_view *v), void *arg) {
  struct ram *t = ram_of(tier);
  struct ram_ns *ns = ram_ns_find(&t->ns, ns_id);
  int r = 0;

  for (unsigned i = 0; ns && i < t->shards && r == 0; i++) {
    struct ram_shard *s = &t->shard[i];
    struct ram_entry **pinned = NULL;
    uint64_t n = 0;
    pthread_mutex_lock(&s->mtx);
    for (struct ram_entry *e = ns->blocks_of[i]; e; e = e->ns_next)
      n += e->kept;
    if (n && !(pinned = malloc(n * sizeof *pinned)))
      r = -ENOMEM;
    n = 0;
    for (struct ram_entry *e = pinned ? ns->blocks_of[i] : NULL; e; e = e->ns_next)
      if (e->kept) {
        atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
        pinned[n++] = e;
      }
    pthread_mutex_unlock(&s->mtx);
    for (uint64_t k = 0; k < n; k++) {
      struct ram_entry *e = pinned[k];
      struct tier_view v = {.data = ram_data(e), .len = e->len, .crc = e->crc, .pin = e};
      if (r == 0)
        r = each(arg, ram_key(e), e->key_len, &v);
      ram_unref(t, e);
    }
    free(pinned);
  }
  if (ns)
    ram_ns_drop_ref(t, ns);
  return r;
}

static void ram_usage(struct tier *tier, uint64_t ns_id, uint64_t *ret_bytes, uint64_t *ret_blocks) {
  struct ram *t = ram_of(tier);
  struct ram_ns *ns = ram_ns_find(&t->ns, ns_id);

  *ret_bytes = ns ? atomic_load(&ns->bytes) : 0;
  *ret_blocks = ns ? atomic_load(&ns->blocks) : 0;
  if (ns)
    ram_ns_drop_ref(t, ns);
}

static int ram_resize(struct tier *tier, uint64_t max_bytes) {
  return max_bytes < RAM_BYTES_MIN ? -EINVAL : ram_set_max(ram_of(tier), max_bytes);
}

static void ram_stats(struct tier *tier, struct tier_stats *ret) {
  struct ram *t = ram_of(tier);
  struct tier_stats st = {
      .used_bytes = atomic_load(&t->used),
      .max_bytes = atomic_load(&t->max),
      .kept_bytes = atomic_load(&t->kept),
      .refused = atomic_load(&t->refused),
  };

  for (unsigned i = 0; i < t->shards; i++) {
    struct ram_shard *s = &t->shard[i];
    pthread_mutex_lock(&s->mtx);
    st.blocks += s->blocks;
    st.hits += s->hits;
    st.misses += s->misses;
    st.commits += s->commits;
    st.evictions += s->evictions;
    pthread_mutex_unlock(&s->mtx);
  }
  *ret = st;
}

static void ram_free(struct tier *tier) {
  struct ram *t = ram_of(tier);

  for (unsigned i = 0; i < t->shards; i++) {
    struct ram_shard *s = &t->shard[i];
    for (uint64_t b = 0; s->buckets && b < s->n_buckets; b++)
      while (s->buckets[b]) {
        struct ram_entry *e = s->buckets[b];
        ram_unlink_locked(t, s, e);
        ram_unref(t, e);
      }
    free(s->buckets);
    pthread_mutex_destroy(&s->mtx);
  }
  ram_ns_fini(&t->ns);
  arena_free(&t->arena);
  pthread_mutex_destroy(&t->room_mtx);
  free(t);
}

static const struct tier_ops ram_ops = {
    .kind = "ram",
    .get = ram_get,
    .release = ram_release,
    .reserve = ram_reserve,
    .commit = ram_commit,
    .abort = ram_abort,
    .contains = ram_contains,
    .remove = ram_remove,
    .drop = ram_drop,
    .scan = ram_scan,
    .usage = ram_usage,
    .resize = ram_resize,
    .stats = ram_stats,
    .free = ram_free,
};

int tier_ram_new_shards(struct tier **ret, uint64_t max_bytes, unsigned shards, struct err *e) {
  if (max_bytes < RAM_BYTES_MIN)
    return err_set(e, -EINVAL, "RAM tier of %llu bytes is too small: give it at least %llu (16 MiB)",
                   (unsigned long long)max_bytes, (unsigned long long)RAM_BYTES_MIN);
  if (shards == 0 || shards > RAM_SHARDS_MAX || (shards & (shards - 1)))
    return err_set(e, -EINVAL, "RAM tier with %u shards: must be a power of two up to %u", shards, RAM_SHARDS_MAX);
  size_t size = (sizeof(struct ram) + shards * sizeof(struct ram_shard) + 63) & ~(size_t)63;
  struct ram *t = aligned_alloc(64, size);
  if (!t)
    return err_set(e, -ENOMEM, "out of memory");
  memset(t, 0, size);
  t->base.ops = &ram_ops;
  t->shards = shards;
  atomic_store(&t->max, max_bytes);
  pthread_mutex_init(&t->room_mtx, NULL);
  ram_ns_init(&t->ns, shards);
  bool ok = true;
  for (unsigned i = 0; i < shards; i++) {
    struct ram_shard *s = &t->shard[i];
    pthread_mutex_init(&s->mtx, NULL);
    s->n_buckets = BUCKETS_MIN;
    s->buckets = calloc(BUCKETS_MIN, sizeof *s->buckets);
    ok = ok && s->buckets;
    atomic_store(&t->age[i], LRU_EMPTY);
  }
  atomic_store(&t->used, shards * BUCKETS_MIN * sizeof(struct ram_entry *));
  /* Room to be resized to twice the size, or to whatever the machine has: addresses cost nothing. */
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  uint64_t machine = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
  int r = ok ? arena_new(&t->arena, max_bytes, max_u64(machine, max_bytes * 2)) : -ENOMEM;
  if (r < 0) {
    ram_free(&t->base);
    return err_set(e, r, "RAM tier of %llu bytes: no address space for it (ulimit -v, vm.overcommit_memory?)",
                   (unsigned long long)max_bytes);
  }
  *ret = &t->base;
  return 0;
}

int tier_ram_new(struct tier **ret, uint64_t max_bytes, struct err *e) {
  return tier_ram_new_shards(ret, max_bytes, RAM_SHARDS_MAX, e);
}
