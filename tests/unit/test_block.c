/* test_block.c - one block: pinned, or fetched once for all; what becomes of it when the origin hangs, fails or
 * changes, when the tier is full, and when its namespace goes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/service_fixture.h"
#include "tests/lib/testlib.h"

#define BLOCK 65536u
#define SIZE (4 * BLOCK)
#define LONG_MS 60000

static struct service_fixture f;
static struct fake_origin *origin;
static uint8_t data[SIZE];
static struct ns *ns; /* reference */
static struct attr attr;
static struct rng rng;

static void new_version(void) {
  rng_fill(&rng, data, SIZE);
  fake_origin_set(origin, "x", data, SIZE);
  attr = (struct attr){.size = SIZE, .etag = fake_origin_etag(origin, "x")};
}

static void up(const struct service_fixture_options *o) {
  service_fixture_open(&f, o);
  make_dataset(&f, "d", BLOCK);
  origin = service_fixture_fake_origin(&f, "d");
  ns = catalog_find(f.s->catalog, "d");
  new_version();
}

static void narrow(struct service_conf *c) {
  c->origin_threads = 1;
  c->origin_queue = 1;
  c->uncached_max_bytes = 2 * BLOCK;
}

static int setup(void **state) {
  (void)state;
  up(&(struct service_fixture_options){0});
  return 0;
}
static int setup_narrow(void **state) {
  (void)state;
  up(&(struct service_fixture_options){.tune = narrow});
  return 0;
}
static int teardown(void **state) {
  (void)state;
  ns_unref(&ns);
  service_fixture_end(&f);
  return 0;
}

/* What block_get answered; holds the block. */
struct got {
  sem_t done;
  int code, source;
  char text[ERR_TEXT_MAX];
  uint32_t crc;
  struct blob *data;
};

static void on_block(void *arg, int code, const char *text, const struct block_result *r) {
  struct got *g = arg;

  g->code = code;
  snprintf(g->text, sizeof g->text, "%s", text);
  if (code == 0) {
    g->data = blob_ref(r->data);
    g->source = r->source;
    g->crc = r->crc;
  }
  sem_post(&g->done);
}

static void begin(struct got *g, uint64_t index, int64_t ms) {
  memset(g, 0, sizeof *g);
  sem_init(&g->done, 0, 0);
  block_get(f.s, ns, "x", &attr, index, deadline_in_ms(ms), on_block, g);
}

static void end(struct got *g) {
  while (sem_wait(&g->done) != 0)
    ;
  sem_destroy(&g->done);
}

static void get(struct got *g, uint64_t index) {
  begin(g, index, LONG_MS);
  end(g);
}

static void expect_bytes(struct got *g, uint64_t index) {
  uint8_t copy[BLOCK];

  assert_int_equal(g->code, 0);
  assert_int_equal(blob_read(g->data, 0, copy, BLOCK), BLOCK);
  assert_memory_equal(copy, data + index * BLOCK, BLOCK);
  assert_int_equal(g->crc, blob_crc32c(g->data));
}

static bool resident(uint64_t index) { return block_resident(f.s, ns, "x", attr.etag, index, true); }

static void a_full_tier_is_served_past_within_a_budget(void **state) {
  struct got a, b, c;

  (void)state;
  fault_set(&f.faults->reserve, 1, UINT64_MAX, -ENOSPC);
  get(&a, 0);
  get(&b, 1);
  expect_bytes(&a, 0);
  expect_bytes(&b, 1);
  assert_false(resident(0));
  assert_int_equal(metric(&f, M_get_uncached_bytes), 2 * BLOCK);
  get(&c, 2); /* both are held: the budget is used up */
  assert_int_equal(c.code, -FB_EBUSY);
  assert_non_null(strstr(c.text, "cache.uncached_max_bytes"));
  blob_unref(&a.data);
  get(&c, 2);
  expect_bytes(&c, 2);
  blob_unref(&c.data);
  fault_set(&f.faults->reserve, 1, UINT64_MAX, -ENOMEM); /* the same, whatever the tier's reason */
  get(&c, 2);
  expect_bytes(&c, 2);
  blob_unref(&c.data);
  blob_unref(&b.data);
  fault_set(&f.faults->reserve, 1, 0, 0);
  get(&a, 0);
  assert_true(resident(0));
  blob_unref(&a.data);
}

static void a_block_outlives_the_service(void **state) {
  struct got a;

  (void)state;
  fault_set(&f.faults->reserve, 1, UINT64_MAX, -ENOSPC);
  get(&a, 3);
  ns_unref(&ns);
  service_fixture_stop(&f);
  expect_bytes(&a, 3);
  blob_unref(&a.data);
  service_fixture_start(&f, 0); /* for the teardown */
}

