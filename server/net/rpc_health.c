/* rpc_health.c - grpc.health.v1: load balancers and Kubernetes probes ask here whether to send us work.
 *
 * A peer serves everything or nothing, so one flag answers for every service; services it does not have are unknown. A
 * watch hears at once what is so now, and once more when the peer drains, whereupon it ends: nobody has to wait for
 * it. A watch that is quiet waits for its alarm, which rings for the drain and for a client that has left. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "grpc/health/v1/health.pb-c.h"
#include "server/net/face.h"

#define PATH "/grpc.health.v1.Health/"
#define WATCHES_MAX 1024u

/* A call of Watch: one message is under way, or it is quiet with its alarm set. The thread that ends either ends the
 * other or the watch. */
struct watch {
  struct alarm alarm; /* first member */
  struct health *health;
  struct rpc_session *session;
  bool known; /* the service is one of ours */
  /* under health->mtx */
  struct watch *next, **prev;
  bool quiet; /* nothing under way: the alarm is set */
  bool told;  /* it knows that we drain */
};

struct health {
  struct alarms *alarms;
  pthread_mutex_t mtx;
  /* under mtx */
  struct watch *watches;
  unsigned n;
  bool draining;
};

static const char *const SERVICES[] = {"",
                                       "forebay.v1.Cache",
                                       "forebay.v1.Namespaces",
                                       "forebay.v1.Prestage",
                                       "forebay.v1.Cluster",
                                       "grpc.health.v1.Health"};

static bool known_service(const char *name) {
  for (size_t i = 0; i < sizeof SERVICES / sizeof *SERVICES; i++)
    if (strcmp(name, SERVICES[i]) == 0)
      return true;
  return false;
}

static Grpc__Health__V1__HealthCheckResponse answer(bool known, bool draining) {
  Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

  m.status = !known     ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN
             : draining ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
                        : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
  return m;
}

static void serve_check(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Grpc__Health__V1__HealthCheckRequest *q = (const void *)*request;
  struct err e;

  if (!known_service(q->service)) {
    err_set(&e, -ENOENT, "no service '%.64s' here; accepted: empty, or one of this peer's services such as %s",
            q->service, SERVICES[1]);
    face_refuse(s, PATH "Check", -ENOENT, e.text);
    return;
  }
  Grpc__Health__V1__HealthCheckResponse m = answer(true, atomic_load(&f->draining));
  face_reply(s, PATH "Check", &m.base, NULL);
}

static void watch_end(struct watch *w, int code, const char *text) {
  struct health *h = w->health;

  pthread_mutex_lock(&h->mtx);
  *w->prev = w->next;
  if (w->next)
    w->next->prev = w->prev;
  h->n--;
  pthread_mutex_unlock(&h->mtx);
  rpc_finish(w->session, NULL, code, text); /* waits for a running on_cancel, which may look at *w */
  free(w);
}

static void watch_go_on(struct watch *w);

static void on_sent(struct rpc_session *s, bool ok, void *arg) {
  (void)s;
  (void)ok; /* of a client that has left watch_go_on learns itself */
  watch_go_on(arg);
}

static void watch_tell(struct watch *w, bool draining) {
  Grpc__Health__V1__HealthCheckResponse m = answer(w->known, draining);
  struct blob *b = wire_pack(&m.base, NULL);

  if (b)
    rpc_send(w->session, b, on_sent, w);
  else
    watch_end(w, -ENOMEM, NULL);
}

static void on_alarm(struct alarm *a) {
  struct watch *w = (struct watch *)a;

  pthread_mutex_lock(&w->health->mtx);
  w->quiet = false;
  pthread_mutex_unlock(&w->health->mtx);
  watch_go_on(w);
}

/* Nothing of the watch is under way: what is next? */
static void watch_go_on(struct watch *w) {
  struct health *h = w->health;
  bool tell = false, end = false;

  pthread_mutex_lock(&h->mtx);
  bool draining = h->draining;
  if (rpc_cancelled(w->session) || w->told) {
    end = true;
  } else if (draining) {
    tell = w->told = true;
  } else {
    w->quiet = true;
    alarm_set(h->alarms, &w->alarm, DEADLINE_NONE, on_alarm);
  }
  pthread_mutex_unlock(&h->mtx);
  if (end)
    watch_end(w, draining ? -FB_EPEERDOWN : -ECANCELED, "this peer is shutting down");
  else if (tell)
    watch_tell(w, true);
}

/* The session, and so the watch, stays until this has returned. */
static void on_cancel(struct rpc_session *s, void *arg) {
  struct watch *w = arg;

  (void)s;
  pthread_mutex_lock(&w->health->mtx);
  if (w->quiet)
    alarm_now(w->health->alarms, &w->alarm);
  pthread_mutex_unlock(&w->health->mtx);
}

static void serve_watch(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Grpc__Health__V1__HealthCheckRequest *q = (const void *)*request;
  struct health *h = f->health;
  struct watch *w = calloc(1, sizeof *w);

  if (!w) {
    face_refuse(s, PATH "Watch", -ENOMEM, NULL);
    return;
  }
  w->health = h;
  w->session = s;
  w->known = known_service(q->service);
  pthread_mutex_lock(&h->mtx);
  bool full = h->n >= WATCHES_MAX, draining = h->draining;
  if (!full) {
    h->n++;
    w->told = draining;
    w->next = h->watches;
    w->prev = &h->watches;
    if (w->next)
      w->next->prev = &w->next;
    h->watches = w;
  }
  pthread_mutex_unlock(&h->mtx);
  if (full) {
    free(w);
    face_refuse(s, PATH "Watch", -FB_EBUSY, "this peer has its limit of 1024 health watches: use Check");
    return;
  }
  rpc_on_cancel(s, on_cancel, w);
  watch_tell(w, draining);
}

int health_new(struct health **ret, struct alarms *alarms, struct err *e) {
  struct health *h = calloc(1, sizeof *h);

  if (!h)
    return err_set(e, -ENOMEM, "out of memory");
  h->alarms = alarms;
  pthread_mutex_init(&h->mtx, NULL);
  *ret = h;
  return 0;
}

void health_drain(struct health *h) {
  pthread_mutex_lock(&h->mtx);
  h->draining = true;
  for (struct watch *w = h->watches; w; w = w->next)
    if (w->quiet)
      alarm_now(h->alarms, &w->alarm);
  pthread_mutex_unlock(&h->mtx);
}

void health_free(struct health **hp) {
  if (!*hp)
    return;
  pthread_mutex_destroy(&(*hp)->mtx);
  free(*hp);
  *hp = NULL;
}

const struct face_method health_methods[] = {
    {PATH "Check", &grpc__health__v1__health_check_request__descriptor, serve_check},
    {PATH "Watch", &grpc__health__v1__health_check_request__descriptor, serve_watch},
    {.path = NULL},
};
