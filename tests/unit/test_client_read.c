/* test_client_read.c - fb_stat, fb_pread, fb_get: right bytes of one version or an error, whatever peers do. */
#include "tests/lib/client_fixture.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"

#define MIB ((size_t)1 << 20)
#define KEY "train/000.tar"

static const struct fb_options hasty = {.timeout_ms = 5000, .peer_timeout_ms = 500};

/* ---- the sunny day ------------------------------------------------------------------------------------------------
 */

static void test_ranges(void **state) {
  static const size_t sizes[] = {0, 1, 65535, MIB - 1, MIB, MIB + 1, 4 * MIB, 4 * MIB + 1, 17 * MIB + 5};
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct rng r;

  (void)state;
  rng_init(&r, test_seed("READ_SEED"));
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    fake_object(f, KEY, sizes[i], i + 1);
    check_read(f, c, KEY, 0, sizes[i]);
    check_read(f, c, KEY, 0, sizes[i] + 100);
    check_read(f, c, KEY, sizes[i], 10);
    for (int k = 0; k < 5; k++)
      check_read(f, c, KEY, rng_below(&r, sizes[i] + 1), rng_below(&r, 6 * MIB));
  }
  assert_int_equal(fake_misrouted(f), 0);
  assert_true(fake_longest_get(f) <= 4 * MIB);
  fb_close(&c);
  fake_free(&f);
}

static void test_ends(void **state) {
  struct fake_cluster *f = fake_new(1);
  fb_client *c = open_default(f);
  struct fb_error err;
  struct fb_info info = {.etag = 1};
  char buf[8];

  (void)state;
  fake_object(f, KEY, 100, 1);
  expect(-FB_EPASTEND, fb_pread(c, FAKE_NS, KEY, buf, 8, 101, &err));
  expect(-FB_EPASTEND, fb_pread(c, FAKE_NS, KEY, buf, 8, UINT64_MAX, &err));
  expect(-FB_EPASTEND, fb_pread(c, FAKE_NS, KEY, buf, 0, UINT64_MAX - 3, &err));
  expect(0, fb_pread(c, FAKE_NS, KEY, buf, 8, 100, &err));
  expect(0, fb_pread(c, FAKE_NS, KEY, NULL, 0, 0, &err));
  expect(-EINVAL, fb_pread(c, FAKE_NS, KEY, NULL, 1, 0, &err));
  expect(-EINVAL, fb_pread(c, FAKE_NS, KEY, buf, (size_t)SSIZE_MAX + 1, 0, &err));
  expect(-EINVAL, fb_pread(NULL, FAKE_NS, KEY, buf, 8, 0, &err));
  expect(8, fb_pread_version(c, FAKE_NS, KEY, 0, buf, 8, 1, &info, &err));
  assert_int_equal(info.size, 100);
  assert_int_equal(info.etag, fake_etag(f, KEY));
  assert_int_equal(info.mtime_ns, 42);
  expect(8, fb_pread_version(c, FAKE_NS, KEY, info.etag, buf, 8, 1, NULL, &err));
  expect(-FB_ECHANGED, fb_pread_version(c, FAKE_NS, KEY, info.etag + 1, buf, 8, 1, NULL, &err));
  fb_close(&c);
  fake_free(&f);
}

/* Peers are told how long an answer is of use: an attempt's time, at most what is left of the call's. */
static void test_deadlines_go_out(void **state) {
  struct fake_cluster *f = fake_new(1);
  fb_client *c = open_with(f, (struct fb_options){.timeout_ms = 60000, .peer_timeout_ms = 10000});

  (void)state;
  fake_object(f, KEY, 100, 1);
  check_read(f, c, KEY, 0, 100);
  int64_t left_ms = (fake_deadline_ns(f) - clock_mono_ns()) / NS_PER_MS;
  assert_true(left_ms > 5000 && left_ms < 11000);
  fake_rule(f, 0, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CODE, .times = 8, .code = -FB_EBUSY});
  fb_close(&c);
  c = open_with(f, (struct fb_options){.timeout_ms = 8000, .peer_timeout_ms = 8000, .retries = 8});
  int64_t by = clock_mono_ns() + 8000 * NS_PER_MS;
  check_read(f, c, KEY, 0, 100); /* the last of nine attempts, after pauses of over a second */
  assert_int_equal(fake_calls_all(f, FAKE_GET), 9);
  assert_true(fake_deadline_ns(f) <= by + 500 * NS_PER_MS);
  fb_close(&c);
  fake_free(&f);
}

