/* ram.h - the RAM tier with its knobs out, for tests and benches; everybody else has tier_ram_new. */
#ifndef FB_TIER_RAM_H
#define FB_TIER_RAM_H

#include "server/tier/ram_ns.h"
#include "server/tier/tier.h"

#define RAM_BYTES_MIN (UINT64_C(16) << 20)

/* shards: a power of two, 1..RAM_SHARDS_MAX. With one shard the eviction order is exactly LRU as long as memory is not
 * fragmented (blocks of one size). */
int tier_ram_new_shards(struct tier **ret, uint64_t max_bytes, unsigned shards, struct err *e);

#endif
