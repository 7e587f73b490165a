/* test_ring.c - what the ring promises, over random member lists and weights.
 *
 * Every random test draws from one seed, printed at the start; RING_SEED=n repeats a run. The heart is
 * brute_force_agrees: the rule of docs/placement.md taken literally, over all n x S points, against the ring's short
 * cuts. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/ring.h"
#include "common/ring_place.h"
#include "common/ring_points.h"
#include "tests/lib/testlib.h"

static struct rng rng;

/* A member list that owns its texts. */
struct list {
  unsigned n;
  struct ring_member *members;
};

static void list_add(struct list *l, const char *name, uint32_t weight, const char *domain) {
  l->members = realloc(l->members, (l->n + 1) * sizeof *l->members);
  assert_non_null(l->members);
  l->members[l->n++] = (struct ring_member){
      .name = strdup(name),
      .address = test_printf("%s:7070", name),
      .weight = weight,
      .domain = domain ? strdup(domain) : NULL,
  };
}

static void list_free(struct list *l) {
  for (unsigned i = 0; i < l->n; i++) {
    free((char *)l->members[i].name);
    free((char *)l->members[i].address);
    free((char *)l->members[i].domain);
  }
  free(l->members);
  *l = (struct list){0};
}

/* n members whose names no other list has. Weights 1..max_weight; `domains` 0 = each its own, else as many with sizes
 * that differ, and some members outside of any. */
static struct list list_random(unsigned n, uint32_t max_weight, unsigned domains) {
  struct list l = {0};
  unsigned batch = (unsigned)rng_below(&rng, 1000000);

  for (unsigned i = 0; i < n; i++) {
    char name[32], domain[32];
    snprintf(name, sizeof name, "gpu%u-%u.rack_%u", batch, i, i / 8);
    unsigned d = domains ? (unsigned)rng_below(&rng, 1 + rng_below(&rng, domains)) : 0;
    snprintf(domain, sizeof domain, "rack-%u", d);
    bool own = domains == 0 || rng_below(&rng, 16) == 0;
    list_add(&l, name, (uint32_t)rng_range(&rng, 1, max_weight), own ? NULL : domain);
  }
  return l;
}

static struct ring *ring_of(const struct list *l, uint32_t slots) {
  struct ring *r;
  struct err e = {0};

  if (ring_new(&r, l->members, l->n, slots, 1, &e) < 0)
    fail_msg("%s", e.text);
  return r;
}

static uint64_t total_weight(const struct ring *r) {
  uint64_t total = 0;

  for (unsigned i = 0; i < ring_size(r); i++)
    total += ring_member(r, i)->weight;
  return total;
}

/* Numbers the failure domains; returns how many there are. */
static unsigned domains_of(const struct ring *r, unsigned *ret) {
  unsigned count = 0;

  for (unsigned i = 0; i < ring_size(r); i++) {
    const char *domain = ring_member(r, i)->domain;
    unsigned same = i;
    for (unsigned k = 0; *domain && k < i; k++)
      if (strcmp(ring_member(r, k)->domain, domain) == 0) {
        same = k;
        break;
      }
    ret[i] = same < i ? ret[same] : count++;
  }
  return count;
}

static void permutations_are_bijections(void **state) {
  (void)state;
  for (unsigned bits = 10; bits <= 20; bits++) {
    char name[32];
    int len = snprintf(name, sizeof name, "peer-%llu", (unsigned long long)rng_u64(&rng));
    struct ring_perm p;
    ring_perm_init(&p, name, (size_t)len, bits);
    uint8_t *seen = calloc(1u << bits, 1);
    for (uint32_t k = 0; k < 1u << bits; k++) {
      uint32_t slot = ring_perm_slot(&p, k);
      assert_true(slot < 1u << bits);
      assert_int_equal(seen[slot]++, 0);
      assert_int_equal(ring_perm_index(&p, slot), k);
    }
    free(seen);
  }
}

