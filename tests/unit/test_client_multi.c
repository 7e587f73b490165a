/* test_client_multi.c - fb_multi_get and fb_put: every item gets its bytes or its code, every value is stored once. */
#include "tests/lib/client_fixture.h"

#include <errno.h>
#include <stdio.h>

#include "common/clock.h"

#define N_KEYS 12
#define SIZE_OF(i) ((size_t)(i)*40000 + 1)

static const struct fb_options hasty = {.timeout_ms = 5000, .peer_timeout_ms = 500};

struct batch {
  unsigned n;
  struct fb_range *ranges;
  char (*keys)[16];
};

static void make_objects(struct fake_cluster *f) {
  for (unsigned i = 0; i < N_KEYS; i++) {
    char key[16];
    snprintf(key, sizeof key, "k%u", i);
    fake_object(f, key, SIZE_OF(i), i + 1);
  }
}

/* n random ranges of the objects, each in memory of exactly its length. */
static struct batch make_batch(struct rng *r, unsigned n) {
  struct batch b = {.n = n, .ranges = calloc(n, sizeof *b.ranges), .keys = calloc(n, sizeof *b.keys)};

  for (unsigned i = 0; i < n; i++) {
    unsigned k = (unsigned)rng_below(r, N_KEYS);
    snprintf(b.keys[i], sizeof b.keys[i], "k%u", k);
    size_t len = rng_below(r, 70000);
    b.ranges[i] = (struct fb_range){
        .key = b.keys[i], .offset = rng_below(r, SIZE_OF(k) + 1), .len = len, .buf = malloc(len ? len : 1)};
  }
  return b;
}

static void check_item(struct fake_cluster *f, const struct fb_range *r) {
  size_t size;
  const uint8_t *bytes = fake_bytes(f, r->key, &size);
  size_t due = size - r->offset < r->len ? size - r->offset : r->len;

  if (r->result != (ssize_t)due)
    fail_msg("%s at %llu: %zd (%s), expected %zu", r->key, (unsigned long long)r->offset, r->result,
             r->result < 0 ? fb_error_name((int)r->result) : "", due);
  assert_memory_equal(r->buf, bytes + r->offset, due);
  assert_int_equal(r->info.size, size);
  assert_int_equal(r->info.etag, fake_etag(f, r->key));
}

static void check_and_free(struct fake_cluster *f, struct batch *b) {
  for (unsigned i = 0; i < b->n; i++) {
    if (f)
      check_item(f, &b->ranges[i]);
    free(b->ranges[i].buf);
  }
  free(b->ranges);
  free(b->keys);
}

static void test_multi(void **state) {
  static const unsigned sizes[] = {1, 2, 100, 1023, 1025, 2600};
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  struct rng r;

  (void)state;
  rng_init(&r, test_seed("MULTI_SEED"));
  make_objects(f);
  expect(0, fb_multi_get(c, FAKE_NS, NULL, 0, &err));
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct batch b = make_batch(&r, sizes[i]);
    fake_calls_clear(f);
    expect(0, fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err));
    assert_int_equal(fake_calls_all(f, FAKE_GET), 0);
    if (sizes[i] <= 100)
      assert_true(fake_calls_all(f, FAKE_MULTI_GET) <= 3); /* one stream per owner */
    check_and_free(f, &b);
  }
  assert_int_equal(fake_misrouted(f), 0);
  assert_int_equal(stats_of(c).retries, 0);
  fb_close(&c);
  fake_free(&f);
}

/* Every kind of single failure beside items that are well. */
static void test_item_codes(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  char bufs[9][16], key[1100];

  (void)state;
  make_objects(f);
  memset(key, 'k', sizeof key);
  key[1099] = '\0';
  struct fb_range v[] = {
      {.key = "k3", .len = 16, .buf = bufs[0]},
      {.key = "missing", .len = 16, .buf = bufs[1]},
      {.key = "k3", .len = (4 << 20) + 1, .buf = bufs[2]},
      {.key = "k3", .offset = 1u << 30, .len = 16, .buf = bufs[3]},
      {.key = "../x", .len = 16, .buf = bufs[4]},
      {.key = key, .len = 16, .buf = bufs[5]},
      {.key = "", .len = 16, .buf = bufs[6]},
      {.key = "k4", .etag = 1, .len = 16, .buf = bufs[7]},
      {.key = "k4", .etag = fake_etag(f, "k4"), .len = 16, .buf = bufs[8]},
      {.key = "k4", .len = 16},
      {.key = NULL, .len = 16, .buf = bufs[6]},
  };
  const int want[] = {16,           -ENOENT, -FB_ETOOBIG, -FB_EPASTEND, -FB_EKEYNAME, -FB_EKEYLONG, -FB_EKEYEMPTY,
                      -FB_ECHANGED, 16,      -EINVAL,     -FB_EKEYEMPTY};
  err = (struct fb_error){0};
  assert_int_equal(fb_multi_get(c, FAKE_NS, v, 11, &err), 9);
  assert_true(err.code < 0 && err.text[0]);
  for (size_t i = 0; i < 11; i++)
    if (v[i].result != want[i])
      fail_msg("item %zu: %zd, expected %d", i, v[i].result, want[i]);
  check_item(f, &v[0]);
  check_item(f, &v[8]);
  assert_int_equal(fake_calls_all(f, FAKE_GET), 0); /* none of these is worth another attempt */
  expect(-FB_ENONS, fb_multi_get(c, "other", v, 11, &err));
  assert_int_equal(v[0].result, -FB_ENONS);
  expect(-FB_ENSNAME, fb_multi_get(c, "UP", v, 11, &err));
  assert_int_equal(v[0].result, -FB_ENSNAME);
  expect(-EINVAL, fb_multi_get(c, FAKE_NS, NULL, 1, &err));
  fb_close(&c);
  fake_free(&f);
}