/* A small read is one request to the owner of its chunk; the namespace's record is asked for once. */
static void test_one_hop(void **state) {
  struct fake_cluster *f = fake_new(5);
  fb_client *c = open_default(f);
  struct fb_info info;
  struct fb_error err;

  (void)state;
  fake_object(f, KEY, 40 * MIB, 1);
  for (uint64_t offset = 0; offset < 40 * MIB; offset += 8 * MIB) {
    fake_calls_clear(f);
    check_read(f, c, KEY, offset + 5, MIB); /* over a block's boundary, still one */
    assert_int_equal(fake_calls(f, fake_owner(f, KEY, offset, 0), FAKE_GET), 1);
    assert_int_equal(fake_calls_all(f, FAKE_GET), 1);
    assert_true(fake_calls_all(f, FAKE_NS_SHOW) <= 1);
  }
  fake_calls_clear(f);
  expect(0, fb_stat(c, FAKE_NS, KEY, &info, &err));
  assert_int_equal(info.size, 40 * MIB);
  assert_int_equal(fake_calls(f, fake_owner(f, KEY, 0, 0), FAKE_STAT), 1);
  check_read(f, c, KEY, 15 * MIB, 3 * MIB); /* over a chunk's boundary: two owners or one, two requests at least */
  assert_true(fake_calls_all(f, FAKE_GET) >= 2);
  assert_int_equal(fake_misrouted(f), 0);
  fb_close(&c);
  fake_free(&f);
}

static void test_stats(void **state) {
  struct fake_cluster *f = fake_new(2);
  fb_client *c = open_default(f);
  struct fb_error err;
  struct fb_info info;
  unsigned n = 0;
  uint64_t ram = 0, origin = 0;

  (void)state;
  for (int i = 0; i < 20; i++) { /* the fake's p0 says origin, p1 says RAM */
    char key[16];
    snprintf(key, sizeof key, "k%d", i);
    fake_object(f, key, 1000, 1);
    check_read(f, c, key, 0, 1000);
    *(fake_owner(f, key, 0, 0) == 0 ? &origin : &ram) += 1000;
    n++;
  }
  expect(-ENOENT, fb_stat(c, FAKE_NS, "nothing/there", &info, &err));
  expect_text("nothing/there");
  struct fb_client_stats s = stats_of(c);
  assert_int_equal(s.bytes_ram, ram);
  assert_int_equal(s.bytes_origin, origin);
  assert_int_equal(s.bytes_forwarded, 0);
  assert_int_equal(s.retries, 0);
  assert_int_equal(s.failovers, 0);
  assert_int_equal(s.errors, 1);
  assert_true(s.requests >= n + 1 && s.requests <= n + 4); /* and GetRing and Show */
  fb_close(&c);
  fake_free(&f);
}

struct reader {
  fb_client *c;
  uint8_t *buf;
  size_t len;
  ssize_t n;
};

static void *read_thread(void *arg) {
  struct reader *r = arg;

  r->n = fb_pread(r->c, FAKE_NS, KEY, r->buf, r->len, 0, NULL);
  return NULL;
}

static struct {
  struct fake_cluster *f;
  unsigned n;
} held;

static bool is_held(void *arg) {
  (void)arg;
  return fake_held(held.f) >= held.n;
}

/* `parallel` requests are in flight, never more; and closing waits for the read. */
static void test_parallel(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, (struct fb_options){.parallel = 5, .timeout_ms = 30000, .peer_timeout_ms = 30000});
  struct reader r = {.c = c, .buf = malloc(20 * MIB), .len = 20 * MIB};
  pthread_t thread;

  (void)state;
  fake_object(f, KEY, 20 * MIB, 1);
  held.f = f;
  fake_hold(f);
  pthread_create(&thread, NULL, read_thread, &r);
  held.n = 1;
  assert_true(test_wait(is_held, NULL, 10000)); /* the first alone: it says what version */
  assert_int_equal(fake_calls_all(f, FAKE_GET), 1);
  fake_release(f, false);
  held.n = 5;
  assert_true(test_wait(is_held, NULL, 10000));
  assert_int_equal(fake_calls_all(f, FAKE_GET), 6);
  fake_release(f, true);
  fb_close(&c);
  assert_int_equal(fake_unpinned(f), 1); /* all others carry the etag that the first has learnt */
  pthread_join(thread, NULL);
  assert_int_equal(r.n, 20 * MIB);
  assert_memory_equal(r.buf, fake_bytes(f, KEY, NULL), 20 * MIB);
  free(r.buf);
  fake_free(&f);
}

