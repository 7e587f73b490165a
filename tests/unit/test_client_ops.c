/* test_client_ops.c - opening a client, listings, prestage, namespaces, and the cluster as operators see it. */
#include "tests/lib/client_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/ring.h"

#define KEY "train/000.tar"

static const struct fb_options hasty = {.timeout_ms = 5000, .peer_timeout_ms = 500};

/* ---- open ----------------------------------------------------------------------------------------------------------
 */

static int open_list(const char *peers, struct fb_error *err) {
  fb_client *c = NULL;
  int r = fb_open(&c, &(struct fb_options){.peers = peers, .timeout_ms = 2000}, err);

  fb_close(&c);
  return r;
}

static void test_open_lists(void **state) {
  struct fake_cluster *f = fake_new(2);
  struct fb_error err;
  char list[300];

  (void)state;
  expect(-FB_EPEERSEMPTY, open_list("", &err));
  expect(-FB_EPEERSEMPTY, open_list(" \t", &err));
  expect(-EINVAL, open_list("127.0.0.1:1,", &err));
  expect(-EINVAL, open_list(",127.0.0.1:1", &err));
  expect(-EINVAL, open_list("127.0.0.1", &err));
  expect(-EINVAL, open_list("127.0.0.1:0", &err));
  expect(-EINVAL, open_list("127.0.0.1:65536", &err));
  expect(-FB_EPEERSDUP, open_list("127.0.0.1:1,127.0.0.1:1", &err));
  expect(-FB_EPEERSDUP, open_list("Node:1, node:1", &err));
  expect_text("node:1");
  snprintf(list, sizeof list, " %s , %s ", fake_address(f, 0), fake_address(f, 1));
  expect(0, open_list(list, &err));
  fake_free(&f);
}

static void test_open_limits(void **state) {
  static const struct fb_options bad[] = {
      {.timeout_ms = 3600001},
      {.timeout_ms = 100, .peer_timeout_ms = 101},
      {.retries = 17},
      {.parallel = 257},
  };
  struct fake_cluster *f = fake_new(1);
  struct fb_error err;

  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct fb_options o = bad[i];
    fb_client *c = NULL;
    o.peers = fake_peers(f);
    expect(-EINVAL, fb_open(&c, &o, &err));
    expect_text("accepted: 1..");
    assert_null(c);
  }
  fb_client *c = open_with(f, (struct fb_options){.timeout_ms = 1000}); /* the default for an attempt shrinks with it */
  fb_close(&c);
  fake_free(&f);
}

/* Where nothing is given: the environment, then a file; each with a text that says where it comes from. */
static void test_open_sources(void **state) {
  struct fake_cluster *f = fake_new(1);
  char *dir = test_tmpdir(), *path = test_printf("%s/client.yaml", dir), *text;
  struct fb_error err;
  fb_client *c = NULL;

  (void)state;
  setenv("FOREBAY_PEERS", fake_peers(f), 1);
  expect(0, fb_open(&c, NULL, &err));
  fb_close(&c);
  setenv("FOREBAY_PEERS", "", 1);
  expect(-FB_EPEERSEMPTY, fb_open(&c, NULL, &err));
  expect_text("FOREBAY_PEERS");
  unsetenv("FOREBAY_PEERS");

  text = test_printf("peers: ['%s']\ntimeout_ms: 7000\n", fake_peers(f));
  test_write_file(path, text, strlen(text));
  setenv("FOREBAY_CONFIG", path, 1);
  expect(0, fb_open(&c, NULL, &err));
  fb_close(&c);
  unsetenv("FOREBAY_CONFIG");
  expect(0, fb_open(&c, &(struct fb_options){.config = path}, &err));
  fb_close(&c);
  test_write_file(path, "peers: []\n", 10);
  expect(-FB_EPEERSEMPTY, fb_open(&c, &(struct fb_options){.config = path}, &err));
  expect_text(path);
  test_write_file(path, "peers: ['a:1', 'a:1']\n", 22);
  expect(-FB_EPEERSDUP, fb_open(&c, &(struct fb_options){.config = path}, &err));
  test_write_file(path, "retries: 99\n", 12);
  expect(-FB_EBADCONF, fb_open(&c, &(struct fb_options){.config = path}, &err));
  expect_text(path);
  expect_text("retries");
  expect(-FB_EBADCONF, fb_open(&c, &(struct fb_options){.config = path, .peers = fake_peers(f)}, &err));
  test_write_file(path, "retries: 9\n", 11); /* the file's limits with the program's peers */
  expect(0, fb_open(&c, &(struct fb_options){.config = path, .peers = fake_peers(f)}, &err));
  fb_close(&c);
  expect(-ENOENT, fb_open(&c, &(struct fb_options){.config = "/nonexistent/x.yaml"}, &err));
  if (access("/etc/forebay/client.yaml", F_OK) != 0) {
    expect(-FB_EPEERSEMPTY, fb_open(&c, NULL, &err));
    expect_text("FOREBAY_PEERS=host:port");
  }
  free(text);
  free(path);
  test_rmtree(dir);
  free(dir);
  fake_free(&f);
}

