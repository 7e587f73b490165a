/* test_catalog.c - catalogs agree in the end, whoever tells whom in whatever order; what is malformed, damaged or too
 * much is refused; and a disk that fails is lived with. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/log.h"
#include "server/service/catalog.h"
#include "tests/lib/service_fixture.h"
#include "tests/lib/testlib.h"

static struct service_fixture f; /* lends the catalogs its tier and its threads */
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

static struct catalog *new_catalog(void) {
  struct catalog *c;
  struct err e;

  if (catalog_new(&c, f.s, f.state, &e) < 0)
    fail_msg("%s", e.text);
  return c;
}

static struct ns_record record(const char *name, uint64_t revision, uint64_t id) {
  return (struct ns_record){.name = name,
                            .id = id,
                            .kind = NS_DERIVED,
                            .origin = "",
                            .block_bytes = 65536,
                            .ack = ACK_RAM,
                            .attr_ttl_ms = 1000,
                            .version = "",
                            .created_ns = (int64_t)revision,
                            .revision = revision,
                            .replicas = 1};
}
static struct ns_record tombstone(const char *name, uint64_t revision, uint64_t id) {
  struct ns_record r = record(name, revision, id);
  r.dropped = true;
  return r;
}

static void apply(struct catalog *c, struct ns_record r) { assert_int_equal(catalog_apply(c, &r, 1, NULL, NULL), 0); }

static uint64_t id_of(struct catalog *c, const char *name) {
  struct ns *n = catalog_find(c, name);
  uint64_t id = n ? n->r.id : 0;
  ns_unref(&n);
  return id;
}

/* ---- which record holds ---- */

static void the_newer_record_holds(void **state) {
  struct catalog *c = new_catalog();

  (void)state;
  apply(c, record("a", 5, 50));
  apply(c, record("a", 4, 99)); /* older */
  assert_int_equal(id_of(c, "a"), 50);
  apply(c, record("a", 5, 49)); /* as old, lower id */
  assert_int_equal(id_of(c, "a"), 50);
  apply(c, record("a", 5, 51));
  assert_int_equal(id_of(c, "a"), 51);
  apply(c, tombstone("a", 6, 51));
  assert_int_equal(id_of(c, "a"), 0);
  assert_int_equal(catalog_revision(c, "a"), 6);
  apply(c, record("a", 5, 51)); /* from a peer that was away */
  assert_int_equal(id_of(c, "a"), 0);
  apply(c, record("a", 7, 70));
  assert_int_equal(id_of(c, "a"), 70);
  apply(c, tombstone("a", 6, 51));
  assert_int_equal(id_of(c, "a"), 70);
  assert_int_equal(catalog_revision(c, "b"), 0);
  catalog_free(&c);
  assert_null(c);
  catalog_free(&c);
}

static void blocks_go_with_their_namespace(void **state) {
  struct catalog *c = f.s->catalog;
  struct answer a;
  uint64_t freed = 0, bytes, blocks;

  (void)state;
  make_derived(&f, "v", false);
  ask_put(&f, "v", "k", "12345", 5, false, &a);
  assert_int_equal(a.code, 0);
  struct ns *n = catalog_find(c, "v");
  struct ns_record same = n->r, other = record("v", n->r.revision + 2, n->r.id + 2);
  same.revision++;
  assert_int_equal(catalog_apply(c, &same, 1, &freed, NULL), 0); /* a change of settings, one day */
  assert_int_equal(freed, 0);
  assert_true(catalog_lives(c, n));
  assert_int_equal(catalog_apply(c, &other, 1, &freed, NULL), 0);
  assert_int_equal(freed, 5 + 24); /* the value and its attributes */
  assert_false(catalog_lives(c, n));
  tier_usage(f.tier, n->r.id, &bytes, &blocks);
  assert_int_equal(blocks, 0);
  ns_unref(&n);
}

