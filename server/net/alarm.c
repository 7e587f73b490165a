/* alarm.c - a list, a condition and a thread. Few things are ever set (puts and watches in flight, bounded by
 * rpc.max_calls), and each is looked at once per wake-up, so an unsorted list does. */
#include "server/net/alarm.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

struct alarms {
  pthread_t thread;
  pthread_mutex_t mtx;
  pthread_cond_t changed;
  /* under mtx */
  struct alarm *head;
  int64_t wake_ns; /* what the thread waits for */
  bool stop;
};

/* Under mtx. */
static void unlink_alarm(struct alarm *a) {
  *a->prev = a->next;
  if (a->next)
    a->next->prev = a->prev;
  a->next = NULL;
  a->prev = NULL;
}

/* Under mtx: one that is due, or NULL and the time of the next in *ret_next. */
static struct alarm *find_due(struct alarms *as, int64_t now_ns, int64_t *ret_next) {
  *ret_next = DEADLINE_NONE;
  for (struct alarm *a = as->head; a; a = a->next) {
    if (a->at_ns <= now_ns)
      return a;
    if (a->at_ns < *ret_next)
      *ret_next = a->at_ns;
  }
  return NULL;
}

static void *run(void *arg) {
  struct alarms *as = arg;

  pthread_mutex_lock(&as->mtx);
  while (!as->stop) {
    struct alarm *a = find_due(as, clock_mono_ns(), &as->wake_ns);
    if (a) {
      unlink_alarm(a);
      pthread_mutex_unlock(&as->mtx);
      a->ring(a);
      pthread_mutex_lock(&as->mtx);
    } else if (as->wake_ns == DEADLINE_NONE) {
      pthread_cond_wait(&as->changed, &as->mtx);
    } else {
      struct timespec ts = clock_timespec(as->wake_ns);
      pthread_cond_timedwait(&as->changed, &as->mtx, &ts);
    }
  }
  pthread_mutex_unlock(&as->mtx);
  return NULL;
}

int alarms_new(struct alarms **ret, struct err *e) {
  struct alarms *as = calloc(1, sizeof *as);
  pthread_condattr_t mono;
  sigset_t all, old;

  if (!as)
    return err_set(e, -ENOMEM, "out of memory");
  as->wake_ns = DEADLINE_NONE;
  pthread_mutex_init(&as->mtx, NULL);
  pthread_condattr_init(&mono);
  pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
  pthread_cond_init(&as->changed, &mono);
  pthread_condattr_destroy(&mono);
  sigfillset(&all); /* signals are the main thread's */
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int r = pthread_create(&as->thread, NULL, run, as);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (r != 0) {
    pthread_mutex_destroy(&as->mtx);
    pthread_cond_destroy(&as->changed);
    free(as);
    return err_set(e, -r, "cannot start a thread: %s", strerror(r));
  }
  pthread_setname_np(as->thread, "alarms");
  *ret = as;
  return 0;
}

void alarms_free(struct alarms **asp) {
  struct alarms *as = *asp;

  if (!as)
    return;
  pthread_mutex_lock(&as->mtx);
  as->stop = true;
  pthread_cond_signal(&as->changed);
  pthread_mutex_unlock(&as->mtx);
  pthread_join(as->thread, NULL);
  pthread_mutex_destroy(&as->mtx);
  pthread_cond_destroy(&as->changed);
  free(as);
  *asp = NULL;
}

void alarm_set(struct alarms *as, struct alarm *a, int64_t at_ns, void (*ring)(struct alarm *a)) {
  pthread_mutex_lock(&as->mtx);
  a->ring = ring;
  a->at_ns = at_ns;
  a->next = as->head;
  a->prev = &as->head;
  if (a->next)
    a->next->prev = &a->next;
  as->head = a;
  if (at_ns < as->wake_ns)
    pthread_cond_signal(&as->changed);
  pthread_mutex_unlock(&as->mtx);
}

void alarm_now(struct alarms *as, struct alarm *a) {
  pthread_mutex_lock(&as->mtx);
  if (a->prev) {
    a->at_ns = 0;
    pthread_cond_signal(&as->changed);
  }
  pthread_mutex_unlock(&as->mtx);
}

bool alarm_cancel(struct alarms *as, struct alarm *a) {
  pthread_mutex_lock(&as->mtx);
  bool was = a->prev != NULL;
  if (was)
    unlink_alarm(a);
  pthread_mutex_unlock(&as->mtx);
  return was;
}