/* Whatever one peer does to its streams, all items come, by single requests if need be. */
static void test_streams_fail(void **state) {
  static const struct fake_rule rules[] = {
      {.op = FAKE_MULTI_GET, .what = FAKE_CODE, .code = -FB_EBUSY},
      {.op = FAKE_MULTI_GET, .what = FAKE_CODE, .code = -FB_EPEERDOWN},
      {.op = FAKE_MULTI_GET, .what = FAKE_BREAK, .n = 0, .code = -ECANCELED},
      {.op = FAKE_MULTI_GET, .what = FAKE_BREAK, .n = 5, .code = -FB_EPEERDOWN},
      {.op = FAKE_MULTI_GET, .what = FAKE_BREAK, .n = 5, .code = 0},
      {.op = FAKE_MULTI_GET, .what = FAKE_BREAK_HANG, .n = 5},
      {.op = FAKE_MULTI_GET, .what = FAKE_HANG},
      {.op = FAKE_MULTI_GET, .what = FAKE_GARBAGE},
      {.op = FAKE_MULTI_GET, .what = FAKE_BAD_BYTE},
      {.op = FAKE_MULTI_GET, .what = FAKE_SHORT},
      {.op = FAKE_MULTI_GET, .what = FAKE_LONG, .n = 100000},
      {.op = FAKE_MULTI_GET, .what = FAKE_SIZE, .n = UINT64_MAX},
      {.op = FAKE_MULTI_GET, .what = FAKE_ETAG, .n = 0},
      {.op = FAKE_MULTI_GET, .what = FAKE_TWICE},
      {.op = FAKE_MULTI_GET, .what = FAKE_INDEX},
      {.op = FAKE_MULTI_GET, .what = FAKE_FORGET},
      {.op = FAKE_MULTI_GET, .what = FAKE_BARE},
  };
  struct fake_cluster *f = fake_new(3);
  struct fb_error err;
  struct rng r;

  (void)state;
  rng_init(&r, test_seed("MULTI_SEED"));
  make_objects(f);
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    fb_client *c = open_with(f, hasty);
    fake_rules_clear(f);
    fake_rule(f, 1, &rules[i]);
    struct batch b = make_batch(&r, 150);
    int n = fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err);
    if (n != 0)
      fail_msg("rule %zu: %d items failed: %s", i, n, err.text);
    assert_true(fake_calls_all(f, FAKE_GET) > 0);
    assert_true(stats_of(c).retries > 0);
    if (rules[i].what == FAKE_HANG || (rules[i].what == FAKE_CODE && rules[i].code == -FB_EPEERDOWN))
      assert_int_equal(fake_calls(f, 1, FAKE_GET), 0); /* who did not answer is not the first to be asked again */
    check_and_free(f, &b);
    fb_close(&c);
  }
  fake_free(&f);
}

static void test_multi_dead_owner(void **state) {
  struct fake_cluster *f = fake_new(4);
  fb_client *c = open_with(f, hasty);
  struct fb_error err;
  struct rng r;

  (void)state;
  rng_init(&r, test_seed("MULTI_SEED"));
  make_objects(f);
  fake_stop(f, 1);
  for (int i = 0; i < 5; i++) {
    struct batch b = make_batch(&r, 200);
    expect(0, fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err));
    check_and_free(f, &b);
  }
  assert_true(stats_of(c).failovers > 0);
  fb_close(&c);
  fake_free(&f);
}

