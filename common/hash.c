/* hash.c - XXH3 behind hash.h; the only user of xxHash. */
#include "common/hash.h"

#include <assert.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/bytes.h"

struct hash128 hash_bytes128(const void *data, size_t len) {
  XXH128_hash_t h = XXH3_128bits(data, len);
  return (struct hash128){.hi = h.high64, .lo = h.low64};
}

uint64_t hash_bytes64(const void *data, size_t len) { return XXH3_64bits(data, len); }

struct hash128 hash_chunk(uint64_t ns_id, const char *version, size_t version_len, const char *key, size_t key_len,
                          uint64_t chunk) {
  uint8_t buf[18 + HASH_VERSION_MAX + HASH_KEY_MAX];

  assert(version_len <= HASH_VERSION_MAX && key_len <= HASH_KEY_MAX);
  put_le64(buf, ns_id);
  put_le64(buf + 8, chunk);
  put_le16(buf + 16, (uint16_t)version_len);
  if (version_len)
    memcpy(buf + 18, version, version_len);
  if (key_len)
    memcpy(buf + 18 + version_len, key, key_len);
  return hash_bytes128(buf, 18 + version_len + key_len);
}
