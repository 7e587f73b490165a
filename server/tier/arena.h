/* arena.h - one reserved stretch of address space, cut into chunks of any size: where the RAM tier's bytes live.
 *
 * A cache frees and allocates at its limit all day, so what matters is that memory once touched is used again (a first
 * touch costs 0.5..3 s per GiB) and that the process never outgrows the budget by fragmentation: glibc's malloc, told
 * to keep its memory, came to 8 times the budget on four threads that shift between small and large blocks. So the
 * arena is exactly as large as the budget and gives nothing back: two-level segregated free lists (Masmano, Ripoll,
 * Crespo, Real, "TLSF: A New Dynamic Memory Allocator for Real-Time Systems", ECRTS 2004) find a chunk in constant
 * time, neighbours are merged at once, and when free bytes are there but not in one piece, arena_span names the
 * neighbours whose eviction would make one. Thread-safe; its lock is a leaf. */
#ifndef FB_TIER_ARENA_H
#define FB_TIER_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARENA_GRAIN 64u        /* chunk sizes and addresses are multiples of it */
#define ARENA_CHUNK_HEADER 16u /* bytes before each chunk's memory, so that memory + 48 is 64-byte aligned */
#define ARENA_ZEROED 64u       /* first bytes of a chunk's memory that arena_alloc zeroes under the lock */

struct arena;

/* An arena of `bytes`, able to grow to `reserve`. -EINVAL (0 bytes), -ENOMEM. */
int arena_new(struct arena **ret, uint64_t bytes, uint64_t reserve);
/* Nothing may be allocated. NULLs it; accepts NULL. */
void arena_free(struct arena **a);

/* Bytes of the arena that an allocation of `size` takes. */
static inline uint64_t arena_cost(uint64_t size) {
  return (size + ARENA_CHUNK_HEADER + ARENA_GRAIN - 1) & ~(uint64_t)(ARENA_GRAIN - 1);
}
/* `size` bytes, or NULL: not in one piece. */
void *arena_alloc(struct arena *a, uint64_t size);
void arena_release(struct arena *a, void *p);

/* Looks for a run of neighbours of `p` (which is allocated) that, freed together with it, makes room for `size` bytes;
 * a neighbour can go if it is free or can_go() says so. Calls take(), unless it is NULL, for each allocated one other
 * than p and returns true, or calls nothing and returns false. Both run under the arena's lock, also for a chunk whose
 * owner has not written to it yet: its first ARENA_ZEROED bytes are zero then. */
bool arena_span(struct arena *a, void *p, uint64_t size, bool (*can_go)(void *p), void (*take)(void *arg, void *p),
                void *arg);

/* Sets the size that is wanted. Growing is done at once: 0, or -ENOMEM beyond what was reserved. Shrinking gives back
 * free memory from the end; what is allocated stays in the way until it goes: then arena_trim. */
int arena_resize(struct arena *a, uint64_t bytes);
/* Gives back what can be and returns true when the arena has its wanted size; otherwise calls take() under the lock for
 * the allocated chunk at the end. */
bool arena_trim(struct arena *a, void (*take)(void *arg, void *p), void *arg);

#endif