static void test_multi_all_dead(void **state) {
  struct fake_cluster *f = fake_new(2);
  fb_client *c = open_with(f, hasty);
  struct fb_error err = {0};
  struct rng r;

  (void)state;
  rng_init(&r, test_seed("MULTI_SEED"));
  make_objects(f);
  struct batch b = make_batch(&r, 20);
  expect(0, fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err));
  fake_stop(f, 0);
  fake_stop(f, 1);
  assert_int_equal(fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err), 20);
  assert_int_equal(err.code, -FB_EPEERDOWN);
  for (unsigned i = 0; i < b.n; i++)
    assert_int_equal(b.ranges[i].result, -FB_EPEERDOWN);
  check_and_free(NULL, &b);
  fb_close(&c);
  fake_free(&f);
}

static void test_multi_deadline(void **state) {
  struct fake_cluster *f = fake_new(2);
  fb_client *c = open_with(f, (struct fb_options){.timeout_ms = 1000});
  struct fb_error err;
  struct rng r;

  (void)state;
  rng_init(&r, test_seed("MULTI_SEED"));
  make_objects(f);
  struct batch b = make_batch(&r, 50);
  for (unsigned i = 0; i < 2; i++)
    fake_rule(f, i, &(struct fake_rule){.op = FAKE_MULTI_GET, .what = FAKE_HANG});
  int64_t before = clock_mono_ns();
  expect(-ETIMEDOUT, fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err));
  int64_t took_ms = (clock_mono_ns() - before) / NS_PER_MS;
  assert_true(took_ms >= 990 && took_ms < 4000);
  check_and_free(NULL, &b);
  fb_close(&c);
  fake_free(&f);
}

static void test_multi_changes(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  struct rng r;

  (void)state;
  rng_init(&r, test_seed("MULTI_SEED"));
  make_objects(f);
  struct batch b = make_batch(&r, 50);
  expect(0, fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err));
  fake_new_ring(f);
  expect(0, fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err));
  fake_remake_ns(f, 99, false);
  expect(0, fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err));
  check_and_free(f, &b);
  struct batch again = make_batch(&r, 50);
  fake_other_ring(f, 1); /* one peer alone: its items fail, the others' do not */
  int n = fb_multi_get(c, FAKE_NS, again.ranges, again.n, &err);
  assert_true(n == -FB_ERING || (n > 0 && n < 50));
  assert_int_equal(err.code, -FB_ERING);
  for (unsigned i = 0; i < again.n; i++)
    assert_true(again.ranges[i].result >= 0 || again.ranges[i].result == -FB_ERING);
  check_and_free(NULL, &again);
  fb_close(&c);
  fake_free(&f);
}

static void test_multi_any_peer(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, (struct fb_options){.any_peer = true});
  struct fb_error err;
  struct rng r;

  (void)state;
  rng_init(&r, test_seed("MULTI_SEED"));
  make_objects(f);
  struct batch b = make_batch(&r, 100);
  expect(0, fb_multi_get(c, FAKE_NS, b.ranges, b.n, &err));
  assert_int_equal(fake_calls_all(f, FAKE_MULTI_GET), 1);
  check_and_free(f, &b);
  fb_close(&c);
  fake_free(&f);
}

/* ---- put --------------------------------------------------------------------------------------------------------- */

static void test_put(void **state) {
  static const size_t sizes[] = {0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 7 * (1 << 20) + 3};
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  struct fb_info info;
  struct rng r;

  (void)state;
  rng_init(&r, 1);
  uint8_t *data = malloc(8 << 20);
  rng_fill(&r, data, 8 << 20);
  expect(-FB_ENOTDERIVED, fb_put(c, FAKE_NS, "v", data, 10, NULL, NULL, &err));
  fake_remake_ns(f, 5, true);
  expect(0, fb_put(c, FAKE_NS, "first", data, 10, NULL, NULL, &err)); /* the new id is learnt on the way */
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    char key[16];
    snprintf(key, sizeof key, "v%zu", i);
    fake_calls_clear(f);
    expect(0, fb_put(c, FAKE_NS, key, data, sizes[i], NULL, &info, &err));
    assert_int_equal(info.size, sizes[i]);
    assert_int_equal(info.etag, fake_etag(f, key));
    assert_int_equal(fake_calls(f, fake_owner(f, key, 0, 0), FAKE_PUT), fake_calls_all(f, FAKE_PUT));
    size_t len;
    assert_memory_equal(fake_bytes(f, key, &len), data, sizes[i]);
    assert_int_equal(len, sizes[i]);
    check_read(f, c, key, 0, sizes[i]); /* at the owner of chunk 0, whatever the offset */
    expect(-EEXIST, fb_put(c, FAKE_NS, key, data, sizes[i], NULL, NULL, &err));
    expect(0, fb_put(c, FAKE_NS, key, data + 1, sizes[i], &(struct fb_put_options){.overwrite = true}, NULL, &err));
    assert_memory_equal(fake_bytes(f, key, NULL), data + 1, sizes[i]);
  }
  expect(-EINVAL, fb_put(c, FAKE_NS, "v", NULL, 1, NULL, NULL, &err));
  expect(-FB_EKEYNAME, fb_put(c, FAKE_NS, "v/", data, 1, NULL, NULL, &err));
  expect(-FB_ENONS, fb_put(c, "other", "v", data, 1, NULL, NULL, &err));
  assert_int_equal(fake_misrouted(f), 0);
  free(data);
  fb_close(&c);
  fake_free(&f);
}

