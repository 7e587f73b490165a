/* pool.h - a bounded pool of worker threads for work that blocks (origin I/O), so that the threads that serve requests
 * never do.
 *
 * Jobs are intrusive: embed a struct pool_job, set `fn`, submit. From then until fn is called the job belongs to the
 * pool; inside fn it is the caller's again (fn may free it, or submit it anew). Thread-safe. No lock is held while a
 * job runs. Workers have all signals blocked: signals stay with the daemon's main thread. */
#ifndef FB_COMMON_POOL_H
#define FB_COMMON_POOL_H

#include <stdint.h>

#include "common/err.h"

struct pool;

struct pool_job {
  void (*fn)(struct pool_job *job); /* find your own struct around it with container_of or a cast */
  struct pool_job *link;            /* the pool's while queued */
};

struct pool_stats {
  unsigned threads;
  unsigned queued;  /* waiting now */
  unsigned running; /* in fn now */
  uint64_t done;    /* returned from fn, since pool_new */
  uint64_t refused; /* submissions that met a full queue, since pool_new */
};

#define POOL_THREADS_MAX 1024u

/* Starts `threads` workers (1..POOL_THREADS_MAX), named NAME/0, NAME/1... for ps and gdb; at most queue_max (>= 1) jobs
 * wait. -EINVAL, -ENOMEM, or -EAGAIN when the system gives no more threads; each with a text. */
int pool_new(struct pool **ret, unsigned threads, unsigned queue_max, const char *name, struct err *e);
/* Queues a job; never blocks. -FB_EBUSY: queue_max jobs wait already. -ESHUTDOWN: pool_free has begun (a job may meet
 * this). On failure the job was not taken and fn will not run. */
int pool_submit(struct pool *p, struct pool_job *job);
void pool_stats(struct pool *p, struct pool_stats *ret);
/* Runs what is queued, then joins the workers. Not from a job; no other thread may use the pool any more. NULLs *p,
 * accepts NULL. */
void pool_free(struct pool **p);

#endif
