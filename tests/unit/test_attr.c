/* test_attr.c - what a key is now: how old an answer may be, who shares one, and what is never kept. */
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

#define LONG_MS 60000
#define HOUR_MS 3600000u

static struct service_fixture f;
static struct fake_origin *origin;
static struct ns *ns; /* reference */

static void new_version(const char *key) { fake_origin_set(origin, key, "12345", 5); }

static void up(void (*tune)(struct service_conf *c), uint32_t attr_ttl_ms) {
  struct answer a;

  service_fixture_open(&f, &(struct service_fixture_options){.tune = tune});
  struct ns_record r = {
      .name = "w", .kind = NS_DERIVED, .origin = f.origin, .block_bytes = 65536, .attr_ttl_ms = attr_ttl_ms};
  ask_create(&f, &r, &a);
  assert_int_equal(a.code, 0);
  origin = service_fixture_fake_origin(&f, "w");
  ns = catalog_find(f.s->catalog, "w");
  new_version("x");
}

static void errors_last(struct service_conf *c) { c->error_ttl_ms = 1000; }
static void narrow(struct service_conf *c) {
  c->error_ttl_ms = 1000;
  c->origin_threads = 1;
  c->origin_queue = 1;
}
static void few(struct service_conf *c) { c->attr_entries = 64; }

static int setup_hour(void **state) {
  (void)state;
  up(errors_last, HOUR_MS);
  return 0;
}
static int setup_short(void **state) {
  (void)state;
  up(NULL, 20);
  return 0;
}
static int setup_narrow(void **state) {
  (void)state;
  up(narrow, HOUR_MS);
  return 0;
}
static int setup_few(void **state) {
  (void)state;
  up(few, HOUR_MS);
  return 0;
}
static int teardown(void **state) {
  (void)state;
  ns_unref(&ns);
  service_fixture_end(&f);
  return 0;
}

struct got {
  sem_t done;
  int code;
  struct attr attr;
};

static void on_attr(void *arg, int code, const char *text, const struct attr *a) {
  struct got *g = arg;

  g->code = code;
  assert_true(code == 0 || strlen(text) > 2);
  if (code == 0)
    g->attr = *a;
  sem_post(&g->done);
}

static void begin(struct got *g, const char *key, uint64_t etag, bool fresh, int64_t ms) {
  memset(g, 0, sizeof *g);
  sem_init(&g->done, 0, 0);
  attr_get(f.s, ns, key, etag, fresh, deadline_in_ms(ms), on_attr, g);
}
static void end(struct got *g) {
  while (sem_wait(&g->done) != 0)
    ;
  sem_destroy(&g->done);
}
static struct got get(const char *key, uint64_t etag, bool fresh) {
  static struct got g;
  begin(&g, key, etag, fresh, LONG_MS);
  end(&g);
  return g;
}
static uint64_t asked(void) { return atomic_load(&origin->stat.calls); }

static void an_answer_is_good_for_its_time(void **state) {
  uint64_t old = fake_origin_etag(origin, "x");

  (void)state;
  assert_int_equal(get("x", 0, false).attr.etag, old);
  new_version("x");
  assert_int_equal(get("x", 0, false).attr.etag, old);
  assert_int_equal(asked(), 1);
  assert_int_equal(get("x", 0, true).attr.etag, fake_origin_etag(origin, "x"));
  assert_int_equal(get("x", 0, false).attr.etag, fake_origin_etag(origin, "x"));
  assert_int_equal(asked(), 2);
}

static bool time_has_come(void *arg) { return clock_mono_ns() >= *(int64_t *)arg; }

static void it_ages_from_when_the_origin_was_asked(void **state) {
  struct got g;

  (void)state;
  gate_close(&origin->stat_late.gate);
  begin(&g, "x", 0, false, LONG_MS);
  assert_true(gate_wait(&origin->stat_late.gate, 1, LONG_MS));
  int64_t old = deadline_in_ms(21);
  assert_true(test_wait(time_has_come, &old, LONG_MS));
  gate_open(&origin->stat_late.gate);
  end(&g);
  assert_int_equal(g.code, 0);
  get("x", 0, false); /* the first answer is 20 ms old already */
  assert_int_equal(asked(), 2);
}