static void create_and_drop(void **state) {
  struct catalog *c = new_catalog();
  struct ns_record r = record("a", 10, 1), again = record("a", 11, 3);
  struct ns_record t = tombstone("a", 12, 3), wrong = tombstone("a", 12, 1);
  struct err e = {0};

  (void)state;
  assert_int_equal(catalog_drop(c, &t, NULL, &e), -FB_ENONS);
  assert_int_equal(catalog_create(c, &r, &e), 0);
  assert_int_equal(catalog_create(c, &again, &e), -FB_ENSEXISTS);
  apply(c, tombstone("a", 10, 2));
  assert_int_equal(catalog_create(c, &again, &e), 0);
  assert_int_equal(catalog_drop(c, &wrong, NULL, &e), -FB_ENONS); /* who meant the one before does not hit this one */
  assert_int_equal(id_of(c, "a"), 3);
  assert_int_equal(catalog_drop(c, &t, NULL, &e), 0);
  assert_int_equal(id_of(c, "a"), 0);
  assert_int_equal(catalog_drop(c, &t, NULL, &e), -FB_ENONS);
  assert_int_equal(catalog_create(c, &r, &e), -FB_ENSEXISTS); /* older than the tombstone */
  catalog_free(&c);
}

/* ---- what is refused ---- */

static void one_bad_record_does_not_keep_the_others_out(void **state) {
  struct catalog *c = new_catalog();
  struct ns_record r[5] = {record("a", 1, 1), record("B", 1, 1), record("c", UINT64_MAX, 1), record("d", 1, 1),
                           record("e", 1, 1)};
  struct err e = {0};

  (void)state;
  r[3].block_bytes = 5;
  assert_int_equal(catalog_apply(c, r, 5, NULL, &e), -FB_ENSNAME); /* of the first refused */
  assert_int_equal(e.code, -FB_ENSNAME);
  assert_int_equal(id_of(c, "a"), 1);
  assert_int_equal(id_of(c, "c"), 0);
  assert_int_equal(id_of(c, "d"), 0);
  assert_int_equal(id_of(c, "e"), 1);
  catalog_free(&c);
}

static void records_are_checked(void **state) {
  char *long_origin = malloc(5000), *long_version = malloc(300);
  struct ns_record good = record("n", 1, 1);
  struct err e = {0};

  (void)state;
  memset(long_origin, 'a', 5000);
  long_origin[0] = '/';
  long_origin[4096] = '\0';
  memset(long_version, 'v', 300);
  long_version[256] = '\0';
  assert_int_equal(ns_record_check(&good, &e), 0);
#define BAD(what)                                                                                                      \
  do {                                                                                                                 \
    struct ns_record r = good;                                                                                         \
    what;                                                                                                              \
    e = (struct err){0};                                                                                               \
    assert_true(ns_record_check(&r, &e) < 0);                                                                          \
    assert_true(e.code<0 && strlen(e.text)> 10);                                                                       \
  } while (0)
  BAD(r.name = "");
  BAD(r.name = "UP");
  BAD(r.kind = 0);
  BAD(r.kind = 3);
  BAD(r.kind = NS_DATASET);
  BAD(r.origin = "relative");
  BAD(r.origin = long_origin);
  BAD(r.origin = "/o"); /* without ack=origin */
  BAD(r.ack = ACK_ORIGIN);
  BAD(r.ack = ACK_NVME);
  BAD(r.ack = 77);
  BAD(r.ack = -1);
  BAD(r.block_bytes = 0);
  BAD(r.block_bytes = 32768);
  BAD(r.block_bytes = 65537);
  BAD(r.block_bytes = 8u << 20);
  BAD(r.attr_ttl_ms = 0);
  BAD(r.attr_ttl_ms = 3600001);
  BAD(r.replicas = 0);
  BAD(r.replicas = 9);
  BAD(r.version = long_version);
  BAD(r.version = "a/b");
  BAD(r.version = "..");
  long_version[255] = '\0';
  good.version = long_version;
  assert_int_equal(ns_record_check(&good, &e), 0);
  long_origin[4095] = '\0';
  good.origin = long_origin;
  good.ack = ACK_ORIGIN;
  assert_int_equal(ns_record_check(&good, &e), 0);
  free(long_origin);
  free(long_version);
}

