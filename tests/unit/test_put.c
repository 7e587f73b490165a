/* test_put.c - storing values: beside readers, beside other puts, beside a drop, without room, and against an origin
 * that fails. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc.h"
#include "tests/lib/service_fixture.h"
#include "tests/lib/testlib.h"

#define LONG_MS 60000
#define BLOCK 65536u

static struct service_fixture f;
static struct fake_origin *origin; /* of "w" */

static int setup(void **state) {
  (void)state;
  service_fixture_start(&f, 0);
  make_derived(&f, "v", false);
  make_derived(&f, "w", true);
  make_dataset(&f, "d", BLOCK);
  origin = service_fixture_fake_origin(&f, "w");
  return 0;
}
static int teardown(void **state) {
  (void)state;
  service_fixture_end(&f);
  return 0;
}

static void put(const char *ns, const char *key, const void *data, size_t len, bool overwrite, int want) {
  struct answer a;

  ask_put(&f, ns, key, data, len, overwrite, &a);
  if (a.code != want)
    fail_msg("put %s/%s: %s (%s), not %s", ns, key, err_name(a.code), a.text, err_name(want));
  if (want < 0 && !strstr(a.text, key))
    fail_msg("no key in \"%s\"", a.text);
}

static void expect(const char *ns, const char *key, const char *value) {
  struct answer a;

  ask_get(&f, ns, key, 0, 1000, 0, &a);
  if (a.code != 0 || a.len != strlen(value) || memcmp(a.data, value, a.len) != 0)
    fail_msg("%s/%s: %s, %zu bytes, not \"%s\"", ns, key, err_name(a.code), a.len, value);
  answer_free(&a);
}

/* ---- readers beside a writer ---- */

static atomic_bool writing;
static const char *raced;

/* Each value is made of one byte, and its length follows from the byte. */
static size_t len_of(uint8_t byte) { return byte % 5 == 0 ? 0 : (size_t)byte * 1000; }

static void *writer(void *arg) {
  static uint8_t value[255000];

  (void)arg;
  for (unsigned i = 1; i <= 400; i++) {
    uint8_t byte = (uint8_t)(i * 37);
    memset(value, byte, sizeof value);
    put(raced, "k", value, len_of(byte), true, 0);
  }
  atomic_store(&writing, false);
  return NULL;
}

static void *reader(void *arg) {
  uint64_t *reads = arg;
  struct answer a;

  while (atomic_load(&writing)) {
    ask_get(&f, raced, "k", 0, 400000, 0, &a);
    if (a.code != 0)
      fail_msg("read beside puts: %s (%s)", err_name(a.code), a.text);
    assert_int_equal(a.len, a.info.size);
    assert_int_equal(a.crc, crc32c(0, a.data, a.len));
    if (a.len > 0)
      assert_int_equal(a.len, len_of(a.data[0]));
    for (size_t i = 1; i < a.len; i++)
      if (a.data[i] != a.data[0])
        fail_msg("byte %zu is of another version", i);
    (*reads)++;
    answer_free(&a);
  }
  return NULL;
}

static void race(const char *ns) {
  uint64_t reads[2] = {0};
  pthread_t w, r[2];

  raced = ns;
  put(ns, "k", "", 0, false, 0);
  atomic_store(&writing, true);
  for (int i = 0; i < 2; i++)
    pthread_create(&r[i], NULL, reader, &reads[i]);
  pthread_create(&w, NULL, writer, NULL);
  pthread_join(w, NULL);
  for (int i = 0; i < 2; i++)
    pthread_join(r[i], NULL);
  assert_true(reads[0] + reads[1] > 0);
}

static void readers_meet_one_value_or_the_other(void **state) {
  (void)state;
  race("v");
  struct tier_stats st;
  tier_stats(f.tier, &st);
  assert_true(st.blocks <= 1 + 4); /* nothing of the values that were replaced */
}

/* ---- no room ---- */

static void what_cannot_fit_evicts_nothing(void **state) {
  size_t len = 40u << 20;
  uint8_t *value = calloc(1, len);
  struct answer a;

  (void)state;
  char *path = test_printf("%s/file", f.origin);
  test_write_file(path, value, 8 * BLOCK);
  ask_get(&f, "d", "file", 0, 8 * BLOCK, 0, &a);
  assert_int_equal(a.code, 0);
  answer_free(&a);
  put("v", "huge", value, len, false, -ENOSPC);
  ask_get(&f, "d", "file", 0, 8 * BLOCK, 0, &a);
  assert_int_equal(a.source, SOURCE_RAM);
  answer_free(&a);
  /* With an origin the value need not fit. */
  put("w", "huge", value, len, false, 0);
  ask_get(&f, "w", "huge", len - 10, 100, 0, &a);
  assert_int_equal(a.len, 10);
  answer_free(&a);
  free(path);
  free(value);
}

static void a_lack_of_room_in_the_middle_leaves_nothing(void **state) {
  struct tier_stats before, after;
  uint8_t value[4 * BLOCK] = {1};

  (void)state;
  put("v", "k", "old", 3, false, 0);
  tier_stats(f.tier, &before);
  for (unsigned n = 1; n <= 5; n++) { /* four blocks and the attributes */
    fault_set(&f.faults->reserve, n, 1, -ENOSPC);
    put("v", "k", value, sizeof value, true, -ENOSPC);
    tier_stats(f.tier, &after);
    assert_int_equal(after.used_bytes, before.used_bytes);
    expect("v", "k", "old");
  }
  put("v", "k", value, sizeof value, true, 0);
}

/* ---- a drop meanwhile ---- */

