/* bench_ring.c - the ring's bars: look-up time, balance, what moves on a join or leave, build time and size.
 *
 * Beside it, in the same run on the same members: a plain consistent-hash ring as most clients have it (ketama style:
 * 160 points per peer and unit of weight, sorted, binary search; no caps). Peers come and go in turns, always compared
 * with the ring before the change, and what moved is counted against the fair share of the one who came or went. Times
 * are CPU time of this one thread: a busy machine then adds little. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/hash.h"
#include "common/ring.h"
#include "tests/lib/benchlib.h"
#include "tests/lib/testlib.h"

#define VNODES 160 /* per peer of weight 1: ketama's 40 MD5 sums of 4 points */
#define HASHES (1u << 16)
#define CHANGES_MAX 64
#define TURNS 5 /* of look-up measuring, ours and the reference one after the other */

static struct rng rng;

static int64_t cpu_ns(void) {
  struct timespec ts;

  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
  return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

struct members {
  unsigned n, born; /* how many there are, and ever were */
  struct ring_member *list;
};

static void members_add(struct members *m, uint32_t weight) {
  struct ring_member *list = realloc(m->list, (m->n + 1) * sizeof *list);

  if (!list)
    abort();
  m->list = list;
  list[m->n++] = (struct ring_member){
      .name = test_printf("gpu-node-%05u", m->born),
      .address = test_printf("10.%u.%u.%u:7070", m->born >> 16, m->born >> 8 & 255, m->born & 255),
      .weight = weight,
  };
  m->born++;
}

static void members_drop(struct members *m, unsigned index) {
  free((char *)m->list[index].name);
  free((char *)m->list[index].address);
  m->list[index] = m->list[--m->n];
}

static uint64_t members_weight(const struct members *m) {
  uint64_t total = 0;

  for (unsigned i = 0; i < m->n; i++)
    total += m->list[i].weight;
  return total;
}

/* The reference: points sorted by hash, a key belongs to the next one up. Owners are named by the hash of their name,
 * so that rings of different member lists can be compared. */
struct vnode {
  uint64_t at;
  uint32_t owner;
};
struct vring {
  struct vnode *nodes;
  size_t count;
  uint64_t *names; /* by owner */
};

static int by_at(const void *a, const void *b) {
  uint64_t x = ((const struct vnode *)a)->at, y = ((const struct vnode *)b)->at;
  return (x > y) - (x < y);
}

static struct vring vring_new(const struct members *m) {
  struct vring v = {.names = malloc(m->n * sizeof *v.names)};

  v.nodes = malloc(VNODES * members_weight(m) * sizeof *v.nodes);
  if (!v.names || !v.nodes)
    abort();
  for (unsigned i = 0; i < m->n; i++) {
    v.names[i] = hash_bytes64(m->list[i].name, strlen(m->list[i].name));
    for (unsigned k = 0; k < VNODES * m->list[i].weight; k++) {
      char label[64];
      int len = snprintf(label, sizeof label, "%s-%u", m->list[i].name, k);
      v.nodes[v.count++] = (struct vnode){.at = hash_bytes64(label, (size_t)len), .owner = i};
    }
  }
  qsort(v.nodes, v.count, sizeof *v.nodes, by_at);
  return v;
}

static void vring_free(struct vring *v) {
  free(v->nodes);
  free(v->names);
}

static uint32_t vring_owner(const struct vring *v, uint64_t hash) {
  size_t lo = 0, hi = v->count;

  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (v->nodes[mid].at < hash)
      lo = mid + 1;
    else
      hi = mid;
  }
  return v->nodes[lo == v->count ? 0 : lo].owner;
}

static double vring_max_over_mean(const struct vring *v, const struct members *m) {
  double worst = 0, *share = calloc(m->n, sizeof *share), total = (double)members_weight(m);

  if (!share)
    abort();
  for (size_t i = 0; i < v->count; i++) /* unsigned difference: the first arc wraps round */
    share[v->nodes[i].owner] += (double)(v->nodes[i].at - v->nodes[i ? i - 1 : v->count - 1].at) * 0x1p-64;
  for (unsigned i = 0; i < m->n; i++)
    worst = fmax(worst, share[i] * total / m->list[i].weight);
  free(share);
  return worst;
}

static double ring_max_over_mean(const struct ring *r, const struct members *m) {
  double worst = 0, total = (double)members_weight(m);

  for (unsigned i = 0; i < m->n; i++) {
    const struct ring_member *at = ring_member(r, i);
    worst = fmax(worst, ring_load(r, i, 0) * total / ((double)ring_slots(r) * at->weight));
  }
  return worst;
}

