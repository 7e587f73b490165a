/* test_tier_ram.c - the RAM tier: what is put in comes out, nothing over the budget, pins hold, LRU order, drops.
 *
 * A block's bytes are a function of (key, version), so that every hit can be checked for being exactly one version of
 * exactly that key. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "server/tier/ram.h"
#include "tests/lib/testlib.h"

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define BUDGET (16 * MIB)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* For threads, where cmocka's assertions cannot jump. */
#define CHECK(cond)                                                                                                    \
  do {                                                                                                                 \
    if (!(cond)) {                                                                                                     \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                                       \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

struct key {
  char text[32];
  struct block_id id;
};

static void key_init(struct key *k, uint64_t ns, unsigned n) {
  memset(k, 0, sizeof *k);
  int len = snprintf(k->text, sizeof k->text, "key-%u", n);
  k->id = (struct block_id){.ns_id = ns, .key = k->text, .key_len = (uint32_t)len};
  k->id.hash = hash_bytes128(k->text, (size_t)len);
  k->id.hash.hi ^= ns;
  k->id.hash.lo ^= hash_mix64(ns);
}

static uint64_t pattern(const struct block_id *id, uint32_t version, uint32_t at) {
  return hash_mix64(id->hash.lo ^ ((uint64_t)version << 32) ^ at);
}

static void fill(void *data, uint32_t len, const struct block_id *id, uint32_t version) {
  uint8_t *p = data;
  for (uint32_t i = 0; i < len; i += 8) {
    uint64_t x = pattern(id, version, i);
    memcpy(p + i, &x, len - i < 8 ? len - i : 8);
  }
}

/* The crc field carries the version here: the tier must hand it back untouched. */
static bool intact(const struct tier_view *v, const struct block_id *id) {
  const uint8_t *p = v->data;
  for (uint32_t i = 0; i < v->len; i += 8) {
    uint64_t x = pattern(id, v->crc, i);
    if (memcmp(p + i, &x, v->len - i < 8 ? v->len - i : 8) != 0)
      return false;
  }
  return true;
}

static int put(struct tier *t, const struct block_id *id, uint32_t len, unsigned flags, uint32_t version) {
  struct tier_slot s;
  int r = tier_reserve(t, id, len, flags, &s);
  if (r < 0)
    return r;
  CHECK(s.len == len && (uintptr_t)s.data % 64 == 0);
  fill(s.data, len, id, version);
  return tier_commit(t, &s, version, NULL);
}

static struct tier *new_tier(uint64_t bytes, unsigned shards) {
  struct tier *t = NULL;
  struct err e = {0};
  assert_int_equal(tier_ram_new_shards(&t, bytes, shards, &e), 0);
  return t;
}

static struct tier_stats stats(struct tier *t) {
  struct tier_stats st;
  tier_stats(t, &st);
  return st;
}

static void test_new_errors(void **state) {
  (void)state;
  struct tier *t = NULL;
  struct err e = {0};

  assert_int_equal(tier_ram_new(&t, BUDGET - 1, &e), -EINVAL);
  assert_non_null(strstr(e.text, "16 MiB"));
  assert_int_equal(tier_ram_new_shards(&t, BUDGET, 3, &e), -EINVAL);
  assert_int_equal(tier_ram_new_shards(&t, BUDGET, 128, &e), -EINVAL);
  assert_int_equal(tier_ram_new(&t, UINT64_C(1) << 60, &e), -ENOMEM);
  assert_null(t);
  tier_free(&t);
}

static void test_get_put_remove(void **state) {
  (void)state;
  struct tier *t = new_tier(BUDGET, 64);
  struct key k;
  struct tier_view v;
  struct tier_slot s;
  uint64_t base = stats(t).used_bytes, bytes, blocks;

  key_init(&k, 7, 1);
  assert_int_equal(tier_get(t, &k.id, &v), -ENOENT);
  assert_false(tier_contains(t, &k.id));
  assert_int_equal(tier_remove(t, &k.id), -ENOENT);
  assert_int_equal(tier_reserve(t, &k.id, 0, 0, &s), -EMSGSIZE);
  assert_int_equal(tier_reserve(t, &k.id, TIER_BLOCK_MAX + 1, 0, &s), -EMSGSIZE);
  struct block_id long_key = k.id;
  long_key.key_len = TIER_KEY_MAX + 1;
  assert_int_equal(tier_reserve(t, &long_key, 1, 0, &s), -EMSGSIZE);

  /* Reserved is not yet visible; aborted leaves nothing. */
  assert_int_equal(tier_reserve(t, &k.id, 1000, 0, &s), 0);
  assert_false(tier_contains(t, &k.id));
  assert_true(stats(t).used_bytes > base);
  tier_abort(t, &s);
  assert_int_equal(stats(t).used_bytes, base);

  /* A commit with a view; replacing keeps the old bytes for who has them pinned. */
  assert_int_equal(tier_reserve(t, &k.id, 1000, 0, &s), 0);
  fill(s.data, 1000, &k.id, 1);
  assert_int_equal(tier_commit(t, &s, 1, &v), 0);
  assert_null(s.fill);
  assert_int_equal(v.len, 1000);
  assert_int_equal(put(t, &k.id, 5000, 0, 2), 0);
  assert_int_equal(v.crc, 1);
  assert_true(intact(&v, &k.id));
  tier_release(t, &v);
  assert_null(v.pin);
  assert_int_equal(tier_get(t, &k.id, &v), 0);
  assert_int_equal(v.len, 5000);
  assert_int_equal(v.crc, 2);
  assert_true(intact(&v, &k.id));
  tier_usage(t, 7, &bytes, &blocks);
  assert_int_equal(bytes, 5000);
  assert_int_equal(blocks, 1);
  tier_usage(t, 8, &bytes, &blocks);
  assert_int_equal(bytes + blocks, 0);

  /* Removed while pinned: gone from sight, not from memory. */
  assert_int_equal(tier_remove(t, &k.id), 0);
  assert_false(tier_contains(t, &k.id));
  assert_true(intact(&v, &k.id));
  assert_true(stats(t).used_bytes >= base + 5000);
  tier_release(t, &v);
  struct tier_stats st = stats(t);
  assert_int_equal(st.used_bytes, base);
  assert_int_equal(st.blocks, 0);
  assert_int_equal(st.hits, 1);
  assert_int_equal(st.misses, 1);
  assert_int_equal(st.commits, 2);
  assert_int_equal(st.evictions, 0);
  tier_free(&t);
  assert_null(t);
}

/* Equal hashes, different keys; equal keys, different namespaces: a hit compares everything. */
static void test_collisions(void **state) {
  (void)state;
  struct tier *t = new_tier(BUDGET, 4);
  struct key k[200];
  struct tier_view v;

  for (unsigned i = 0; i < 200; i++) {
    key_init(&k[i], 1 + i % 2, i / 2);
    k[i].id.hash = (struct hash128){.hi = 5, .lo = 6};
    assert_int_equal(put(t, &k[i].id, 100 + i, 0, i), 0);
  }
  for (unsigned i = 0; i < 200; i++) {
    assert_int_equal(tier_get(t, &k[i].id, &v), 0);
    assert_int_equal(v.len, 100 + i);
    assert_int_equal(v.crc, i);
    tier_release(t, &v);
  }
  struct key prefix = k[2]; /* "key-1" without its digit */
  prefix.id.key = prefix.text;
  prefix.id.key_len--;
  assert_int_equal(tier_get(t, &prefix.id, &v), -ENOENT);
  struct key empty = prefix;
  empty.id.key_len = 0;
  assert_int_equal(tier_get(t, &empty.id, &v), -ENOENT);
  assert_int_equal(put(t, &empty.id, 1, 0, 9), 0);
  assert_true(tier_contains(t, &empty.id));
  for (unsigned i = 0; i < 200; i++)
    assert_int_equal(tier_remove(t, &k[i].id), 0);
  assert_true(tier_contains(t, &empty.id));
  tier_free(&t);
}

/* One shard, one size: eviction is exactly LRU, but that a block used within the last blocks/16 commits keeps its
 * place. The model is a list of keys, newest first. */
static void test_lru_model(void **state) {
  (void)state;
  enum { KEYS = 120, LEN = 256 * 1024 };
  struct tier *t = new_tier(BUDGET, 1);
  struct rng rng;
  struct key k[KEYS];
  unsigned list[KEYS], n = 0, cap = 0;
  uint32_t version[KEYS] = {0}, used[KEYS], versions = 0; /* a version is the number of the commit, too */
  struct tier_view pin = {0}, v;
  unsigned pinned = KEYS;

  rng_init(&rng, test_seed("FB_SEED"));
  for (unsigned i = 0; i < KEYS; i++)
    key_init(&k[i], 1, i);
  while (stats(t).evictions == 0) { /* how many fit */
    version[cap] = used[cap] = ++versions;
    assert_int_equal(put(t, &k[cap].id, LEN, 0, versions), 0);
    cap++;
  }
  cap--;
  assert_true(cap >= 60 && cap <= 63); /* 16 MiB / (256 KiB + overhead) */
  for (unsigned i = cap; i > 0; i--)
    list[n++] = i;
  for (int step = 0; step < 20000; step++) {
    unsigned i = (unsigned)rng_below(&rng, KEYS), at = 0;
    while (at < n && list[at] != i)
      at++;
    unsigned op = (unsigned)rng_below(&rng, 100);
    bool front = false;
    if (op < 50) {
      int r = tier_get(t, &k[i].id, &v);
      assert_int_equal(r, at < n ? 0 : -ENOENT);
      if (r == 0) {
        assert_int_equal(v.crc, version[i]);
        if (step % 64 == 0)
          assert_true(intact(&v, &k[i].id));
        tier_release(t, &v);
        front = versions - used[i] >= n / 16;
      }
    } else if (op < 90) {
      uint64_t evictions = stats(t).evictions;
      version[i] = ++versions;
      assert_int_equal(put(t, &k[i].id, LEN, 0, versions), 0);
      unsigned held = n + (pinned < KEYS); /* the pinned one is out of the list, in memory */
      if (held == cap) {
        unsigned victim = n - 1; /* the oldest */
        n--;
        assert_int_equal(stats(t).evictions, evictions + 1);
        if (victim == at)
          at = n; /* evicted to make room for its own successor */
      }
      front = true;
    } else if (op < 94) {
      assert_int_equal(tier_remove(t, &k[i].id), at < n ? 0 : -ENOENT);
      if (at < n)
        memmove(list + at, list + at + 1, (--n - at) * sizeof *list);
    } else if (op < 97) {
      assert_int_equal(tier_contains(t, &k[i].id), at < n);
    } else if (pinned < KEYS) { /* drop the pin on a removed block */
      assert_true(intact(&pin, &k[pinned].id));
      tier_release(t, &pin);
      pinned = KEYS;
    } else if (at < n) {
      assert_int_equal(tier_get(t, &k[i].id, &pin), 0);
      assert_int_equal(tier_remove(t, &k[i].id), 0);
      memmove(list + at, list + at + 1, (--n - at) * sizeof *list);
      pinned = i;
    }
    if (front) {
      used[i] = versions;
      if (at < n)
        memmove(list + 1, list, at * sizeof *list);
      else
        memmove(list + 1, list, n++ * sizeof *list);
      list[0] = i;
    }
    struct tier_stats st = stats(t);
    assert_int_equal(st.blocks, n);
    assert_true(st.used_bytes <= st.max_bytes);
  }
  for (unsigned i = 0; i < KEYS; i++) {
    unsigned at = 0;
    while (at < n && list[at] != i)
      at++;
    assert_int_equal(tier_contains(t, &k[i].id), at < n);
  }
  if (pinned < KEYS)
    tier_release(t, &pin);
  tier_free(&t);
}

/* Over 64 shards the order is that of the commits between uses: what was used within the last half survives. */
static void test_lru_across_shards(void **state) {
  (void)state;
  enum { LEN = 64 * 1024, HOT = 50 };
  struct tier *t = new_tier(BUDGET, 64);
  struct key k;
  struct tier_view v;

  for (unsigned i = 0; i < 2000; i++) {
    key_init(&k, 1, i);
    assert_int_equal(put(t, &k.id, LEN, 0, i), 0);
    if (i % 20 == 0)
      for (unsigned h = 0; h < HOT && h < i; h++) {
        key_init(&k, 1, h);
        assert_int_equal(tier_get(t, &k.id, &v), 0); /* never lost */
        tier_release(t, &v);
      }
  }
  /* And the cold ones went oldest first, across all shards. */
  unsigned here = (unsigned)stats(t).blocks - HOT;
  assert_true(here > 190);
  for (unsigned i = 2000 - here; i < 2000; i++) {
    key_init(&k, 1, i);
    assert_true(tier_contains(t, &k.id));
  }
  tier_free(&t);
}

static void test_pins_and_no_room(void **state) {
  (void)state;
  struct tier *t = new_tier(BUDGET, 64);
  struct key k[17];
  struct tier_view v[16];
  struct tier_slot s;
  unsigned n = 0;

  for (;; n++) { /* pin all there is */
    assert_true(n < 16);
    key_init(&k[n], 1, n);
    if (tier_reserve(t, &k[n].id, MIB, 0, &s) < 0)
      break;
    fill(s.data, MIB, &k[n].id, n);
    assert_int_equal(tier_commit(t, &s, n, &v[n]), 0);
  }
  assert_int_equal(n, 15);
  assert_int_equal(stats(t).refused, 1);
  assert_int_equal(tier_reserve(t, &k[n].id, MIB, 0, &s), -ENOSPC);
  assert_int_equal(tier_drop(t, 1, NULL, NULL, NULL), 15 * MIB); /* frees nothing while pinned */
  assert_int_equal(tier_reserve(t, &k[n].id, MIB, 0, &s), -ENOSPC);
  assert_true(stats(t).used_bytes > 15 * MIB);
  for (unsigned i = 0; i < n; i++)
    assert_true(intact(&v[i], &k[i].id));
  tier_release(t, &v[3]);
  assert_int_equal(tier_reserve(t, &k[n].id, MIB, 0, &s), 0);
  memset(s.data, 0xee, MIB);
  assert_int_equal(tier_commit(t, &s, 0, NULL), 0);
  for (unsigned i = 0; i < n; i++)
    if (i != 3) {
      assert_true(intact(&v[i], &k[i].id));
      tier_release(t, &v[i]);
    }
  assert_int_equal(stats(t).blocks, 1);
  tier_free(&t);
}

static int count_kept(void *arg, const void *key, uint32_t key_len, const struct tier_view *v) {
  unsigned *seen = arg, n;
  char text[32] = {0};
  struct key k;

  assert_true(key_len < sizeof text);
  memcpy(text, key, key_len);
  assert_int_equal(sscanf(text, "key-%u", &n), 1);
  key_init(&k, 2, n);
  assert_true(intact(v, &k.id));
  assert_true(n < 100);
  seen[n]++;
  return 0;
}
static int stop_at_3(void *arg, const void *key, uint32_t key_len, const struct tier_view *v) {
  unsigned *n = arg;
  (void)key, (void)key_len, (void)v;
  return ++*n == 3 ? -42 : 0;
}
struct scan_drop {
  struct tier *t;
  unsigned n;
};
static int drop_in_scan(void *arg, const void *key, uint32_t key_len, const struct tier_view *v) {
  struct scan_drop *d = arg;
  struct key k;
  char text[32] = {0};
  unsigned n;

  memcpy(text, key, key_len);
  assert_int_equal(sscanf(text, "key-%u", &n), 1);
  key_init(&k, 2, n);
  if (d->n++ == 0)
    assert_int_equal(tier_drop(d->t, 2, NULL, NULL, NULL), 100 * 2000); /* no lock is held */
  assert_true(intact(v, &k.id));
  return 0;
}

static void test_keep_and_scan(void **state) {
  (void)state;
  struct tier *t = new_tier(BUDGET, 64);
  struct key k;
  unsigned seen[100] = {0}, n = 0;

  for (unsigned i = 0; i < 100; i++) {
    key_init(&k, 2, 1000 + i);
    assert_int_equal(put(t, &k.id, 2000, 0, i), 0); /* not kept: not scanned */
  }
  for (unsigned i = 0; i < 100; i++) {
    key_init(&k, 2, i);
    assert_int_equal(put(t, &k.id, 2000, TIER_KEEP, i + 5), 0);
    key_init(&k, 3, i);
    assert_int_equal(put(t, &k.id, 2000, TIER_KEEP, i), 0); /* another namespace */
  }
  assert_true(stats(t).kept_bytes >= 200 * 2000);
  for (unsigned i = 0; i < 400; i++) { /* three budgets of other blocks */
    key_init(&k, 1, i);
    assert_int_equal(put(t, &k.id, 128 * KIB, 0, i), 0);
  }
  key_init(&k, 2, 1001);
  assert_false(tier_contains(t, &k.id)); /* evicted, unlike the kept ones */
  assert_int_equal(tier_scan(t, 2, count_kept, seen), 0);
  for (unsigned i = 0; i < 100; i++)
    assert_int_equal(seen[i], 1);
  assert_int_equal(tier_scan(t, 2, stop_at_3, &n), -42);
  assert_int_equal(n, 3);
  assert_int_equal(tier_scan(t, 99, stop_at_3, &n), 0);

  key_init(&k, 3, 0);
  assert_int_equal(tier_remove(t, &k.id), 0);
  uint64_t kept = stats(t).kept_bytes;
  struct scan_drop d = {.t = t};
  assert_int_equal(tier_scan(t, 2, drop_in_scan, &d), 0);
  assert_true(d.n >= 1 && d.n <= 100);
  assert_true(stats(t).kept_bytes < kept);

  /* Kept blocks can fill everything; then nothing else finds room, and they go only when told. */
  key_init(&k, 4, 0);
  for (n = 0; put(t, &k.id, MIB, TIER_KEEP, n) == 0; n++)
    key_init(&k, 4, n + 1);
  assert_true(n >= 14);
  key_init(&k, 1, 0);
  assert_int_equal(put(t, &k.id, MIB, 0, 0), -ENOSPC);
  uint64_t blocks;
  assert_int_equal(tier_drop(t, 4, NULL, NULL, &blocks), n * MIB);
  assert_int_equal(blocks, n);
  assert_int_equal(put(t, &k.id, MIB, 0, 0), 0);
  tier_free(&t);
}

static bool odd_or_kept(void *arg, const void *key, uint32_t key_len, bool kept) {
  unsigned *calls = arg;
  ++*calls;
  return kept || (((const char *)key)[key_len - 1] - '0') % 2;
}

static void test_drop(void **state) {
  (void)state;
  struct tier *t = new_tier(BUDGET, 64);
  struct key k;
  unsigned calls = 0;
  uint64_t base = stats(t).used_bytes, blocks, bytes;
  struct tier_slot s, s2;
  struct tier_view v;

  for (unsigned i = 0; i < 100; i++) {
    key_init(&k, 1, i);
    assert_int_equal(put(t, &k.id, 1000, i == 10 ? TIER_KEEP : 0, 1), 0);
    key_init(&k, 2, i);
    assert_int_equal(put(t, &k.id, 1000, 0, 1), 0);
  }
  key_init(&k, 1, 500);
  assert_int_equal(tier_reserve(t, &k.id, 100, 0, &s), 0);
  fill(s.data, 100, &k.id, 3);
  assert_int_equal(tier_drop(t, 1, odd_or_kept, &calls, &blocks), 51 * 1000);
  assert_int_equal(blocks, 51);
  assert_int_equal(calls, 100);
  assert_int_equal(tier_commit(t, &s, 3, NULL), 0); /* a drop by match lets fills be */
  assert_true(tier_contains(t, &k.id));
  tier_usage(t, 1, &bytes, &blocks);
  assert_int_equal(bytes, 49 * 1000 + 100);

  assert_int_equal(tier_reserve(t, &k.id, 100, 0, &s), 0);
  assert_int_equal(tier_reserve(t, &k.id, 100, 0, &s2), 0);
  fill(s.data, 100, &k.id, 4);
  assert_int_equal(tier_drop(t, 1, NULL, NULL, NULL), 49 * 1000 + 100);
  assert_int_equal(tier_commit(t, &s, 4, &v), -ESTALE);
  assert_int_equal(v.crc, 4);
  assert_true(intact(&v, &k.id));
  assert_false(tier_contains(t, &k.id));
  tier_release(t, &v);
  assert_int_equal(tier_commit(t, &s2, 4, NULL), -ESTALE);
  assert_int_equal(put(t, &k.id, 100, 0, 5), 0); /* begun after the drop */
  tier_usage(t, 2, &bytes, &blocks);
  assert_int_equal(bytes, 100 * 1000);
  assert_int_equal(tier_drop(t, 77, NULL, NULL, &blocks), 0);
  assert_int_equal(blocks, 0);
  tier_drop(t, 1, NULL, NULL, NULL);
  tier_drop(t, 2, NULL, NULL, NULL);
  struct tier_stats st = stats(t); /* only bucket arrays may have grown */
  assert_int_equal(st.blocks, 0);
  assert_true(st.used_bytes <= base + 4096);
  tier_free(&t);
}

static void test_resize(void **state) {
  (void)state;
  struct tier *t = new_tier(BUDGET, 64);
  struct key k;
  struct tier_view v;

  assert_int_equal(tier_resize(t, BUDGET - 1), -EINVAL);
  assert_int_equal(tier_resize(t, UINT64_C(1) << 50), -ENOMEM);
  assert_int_equal(stats(t).max_bytes, BUDGET);
  assert_int_equal(tier_resize(t, 32 * MIB), 0);
  for (unsigned i = 0; i < 40; i++) {
    key_init(&k, 1, i);
    assert_int_equal(put(t, &k.id, MIB, 0, i), 0);
  }
  assert_int_equal(stats(t).blocks, 31);
  key_init(&k, 1, 39);
  assert_int_equal(tier_get(t, &k.id, &v), 0);
  assert_int_equal(tier_resize(t, BUDGET), 0);
  struct tier_stats st = stats(t);
  assert_true(st.used_bytes <= BUDGET);
  assert_true(st.blocks >= 13 && st.blocks <= 15);
  assert_true(intact(&v, &k.id));
  for (unsigned i = 100; i < 140; i++) {
    struct key other;
    key_init(&other, 1, i);
    assert_int_equal(put(t, &other.id, MIB, 0, i), 0);
    assert_true(stats(t).used_bytes <= BUDGET);
    assert_true(intact(&v, &k.id));
  }
  tier_release(t, &v);

  /* Everything pinned: the budget is over-used until the pins go, then it holds. */
  assert_int_equal(tier_resize(t, 32 * MIB), 0);
  struct tier_view pins[30];
  struct key keys[30];
  struct tier_slot s;
  for (unsigned i = 0; i < 30; i++) {
    key_init(&keys[i], 2, i);
    assert_int_equal(tier_reserve(t, &keys[i].id, MIB, 0, &s), 0);
    fill(s.data, MIB, &keys[i].id, i);
    assert_int_equal(tier_commit(t, &s, i, &pins[i]), 0);
  }
  assert_int_equal(tier_resize(t, BUDGET), 0);
  assert_true(stats(t).used_bytes > BUDGET);
  assert_int_equal(put(t, &k.id, 1000, 0, 1), -ENOSPC);
  for (unsigned i = 0; i < 30; i++) {
    assert_true(intact(&pins[i], &keys[i].id));
    tier_release(t, &pins[i]);
  }
  assert_int_equal(put(t, &k.id, 1000, 0, 1), 0);
  assert_true(stats(t).used_bytes <= BUDGET);
  tier_free(&t);
}

static long rss_kib(void) {
  char *text = test_read_file("/proc/self/status", NULL), *at = strstr(text, "VmRSS:");
  long kib = at ? strtol(at + 6, NULL, 10) : -1;
  free(text);
  return kib;
}

/* A shift from one size of blocks to another, then all mixed: the memory in use stays the budget, most of it usable. */
static void test_fragmentation(void **state) {
  (void)state;
  const uint64_t budget = 64 * MIB;
  struct tier *t = new_tier(budget, 64);
  struct rng rng;
  struct key k;
  unsigned refused = 0;
  uint64_t bytes, blocks;
  long before = rss_kib();

  rng_init(&rng, test_seed("FB_SEED"));
  for (unsigned phase = 0; phase < 5; phase++) {
    uint64_t target = SANITIZED ? 96 * MIB : 256 * MIB;
    for (uint64_t done = 0; done < target;) {
      uint32_t len;
      switch (phase) {
      case 0:
      case 2:
        len = (uint32_t)(1 + rng_below(&rng, 8192));
        break;
      case 1:
        len = TIER_BLOCK_MAX;
        break;
      case 3:
        len = (uint32_t)(1 + rng_below(&rng, MIB));
        break;
      default: /* as of a real dataset: small files, tails, full blocks */
        len = rng_below(&rng, 4) ? (uint32_t)(1 + rng_below(&rng, 16384))
                                 : (uint32_t)min_u64(MIB, 1 + rng_below(&rng, 2 * MIB));
      }
      key_init(&k, 1, (unsigned)rng_below(&rng, 1u << 16));
      struct tier_slot s;
      if (tier_reserve(t, &k.id, len, 0, &s) < 0) {
        refused++;
      } else {
        memset(s.data, 1, len);
        tier_commit(t, &s, 0, NULL);
      }
      done += len;
      struct tier_view v; /* hits put age and place at odds */
      key_init(&k, 1, (unsigned)rng_below(&rng, 1u << 16));
      if (tier_get(t, &k.id, &v) == 0)
        tier_release(t, &v);
      assert_true(stats(t).used_bytes <= budget);
    }
    tier_usage(t, 1, &bytes, &blocks);
    print_message("phase %u: %llu blocks, data %.1f %% and all %.1f %% of the budget, RSS +%.1f MiB\n", phase,
                  (unsigned long long)blocks, 100.0 * (double)bytes / (double)budget,
                  100.0 * (double)stats(t).used_bytes / (double)budget, (double)(rss_kib() - before) / 1024);
    assert_true(stats(t).used_bytes > budget * 6 / 10);
  }
  assert_int_equal(refused, 0);
  if (!SANITIZED)
    assert_true((uint64_t)(rss_kib() - before) * 1024 < budget * 5 / 4);
  tier_free(&t);
}

/* Kept blocks that stand in the way of every large one cost the fill its place, not the cache its contents. */
static void test_kept_in_the_way(void **state) {
  (void)state;
  struct tier *t = new_tier(BUDGET, 64);
  struct key k;
  unsigned n = 0;

  while (stats(t).evictions == 0) {
    key_init(&k, 1, n);
    assert_int_equal(put(t, &k.id, 120 * KIB, 0, 1), 0);
    key_init(&k, 2, n++);
    assert_int_equal(put(t, &k.id, 4 * KIB, TIER_KEEP, 1), 0);
  }
  key_init(&k, 3, 0);
  for (unsigned i = 0; i < 3; i++) {
    uint64_t blocks = stats(t).blocks;
    assert_int_equal(put(t, &k.id, 512 * KIB, 0, 1), -ENOSPC);
    assert_true(stats(t).blocks + (i ? 0 : 5) >= blocks); /* the first evicted for its budget, and gave that back */
  }
  assert_true(stats(t).kept_bytes >= n * 4 * KIB);
  for (unsigned i = 0; i < n; i++) {
    key_init(&k, 2, i);
    assert_true(tier_contains(t, &k.id));
  }
  tier_free(&t);
}

/* Small files: what a block costs beyond its data and key. */
static void test_overhead(void **state) {
  (void)state;
  struct tier *t = new_tier(64 * MIB, 64);
  struct key k;
  uint64_t base = stats(t).used_bytes, payload = 0;
  enum { N = 10000 };

  for (unsigned i = 0; i < N; i++) {
    key_init(&k, 1, i);
    uint32_t len = 1 + i % 4096;
    assert_int_equal(put(t, &k.id, len, 0, i), 0);
    payload += len + k.id.key_len;
  }
  assert_int_equal(stats(t).blocks, N);
  double per = (double)(stats(t).used_bytes - base - payload) / N;
  print_message("overhead per block: %.1f bytes\n", per);
  assert_true(per < 200);
  tier_free(&t);
}

/* --- threads ---------------------------------------------------------------------------------------------------- */

enum { T_KEYS = 400, T_THREADS = 4 };
struct hammer {
  struct tier *t;
  uint64_t seed, limit;
  atomic_bool stop;
  atomic_uint versions;
  bool resizes;
};

static int check_kept(void *arg, const void *key, uint32_t key_len, const struct tier_view *v) {
  (void)arg, (void)key;
  CHECK(key_len > 0 && v->len > 0 && v->data);
  return 0;
}
static bool some(void *arg, const void *key, uint32_t key_len, bool kept) {
  (void)arg, (void)kept;
  return ((const char *)key)[key_len - 1] == '3';
}

static void *hammer_thread(void *arg) {
  struct hammer *h = arg;
  struct rng rng;
  struct tier_view held[8] = {0};
  struct block_id held_id[8];
  struct key held_key[8];

  rng_init(&rng, h->seed + atomic_fetch_add(&h->versions, 1) * 7919);
  for (int step = 0; step < (SANITIZED ? 6000 : 15000); step++) {
    struct key k;
    uint64_t ns = 1 + rng_below(&rng, 3);
    key_init(&k, ns, (unsigned)rng_below(&rng, T_KEYS));
    unsigned op = (unsigned)rng_below(&rng, 1000), at = (unsigned)rng_below(&rng, 8);
    struct tier_slot s;
    struct tier_view v;
    if (op < 400) {
      if (tier_get(h->t, &k.id, &v) == 0) {
        CHECK(intact(&v, &k.id));
        if (!held[at].pin) {
          held_key[at] = k;
          held_id[at] = k.id;
          held_id[at].key = held_key[at].text;
          held[at] = v;
        } else {
          tier_release(h->t, &v);
        }
      }
    } else if (op < 600) {
      if (held[at].pin) {
        CHECK(intact(&held[at], &held_id[at]));
        tier_release(h->t, &held[at]);
      }
    } else if (op < 960) {
      uint32_t len = (uint32_t)(1 + rng_below(&rng, rng_below(&rng, 8) ? 4096 : 512 * KIB));
      uint32_t version = atomic_fetch_add(&h->versions, 1);
      unsigned flags = ns == 3 && rng_below(&rng, 4) == 0 ? TIER_KEEP : 0;
      int r = tier_reserve(h->t, &k.id, len, flags, &s);
      CHECK(r == 0 || r == -ENOSPC);
      if (r == 0) {
        fill(s.data, len, &k.id, version);
        if (rng_below(&rng, 10) == 0) {
          tier_abort(h->t, &s);
        } else {
          bool want = rng_below(&rng, 2);
          r = tier_commit(h->t, &s, version, want ? &v : NULL);
          CHECK(r == 0 || r == -ESTALE);
          if (want) {
            CHECK(v.crc == version && v.len == len && intact(&v, &k.id));
            tier_release(h->t, &v);
          }
        }
      }
    } else if (op < 980) {
      int r = tier_remove(h->t, &k.id);
      CHECK(r == 0 || r == -ENOENT);
    } else if (op < 983) {
      tier_drop(h->t, ns, rng_below(&rng, 8) ? some : NULL, NULL, NULL);
    } else if (op < 990) {
      CHECK(tier_scan(h->t, 3, check_kept, NULL) == 0);
    } else if (op < 995) {
      uint64_t bytes, blocks;
      tier_usage(h->t, ns, &bytes, &blocks);
      CHECK(blocks <= T_KEYS);
    } else if (h->resizes) {
      CHECK(tier_resize(h->t, BUDGET + rng_below(&rng, 8) * MIB) == 0);
    }
    tier_contains(h->t, &k.id);
  }
  for (int i = 0; i < 8; i++)
    if (held[i].pin) {
      CHECK(intact(&held[i], &held_id[i]));
      tier_release(h->t, &held[i]);
    }
  return NULL;
}

static void *watch_thread(void *arg) {
  struct hammer *h = arg;

  while (!atomic_load(&h->stop)) {
    struct tier_stats st;
    tier_stats(h->t, &st);
    CHECK(st.used_bytes <= h->limit);
    CHECK(st.kept_bytes <= h->limit);
    struct timespec pause = {.tv_nsec = 50000}; /* not to be all there is */
    nanosleep(&pause, NULL);
  }
  return NULL;
}

static void hammer(bool resizes, unsigned shards) {
  struct hammer h = {.t = new_tier(BUDGET, shards), .seed = test_seed("FB_SEED"), .resizes = resizes};
  pthread_t threads[T_THREADS], watcher;
  uint64_t base = stats(h.t).used_bytes;

  h.limit = resizes ? BUDGET + 8 * MIB : BUDGET;
  assert_int_equal(pthread_create(&watcher, NULL, watch_thread, &h), 0);
  for (int i = 0; i < T_THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, hammer_thread, &h), 0);
  for (int i = 0; i < T_THREADS; i++)
    pthread_join(threads[i], NULL);
  atomic_store(&h.stop, true);
  pthread_join(watcher, NULL);
  struct tier_stats st = stats(h.t);
  assert_true(st.hits > 0 && st.evictions > 0 && st.commits > 0);
  print_message("commits %llu hits %llu evictions %llu refused %llu\n", (unsigned long long)st.commits,
                (unsigned long long)st.hits, (unsigned long long)st.evictions, (unsigned long long)st.refused);
  for (uint64_t ns = 1; ns <= 3; ns++)
    tier_drop(h.t, ns, NULL, NULL, NULL);
  st = stats(h.t);
  assert_int_equal(st.blocks, 0);
  assert_int_equal(st.kept_bytes, 0);
  assert_true(st.used_bytes <= base + 2 * T_KEYS * 3 * sizeof(void *) * 2); /* grown bucket arrays */
  tier_free(&h.t);
}

static void test_hammer(void **state) {
  (void)state;
  hammer(false, 64);
  hammer(false, 1);
}

static void test_hammer_resize(void **state) {
  (void)state;
  hammer(true, 8);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_new_errors),
      cmocka_unit_test(test_get_put_remove),
      cmocka_unit_test(test_collisions),
      cmocka_unit_test(test_lru_model),
      cmocka_unit_test(test_lru_across_shards),
      cmocka_unit_test(test_pins_and_no_room),
      cmocka_unit_test(test_keep_and_scan),
      cmocka_unit_test(test_drop),
      cmocka_unit_test(test_resize),
      cmocka_unit_test(test_fragmentation),
      cmocka_unit_test(test_kept_in_the_way),
      cmocka_unit_test(test_overhead),
      cmocka_unit_test(test_hammer),
      cmocka_unit_test(test_hammer_resize),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
