/* ring_place.c - which peer owns which slot at which rank: a greedy walk over all virtual points, nearest first.
 *
 * Rank after rank: every point in the order (distance, tie, peer) offers its slot to its peer, who takes it if the slot
 * has no owner of this rank yet, the peer is below its cap for the rank, and the peer's group is not among the slot's
 * owners of earlier ranks. A group is a failure domain while there are more domains than earlier ranks, and the peer
 * alone after that. When every point has been offered and slots are left over (possible from the second rank on, where
 * groups may be lopsided), the caps double and all points are offered again for those slots.
 *
 * That is the whole meaning. The rest of this file is how not to look at n x S points: they are drawn peer by peer in
 * batches of growing distance, points of slots that are taken are dropped before the sort, peers that can take nothing
 * more are dropped for good, and once few slots are open their points are computed directly, backwards from the slot.
 * None of that changes an answer: a slot that is taken, a peer at its cap and a group that owns the slot stay so for
 * the rest of the pass, hence a dropped point would have been refused. */
#include "common/ring_place.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/ring_points.h"

struct point {
  uint64_t distance, tie;
  uint32_t slot;
  uint16_t peer;
};

/* Where a point stands in a batch: by `key`, the leading bits of distance and tie, and exactly where keys are equal. */
#define ORDER_DIGIT_BITS 11
#define ORDER_DISTANCE_BITS (2 * ORDER_DIGIT_BITS)
#define ORDER_BITS (4 * ORDER_DIGIT_BITS)
struct order {
  uint64_t key;
  uint32_t point;
};

struct place {
  const struct ring_place_peer *peers;
  unsigned n, domains, bits;
  uint32_t slots;
  uint16_t *owners; /* the result, all ranks */
  uint32_t *loads;

  struct ring_perm *perms; /* per peer */
  uint64_t *reaches;       /* ring_reach of each k, 0 = not computed yet: most are never asked for */

  /* one rank */
  unsigned rank;
  uint32_t *load;    /* this rank's row of loads */
  uint64_t *caps;    /* per peer */
  uint16_t *groups;  /* per peer */
  uint32_t *blocked; /* per group: open slots that it owns at an earlier rank */
  uint64_t *open;    /* bitmap: slots without an owner of this rank */
  uint32_t open_count;

  /* one pass over the points */
  uint16_t *active; /* peers that may still take something */
  unsigned active_count;
  uint32_t *next; /* per peer: its first point not drawn yet */
  struct point *points;
  struct order *order, *order_spare; /* room for as many */
  size_t point_count, point_room;
};

uint32_t ring_place_cap(uint32_t slots, uint32_t weight, uint64_t total) {
  uint64_t share = (uint64_t)slots * weight;
  uint64_t fair = (share + total - 1) / total, bound = share * 11 / (total * 10);

  return (uint32_t)(fair > bound ? fair : bound);
}

static bool is_open(const struct place *p, uint32_t slot) { return p->open[slot / 64] >> (slot % 64) & 1; }

static bool is_owner(const struct place *p, uint32_t slot, uint16_t group) {
  for (unsigned rank = 0; rank < p->rank; rank++)
    if (p->groups[p->owners[(size_t)rank * p->slots + slot]] == group)
      return true;
  return false;
}

static uint64_t reach(struct place *p, uint32_t k) {
  if (!p->reaches[k])
    p->reaches[k] = ring_reach(k, p->bits);
  return p->reaches[k];
}

static int points_grow(struct place *p) {
  size_t room = p->point_room ? 2 * p->point_room : 4096;
  struct point *points = realloc(p->points, room * sizeof *points);

  if (!points)
    return -ENOMEM;
  p->points = points;
  free(p->order);
  free(p->order_spare);
  p->order = malloc(room * sizeof *p->order);
  p->order_spare = malloc(room * sizeof *p->order_spare);
  if (!p->order || !p->order_spare)
    return -ENOMEM;
  p->point_room = room;
  return 0;
}

/* Notes the peer's point k on `slot`, unless its group owns the slot at an earlier rank. */
static int point_add(struct place *p, uint16_t peer, uint32_t k, uint32_t slot) {
  if (is_owner(p, slot, p->groups[peer]))
    return 0;
  if (p->point_count == p->point_room && points_grow(p) < 0)
    return -ENOMEM;
  p->points[p->point_count++] = (struct point){
      .distance = ring_distance(reach(p, k), p->peers[peer].weight),
      .tie = ring_tie(&p->perms[peer], slot),
      .slot = slot,
      .peer = peer,
  };
  return 0;
}