static void a_revision_from_far_ahead_is_taken_from_the_own_file_only(void **state) {
  uint64_t ahead = (uint64_t)clock_wall_ns() + 2 * 86400 * (uint64_t)NS_PER_S;
  struct catalog *c = new_catalog(), *loaded = new_catalog();
  struct ns_record r = record("a", ahead, 1);
  struct err e = {0};

  (void)state;
  assert_int_equal(catalog_apply(c, &r, 1, NULL, &e), -EINVAL);
  assert_non_null(strstr(e.text, "clock"));
  /* Saved by ourselves, when the clock was right; now it is wrong, as it may be early in boot. */
  assert_int_equal(catalog_take(c, &r, NULL, &e), 0);
  assert_int_equal(catalog_save(c, &e), 0);
  assert_int_equal(catalog_load(loaded, &e), 0);
  assert_int_equal(id_of(loaded, "a"), 1);
  catalog_free(&c);
  catalog_free(&loaded);
}

/* ---- agreement ---- */

struct copy {
  unsigned n;
  struct ns_record *r;
};

static void copy_all(void *arg, const struct ns_record *records, unsigned n) {
  struct copy *c = arg;

  c->n = n;
  c->r = calloc(n + 1, sizeof *c->r);
  for (unsigned i = 0; i < n; i++) {
    c->r[i] = records[i];
    c->r[i].name = strdup(records[i].name);
    c->r[i].origin = c->r[i].version = "";
  }
}

static void copy_free(struct copy *c) {
  for (unsigned i = 0; i < c->n; i++)
    free((char *)(uintptr_t)c->r[i].name);
  free(c->r);
}

static void tell(struct catalog *from, struct catalog *to, bool all) {
  struct copy c;

  assert_int_equal(catalog_all(from, true, copy_all, &c), 0);
  if (!all) /* some of it, in any order, as lost and late messages would have it */
    for (unsigned i = 0; i < c.n; i++) {
      unsigned j = (unsigned)rng_below(&rng, c.n);
      struct ns_record swap = c.r[i];
      c.r[i] = c.r[j];
      c.r[j] = swap;
    }
  assert_int_equal(catalog_apply(to, c.r, all ? c.n : (unsigned)rng_below(&rng, c.n + 1), NULL, NULL), 0);
  copy_free(&c);
}

static void assert_equal(struct catalog *a, struct catalog *b) {
  struct copy x, y;

  assert_int_equal(catalog_all(a, true, copy_all, &x), 0);
  assert_int_equal(catalog_all(b, true, copy_all, &y), 0);
  assert_int_equal(x.n, y.n);
  for (unsigned i = 0; i < x.n; i++) {
    assert_string_equal(x.r[i].name, y.r[i].name);
    assert_int_equal(x.r[i].revision, y.r[i].revision);
    assert_int_equal(x.r[i].id, y.r[i].id);
    assert_int_equal(x.r[i].dropped, y.r[i].dropped);
    assert_int_equal(x.r[i].block_bytes, y.r[i].block_bytes);
    if (i)
      assert_true(strcmp(x.r[i - 1].name, x.r[i].name) < 0);
  }
  copy_free(&x);
  copy_free(&y);
}

#define PEERS 5
/* Peers whose clocks differ by up to an hour make and drop few names, so that they collide all the time. */
static void peers_agree_whoever_tells_whom(void **state) {
  (void)state;
  for (int round = 0; round < 40; round++) {
    struct catalog *c[PEERS];
    int64_t skew[PEERS];
    for (int p = 0; p < PEERS; p++) {
      c[p] = new_catalog();
      skew[p] = (int64_t)rng_below(&rng, 3600) * NS_PER_S;
    }
    for (int step = 0; step < 300; step++) {
      unsigned p = (unsigned)rng_below(&rng, PEERS);
      char name[8];
      snprintf(name, sizeof name, "n%u", (unsigned)rng_below(&rng, 6));
      uint64_t now = (uint64_t)(clock_wall_ns() - skew[p]) / (1000 * (uint64_t)NS_PER_S); /* coarse: equal revisions */
      uint64_t revision = catalog_revision(c[p], name) + 1, id = id_of(c[p], name);
      revision = revision > now ? revision : now;
      if (rng_below(&rng, 3) == 0) {
        tell(c[p], c[rng_below(&rng, PEERS)], false);
      } else if (id) {
        struct ns_record t = tombstone(name, revision, id);
        assert_int_equal(catalog_drop(c[p], &t, NULL, NULL), 0);
      } else {
        struct ns_record r = record(name, revision, revision * PEERS + p);
        r.block_bytes = 65536u << p;
        r.block_bytes = r.block_bytes > 4194304 ? 4194304 : r.block_bytes;
        assert_int_equal(catalog_create(c[p], &r, NULL), 0);
      }
    }
    for (int p = 1; p < PEERS; p++)
      tell(c[p], c[0], true);
    for (int p = 1; p < PEERS; p++) {
      tell(c[0], c[p], true);
      assert_equal(c[0], c[p]);
    }
    for (int p = 0; p < PEERS; p++)
      catalog_free(&c[p]);
  }
}

