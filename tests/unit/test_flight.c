/* test_flight.c - many want it, one fetches it, each is told once; who cannot wait longer leaves alone. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/service/internal.h"
#include "tests/lib/testlib.h"

struct waiter {
  struct flight_waiter w; /* first */
  atomic_int calls;
  int code;
  const void *value;
};

static void told(struct flight_waiter *w, const struct flight_result *r) {
  struct waiter *me = (struct waiter *)w;

  me->code = r->code;
  me->value = r->value;
  atomic_fetch_add(&me->calls, 1);
}

static bool join(struct flight_table *t, const char *key, struct waiter *w, int64_t deadline_ns, struct flight **f) {
  *w = (struct waiter){.w = {.done = told, .deadline_ns = deadline_ns}};
  return flight_join(t, key, strlen(key), hash_bytes128(key, strlen(key)), &w->w, f);
}

static void one_leads_all_are_told(void **state) {
  struct flight_table *t;
  struct waiter w[10], other;
  struct flight *f, *g, *h;
  int value = 7;

  (void)state;
  assert_int_equal(flight_table_new(&t), 0);
  assert_true(join(t, "a", &w[0], DEADLINE_NONE, &f));
  for (int i = 1; i < 10; i++) {
    assert_false(join(t, "a", &w[i], DEADLINE_NONE, &g));
    assert_ptr_equal(g, f);
  }
  assert_true(join(t, "b", &other, DEADLINE_NONE, &h));
  assert_int_equal(flight_count(t), 2);
  flight_land(t, f, &(struct flight_result){.code = 0, .text = "", .value = &value});
  for (int i = 0; i < 10; i++) {
    assert_int_equal(w[i].calls, 1);
    assert_ptr_equal(w[i].value, &value);
  }
  assert_int_equal(other.calls, 0);
  flight_land(t, h, &(struct flight_result){.code = -EIO, .text = "disk"});
  assert_int_equal(other.calls, 1);
  assert_int_equal(other.code, -EIO);
  assert_int_equal(flight_count(t), 0);
  /* The next one leads anew: nothing of the old flight is left. */
  assert_true(join(t, "a", &w[0], DEADLINE_NONE, &f));
  flight_land(t, f, &(struct flight_result){.text = ""});
  flight_table_free(&t);
  assert_null(t);
}

static void the_late_leave_alone(void **state) {
  struct flight_table *t;
  struct waiter leader, patient, late;
  struct flight *f;

  (void)state;
  assert_int_equal(flight_table_new(&t), 0);
  assert_true(join(t, "k", &leader, 100, &f));
  assert_false(join(t, "k", &patient, 1000, &f));
  assert_false(join(t, "k", &late, 99, &f));
  assert_int_equal(flight_expire(t, 98), 0);
  assert_int_equal(flight_expire(t, 100), 2); /* the leader waits no longer either, its work goes on */
  assert_int_equal(late.code, -ETIMEDOUT);
  assert_int_equal(leader.code, -ETIMEDOUT);
  assert_int_equal(patient.calls, 0);
  flight_land(t, f, &(struct flight_result){.code = 0, .text = ""});
  assert_int_equal(patient.calls, 1);
  assert_int_equal(patient.code, 0);
  assert_int_equal(late.calls, 1);
  assert_int_equal(leader.calls, 1);
  flight_table_free(&t);
}

#define THREADS 8
#define ROUNDS 2000
static struct flight_table *shared;
static atomic_uint led, ended;
static atomic_bool racing;

static void *racer(void *arg) {
  struct waiter w;
  struct rng r;
  char key[8];

  rng_init(&r, (uint64_t)(uintptr_t)arg);
  for (int i = 0; i < ROUNDS; i++) {
    struct flight *f;
    snprintf(key, sizeof key, "%u", (unsigned)rng_below(&r, 3));
    if (join(shared, key, &w, rng_below(&r, 2) ? DEADLINE_NONE : 1, &f)) {
      atomic_fetch_add(&led, 1);
      flight_land(shared, f, &(struct flight_result){.text = ""});
    }
    while (atomic_load(&w.calls) == 0)
      sched_yield();
    if (atomic_load(&w.calls) != 1)
      abort();
    atomic_fetch_add(&ended, 1);
  }
  return NULL;
}

static void *expirer(void *arg) {
  (void)arg;
  while (atomic_load(&racing))
    flight_expire(shared, 5);
  return NULL;
}

static void threads_never_lose_or_double_an_answer(void **state) {
  pthread_t t[THREADS], x;

  (void)state;
  assert_int_equal(flight_table_new(&shared), 0);
  atomic_store(&racing, true);
  pthread_create(&x, NULL, expirer, NULL);
  for (uintptr_t i = 0; i < THREADS; i++)
    pthread_create(&t[i], NULL, racer, (void *)(i + 1));
  for (int i = 0; i < THREADS; i++)
    pthread_join(t[i], NULL);
  atomic_store(&racing, false);
  pthread_join(x, NULL);
  assert_int_equal(ended, THREADS * ROUNDS);
  assert_true(led > 0);
  assert_int_equal(flight_count(shared), 0);
  flight_table_free(&shared);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_leads_all_are_told),
      cmocka_unit_test(the_late_leave_alone),
      cmocka_unit_test(threads_never_lose_or_double_an_answer),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
