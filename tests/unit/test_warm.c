/* test_warm.c - making chunks resident, and counting what is. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "tests/lib/service_fixture.h"
#include "tests/lib/testlib.h"

static struct service_fixture f;
static struct fake_origin *origin;
static struct rng rng;

static int setup(void **state) {
  (void)state;
  service_fixture_start(&f, 0);
  make_dataset(&f, "d", 65536);
  origin = service_fixture_fake_origin(&f, "d");
  return 0;
}
static int teardown(void **state) {
  (void)state;
  service_fixture_end(&f);
  return 0;
}

static struct warm_item file(const char *key, size_t size) {
  uint8_t *data = malloc(size + 1);

  rng_fill(&rng, data, size);
  fake_origin_set(origin, key, data, size);
  free(data);
  return (struct warm_item){.key = key, .etag = fake_origin_etag(origin, key), .size = size};
}

static void warm(const struct warm_item *items, unsigned n, bool check_only, struct warm_answer *a) {
  ask_warm(&f,
           &(struct warm_req){
               .ns = "d", .items = items, .n = n, .check_only = check_only, .deadline_ns = deadline_in_ms(60000)},
           a);
}

static void chunks_become_resident_and_are_counted(void **state) {
  struct warm_answer a;
  struct warm_item items[] = {
      file("small", 10), file("two", 131072), file("odd", 200001), file("big", (17u << 20) + 5), file("none", 0),
  };
  const unsigned n = sizeof items / sizeof *items;

  (void)state;
  warm(items, n, true, &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.n, n);
  for (unsigned i = 0; i < n; i++)
    assert_int_equal(a.results[i].resident_bytes, 0);
  assert_int_equal(metric(&f, M_origin_reads), 0); /* looking fills nothing */
  for (int again = 0; again < 2; again++) {
    warm(items, n, false, &a);
    assert_int_equal(a.code, 0);
    for (unsigned i = 0; i < n; i++) {
      size_t want = min_u64(items[i].size, CHUNK_BYTES); /* chunk 0 of the big one */
      assert_int_equal(a.results[i].code, 0);
      assert_int_equal(a.results[i].resident_bytes, want);
      assert_int_equal(a.results[i].origin_bytes, again ? 0 : want);
    }
    warm(items, n, true, &a);
    for (unsigned i = 0; i < n; i++)
      assert_int_equal(a.results[i].resident_bytes, min_u64(items[i].size, CHUNK_BYTES));
  }
  items[3].chunk = 1;
  warm(&items[3], 1, false, &a);
  assert_int_equal(a.results[0].resident_bytes, (17u << 20) + 5 - CHUNK_BYTES);
  items[3].chunk = UINT64_MAX; /* no such chunk, and no overflow */
  warm(&items[3], 1, false, &a);
  assert_int_equal(a.results[0].resident_bytes, 0);
  warm(&items[3], 1, true, &a);
  assert_int_equal(a.results[0].resident_bytes, 0);
}

static void each_item_has_its_own_fate(void **state) {
  struct warm_answer a;
  struct warm_item items[] = {file("good", 100), file("gone", 100), file("changed", 70000), file("good2", 100000)};

  (void)state;
  fake_origin_remove(origin, "gone");
  file("changed", 70000);
  warm(items, 4, false, &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.results[0].resident_bytes, 100);
  assert_int_equal(a.results[1].code, -ENOENT);
  assert_true(strlen(a.results[1].text) > 5);
  assert_int_equal(a.results[2].code, -FB_ECHANGED);
  assert_int_equal(a.results[3].resident_bytes, 100000);
  items[0].size = 99; /* a size that is not the version's must not enter the cache under its etag */
  items[0].etag = file("good", 100).etag;
  warm(items, 1, false, &a);
  assert_int_equal(a.results[0].code, -FB_ECHANGED);
  assert_int_equal(a.results[0].resident_bytes, 0);
  struct answer g;
  ask_get(&f, "d", "good", 0, 1000, 0, &g);
  assert_int_equal(g.len, 100);
  answer_free(&g);
}

static void bad_requests(void **state) {
  struct warm_item item = file("x", 10);
  struct warm_answer a;

  (void)state;
  item.key = "../x";
  warm(&item, 1, false, &a);
  assert_int_equal(a.code, -FB_EKEYNAME);
  item.key = "x";
  ask_warm(&f, &(struct warm_req){.ns = "nope", .items = &item, .n = 1, .deadline_ns = deadline_in_ms(60000)}, &a);
  assert_int_equal(a.code, -FB_ENONS);
  assert_non_null(strstr(a.text, "nope"));
}

/* The last blocks of an operation end on several threads at once: exactly one of them ends the operation. */
#define ROUNDS 500
#define OPS 2
static void blocks_that_end_together_end_the_operation_once(void **state) {
  static struct warm_answer a[OPS];
  static const char *const keys[OPS] = {"a", "b"};

  (void)state;
  for (int round = 0; round < ROUNDS; round++) {
    gate_close(&origin->read.gate);
    for (int i = 0; i < OPS; i++) {
      struct warm_item item = file(keys[i], 2 * 65536);
      begin_warm(&f, &(struct warm_req){.ns = "d", .items = &item, .n = 1, .deadline_ns = deadline_in_ms(60000)},
                 &a[i]);
    }
    assert_true(gate_wait(&origin->read.gate, 2 * OPS, 60000));
    gate_open(&origin->read.gate);
    for (int i = 0; i < OPS; i++) {
      warm_answer_await(&a[i]);
      assert_int_equal(a[i].results[0].resident_bytes, 2 * 65536);
    }
  }
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(chunks_become_resident_and_are_counted),
      T(each_item_has_its_own_fate),
      T(bad_requests),
      T(blocks_that_end_together_end_the_operation_once),
  };
  rng_init(&rng, test_seed("FOREBAY_SEED"));
  return cmocka_run_group_tests(tests, NULL, NULL);
}