static void failures_pass_as_they_are_and_are_not_kept(void **state) {
  static const int codes[] = {-EIO, -EACCES, -ENOENT, -ESTALE, -FB_EESCAPES};
  struct got a;

  (void)state;
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    fault_set(&origin->read, 1, 1, codes[i]);
    get(&a, 0);
    assert_int_equal(a.code, codes[i]);
    assert_true(strlen(a.text) > 5);
    assert_false(resident(0));
  }
  fault_set(&origin->read_half, 1, 1, -EIO); /* in the middle: nothing half-read stays */
  get(&a, 0);
  assert_int_equal(a.code, -EIO);
  assert_false(resident(0));
  fake_origin_cut(origin, "x", 2 * BLOCK + 7);
  get(&a, 2);
  assert_int_equal(a.code, -FB_ESHORT); /* and never padded */
  assert_false(resident(2));
  fake_origin_cut(origin, "x", SIZE_MAX);
  get(&a, 2);
  expect_bytes(&a, 2);
  blob_unref(&a.data);
  assert_int_equal(metric(&f, M_origin_errors), sizeof codes / sizeof *codes + 2);
  struct tier_stats st;
  tier_stats(f.tier, &st);
  assert_int_equal(st.blocks, 1); /* and what was reserved for the others has been given back */
  assert_int_equal(f.faults->aborts, sizeof codes / sizeof *codes + 2);
}

static void a_change_in_the_middle_is_no_block(void **state) {
  struct got a, b;

  (void)state;
  gate_close(&origin->read_half.gate);
  begin(&a, 1, LONG_MS);
  assert_true(gate_wait(&origin->read_half.gate, 1, LONG_MS));
  struct attr old = attr;
  new_version();
  gate_open(&origin->read_half.gate);
  end(&a);
  assert_int_equal(a.code, -FB_ECHANGED);
  assert_int_equal(metric(&f, M_origin_changed), 1);
  assert_false(block_resident(f.s, ns, "x", old.etag, 1, true));
  get(&b, 1);
  expect_bytes(&b, 1);
  blob_unref(&b.data);
}

static void a_full_queue_refuses(void **state) {
  struct got running, queued, joined, refused;

  (void)state;
  gate_close(&origin->read.gate);
  begin(&running, 0, LONG_MS);
  assert_true(gate_wait(&origin->read.gate, 1, LONG_MS));
  begin(&queued, 1, LONG_MS);
  begin(&joined, 1, LONG_MS);
  get(&refused, 2);
  assert_int_equal(refused.code, -FB_EBUSY);
  assert_non_null(strstr(refused.text, "origin.queue"));
  assert_int_equal(metric(&f, M_fill_refused), 1);
  assert_int_equal(metric(&f, M_fill_joined), 1);
  gate_open(&origin->read.gate);
  end(&running);
  end(&queued);
  end(&joined);
  expect_bytes(&running, 0);
  expect_bytes(&queued, 1);
  expect_bytes(&joined, 1);
  assert_int_equal(metric(&f, M_origin_reads), 2);
  blob_unref(&running.data);
  blob_unref(&queued.data);
  blob_unref(&joined.data);
}

static bool counted_expired(void *arg) {
  (void)arg;
  return metric(&f, M_expired) >= 1;
}

static void who_cannot_wait_leaves_and_the_others_are_served(void **state) {
  struct got hasty, patient;

  (void)state;
  gate_close(&origin->read.gate);
  begin(&patient, 0, LONG_MS);
  assert_true(gate_wait(&origin->read.gate, 1, LONG_MS));
  begin(&hasty, 0, 1);
  end(&hasty); /* while the origin still hangs */
  assert_int_equal(hasty.code, -ETIMEDOUT);
  assert_true(test_wait(counted_expired, NULL, LONG_MS)); /* counted after they were told */
  gate_open(&origin->read.gate);
  end(&patient);
  expect_bytes(&patient, 0);
  blob_unref(&patient.data);
  assert_int_equal(metric(&f, M_origin_reads), 1);
}

static void a_stop_ends_waiters_and_skips_what_is_queued(void **state) {
  struct got running, queued;

  (void)state;
  gate_close(&origin->read.gate);
  begin(&running, 0, LONG_MS);
  assert_true(gate_wait(&origin->read.gate, 1, LONG_MS));
  begin(&queued, 1, LONG_MS);
  assert_false(service_stop(f.s, deadline_in_ms(20))); /* says that the origin has not answered */
  end(&running);
  end(&queued);
  assert_int_equal(running.code, -ETIMEDOUT);
  assert_int_equal(queued.code, -ETIMEDOUT);
  gate_open(&origin->read.gate);
  assert_true(service_stop(f.s, deadline_in_ms(LONG_MS)));
  assert_int_equal(origin->read.calls, 1); /* nobody wanted the queued one any more */
}