static void fill(struct catalog *c, const char *prefix, unsigned from, unsigned n, bool dropped) {
  char name[32];

  for (unsigned i = from; i < from + n; i++) {
    snprintf(name, sizeof name, "%s%05u", prefix, i);
    apply(c, dropped ? tombstone(name, i + 1, i + 1) : record(name, i + 1, i + 1));
  }
}

static void a_full_table_keeps_the_newest_tombstones(void **state) {
  struct catalog *a = new_catalog(), *b = new_catalog();
  struct err e = {0};

  (void)state;
  fill(a, "a", 0, NS_MAX - 100, false);
  fill(a, "at", 0, 100, true);
  fill(b, "at", 50, 100, true);
  struct ns_record more = record("more", 1, 1);
  apply(a, more); /* costs the oldest tombstone, of revision 1 */
  assert_int_equal(catalog_revision(a, "at00000"), 0);
  assert_int_equal(id_of(a, "more"), 1);
  apply(a, tombstone("at00000", 1, 1)); /* which is no news then */
  assert_int_equal(catalog_revision(a, "at00000"), 0);
  tell(a, b, true);
  tell(b, a, true);
  tell(a, b, true);
  assert_equal(a, b);
  assert_int_equal(catalog_revision(a, "at00050"), 0);
  assert_int_equal(catalog_revision(a, "at00149"), 150);
  assert_int_equal(catalog_save(a, &e), 0);
  tell(b, a, true);
  assert_false(a->dirty); /* nothing changes any more, so nothing is written */
  catalog_free(&a);
  catalog_free(&b);
}

static void too_many_are_refused(void **state) {
  struct catalog *c = new_catalog();
  struct ns_record more = record("more", 1, 1);
  struct err e = {0};

  (void)state;
  fill(c, "a", 0, NS_MAX, false);
  assert_int_equal(catalog_create(c, &more, &e), -FB_EBUSY);
  assert_non_null(strstr(e.text, "10000"));
  assert_int_equal(catalog_apply(c, &more, 1, NULL, &e), -FB_EBUSY);
  apply(c, tombstone("gone", 1, 1)); /* no room, and no harm */
  assert_int_equal(catalog_revision(c, "gone"), 0);
  apply(c, tombstone("a00000", 2, 1));
  assert_int_equal(catalog_create(c, &more, &e), 0);
  catalog_free(&c);
}

/* ---- the file ---- */

static void what_is_saved_comes_back(void **state) {
  struct catalog *a = new_catalog(), *b = new_catalog();
  struct err e = {0};

  (void)state;
  assert_int_equal(catalog_load(b, &e), 0); /* no file is an empty catalog */
  fill(a, "x", 0, 100, false);
  fill(a, "y", 0, 100, true);
  assert_int_equal(catalog_save(a, &e), 0);
  assert_int_equal(catalog_load(b, &e), 0);
  assert_equal(a, b);
  assert_false(b->dirty);
  catalog_free(&a);
  catalog_free(&b);
}

static void lengths_are_checked(void **state) {
  static const uint8_t magic[16] = "FBCATLG1";
  struct catalog *c = new_catalog();
  struct err e = {0};

  (void)state;
  assert_int_equal(catalog_decode(c, magic, 0, &e), -FB_EBADCONF);
  assert_int_equal(catalog_decode(c, magic, 15, &e), -FB_EBADCONF);
  assert_int_equal(catalog_decode(c, magic, 16, &e), 0); /* nothing, with the checksum of nothing */
  uint8_t longer[17] = "FBCATLG1";
  assert_int_equal(catalog_decode(c, longer, 17, &e), -FB_ECRC);
  catalog_free(&c);
}