/* ---- damaged and senseless answers ----------------------------------------------------------------------------------
 */

static void test_crc_once(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);

  (void)state;
  fake_object(f, KEY, 100000, 1);
  unsigned owner = fake_owner(f, KEY, 0, 0);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_BAD_BYTE, .times = 1});
  check_read(f, c, KEY, 0, 100000);
  assert_int_equal(fake_calls(f, owner, FAKE_GET), 2); /* once more the same peer */
  struct fb_client_stats s = stats_of(c);
  assert_int_equal(s.crc_errors, 1);
  assert_int_equal(s.failovers, 0);
  assert_int_equal(s.retries, 1);
  fb_close(&c);
  fake_free(&f);
}

static void test_crc_at_owner(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);

  (void)state;
  fake_object(f, KEY, 3 * MIB, 1);
  unsigned owner = fake_owner(f, KEY, 0, 0), next = fake_owner(f, KEY, 0, 1);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_BAD_CRC});
  check_read(f, c, KEY, 0, MIB);
  assert_int_equal(fake_calls(f, owner, FAKE_GET), 2);
  assert_int_equal(fake_calls(f, next, FAKE_GET), 1);
  assert_int_equal(stats_of(c).crc_errors, 2);
  assert_int_equal(stats_of(c).failovers, 1);
  fb_close(&c);
  fake_free(&f);
}

static void test_crc_everywhere(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  char buf[100];

  (void)state;
  fake_object(f, KEY, 100, 1);
  for (unsigned i = 0; i < 3; i++)
    fake_rule(f, i, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_BAD_BYTE});
  expect(-FB_ECRC, fb_pread(c, FAKE_NS, KEY, buf, 100, 0, &err));
  expect_text(KEY);
  expect_text("127.0.0.1:");
  assert_int_equal(stats_of(c).crc_errors, 5); /* 1 + retries */
  fb_close(&c);
  fake_free(&f);
}

/* Each at the owner only: the next one serves. Everywhere: FB_EPROTO. Never a byte past the buffer. */
static void test_senseless(void **state) {
  static const struct fake_rule rules[] = {
      {.op = FAKE_GET, .what = FAKE_SHORT},
      {.op = FAKE_GET, .what = FAKE_LONG, .n = 1},
      {.op = FAKE_GET, .what = FAKE_LONG, .n = 1 << 20},
      {.op = FAKE_GET, .what = FAKE_SIZE, .n = 10},
      {.op = FAKE_GET, .what = FAKE_SIZE, .n = UINT64_MAX},
      {.op = FAKE_GET, .what = FAKE_ETAG, .n = 0},
      {.op = FAKE_GET, .what = FAKE_GARBAGE},
  };
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  uint8_t *buf = malloc(5000);
  void *got;
  size_t len;

  (void)state;
  fake_object(f, KEY, 7000, 1);
  unsigned owner = fake_owner(f, KEY, 0, 0);
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    fake_rules_clear(f);
    fake_rule(f, owner, &rules[i]);
    check_read(f, c, KEY, 1000, 5000);
    if (rules[i].what != FAKE_LONG) { /* fb_get asks for more than there is: for it these are not too long */
      expect(0, fb_get(c, FAKE_NS, KEY, 10000, &got, &len, &err));
      assert_int_equal(len, 7000);
      assert_memory_equal(got, fake_bytes(f, KEY, NULL), 7000);
      free(got);
    }
    for (unsigned p = 0; p < 3; p++)
      fake_rule(f, p, &rules[i]);
    expect(-FB_EPROTO, fb_pread(c, FAKE_NS, KEY, buf, 5000, 1000, &err));
  }
  free(buf);
  fb_close(&c);
  fake_free(&f);
}