static void logarithms_are_right(void **state) {
  (void)state;
  for (unsigned bit = 0; bit < 32; bit++)
    assert_int_equal(ring_log2(1u << bit), (uint64_t)bit << RING_LOG_BITS);
  for (int i = 0; i < 10000; i++) {
    uint32_t m = (uint32_t)rng_range(&rng, 1, 1u << 21);
    double got = (double)ring_log2(m) / (double)(UINT64_C(1) << RING_LOG_BITS);
    assert_true(fabs(got - log2(m)) < 1e-11);
    assert_true(ring_log2(m) <= ring_log2(m + 1));
  }
  for (uint32_t k = 1; k < 65536; k++)
    assert_true(ring_reach(k, 16) > ring_reach(k - 1, 16));
  assert_true(ring_reach(0, 20) > 0);
}

/* Everything that holds for any ring. */
static void check_ring(const struct ring *r) {
  unsigned n = ring_size(r), ranks = n < RING_RANKS ? n : RING_RANKS;
  unsigned *domain = calloc(n, sizeof *domain);
  unsigned domains = domains_of(r, domain);
  uint32_t *loads = calloc((size_t)n * ranks, sizeof *loads);
  uint64_t total = total_weight(r);

  for (uint32_t slot = 0; slot < ring_slots(r); slot++) {
    unsigned owners[RING_RANKS];
    assert_int_equal(ring_owners(r, slot, owners), ranks);
    assert_int_equal(ring_owner(r, slot), owners[0]);
    for (unsigned a = 0; a < ranks; a++) {
      assert_true(owners[a] < n);
      loads[a * n + owners[a]]++;
      for (unsigned b = 0; b < a; b++) {
        assert_int_not_equal(owners[a], owners[b]);
        if (domains > a)
          assert_int_not_equal(domain[owners[a]], domain[owners[b]]);
      }
    }
  }
  for (unsigned i = 0; i < n; i++) {
    double fair = (double)ring_slots(r) * ring_member(r, i)->weight / (double)total;
    assert_true(ring_load(r, i, 0) <= fmax(ceil(fair), floor(1.10 * fair + 1e-9)));
    for (unsigned rank = 0; rank < RING_RANKS; rank++)
      assert_int_equal(ring_load(r, i, rank), rank < ranks ? loads[rank * n + i] : 0);
  }
  free(domain);
  free(loads);
}

static void random_rings_hold_their_promises(void **state) {
  static const uint32_t weights[] = {1, 2, 16, 1000, RING_WEIGHT_MAX};

  (void)state;
  for (int round = 0; round < 150; round++) {
    unsigned n = (unsigned)rng_range(&rng, 1, 1 + rng_below(&rng, round < 20 ? 4 : 64));
    uint32_t slots = RING_SLOTS_MIN << rng_below(&rng, 3);
    struct list l = list_random(n, weights[rng_below(&rng, 5)], (unsigned)rng_below(&rng, 6));
    struct ring *r = ring_of(&l, slots);
    check_ring(r);
    ring_unref(&r);
    list_free(&l);
  }
}

static void hard_lists_hold_their_promises(void **state) {
  (void)state;
  for (int kind = 0; kind < 6; kind++) {
    struct list l = {0};
    unsigned n = kind == 0 ? 1 : kind == 1 ? 2 : 64;
    for (unsigned i = 0; i < n; i++) {
      char name[16];
      bool odd = i == 0;
      snprintf(name, sizeof name, "h%u", i);
      switch (kind) {
      case 0: /* one peer */
      case 1: /* two, one of them tiny */
        list_add(&l, name, odd ? RING_WEIGHT_MAX : 1, NULL);
        break;
      case 2: /* one giant among tiny ones */
        list_add(&l, name, odd ? RING_WEIGHT_MAX : 1, NULL);
        break;
      case 3: /* all but one in one domain */
        list_add(&l, name, 100, odd ? "b" : "a");
        break;
      case 4: /* one domain for all */
        list_add(&l, name, 100, "a");
        break;
      default: /* heavy and light domain */
        list_add(&l, name, i % 2 ? RING_WEIGHT_MAX : 1, i % 2 ? "a" : "b");
      }
    }
    struct ring *r = ring_of(&l, 4096);
    check_ring(r);
    ring_unref(&r);
    list_free(&l);
  }
}

struct brute_point {
  uint64_t distance, tie;
  uint32_t slot;
  unsigned peer;
};

