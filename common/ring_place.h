/* ring_place.h - fills the owner tables of a ring. Private to ring.c. */
#ifndef FB_COMMON_RING_PLACE_H
#define FB_COMMON_RING_PLACE_H

#include <stdint.h>

struct ring_place_peer {
  const char *name;
  uint32_t weight;
  uint16_t domain; /* 0..domains-1 */
};

/* The most slots of one rank that a peer of `weight` out of `total` may own: 1.10 x its fair share, and never less than
 * the fair share rounded up, so that all peers' caps add up to at least the number of slots. */
uint32_t ring_place_cap(uint32_t slots, uint32_t weight, uint64_t total);

/* Peers stand in the order of their indexes. owners[rank * 2^bits + slot] and loads[rank * n + peer] are written for
 * rank < min(ranks, n). Returns 0 or -ENOMEM (the tables then hold rubbish). */
int ring_place(const struct ring_place_peer *peers, unsigned n, unsigned domains, unsigned bits, unsigned ranks,
               uint16_t *owners, uint32_t *loads);

#endif
