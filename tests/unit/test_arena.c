/* test_arena.c - the RAM tier's memory: no two allocations overlap, neighbours merge, fragments are found and undone.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/tier/arena.h"
#include "tests/lib/testlib.h"

#define MIB (UINT64_C(1) << 20)

static void test_alloc_all_and_merge(void **state) {
  (void)state;
  struct arena *a;
  char *p[64];

  assert_int_equal(arena_new(&a, 4 * MIB, 4 * MIB), 0);
  for (int i = 0; i < 64; i++) { /* exactly full */
    p[i] = arena_alloc(a, 65536 - ARENA_CHUNK_HEADER);
    assert_non_null(p[i]);
    assert_int_equal((uintptr_t)(p[i] + 48) % 64, 0);
    memset(p[i], i, 65536 - ARENA_CHUNK_HEADER);
  }
  assert_null(arena_alloc(a, 1));
  for (int i = 0; i < 64; i += 2)
    arena_release(a, p[i]);
  assert_null(arena_alloc(a, 65536)); /* 2 MiB are free, in pieces that are just too small */
  char *again = arena_alloc(a, 65536 - ARENA_CHUNK_HEADER);
  assert_non_null(again);
  for (int i = 1; i < 64; i += 2) {
    for (int k = 0; k < 65536 - (int)ARENA_CHUNK_HEADER; k += 997)
      assert_int_equal(p[i][k], i);
    arena_release(a, p[i]);
  }
  arena_release(a, again);
  char *whole = arena_alloc(a, 4 * MIB - ARENA_CHUNK_HEADER);
  assert_non_null(whole);
  arena_release(a, whole);
  arena_free(&a);
  assert_null(a);
  arena_free(&a);
}

static void test_bad_sizes(void **state) {
  (void)state;
  struct arena *a;

  assert_int_equal(arena_new(&a, 0, MIB), -EINVAL);
  assert_int_equal(arena_new(&a, UINT64_MAX / 2, 0), -ENOMEM);
  assert_int_equal(arena_new(&a, MIB, 0), 0);
  assert_null(arena_alloc(a, UINT64_MAX));
  assert_null(arena_alloc(a, UINT64_MAX - 64));
  assert_null(arena_alloc(a, MIB));
  assert_int_equal(arena_resize(a, 0), -EINVAL);
  assert_int_equal(arena_resize(a, 64 * MIB), -ENOMEM);
  char *p = arena_alloc(a, MIB - ARENA_CHUNK_HEADER);
  assert_non_null(p);
  arena_release(a, p);
  arena_free(&a);
}

#define LIVE 512
static void test_random(void **state) {
  (void)state;
  struct rng rng;
  struct arena *a;
  static struct {
    unsigned char *p, fill;
    uint64_t size;
  } live[LIVE];
  uint64_t used = 0, failed = 0;

  rng_init(&rng, test_seed("FB_SEED"));
  assert_int_equal(arena_new(&a, 2 * MIB, 2 * MIB), 0);
  for (int step = 0; step < 60000; step++) {
    unsigned i = (unsigned)rng_below(&rng, LIVE);
    if (live[i].p) {
      for (uint64_t k = 0; k < live[i].size; k += 1 + live[i].size / 16)
        assert_int_equal(live[i].p[k], live[i].fill);
      assert_int_equal(live[i].p[live[i].size - 1], live[i].fill);
      used -= arena_cost(live[i].size);
      arena_release(a, live[i].p);
      live[i].p = NULL;
    } else {
      live[i].size = 1 + rng_below(&rng, UINT64_C(1) << rng_range(&rng, 4, 17));
      live[i].p = arena_alloc(a, live[i].size);
      live[i].fill = (unsigned char)rng_u64(&rng);
      if (live[i].p) {
        for (uint64_t k = 0; k < live[i].size && k < ARENA_ZEROED; k++)
          assert_int_equal(live[i].p[k], 0);
        memset(live[i].p, live[i].fill, live[i].size);
        used += arena_cost(live[i].size);
        assert_true(used <= 2 * MIB);
      } else {
        failed++;
      }
    }
  }
  assert_true(failed > 0);
  for (int i = 0; i < LIVE; i++)
    if (live[i].p) {
      arena_release(a, live[i].p);
      live[i].p = NULL;
    }
  char *whole = arena_alloc(a, 2 * MIB - ARENA_CHUNK_HEADER);
  assert_non_null(whole);
  arena_release(a, whole);
  arena_free(&a);
}

