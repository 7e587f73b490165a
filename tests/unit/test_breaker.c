/* test_breaker.c - the breaker's transitions from a table, and what must hold for any sequence of events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "client/lib/breaker.h"
#include "common/clock.h"
#include "tests/lib/testlib.h"

#define MID (UINT64_C(1) << 63) /* the random word without jitter */

static const struct breaker_conf conf = {.failure_limit = 3, .pause_base_ns = 1000, .pause_max_ns = 6000};

enum event { ALLOW, REFUSE, OK, FAIL };

/* ALLOW and REFUSE ask and expect that answer; the others tell. The state is what holds afterwards. */
static const struct step {
  int64_t now;
  enum event event;
  enum breaker_state state;
} steps[] = {
    {0, ALLOW, BREAKER_CLOSED},
    {0, FAIL, BREAKER_CLOSED},
    {1, FAIL, BREAKER_CLOSED},
    {2, OK, BREAKER_CLOSED}, /* a success in between starts the count anew */
    {3, FAIL, BREAKER_CLOSED},
    {4, FAIL, BREAKER_CLOSED},
    {5, ALLOW, BREAKER_CLOSED},
    {10, FAIL, BREAKER_OPEN},
    {10, REFUSE, BREAKER_OPEN},
    {1009, REFUSE, BREAKER_OPEN},
    {1009, FAIL, BREAKER_OPEN}, /* of a call that was sent before: does not prolong */
    {1010, ALLOW, BREAKER_HALF_OPEN},
    {1010, REFUSE, BREAKER_HALF_OPEN}, /* one probe only */
    {2009, REFUSE, BREAKER_HALF_OPEN},
    {2010, ALLOW, BREAKER_HALF_OPEN}, /* the first was never told of: the next after another pause */
    {2020, FAIL, BREAKER_OPEN},
    {4019, REFUSE, BREAKER_OPEN}, /* doubled */
    {4020, ALLOW, BREAKER_HALF_OPEN},
    {4020, FAIL, BREAKER_OPEN},
    {8019, REFUSE, BREAKER_OPEN}, /* 4000 */
    {8020, ALLOW, BREAKER_HALF_OPEN},
    {8020, FAIL, BREAKER_OPEN},
    {14019, REFUSE, BREAKER_OPEN}, /* 8000, held to 6000 */
    {14020, ALLOW, BREAKER_HALF_OPEN},
    {14021, OK, BREAKER_CLOSED},
    {14021, ALLOW, BREAKER_CLOSED},
    {14022, FAIL, BREAKER_CLOSED},
    {14022, FAIL, BREAKER_CLOSED},
    {14022, FAIL, BREAKER_OPEN},
    {15021, REFUSE, BREAKER_OPEN},
    {15022, ALLOW, BREAKER_HALF_OPEN}, /* the pause began at its base again */
    {15022, FAIL, BREAKER_OPEN},
    {15023, OK, BREAKER_CLOSED}, /* a late answer: it lives */
};

static void test_table(void **state) {
  struct breaker b = {0};

  (void)state;
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    const struct step *s = &steps[i];
    switch (s->event) {
    case ALLOW:
    case REFUSE:
      if (breaker_allow(&b, &conf, s->now) != (s->event == ALLOW))
        fail_msg("step %zu: wrong answer", i);
      break;
    case OK:
      breaker_success(&b);
      break;
    case FAIL:
      breaker_failure(&b, &conf, s->now, MID);
      break;
    }
    if (b.state != s->state)
      fail_msg("step %zu: state %d, expected %d", i, b.state, s->state);
  }
}

static void test_jitter_bounds(void **state) {
  const struct breaker_conf one = {.failure_limit = 1, .pause_base_ns = NS_PER_S, .pause_max_ns = NS_PER_S};
  const uint64_t words[] = {0, 1, MID, UINT64_MAX};
  const int64_t pauses[] = {750 * NS_PER_MS, 750 * NS_PER_MS, NS_PER_S, 1250 * NS_PER_MS};

  (void)state;
  for (size_t i = 0; i < 4; i++) {
    struct breaker b = {0};
    breaker_failure(&b, &one, 5, words[i]);
    int64_t pause = b.retry_at_ns - 5;
    assert_true(pause >= pauses[i] - 10 && pause <= pauses[i] + 10);
  }
}

/* The pause never overflows, however large its bounds and however often it is doubled. */
static void test_huge_pauses(void **state) {
  const struct breaker_conf huge = {.failure_limit = 1, .pause_base_ns = 1, .pause_max_ns = INT64_MAX / 4};
  struct breaker b = {0};

  (void)state;
  for (int i = 0; i < 200; i++) {
    b.state = BREAKER_HALF_OPEN;
    breaker_failure(&b, &huge, 0, UINT64_MAX);
    assert_int_equal(b.state, BREAKER_OPEN);
    assert_true(b.retry_at_ns >= 0);
    assert_true(b.retry_at_ns <= huge.pause_max_ns + huge.pause_max_ns / 4);
  }
}

/* Any sequence: refused only while a pause runs; never shut for longer than the longest pause; one probe per pause;
 * fewer failures in a row than the limit never open it. */
static void test_properties(void **state) {
  struct rng r;

  (void)state;
  rng_init(&r, test_seed("BREAKER_SEED"));
  for (int run = 0; run < 200; run++) {
    struct breaker b = {0};
    struct breaker_conf c = {.failure_limit = (uint32_t)rng_range(&r, 1, 6),
                             .pause_base_ns = (int64_t)rng_range(&r, 1, 1000)};
    c.pause_max_ns = c.pause_base_ns * (int64_t)rng_range(&r, 1, 20);
    int64_t now = 0, refused_since = -1, last_probe = -1;
    uint32_t row = 0;
    for (int i = 0; i < 500; i++) {
      now += (int64_t)rng_below(&r, (uint64_t)c.pause_base_ns);
      enum breaker_state before = b.state;
      bool go = breaker_allow(&b, &c, now);
      if (before == BREAKER_CLOSED)
        assert_true(go);
      if (!go) {
        assert_true(now < b.retry_at_ns);
        if (refused_since < 0)
          refused_since = now;
        assert_true(now - refused_since <= c.pause_max_ns + c.pause_max_ns / 4);
        continue;
      }
      refused_since = -1;
      if (before != BREAKER_CLOSED) {
        assert_int_equal(b.state, BREAKER_HALF_OPEN);
        assert_false(breaker_allow(&b, &c, now) && c.pause_base_ns > 1);
        if (before == BREAKER_HALF_OPEN && last_probe >= 0)
          assert_true(now - last_probe >= c.pause_base_ns - c.pause_base_ns / 4 - 1);
        last_probe = now;
      }
      switch (rng_below(&r, 3)) {
      case 0:
        breaker_success(&b);
        row = 0;
        assert_int_equal(b.state, BREAKER_CLOSED);
        break;
      case 1:
        breaker_failure(&b, &c, now, rng_u64(&r));
        row++;
        if (before == BREAKER_CLOSED)
          assert_int_equal(b.state, row >= c.failure_limit ? BREAKER_OPEN : BREAKER_CLOSED);
        else
          assert_int_equal(b.state, BREAKER_OPEN);
        break;
      default: /* cancelled: nobody tells */
        break;
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_table),
      cmocka_unit_test(test_jitter_bounds),
      cmocka_unit_test(test_huge_pauses),
      cmocka_unit_test(test_properties),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