/* ---- changes under a read -------------------------------------------------------------------------------------------
 */

static void test_changed_once(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, (struct fb_options){.parallel = 2});
  unsigned owner;

  (void)state;
  fake_object(f, KEY, 9 * MIB, 1);
  owner = fake_owner(f, KEY, 0, 0);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CHANGE, .skip = 3, .times = 1, .n = 8 * MIB});
  uint8_t *buf = malloc(9 * MIB);
  struct fb_error err;
  expect(8 * MIB, fb_pread(c, FAKE_NS, KEY, buf, 9 * MIB, 0, &err));
  assert_memory_equal(buf, fake_bytes(f, KEY, NULL), 8 * MIB); /* all of the new version */
  assert_int_equal(fake_calls(f, owner, FAKE_STAT), 1);
  free(buf);
  fb_close(&c);
  fake_free(&f);
}

static void test_changes_always(void **state) {
  struct fake_cluster *f = fake_new(1);
  fb_client *c = open_default(f);
  struct fb_error err;
  uint8_t *buf = malloc(6 * MIB);

  (void)state;
  fake_object(f, KEY, 6 * MIB, 1);
  fake_rule(f, 0, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CHANGE, .skip = 1, .n = 6 * MIB});
  expect(-FB_ECHANGED, fb_pread(c, FAKE_NS, KEY, buf, 6 * MIB, 0, &err));
  assert_int_equal(fake_calls(f, 0, FAKE_STAT), 3); /* restarts */
  fake_rules_clear(f);
  check_read(f, c, KEY, 0, 6 * MIB);
  free(buf);
  fb_close(&c);
  fake_free(&f);
}

static void test_removed_while_read(void **state) {
  struct fake_cluster *f = fake_new(1);
  fb_client *c = open_default(f);
  struct fb_error err;
  uint8_t *buf = malloc(6 * MIB);

  (void)state;
  fake_object(f, KEY, 6 * MIB, 1);
  fake_rule(f, 0, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CODE, .skip = 2, .code = -ENOENT});
  expect(-ENOENT, fb_pread(c, FAKE_NS, KEY, buf, 6 * MIB, 0, &err));
  free(buf);
  fb_close(&c);
  fake_free(&f);
}

/* A peer that has another version than the one the read is pinned to is not believed. */
static void test_other_version(void **state) {
  struct fake_cluster *f = fake_new(1);
  fb_client *c = open_default(f);
  struct fb_error err;
  uint8_t *buf = malloc(6 * MIB);

  (void)state;
  fake_object(f, KEY, 6 * MIB, 1);
  fake_rule(f, 0, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_ETAG, .skip = 1, .n = 5});
  expect(-FB_ECHANGED, fb_pread(c, FAKE_NS, KEY, buf, 6 * MIB, 0, &err));
  fake_rules_clear(f);
  fake_rule(f, 0, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_SIZE, .skip = 1, .n = 50 * MIB});
  expect(-FB_EPROTO, fb_pread(c, FAKE_NS, KEY, buf, 6 * MIB, 0, &err));
  free(buf);
  fb_close(&c);
  fake_free(&f);
}

/* ---- peers that fail
 * ------------------------------------------------------------------------------------------------- */

static void test_dead_owner(void **state) {
  struct fake_cluster *f = fake_new(4);
  fb_client *c = open_with(f, hasty);

  (void)state;
  fake_object(f, KEY, 20 * MIB, 1);
  unsigned owner = fake_owner(f, KEY, 0, 0), next = fake_owner(f, KEY, 0, 1);
  fake_stop(f, owner);
  for (int i = 0; i < 10; i++)
    check_read(f, c, KEY, 0, 20 * MIB);
  struct fb_client_stats s = stats_of(c);
  assert_true(s.failovers >= 1);
  assert_int_equal(s.errors, 0);
  assert_true(fake_calls(f, next, FAKE_GET) > 0);
  assert_true(s.failovers <= 20 + 16); /* the breaker opens: most pieces never try the dead one */
  fb_close(&c);
  fake_free(&f);
}

static struct {
  struct fake_cluster *f;
  fb_client *c;
  unsigned owner;
} back;

