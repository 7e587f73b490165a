/* rpc_prestage.c - Prestage/Run: a run that may take hours, watched by a client that may be slow, or gone.
 *
 * Reports come on the run's own thread. One is on the wire at a time; if it is still there a second later, the next
 * report is left out (its numbers are in the one after) but its failures are kept, for each is told once. The report
 * that says `done` travels with the call's status, so it needs no free wire. A foreground run ends when its client
 * leaves or the peer drains. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "server/net/convert.h"
#include "server/net/face.h"

#define PATH PRESTAGE_PATH "Run"
#define WAIT_NS (900 * NS_PER_MS) /* service.h: a report may hold its run for at most a second */
#define FAILURES_MAX 20u          /* the protocol's limit for a whole run */

struct failure {
  char *key, *text;
  int code;
};

struct run {
  struct face *face;
  struct rpc_session *session;
  bool background;
  /* owned by the run's thread */
  struct failure failures[FAILURES_MAX]; /* the first n_sent have been sent */
  unsigned n_failures, n_sent;
  struct blob *last; /* the report that says done */

  pthread_mutex_t mtx;
  pthread_cond_t free_wire;
  /* under mtx */
  bool sending, client_gone, ended;
  struct err end; /* valid once ended */
};

static void run_free(struct run *r) {
  for (unsigned i = 0; i < r->n_failures; i++) {
    free(r->failures[i].key);
    free(r->failures[i].text);
  }
  blob_unref(&r->last);
  pthread_mutex_destroy(&r->mtx);
  pthread_cond_destroy(&r->free_wire);
  free(r);
}

/* The run has ended and nothing is on the wire. */
static void finish(struct run *r) {
  struct blob *last = r->last;

  r->last = NULL;
  if (r->end.code < 0) {
    face_log_failure(r->session, PATH, r->end.code, r->end.text);
    rpc_finish(r->session, last, r->end.code, r->end.text);
  } else {
    rpc_finish(r->session, last, 0, NULL);
  }
  run_free(r);
}

static void on_sent(struct rpc_session *s, bool ok, void *arg) {
  struct run *r = arg;

  (void)s;
  pthread_mutex_lock(&r->mtx);
  r->sending = false;
  r->client_gone = r->client_gone || !ok;
  bool ended = r->ended;
  pthread_cond_signal(&r->free_wire);
  pthread_mutex_unlock(&r->mtx);
  if (ended)
    finish(r);
}

static void keep_failures(struct run *r, const struct prestage_progress *p) {
  for (unsigned i = 0; i < p->n_failures && r->n_failures < FAILURES_MAX; i++) {
    struct failure f = {.key = strdup(p->failures[i].key),
                        .text = strdup(p->failures[i].text ? p->failures[i].text : ""),
                        .code = p->failures[i].code};
    if (f.key && f.text) {
      r->failures[r->n_failures++] = f;
    } else {
      free(f.key);
      free(f.text);
    }
  }
}

static struct blob *pack(const struct run *r, const struct prestage_progress *p) {
  Forebay__V1__PrestageProgress m = FOREBAY__V1__PRESTAGE_PROGRESS__INIT;
  Forebay__V1__PrestageFailure failures[FAILURES_MAX], *pointers[FAILURES_MAX];
  Forebay__V1__ItemStatus status[FAILURES_MAX];

  for (unsigned i = r->n_sent; i < r->n_failures; i++) {
    forebay__v1__prestage_failure__init(&failures[i]);
    status_to_pb(r->failures[i].code, r->failures[i].text, &status[i]);
    failures[i].key = r->failures[i].key;
    failures[i].status = &status[i];
    pointers[m.n_failures++] = &failures[i];
  }
  m.failures = pointers;
  m.files_total = p->files_total;
  m.bytes_total = p->bytes_total;
  m.listed = p->listed;
  m.files_resident = p->files_resident;
  m.bytes_resident = p->bytes_resident;
  m.bytes_from_origin = p->bytes_from_origin;
  m.files_failed = p->files_failed;
  m.elapsed_ns = p->elapsed_ns;
  m.done = p->done;
  return wire_pack(&m.base, NULL);
}

/* Waits a moment for the wire and takes it; false: it is not free. */
static bool take_wire(struct run *r) {
  struct timespec until = clock_timespec(clock_mono_ns() + WAIT_NS);

  pthread_mutex_lock(&r->mtx);
  while (r->sending)
    if (pthread_cond_timedwait(&r->free_wire, &r->mtx, &until) == ETIMEDOUT)
      break;
  bool got = !r->sending;
  r->sending = true;
  pthread_mutex_unlock(&r->mtx);
  return got;
}

static bool wanted(struct run *r) {
  if (r->background)
    return true;
  pthread_mutex_lock(&r->mtx);
  bool gone = r->client_gone;
  pthread_mutex_unlock(&r->mtx);
  return !gone && !rpc_cancelled(r->session) && !atomic_load(&r->face->draining);
}

static bool on_progress(void *arg, const struct prestage_progress *p) {
  struct run *r = arg;

  keep_failures(r, p);
  if (p->done) {
    blob_unref(&r->last);
    r->last = pack(r, p);
    return true;
  }
  if (!wanted(r))
    return false;
  if (take_wire(r)) {
    struct blob *b = pack(r, p);
    if (b) {
      r->n_sent = r->n_failures;
      rpc_send(r->session, b, on_sent, r);
    } else {
      on_sent(r->session, true, r); /* nothing was sent: the wire is free, and the next report tells more */
    }
  }
  return wanted(r);
}

static void on_done(void *arg, int code, const char *text) {
  struct run *r = arg;

  if (code < 0 && !r->background && atomic_load(&r->face->draining) && !rpc_cancelled(r->session))
    err_set(&r->end, -FB_EPEERDOWN, "this peer is shutting down: start the run again at another (%s)",
            text ? text : err_describe(code));
  else if (code < 0)
    err_set(&r->end, code, "%s", text ? text : err_describe(code));
  pthread_mutex_lock(&r->mtx);
  r->ended = true;
  bool sending = r->sending;
  pthread_mutex_unlock(&r->mtx);
  if (!sending)
    finish(r);
}

void serve_prestage(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__PrestageRequest *q = (const void *)*request;
  struct run *r = calloc(1, sizeof *r);
  pthread_condattr_t mono;

  if (!r) {
    face_refuse(s, PATH, -ENOMEM, NULL);
    return;
  }
  r->face = f;
  r->session = s;
  r->background = q->background;
  pthread_mutex_init(&r->mtx, NULL);
  pthread_condattr_init(&mono);
  pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
  pthread_cond_init(&r->free_wire, &mono);
  pthread_condattr_destroy(&mono);
  service_prestage(
      f->service,
      &(struct prestage_req){.ns = q->ns, .pattern = q->pattern, .parallel = q->parallel, .background = q->background},
      on_progress, on_done, r);
}