static int brute_cmp(const void *va, const void *vb) {
  const struct brute_point *a = va, *b = vb;

  if (a->distance != b->distance)
    return a->distance < b->distance ? -1 : 1;
  if (a->tie != b->tie)
    return a->tie < b->tie ? -1 : 1;
  return a->peer < b->peer ? -1 : 1;
}

static void brute_compare(const struct ring *r) {
  unsigned n = ring_size(r), ranks = n < RING_RANKS ? n : RING_RANKS, bits = (unsigned)__builtin_ctz(ring_slots(r));
  uint32_t slots = ring_slots(r);
  size_t count = (size_t)n * slots;
  struct brute_point *points = malloc(count * sizeof *points);
  unsigned *owners = malloc((size_t)slots * ranks * sizeof *owners), *domain = calloc(n, sizeof *domain);
  unsigned domains = domains_of(r, domain);

  for (unsigned i = 0; i < n; i++) {
    struct ring_perm perm;
    ring_perm_init(&perm, ring_member(r, i)->name, strlen(ring_member(r, i)->name), bits);
    for (uint32_t k = 0; k < slots; k++) {
      uint32_t slot = ring_perm_slot(&perm, k);
      points[(size_t)i * slots + k] = (struct brute_point){
          .distance = ring_distance(ring_reach(k, bits), ring_member(r, i)->weight),
          .tie = ring_tie(&perm, slot),
          .slot = slot,
          .peer = i,
      };
    }
  }
  qsort(points, count, sizeof *points, brute_cmp);
  for (unsigned rank = 0; rank < ranks; rank++) {
    uint64_t *caps = calloc(n, sizeof *caps), *loads = calloc(n, sizeof *loads);
    unsigned *row = owners + (size_t)rank * slots;
    for (unsigned i = 0; i < n; i++)
      caps[i] = ring_place_cap(slots, ring_member(r, i)->weight, total_weight(r));
    for (uint32_t s = 0; s < slots; s++)
      row[s] = UINT32_MAX;
    for (uint32_t left = slots; left > 0;) {
      for (size_t k = 0; k < count; k++) {
        const struct brute_point *pt = &points[k];
        bool refused = row[pt->slot] != UINT32_MAX || loads[pt->peer] >= caps[pt->peer];
        for (unsigned q = 0; q < rank; q++) {
          unsigned other = owners[(size_t)q * slots + pt->slot];
          refused = refused || other == pt->peer || (domains > rank && domain[other] == domain[pt->peer]);
        }
        if (refused)
          continue;
        row[pt->slot] = pt->peer;
        loads[pt->peer]++;
        left--;
      }
      for (unsigned i = 0; i < n; i++)
        caps[i] *= 2;
    }
    free(caps);
    free(loads);
  }
  for (uint32_t s = 0; s < slots; s++) {
    unsigned got[RING_RANKS];
    ring_owners(r, s, got);
    for (unsigned rank = 0; rank < ranks; rank++)
      assert_int_equal(got[rank], owners[(size_t)rank * slots + s]);
  }
  free(points);
  free(owners);
  free(domain);
}

static void brute_force_agrees(void **state) {
  static const uint32_t weights[] = {1, 3, 50, RING_WEIGHT_MAX};

  (void)state;
  for (int round = 0; round < 60; round++) {
    struct list l = list_random((unsigned)rng_range(&rng, 1, 1 + rng_below(&rng, 64)), weights[rng_below(&rng, 4)],
                                (unsigned)rng_below(&rng, 6));
    struct ring *r = ring_of(&l, RING_SLOTS_MIN << (round % 8 == 0));
    brute_compare(r);
    ring_unref(&r);
    list_free(&l);
  }
}

