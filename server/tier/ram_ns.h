/* ram_ns.h - what the RAM tier keeps per namespace: counters, a generation for drops, and the lists of its blocks.
 *
 * A record lives while something refers to it (a block, a fill, a call), so there are never more of them than blocks
 * and calls: namespaces that come and go leave nothing. The map's lock is a leaf. */
#ifndef FB_TIER_RAM_NS_H
#define FB_TIER_RAM_NS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define RAM_SHARDS_MAX 64u
#define RAM_NS_BUCKETS 1024u

struct ram_entry;

struct ram_ns {
  uint64_t id;
  struct ram_ns *next;                 /* under the map's lock */
  uint64_t refs;                       /* under the map's lock */
  atomic_uint_least64_t bytes, blocks; /* visible data */
  atomic_uint_least64_t generation;    /* a fill that began before the last whole drop has an older one */
  struct ram_entry *blocks_of[];       /* visible blocks, one list per shard, under that shard's lock */
};

struct ram_ns_map {
  pthread_mutex_t mtx;
  unsigned shards;
  struct ram_ns *buckets[RAM_NS_BUCKETS];
};

void ram_ns_init(struct ram_ns_map *m, unsigned shards);
void ram_ns_fini(struct ram_ns_map *m);
/* The namespace's record with a reference more; NULL if there is none. */
struct ram_ns *ram_ns_find(struct ram_ns_map *m, uint64_t id);
/* The same, made if needed and then *ret_made; NULL when out of memory. */
struct ram_ns *ram_ns_make(struct ram_ns_map *m, uint64_t id, bool *ret_made);
/* True when that was the last reference and the record is gone. */
bool ram_ns_unref(struct ram_ns_map *m, struct ram_ns *ns);
/* Bytes of a record. */
static inline uint64_t ram_ns_cost(const struct ram_ns_map *m) {
  return sizeof(struct ram_ns) + m->shards * sizeof(struct ram_entry *);
}

#endif