/* Shares of the hash space that changed hands, slot by slot for ours and at each slot's middle for the reference. */
static double ring_moved(const struct ring *a, const struct ring *b) {
  int *same = malloc(ring_size(a) * sizeof *same); /* a's member -> b's */
  uint32_t moved = 0;

  if (!same)
    abort();
  for (unsigned i = 0; i < ring_size(a); i++)
    same[i] = ring_find(b, ring_member(a, i)->name);
  for (uint32_t s = 0; s < ring_slots(a); s++)
    moved += same[ring_owner(a, s)] != (int)ring_owner(b, s);
  free(same);
  return (double)moved / ring_slots(a);
}

static double vring_moved(const struct vring *a, const struct vring *b, uint32_t slots) {
  uint64_t arc = UINT64_MAX / slots + 1;
  uint32_t moved = 0;

  for (uint32_t s = 0; s < slots; s++) {
    uint64_t h = s * arc + arc / 2;
    moved += a->names[vring_owner(a, h)] != b->names[vring_owner(b, h)];
  }
  return (double)moved / slots;
}

/* Nanoseconds per look-up of random hashes. `chained`: each look-up waits for the owner found before it (latency);
 * otherwise they may overlap, as for a client with many keys at hand. Inlined, so that the flag costs nothing. */
static inline __attribute__((always_inline)) double lookup_ns(const struct ring *r, const struct vring *v,
                                                              const uint64_t *hashes, unsigned rounds, bool chained) {
  uint64_t sum = 0;
  int64_t start = cpu_ns();

  for (unsigned k = 0; k < rounds; k++)
    for (unsigned i = 0; i < HASHES; i++) {
      uint64_t h = hashes[i];
      if (chained)
        h += sum << 44;
      sum += v ? vring_owner(v, h) : ring_owner(r, ring_slot(r, h));
    }
  bench_use(sum);
  return (double)(cpu_ns() - start) / ((double)rounds * HASHES);
}

static double ring_lookup_ns(const struct ring *r, const uint64_t *hashes, unsigned rounds) {
  return lookup_ns(r, NULL, hashes, rounds, false);
}
static double ring_chained_ns(const struct ring *r, const uint64_t *hashes, unsigned rounds) {
  return lookup_ns(r, NULL, hashes, rounds, true);
}
static double vring_lookup_ns(const struct vring *v, const uint64_t *hashes, unsigned rounds) {
  return lookup_ns(NULL, v, hashes, rounds, false);
}
static double vring_chained_ns(const struct vring *v, const uint64_t *hashes, unsigned rounds) {
  return lookup_ns(NULL, v, hashes, rounds, true);
}

struct series {
  double values[2 * CHANGES_MAX + 1];
  unsigned n;
};

static void series_add(struct series *s, double v) { s->values[s->n++] = v; }

static double series_mean(const struct series *s) {
  double sum = 0;

  for (unsigned i = 0; i < s->n; i++)
    sum += s->values[i];
  return sum / s->n;
}

static double series_worst(const struct series *s) {
  double worst = 0;

  for (unsigned i = 0; i < s->n; i++)
    worst = fmax(worst, s->values[i]);
  return worst;
}

struct side {
  struct series build_ms, join, leave;
  double max_over_mean, bytes, lookup_ns, chained_ns;
};

static struct ring *build_ours(const struct members *m, uint32_t slots, struct side *side) {
  struct err e = {0};
  struct ring *r;
  int64_t start = cpu_ns();

  if (ring_new(&r, m->list, m->n, slots, 1, &e) < 0) {
    fprintf(stderr, "bench_ring: %s\n", e.text);
    exit(1);
  }
  series_add(&side->build_ms, (double)(cpu_ns() - start) / 1e6);
  side->max_over_mean = fmax(side->max_over_mean, ring_max_over_mean(r, m));
  side->bytes = (double)ring_bytes(r);
  return r;
}

static struct vring build_ref(const struct members *m, struct side *side) {
  int64_t start = cpu_ns();
  struct vring v = vring_new(m);

  series_add(&side->build_ms, (double)(cpu_ns() - start) / 1e6);
  side->max_over_mean = fmax(side->max_over_mean, vring_max_over_mean(&v, m));
  side->bytes = (double)(v.count * sizeof *v.nodes);
  return v;
}

static void measure_lookups(const struct ring *r, const struct vring *v, bool quick, struct side *ours,
                            struct side *ref) {
  uint64_t *hashes = malloc(HASHES * sizeof *hashes);
  double ns[4][TURNS];
  unsigned rounds = quick ? 4 : 32;

  if (!hashes)
    abort();
  rng_fill(&rng, hashes, HASHES * sizeof *hashes);
  ring_lookup_ns(r, hashes, 1);
  vring_lookup_ns(v, hashes, 1);
  for (unsigned turn = 0; turn < TURNS; turn++) {
    ns[0][turn] = ring_lookup_ns(r, hashes, rounds);
    ns[1][turn] = vring_lookup_ns(v, hashes, rounds / 4);
    ns[2][turn] = ring_chained_ns(r, hashes, rounds);
    ns[3][turn] = vring_chained_ns(v, hashes, rounds / 4);
  }
  ours->lookup_ns = bench_median(ns[0], TURNS);
  ref->lookup_ns = bench_median(ns[1], TURNS);
  ours->chained_ns = bench_median(ns[2], TURNS);
  ref->chained_ns = bench_median(ns[3], TURNS);
  free(hashes);
}