static void order_of_the_list_is_nothing(void **state) {
  (void)state;
  for (int round = 0; round < 20; round++) {
    struct list l = list_random((unsigned)rng_range(&rng, 2, 60), 100, (unsigned)rng_below(&rng, 6));
    struct ring *a = ring_of(&l, 2048);
    rng_shuffle(&rng, l.members, l.n, sizeof *l.members);
    struct ring *b = ring_of(&l, 2048);
    struct hash128 ha = ring_hash(a), hb = ring_hash(b);
    assert_true(ha.hi == hb.hi && ha.lo == hb.lo);
    for (unsigned i = 0; i < l.n; i++) {
      assert_string_equal(ring_member(a, i)->name, ring_member(b, i)->name);
      if (i > 0)
        assert_true(strcmp(ring_member(a, i - 1)->name, ring_member(a, i)->name) < 0);
    }
    for (uint32_t s = 0; s < 2048; s++) {
      unsigned oa[RING_RANKS], ob[RING_RANKS];
      assert_int_equal(ring_owners(a, s, oa), ring_owners(b, s, ob));
      for (unsigned rank = 0; rank < RING_RANKS && rank < l.n; rank++)
        assert_int_equal(oa[rank], ob[rank]);
    }
    ring_unref(&a);
    ring_unref(&b);
    list_free(&l);
  }
}

static void loads_follow_weights(void **state) {
  (void)state;
  for (int round = 0; round < 4; round++) {
    struct list l = list_random(40, 4, 0);
    struct ring *r = ring_of(&l, RING_SLOTS_DEFAULT);
    double total = (double)total_weight(r);
    for (unsigned i = 0; i < l.n; i++) {
      double fair = RING_SLOTS_DEFAULT * (ring_member(r, i)->weight / total);
      /* The lightest peers hold some 400 to 650 slots with a deviation of sqrt(fair / 2): 0.80 is 5 deviations. */
      assert_true(ring_load(r, i, 0) >= 0.80 * fair);
      assert_true(ring_load(r, i, 0) <= 1.10 * fair);
    }
    ring_unref(&r);
    list_free(&l);
  }
}

/* Slots whose first owner is another one in b. */
static uint32_t moved(const struct ring *a, const struct ring *b) {
  uint32_t count = 0;

  for (uint32_t s = 0; s < ring_slots(a); s++)
    if (strcmp(ring_member(a, ring_owner(a, s))->name, ring_member(b, ring_owner(b, s))->name) != 0)
      count++;
  return count;
}

/* A random peer leaves, a new one joins, and so on: what moves each time, in shares of the one who came or went. */
static void little_moves(unsigned n, uint32_t slots, uint32_t max_weight, int changes, double bar) {
  struct list l = list_random(n + 1, max_weight, 0);
  struct ring *with = ring_of(&l, slots);
  double sum = 0, worst = 0;

  for (int change = 0; change < changes; change++) {
    unsigned victim = (unsigned)rng_below(&rng, l.n);
    struct ring_member gone = l.members[victim];
    l.members[victim] = l.members[--l.n];
    struct ring *without = ring_of(&l, slots);
    double ideal = slots * ((double)gone.weight / (double)total_weight(with));
    double ratio = moved(with, without) / ideal;
    sum += ratio;
    worst = fmax(worst, ratio);
    assert_true(moved(with, without) >= ring_load(with, (unsigned)ring_find(with, gone.name), 0));

    char name[32];
    snprintf(name, sizeof name, "new-%d", change);
    list_add(&l, name, (uint32_t)rng_range(&rng, 1, max_weight), NULL);
    ring_unref(&with);
    with = ring_of(&l, slots);
    ideal = slots * ((double)l.members[l.n - 1].weight / (double)total_weight(with));
    ratio = moved(with, without) / ideal;
    sum += ratio;
    worst = fmax(worst, ratio);
    ring_unref(&without);
    free((char *)gone.name);
    free((char *)gone.address);
  }
  print_message("%u peers, %u slots, weights 1..%u: a change moves %.3f x ideal, worst %.3f\n", n, slots, max_weight,
                sum / (2 * changes), worst);
  assert_true(sum / (2 * changes) <= bar);
  ring_unref(&with);
  list_free(&l);
}

static void a_change_moves_what_it_must(void **state) {
  (void)state;
  little_moves(3, RING_SLOTS_DEFAULT, 1, 3, 1.2);
  little_moves(16, RING_SLOTS_DEFAULT, 1, 3, 1.2);
  little_moves(16, RING_SLOTS_DEFAULT, 8, 3, 1.2);
  little_moves(100, RING_SLOTS_DEFAULT, 1, 5, 1.2);
  /* 65 slots per peer, and so many peers at their caps: 1.15 with a deviation of 0.03 from list to list. */
  little_moves(124, 8192, 1, 30, 1.3);
}

