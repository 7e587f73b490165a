/* request.c - runs a batch of requests: sends, waits, judges, and sends again; the rules are in request.h. */
#include "client/lib/request.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

#define PAUSE_MIN_NS (10 * NS_PER_MS)
#define PAUSE_MAX_NS NS_PER_S

void waiter_init(struct waiter *w) {
  pthread_condattr_t mono;

  pthread_mutex_init(&w->mtx, NULL);
  pthread_condattr_init(&mono);
  pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
  pthread_cond_init(&w->cond, &mono);
  pthread_condattr_destroy(&mono);
}

void waiter_fini(struct waiter *w) {
  pthread_cond_destroy(&w->cond);
  pthread_mutex_destroy(&w->mtx);
}

bool waiter_wait(struct waiter *w, int64_t deadline_ns) {
  struct timespec ts = clock_timespec(deadline_ns);

  if (deadline_ns == DEADLINE_NONE)
    return pthread_cond_wait(&w->cond, &w->mtx) == 0;
  return pthread_cond_timedwait(&w->cond, &w->mtx, &ts) != ETIMEDOUT;
}

bool code_moves_on(int code) {
  switch (code) {
  case -FB_EPEERDOWN:
  case -ETIMEDOUT:
  case -ECANCELED: /* we cancel only what we do not wait for: the peer broke it off */
  case -FB_EBUSY:
  case -FB_ECRC:
  case -FB_EPROTO:
    return true;
  default:
    return false;
  }
}

/* ---- loop threads ----------------------------------------------------------------------------------------------- */

static void arrive(struct request *q, int code, const char *text, ProtobufCMessage *reply, struct blob *payload) {
  struct batch *b = q->batch;

  q->code = code;
  q->reply = reply;
  q->payload = payload;
  q->received_ns = clock_mono_ns();
  q->next = NULL;
  if (code < 0)
    snprintf(q->text, sizeof q->text, "%s", text && *text ? text : err_describe(code));
  pthread_mutex_lock(&b->waiter.mtx);
  *b->arrived_tail = q;
  b->arrived_tail = &q->next;
  pthread_cond_signal(&b->waiter.cond);
  pthread_mutex_unlock(&b->waiter.mtx);
}

static void on_reply(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  arrive(arg, code, text, (ProtobufCMessage *)(uintptr_t)reply, payload ? blob_ref(payload) : NULL); /* keep_reply */
}

/* peer_put lends its reply: it is small, and comes once per value. */
static void on_put_reply(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  ProtobufCMessage *copy = NULL;

  (void)payload;
  if (reply) {
    size_t len = protobuf_c_message_get_packed_size(reply);
    uint8_t *packed = malloc(len + 1);
    if (packed)
      copy = protobuf_c_message_unpack(reply->descriptor, NULL, protobuf_c_message_pack(reply, packed), packed);
    free(packed);
    if (!copy) {
      code = -ENOMEM;
      text = "out of memory";
    }
  }
  arrive(arg, code, text, copy, NULL);
}

/* ---- the caller's thread ---------------------------------------------------------------------------------------- */

/* Releases what an attempt has brought. */
static void drop_attempt(struct request *q) {
  rpc_call_unref(&q->handle);
  if (q->reply)
    protobuf_c_message_free_unpacked(q->reply, NULL);
  q->reply = NULL;
  blob_unref(&q->payload);
}

static void set_route(struct call *k, struct request *q) {
  if (!q->route)
    return;
  *q->route = (Forebay__V1__Route)FOREBAY__V1__ROUTE__INIT;
  q->route->ns_id = k->record.id;
  if (q->picker.placed && !k->c->o.any_peer) {
    q->route->ring_hash = topology_hash(k->topology);
    q->route->local = true;
  }
}

