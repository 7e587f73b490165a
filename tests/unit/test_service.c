/* test_service.c - the operations of one peer over a real directory: hits, fills, versions, errors, limits, puts. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/crc.h"
#include "server/service/catalog.h"
#include "tests/lib/service_fixture.h"
#include "tests/lib/testlib.h"

static struct service_fixture f;
static struct rng rng;

static int setup(void **state) {
  (void)state;
  service_fixture_start(&f, 0);
  return 0;
}
static int teardown(void **state) {
  (void)state;
  service_fixture_end(&f);
  return 0;
}

static uint8_t *write_random(const char *key, size_t len) {
  uint8_t *data = malloc(len + 1);
  char *path = test_printf("%s/%s", f.origin, key);

  rng_fill(&rng, data, len);
  test_write_file(path, data, len);
  free(path);
  return data;
}

static void ranges_are_exact(void **state) {
  const size_t size = 300000; /* five blocks of 64 KiB, the last one short */
  struct answer a;

  (void)state;
  make_dataset(&f, "d", 65536);
  uint8_t *data = write_random("x.bin", size);
  for (int i = 0; i < 200; i++) {
    uint64_t off = rng_below(&rng, size + 1);
    uint32_t len = (uint32_t)rng_below(&rng, size + 1000);
    ask_get(&f, "d", "x.bin", off, len, 0, &a);
    assert_int_equal(a.code, 0);
    size_t want = off + len > size ? size - off : len;
    assert_int_equal(a.len, want);
    assert_memory_equal(a.data, data + off, want);
    assert_int_equal(a.crc, crc32c(0, data + off, want));
    assert_int_equal(a.info.size, size);
    answer_free(&a);
  }
  assert_int_equal(metric(&f, M_origin_reads), 5); /* each block once, whatever was asked */
  assert_int_equal(metric(&f, M_origin_read_bytes), size);
  ask_get(&f, "d", "x.bin", size, 10, 0, &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.len, 0);
  answer_free(&a);
  ask_get(&f, "d", "x.bin", size + 1, 10, 0, &a);
  assert_int_equal(a.code, -FB_EPASTEND);
  assert_non_null(strstr(a.text, "d/x.bin"));
  ask_get(&f, "d", "x.bin", UINT64_MAX - 5, 10, 0, &a);
  assert_int_equal(a.code, -FB_EPASTEND);
  ask_get(&f, "d", "x.bin", 0, GET_MAX_BYTES + 1, 0, &a);
  assert_int_equal(a.code, -FB_ETOOBIG);
  free(data);
}

static void a_range_over_two_chunks_is_one_answer(void **state) {
  const size_t size = CHUNK_BYTES + 500000;
  struct answer a;

  (void)state;
  make_dataset(&f, "d", 1u << 20);
  uint8_t *data = write_random("big", size);
  ask_get(&f, "d", "big", CHUNK_BYTES - 1000, 3000, 0, &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.len, 3000);
  assert_memory_equal(a.data, data + CHUNK_BYTES - 1000, 3000);
  assert_int_equal(a.crc, crc32c(0, a.data, 3000));
  answer_free(&a);
  /* A file that ends before the second chunk. */
  free(write_random("small", 100));
  ask_get(&f, "d", "small", 50, GET_MAX_BYTES, 0, &a);
  assert_int_equal(a.len, 50);
  answer_free(&a);
  ask_get(&f, "d", "small", CHUNK_BYTES - 10, 100, 0, &a);
  assert_int_equal(a.code, -FB_EPASTEND);
  free(data);
}

static void each_bad_request_has_its_own_code(void **state) {
  static const struct {
    const char *ns, *key;
    int code;
  } bad[] = {
      {"nope", "x", -FB_ENONS},      {"Bad Name", "x", -FB_ENSNAME}, {"d", "", -FB_EKEYEMPTY},
      {"d", "a/../b", -FB_EKEYNAME}, {"d", "/abs", -FB_EKEYNAME},    {"d", "a//b", -FB_EKEYNAME},
      {"d", "missing", -ENOENT},     {"d", "dir", -EISDIR},          {"d", "file/below", -ENOTDIR},
      {"d", "out", -FB_EESCAPES},
  };
  char long_key[1100];
  struct answer a;

  (void)state;
  make_dataset(&f, "d", 65536);
  free(write_random("file", 10));
  char *path = test_printf("%s/dir", f.origin), *link = test_printf("%s/out", f.origin);
  mkdir(path, 0755);
  assert_int_equal(symlink("/etc/passwd", link), 0);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ask_get(&f, bad[i].ns, bad[i].key, 0, 10, 0, &a);
    assert_int_equal(a.code, bad[i].code);
    assert_true(strlen(a.text) > 5);
    ask_stat(&f, bad[i].ns, bad[i].key, true, &a);
    assert_int_equal(a.code, bad[i].code == -EISDIR ? 0 : bad[i].code);
  }
  memset(long_key, 'k', sizeof long_key);
  long_key[1025] = '\0';
  ask_get(&f, "d", long_key, 0, 10, 0, &a);
  assert_int_equal(a.code, -FB_EKEYLONG);
  free(path);
  free(link);
}