/* The bar at 1000 peers, where the average is 1.14 and one change deviates by 0.10: always the same lists, because a
 * test has no time for as many as the bench averages over. */
static void a_change_of_1000_peers_keeps_the_bar(void **state) {
  struct rng drawn = rng;

  (void)state;
  rng_init(&rng, 1);
  little_moves(1000, RING_SLOTS_DEFAULT, 1, 8, 1.2);
  rng = drawn;
}

/* While nobody is at a cap, a leave moves the leaver's slots and nothing else. */
static void a_leave_without_full_peers_moves_the_leavers_slots(void **state) {
  (void)state;
  struct list l = list_random(3, 1, 0);
  struct ring *a = ring_of(&l, RING_SLOTS_DEFAULT);
  l.n--;
  struct ring *b = ring_of(&l, RING_SLOTS_DEFAULT);
  l.n++;
  uint32_t gone = ring_load(a, (unsigned)ring_find(a, l.members[2].name), 0);
  assert_true(gone > 20000);
  assert_int_equal(moved(a, b), gone);
  ring_unref(&a);
  ring_unref(&b);
  list_free(&l);
}

/* The second owner is the one whom the ring names first when the first is gone, so that a client's fail-over fills the
 * cache of the right peer. Caps aside: few peers are at theirs here. */
static void the_second_owner_succeeds_the_first(void **state) {
  (void)state;
  struct list l = list_random(100, 1, 0);
  struct ring *a = ring_of(&l, RING_SLOTS_DEFAULT);
  l.n--;
  struct ring *b = ring_of(&l, RING_SLOTS_DEFAULT);
  l.n++;
  unsigned gone = (unsigned)ring_find(a, l.members[99].name), right = 0;
  for (uint32_t s = 0; s < RING_SLOTS_DEFAULT; s++) {
    unsigned owners[RING_RANKS];
    ring_owners(a, s, owners);
    if (owners[0] == gone)
      right += strcmp(ring_member(a, owners[1])->name, ring_member(b, ring_owner(b, s))->name) == 0;
  }
  assert_true(right >= 0.9 * ring_load(a, gone, 0));
  ring_unref(&a);
  ring_unref(&b);
  list_free(&l);
}

static void caps_are_what_they_say(void **state) {
  (void)state;
  assert_int_equal(ring_place_cap(65536, 1, 1), 72089); /* a sole peer owns all 65536, cap or not */
  assert_int_equal(ring_place_cap(65536, 1, 1000), 72);
  assert_int_equal(ring_place_cap(1u << 20, 1, 10000), 115);
  assert_int_equal(ring_place_cap(1024, 1, 64), 17);
  assert_int_equal(ring_place_cap(1024, 1, 65536), 1); /* never zero */
  assert_int_equal(ring_place_cap(1u << 20, RING_WEIGHT_MAX, (uint64_t)RING_WEIGHT_MAX * 16384), 70);
}

static void strings_are_copied(void **state) {
  (void)state;
  char name[] = "alpha", address[] = "10.0.0.1:7070", domain[] = "row-1";
  struct ring_member m = {.name = name, .address = address, .weight = 5, .domain = domain};
  struct ring *r;
  assert_int_equal(ring_new(&r, &m, 1, 1024, 9, NULL), 0);
  memset(name, 'x', sizeof name - 1);
  memset(address, 'x', sizeof address - 1);
  memset(domain, 'x', sizeof domain - 1);
  assert_string_equal(ring_member(r, 0)->name, "alpha");
  assert_string_equal(ring_member(r, 0)->address, "10.0.0.1:7070");
  assert_string_equal(ring_member(r, 0)->domain, "row-1");
  assert_int_equal(ring_member(r, 0)->weight, 5);
  ring_unref(&r);
  assert_null(r);
  ring_unref(&r);
}

