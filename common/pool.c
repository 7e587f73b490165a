/* pool.c - workers around one queue under one lock. */
#include "common/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pool {
  pthread_mutex_t mtx;
  pthread_cond_t wake; /* a job was queued, or `stopping` was set */
  unsigned queue_max;  /* fixed */

  /* Under mtx. */
  struct pool_job *first, **last;
  bool stopping;
  struct pool_stats stats; /* stats.threads is fixed once pool_new has returned */

  pthread_t threads[]; /* only pool_new and pool_free */
};

static void *worker(void *arg) {
  struct pool *p = arg;

  pthread_mutex_lock(&p->mtx);
  for (;;) {
    struct pool_job *job = p->first;

    if (!job) {
      if (p->stopping)
        break;
      pthread_cond_wait(&p->wake, &p->mtx);
      continue;
    }
    p->first = job->link;
    if (!p->first)
      p->last = &p->first;
    p->stats.queued--;
    p->stats.running++;
    pthread_mutex_unlock(&p->mtx);

    job->fn(job); /* from here on the job may be gone */

    pthread_mutex_lock(&p->mtx);
    p->stats.running--;
    p->stats.done++;
  }
  pthread_mutex_unlock(&p->mtx);
  return NULL;
}

int pool_new(struct pool **ret, unsigned threads, unsigned queue_max, const char *name, struct err *e) {
  if (threads < 1 || threads > POOL_THREADS_MAX || queue_max < 1)
    return err_set(e, -EINVAL,
                   "pool %s: %u threads and a queue of %u: accepted are 1..%u threads, a queue of at least 1", name,
                   threads, queue_max, POOL_THREADS_MAX);

  struct pool *p = calloc(1, sizeof *p + threads * sizeof *p->threads);
  if (!p)
    return err_set(e, -ENOMEM, "pool %s: out of memory", name);
  pthread_mutex_init(&p->mtx, NULL);
  pthread_cond_init(&p->wake, NULL);
  p->queue_max = queue_max;
  p->last = &p->first;

  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int r = 0;
  unsigned started = 0;
  while (started < threads && r == 0) {
    r = pthread_create(&p->threads[started], NULL, worker, p);
    if (r == 0) {
      char label[16]; /* the kernel's limit */
      snprintf(label, sizeof label, "%.10s/%u", name, started % POOL_THREADS_MAX);
      pthread_setname_np(p->threads[started++], label);
    }
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_mutex_lock(&p->mtx);
  p->stats.threads = started;
  pthread_mutex_unlock(&p->mtx);
  if (r != 0) {
    pool_free(&p);
    return err_set(e, -r, "pool %s: thread %u of %u did not start: %s: lower the number of threads or raise ulimit -u",
                   name, started + 1, threads, strerrordesc_np(r));
  }
  *ret = p;
  return 0;
}

int pool_submit(struct pool *p, struct pool_job *job) {
  int r = 0;

  pthread_mutex_lock(&p->mtx);
  if (p->stopping) {
    r = -ESHUTDOWN;
  } else if (p->stats.queued >= p->queue_max) {
    p->stats.refused++;
    r = -FB_EBUSY;
  } else {
    job->link = NULL;
    *p->last = job;
    p->last = &job->link;
    p->stats.queued++;
    pthread_cond_signal(&p->wake);
  }
  pthread_mutex_unlock(&p->mtx);
  return r;
}

void pool_stats(struct pool *p, struct pool_stats *ret) {
  pthread_mutex_lock(&p->mtx);
  *ret = p->stats;
  pthread_mutex_unlock(&p->mtx);
}

void pool_free(struct pool **pp) {
  struct pool *p = *pp;

  *pp = NULL;
  if (!p)
    return;
  pthread_mutex_lock(&p->mtx);
  p->stopping = true;
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->mtx);
  for (unsigned i = 0; i < p->stats.threads; i++)
    pthread_join(p->threads[i], NULL);
  pthread_cond_destroy(&p->wake);
  pthread_mutex_destroy(&p->mtx);
  free(p);
}
