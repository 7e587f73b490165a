/* hash.h - the hash that places keys, and the seedless mixing that everything deterministic uses.
 *
 * Placement must give the same answer on any machine, so inputs are serialised little-endian byte by byte and the
 * function is XXH3 (xxHash 0.8: a stable, documented format) with seed 0. */
#ifndef FB_COMMON_HASH_H
#define FB_COMMON_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash128 {
  uint64_t hi, lo;
};

struct hash128 hash_bytes128(const void *data, size_t len);
uint64_t hash_bytes64(const void *data, size_t len);

/* splitmix64's finaliser (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
 * a cheap bijection on 64 bits. */
static inline uint64_t hash_mix64(uint64_t x) {
  x ^= x >> 30;
  x *= UINT64_C(0xbf58476d1ce4e5b9);
  x ^= x >> 27;
  x *= UINT64_C(0x94d049bb133111eb);
  x ^= x >> 31;
  return x;
}

/* Placement hash of one chunk: XXH3-128 over
 *   le64 namespace id | le64 chunk number | le16 version length | version | key
 * `version` is the namespace version (snapshot id or version string, may be empty), at most 255 bytes; `key` at most
 * HASH_KEY_MAX bytes. Longer input is a bug of the caller (asserted): requests are checked before they get here. */
#define HASH_KEY_MAX 1024
#define HASH_VERSION_MAX 255
struct hash128 hash_chunk(uint64_t ns_id, const char *version, size_t version_len, const char *key, size_t key_len,
                          uint64_t chunk);

#endif