/* A total order, because a peer has one point per slot and its points' ties all differ (ring_tie is a bijection). */
static int order_cmp(const void *va, const void *vb, void *points) {
  const struct point *a = (struct point *)points + ((const struct order *)va)->point;
  const struct point *b = (struct point *)points + ((const struct order *)vb)->point;

  if (a->distance != b->distance)
    return a->distance < b->distance ? -1 : 1;
  if (a->tie != b->tie)
    return a->tie < b->tie ? -1 : 1;
  return (int)a->peer - (int)b->peer;
}

/* Puts every run of orders that agree in their keys' bits from `bit` up into the exact order. */
static void runs_sort(struct place *p, unsigned bit) {
  for (size_t i = 0, end; i < p->point_count; i = end) {
    bool sorted = true;
    for (end = i + 1; end < p->point_count && p->order[end].key >> bit == p->order[i].key >> bit; end++)
      sorted = sorted && order_cmp(&p->order[end - 1], &p->order[end], p->points) < 0;
    if (!sorted)
      qsort_r(&p->order[i], end - i, sizeof *p->order, order_cmp, p->points);
  }
}

/* Sorts p->order: by a radix sort of the keys, then by comparing where they leave it open. Equal keys come first, then
 * distances that differ only in bits that the key has no room for. Sorting is most of what a ring costs to build, and
 * this takes a fifth of what comparing all takes. */
static void points_sort(struct place *p) {
  uint64_t lo = UINT64_MAX, hi = 0;
  unsigned shift = 0;

  for (size_t i = 0; i < p->point_count; i++) {
    lo = p->points[i].distance < lo ? p->points[i].distance : lo;
    hi = p->points[i].distance > hi ? p->points[i].distance : hi;
  }
  while (p->point_count && (hi - lo) >> shift >> ORDER_DISTANCE_BITS)
    shift++;
  for (size_t i = 0; i < p->point_count; i++) {
    const struct point *pt = &p->points[i];
    p->order[i].key = (pt->distance - lo) >> shift << (ORDER_BITS - ORDER_DISTANCE_BITS) |
                      pt->tie >> (64 - (ORDER_BITS - ORDER_DISTANCE_BITS));
    p->order[i].point = (uint32_t)i;
  }
  for (unsigned digit = 0; digit < ORDER_BITS; digit += ORDER_DIGIT_BITS) {
    const uint64_t mask = (1u << ORDER_DIGIT_BITS) - 1;
    uint32_t starts[1 << ORDER_DIGIT_BITS] = {0}, sum = 0;
    for (size_t i = 0; i < p->point_count; i++)
      starts[p->order[i].key >> digit & mask]++;
    for (size_t d = 0; d <= mask; d++) {
      uint32_t count = starts[d];
      starts[d] = sum;
      sum += count;
    }
    for (size_t i = 0; i < p->point_count; i++)
      p->order_spare[starts[p->order[i].key >> digit & mask]++] = p->order[i];
    struct order *sorted = p->order_spare;
    p->order_spare = p->order;
    p->order = sorted;
  }
  runs_sort(p, 0);
  runs_sort(p, ORDER_BITS - ORDER_DISTANCE_BITS);
}

/* Offers the drawn points, nearest first. */
static void points_offer(struct place *p) {
  points_sort(p);
  for (size_t i = 0; i < p->point_count; i++) {
    const struct point *pt = &p->points[p->order[i].point];
    if (!is_open(p, pt->slot) || p->load[pt->peer] >= p->caps[pt->peer])
      continue;
    p->owners[(size_t)p->rank * p->slots + pt->slot] = pt->peer;
    p->load[pt->peer]++;
    p->open[pt->slot / 64] &= ~(UINT64_C(1) << pt->slot % 64);
    p->open_count--;
    for (unsigned rank = 0; rank < p->rank; rank++)
      p->blocked[p->groups[p->owners[(size_t)rank * p->slots + pt->slot]]]--;
  }
  p->point_count = 0;
}

/* Drops the peers that can take nothing more in this pass; returns the weight of the others. */
static uint64_t peers_prune(struct place *p) {
  uint64_t weight = 0;
  unsigned kept = 0;

  for (unsigned i = 0; i < p->active_count; i++) {
    uint16_t peer = p->active[i];
    if (p->load[peer] >= p->caps[peer] || p->blocked[p->groups[peer]] == p->open_count || p->next[peer] == p->slots)
      continue;
    p->active[kept++] = peer;
    weight += p->peers[peer].weight;
  }
  p->active_count = kept;
  return weight;
}

