/* ram_impl.h - the RAM tier's insides, shared by its files: ram.c (operations), ram_index.c (entries and where they
 * hang), ram_room.c (the budget and eviction).
 *
 * A block is one chunk of the arena: a struct ram_entry, the data (64-byte aligned), the key. Its references are one
 * for the table while it is visible, one per pin, and one for the call that evicts it; before its commit, one for the
 * fill. Whoever drops the last frees the chunk. So a pin outlives eviction, drop and replacement, and costs one atomic
 * decrement.
 *
 * Locks: room_mtx, then one shard's, then the arena's and the namespace map's (leaves). */
#ifndef FB_TIER_RAM_IMPL_H
#define FB_TIER_RAM_IMPL_H

#include "server/tier/arena.h"
#include "server/tier/lru.h"
#include "server/tier/ram.h"

enum { RAM_FILLING, RAM_VISIBLE, RAM_GONE }; /* state */

struct ram_entry {
  atomic_uint refs;   /* in the first ARENA_ZEROED bytes: arena_span looks at chunks that are not written yet */
  bool kept;          /* constant */
  atomic_uchar state; /* written under the shard's lock once visible, by the filler before */
  uint16_t key_len;   /* these are constant */
  uint32_t len;
  uint32_t crc; /* constant once visible */
  uint64_t hi, lo;
  struct ram_ns *ns;      /* referenced until the entry is RAM_GONE (then NULL) */
  uint64_t generation;    /* of ns when the fill began */
  struct ram_entry *next; /* in its bucket; under the shard's lock, as the next four */
  struct ram_entry *ns_next, **ns_link;
  struct lru_node lru; /* not of kept ones */
};
#define RAM_DATA_OFFSET 112u /* from the entry, that begins 16 bytes into its chunk: data is 64-byte aligned */
_Static_assert(sizeof(struct ram_entry) <= RAM_DATA_OFFSET, "the entry runs into its data");
_Static_assert((RAM_DATA_OFFSET + ARENA_CHUNK_HEADER) % 64 == 0, "data is not aligned");

struct ram_shard {
  pthread_mutex_t mtx;
  struct ram_entry **buckets; /* from here on: under mtx */
  uint64_t n_buckets;         /* a power of two */
  uint64_t blocks;
  struct lru lru;
  uint64_t hits, misses, commits, evictions;
} __attribute__((aligned(64)));

struct ram {
  struct tier base;
  unsigned shards; /* constant, as is arena */
  struct arena *arena;
  atomic_uint_least64_t now;                 /* commits so far: the clock of the eviction order */
  atomic_uint_least64_t blocks;              /* visible */
  atomic_uint_least64_t age[RAM_SHARDS_MAX]; /* lru_age of each shard, written under its lock, read without */
  /* What every fill writes, apart from what every hit reads. */
  atomic_uint_least64_t used __attribute__((aligned(64)));
  atomic_uint_least64_t max, kept, refused;
  struct ram_ns_map ns;
  pthread_mutex_t room_mtx; /* held by who evicts */
  struct ram_shard shard[];
};

static inline uint8_t *ram_data(struct ram_entry *e) { return (uint8_t *)e + RAM_DATA_OFFSET; }
static inline uint8_t *ram_key(struct ram_entry *e) { return ram_data(e) + e->len; }
static inline uint64_t ram_entry_size(uint32_t len, uint32_t key_len) {
  return (uint64_t)RAM_DATA_OFFSET + len + key_len;
}

/* ram_index.c. "_locked": under the shard's lock. */

/* The shard of a hash. The low half finds a block: the high half has placed it on this peer, so here it is anything but
 * uniform. */
static inline struct ram_shard *ram_shard(struct ram *t, uint64_t lo) { return &t->shard[lo & (t->shards - 1)]; }
/* Any thread, any lock but the leaves. */
void ram_unref(struct ram *t, struct ram_entry *e);
void ram_ns_drop_ref(struct ram *t, struct ram_ns *ns);
struct ram_entry *ram_find_locked(struct ram_shard *s, const struct block_id *id);
/* Counts a hit's use for the eviction order. */
void ram_use_locked(struct ram *t, struct ram_shard *s, struct ram_entry *e);
/* Makes the entry visible; the caller's reference becomes the table's. */
void ram_link_locked(struct ram *t, struct ram_shard *s, struct ram_entry *e);
/* Makes it invisible. The table's reference becomes the caller's. */
void ram_unlink_locked(struct ram *t, struct ram_shard *s, struct ram_entry *e);
/* Doubles the bucket array of a shard that had n_old buckets. Not being able to only makes chains longer. */
void ram_grow_buckets(struct ram *t, struct ram_shard *s, uint64_t n_old);

/* ram_room.c. Not under any lock. */

void ram_budget_give(struct ram *t, uint64_t n);
/* Counts n bytes as used, evicting for them. 0 or -ENOSPC. */
int ram_make_budget(struct ram *t, uint64_t n);
/* Memory for which the budget was taken, evicting until there is a piece that is large enough. NULL: no room. */
void *ram_make_room(struct ram *t, uint64_t size);
/* tier_resize. */
int ram_set_max(struct ram *t, uint64_t max_bytes);

#endif