static void a_change_is_a_new_version_and_never_a_mix(void **state) {
  const size_t size = 200000;
  struct answer old, a;

  (void)state;
  make_dataset(&f, "d", 65536);
  uint8_t *one = write_random("x", size);
  ask_get(&f, "d", "x", 0, 70000, 0, &old); /* two of four blocks are resident now */
  assert_int_equal(old.code, 0);
  uint8_t *two = write_random("x", size);
  /* The rest of the old version is not to be had any more. */
  ask_get(&f, "d", "x", 140000, 1000, old.info.etag, &a);
  assert_int_equal(a.code, -FB_ECHANGED);
  /* Without a version: all of the new one, as soon as attr_ttl_ms (1 ms) has passed. */
  for (int i = 0; i < 1000; i++) {
    ask_get(&f, "d", "x", 0, (uint32_t)size, 0, &a);
    assert_int_equal(a.code, 0);
    if (a.info.etag != old.info.etag)
      break;
    assert_memory_equal(a.data, one, size);
    answer_free(&a);
  }
  assert_int_not_equal(a.info.etag, old.info.etag);
  assert_memory_equal(a.data, two, size);
  answer_free(&a);
  answer_free(&old);
  free(one);
  free(two);
}

static void errors_pass_through_and_soon_are_forgotten(void **state) {
  struct answer a;

  (void)state;
  make_dataset(&f, "d", 65536);
  ask_get(&f, "d", "late", 0, 10, 0, &a);
  assert_int_equal(a.code, -ENOENT);
  uint64_t stats = metric(&f, M_origin_stats);
  ask_get(&f, "d", "late", 0, 10, 0, &a); /* within error_ttl_ms: not asked again, unless this took 50 ms */
  assert_int_equal(a.code, -ENOENT);
  assert_true(metric(&f, M_origin_stats) <= stats + 1);
  free(write_random("late", 10));
  int64_t limit = deadline_in_ms(5000);
  do
    ask_get(&f, "d", "late", 0, 10, 0, &a);
  while (a.code == -ENOENT && clock_mono_ns() < limit);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.len, 10);
  answer_free(&a);
}

#define READERS 32
static void *read_cold(void *arg) {
  struct answer *a = arg;
  ask_get(&f, "d", "cold", 0, 1u << 20, 0, a);
  return NULL;
}

static void many_readers_of_a_cold_block_read_the_origin_once(void **state) {
  static struct answer a[READERS];
  pthread_t t[READERS];

  (void)state;
  make_dataset(&f, "d", 1u << 20);
  uint8_t *data = write_random("cold", 1u << 20);
  for (int i = 0; i < READERS; i++)
    pthread_create(&t[i], NULL, read_cold, &a[i]);
  for (int i = 0; i < READERS; i++)
    pthread_join(t[i], NULL);
  for (int i = 0; i < READERS; i++) {
    assert_int_equal(a[i].code, 0);
    assert_memory_equal(a[i].data, data, 1u << 20);
    answer_free(&a[i]);
  }
  assert_int_equal(metric(&f, M_origin_reads), 1);
  free(data);
}

static void values_kept_in_ram(void **state) {
  struct answer a;
  uint8_t value[200000];

  (void)state;
  make_derived(&f, "v", false);
  rng_fill(&rng, value, sizeof value);
  ask_get(&f, "v", "k", 0, 10, 0, &a);
  assert_int_equal(a.code, -ENOENT);
  ask_put(&f, "v", "k", value, sizeof value, false, &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.acked, ACK_RAM);
  uint64_t etag = a.info.etag;
  ask_put(&f, "v", "k", value, 5, false, &a);
  assert_int_equal(a.code, -EEXIST);
  ask_get(&f, "v", "k", 1000, 150000, 0, &a);
  assert_int_equal(a.len, 150000);
  assert_memory_equal(a.data, value + 1000, 150000);
  assert_int_equal(a.info.etag, etag);
  answer_free(&a);
  ask_put(&f, "v", "k", value, 5, true, &a);
  assert_int_equal(a.code, 0);
  ask_get(&f, "v", "k", 0, 100, etag, &a);
  assert_int_equal(a.code, -FB_ECHANGED);
  ask_get(&f, "v", "k", 0, 100, 0, &a);
  assert_int_equal(a.len, 5);
  answer_free(&a);
  ask_put(&f, "v", "empty", "", 0, false, &a);
  assert_int_equal(a.code, 0);
  ask_get(&f, "v", "empty", 0, 100, 0, &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.len, 0);
  answer_free(&a);
  /* What is nowhere else is not forgotten, only dropped. */
  ask_invalidate(&f, "v", "", &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.blocks, 0);
  ask_get(&f, "v", "k", 0, 100, 0, &a);
  assert_int_equal(a.len, 5);
  answer_free(&a);
  ask_drop(&f, "v", &a);
  assert_int_equal(a.code, 0);
  assert_true(a.bytes > 0);
  ask_get(&f, "v", "k", 0, 100, 0, &a);
  assert_int_equal(a.code, -FB_ENONS);
}