static bool owner_serves(void *arg) {
  (void)arg;
  check_read(back.f, back.c, KEY, 0, 1000);
  return fake_calls(back.f, back.owner, FAKE_GET) > 0;
}

static void test_owner_comes_back(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);

  (void)state;
  fake_object(f, KEY, 1000, 1);
  back.f = f;
  back.c = c;
  back.owner = fake_owner(f, KEY, 0, 0);
  fake_stop(f, back.owner);
  for (int i = 0; i < 10; i++)
    check_read(f, c, KEY, 0, 1000);
  fake_start(f, back.owner);
  fake_calls_clear(f);
  assert_true(test_wait(owner_serves, NULL, 20000));
  fb_close(&c);
  fake_free(&f);
}

static void test_all_dead(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  struct fb_error err;
  char buf[10];

  (void)state;
  fake_object(f, KEY, 1000, 1);
  check_read(f, c, KEY, 0, 10);
  for (unsigned i = 0; i < 3; i++)
    fake_stop(f, i);
  for (int i = 0; i < 3; i++) {
    expect(-FB_EPEERDOWN, fb_pread(c, FAKE_NS, KEY, buf, 10, 0, &err));
    expect_text("127.0.0.1:");
    expect_text(KEY);
  }
  fb_close(&c);
  fake_free(&f);
}

static void test_slow_owner(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);

  (void)state;
  fake_object(f, KEY, 1000, 1);
  unsigned owner = fake_owner(f, KEY, 0, 0);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_HANG});
  int64_t before = clock_mono_ns();
  check_read(f, c, KEY, 0, 1000);
  int64_t took_ms = (clock_mono_ns() - before) / NS_PER_MS;
  assert_true(took_ms >= 490 && took_ms < 4500);
  assert_int_equal(stats_of(c).failovers, 1);
  fb_close(&c);
  fake_free(&f);
}

static void test_deadline(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, (struct fb_options){.timeout_ms = 1000});
  struct fb_error err;
  uint8_t *buf = malloc(8 * MIB);

  (void)state;
  fake_object(f, KEY, 8 * MIB, 1);
  check_read(f, c, KEY, 0, 10);
  for (unsigned i = 0; i < 3; i++)
    fake_rule(f, i, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_HANG, .skip = i == fake_owner(f, KEY, 0, 0)});
  int64_t before = clock_mono_ns();
  expect(-ETIMEDOUT, fb_pread(c, FAKE_NS, KEY, buf, 8 * MIB, 0, &err));
  int64_t took_ms = (clock_mono_ns() - before) / NS_PER_MS;
  assert_true(took_ms >= 990 && took_ms < 4000);
  free(buf); /* nothing may be written to it any more: ASan watches */
  fb_close(&c);
  fake_free(&f);
}

static void test_busy(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  char buf[10];

  (void)state;
  fake_object(f, KEY, 1000, 1);
  unsigned owner = fake_owner(f, KEY, 0, 0), next = fake_owner(f, KEY, 0, 1);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CODE, .times = 1, .code = -FB_EBUSY});
  check_read(f, c, KEY, 0, 1000); /* once more the same */
  assert_int_equal(fake_calls(f, owner, FAKE_GET), 2);
  assert_int_equal(stats_of(c).failovers, 0);
  fake_rules_clear(f);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CODE, .code = -FB_EBUSY});
  check_read(f, c, KEY, 0, 1000);
  assert_int_equal(fake_calls(f, next, FAKE_GET), 1);
  for (unsigned i = 0; i < 3; i++)
    fake_rule(f, i, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CODE, .code = -FB_EBUSY});
  fake_calls_clear(f);
  expect(-FB_EBUSY, fb_pread(c, FAKE_NS, KEY, buf, 10, 0, &err));
  assert_int_equal(fake_calls_all(f, FAKE_GET), 5);
  fb_close(&c);
  fake_free(&f);
}

/* A peer that shuts down breaks calls off: that is its failure, not the caller's. */
static void test_broken_off(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);

  (void)state;
  fake_object(f, KEY, 1000, 1);
  unsigned owner = fake_owner(f, KEY, 0, 0);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CODE, .code = -ECANCELED});
  check_read(f, c, KEY, 0, 1000);
  assert_int_equal(stats_of(c).failovers, 1);
  fb_close(&c);
  fake_free(&f);
}