/* In the tests of arena_span a chunk's first byte says whether it can go. */
static bool can_go(void *p) { return *(char *)p == 'y'; }
struct taken {
  void *p[16];
  int n;
};
static void take(void *arg, void *p) {
  struct taken *t = arg;
  assert_true(t->n < 16);
  t->p[t->n++] = p;
}

static void test_span(void **state) {
  (void)state;
  struct arena *a;
  char *p[16];
  struct taken taken = {.n = 0};

  assert_int_equal(arena_new(&a, MIB, MIB), 0);
  for (int i = 0; i < 16; i++) {
    p[i] = arena_alloc(a, 65536 - ARENA_CHUNK_HEADER);
    *p[i] = 'y';
  }
  *p[4] = *p[9] = 'n'; /* 5..8 can become one piece of 256 KiB */
  arena_release(a, p[7]);
  assert_false(arena_span(a, p[6], 5 * 65536 - ARENA_CHUNK_HEADER, can_go, take, &taken));
  assert_int_equal(taken.n, 0);
  assert_true(arena_span(a, p[6], 4 * 65536 - ARENA_CHUNK_HEADER, can_go, take, &taken));
  assert_int_equal(taken.n, 2);
  assert_ptr_equal(taken.p[0], p[5]);
  assert_ptr_equal(taken.p[1], p[8]);
  arena_release(a, p[5]);
  arena_release(a, p[8]);
  arena_release(a, p[6]);
  char *big = arena_alloc(a, 4 * 65536 - ARENA_CHUNK_HEADER);
  assert_ptr_equal(big, p[5]);
  *big = 'n';
  /* At both ends of the arena. */
  taken.n = 0;
  assert_true(arena_span(a, p[0], 2 * 65536 - ARENA_CHUNK_HEADER, can_go, take, &taken));
  assert_int_equal(taken.n, 1);
  assert_ptr_equal(taken.p[0], p[1]);
  taken.n = 0;
  assert_true(arena_span(a, p[15], 2 * 65536 - ARENA_CHUNK_HEADER, can_go, take, &taken));
  assert_int_equal(taken.n, 1);
  assert_ptr_equal(taken.p[0], p[14]);
  assert_false(arena_span(a, p[15], 7 * 65536, can_go, take, &taken));
  arena_release(a, big);
  for (int i = 0; i < 16; i++)
    if (i < 5 || i > 8)
      arena_release(a, p[i]);
  arena_free(&a);
}

static void test_resize(void **state) {
  (void)state;
  struct arena *a;
  struct taken taken = {.n = 0};

  assert_int_equal(arena_new(&a, MIB, 4 * MIB), 0);
  char *low = arena_alloc(a, MIB / 2);
  assert_null(arena_alloc(a, MIB));
  assert_int_equal(arena_resize(a, 3 * MIB), 0);
  char *high = arena_alloc(a, 2 * MIB); /* over the old end */
  assert_non_null(high);
  memset(high, 'y', 2 * MIB);
  /* Shrinking waits for what is in the way, and goes on by itself when that is released. */
  assert_int_equal(arena_resize(a, MIB), 0);
  assert_false(arena_trim(a, take, &taken));
  assert_int_equal(taken.n, 1);
  assert_ptr_equal(taken.p[0], high);
  arena_release(a, high);
  assert_true(arena_trim(a, take, &taken));
  assert_int_equal(taken.n, 1);
  assert_null(arena_alloc(a, MIB));
  assert_int_equal(arena_resize(a, 2 * MIB), 0); /* touched before, given back, and zero again */
  high = arena_alloc(a, MIB);
  assert_non_null(high);
  memset(high, 'z', MIB);
  arena_release(a, low);
  /* Shrink in the middle of the last free chunk. */
  arena_release(a, high);
  assert_int_equal(arena_resize(a, MIB + 64), 0);
  char *exact = arena_alloc(a, MIB + 64 - ARENA_CHUNK_HEADER);
  assert_non_null(exact);
  assert_null(arena_alloc(a, 1));
  arena_release(a, exact);
  arena_free(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_alloc_all_and_merge),
      cmocka_unit_test(test_bad_sizes),
      cmocka_unit_test(test_random),
      cmocka_unit_test(test_span),
      cmocka_unit_test(test_resize),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