static void a_drain_ends_waiters_at_its_deadline(void **state) {
  struct got a;

  (void)state;
  gate_close(&origin->read.gate);
  begin(&a, 0, LONG_MS);
  assert_true(gate_wait(&origin->read.gate, 1, LONG_MS));
  service_drain(f.s, clock_mono_ns());
  end(&a);
  assert_int_equal(a.code, -ETIMEDOUT);
  gate_open(&origin->read.gate);
}

/* The namespace is dropped while a fill is at `where`. What was read is served once more, but not kept. */
static void drop_at(struct fault *where) {
  struct answer dropped;
  struct got a;

  gate_close(&where->gate);
  begin(&a, 0, LONG_MS);
  assert_true(gate_wait(&where->gate, 1, LONG_MS));
  ask_drop(&f, "d", &dropped);
  assert_int_equal(dropped.code, 0);
  gate_open(&where->gate);
  end(&a);
  expect_bytes(&a, 0);
  blob_unref(&a.data);
  uint64_t bytes, blocks;
  tier_usage(f.tier, ns->r.id, &bytes, &blocks);
  assert_int_equal(blocks, 0);
}

static void a_drop_before_the_fill_begins(void **state) {
  (void)state;
  drop_at(&f.faults->reserve);
}
static void a_drop_while_the_origin_reads(void **state) {
  (void)state;
  drop_at(&origin->read_half);
}
static void a_drop_before_the_block_is_visible(void **state) {
  (void)state;
  drop_at(&f.faults->commit);
}

static void a_damaged_block_is_found_out(void **state) {
  struct got a;

  (void)state;
  get(&a, 0);
  assert_int_equal(a.source, SOURCE_ORIGIN);
  assert_true(resident(0));
  ((uint8_t *)(uintptr_t)a.data->segs[0].data)[77] ^= 1; /* as a bad memory module would */
  assert_true(block_resident(f.s, ns, "x", attr.etag, 0, false));
  assert_false(resident(0));
  assert_int_equal(metric(&f, M_block_crc_errors), 1);
  assert_false(block_resident(f.s, ns, "x", attr.etag, 0, false)); /* it is gone */
  blob_unref(&a.data);
  get(&a, 0);
  expect_bytes(&a, 0);
  blob_unref(&a.data);
}

static void only_what_is_resident(void **state) {
  struct get_req q = {.ns = "d", .key = "x", .offset = 10, .length = 100, .route = {.resident_only = true}};
  struct answer a;
  struct got g;

  (void)state;
  q.deadline_ns = deadline_in_ms(LONG_MS);
  begin_get(&f, &q, &a);
  answer_await(&a);
  assert_int_equal(a.code, -ENOENT); /* attributes unknown */
  assert_int_equal(origin->stat.calls, 0);
  ask_stat(&f, "d", "x", true, &a);
  q.etag = attr.etag;
  begin_get(&f, &q, &a);
  answer_await(&a);
  assert_int_equal(a.code, -ENOENT); /* block absent */
  get(&g, 0);
  blob_unref(&g.data);
  begin_get(&f, &q, &a);
  answer_await(&a);
  assert_int_equal(a.code, 0);
  assert_memory_equal(a.data, data + 10, 100);
  assert_int_equal(a.source, SOURCE_RAM);
  answer_free(&a);
  assert_int_equal(origin->read.calls, 1);
  assert_int_equal(origin->stat.calls, 1);
  struct stat_req sq = {.ns = "d", .key = "y", .route = {.resident_only = true}, .deadline_ns = q.deadline_ns};
  begin_stat(&f, &sq, &a);
  answer_await(&a);
  assert_int_equal(a.code, -ENOENT);
  assert_int_equal(origin->stat.calls, 1);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define N(name) cmocka_unit_test_setup_teardown(name, setup_narrow, teardown)
  const struct CMUnitTest tests[] = {
      N(a_full_tier_is_served_past_within_a_budget),
      T(a_block_outlives_the_service),
      T(failures_pass_as_they_are_and_are_not_kept),
      T(a_change_in_the_middle_is_no_block),
      N(a_full_queue_refuses),
      T(who_cannot_wait_leaves_and_the_others_are_served),
      N(a_stop_ends_waiters_and_skips_what_is_queued),
      T(a_drain_ends_waiters_at_its_deadline),
      T(a_drop_before_the_fill_begins),
      T(a_drop_while_the_origin_reads),
      T(a_drop_before_the_block_is_visible),
      T(a_damaged_block_is_found_out),
      T(only_what_is_resident),
  };
  rng_init(&rng, test_seed("FOREBAY_SEED"));
  return cmocka_run_group_tests(tests, NULL, NULL);
}