static void test_final_codes(void **state) {
  static const int codes[] = {-ENOENT, -EIO, -EACCES, -EISDIR, -FB_ESHORT, -FB_EESCAPES, -FB_ETOOBIG, -ESTALE};
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  char buf[10];

  (void)state;
  fake_object(f, KEY, 1000, 1);
  unsigned owner = fake_owner(f, KEY, 0, 0);
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    fake_rules_clear(f);
    fake_calls_clear(f);
    fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CODE, .code = codes[i]});
    expect(codes[i], fb_pread(c, FAKE_NS, KEY, buf, 10, 0, &err));
    expect_text("as the test wants it");
    expect_text(FAKE_NS "/" KEY);
    assert_int_equal(fake_calls_all(f, FAKE_GET), 1);
  }
  fb_close(&c);
  fake_free(&f);
}

/* ---- rings and namespaces that change
 * --------------------------------------------------------------------------------- */

static void test_new_ring(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);

  (void)state;
  fake_object(f, KEY, 20 * MIB, 1);
  check_read(f, c, KEY, 0, 20 * MIB);
  fake_new_ring(f);
  fake_calls_clear(f);
  check_read(f, c, KEY, 0, 20 * MIB);
  assert_int_equal(fake_calls_all(f, FAKE_GET_RING), 1);
  check_read(f, c, KEY, 0, 20 * MIB);
  assert_int_equal(fake_calls_all(f, FAKE_GET_RING), 1); /* and is known from then on */
  assert_int_equal(fake_misrouted(f), 0);
  assert_int_equal(stats_of(c).errors, 0);
  fb_close(&c);
  fake_free(&f);
}

static atomic_bool all_have_it;

static void *take_over_slowly(void *arg) {
  struct fake_cluster *f = arg;

  for (unsigned i = 0; i < 4; i++) {
    struct timespec ts = clock_timespec(60 * NS_PER_MS);
    nanosleep(&ts, NULL); /* what is tested is that reads bear the time in between */
    fake_take_new_ring(f, i);
  }
  atomic_store(&all_have_it, true);
  return NULL;
}

/* Peers take a new ring one after the other: reads go on all the while. */
static void test_ring_rolls(void **state) {
  struct fake_cluster *f = fake_new(4);
  fb_client *c = open_default(f);
  pthread_t thread;

  (void)state;
  fake_object(f, KEY, 70 * MIB, 1);
  pthread_create(&thread, NULL, take_over_slowly, f);
  for (uint64_t i = 0; !atomic_load(&all_have_it); i++)
    check_read(f, c, KEY, (i * 7 % 70) * MIB, 1000);
  pthread_join(thread, NULL);
  for (uint64_t i = 0; i < 70; i++)
    check_read(f, c, KEY, i * MIB, 1000);
  assert_int_equal(stats_of(c).errors, 0);
  fb_close(&c);
  fake_free(&f);
}

/* Only one peer has another ring: keys of it cannot be read, and the sentence says why. */
static void test_rings_differ(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  char buf[10], key[32];
  unsigned failed = 0;

  (void)state;
  for (unsigned i = 0; i < 8; i++) {
    snprintf(key, sizeof key, "k%u", i);
    fake_object(f, key, 100, i);
  }
  fake_other_ring(f, 1);
  for (unsigned i = 0; i < 8; i++) {
    snprintf(key, sizeof key, "k%u", i);
    err = (struct fb_error){0};
    ssize_t n = fb_pread(c, FAKE_NS, key, buf, 10, 0, &err);
    if (n == 10)
      continue;
    assert_int_equal(n, -FB_ERING);
    expect_text("peers disagree on the ring");
    failed++;
  }
  assert_true(failed > 0);
  fb_close(&c);
  fake_free(&f);
}

static void test_namespace_made_anew(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  struct fb_info info;
  char buf[10];

  (void)state;
  fake_object(f, KEY, 20 * MIB, 1);
  check_read(f, c, KEY, 0, 10);
  fake_remake_ns(f, 123, false);
  check_read(f, c, KEY, 0, 20 * MIB);
  expect(0, fb_stat(c, FAKE_NS, KEY, &info, &err));
  fake_drop_ns(f);
  expect(-FB_ENONS, fb_pread(c, FAKE_NS, KEY, buf, 10, 0, &err));
  expect(-FB_ENONS, fb_stat(c, FAKE_NS, KEY, &info, &err));
  expect(-FB_ENONS, fb_stat(c, "other", KEY, &info, &err));
  expect_text("other");
  fake_remake_ns(f, 124, false);
  check_read(f, c, KEY, 0, 10);
  fb_close(&c);
  fake_free(&f);
}