/* Sends q to the next candidate, or to the same peer again. 0, 1: all candidates were tried, or -ENOMEM. */
static int send_request(struct batch *b, struct request *q) {
  struct call *k = b->call;
  bool ignore_breaker = q->only != NULL;
  int64_t now = clock_mono_ns();
  struct pick pick;

  if (q->only) {
    peer_unref(&q->peer);
    q->peer = peer_ref(q->only);
  } else if (!q->same_peer) {
    int r = pick_peer(k, &q->picker, &pick);
    if (r)
      return r;
    if (q->peer && q->peer != pick.peer)
      count(&k->c->stats.failovers, 1);
    peer_unref(&q->peer);
    q->peer = pick.peer;
    q->index = pick.index;
    ignore_breaker = pick.ignore_breaker;
  }
  q->same_peer = false;
  if (q->attempts++)
    count(&k->c->stats.retries, 1);
  count(&k->c->stats.requests, 1);
  set_route(k, q);
  q->batch = b;
  q->state = REQUEST_OUT;
  q->sent_ns = now;
  b->out++;
  int64_t deadline_ns = now + k->c->o.peer_timeout_ms * NS_PER_MS + q->extra_ns;
  if (deadline_ns > k->deadline_ns)
    deadline_ns = k->deadline_ns;
  if (q->method) {
    const struct peer_call_args args = {.method = q->method,
                                        .request = q->message,
                                        .reply_type = q->reply_type,
                                        .want_payload = q->want_payload,
                                        .deadline_ns = deadline_ns,
                                        .ignore_breaker = ignore_breaker,
                                        .keep_reply = true};
    q->handle = peer_call(q->peer, &args, on_reply, q);
  } else {
    q->handle = peer_put(q->peer, q->message, q->value, deadline_ns, on_put_reply, q);
  }
  return 0;
}

static void wait_before_resend(struct batch *b, struct request *q) {
  int64_t pause = PAUSE_MIN_NS << (q->pauses < 7 ? q->pauses : 7);

  if (pause > PAUSE_MAX_NS)
    pause = PAUSE_MAX_NS;
  q->pauses++;
  pause -= (int64_t)(client_random(b->call->c) % (uint64_t)(pause / 2)); /* (1/2, 1] of it */
  q->resend_at_ns = clock_mono_ns() + pause;
  q->state = REQUEST_WAITING;
  b->waiting++;
}

/* For good: 0 if the batch goes on. */
static int request_failed(struct batch *b, struct request *q, int code, const struct err *e) {
  int r = b->failed ? b->failed(b, q, code, e) : code;

  if (r < 0 && r == code)
    b->call->e = *e;
  peer_unref(&q->peer);
  q->state = REQUEST_IDLE;
  return r;
}

/* All candidates have failed: perhaps the members have changed. Once per call, and not when it is known lately. */
static void refresh_after_failures(struct call *k) {
  struct err saved = k->e;

  pthread_mutex_lock(&k->c->mtx);
  bool due = !k->refreshed && k->c->topology && clock_mono_ns() - k->c->refreshed_ns > NS_PER_S;
  pthread_mutex_unlock(&k->c->mtx);
  if (!due || k->c->o.any_peer)
    return;
  k->refreshed = true;
  topology_refresh(k, NULL);
  k->e = saved;
}

/* Sends q, or lets it wait if there is nobody left to ask. `rested`: it has just waited, and that is enough. */
static int send_or_wait(struct batch *b, struct request *q, bool rested) {
  int r = send_request(b, q);

  if (r != 1)
    return r;
  refresh_after_failures(b->call);
  if (rested)
    return send_request(b, q); /* finds somebody: the tries have begun anew */
  wait_before_resend(b, q);
  return 0;
}

/* What follows an attempt. 0: the batch goes on. */
static int judge(struct batch *b, struct request *q) {
  struct call *k = b->call;
  struct err e;
  int code = q->code;

  e.code = 0;
  e.text[0] = '\0';
  if (code == 0) {
    code = b->take(b, q, &e);
    if (code == -FB_ECRC)
      count(&k->c->stats.crc_errors, 1);
  } else {
    err_set(&e, code, "%s", q->text);
    if (code == -FB_EPEERDOWN || code == -ETIMEDOUT || code == -ECANCELED)
      q->ambiguous = true;
  }
  drop_attempt(q);
  if (code == 0) {
    peer_unref(&q->peer);
    q->state = REQUEST_IDLE;
    return 0;
  }
  if (code == -FB_ERING) {
    peer_unref(&k->ring_peer);
    k->ring_peer = peer_ref(q->peer);
  }
  if (code_moves_on(code) || q->only)
    err_prefix(&e, "peer %s", peer_address(q->peer));
  if (!code_moves_on(code) || q->only)
    return request_failed(b, q, code, &e);
  if (q->attempts > k->c->o.retries) {
    err_prefix(&e, "%u attempts failed, the last", q->attempts);
    return request_failed(b, q, code, &e);
  }

  b->last = e;
  bool again = (code == -FB_EBUSY || code == -FB_ECRC) && q->again != code;
  q->again = code;
  if (again)
    q->same_peer = true;
  else
    pick_failed(k, &q->picker, q->index);
  if (code == -FB_EBUSY) {
    wait_before_resend(b, q);
    return 0;
  }
  return send_or_wait(b, q, false);
}

