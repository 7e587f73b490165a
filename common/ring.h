/* ring.h - who owns which part of the hash space (DESIGN section 3).
 *
 * The 64-bit space of hash128.hi is cut into S equal arcs, the slots. Every peer has S virtual points on them: a keyed
 * permutation of the slots, its k-th point at "distance" -log(1 - (k + 1/2) / S) / weight. Owners are found rank after
 * rank: all peers' points in order of distance (ties: by a hash of peer and slot) offer their slot to their peer, who
 * takes it if the slot has no owner of this rank yet and
 *   - the peer holds fewer slots of that rank than its cap, 1.10 x its fair share (bounded loads: Mirrokni, Thorup,
 *     Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018), and
 *   - its failure domain does not own the slot at an earlier rank, while there are domains left.
 * At rank 0 the cap is hard. At later ranks lopsided domains or weights may leave slots over; then the caps double for
 * those until every slot has its owners. Being greedy by one global order a rank is the stable matching of slots and
 * peers, so it depends on the member list alone and moves little when that changes. Permutations instead of independent
 * draws halve the variance of the loads (each peer has exactly one point of each k), so few peers ever reach their cap:
 * that is what keeps moves near ideal. No floating point: the answer is the same on every machine. docs/placement.md
 * has all steps, tests/golden/ the vectors to check another implementation with.
 *
 * Immutable after ring_new: any number of threads may read. */
#ifndef FB_COMMON_RING_H
#define FB_COMMON_RING_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/hash.h"

#define RING_SLOTS_DEFAULT 65536u
#define RING_SLOTS_MIN 1024u
#define RING_SLOTS_MAX (1u << 20)
#define RING_RANKS 3u /* owners kept per slot: fail-over order, and the replicas' upper bound for now */
#define RING_MEMBERS_MAX 16384u
#define RING_WEIGHT_MAX 65535u

/* One peer as the ring sees it. Strings are the caller's; ring_new copies them. */
struct ring_member {
  const char *name;    /* identity: 1..63 of [A-Za-z0-9._-] */
  const char *address; /* host:port, carried along and part of the hash, without effect on placement */
  uint32_t weight;     /* capacity, 1..RING_WEIGHT_MAX */
  const char *domain;  /* failure domain, up to 63 bytes; NULL or "" = one of its own */
};

struct ring;

/* Builds the ring. The order of `members` does not matter. Errors, all with a text:
 *   -FB_EPEERSEMPTY  n == 0
 *   -FB_EPEERSDUP    a name or an address appears twice
 *   -EINVAL          a name, address (1..255 bytes), weight, domain or slot count out of its range (slots: a power of
 *                    two); n too large; S < 16 n
 *   -ENOMEM */
int ring_new(struct ring **ret, const struct ring_member *members, unsigned n, uint32_t slots, uint64_t epoch,
             struct err *e);
struct ring *ring_ref(struct ring *r);
void ring_unref(struct ring **r); /* NULLs it; accepts NULL */

uint64_t ring_epoch(const struct ring *r);
uint32_t ring_slots(const struct ring *r);
unsigned ring_size(const struct ring *r); /* members */
/* Members are numbered by name (memcmp order). Valid while the ring is. */
const struct ring_member *ring_member(const struct ring *r, unsigned index);
int ring_find(const struct ring *r, const char *name); /* index, or -ENOENT */
/* Hash of slots, and of every member's name, address, weight and domain: equal rings have equal hashes. */
struct hash128 ring_hash(const struct ring *r);
size_t ring_bytes(const struct ring *r); /* memory held */

uint32_t ring_slot(const struct ring *r, uint64_t hash_hi);
/* Index of the first owner of a slot: one array look-up. */
unsigned ring_owner(const struct ring *r, uint32_t slot);
/* All owners of a slot, best first: min(RING_RANKS, members) of them, distinct. Returns how many. */
unsigned ring_owners(const struct ring *r, uint32_t slot, unsigned ret[RING_RANKS]);
/* Slots that `index` owns at `rank`. */
uint32_t ring_load(const struct ring *r, unsigned index, unsigned rank);

#endif