/* The answer is lost after the value was stored: our own bytes are no conflict, others' are. */
static void test_put_ambiguous(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  struct fb_error err;
  struct fb_info info;

  (void)state;
  fake_remake_ns(f, 5, true);
  for (unsigned i = 0; i < 3; i++)
    fake_rule(f, i, &(struct fake_rule){.op = FAKE_PUT, .what = FAKE_DO_CODE, .times = 1, .code = -FB_EPEERDOWN});
  expect(0, fb_put(c, FAKE_NS, "v", "value", 5, NULL, &info, &err));
  assert_int_equal(info.size, 5);
  assert_int_equal(info.etag, fake_etag(f, "v"));
  assert_memory_equal(fake_bytes(f, "v", NULL), "value", 5);

  fake_object(f, "w", 5, 1); /* somebody else's */
  fake_rules_clear(f);
  fake_rule(f, fake_owner(f, "w", 0, 0),
            &(struct fake_rule){.op = FAKE_PUT, .what = FAKE_CODE, .times = 1, .code = -FB_EPEERDOWN});
  expect(-EEXIST, fb_put(c, FAKE_NS, "w", "value", 5, NULL, NULL, &err));
  fake_object(f, "x", 50000, 1); /* and a longer one */
  fake_rule(f, fake_owner(f, "x", 0, 0), &(struct fake_rule){.op = FAKE_PUT, .what = FAKE_HANG, .times = 1});
  expect(-EEXIST, fb_put(c, FAKE_NS, "x", "value", 5, NULL, NULL, &err));
  fb_close(&c);
  fake_free(&f);
}

static void test_put_failures(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  struct fb_error err;
  uint8_t *data = calloc(1, 3 << 20);

  (void)state;
  fake_remake_ns(f, 5, true);
  unsigned owner = fake_owner(f, "v", 0, 0);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_PUT, .what = FAKE_CODE, .code = -ENOSPC});
  expect(-ENOSPC, fb_put(c, FAKE_NS, "v", data, 3 << 20, NULL, NULL, &err)); /* refused before the value was sent */
  assert_int_equal(fake_calls_all(f, FAKE_PUT), 1);
  fake_rules_clear(f);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_PUT, .what = FAKE_CODE, .times = 2, .code = -FB_EBUSY});
  expect(0, fb_put(c, FAKE_NS, "v", data, 3 << 20, NULL, NULL, &err));
  fake_rules_clear(f);
  for (unsigned i = 0; i < 3; i++)
    fake_rule(f, i, &(struct fake_rule){.op = FAKE_PUT, .what = i == 1 ? FAKE_GARBAGE : FAKE_BARE});
  expect(-FB_EPROTO, fb_put(c, FAKE_NS, "v", data, 10, &(struct fb_put_options){.overwrite = true}, NULL, &err));
  fake_rules_clear(f);
  fake_stop(f, owner);
  expect(0, fb_put(c, FAKE_NS, "v", data, 3 << 20, &(struct fb_put_options){.overwrite = true}, NULL, &err));
  for (unsigned i = 0; i < 3; i++)
    fake_rule(f, i, &(struct fake_rule){.op = FAKE_PUT, .what = FAKE_HANG});
  fb_close(&c);
  c = open_with(f, (struct fb_options){.timeout_ms = 1000});
  expect(-ETIMEDOUT, fb_put(c, FAKE_NS, "v", data, 3 << 20, NULL, NULL, &err));
  free(data);
  fb_close(&c);
  fake_free(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_multi),
      cmocka_unit_test(test_item_codes),
      cmocka_unit_test(test_streams_fail),
      cmocka_unit_test(test_multi_dead_owner),
      cmocka_unit_test(test_multi_all_dead),
      cmocka_unit_test(test_multi_deadline),
      cmocka_unit_test(test_multi_changes),
      cmocka_unit_test(test_multi_any_peer),
      cmocka_unit_test(test_put),
      cmocka_unit_test(test_put_ambiguous),
      cmocka_unit_test(test_put_failures),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