static void errors_are_repeated_for_a_second_at_most(void **state) {
  struct service_conf c = {.error_ttl_ms = 0, .peer_timeout_ms = 1000};

  (void)state;
  assert_int_equal(get("none", 0, false).code, -ENOENT);
  assert_int_equal(get("none", 0, false).code, -ENOENT);
  assert_int_equal(get("none", 77, false).code, -ENOENT);
  assert_int_equal(asked(), 1);
  assert_int_equal(get("none", 0, true).code, -ENOENT);
  assert_int_equal(asked(), 2);
  fault_set(&origin->stat, 1, 1, -EIO);
  assert_int_equal(get("bad", 0, false).code, -EIO);
  assert_int_equal(get("bad", 0, false).code, -EIO);
  assert_int_equal(asked(), 3);
  service_reload(f.s, &c);
  assert_int_equal(get("bad", 0, false).code, -ENOENT);
  assert_int_equal(get("bad", 0, false).code, -ENOENT);
  assert_int_equal(asked(), 5);
}

static void a_version_never_ages(void **state) {
  uint64_t old = fake_origin_etag(origin, "x");

  (void)state;
  assert_int_equal(get("x", old, false).code, 0);
  int64_t later = deadline_in_ms(21);
  assert_true(test_wait(time_has_come, &later, LONG_MS));
  new_version("x");
  assert_int_equal(get("x", old, false).attr.etag, old); /* its blocks may still be here */
  assert_int_equal(asked(), 1);
  uint64_t now = fake_origin_etag(origin, "x");
  assert_int_equal(get("x", now, false).attr.etag, now);
  assert_int_equal(asked(), 2);
  assert_int_equal(get("x", old, false).code, -FB_ECHANGED);
  assert_int_equal(get("x", 1, false).code, -FB_ECHANGED);
}

static void readers_of_whatever_version_share_one_question(void **state) {
  uint64_t etag = fake_origin_etag(origin, "x");
  struct got any, right, wrong, hasty;

  (void)state;
  gate_close(&origin->stat.gate);
  begin(&any, "x", 0, false, LONG_MS);
  begin(&right, "x", etag, false, LONG_MS);
  begin(&wrong, "x", etag + 2, false, LONG_MS);
  begin(&hasty, "x", 0, false, 1);
  end(&hasty);
  assert_int_equal(hasty.code, -ETIMEDOUT);
  gate_open(&origin->stat.gate);
  end(&any);
  end(&right);
  end(&wrong);
  assert_int_equal(any.attr.etag, etag);
  assert_int_equal(right.attr.etag, etag);
  assert_int_equal(wrong.code, -FB_ECHANGED);
  assert_int_equal(asked(), 1);
}

/* A look-up has its answer from before; then `happens`. It must not be kept, and nobody joins it. */
static void overtaken_by(void (*happens)(void)) {
  struct got before, after;

  gate_close(&origin->stat_late.gate);
  begin(&before, "x", 0, false, LONG_MS);
  assert_true(gate_wait(&origin->stat_late.gate, 1, LONG_MS));
  new_version("x");
  happens();
  begin(&after, "x", 0, false, LONG_MS);
  gate_open(&origin->stat_late.gate);
  end(&before);
  end(&after);
  uint64_t etag = fake_origin_etag(origin, "x");
  assert_int_not_equal(before.attr.etag, etag);
  assert_int_equal(after.attr.etag, etag);
  assert_int_equal(get("x", 0, false).attr.etag, etag);
}

static void forget(void) { attr_forget(f.s, ns, "x"); }
static void invalidate(void) {
  struct answer a;
  ask_invalidate(&f, "w", "x*", &a);
  assert_int_equal(a.code, 0);
}
static void put(void) {
  struct answer a;
  ask_put(&f, "w", "x", "new value", 9, true, &a);
  assert_int_equal(a.code, 0);
}
static void an_answer_from_before_a_change_is_not_kept(void **state) {
  (void)state;
  overtaken_by(forget);
}
static void an_answer_from_before_an_invalidate_is_not_kept(void **state) {
  (void)state;
  overtaken_by(invalidate);
}
static void an_answer_from_before_a_put_is_not_kept(void **state) {
  (void)state;
  overtaken_by(put);
}

