/* gate.c - holding threads at a place until the test opens it; see gate.h. */
#include "tests/lib/gate.h"

#include <errno.h>

#include "common/clock.h"

void gate_init(struct gate *g) {
  pthread_condattr_t attr;

  *g = (struct gate){.closed = false};
  pthread_mutex_init(&g->mtx, NULL);
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&g->changed, &attr);
  pthread_condattr_destroy(&attr);
}

void gate_fini(struct gate *g) {
  pthread_cond_destroy(&g->changed);
  pthread_mutex_destroy(&g->mtx);
}

static void set_closed(struct gate *g, bool closed) {
  pthread_mutex_lock(&g->mtx);
  g->closed = closed;
  pthread_cond_broadcast(&g->changed);
  pthread_mutex_unlock(&g->mtx);
}

void gate_close(struct gate *g) { set_closed(g, true); }
void gate_open(struct gate *g) { set_closed(g, false); }

void gate_admit(struct gate *g) {
  pthread_mutex_lock(&g->mtx);
  uint64_t target = g->passed + (g->waiting > 0);
  g->admit += g->waiting > 0;
  pthread_cond_broadcast(&g->changed);
  while (g->passed < target)
    pthread_cond_wait(&g->changed, &g->mtx);
  pthread_mutex_unlock(&g->mtx);
}

void gate_pass(struct gate *g) {
  pthread_mutex_lock(&g->mtx);
  g->waiting++;
  pthread_cond_broadcast(&g->changed);
  while (g->closed && g->admit == 0)
    pthread_cond_wait(&g->changed, &g->mtx);
  if (g->closed)
    g->admit--;
  g->waiting--;
  g->passed++;
  pthread_cond_broadcast(&g->changed);
  pthread_mutex_unlock(&g->mtx);
}

bool gate_wait(struct gate *g, unsigned n, int64_t timeout_ms) {
  struct timespec until = clock_timespec(deadline_in_ms(timeout_ms));
  int r = 0;

  pthread_mutex_lock(&g->mtx);
  while (g->waiting < n && r != ETIMEDOUT)
    r = pthread_cond_timedwait(&g->changed, &g->mtx, &until);
  bool held = g->waiting >= n;
  pthread_mutex_unlock(&g->mtx);
  return held;
}
