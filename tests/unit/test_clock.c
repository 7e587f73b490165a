/* test_clock.c - nanoseconds and deadlines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/clock.h"

static void monotonic_time_does_not_go_back(void **state) {
  int64_t last = clock_mono_ns();

  (void)state;
  assert_true(last > 0);
  for (int i = 0; i < 10000; i++) {
    int64_t now = clock_mono_ns();
    assert_true(now >= last);
    last = now;
  }
}

static void wall_time_is_this_century(void **state) {
  (void)state;
  assert_true(clock_wall_ns() > INT64_C(1700000000) * NS_PER_S);
  assert_true(llabs(clock_wall_ns() / NS_PER_S - (int64_t)time(NULL)) <= 1);
}

static void timespec_splits(void **state) {
  struct timespec ts = clock_timespec(5 * NS_PER_S + 7 * NS_PER_MS + 3 * NS_PER_US);

  (void)state;
  assert_int_equal(ts.tv_sec, 5);
  assert_int_equal(ts.tv_nsec, 7003000);
}

static void deadlines(void **state) {
  int64_t before = clock_mono_ns(), d = deadline_in_ms(1500), after = clock_mono_ns();

  (void)state;
  assert_true(d >= before + 1500 * NS_PER_MS && d <= after + 1500 * NS_PER_MS);
  assert_true(deadline_in_ms(-1) == DEADLINE_NONE);
  assert_true(deadline_in_ms(0) <= clock_mono_ns());
  /* A timeout so long that it has no nanoseconds is none. */
  assert_true(deadline_in_ms(INT64_MAX) == DEADLINE_NONE);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(monotonic_time_does_not_go_back),
      cmocka_unit_test(wall_time_is_this_century),
      cmocka_unit_test(timespec_splits),
      cmocka_unit_test(deadlines),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
