/* tier.h - a place that holds blocks. Thread-safe unless stated.
 *
 * A block's key is opaque bytes, compared in full on every hit; its hash only finds it. A fill reserves memory first
 * and lets the origin read straight into it, so a byte is written once between the origin and the socket. A hit is
 * pinned, not copied: the bytes stay where they are, unchanged, until the pin goes, whatever is evicted or dropped
 * meanwhile. Memory is counted until it is really free, so pins and fills are inside the budget.
 *
 * The vtable is what the RAM tier implements now, the NVMe tier later, and chains and fault wrappers too. */
#ifndef FB_TIER_TIER_H
#define FB_TIER_TIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/hash.h"

#define TIER_KEY_MAX 1536u        /* bytes of a block's key */
#define TIER_BLOCK_MAX (4u << 20) /* bytes of a block */

/* Names a block. The bytes are the caller's; a tier copies what it keeps. */
struct block_id {
  struct hash128 hash; /* of key[0..key_len) */
  uint64_t ns_id;      /* for dropping and for counting by namespace */
  const void *key;
  uint32_t key_len;
};

/* A pinned resident block. */
struct tier_view {
  const void *data;
  uint32_t len;
  uint32_t crc; /* CRC32C of data[0..len), as it was when the block was filled */
  void *pin;    /* for tier_release */
};

/* Memory reserved for a block that is being filled: write data[0..len), then commit or abort. */
struct tier_slot {
  void *data;
  uint32_t len;
  void *fill;
};

enum {
  TIER_KEEP = 1, /* never evicted: acknowledged bytes that are nowhere else. Only a drop or tier_remove frees it. */
};

struct tier_stats {
  uint64_t used_bytes, max_bytes; /* now: data, keys and bookkeeping; pinned and half-filled ones included */
  uint64_t kept_bytes;            /* of these, TIER_KEEP */
  uint64_t blocks;                /* visible now */
  uint64_t hits, misses, commits, evictions, refused; /* totals; refused: reserve found no room */
};

struct tier;
struct tier_ops {
  const char *kind;
  int (*get)(struct tier *t, const struct block_id *id, struct tier_view *ret);
  void (*release)(struct tier *t, struct tier_view *v);
  int (*reserve)(struct tier *t, const struct block_id *id, uint32_t len, unsigned flags, struct tier_slot *ret);
  int (*commit)(struct tier *t, struct tier_slot *s, uint32_t crc, struct tier_view *ret_view);
  void (*abort)(struct tier *t, struct tier_slot *s);
  bool (*contains)(struct tier *t, const struct block_id *id);
  int (*remove)(struct tier *t, const struct block_id *id);
  uint64_t (*drop)(struct tier *t, uint64_t ns_id,
                   bool (*match)(void *arg, const void *key, uint32_t key_len, bool kept), void *arg,
                   uint64_t *ret_blocks);
  int (*scan)(struct tier *t, uint64_t ns_id,
              int (*each)(void *arg, const void *key, uint32_t key_len, const struct tier_view *v), void *arg);
  void (*usage)(struct tier *t, uint64_t ns_id, uint64_t *ret_bytes, uint64_t *ret_blocks);
  int (*resize)(struct tier *t, uint64_t max_bytes);
  void (*stats)(struct tier *t, struct tier_stats *ret);
  void (*free)(struct tier *t);
};
struct tier {
  const struct tier_ops *ops; /* first member of every implementation */
};

/* Pins a resident block. 0, or -ENOENT: not here (normal: fill it). */
static inline int tier_get(struct tier *t, const struct block_id *id, struct tier_view *ret) {
  return t->ops->get(t, id, ret);
}
/* Ends a pin. May be called from any thread and from blob release functions; takes only leaf locks. */
static inline void tier_release(struct tier *t, struct tier_view *v) { t->ops->release(t, v); }

/* Reserves memory for a block of `len` bytes, evicting others as the policy says. 0, or
 *   -ENOSPC   what is pinned, kept or being filled leaves no room (normal under pressure: serve without caching)
 *   -EMSGSIZE len is 0 or over TIER_BLOCK_MAX, or the key over TIER_KEY_MAX
 *   -ENOMEM */
static inline int tier_reserve(struct tier *t, const struct block_id *id, uint32_t len, unsigned flags,
                               struct tier_slot *ret) {
  return t->ops->reserve(t, id, len, flags, ret);
}
/* Makes the block visible with the CRC32C of its bytes, replacing one of the same key; the slot is used up. ret_view
 * (may be NULL) is a pin on it. 0 always, but for a namespace dropped since the reservation: -ESTALE, the block is only
 * in ret_view and goes with it. */
static inline int tier_commit(struct tier *t, struct tier_slot *s, uint32_t crc, struct tier_view *ret_view) {
  return t->ops->commit(t, s, crc, ret_view);
}
static inline void tier_abort(struct tier *t, struct tier_slot *s) { t->ops->abort(t, s); }
/* Like a get without a pin, a count or a touch of the eviction order. */
static inline bool tier_contains(struct tier *t, const struct block_id *id) { return t->ops->contains(t, id); }
static inline int tier_remove(struct tier *t, const struct block_id *id) { return t->ops->remove(t, id); }
/* Forgets the namespace's blocks for which match (NULL = all; called under a leaf lock: must be quick) says yes.
 * Returns the bytes of data that were forgotten; ret_blocks may be NULL. A drop with match == NULL also makes fills of
 * that ns_id in flight fail their commit. */
static inline uint64_t tier_drop(struct tier *t, uint64_t ns_id,
                                 bool (*match)(void *arg, const void *key, uint32_t key_len, bool kept), void *arg,
                                 uint64_t *ret_blocks) {
  return t->ops->drop(t, ns_id, match, arg, ret_blocks);
}
/* Calls each() for every visible TIER_KEEP block of the namespace, with the block pinned and no lock held. Stops when
 * each() returns non-zero and returns that. Blocks that come or go meanwhile may be missed. */
static inline int tier_scan(struct tier *t, uint64_t ns_id,
                            int (*each)(void *arg, const void *key, uint32_t key_len, const struct tier_view *v),
                            void *arg) {
  return t->ops->scan(t, ns_id, each, arg);
}
/* Visible blocks of a namespace and the bytes of their data. */
static inline void tier_usage(struct tier *t, uint64_t ns_id, uint64_t *ret_bytes, uint64_t *ret_blocks) {
  t->ops->usage(t, ns_id, ret_bytes, ret_blocks);
}
/* New budget; evicts down to it as far as pins and kept blocks allow. 0, -EINVAL (too small), or -ENOMEM: beyond what
 * the tier could reserve when it was made (RAM: twice its size then, or the machine's memory). */
static inline int tier_resize(struct tier *t, uint64_t max_bytes) { return t->ops->resize(t, max_bytes); }
static inline void tier_stats(struct tier *t, struct tier_stats *ret) { t->ops->stats(t, ret); }
/* All views and slots must be gone. NULLs it; accepts NULL. */
static inline void tier_free(struct tier **t) {
  if (*t)
    (*t)->ops->free(*t);
  *t = NULL;
}

/* ram.c: blocks in RAM under a byte budget, sharded, evicted least recently used first. max_bytes >= 16 MiB. 0,
 * -EINVAL, -ENOMEM. */
int tier_ram_new(struct tier **ret, uint64_t max_bytes, struct err *e);

#endif
