/* test_blob.c - pieces, ranges of pieces, and that every piece is released exactly once, by whoever comes last. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/blob.h"
#include "common/crc.h"
#include "tests/lib/testlib.h"

static void count(void *owner) { atomic_fetch_add((atomic_int *)owner, 1); }

static void assert_bytes(const struct blob *b, const char *want) {
  char buf[256];

  assert_int_equal(b->len, strlen(want));
  assert_int_equal(blob_read(b, 0, buf, sizeof buf), strlen(want));
  assert_memory_equal(buf, want, strlen(want));
  assert_int_equal(blob_crc32c(b), crc32c(0, want, strlen(want)));
}

static void empty(void **state) {
  struct blob *b = blob_new(0), *none = NULL;
  char c;

  (void)state;
  assert_bytes(b, "");
  assert_int_equal(blob_read(b, 5, &c, 1), 0);
  assert_int_equal(blob_crc32c(b), 0);
  assert_int_equal(blob_append_range(b, b, 0, 0), 0);
  assert_int_equal(blob_append_range(b, b, 0, 1), -EINVAL);
  blob_unref(&b);
  assert_null(b);
  blob_unref(&none);
  b = blob_copy(NULL, 0);
  assert_bytes(b, "");
  blob_unref(&b);
}

static void copy_owns_its_bytes(void **state) {
  char text[] = "basin";
  struct blob *b = blob_copy(text, 5);

  (void)state;
  memset(text, 'x', 5);
  assert_bytes(b, "basin");
  blob_unref(&b);
}

static void pieces_are_released_once(void **state) {
  struct blob *b = blob_new(1);
  atomic_int released[4] = {0};

  (void)state;
  assert_int_equal(blob_append(b, "he", 2, count, &released[0]), 0);
  assert_int_equal(blob_append(b, "llo ", 4, count, &released[1]), 0);
  assert_int_equal(blob_append(b, "there", 5, NULL, NULL), 0);
  /* An empty piece is dropped at once. */
  assert_int_equal(blob_append(b, "", 0, count, &released[2]), 0);
  assert_int_equal(released[2], 1);
  assert_int_equal(b->n, 3);
  assert_bytes(b, "hello there");

  struct blob *again = blob_ref(b);
  blob_unref(&b);
  assert_int_equal(released[0], 0);
  assert_bytes(again, "hello there");
  blob_unref(&again);
  for (int i = 0; i < 3; i++)
    assert_int_equal(released[i], 1);
}

static void ranges_hold_their_source(void **state) {
  struct blob *src = blob_new(2), *view = blob_new(0);
  atomic_int released = 0;

  (void)state;
  blob_append(src, "abcd", 4, count, &released);
  blob_append(src, "efgh", 4, count, &released);
  assert_int_equal(blob_append_range(view, src, 2, 4), 0);
  assert_int_equal(view->n, 2);
  assert_int_equal(blob_append_range(view, src, 8, 0), 0);
  assert_int_equal(blob_append_range(view, src, 7, 1), 0);
  assert_int_equal(blob_append_range(view, src, 4, 4), 0);
  assert_int_equal(view->n, 4);
  assert_int_equal(blob_append_range(view, src, 8, 1), -EINVAL);
  assert_int_equal(blob_append_range(view, src, 9, 0), -EINVAL);
  assert_int_equal(blob_append_range(view, src, 1, SIZE_MAX), -EINVAL);
  blob_unref(&src);
  assert_int_equal(released, 0);
  assert_bytes(view, "cdefhefgh");
  blob_unref(&view);
  assert_int_equal(released, 2);
}

static void random_ranges_read_like_a_flat_copy(void **state) {
  struct rng rng;
  uint8_t flat[3000], got[3000];

  (void)state;
  rng_init(&rng, test_seed("FOREBAY_TEST_SEED"));
  for (int round = 0; round < 100; round++) {
    struct blob *src = blob_new(0);
    size_t at = 0;

    rng_fill(&rng, flat, sizeof flat);
    while (at < sizeof flat) {
      size_t n = 1 + rng_below(&rng, 400);
      n = n < sizeof flat - at ? n : sizeof flat - at;
      assert_int_equal(blob_append(src, flat + at, n, NULL, NULL), 0);
      at += n;
    }
    for (int i = 0; i < 20; i++) {
      struct blob *view = blob_new(0);
      size_t off = rng_below(&rng, sizeof flat + 1), len = rng_below(&rng, sizeof flat - off + 1);

      assert_int_equal(blob_append_range(view, src, off, len), 0);
      assert_int_equal(view->len, len);
      assert_int_equal(blob_crc32c(view), crc32c(0, flat + off, len));
      size_t from = rng_below(&rng, len + 10), want = from < len ? len - from : 0;
      assert_int_equal(blob_read(view, from, got, sizeof got), want);
      assert_memory_equal(got, flat + (want ? off + from : 0), want);
      blob_unref(&view);
    }
    assert_int_equal(atomic_load(&src->refs), 1);
    blob_unref(&src);
  }
}

#define THREADS 4
struct shared {
  struct blob *blob;
  atomic_int *released;
};

static void *reader(void *arg) {
  struct shared *s = arg;
  struct blob *mine = s->blob;
  char buf[8];

  for (int i = 0; i < 2000; i++) {
    struct blob *view = blob_new(1);
    blob_append_range(view, mine, (size_t)i % 6, 2);
    if (atomic_load(s->released) != 0 || blob_read(view, 0, buf, sizeof buf) != 2)
      abort();
    blob_unref(&view);
  }
  blob_unref(&mine);
  return NULL;
}

static void last_thread_releases(void **state) {
  atomic_int released = 0;

  (void)state;
  for (int round = 0; round < 20; round++) {
    pthread_t threads[THREADS];
    /* Memory that a use after release would trip over (ASan), and a race on it (TSan). */
    char *bytes = malloc(8);
    struct blob *b = blob_new(2);

    memcpy(bytes, "abcdefgh", 8);
    blob_append(b, bytes, 8, free, bytes);
    blob_append(b, "x", 1, count, &released);
    struct shared s = {b, &released};
    for (int i = 0; i < THREADS; i++) {
      blob_ref(b);
      assert_int_equal(pthread_create(&threads[i], NULL, reader, &s), 0);
    }
    struct blob *mine = b;
    for (int i = 0; i < THREADS; i++)
      pthread_join(threads[i], NULL);
    assert_int_equal(released, 0);
    blob_unref(&mine);
    assert_int_equal(atomic_exchange(&released, 0), 1);
  }
}

static void *drop(void *arg) {
  struct blob *b = arg;
  blob_unref(&b);
  return NULL;
}

static void unref_race_releases_once(void **state) {
  (void)state;
  for (int round = 0; round < 300; round++) {
    atomic_int released = 0;
    pthread_t threads[THREADS];
    struct blob *b = blob_new(1);

    blob_append(b, "x", 1, count, &released);
    for (int i = 0; i < THREADS - 1; i++)
      blob_ref(b);
    for (int i = 0; i < THREADS; i++)
      assert_int_equal(pthread_create(&threads[i], NULL, drop, b), 0);
    for (int i = 0; i < THREADS; i++)
      pthread_join(threads[i], NULL);
    assert_int_equal(released, 1);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(empty),
      cmocka_unit_test(copy_owns_its_bytes),
      cmocka_unit_test(pieces_are_released_once),
      cmocka_unit_test(ranges_hold_their_source),
      cmocka_unit_test(random_ranges_read_like_a_flat_copy),
      cmocka_unit_test(last_thread_releases),
      cmocka_unit_test(unref_race_releases_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