static void a_put_is_not_hidden_by_its_absence_before(void **state) {
  struct answer a;
  struct got before;

  (void)state;
  gate_close(&origin->stat_late.gate);
  begin(&before, "v", 0, false, LONG_MS);
  assert_true(gate_wait(&origin->stat_late.gate, 1, LONG_MS));
  ask_put(&f, "w", "v", "value", 5, false, &a);
  assert_int_equal(a.code, 0);
  gate_open(&origin->stat_late.gate);
  end(&before);
  assert_int_equal(before.code, -ENOENT); /* it was asked before */
  assert_int_equal(get("v", 0, false).code, 0);
}

static void who_wants_it_fresh_does_not_take_an_older_answer(void **state) {
  struct got plain, first, second, third;

  (void)state;
  gate_close(&origin->stat_late.gate);
  begin(&plain, "x", 0, false, LONG_MS); /* takes the only thread, and has its answer */
  assert_true(gate_wait(&origin->stat_late.gate, 1, LONG_MS));
  new_version("x");
  begin(&first, "x", 0, true, LONG_MS);
  begin(&second, "x", 0, true, LONG_MS); /* shares it: it has not been asked yet */
  gate_admit(&origin->stat_late.gate);
  assert_true(gate_wait(&origin->stat_late.gate, 1, LONG_MS));
  assert_int_equal(asked(), 2);
  new_version("x");
  begin(&third, "x", 0, true, LONG_MS); /* does not: by now it has */
  gate_open(&origin->stat_late.gate);
  end(&plain);
  end(&first);
  end(&second);
  end(&third);
  assert_int_equal(asked(), 3);
  uint64_t etag = fake_origin_etag(origin, "x");
  assert_int_not_equal(plain.attr.etag, first.attr.etag);
  assert_int_equal(second.attr.etag, first.attr.etag);
  assert_int_not_equal(first.attr.etag, etag);
  assert_int_equal(third.attr.etag, etag);
  assert_int_equal(get("x", 0, false).attr.etag, etag);
}

static void a_full_queue_refuses_and_is_not_kept(void **state) {
  struct got running, queued;

  (void)state;
  gate_close(&origin->stat.gate);
  begin(&running, "a", 0, false, LONG_MS);
  assert_true(gate_wait(&origin->stat.gate, 1, LONG_MS));
  begin(&queued, "b", 0, false, LONG_MS);
  assert_int_equal(get("x", 0, false).code, -FB_EBUSY);
  gate_open(&origin->stat.gate);
  end(&running);
  end(&queued);
  assert_int_equal(get("x", 0, false).code, 0);
}

static void the_table_is_bounded(void **state) {
  char key[32];

  (void)state;
  for (int i = 0; i < 2000; i++) {
    snprintf(key, sizeof key, "k%d", i);
    attr_learn(f.s, ns, key, &(struct attr){.etag = 5});
  }
  for (int i = 0; i < 2000; i++) { /* the newest are still there */
    snprintf(key, sizeof key, "k%d", i);
    attr_learn(f.s, ns, key, &(struct attr){.etag = 6});
    struct attr a;
    assert_int_equal(attr_known(f.s, ns, key, 6, &a), 0);
  }
  uint64_t n = attr_forget_matching(f.s, ns, "k*");
  assert_in_range(n, 64, 128);
  assert_int_equal(attr_forget_matching(f.s, ns, ""), 0);
}

int main(void) {
#define T(name, up) cmocka_unit_test_setup_teardown(name, up, teardown)
  const struct CMUnitTest tests[] = {
      T(an_answer_is_good_for_its_time, setup_hour),
      T(it_ages_from_when_the_origin_was_asked, setup_short),
      T(errors_are_repeated_for_a_second_at_most, setup_hour),
      T(a_version_never_ages, setup_short),
      T(readers_of_whatever_version_share_one_question, setup_hour),
      T(an_answer_from_before_a_change_is_not_kept, setup_hour),
      T(an_answer_from_before_an_invalidate_is_not_kept, setup_hour),
      T(an_answer_from_before_a_put_is_not_kept, setup_hour),
      T(a_put_is_not_hidden_by_its_absence_before, setup_hour),
      T(who_wants_it_fresh_does_not_take_an_older_answer, setup_narrow),
      T(a_full_queue_refuses_and_is_not_kept, setup_narrow),
      T(the_table_is_bounded, setup_few),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