static void look_ups_answer(void **state) {
  (void)state;
  struct list l = {0};
  list_add(&l, "b", 1, NULL);
  list_add(&l, "a", 1, NULL);
  list_add(&l, "c", 1, NULL);
  struct ring *r;
  assert_int_equal(ring_new(&r, l.members, 3, 4096, 77, NULL), 0);
  struct ring *again = ring_ref(r);
  assert_ptr_equal(again, r);
  ring_unref(&again);
  assert_int_equal(ring_epoch(r), 77);
  assert_int_equal(ring_slots(r), 4096);
  assert_int_equal(ring_size(r), 3);
  assert_int_equal(ring_find(r, "a"), 0);
  assert_int_equal(ring_find(r, "b"), 1);
  assert_int_equal(ring_find(r, "c"), 2);
  assert_int_equal(ring_find(r, "d"), -ENOENT);
  assert_int_equal(ring_find(r, ""), -ENOENT);
  assert_string_equal(ring_member(r, 0)->domain, "");
  assert_int_equal(ring_slot(r, 0), 0);
  assert_int_equal(ring_slot(r, UINT64_MAX), 4095);
  assert_int_equal(ring_slot(r, UINT64_C(1) << 52), 1);
  assert_int_equal(ring_slot(r, (UINT64_C(1) << 52) - 1), 0);
  assert_int_equal(ring_load(r, 0, RING_RANKS), 0);
  assert_true(ring_bytes(r) >= 3 * 4096 * sizeof(uint16_t));
  assert_true(ring_bytes(r) <= 3 * 4096 * sizeof(uint16_t) + 1024);
  ring_unref(&r);
  list_free(&l);
}

static struct hash128 hash_of(const struct ring_member *members, unsigned n, uint32_t slots, uint64_t epoch) {
  struct ring *r;

  assert_int_equal(ring_new(&r, members, n, slots, epoch, NULL), 0);
  struct hash128 h = ring_hash(r);
  ring_unref(&r);
  return h;
}

static void the_hash_sees_everything_but_the_epoch(void **state) {
  (void)state;
  const struct ring_member base[] = {{"a", "h1:1", 1, "x"}, {"b", "h2:1", 1, "x"}};
  const struct ring_member others[][2] = {
      {{"aa", "h1:1", 1, "x"}, {"b", "h2:1", 1, "x"}}, {{"a", "h1:2", 1, "x"}, {"b", "h2:1", 1, "x"}},
      {{"a", "h1:1", 2, "x"}, {"b", "h2:1", 1, "x"}},  {{"a", "h1:1", 1, "y"}, {"b", "h2:1", 1, "x"}},
      {{"a", "h1:1", 1, NULL}, {"b", "h2:1", 1, "x"}}, {{"a", "h2:1", 1, "x"}, {"b", "h1:1", 1, "x"}},
  };
  struct hash128 h = hash_of(base, 2, 1024, 1), same = hash_of(base, 2, 1024, 2), more = hash_of(base, 2, 2048, 1);
  assert_true(h.hi == same.hi && h.lo == same.lo);
  assert_true(h.hi != more.hi && h.lo != more.lo);
  assert_true(h.hi != hash_of(base, 1, 1024, 1).hi);
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    assert_true(h.hi != hash_of(others[i], 2, 1024, 1).hi);
  const struct ring_member null_domain = {"a", "h:1", 1, NULL}, empty_domain = {"a", "h:1", 1, ""};
  assert_true(hash_of(&null_domain, 1, 1024, 1).hi == hash_of(&empty_domain, 1, 1024, 1).hi);
}

/* Refused with this code, a text that has `part` in it, and the output untouched. */
static void refused(const struct ring_member *members, unsigned n, uint32_t slots, int code, const char *part) {
  struct ring *untouched = (struct ring *)&rng, *r = untouched;
  struct err e = {0};

  assert_int_equal(ring_new(&r, members, n, slots, 1, &e), code);
  assert_ptr_equal(r, untouched);
  assert_int_equal(e.code, code);
  if (!strstr(e.text, part))
    fail_msg("\"%s\" is not in \"%s\"", part, e.text);
  assert_int_equal(ring_new(&r, members, n, slots, 1, NULL), code);
}

