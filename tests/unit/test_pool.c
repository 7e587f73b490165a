/* test_pool.c - the pool bounds its queue, runs each job once, and loses none when it ends. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/pool.h"
#include "tests/lib/testlib.h"

/* A gate that jobs wait at, so that tests decide what is running and what is queued. */
static struct {
  pthread_mutex_t mtx;
  pthread_cond_t cond;
  bool open;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};

static void gate_set(bool open) {
  pthread_mutex_lock(&gate.mtx);
  gate.open = open;
  pthread_cond_broadcast(&gate.cond);
  pthread_mutex_unlock(&gate.mtx);
}

struct test_job {
  struct pool_job job; /* first: a cast finds the rest */
  atomic_int *runs;
  struct pool *again; /* submit yourself once more to it */
};

static void wait_at_gate(struct pool_job *job) {
  pthread_mutex_lock(&gate.mtx);
  while (!gate.open)
    pthread_cond_wait(&gate.cond, &gate.mtx);
  pthread_mutex_unlock(&gate.mtx);
  atomic_fetch_add(((struct test_job *)job)->runs, 1);
}

static void run_once(struct pool_job *job) {
  struct test_job *t = (struct test_job *)job;
  struct pool *again = t->again;

  atomic_fetch_add(t->runs, 1);
  if (again) {
    t->again = NULL;
    if (pool_submit(again, job) < 0)
      abort();
  }
}

static void free_itself(struct pool_job *job) {
  atomic_fetch_add(((struct test_job *)job)->runs, 1);
  free(job);
}

static bool two_running(void *arg) {
  struct pool_stats s;
  pool_stats(arg, &s);
  return s.running == 2;
}

static void limits_are_checked(void **state) {
  static const unsigned bad[][2] = {{0, 1}, {1, 0}, {POOL_THREADS_MAX + 1, 1}};
  struct pool *p = (struct pool *)1, *none = NULL;
  struct err e = {0};

  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(pool_new(&p, bad[i][0], bad[i][1], "origin", &e), -EINVAL);
    assert_non_null(strstr(e.text, "pool origin"));
    assert_non_null(strstr(e.text, "accepted"));
  }
  assert_ptr_equal(p, (struct pool *)1);
  pool_free(&none);
}

static void full_queue_refuses(void **state) {
  struct pool *p;
  struct pool_stats s;
  struct test_job jobs[6];
  atomic_int runs = 0;

  (void)state;
  gate_set(false);
  for (int i = 0; i < 6; i++)
    jobs[i] = (struct test_job){{wait_at_gate, NULL}, &runs, NULL};
  assert_int_equal(pool_new(&p, 2, 3, "a-rather-long-name", NULL), 0);
  assert_int_equal(pool_submit(p, &jobs[0].job), 0);
  assert_int_equal(pool_submit(p, &jobs[1].job), 0);
  assert_true(test_wait(two_running, p, 10000));
  for (int i = 2; i < 5; i++)
    assert_int_equal(pool_submit(p, &jobs[i].job), 0);
  assert_int_equal(pool_submit(p, &jobs[5].job), -FB_EBUSY);
  pool_stats(p, &s);
  assert_int_equal(s.threads, 2);
  assert_int_equal(s.queued, 3);
  assert_int_equal(s.running, 2);
  assert_int_equal(s.done, 0);
  assert_int_equal(s.refused, 1);
  gate_set(true);
  pool_free(&p); /* runs what is queued */
  assert_null(p);
  assert_int_equal(runs, 5);
}

static bool all_done(void *arg) {
  struct pool_stats s;
  pool_stats(arg, &s);
  return s.done == 4 && s.queued == 0 && s.running == 0;
}

static void job_is_the_callers_again_inside_fn(void **state) {
  struct pool *p;
  atomic_int runs = 0;

  (void)state;
  assert_int_equal(pool_new(&p, 3, 4, "x", NULL), 0);
  struct test_job again = {{run_once, NULL}, &runs, p};
  assert_int_equal(pool_submit(p, &again.job), 0);
  for (int i = 0; i < 2; i++) {
    struct test_job *t = malloc(sizeof *t);
    *t = (struct test_job){{free_itself, NULL}, &runs, NULL};
    assert_int_equal(pool_submit(p, &t->job), 0);
  }
  assert_true(test_wait(all_done, p, 10000));
  assert_int_equal(runs, 4);
  pool_free(&p);
}

