/* ring_points.c - keyed permutations and integer logarithms; see ring_points.h. */
#include "common/ring_points.h"

/* Inverse of an odd number modulo 2^32. x * x = 1 (mod 8) for odd x, so x is right in 3 bits; each Newton step doubles
 * them: 3, 6, 12, 24, 48. */
static uint32_t inverse(uint32_t odd) {
  uint32_t x = odd;

  for (int i = 0; i < 4; i++)
    x *= 2 - odd * x;
  return x;
}

void ring_perm_init(struct ring_perm *p, const char *name, size_t name_len, unsigned bits) {
  struct hash128 h = hash_bytes128(name, name_len);

  p->mask = (1u << bits) - 1;
  p->shift = (bits + 1) / 2;
  for (unsigned i = 0; i < RING_PERM_ROUNDS; i++) {
    uint64_t z = hash_mix64(h.hi + (i + 1) * UINT64_C(0x9e3779b97f4a7c15));
    p->mul[i] = ((uint32_t)(z >> 32) | 1) & p->mask;
    p->add[i] = (uint32_t)z & p->mask;
    p->inv[i] = inverse(p->mul[i]);
  }
  p->tie_key = h.lo;
}

/* x is m scaled into [1, 2) with 63 fraction bits. Squaring doubles its logarithm: when the square reaches 2, the next
 * bit of the logarithm is 1 and the square is halved. Integers only, so any machine rounds alike. */
uint64_t ring_log2(uint32_t m) {
  unsigned whole = 31 - (unsigned)__builtin_clz(m);
  uint64_t x = (uint64_t)m << (63 - whole), log = whole;

  for (int i = 0; i < RING_LOG_BITS; i++) {
    unsigned __int128 square = (unsigned __int128)x * x; /* 126 fraction bits, in [1, 4) */
    unsigned two = (unsigned)(square >> 127);
    x = (uint64_t)(square >> (63 + two));
    log = log << 1 | two;
  }
  return log;
}