/* ---- names
 * -------------------------------------------------------------------------------------------------------------- */

static void test_names(void **state) {
  struct fake_cluster *f = fake_new(1);
  fb_client *c = open_default(f);
  struct fb_error err;
  struct fb_info info;
  char key[1100];

  (void)state;
  expect(-FB_ENSNAME, fb_stat(c, "", "k", &info, &err));
  expect(-FB_ENSNAME, fb_stat(c, NULL, "k", &info, &err));
  expect(-FB_ENSNAME, fb_stat(c, "Upper", "k", &info, &err));
  expect(-FB_EKEYEMPTY, fb_stat(c, FAKE_NS, "", &info, &err));
  expect(-FB_EKEYEMPTY, fb_stat(c, FAKE_NS, NULL, &info, &err));
  expect(-FB_EKEYNAME, fb_stat(c, FAKE_NS, "../x", &info, &err));
  expect(-FB_EKEYNAME, fb_stat(c, FAKE_NS, "/x", &info, &err));
  expect(-FB_EKEYNAME, fb_stat(c, FAKE_NS, "a//b", &info, &err));
  expect(-FB_EKEYNAME, fb_stat(c, FAKE_NS, "a\n\xff", &info, &err));
  memset(key, 'k', sizeof key);
  key[1025] = '\0';
  expect(-FB_EKEYLONG, fb_stat(c, FAKE_NS, key, &info, &err));
  key[1024] = '\0';
  for (unsigned op = 0; op < FAKE_OPS; op++)
    assert_int_equal(fake_calls_all(f, (enum fake_op)op), 0); /* nothing went out */
  expect(-ENOENT, fb_stat(c, FAKE_NS, key, &info, &err));
  fb_close(&c);
  fake_free(&f);
}

/* ---- get
 * ---------------------------------------------------------------------------------------------------------------- */

static void test_get(void **state) {
  static const size_t sizes[] = {0, 1, MIB, 5 * MIB + 3};
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_default(f);
  struct fb_error err;
  void *buf = NULL;
  size_t len;

  (void)state;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    const size_t limits[] = {sizes[i], sizes[i] + 1, 64 * MIB, SIZE_MAX};
    fake_object(f, KEY, sizes[i], i);
    for (size_t k = 0; k < 4; k++) {
      expect(0, fb_get(c, FAKE_NS, KEY, limits[k], &buf, &len, &err));
      assert_int_equal(len, sizes[i]);
      assert_memory_equal(buf, fake_bytes(f, KEY, NULL), len);
      free(buf);
    }
    if (sizes[i])
      expect(-FB_ETOOBIG, fb_get(c, FAKE_NS, KEY, sizes[i] - 1, &buf, &len, &err));
  }
  /* a first piece that is damaged, of a version that then changes its size */
  fake_object(f, KEY, 1000, 1);
  unsigned owner = fake_owner(f, KEY, 0, 0);
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_BAD_BYTE, .times = 1});
  fake_rule(f, owner, &(struct fake_rule){.op = FAKE_GET, .what = FAKE_CHANGE, .n = 3 * MIB, .times = 1});
  expect(0, fb_get(c, FAKE_NS, KEY, 64 * MIB, &buf, &len, &err));
  assert_int_equal(len, 3 * MIB);
  assert_memory_equal(buf, fake_bytes(f, KEY, NULL), len);
  free(buf);
  fb_close(&c);
  fake_free(&f);
}

/* ---- any_peer
 * ------------------------------------------------------------------------------------------------------------- */