static void test_open_peers_fail(void **state) {
  struct fake_cluster *f = fake_new(3);
  struct fb_error err;
  char a[32], b[32];

  (void)state;
  snprintf(a, sizeof a, "%s", fake_address(f, 0));
  snprintf(b, sizeof b, "%s", fake_address(f, 1));
  /* one answers well: enough */
  fake_stop(f, 0);
  fake_rule(f, 1, &(struct fake_rule){.op = FAKE_GET_RING, .what = FAKE_GARBAGE});
  expect(0, open_list(fake_peers(f), &err));
  /* none does: each is named with its reason */
  fake_rule(f, 2, &(struct fake_rule){.op = FAKE_GET_RING, .what = FAKE_BARE});
  expect(-FB_EPEERDOWN, open_list(fake_peers(f), &err));
  expect_text("none of the 3 peers");
  expect_text(a);
  expect_text(b);
  expect_text(fake_address(f, 2));
  expect_text("refused");
  /* a peer whose placement is computed otherwise */
  fake_rules_clear(f);
  fake_rule(f, 1, &(struct fake_rule){.op = FAKE_GET_RING, .what = FAKE_SIZE, .n = 1});
  expect(-FB_ERING, open_list(b, &err));
  expect_text("different versions");
  /* silence */
  fake_rules_clear(f);
  fake_rule(f, 1, &(struct fake_rule){.op = FAKE_GET_RING, .what = FAKE_HANG});
  int64_t before = clock_mono_ns();
  int r = open_list(b, &err);
  assert_true(r == -FB_EPEERDOWN || r == -ETIMEDOUT);
  assert_true(clock_mono_ns() - before < 6 * NS_PER_S);
  fake_free(&f);
}

/* ---- listings
 * -------------------------------------------------------------------------------------------------------- */

struct seen {
  unsigned n, stop_at;
  int stop_with;
  uint64_t bytes;
};

static int see(void *arg, const char *key, const struct fb_info *info) {
  struct seen *s = arg;

  assert_true(key[0] == 'd');
  s->bytes += info->size;
  return ++s->n == s->stop_at ? s->stop_with : 0;
}

static void make_files(struct fake_cluster *f) {
  for (unsigned i = 0; i < 11; i++) { /* four pages */
    char key[16];
    snprintf(key, sizeof key, "d/%02u", i);
    fake_object(f, key, 100, i);
  }
}

static void test_list(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  struct seen s = {0};
  struct fb_error err;

  (void)state;
  make_files(f);
  expect(0, fb_list(c, FAKE_NS, NULL, true, 0, see, &s, &err));
  assert_int_equal(s.n, 11);
  assert_int_equal(s.bytes, 1100);
  s = (struct seen){0};
  expect(0, fb_list(c, FAKE_NS, "", true, 5, see, &s, &err));
  assert_int_equal(s.n, 5);
  s = (struct seen){.stop_at = 4, .stop_with = 17};
  assert_int_equal(fb_list(c, FAKE_NS, "d", true, 0, see, &s, &err), 17);
  assert_int_equal(s.n, 4);
  s = (struct seen){.stop_at = 1, .stop_with = -EPIPE};
  assert_int_equal(fb_list(c, FAKE_NS, "d", true, 0, see, &s, &err), -EPIPE);
  assert_int_equal(stats_of(c).errors, 0);
  expect(-FB_EKEYNAME, fb_list(c, FAKE_NS, "d/../e", true, 0, see, &s, &err));
  expect(-FB_ENONS, fb_list(c, "other", "d", true, 0, see, &s, &err));
  fb_close(&c);
  fake_free(&f);
}