/* Draws every active peer's points up to and including `distance`, open slots only. */
static int points_draw(struct place *p, uint64_t distance) {
  for (unsigned i = 0; i < p->active_count; i++) {
    uint16_t peer = p->active[i];
    uint64_t limit; /* reach below this <=> distance within */
    if (__builtin_mul_overflow(distance + 1, (uint64_t)p->peers[peer].weight, &limit))
      limit = UINT64_MAX;
    uint32_t k = p->next[peer];
    for (; k < p->slots && reach(p, k) << RING_WEIGH_BITS < limit; k++) {
      uint32_t slot = ring_perm_slot(&p->perms[peer], k);
      if (is_open(p, slot) && point_add(p, peer, k, slot) < 0)
        return -ENOMEM;
    }
    p->next[peer] = k;
  }
  return 0;
}

/* Draws all active peers' points on the open slots, wherever they lie. */
static int points_draw_open(struct place *p) {
  for (uint32_t word = 0; word < p->slots / 64; word++)
    for (uint64_t bits = p->open[word]; bits; bits &= bits - 1) {
      uint32_t slot = word * 64 + (uint32_t)__builtin_ctzll(bits);
      for (unsigned i = 0; i < p->active_count; i++) {
        uint16_t peer = p->active[i];
        if (point_add(p, peer, ring_perm_index(&p->perms[peer], slot), slot) < 0)
          return -ENOMEM;
      }
    }
  return 0;
}

/* One walk over all points under the caps as they stand. A batch is as wide as to draw about S / 6 points: wide enough
 * to spread the cost of a batch, narrow enough that few points are sorted for a slot that an earlier one takes. */
static int pass(struct place *p) {
  uint64_t distance = 0;

  p->active_count = 0;
  for (unsigned i = 0; i < p->n; i++) {
    p->active[p->active_count++] = (uint16_t)i;
    p->next[i] = 0;
  }
  while (p->open_count > 0) {
    uint64_t weight = peers_prune(p);
    if (p->active_count == 0)
      break;
    if ((uint64_t)p->open_count * p->active_count <= p->slots) {
      int r = points_draw_open(p);
      if (r == 0)
        points_offer(p);
      return r;
    }
    distance += (UINT64_C(1) << (RING_LOG_BITS + RING_WEIGH_BITS - 2)) / weight + 1;
    int r = points_draw(p, distance);
    if (r < 0)
      return r;
    points_offer(p);
  }
  return 0;
}

static int rank_fill(struct place *p, unsigned rank, uint64_t total) {
  p->rank = rank;
  p->load = p->loads + (size_t)rank * p->n;
  memset(p->load, 0, p->n * sizeof *p->load);
  memset(p->blocked, 0, p->n * sizeof *p->blocked);
  memset(p->open, 0xff, p->slots / 8);
  p->open_count = p->slots;
  for (unsigned i = 0; i < p->n; i++) {
    p->caps[i] = ring_place_cap(p->slots, p->peers[i].weight, total);
    p->groups[i] = p->domains > rank ? p->peers[i].domain : (uint16_t)i;
  }
  for (size_t i = 0; i < (size_t)rank * p->slots; i++)
    p->blocked[p->groups[p->owners[i]]]++;
  for (;;) {
    int r = pass(p);
    if (r < 0 || p->open_count == 0)
      return r;
    for (unsigned i = 0; i < p->n; i++)
      p->caps[i] *= 2;
  }
}

int ring_place(const struct ring_place_peer *peers, unsigned n, unsigned domains, unsigned bits, unsigned ranks,
               uint16_t *owners, uint32_t *loads) {
  struct place p = {
      .peers = peers,
      .n = n,
      .domains = domains,
      .bits = bits,
      .slots = 1u << bits,
  };
  uint64_t total = 0;
  int r = -ENOMEM;

  p.owners = owners;
  p.loads = loads;
  p.perms = malloc(n * sizeof *p.perms);
  p.reaches = calloc(p.slots, sizeof *p.reaches);
  p.caps = malloc(n * sizeof *p.caps);
  p.groups = malloc(n * sizeof *p.groups);
  p.blocked = malloc(n * sizeof *p.blocked);
  p.open = malloc(p.slots / 8);
  p.active = malloc(n * sizeof *p.active);
  p.next = malloc(n * sizeof *p.next);
  if (p.perms && p.reaches && p.caps && p.groups && p.blocked && p.open && p.active && p.next) {
    for (unsigned i = 0; i < n; i++) {
      ring_perm_init(&p.perms[i], peers[i].name, strlen(peers[i].name), bits);
      total += peers[i].weight;
    }
    r = 0;
    for (unsigned rank = 0; rank < ranks && rank < n && r == 0; rank++)
      r = rank_fill(&p, rank, total);
  }
  free(p.perms);
  free(p.reaches);
  free(p.caps);
  free(p.groups);
  free(p.blocked);
  free(p.open);
  free(p.active);
  free(p.next);
  free(p.points);
  free(p.order);
  free(p.order_spare);
  return r;
}