static bool idle(void *arg) { return !catalog_saving(arg); }

static void tend(struct catalog *c) {
  atomic_store(&c->save_again_ns, 0);
  catalog_tend(c, clock_mono_ns());
  assert_true(test_wait(idle, c, 60000));
}

static unsigned count(const char *text, const char *part) {
  unsigned n = 0;
  for (; (text = strstr(text, part)); text++)
    n++;
  return n;
}

static void a_disk_that_fails_is_tried_again_and_told_once(void **state) {
  struct catalog *c = new_catalog();
  char *aside = test_printf("%s.aside", f.state), *log = test_printf("%s/log", f.dir);
  struct err e = {0};

  (void)state;
  int fd = open(log, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  log_setup(LOG_INFO, LOG_LOGFMT, fd);
  tend(c); /* nothing to save */
  assert_int_equal(c->pause_ms, 0);
  assert_int_equal(rename(f.state, aside), 0);
  apply(c, record("a", 1, 1));
  assert_int_equal(catalog_save(c, &e), -ENOENT);
  assert_non_null(strstr(e.text, f.state));
  assert_true(c->dirty);
  uint64_t pause = 0;
  for (int i = 0; i < 9; i++) {
    tend(c);
    assert_true(c->dirty);
    assert_true(c->pause_ms > pause || c->pause_ms == 30000);
    pause = c->pause_ms;
    assert_true(c->save_again_ns > clock_mono_ns());
    catalog_tend(c, clock_mono_ns()); /* too early: nothing happens */
    assert_false(catalog_saving(c));
  }
  assert_int_equal(rename(aside, f.state), 0);
  tend(c);
  assert_false(c->dirty);
  assert_int_equal(c->pause_ms, 0);
  log_setup(LOG_INFO, LOG_LOGFMT, STDERR_FILENO);
  size_t len;
  char *text = test_read_file(log, &len);
  assert_int_equal(count(text, "cannot be saved"), 1);
  assert_int_equal(count(text, "saved again"), 1);
  struct catalog *d = new_catalog();
  assert_int_equal(catalog_load(d, &e), 0);
  assert_int_equal(id_of(d, "a"), 1);
  close(fd);
  free(text);
  free(log);
  free(aside);
  catalog_free(&c);
  catalog_free(&d);
}

static void what_cannot_be_saved_is_not_acknowledged(void **state) {
  char *aside = test_printf("%s.aside", f.state);
  struct ns_record r = {.name = "n", .kind = NS_DERIVED};
  struct answer a;

  (void)state;
  make_derived(&f, "there", false);
  assert_int_equal(rename(f.state, aside), 0);
  ask_create(&f, &r, &a);
  assert_int_equal(a.code, -ENOENT);
  assert_non_null(strstr(a.text, "n:"));
  ask_stat(&f, "n", "k", false, &a);
  assert_int_equal(a.code, -FB_ENONS); /* taken back */
  ask_drop(&f, "there", &a);
  assert_int_equal(a.code, -ENOENT);
  assert_non_null(strstr(a.text, "restart"));
  assert_int_equal(rename(aside, f.state), 0);
  ask_create(&f, &r, &a);
  assert_int_equal(a.code, 0);
  free(aside);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(the_newer_record_holds),
      T(blocks_go_with_their_namespace),
      T(create_and_drop),
      T(one_bad_record_does_not_keep_the_others_out),
      T(records_are_checked),
      T(a_revision_from_far_ahead_is_taken_from_the_own_file_only),
      T(peers_agree_whoever_tells_whom),
      T(a_full_table_keeps_the_newest_tombstones),
      T(too_many_are_refused),
      T(what_is_saved_comes_back),
      T(lengths_are_checked),
      T(a_disk_that_fails_is_tried_again_and_told_once),
      T(what_cannot_be_saved_is_not_acknowledged),
  };
  rng_init(&rng, test_seed("FOREBAY_SEED"));
  return cmocka_run_group_tests(tests, NULL, NULL);
}