static void drop_at(const char *ns, struct fault *where, int want) {
  uint8_t value[3 * BLOCK] = {1};
  struct answer a, dropped;
  uint64_t bytes, blocks;
  struct ns *n = catalog_find(f.s->catalog, ns);

  gate_close(&where->gate);
  begin_put(&f, ns, "k", value, sizeof value, false, &a);
  assert_true(gate_wait(&where->gate, 1, LONG_MS));
  ask_drop(&f, ns, &dropped);
  assert_int_equal(dropped.code, 0);
  gate_open(&where->gate);
  answer_await(&a);
  assert_int_equal(a.code, want);
  tier_usage(f.tier, n->r.id, &bytes, &blocks);
  assert_int_equal(blocks, 0);
  struct tier_stats st;
  tier_stats(f.tier, &st);
  assert_int_equal(st.kept_bytes, 0);
  ns_unref(&n);
}

static void a_drop_before_the_put_begins(void **state) {
  (void)state;
  drop_at("v", &f.faults->reserve, -FB_ENONS);
}
static void a_drop_before_it_is_visible(void **state) {
  (void)state;
  drop_at("v", &f.faults->commit, -FB_ENONS);
}
static void a_drop_while_the_origin_writes(void **state) {
  (void)state;
  drop_at("w", &origin->put_late, 0); /* the file is there */
}

/* ---- the origin ---- */

static void of_puts_side_by_side_the_origins_last_one_holds(void **state) {
  struct answer a, b;

  (void)state;
  gate_close(&origin->put_late.gate);
  begin_put(&f, "w", "k", "first", 5, true, &a);
  assert_true(gate_wait(&origin->put_late.gate, 1, LONG_MS));
  begin_put(&f, "w", "k", "second", 6, true, &b);
  assert_true(gate_wait(&origin->put_late.gate, 2, LONG_MS));
  gate_admit(&origin->put_late.gate); /* whichever it is: the other one answers last */
  gate_open(&origin->put_late.gate);
  answer_await(&a);
  answer_await(&b);
  assert_int_equal(a.code, 0);
  assert_int_equal(b.code, 0);
  expect("w", "k", "second");
  put("w", "k", "third", 5, true, 0);
  expect("w", "k", "third");
  assert_int_equal(origin->stat.calls, 1); /* alone again, its version is known to be the current one */
}

static void failures_of_the_origin_pass(void **state) {
  static const int codes[] = {-ENOSPC, -EDQUOT, -EIO, -EROFS};

  (void)state;
  put("w", "k", "old", 3, false, 0);
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    fault_set(&origin->put, 1, 1, codes[i]);
    put("w", "k", "new", 3, true, codes[i]);
    expect("w", "k", "old");
  }
  fault_set(&origin->put_late, 1, 1, -EIO); /* it says that it failed, but the file is there */
  put("w", "k", "new", 3, true, -EIO);
  expect("w", "k", "new");
  put("w", "k", "x", 1, false, -EEXIST);
  expect("w", "k", "new");
  put("w", "empty", "", 0, false, 0);
  expect("w", "empty", "");
}

/* ---- admission ---- */

static void admission_counts_and_names(void **state) {
  struct err e = {0};

  (void)state;
  assert_int_equal(service_put_admit(f.s, "v", "", 1, &e), -FB_EKEYEMPTY);
  assert_int_equal(service_put_admit(f.s, "Not", "k", 1, &e), -FB_ENSNAME);
  assert_int_equal(service_put_admit(f.s, "d", "k", 1, &e), -FB_ENOTDERIVED);
  assert_non_null(strstr(e.text, "d/k"));
  assert_int_equal(service_put_admit(f.s, "v", "k", (64u << 20) + 1, &e), -FB_ETOOBIG);
  assert_non_null(strstr(e.text, "v/k"));
  assert_int_equal(service_put_admit(f.s, "v", "k", UINT64_MAX, &e), -FB_ETOOBIG);
  assert_int_equal(service_put_admit(f.s, "v", "k", 64u << 20, &e), 0);
  assert_int_equal(service_put_admit(f.s, "v", "k", 1, &e), -FB_EBUSY);
  service_put_release(f.s, 64u << 20);
  assert_int_equal(service_put_admit(f.s, "v", "k", 1, &e), 0);
  service_put_release(f.s, 1);
  assert_int_equal(service_put_admit(f.s, "later", "k", 0, &e), 0); /* another peer may know it */
}

static void on_put(void *arg, int code, const char *text, const struct object_info *info, int acked, const char *peer) {
  (void)text, (void)info, (void)acked, (void)peer;
  *(int *)arg = code;
}

static void damage_on_the_way_is_seen(void **state) {
  struct put_req q = {.ns = "v", .key = "k", .value = blob_copy("abc", 3), .crc = crc32c(0, "abd", 3)};
  int code = 0;

  (void)state;
  q.deadline_ns = deadline_in_ms(LONG_MS);
  service_put(f.s, &q, on_put, &code);
  assert_int_equal(code, -FB_ECRC);
  blob_unref(&q.value);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(readers_meet_one_value_or_the_other),
      T(what_cannot_fit_evicts_nothing),
      T(a_lack_of_room_in_the_middle_leaves_nothing),
      T(a_drop_before_the_put_begins),
      T(a_drop_before_it_is_visible),
      T(a_drop_while_the_origin_writes),
      T(of_puts_side_by_side_the_origins_last_one_holds),
      T(failures_of_the_origin_pass),
      T(admission_counts_and_names),
      T(damage_on_the_way_is_seen),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
