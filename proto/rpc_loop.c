/* rpc_loop.c - threads that wait for gRPC: one completion queue each, and a tag's function for every completion.
 *
 * A queue may be shut down only when nothing will be started on it any more, and gRPC aborts the process otherwise.
 * Hence the holds: calls, requests and servers hold the loop from their first operation to their last, and
 * rpc_loop_free waits for them before it touches a queue. */
#include "proto/rpc_internal.h"

#include <errno.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

#ifdef RPC_TSAN
/* Of libgrpc, which is not built for it, TSan would see malloc, free and memcpy but none of what orders them, and spend
 * its time on thousands of false reports. Whoever links gRPC through us gets this default; TSAN_OPTIONS still wins. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "ignore_noninstrumented_modules=1"; }
#endif

struct worker {
  grpc_completion_queue *cq;
  pthread_t thread;
};

struct rpc_loop {
  pthread_mutex_t mtx;
  pthread_cond_t idle;
  unsigned held; /* under mtx */
  atomic_uint next;
  unsigned n;
  struct worker workers[];
};

bool rpc_batch(grpc_call *call, const grpc_op *ops, size_t n, struct rpc_tag *t) {
  rpc_hand_over(t);
  return grpc_call_start_batch(call, ops, n, t, NULL) == GRPC_CALL_OK;
}

static void *work(void *arg) {
  grpc_completion_queue *cq = arg;

  for (;;) {
    grpc_event ev = grpc_completion_queue_next(cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    if (ev.type == GRPC_QUEUE_SHUTDOWN)
      return NULL;
    if (ev.type != GRPC_OP_COMPLETE)
      continue;
    struct rpc_tag *t = ev.tag;
    rpc_take_over(t);
    t->fn(t, ev.success != 0);
  }
}

/* gRPC would write to stderr what our callers get as a code and a text anyway. */
static void grpc_says(gpr_log_func_args *args) {
  log_event(LOG_DEBUG, args->message, LOGF_S("file", args->file), LOGF_I("line", args->line));
}

static pthread_once_t log_once = PTHREAD_ONCE_INIT;
static void take_log(void) { gpr_set_log_function(grpc_says); }

static void stop_workers(struct rpc_loop *l, unsigned started) {
  for (unsigned i = 0; i < l->n; i++) {
    if (!l->workers[i].cq)
      continue;
    grpc_completion_queue_shutdown(l->workers[i].cq);
    if (i < started)
      pthread_join(l->workers[i].thread, NULL);
    else /* nobody else will take the shutdown event, and destroying wants it taken */
      grpc_completion_queue_next(l->workers[i].cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_completion_queue_destroy(l->workers[i].cq);
  }
}

static void destroy(struct rpc_loop *l) {
  pthread_cond_destroy(&l->idle);
  pthread_mutex_destroy(&l->mtx);
  free(l);
}

int rpc_loop_new(struct rpc_loop **ret, unsigned threads, const char *thread_name, struct err *e) {
  sigset_t all, old;
  unsigned started;
  int r = 0;

  if (threads < 1 || threads > 64)
    return err_set(e, -EINVAL, "%u loop threads: 1..64 are possible", threads);
  struct rpc_loop *l = calloc(1, sizeof *l + threads * sizeof *l->workers);
  if (!l)
    return err_set(e, -ENOMEM, "out of memory for a loop");
  pthread_mutex_init(&l->mtx, NULL);
  pthread_cond_init(&l->idle, NULL);
  l->n = threads;

  /* Signals are the program's, not ours: neither our threads nor those that gRPC starts may take one. */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_once(&log_once, take_log);
  grpc_init();
  for (started = 0; started < threads; started++) {
    struct worker *w = &l->workers[started];
    char name[16]; /* the kernel's limit, NUL included */
    w->cq = grpc_completion_queue_create_for_next(NULL);
    r = pthread_create(&w->thread, NULL, work, w->cq);
    if (r)
      break;
    snprintf(name, sizeof name, "%.12s%u", thread_name ? thread_name : "fb-rpc", started % 100);
    pthread_setname_np(w->thread, name);
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (r) {
    stop_workers(l, started);
    destroy(l);
    grpc_shutdown();
    return err_set(e, -r, "cannot start loop thread %u of %u: %s", started + 1, threads, err_describe(r));
  }
  *ret = l;
  return 0;
}

void rpc_loop_free(struct rpc_loop **lp) {
  struct rpc_loop *l = *lp;

  if (!l)
    return;
  *lp = NULL;
  pthread_mutex_lock(&l->mtx);
  while (l->held)
    pthread_cond_wait(&l->idle, &l->mtx);
  pthread_mutex_unlock(&l->mtx);
  stop_workers(l, l->n);
  destroy(l);
  grpc_shutdown();
}

unsigned rpc_loop_queues(const struct rpc_loop *l) { return l->n; }
grpc_completion_queue *rpc_loop_queue(const struct rpc_loop *l, unsigned i) { return l->workers[i].cq; }

grpc_completion_queue *rpc_loop_pick(struct rpc_loop *l) {
  return l->workers[atomic_fetch_add_explicit(&l->next, 1, memory_order_relaxed) % l->n].cq;
}

void rpc_loop_hold(struct rpc_loop *l) {
  pthread_mutex_lock(&l->mtx);
  l->held++;
  pthread_mutex_unlock(&l->mtx);
}

void rpc_loop_release(struct rpc_loop *l) {
  pthread_mutex_lock(&l->mtx);
  if (--l->held == 0)
    pthread_cond_broadcast(&l->idle);
  pthread_mutex_unlock(&l->mtx);
}