static void kept_values_fill_the_tier_and_not_more(void **state) {
  struct answer a;
  size_t len = 4u << 20;
  uint8_t *value = malloc(len);
  unsigned n = 0;
  char key[16];

  (void)state;
  make_derived(&f, "v", false);
  for (;; n++) {
    memset(value, (int)n, len);
    snprintf(key, sizeof key, "k%u", n);
    ask_put(&f, "v", key, value, len, false, &a);
    if (a.code < 0)
      break;
    assert_true(n < 9); /* 32 MiB hold at most 8 */
  }
  assert_int_equal(a.code, -ENOSPC);
  assert_true(n >= 5);
  struct tier_stats before, after;
  tier_stats(f.tier, &before);
  ask_put(&f, "v", "one-more", value, len, false, &a);
  assert_int_equal(a.code, -ENOSPC);
  tier_stats(f.tier, &after);
  assert_int_equal(before.used_bytes, after.used_bytes); /* nothing of it stayed */
  ask_get(&f, "v", "one-more", 0, 1, 0, &a);
  assert_int_equal(a.code, -ENOENT);
  for (unsigned i = 0; i < n; i++) {
    snprintf(key, sizeof key, "k%u", i);
    memset(value, (int)i, len);
    ask_get(&f, "v", key, 0, (uint32_t)len, 0, &a);
    assert_int_equal(a.len, len);
    assert_memory_equal(a.data, value, len);
    answer_free(&a);
  }
  free(value);
}

static void values_written_through(void **state) {
  struct answer a;

  (void)state;
  make_derived(&f, "w", true);
  ask_put(&f, "w", "sub/k", "hello", 5, false, &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.acked, ACK_ORIGIN);
  char *path = test_printf("%s/sub/k", f.origin);
  size_t len;
  char *on_disk = test_read_file(path, &len);
  assert_int_equal(len, 5);
  assert_memory_equal(on_disk, "hello", 5);
  free(on_disk);
  ask_put(&f, "w", "sub/k", "other", 5, false, &a);
  assert_int_equal(a.code, -EEXIST);
  ask_put(&f, "w", "sub/k", "other!", 6, true, &a);
  assert_int_equal(a.code, 0);
  ask_get(&f, "w", "sub/k", 0, 100, 0, &a);
  assert_int_equal(a.len, 6);
  assert_memory_equal(a.data, "other!", 6);
  assert_int_equal(a.source, SOURCE_RAM); /* the put left it there */
  answer_free(&a);
  make_dataset(&f, "d", 65536);
  ask_put(&f, "d", "x", "y", 1, false, &a);
  assert_int_equal(a.code, -FB_ENOTDERIVED);
  free(path);
}

static void invalidate_forgets_what_matches(void **state) {
  struct answer a;

  (void)state;
  make_dataset(&f, "d", 65536);
  char *dir = test_printf("%s/t", f.origin);
  mkdir(dir, 0755);
  free(dir);
  free(write_random("t/a.bin", 1000));
  free(write_random("t/b.txt", 1000));
  for (int i = 0; i < 2; i++) {
    ask_get(&f, "d", "t/a.bin", 0, 1000, 0, &a);
    answer_free(&a);
    ask_get(&f, "d", "t/b.txt", 0, 1000, 0, &a);
    answer_free(&a);
  }
  assert_int_equal(metric(&f, M_origin_reads), 2);
  ask_invalidate(&f, "d", "t/*.bin", &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.blocks, 1);
  assert_int_equal(a.bytes >= 1000, 1);
  ask_get(&f, "d", "t/b.txt", 0, 1000, 0, &a);
  assert_int_equal(a.source, SOURCE_RAM);
  answer_free(&a);
  ask_get(&f, "d", "t/a.bin", 0, 1000, 0, &a);
  assert_int_equal(a.source, SOURCE_ORIGIN);
  answer_free(&a);
  ask_invalidate(&f, "d", "t/[", &a);
  assert_int_equal(a.code, -EINVAL);
}