static void rule_for_all(struct fake_cluster *f, struct fake_rule r) {
  fake_rules_clear(f);
  for (unsigned i = 0; i < 3; i++)
    fake_rule(f, i, &r);
}

static void test_list_fails(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  struct fb_error err;
  struct seen s;

  (void)state;
  make_files(f);
  /* before the first entry another peer takes over: each peer fails once */
  static const struct fake_rule once[] = {
      {.op = FAKE_LIST, .what = FAKE_CODE, .times = 1, .code = -FB_EPEERDOWN},
      {.op = FAKE_LIST, .what = FAKE_BREAK, .times = 1, .n = 0, .code = -ECANCELED},
      {.op = FAKE_LIST, .what = FAKE_HANG, .times = 1},
      {.op = FAKE_LIST, .what = FAKE_GARBAGE, .times = 1},
  };
  for (size_t i = 0; i < sizeof once / sizeof *once; i++) {
    fake_rules_clear(f);
    for (unsigned p = 0; p < 2; p++)
      fake_rule(f, p, &once[i]);
    s = (struct seen){0};
    expect(0, fb_list(c, FAKE_NS, "d", true, 0, see, &s, &err));
    assert_int_equal(s.n, 11);
  }
  /* after it, entries would come twice: that is the end */
  rule_for_all(f, (struct fake_rule){.op = FAKE_LIST, .what = FAKE_BREAK, .n = 2, .code = -FB_EPEERDOWN});
  s = (struct seen){0};
  expect(-FB_EPEERDOWN, fb_list(c, FAKE_NS, "d", true, 0, see, &s, &err));
  assert_int_equal(s.n, 6);
  rule_for_all(f, (struct fake_rule){.op = FAKE_LIST, .what = FAKE_BREAK, .n = 1, .code = -EIO});
  expect(-EIO, fb_list(c, FAKE_NS, "d", true, 0, see, &s, &err));
  rule_for_all(f, (struct fake_rule){.op = FAKE_LIST, .what = FAKE_BARE}); /* "../up" */
  expect(-FB_EPROTO, fb_list(c, FAKE_NS, NULL, true, 0, see, &s, &err));
  rule_for_all(f, (struct fake_rule){.op = FAKE_LIST, .what = FAKE_HANG});
  fb_close(&c);
  c = open_with(f, (struct fb_options){.timeout_ms = 1000, .peer_timeout_ms = 400});
  int64_t before = clock_mono_ns();
  expect(-ETIMEDOUT, fb_list(c, FAKE_NS, NULL, true, 0, see, &s, &err));
  assert_true(clock_mono_ns() - before < 5 * NS_PER_S);
  rule_for_all(f, (struct fake_rule){.op = FAKE_LIST, .what = FAKE_BREAK_HANG, .n = 1});
  s = (struct seen){0};
  expect(-ETIMEDOUT, fb_list(c, FAKE_NS, NULL, true, 0, see, &s, &err));
  assert_int_equal(s.n, 3);
  fb_close(&c);
  fake_free(&f);
}

/* ---- prestage
 * ---------------------------------------------------------------------------------------------------------- */

struct progress {
  unsigned n, failures, stop_at;
  struct fb_prestage_progress last;
};

static int follow(void *arg, const struct fb_prestage_progress *p, const char *key, const char *why) {
  struct progress *s = arg;

  s->last = *p;
  if (key) {
    assert_string_equal(key, "d/00");
    assert_string_equal(why, "bad disk");
    s->failures++;
  }
  return ++s->n == s->stop_at;
}