/* Gives work to idle slots and sends what has waited long enough. */
static int start(struct batch *b, int64_t now) {
  bool more = true;

  for (unsigned i = 0; i < b->n; i++) {
    struct request *q = b->requests[i];
    int r = 0;
    if (q->state == REQUEST_IDLE && more) {
      more = b->next(b, q);
      if (more)
        r = send_or_wait(b, q, false);
    } else if (q->state == REQUEST_WAITING && q->resend_at_ns <= now) {
      b->waiting--;
      r = send_or_wait(b, q, true);
    } else if (!more && !b->waiting) {
      break;
    }
    if (r < 0)
      return r;
  }
  return 0;
}

static int64_t wake_at(const struct batch *b) {
  int64_t at = b->call->deadline_ns;

  for (unsigned i = 0; b->waiting && i < b->n; i++)
    if (b->requests[i]->state == REQUEST_WAITING && b->requests[i]->resend_at_ns < at)
      at = b->requests[i]->resend_at_ns;
  return at;
}

/* What has arrived by then, in order. */
static struct request *collect(struct batch *b, int64_t until_ns) {
  pthread_mutex_lock(&b->waiter.mtx);
  while (!b->arrived && waiter_wait(&b->waiter, until_ns))
    ;
  struct request *list = b->arrived;
  b->arrived = NULL;
  b->arrived_tail = &b->arrived;
  pthread_mutex_unlock(&b->waiter.mtx);
  return list;
}

static int timed_out(struct batch *b) {
  if (b->last.code)
    return err_set(&b->call->e, -ETIMEDOUT, "not done within %u ms; last failure: %s", b->call->c->o.timeout_ms,
                   b->last.text);
  return err_set(&b->call->e, -ETIMEDOUT, "not done within %u ms", b->call->c->o.timeout_ms);
}

/* Nothing may be out when we return: the requests lie in memory that goes. */
static void withdraw(struct batch *b) {
  for (unsigned i = 0; i < b->n; i++)
    if (b->requests[i]->state == REQUEST_OUT && b->requests[i]->handle)
      rpc_call_cancel(b->requests[i]->handle);
  while (b->out)
    for (struct request *q = collect(b, DEADLINE_NONE), *next; q; q = next) {
      next = q->next;
      b->out--;
      drop_attempt(q);
    }
  for (unsigned i = 0; i < b->n; i++) {
    peer_unref(&b->requests[i]->peer);
    b->requests[i]->state = REQUEST_IDLE;
  }
}

int batch_run(struct batch *b) {
  int r = 0;

  waiter_init(&b->waiter);
  b->arrived = NULL;
  b->arrived_tail = &b->arrived;
  b->out = b->waiting = 0;
  b->enough = false;
  b->last.code = 0;
  while (r == 0 && !b->enough) {
    int64_t now = clock_mono_ns();
    if (now >= b->call->deadline_ns) {
      r = timed_out(b);
      break;
    }
    r = start(b, now);
    if (r < 0 || (b->out == 0 && b->waiting == 0))
      break;
    for (struct request *q = collect(b, wake_at(b)), *next; q; q = next) {
      next = q->next;
      b->out--;
      if (r == 0 && !b->enough)
        r = judge(b, q);
      else
        drop_attempt(q);
    }
  }
  withdraw(b);
  waiter_fini(&b->waiter);
  return r;
}

/* ---- a single request ------------------------------------------------------------------------------------------- */

static bool single_next(struct batch *b, struct request *q) {
  (void)q;
  if (b->requests[1])
    return false;
  b->requests[1] = q; /* marks it as started: n is 1 */
  return true;
}

int request_run(struct call *k, struct request *q, int (*take)(struct batch *b, struct request *q, struct err *e),
                void *arg) {
  struct request *slots[2] = {q, NULL};
  struct batch b = {.call = k, .requests = slots, .n = 1, .next = single_next, .take = take, .arg = arg};

  return batch_run(&b);
}