static void bad_input_is_refused(void **state) {
  (void)state;
  char name64[65], name63[64], address256[257], domain64[65];
  memset(name64, 'n', 64), name64[64] = '\0';
  memset(name63, 'n', 63), name63[63] = '\0';
  memset(address256, 'a', 256), address256[256] = '\0';
  memset(domain64, 'd', 64), domain64[64] = '\0';
  const struct ring_member ok = {"a", "h:1", 1, "d"};
  struct ring_member m;

  refused(NULL, 0, 65536, -FB_EPEERSEMPTY, "empty");
  refused(&ok, 1, 1023, -EINVAL, "power of two");
  refused(&ok, 1, 512, -EINVAL, "power of two");
  refused(&ok, 1, 3000, -EINVAL, "power of two");
  refused(&ok, 1, 0, -EINVAL, "power of two");
  refused(&ok, 1, RING_SLOTS_MAX * 2, -EINVAL, "power of two");
  const char *names[] = {NULL, "", "a b", "a/b", "\xc3\xa9", "a\n", name64};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    m = ok, m.name = names[i];
    refused(&m, 1, 65536, -EINVAL, "1 to 63 characters");
  }
  const char *addresses[] = {NULL, "", address256};
  for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
    m = ok, m.address = addresses[i];
    refused(&m, 1, 65536, -EINVAL, "peer a: address");
  }
  m = ok, m.weight = 0;
  refused(&m, 1, 65536, -EINVAL, "peer a: weight 0: must be 1 to 65535");
  m = ok, m.weight = RING_WEIGHT_MAX + 1;
  refused(&m, 1, 65536, -EINVAL, "weight 65536");
  m = ok, m.domain = domain64;
  refused(&m, 1, 65536, -EINVAL, "failure domain");
  struct ring_member pair[] = {{"same", "h:1", 1, NULL}, {"same", "h:2", 1, NULL}};
  refused(pair, 2, 65536, -FB_EPEERSDUP, "peer name same");
  pair[1] = (struct ring_member){"other", "h:1", 1, NULL};
  refused(pair, 2, 65536, -FB_EPEERSDUP, "address h:1");

  m = ok, m.name = name63, m.domain = domain64 + 1, m.address = address256 + 1, m.weight = RING_WEIGHT_MAX;
  struct ring *r;
  assert_int_equal(ring_new(&r, &m, 1, RING_SLOTS_MIN, 0, NULL), 0);
  assert_int_equal(ring_owner(r, 1023), 0);
  ring_unref(&r);
}

static void too_many_peers_are_refused(void **state) {
  (void)state;
  struct list l = list_random(RING_MEMBERS_MAX + 1, 1, 0);
  refused(l.members, RING_MEMBERS_MAX + 1, RING_SLOTS_MAX, -EINVAL, "at most 16384");
  refused(l.members, 65, 1024, -EINVAL, "at least 16 per peer");
  struct ring *r;
  assert_int_equal(ring_new(&r, l.members, 64, 1024, 0, NULL), 0);
  check_ring(r);
  ring_unref(&r);
  assert_int_equal(ring_new(&r, l.members, RING_MEMBERS_MAX, RING_MEMBERS_MAX * 16, 0, NULL), 0);
  for (unsigned i = 0; i < RING_MEMBERS_MAX; i++)
    assert_true(ring_load(r, i, 0) <= 17);
  ring_unref(&r);
  list_free(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(permutations_are_bijections),
      cmocka_unit_test(logarithms_are_right),
      cmocka_unit_test(caps_are_what_they_say),
      cmocka_unit_test(random_rings_hold_their_promises),
      cmocka_unit_test(hard_lists_hold_their_promises),
      cmocka_unit_test(brute_force_agrees),
      cmocka_unit_test(order_of_the_list_is_nothing),
      cmocka_unit_test(loads_follow_weights),
      cmocka_unit_test(a_change_moves_what_it_must),
      cmocka_unit_test(a_change_of_1000_peers_keeps_the_bar),
      cmocka_unit_test(a_leave_without_full_peers_moves_the_leavers_slots),
      cmocka_unit_test(the_second_owner_succeeds_the_first),
      cmocka_unit_test(strings_are_copied),
      cmocka_unit_test(look_ups_answer),
      cmocka_unit_test(the_hash_sees_everything_but_the_epoch),
      cmocka_unit_test(bad_input_is_refused),
      cmocka_unit_test(too_many_peers_are_refused),
  };
  rng_init(&rng, test_seed("RING_SEED"));
  return cmocka_run_group_tests(tests, NULL, NULL);
}