static void test_any_peer(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, (struct fb_options){.any_peer = true, .peer_timeout_ms = 500});
  unsigned first = 3;

  (void)state;
  fake_object(f, KEY, 20 * MIB, 1);
  check_read(f, c, KEY, 3, 20 * MIB);
  for (unsigned i = 0; i < 3; i++)
    if (fake_calls(f, i, FAKE_GET))
      first = i;
  assert_true(first < 3);
  assert_int_equal(fake_calls(f, first, FAKE_GET), fake_calls_all(f, FAKE_GET)); /* one peer gets all */
  assert_int_equal(fake_calls_all(f, FAKE_NS_SHOW), 0);
  fake_stop(f, first);
  check_read(f, c, KEY, 0, 20 * MIB);
  fake_calls_clear(f);
  check_read(f, c, KEY, 0, 100);
  assert_int_equal(fake_calls(f, (first + 1) % 3, FAKE_GET), 1); /* and goes on with the next */
  assert_int_equal(stats_of(c).errors, 0);
  fb_close(&c);
  fake_free(&f);
}

/* ---- threads, forks
 * ---------------------------------------------------------------------------------------------------------- */

struct worker {
  struct fake_cluster *f;
  fb_client *c;
  uint64_t seed;
};

static void *work(void *arg) {
  struct worker *w = arg;
  struct rng r;

  rng_init(&r, w->seed);
  for (int i = 0; i < 40; i++) {
    char key[16];
    snprintf(key, sizeof key, "k%u", (unsigned)rng_below(&r, 8));
    check_read(w->f, w->c, key, rng_below(&r, 300000), rng_below(&r, 3 * MIB));
  }
  return NULL;
}

static void test_threads(void **state) {
  struct fake_cluster *f = fake_new(4);
  fb_client *c = open_with(f, (struct fb_options){.timeout_ms = 30000, .peer_timeout_ms = 2000, .retries = 8});
  uint64_t seed = test_seed("THREADS_SEED");
  struct worker w[8];
  pthread_t threads[8];

  (void)state;
  for (unsigned i = 0; i < 8; i++) {
    char key[16];
    snprintf(key, sizeof key, "k%u", i);
    fake_object(f, key, 300000 + i * 400000, i);
  }
  for (unsigned i = 0; i < 8; i++) {
    w[i] = (struct worker){.f = f, .c = c, .seed = seed + i};
    pthread_create(&threads[i], NULL, work, &w[i]);
  }
  fake_stop(f, 2); /* one goes while all read */
  fake_new_ring(f);
  for (unsigned i = 0; i < 8; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(stats_of(c).errors, 0);
  fb_close(&c);
  fake_free(&f);
}

static void test_fork(void **state) {
  struct fake_cluster *f = fake_new(1);
  fb_client *c = open_default(f);
  struct fb_info info;
  int status;

  (void)state;
  fake_object(f, KEY, 10, 1);
  pid_t child = fork();
  if (child == 0) {
    struct fb_error err = {0};
    int r = fb_stat(c, FAKE_NS, KEY, &info, &err);
    bool said = strstr(err.text, "fork") != NULL;
    fb_close(&c); /* must come back */
    _exit(r == -EINVAL && said ? 0 : 1);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  fb_close(&c);
  fb_close(&c); /* NULL by now */
  fake_free(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ranges),
      cmocka_unit_test(test_ends),
      cmocka_unit_test(test_deadlines_go_out),
      cmocka_unit_test(test_one_hop),
      cmocka_unit_test(test_stats),
      cmocka_unit_test(test_parallel),
      cmocka_unit_test(test_crc_once),
      cmocka_unit_test(test_crc_at_owner),
      cmocka_unit_test(test_crc_everywhere),
      cmocka_unit_test(test_senseless),
      cmocka_unit_test(test_changed_once),
      cmocka_unit_test(test_changes_always),
      cmocka_unit_test(test_removed_while_read),
      cmocka_unit_test(test_other_version),
      cmocka_unit_test(test_dead_owner),
      cmocka_unit_test(test_owner_comes_back),
      cmocka_unit_test(test_all_dead),
      cmocka_unit_test(test_slow_owner),
      cmocka_unit_test(test_deadline),
      cmocka_unit_test(test_busy),
      cmocka_unit_test(test_broken_off),
      cmocka_unit_test(test_final_codes),
      cmocka_unit_test(test_new_ring),
      cmocka_unit_test(test_ring_rolls),
      cmocka_unit_test(test_rings_differ),
      cmocka_unit_test(test_namespace_made_anew),
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_get),
      cmocka_unit_test(test_any_peer),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_fork),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