static void test_prestage(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  struct fb_prestage_progress end = {0};
  struct progress s = {0};
  struct fb_error err;

  (void)state;
  make_files(f);
  expect(0, fb_prestage(c, FAKE_NS, "d/**", NULL, follow, &s, &end, &err));
  assert_int_equal(s.n, 12);
  assert_int_equal(s.failures, 1);
  assert_true(end.done && end.listed);
  assert_int_equal(end.files_resident, 11);
  assert_int_equal(end.bytes_resident, 1100);
  expect(0, fb_prestage(c, FAKE_NS, NULL, NULL, NULL, NULL, NULL, &err));
  s = (struct progress){.stop_at = 3};
  expect(-ECANCELED, fb_prestage(c, FAKE_NS, NULL, NULL, follow, &s, &end, &err));
  assert_int_equal(s.n, 3);
  fake_calls_clear(f);
  expect(0, fb_prestage(c, FAKE_NS, NULL, &(struct fb_prestage_options){.background = true}, NULL, NULL, &end, &err));
  assert_false(end.done);
  assert_int_equal(fake_calls_all(f, FAKE_PRESTAGE), 1);
  expect(-EINVAL, fb_prestage(c, FAKE_NS, NULL, &(struct fb_prestage_options){.parallel = 65}, NULL, NULL, NULL, &err));
  expect(-EINVAL, fb_prestage(c, FAKE_NS, "d/[", NULL, NULL, NULL, NULL, &err));
  expect(-FB_ENONS, fb_prestage(c, "other", NULL, NULL, NULL, NULL, NULL, &err));
  fb_close(&c);
  fake_free(&f);
}

/* The coordinating peer goes, in the middle, silently, or before it began: another one carries on. */
static void test_prestage_moves(void **state) {
  static const struct fake_rule rules[] = {
      {.op = FAKE_PRESTAGE, .what = FAKE_BREAK, .n = 4, .code = -FB_EPEERDOWN, .times = 1},
      {.op = FAKE_PRESTAGE, .what = FAKE_BREAK, .n = 4, .code = 0, .times = 1}, /* ends well without the final count */
      {.op = FAKE_PRESTAGE, .what = FAKE_BREAK, .n = 0, .code = -ECANCELED, .times = 1},
      {.op = FAKE_PRESTAGE, .what = FAKE_CODE, .code = -FB_EBUSY, .times = 1},
      {.op = FAKE_PRESTAGE, .what = FAKE_BREAK_HANG, .n = 3, .times = 1},
  };
  struct fake_cluster *f = fake_new(3);
  struct fb_error err;

  (void)state;
  make_files(f);
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    fb_client *c = open_with(f, (struct fb_options){.timeout_ms = 900, .peer_timeout_ms = 500});
    struct fb_prestage_progress end = {0};
    rule_for_all(f, rules[i]);
    expect(0, fb_prestage(c, FAKE_NS, NULL, NULL, NULL, NULL, &end, &err));
    assert_true(end.done);
    assert_int_equal(fake_calls_all(f, FAKE_PRESTAGE), 4);
    fb_close(&c);
  }
  rule_for_all(f, (struct fake_rule){.op = FAKE_PRESTAGE, .what = FAKE_CODE, .code = -FB_EPEERDOWN});
  fb_client *c = open_with(f, hasty);
  expect(-FB_EPEERDOWN, fb_prestage(c, FAKE_NS, NULL, NULL, NULL, NULL, NULL, &err));
  fb_close(&c);
  fake_free(&f);
}

/* ---- invalidate, namespaces
 * ---------------------------------------------------------------------------------------------- */

static void test_invalidate(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  uint64_t blocks = 0, bytes = 0;
  struct fb_error err;

  (void)state;
  expect(0, fb_invalidate(c, FAKE_NS, "d/*", &blocks, &bytes, &err));
  assert_int_equal(blocks, 4);
  assert_int_equal(bytes, 4096);
  expect(0, fb_invalidate(c, FAKE_NS, NULL, NULL, NULL, &err));
  expect(-EINVAL, fb_invalidate(c, FAKE_NS, "[", NULL, NULL, &err));
  rule_for_all(f, (struct fake_rule){.op = FAKE_INVALIDATE, .what = FAKE_SIZE});
  expect(-FB_EPEERDOWN, fb_invalidate(c, FAKE_NS, NULL, NULL, NULL, &err));
  expect_text("p7");
  fb_close(&c);
  fake_free(&f);
}

