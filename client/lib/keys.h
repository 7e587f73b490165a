/* keys.h - how a key's bytes map to chunks, and so to owners: the one place that client and server share. */
#ifndef FB_CLIENT_KEYS_H
#define FB_CLIENT_KEYS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/hash.h"

#define CHUNK_BYTES (UINT64_C(16) << 20)  /* unit of placement: a sequential reader stays on one peer for so long */
#define GET_MAX_BYTES (UINT32_C(4) << 20) /* of one Get, and of one item of a MultiGet */
#define PUT_PIECE_BYTES (UINT32_C(1) << 20)
#define MESSAGE_MAX_BYTES ((size_t)GET_MAX_BYTES + (64u << 10))
#define MULTI_GET_MAX 1024u

static inline uint64_t chunk_of(uint64_t offset) { return offset / CHUNK_BYTES; }

/* Placement hash of the chunk at `offset` of a dataset's file. Values of derived namespaces stay whole: whatever the
 * offset, they live where chunk 0 does. Attributes (stat) live with chunk 0 too. */
static inline struct hash128 place_key(uint64_t ns_id, const char *version, const char *key, bool whole,
                                       uint64_t offset) {
  return hash_chunk(ns_id, version, strlen(version), key, strlen(key), whole ? 0 : chunk_of(offset));
}

/* The slot owner of a namespace name orders its creates and drops. */
static inline struct hash128 place_ns(const char *name) { return hash_chunk(0, "", 0, name, strlen(name), 0); }

#endif