static void add(struct bench *b, const char *what, const char *peers, double ours, double ref, const char *unit,
                double bar, unsigned runs) {
  char name[64];

  snprintf(name, sizeof name, "%s, %s", peers, what);
  bench_add(b, &(struct bench_row){.name = name,
                                   .ours = ours,
                                   .ref = ref,
                                   .ref_name = isnan(ref) ? NULL : "sorted ring, 160 points",
                                   .unit = unit,
                                   .bar = bar,
                                   .runs = runs});
}

/* `mixed`: weights 1 to 4 instead of equal ones. */
static void measure(struct bench *b, unsigned n, uint32_t slots, bool mixed, unsigned changes) {
  struct members m = {0};
  struct side ours = {0}, ref = {0};

  for (unsigned i = 0; i < n; i++)
    members_add(&m, mixed ? 1 + i % 4 : 1);
  struct ring *r = build_ours(&m, slots, &ours);
  struct vring v = build_ref(&m, &ref);
  measure_lookups(r, &v, bench_quick(b), &ours, &ref);
  for (unsigned change = 0; change < 2 * changes; change++) {
    bool join = change % 2;
    uint64_t total = members_weight(&m);
    uint32_t weight = mixed ? 1 + (uint32_t)rng_below(&rng, 4) : 1;
    if (join) {
      members_add(&m, weight);
      total += weight;
    } else {
      unsigned victim = (unsigned)rng_below(&rng, m.n);
      weight = m.list[victim].weight;
      members_drop(&m, victim);
    }
    double ideal = (double)weight / (double)total;
    struct ring *next = build_ours(&m, slots, &ours);
    struct vring vnext = build_ref(&m, &ref);
    series_add(join ? &ours.join : &ours.leave, ring_moved(r, next) / ideal);
    series_add(join ? &ref.join : &ref.leave, vring_moved(&v, &vnext, slots) / ideal);
    ring_unref(&r);
    vring_free(&v);
    r = next;
    v = vnext;
  }
  char peers[32];
  snprintf(peers, sizeof peers, "%u%s, S=2^%d", n, mixed ? " of weight 1..4" : " peers", __builtin_ctz(slots));
  add(b, "look-up", peers, ours.lookup_ns, ref.lookup_ns, "ns", 5, TURNS);
  add(b, "look-up, each after the other", peers, ours.chained_ns, ref.chained_ns, "ns", BENCH_NONE, TURNS);
  add(b, "max/mean", peers, ours.max_over_mean, ref.max_over_mean, "x", 1.10, ours.build_ms.n);
  add(b, "moved by a join, mean", peers, series_mean(&ours.join), series_mean(&ref.join), "x ideal", 1.2, changes);
  add(b, "moved by a join, worst", peers, series_worst(&ours.join), series_worst(&ref.join), "x ideal", BENCH_NONE,
      changes);
  add(b, "moved by a leave, mean", peers, series_mean(&ours.leave), series_mean(&ref.leave), "x ideal", 1.2, changes);
  add(b, "moved by a leave, worst", peers, series_worst(&ours.leave), series_worst(&ref.leave), "x ideal", BENCH_NONE,
      changes);
  add(b, "build", peers, bench_median(ours.build_ms.values, ours.build_ms.n),
      bench_median(ref.build_ms.values, ref.build_ms.n), "ms", BENCH_NONE, ours.build_ms.n);
  add(b, "size", peers, ours.bytes / 1024, ref.bytes / 1024, "KiB", BENCH_NONE, 1);
  ring_unref(&r);
  vring_free(&v);
  while (m.n > 0)
    members_drop(&m, m.n - 1);
  free(m.list);
}

int main(int argc, char **argv) {
  struct bench *b = bench_new("ring", "The ring's look-up, balance, movement on a change, and cost.", argc, argv);
  bool quick = bench_quick(b);

  rng_init(&rng, test_seed("RING_SEED"));
  measure(b, 3, 65536, false, quick ? 4 : 10);
  measure(b, 16, 65536, false, quick ? 4 : 20);
  measure(b, 100, 65536, false, quick ? 6 : 40);
  measure(b, 1000, 65536, false, quick ? 12 : CHANGES_MAX);
  measure(b, 1000, 1u << 18, true, quick ? 4 : 20);
  measure(b, 10000, 1u << 20, false, quick ? 1 : 6);
  return bench_finish(&b);
}