static void test_namespaces(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  struct fb_ns ns = {.name = FAKE_NS, .kind = FB_NS_DATASET, .origin = "/data/set"}, shown, *all = NULL;
  struct fb_error err;
  uint64_t freed = 0;
  size_t n = 0;

  (void)state;
  expect(-FB_ENSEXISTS, fb_ns_create(c, &ns, &err));
  assert_int_equal(ns.id, 0); /* nothing is written on failure */
  expect(0, fb_ns_drop(c, FAKE_NS, &freed, &err));
  assert_int_equal(freed, 321);
  expect(-FB_ENONS, fb_ns_drop(c, FAKE_NS, NULL, &err));
  expect(-FB_ENONS, fb_ns_show(c, FAKE_NS, &shown, &err));
  expect(0, fb_ns_create(c, &ns, &err));
  assert_int_equal(ns.id, FAKE_NS_ID);
  assert_int_equal(ns.block_bytes, 1 << 20);
  expect(0, fb_ns_show(c, FAKE_NS, &shown, &err));
  assert_int_equal(shown.resident_bytes, 123);
  assert_int_equal(shown.resident_blocks, 4);
  assert_string_equal(shown.origin, "/data/set");
  expect(0, fb_ns_list(c, &all, &n, &err));
  assert_int_equal(n, 1);
  assert_string_equal(all[0].name, FAKE_NS);
  free(all);
  expect(-FB_ENSNAME, fb_ns_show(c, "No", &shown, &err));
  ns.kind = 0;
  expect(-EINVAL, fb_ns_create(c, &ns, &err));
  ns = (struct fb_ns){.kind = FB_NS_DATASET};
  expect(-FB_ENSNAME, fb_ns_create(c, &ns, &err));
  memset(ns.name, 'n', sizeof ns.name); /* no end */
  expect(-FB_ENSNAME, fb_ns_create(c, &ns, &err));
  memset(&ns, 0, sizeof ns);
  strcpy(ns.name, "x");
  ns.kind = FB_NS_DATASET;
  memset(ns.origin, '/', sizeof ns.origin);
  expect(-EINVAL, fb_ns_create(c, &ns, &err));
  fb_close(&c);
  fake_free(&f);
}

/* Answers that get lost: what was wanted is there, or gone. */
static void test_namespaces_ambiguous(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  struct fb_ns ns = {.name = FAKE_NS, .kind = FB_NS_DATASET, .origin = "/data/set"};
  struct fb_error err;

  (void)state;
  rule_for_all(f, (struct fake_rule){.op = FAKE_NS_DROP, .what = FAKE_DO_CODE, .times = 1, .code = -FB_EPEERDOWN});
  expect(0, fb_ns_drop(c, FAKE_NS, NULL, &err));
  rule_for_all(f, (struct fake_rule){.op = FAKE_NS_CREATE, .what = FAKE_DO_CODE, .times = 1, .code = -FB_EPEERDOWN});
  expect(0, fb_ns_create(c, &ns, &err));
  assert_int_equal(ns.id, FAKE_NS_ID);
  /* another one of that name is a conflict all the same */
  rule_for_all(f, (struct fake_rule){.op = FAKE_NS_CREATE, .what = FAKE_CODE, .times = 1, .code = -FB_EPEERDOWN});
  strcpy(ns.origin, "/elsewhere");
  expect(-FB_ENSEXISTS, fb_ns_create(c, &ns, &err));
  fb_close(&c);
  fake_free(&f);
}

static void test_namespace_senseless(void **state) {
  static const struct fake_rule rules[] = {
      {.op = FAKE_NS_SHOW, .what = FAKE_SIZE, .n = 1000}, {.op = FAKE_NS_SHOW, .what = FAKE_SIZE, .n = 8 << 20},
      {.op = FAKE_NS_SHOW, .what = FAKE_SIZE, .n = 0},    {.op = FAKE_NS_SHOW, .what = FAKE_BARE},
      {.op = FAKE_NS_SHOW, .what = FAKE_GARBAGE},
  };
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, hasty);
  struct fb_error err;
  struct fb_info info;
  struct fb_ns ns;

  (void)state;
  fake_object(f, KEY, 10, 1);
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    rule_for_all(f, rules[i]);
    expect(-FB_EPROTO, fb_ns_show(c, FAKE_NS, &ns, &err));
    expect(-FB_EPROTO, fb_stat(c, FAKE_NS, KEY, &info, &err));
  }
  fb_close(&c);
  fake_free(&f);
}

