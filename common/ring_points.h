/* ring_points.h - the virtual points of the ring: which slot a peer's k-th point falls on, and how far out it lies.
 * Private to the ring (ring.c, ring_place.c and their tests). docs/placement.md is the specification.
 *
 * Slots. A peer visits all 2^bits slots in an order of its own, a keyed bijection of k: four rounds of
 * x = x * odd + add (mod 2^bits), x ^= x >> ceil(bits / 2). Every step is invertible on `bits` bits, and the shift
 * is its own inverse because it moves by at least half the width.
 *
 * Distances. -log2(1 - (k + 1/2) / S) / weight: the k-th of S evenly spaced quantiles of an exponential distribution
 * whose rate is the weight, so the nearest of all peers' points on a slot belongs to a peer with the probability
 * weight / total. In base 2 because only the order counts. */
#ifndef FB_COMMON_RING_POINTS_H
#define FB_COMMON_RING_POINTS_H

#include <stddef.h>
#include <stdint.h>

#include "common/hash.h"

#define RING_PERM_ROUNDS 4
#define RING_LOG_BITS 48 /* fraction bits of a logarithm */

struct ring_perm {
  uint32_t mask;  /* 2^bits - 1 */
  uint32_t shift; /* ceil(bits / 2) */
  uint32_t mul[RING_PERM_ROUNDS], add[RING_PERM_ROUNDS], inv[RING_PERM_ROUNDS];
  uint64_t tie_key;
};

/* The points of the peer called `name`; bits in 1..31. */
void ring_perm_init(struct ring_perm *p, const char *name, size_t name_len, unsigned bits);

/* Slot of point k, and the k whose point is on a slot. */
static inline uint32_t ring_perm_slot(const struct ring_perm *p, uint32_t k) {
  for (int i = 0; i < RING_PERM_ROUNDS; i++) {
    k = (k * p->mul[i] + p->add[i]) & p->mask;
    k ^= k >> p->shift;
  }
  return k;
}
static inline uint32_t ring_perm_index(const struct ring_perm *p, uint32_t slot) {
  for (int i = RING_PERM_ROUNDS - 1; i >= 0; i--) {
    slot ^= slot >> p->shift;
    slot = ((slot - p->add[i]) * p->inv[i]) & p->mask;
  }
  return slot;
}

/* Orders points of equal distance: without it a tie would always favour the same names. */
static inline uint64_t ring_tie(const struct ring_perm *p, uint32_t slot) { return hash_mix64(p->tie_key + slot); }

/* log2(m), m >= 1, in 2^-RING_LOG_BITS, rounded down bit by bit (see the .c). */
uint64_t ring_log2(uint32_t m);

/* -log2(1 - (k + 1/2) / 2^bits) in 2^-RING_LOG_BITS: positive and never falling as k grows. */
static inline uint64_t ring_reach(uint32_t k, unsigned bits) {
  return ((uint64_t)(bits + 1) << RING_LOG_BITS) - ring_log2(2 * ((1u << bits) - k) - 1);
}

/* Reach divided by weight; ten more bits before the division keep heavy peers' points apart. */
#define RING_WEIGH_BITS 10
static inline uint64_t ring_distance(uint64_t reach, uint32_t weight) { return (reach << RING_WEIGH_BITS) / weight; }

#endif