static void the_catalog_survives_and_names_made_anew_are_new(void **state) {
  struct answer a;

  (void)state;
  make_dataset(&f, "d", 65536);
  free(write_random("x", 100));
  ask_get(&f, "d", "x", 0, 100, 0, &a);
  assert_int_equal(a.code, 0);
  answer_free(&a);
  struct ns_record r = {.name = "d", .kind = NS_DATASET, .origin = f.origin};
  ask_create(&f, &r, &a);
  assert_int_equal(a.code, -FB_ENSEXISTS);
  service_fixture_stop(&f);
  service_fixture_start(&f, 0);
  ask_get(&f, "d", "x", 0, 100, 0, &a);
  assert_int_equal(a.code, 0);
  answer_free(&a);
  ask_drop(&f, "d", &a);
  assert_int_equal(a.code, 0);
  uint64_t first = a.id;
  ask_create(&f, &r, &a);
  assert_int_equal(a.code, 0);
  assert_int_not_equal(a.id, first);
  service_fixture_stop(&f);
  service_fixture_start(&f, 0);
  ask_stat(&f, "d", "x", false, &a);
  assert_int_equal(a.code, 0);
}

static void a_damaged_catalog_is_refused(void **state) {
  char *path = test_printf("%s/catalog", f.state);
  struct err e = {0};
  size_t len;

  (void)state;
  make_dataset(&f, "d", 65536);
  char *good = test_read_file(path, &len);
  for (size_t i = 0; i < len; i++) { /* every byte, one at a time */
    struct catalog *c;
    good[i] ^= 0x5a;
    assert_int_equal(catalog_new(&c, f.s, f.state, &e), 0);
    test_write_file(path, good, len);
    assert_true(catalog_load(c, &e) < 0);
    assert_non_null(strstr(e.text, "catalog"));
    catalog_free(&c);
    good[i] ^= 0x5a;
  }
  test_write_file(path, good, len);
  free(good);
  free(path);
}

static void namespaces_are_checked(void **state) {
  static const char *const bad_names[] = {"", "A", "a b", "-a", "a/b", "ä"};
  struct answer a;

  (void)state;
  for (size_t i = 0; i < sizeof bad_names / sizeof *bad_names; i++) {
    struct ns_record r = {.name = bad_names[i], .kind = NS_DERIVED};
    ask_create(&f, &r, &a);
    assert_int_equal(a.code, -FB_ENSNAME);
  }
  struct ns_record outside = {.name = "x", .kind = NS_DATASET, .origin = "/etc"};
  ask_create(&f, &outside, &a);
  assert_int_equal(a.code, -FB_EORIGINROOT);
  assert_non_null(strstr(a.text, "origin.roots"));
  char *none = test_printf("%s/none", f.origin);
  struct ns_record missing = {.name = "x", .kind = NS_DATASET, .origin = none};
  ask_create(&f, &missing, &a);
  assert_int_equal(a.code, -ENOENT);
  free(none);
  struct ns_record relative = {.name = "x", .kind = NS_DATASET, .origin = "data"};
  ask_create(&f, &relative, &a);
  assert_int_equal(a.code, -EINVAL);
  struct ns_record block = {.name = "x", .kind = NS_DERIVED, .block_bytes = 100000};
  ask_create(&f, &block, &a);
  assert_int_equal(a.code, -EINVAL);
  struct ns_record nvme = {.name = "x", .kind = NS_DERIVED, .ack = ACK_NVME};
  ask_create(&f, &nvme, &a);
  assert_int_equal(a.code, -EINVAL);
  assert_non_null(strstr(a.text, "accepted"));
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(ranges_are_exact),
      T(a_range_over_two_chunks_is_one_answer),
      T(each_bad_request_has_its_own_code),
      T(a_change_is_a_new_version_and_never_a_mix),
      T(errors_pass_through_and_soon_are_forgotten),
      T(many_readers_of_a_cold_block_read_the_origin_once),
      T(values_kept_in_ram),
      T(kept_values_fill_the_tier_and_not_more),
      T(values_written_through),
      T(invalidate_forgets_what_matches),
      T(the_catalog_survives_and_names_made_anew_are_new),
      T(a_damaged_catalog_is_refused),
      T(namespaces_are_checked),
  };
  rng_init(&rng, test_seed("SERVICE_SEED"));
  return cmocka_run_group_tests(tests, NULL, NULL);
}