static struct pool *ending;
static atomic_int late;

static void submit_late(struct pool_job *job) {
  wait_at_gate(job);
  /* pool_free is under way by now or soon will be: taken or refused, but never lost silently. */
  static struct test_job other;
  other = (struct test_job){{run_once, NULL}, ((struct test_job *)job)->runs, NULL};
  int r = pool_submit(ending, &other.job);
  if (r == 0)
    atomic_fetch_add(&late, 1);
  else if (r != -ESHUTDOWN)
    abort();
}

static void submitting_while_it_ends(void **state) {
  (void)state;
  for (int round = 0; round < 50; round++) {
    struct pool *p;
    atomic_int runs = 0;
    struct test_job t = {{submit_late, NULL}, &runs, NULL};

    late = 0;
    gate_set(false);
    assert_int_equal(pool_new(&p, 1, 4, "x", NULL), 0);
    ending = p;
    assert_int_equal(pool_submit(p, &t.job), 0);
    gate_set(true);
    pool_free(&p);
    assert_int_equal(runs, 1 + late);
  }
}

#define PRODUCERS 3
#define PER_PRODUCER 3000
struct producer {
  struct pool *pool;
  struct test_job jobs[PER_PRODUCER];
  atomic_int runs;
};

static void *produce(void *arg) {
  struct producer *me = arg;

  for (int i = 0; i < PER_PRODUCER; i++) {
    me->jobs[i] = (struct test_job){{run_once, NULL}, &me->runs, NULL};
    int r;
    while ((r = pool_submit(me->pool, &me->jobs[i].job)) == -FB_EBUSY)
      sched_yield();
    if (r != 0)
      abort();
  }
  return NULL;
}

static void many_producers(void **state) {
  static struct producer producers[PRODUCERS];
  pthread_t threads[PRODUCERS];
  struct pool *p;

  (void)state;
  assert_int_equal(pool_new(&p, 3, 16, "x", NULL), 0);
  for (int i = 0; i < PRODUCERS; i++) {
    producers[i].pool = p;
    assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
  }
  for (int i = 0; i < PRODUCERS; i++)
    pthread_join(threads[i], NULL);
  pool_free(&p);
  for (int i = 0; i < PRODUCERS; i++)
    assert_int_equal(producers[i].runs, PER_PRODUCER);
}

static void check_mask(struct pool_job *job) {
  sigset_t mask;
  char name[16];

  pthread_sigmask(SIG_SETMASK, NULL, &mask);
  pthread_getname_np(pthread_self(), name, sizeof name);
  if (sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGHUP) == 1 && strcmp(name, "origin/0") == 0)
    atomic_fetch_add(((struct test_job *)job)->runs, 1);
}

static void workers_take_no_signals_and_have_names(void **state) {
  struct pool *p;
  atomic_int runs = 0;
  sigset_t before, after;
  struct test_job t = {{check_mask, NULL}, &runs, NULL};

  (void)state;
  pthread_sigmask(SIG_SETMASK, NULL, &before);
  assert_int_equal(pool_new(&p, 1, 1, "origin", NULL), 0);
  pthread_sigmask(SIG_SETMASK, NULL, &after);
  for (int sig = 1; sig < SIGRTMAX; sig++)
    assert_int_equal(sigismember(&before, sig), sigismember(&after, sig));
  assert_int_equal(pool_submit(p, &t.job), 0);
  pool_free(&p);
  assert_int_equal(runs, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(limits_are_checked),
      cmocka_unit_test(full_queue_refuses),
      cmocka_unit_test(job_is_the_callers_again_inside_fn),
      cmocka_unit_test(submitting_while_it_ends),
      cmocka_unit_test(many_producers),
      cmocka_unit_test(workers_take_no_signals_and_have_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
