/* peer.c - one peer: its channel, the breaker before it, and unary calls. Streams are in peer_stream.c.
 *
 * The breaker is asked before a call and told after it. Whether a failed call says something about the peer is decided
 * here, in peer_note: a deadline that passes while the peer answers other calls says that the work was slow, not that
 * the peer is gone, and must not turn readers of a slow origin away from its cache. */
#include "client/lib/peer_internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/hash.h"
#include "proto/wire.h"

#define KEEPALIVE_MS 10000 /* a connection that went silent with calls open is given up after twice this */
#define CONNECT_BACKOFF_MAX_MS 1000
#define FAILURE_TEXT_MAX 200
#define DEADLINE_SLACK_NS (5 * NS_PER_MS) /* gRPC counts in milliseconds: its deadline may pass before ours */

static const struct breaker_conf breaker_conf = {
    .failure_limit = 3,
    .pause_base_ns = 250 * NS_PER_MS,
    .pause_max_ns = 10 * NS_PER_S,
};

struct peer {
  atomic_uint refs; /* the users', and one of each open call */
  struct rpc_channel *channel;
  char *address;

  pthread_mutex_t mtx;
  /* under mtx */
  struct breaker breaker;
  struct peer_stats stats;
  uint64_t random; /* splitmix64 state, for jitter */
  int64_t answered_at_ns;
  char failure[FAILURE_TEXT_MAX];
};

static uint64_t seed(void) {
  uint64_t s;

  if (getrandom(&s, sizeof s, GRND_NONBLOCK) != sizeof s)
    s = (uint64_t)clock_wall_ns(); /* jitter only: early in boot the clock does */
  return s;
}

int peer_new(struct peer **ret, struct rpc_loop *l, const char *address, size_t max_message_bytes, struct err *e) {
  const struct rpc_channel_limits limits = {.max_message_bytes = max_message_bytes,
                                            .connect_backoff_max_ms = CONNECT_BACKOFF_MAX_MS,
                                            .keepalive_ms = KEEPALIVE_MS};
  struct peer *p = calloc(1, sizeof *p);

  if (!p || !(p->address = strdup(address))) {
    free(p);
    return err_set(e, -ENOMEM, "peer %s: out of memory", address);
  }
  int r = rpc_channel_new(&p->channel, l, address, &limits, e);
  if (r < 0) {
    free(p->address);
    free(p);
    return r;
  }
  atomic_init(&p->refs, 1);
  pthread_mutex_init(&p->mtx, NULL);
  p->random = seed();
  *ret = p;
  return 0;
}

struct peer *peer_ref(struct peer *p) {
  atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
  return p;
}

void peer_unref(struct peer **pp) {
  struct peer *p = *pp;

  *pp = NULL;
  if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
    return;
  rpc_channel_free(&p->channel);
  pthread_mutex_destroy(&p->mtx);
  free(p->address);
  free(p);
}

const char *peer_address(const struct peer *p) { return p->address; }
struct rpc_channel *peer_channel(struct peer *p) {
  return p->channel;
}

bool peer_usable(struct peer *p) {
  pthread_mutex_lock(&p->mtx);
  struct breaker copy = p->breaker;
  pthread_mutex_unlock(&p->mtx);
  return breaker_allow(&copy, &breaker_conf, clock_mono_ns());
}

void peer_stats(struct peer *p, struct peer_stats *ret) {
  pthread_mutex_lock(&p->mtx);
  *ret = p->stats;
  pthread_mutex_unlock(&p->mtx);
}

void peer_last_failure(struct peer *p, char *buf, size_t cap) {
  pthread_mutex_lock(&p->mtx);
  snprintf(buf, cap, "%s", p->failure);
  pthread_mutex_unlock(&p->mtx);
}

bool peer_admit(struct peer *p, bool ignore_breaker, char *text, size_t cap) {
  pthread_mutex_lock(&p->mtx);
  bool go = ignore_breaker || breaker_allow(&p->breaker, &breaker_conf, clock_mono_ns());
  if (go) {
    p->stats.calls++;
  } else {
    p->stats.refused_open++;
    snprintf(text, cap, "peer %s is left alone for a moment because it failed lately: %s", p->address, p->failure);
  }
  pthread_mutex_unlock(&p->mtx);
  return go;
}

void peer_note(struct peer *p, int code, const char *text, int64_t started_ns, int64_t deadline_ns) {
  int64_t now = clock_mono_ns();
  bool late = code == -ETIMEDOUT && now >= deadline_ns - DEADLINE_SLACK_NS;

  if (code == -ECANCELED || code == -ENOMEM)
    return; /* our own doing */
  pthread_mutex_lock(&p->mtx);
  if (code != -FB_EPEERDOWN && !late) {
    p->answered_at_ns = now;
    breaker_success(&p->breaker);
  } else if (!late || p->answered_at_ns < started_ns) {
    p->stats.failures++;
    p->random += UINT64_C(0x9e3779b97f4a7c15);
    breaker_failure(&p->breaker, &breaker_conf, now, hash_mix64(p->random));
    snprintf(p->failure, sizeof p->failure, "%s", text && *text ? text : err_describe(code));
  }
  pthread_mutex_unlock(&p->mtx);
}

/* ---- unary calls ------------------------------------------------------------------------------------------------ */

struct unary {
  struct peer *peer; /* reference */
  peer_reply_fn done;
  void *arg;
  const ProtobufCMessageDescriptor *reply_type;
  bool want_payload, keep_reply;
  int64_t started_ns, deadline_ns;
};

static void unary_done(void *arg, int code, const char *text, struct blob *message) {
  struct unary *u = arg;
  ProtobufCMessage *reply = NULL;
  struct blob *payload = NULL;

  if (code == 0) {
    code = wire_unpack(u->reply_type, message, &reply, u->want_payload ? &payload : NULL);
    text = code == -FB_EPROTO ? "the answer is not a message of this protocol" : "";
  }
  peer_note(u->peer, code, text, u->started_ns, u->deadline_ns);
  u->done(u->arg, code, text, reply, payload);
  if (reply && !u->keep_reply)
    protobuf_c_message_free_unpacked(reply, NULL);
  blob_unref(&payload);
  peer_unref(&u->peer);
  free(u);
}

struct rpc_call *peer_call(struct peer *p, const struct peer_call_args *a, peer_reply_fn done, void *arg) {
  char text[ERR_TEXT_MAX];

  if (!peer_admit(p, a->ignore_breaker, text, sizeof text)) {
    done(arg, -FB_EPEERDOWN, text, NULL, NULL);
    return NULL;
  }
  struct unary *u = malloc(sizeof *u);
  struct blob *request = u ? wire_pack(a->request, a->request_payload) : NULL;
  if (!request)
    goto no_memory;
  *u = (struct unary){.peer = peer_ref(p),
                      .done = done,
                      .arg = arg,
                      .reply_type = a->reply_type,
                      .want_payload = a->want_payload,
                      .keep_reply = a->keep_reply,
                      .started_ns = clock_mono_ns(),
                      .deadline_ns = a->deadline_ns};
  struct rpc_call *call = rpc_unary(p->channel, a->method, request, a->deadline_ns, unary_done, u);
  if (call)
    return call;
  peer_unref(&u->peer);
no_memory:
  free(u);
  done(arg, -ENOMEM, "out of memory", NULL, NULL);
  return NULL;
}
