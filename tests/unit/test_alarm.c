/* test_alarm.c - an alarm rings once, in time, on the alarms' thread; cancelling and ringing exclude each other. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/clock.h"
#include "server/net/alarm.h"
#include "tests/lib/testlib.h"

struct bell {
  struct alarm alarm; /* first member */
  atomic_uint rings;
  int64_t rang_ns;
  pthread_t thread;
};

static void on_ring(struct alarm *a) {
  struct bell *b = (struct bell *)a;
  b->rang_ns = clock_mono_ns();
  b->thread = pthread_self();
  atomic_fetch_add(&b->rings, 1);
}

static bool rang(void *arg) { return atomic_load(&((struct bell *)arg)->rings) > 0; }

static struct alarms *make(void) {
  struct alarms *as;
  struct err e;
  assert_int_equal(alarms_new(&as, &e), 0);
  return as;
}

static void test_rings_in_time_and_once(void **state) {
  struct alarms *as = make();
  struct bell late = {0}, soon = {0}, past = {0}, never = {0};
  int64_t now = clock_mono_ns();
  (void)state;

  alarm_set(as, &never.alarm, DEADLINE_NONE, on_ring);
  alarm_set(as, &late.alarm, now + 60 * NS_PER_MS, on_ring);
  alarm_set(as, &soon.alarm, now + 20 * NS_PER_MS, on_ring); /* nearer than what the thread waits for */
  alarm_set(as, &past.alarm, 0, on_ring);
  assert_true(test_wait(rang, &past, 5000));
  assert_true(test_wait(rang, &soon, 5000));
  assert_true(test_wait(rang, &late, 5000));
  assert_true(soon.rang_ns >= now + 20 * NS_PER_MS);
  assert_true(late.rang_ns >= now + 60 * NS_PER_MS);
  assert_false(pthread_equal(late.thread, pthread_self()));
  assert_false(alarm_cancel(as, &soon.alarm));
  assert_false(rang(&never));
  assert_true(alarm_cancel(as, &never.alarm));
  assert_false(alarm_cancel(as, &never.alarm));
  alarms_free(&as);
  assert_null(as);
  assert_int_equal(atomic_load(&past.rings) + atomic_load(&soon.rings) + atomic_load(&late.rings), 3);
  assert_int_equal(atomic_load(&never.rings), 0);
}

static void test_now(void **state) {
  struct alarms *as = make();
  struct bell b = {0}, far = {0};
  (void)state;

  alarm_now(as, &b.alarm); /* not set: nothing */
  alarm_set(as, &b.alarm, DEADLINE_NONE, on_ring);
  alarm_set(as, &far.alarm, clock_mono_ns() + 3600 * NS_PER_S, on_ring);
  alarm_now(as, &b.alarm);
  assert_true(test_wait(rang, &b, 5000));
  alarm_now(as, &far.alarm);
  assert_true(test_wait(rang, &far, 5000));
  alarms_free(&as);
  assert_int_equal(atomic_load(&b.rings), 1);
}

static struct alarms *again_as;
static void ring_again(struct alarm *a) {
  struct bell *b = (struct bell *)a;
  if (atomic_fetch_add(&b->rings, 1) < 2)
    alarm_set(again_as, a, 0, ring_again);
}
static bool rang_thrice(void *arg) { return atomic_load(&((struct bell *)arg)->rings) == 3; }

static void test_set_from_its_own_ring(void **state) {
  struct bell b = {0};
  (void)state;

  again_as = make();
  alarm_set(again_as, &b.alarm, 0, ring_again);
  assert_true(test_wait(rang_thrice, &b, 5000));
  alarms_free(&again_as);
}

#define ROUNDS 2000
#define THREADS 4

static struct alarms *race_as;
static void *racer(void *arg) {
  unsigned *wrong = arg;
  for (unsigned i = 0; i < ROUNDS; i++) {
    struct bell *b = calloc(1, sizeof *b);
    alarm_set(race_as, &b->alarm, i % 2 ? clock_mono_ns() : DEADLINE_NONE, on_ring);
    if (i % 3 == 0)
      alarm_now(race_as, &b->alarm);
    if (alarm_cancel(race_as, &b->alarm)) {
      *wrong += atomic_load(&b->rings) != 0;
    } else {
      *wrong += !test_wait(rang, b, 5000);
    }
    /* A ring that has counted touches nothing any more. */
    *wrong += atomic_load(&b->rings) > 1;
    free(b);
  }
  return NULL;
}

static void test_cancel_against_ring(void **state) {
  pthread_t t[THREADS];
  unsigned wrong[THREADS] = {0};
  (void)state;

  race_as = make();
  for (unsigned i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&t[i], NULL, racer, &wrong[i]), 0);
  for (unsigned i = 0; i < THREADS; i++) {
    pthread_join(t[i], NULL);
    assert_int_equal(wrong[i], 0);
  }
  alarms_free(&race_as);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rings_in_time_and_once),
      cmocka_unit_test(test_now),
      cmocka_unit_test(test_set_from_its_own_ring),
      cmocka_unit_test(test_cancel_against_ring),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