/* What is remembered of a namespace serves on when nobody can be asked for it. */
static void test_record_outlives_peers(void **state) {
  struct fake_cluster *f = fake_new(3);
  fb_client *c = open_with(f, (struct fb_options){.timeout_ms = 5000, .peer_timeout_ms = 500, .retries = 1});
  struct fb_info info;
  struct fb_error err;

  (void)state;
  fake_object(f, KEY, 10, 1);
  expect(0, fb_stat(c, FAKE_NS, KEY, &info, &err));
  rule_for_all(f, (struct fake_rule){.op = FAKE_NS_SHOW, .what = FAKE_CODE, .code = -FB_EBUSY});
  int64_t until = clock_mono_ns() + 1100 * NS_PER_MS; /* over the record's second */
  while (clock_mono_ns() < until)
    expect(0, fb_stat(c, FAKE_NS, KEY, &info, &err));
  expect(0, fb_stat(c, FAKE_NS, KEY, &info, &err));
  assert_true(fake_calls_all(f, FAKE_NS_SHOW) > 1);
  fb_close(&c);
  fake_free(&f);
}

/* ---- cluster
 * --------------------------------------------------------------------------------------------------------------- */

static void test_cluster(void **state) {
  struct fake_cluster *f = fake_new(4);
  fb_client *c = open_with(f, hasty);
  struct fb_cluster *cl = NULL;
  struct fb_error err;
  uint32_t slots = 0;

  (void)state;
  fake_stop(f, 2);
  fake_rule(f, 3, &(struct fake_rule){.op = FAKE_GET_STATS, .what = FAKE_HANG});
  int64_t before = clock_mono_ns();
  expect(0, fb_cluster_status(c, &cl, &err));
  assert_true(clock_mono_ns() - before < 5 * NS_PER_S);
  assert_int_equal(cl->n_peers, 4);
  assert_int_equal(cl->epoch, 1);
  for (unsigned i = 0; i < 4; i++) {
    const struct fb_peer *p = &cl->peers[i];
    char name[16];
    snprintf(name, sizeof name, "p%u", i);
    assert_string_equal(p->name, name);
    assert_string_equal(p->address, fake_address(f, i));
    assert_int_equal(p->reachable, i < 2);
    slots += p->slots_owned;
    if (i >= 2) {
      assert_true(p->text[0]);
      continue;
    }
    assert_string_equal(p->version, "9.9.9");
    assert_int_equal(p->ram_max_bytes, 1000 + i);
    assert_int_equal(p->n_counters, 1);
    assert_string_equal(p->counters[0].name, "get_requests");
    int64_t skew_ms = p->clock_skew_ns / NS_PER_MS - (i == 1 ? 3600000 : 0);
    assert_true(skew_ms > -2000 && skew_ms < 2000);
    assert_true(p->round_trip_ns > 0);
  }
  assert_int_equal(slots, cl->slots);
  fb_cluster_free(&cl);
  assert_null(cl);
  for (unsigned i = 0; i < 4; i++)
    if (i != 2)
      fake_stop(f, i);
  expect(-FB_EPEERDOWN, fb_cluster_status(c, &cl, &err));
  assert_null(cl);
  fb_close(&c);
  fake_free(&f);
}

static void test_locate(void **state) {
  struct fake_cluster *f = fake_new(5);
  fb_client *c = open_with(f, hasty);
  struct fb_location l;
  struct fb_error err;

  (void)state;
  for (uint64_t offset = 0; offset < (UINT64_C(1) << 30); offset += UINT64_C(37) << 20) {
    expect(0, fb_locate(c, FAKE_NS, KEY, offset, &l, &err));
    assert_int_equal(l.n_owners, RING_RANKS);
    for (unsigned i = 0; i < l.n_owners; i++)
      assert_string_equal(l.addresses[i], fake_address(f, fake_owner(f, KEY, offset, i)));
  }
  expect(-FB_ENONS, fb_locate(c, "other", KEY, 0, &l, &err));
  expect(-FB_EKEYEMPTY, fb_locate(c, FAKE_NS, "", 0, &l, &err));
  fb_close(&c);
  fake_free(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_open_lists),
      cmocka_unit_test(test_open_limits),
      cmocka_unit_test(test_open_sources),
      cmocka_unit_test(test_open_peers_fail),
      cmocka_unit_test(test_list),
      cmocka_unit_test(test_list_fails),
      cmocka_unit_test(test_prestage),
      cmocka_unit_test(test_prestage_moves),
      cmocka_unit_test(test_invalidate),
      cmocka_unit_test(test_namespaces),
      cmocka_unit_test(test_namespaces_ambiguous),
      cmocka_unit_test(test_namespace_senseless),
      cmocka_unit_test(test_record_outlives_peers),
      cmocka_unit_test(test_cluster),
      cmocka_unit_test(test_locate),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
