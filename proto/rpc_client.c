/* rpc_client.c - the calling side: channels, unary calls, streams.
 *
 * A call counts the operations it has with gRPC (`pending`). Its end is the moment when the status has come and the
 * count is back at zero; then gRPC's call is dropped, `done` runs, and only then the call lets go of the channel and
 * the loop. Whatever is started on it after that moment fails at once. */
#include "proto/rpc_internal.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "proto/status.h"

struct rpc_channel {
  atomic_uint refs; /* the user's, until rpc_channel_free, and one of each call, until its `done` has returned */
  struct rpc_loop *loop;
  grpc_channel *channel;
  size_t max_message_bytes;
};

struct rpc_call {
  atomic_uint refs; /* the handle's, until rpc_call_unref, and the call's own, until `done` has returned */
  struct rpc_channel *channel;

  pthread_mutex_t mtx;
  /* under mtx */
  grpc_call *gcall;  /* NULL once the call has ended */
  unsigned pending;  /* operations that gRPC has not completed */
  bool status_in;    /* the last operation to be started has completed */
  bool sending;      /* a message is with gRPC */
  bool close_wanted; /* half-close as soon as it is not */
  bool closed;

  /* one tag per kind of operation, so each kind can be out once */
  struct rpc_tag on_status, on_start, on_sent, on_closed, on_recv;

  /* gRPC writes these until the tag they belong to comes back */
  grpc_metadata_array initial_md, trailing_md;
  grpc_status_code status;
  grpc_slice details;
  grpc_byte_buffer *out, *in;

  /* set by whoever starts the operation, read by its completion */
  rpc_unary_fn unary_done; /* NULL: a stream */
  rpc_done_fn stream_done;
  void *done_arg;
  rpc_sent_fn sent;
  void *sent_arg;
  rpc_recv_fn recv;
  void *recv_arg;
};

/* ---- channels ------------------------------------------------------------------------------------------------- */

static bool is_literal(const char *host) {
  unsigned char buf[sizeof(struct in6_addr)];
  return inet_pton(AF_INET, host, buf) == 1;
}

static bool is_literal6(const char *host) {
  unsigned char buf[sizeof(struct in6_addr)];
  return inet_pton(AF_INET6, host, buf) == 1;
}

/* Literal addresses need no resolver, and so no thread, cache or re-resolution delay of it. */
static void make_target(char *buf, size_t cap, const char *host, uint16_t port) {
  if (is_literal(host))
    snprintf(buf, cap, "ipv4:%s:%u", host, port);
  else if (is_literal6(host))
    snprintf(buf, cap, "ipv6:[%s]:%u", host, port);
  else
    snprintf(buf, cap, "dns:///%s:%u", host, port);
}

static grpc_arg int_arg(const char *key, int value) {
  return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

static int clamp_ms(uint32_t ms) { return ms > 3600000 ? 3600000 : (int)ms; }

int rpc_channel_new(struct rpc_channel **ret, struct rpc_loop *l, const char *address,
                    const struct rpc_channel_limits *limits, struct err *e) {
  char host[256], target[300];
  uint16_t port;
  size_t max_message = limits && limits->max_message_bytes ? limits->max_message_bytes : RPC_MESSAGE_BYTES_DEFAULT;
  int backoff = clamp_ms(limits && limits->connect_backoff_max_ms ? limits->connect_backoff_max_ms : 1000);
  int keepalive = clamp_ms(limits ? limits->keepalive_ms : 0);

  int r = rpc_split_address(address, host, sizeof host, &port, e);
  if (r < 0)
    return r;
  if (port == 0)
    return err_set(e, -EINVAL, "address %s: port 0 cannot be connected to", address);
  if (max_message > RPC_MESSAGE_BYTES_MAX)
    return err_set(e, -EINVAL, "max_message_bytes %zu: at most %zu", max_message, RPC_MESSAGE_BYTES_MAX);
  struct rpc_channel *c = calloc(1, sizeof *c);
  if (!c)
    return err_set(e, -ENOMEM, "out of memory for a channel");
  atomic_init(&c->refs, 1);
  c->loop = l;
  c->max_message_bytes = max_message;

  /* Not GRPC_ARG_MINIMAL_STACK: it saved no measurable CPU per call and would drop the cap on messages. */
  grpc_arg args[24];
  size_t n = 0;
  args[n++] = int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0); /* gRPC would use it even for 127.0.0.1 */
  args[n++] = int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)max_message);
  args[n++] = int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1); /* we check, before a byte is sent */
  args[n++] = int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, backoff < 100 ? backoff : 100);
  args[n++] = int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, backoff);
  args[n++] = int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, backoff); /* really: how long a connect may take */
  args[n++] = int_arg(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 1000);
  args[n++] = int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1); /* a channel is a connection, never a shared one */
  args[n++] = int_arg(GRPC_ARG_ENABLE_RETRIES, 0);            /* who retries is decided by the client library */
  args[n++] = int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  args[n++] = int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0);
  args[n++] = int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0); /* a few bytes must not become gigabytes */
  args[n++] = int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1); /* "identity" alone */
  if (keepalive) {
    args[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive);
    args[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive);
    args[n++] = int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0); /* no limit: silence is what we want to notice */
  }
  args[n++] = (grpc_arg){.type = GRPC_ARG_STRING,
                         .key = (char *)(uintptr_t)GRPC_ARG_PRIMARY_USER_AGENT_STRING,
                         .value.string = (char *)(uintptr_t) "forebay/" FOREBAY_VERSION};

  make_target(target, sizeof target, host, port);
  grpc_channel_credentials *creds = grpc_insecure_credentials_create();
  c->channel = grpc_channel_create(target, creds, &(grpc_channel_args){.num_args = n, .args = args});
  grpc_channel_credentials_release(creds);
  if (!c->channel) {
    free(c);
    return err_set(e, -EINVAL, "gRPC takes no channel to %s", address);
  }
  *ret = c;
  return 0;
}

static void channel_unref(struct rpc_channel *c) {
  if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
    return;
  grpc_channel_destroy(c->channel);
  free(c);
}

void rpc_channel_free(struct rpc_channel **c) {
  if (*c)
    channel_unref(*c);
  *c = NULL;
}

/* ---- status ---------------------------------------------------------------------------------------------------- */

static bool slice_is(const grpc_slice *s, const char *text) {
  size_t len = strlen(text);
  return GRPC_SLICE_LENGTH(*s) == len && memcmp(GRPC_SLICE_START_PTR(*s), text, len) == 0;
}

int rpc_code_of(grpc_status_code status, const grpc_metadata_array *trailing, const char *text) {
  if (status == GRPC_STATUS_OK)
    return 0;
  for (size_t i = 0; i < trailing->count; i++) {
    const grpc_slice *v = &trailing->metadata[i].value;
    int code = 0;
    size_t len = GRPC_SLICE_LENGTH(*v);
    if (!slice_is(&trailing->metadata[i].key, RPC_CODE_KEY))
      continue;
    bool sane = len >= 1 && len <= 5;
    for (size_t j = 0; sane && j < len; j++) {
      uint8_t digit = (uint8_t)(GRPC_SLICE_START_PTR(*v)[j] - '0');
      sane = digit <= 9;
      code = code * 10 + digit;
    }
    if (sane && code > 0)
      return -code;
  }
  /* gRPC says so of messages over its cap, ours or the peer's, and has no code for it. */
  if (status == GRPC_STATUS_RESOURCE_EXHAUSTED && strstr(text, "larger than max"))
    return -FB_ETOOBIG;
  return status_to_code((int)status);
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static gpr_timespec gpr_deadline(int64_t ns) {
  if (ns == DEADLINE_NONE)
    return gpr_inf_future(GPR_CLOCK_MONOTONIC);
  gpr_timespec t = gpr_time_from_nanos(ns, GPR_TIMESPAN);
  t.clock_type = GPR_CLOCK_MONOTONIC;
  return t;
}

static void call_unref(struct rpc_call *call) {
  if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1)
    return;
  pthread_mutex_destroy(&call->mtx);
  free(call);
}

void rpc_call_unref(struct rpc_call **call) {
  if (*call)
    call_unref(*call);
  *call = NULL;
}

static void end(struct rpc_call *call, grpc_call *g) {
  struct rpc_channel *c = call->channel;
  struct rpc_loop *l = c->loop;
  struct blob *reply = NULL;
  char text[RPC_TEXT_MAX];

  size_t len = GRPC_SLICE_LENGTH(call->details);
  if (len >= sizeof text)
    len = sizeof text - 1;
  if (len)
    memcpy(text, GRPC_SLICE_START_PTR(call->details), len);
  text[len] = '\0';
  int code = rpc_code_of(call->status, &call->trailing_md, text);
  if (code == -FB_ETOOBIG && strstr(text, "larger than max")) {
    char why[RPC_TEXT_MAX];
    snprintf(why, sizeof why, "message over the size limit (bytes vs. limit), send less per call: %.*s",
             RPC_TEXT_MAX - 80, text);
    memcpy(text, why, sizeof text);
  }
  if (code == 0 && call->unary_done) {
    if (call->in) {
      reply = rpc_msg_in(call->in);
      call->in = NULL;
      if (!reply)
        code = -ENOMEM;
    } else {
      code = -FB_EPROTO;
      snprintf(text, sizeof text, "the peer answered OK without a message");
    }
  }
  if (call->in)
    grpc_byte_buffer_destroy(call->in);
  if (call->out)
    grpc_byte_buffer_destroy(call->out);
  grpc_slice_unref(call->details);
  grpc_metadata_array_destroy(&call->initial_md);
  grpc_metadata_array_destroy(&call->trailing_md);
  grpc_call_unref(g);

  if (call->unary_done)
    call->unary_done(call->done_arg, code, text, reply);
  else
    call->stream_done(call->done_arg, code, text);
  blob_unref(&reply);
  call_unref(call);
  channel_unref(c);
  rpc_loop_release(l);
}

/* An operation has completed and its callback has run. */
static void settle(struct rpc_call *call) {
  pthread_mutex_lock(&call->mtx);
  grpc_call *g = NULL;
  if (--call->pending == 0 && call->status_in) {
    g = call->gcall;
    call->gcall = NULL;
  }
  pthread_mutex_unlock(&call->mtx);
  if (g)
    end(call, g);
}

/* gRPC's call for one more operation, or NULL if the call has ended. */
static grpc_call *begin(struct rpc_call *call) {
  pthread_mutex_lock(&call->mtx);
  grpc_call *g = call->gcall;
  if (g)
    call->pending++;
  pthread_mutex_unlock(&call->mtx);
  return g;
}

static void on_status(struct rpc_tag *t, bool ok) {
  struct rpc_call *call = container_of(t, struct rpc_call, on_status);

  (void)ok; /* receiving the status always succeeds; what failed is in it */
  pthread_mutex_lock(&call->mtx);
  call->status_in = true;
  pthread_mutex_unlock(&call->mtx);
  settle(call);
}

static void on_start(struct rpc_tag *t, bool ok) {
  (void)ok;
  settle(container_of(t, struct rpc_call, on_start));
}

static void on_closed(struct rpc_tag *t, bool ok) {
  (void)ok;
  settle(container_of(t, struct rpc_call, on_closed));
}

static struct rpc_call *call_new(struct rpc_channel *c, const char *method, int64_t deadline_ns) {
  struct rpc_call *call = calloc(1, sizeof *call);

  if (!call)
    return NULL;
  atomic_init(&call->refs, 2);
  pthread_mutex_init(&call->mtx, NULL);
  grpc_metadata_array_init(&call->initial_md);
  grpc_metadata_array_init(&call->trailing_md);
  call->details = grpc_empty_slice();
  call->channel = c;
  grpc_slice path = grpc_slice_from_copied_string(method);
  call->gcall = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, rpc_loop_pick(c->loop), path, NULL,
                                         gpr_deadline(deadline_ns), NULL);
  grpc_slice_unref(path);
  if (!call->gcall) {
    pthread_mutex_destroy(&call->mtx);
    free(call);
    return NULL;
  }
  atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
  rpc_loop_hold(c->loop);
  return call;
}

static void refuse_size(struct rpc_call *call, grpc_call *g, size_t len) {
  char text[128];

  snprintf(text, sizeof text, "Sent message larger than max (%zu vs. %zu)", len, call->channel->max_message_bytes);
  grpc_call_cancel_with_status(g, GRPC_STATUS_RESOURCE_EXHAUSTED, text, NULL);
}

static grpc_op recv_status(struct rpc_call *call) {
  return (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                   .data.recv_status_on_client = {.trailing_metadata = &call->trailing_md,
                                                  .status = &call->status,
                                                  .status_details = &call->details}};
}

struct rpc_call *rpc_unary(struct rpc_channel *c, const char *method, struct blob *request, int64_t deadline_ns,
                           rpc_unary_fn done, void *arg) {
  struct rpc_call *call = call_new(c, method, deadline_ns);
  grpc_op ops[6];
  size_t n = 0;

  if (!call) {
    blob_unref(&request);
    return NULL;
  }
  call->unary_done = done;
  call->done_arg = arg;
  call->on_status.fn = on_status;
  call->pending = 1;
  ops[n++] = recv_status(call);
  ops[n++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
  ops[n++] = (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA,
                       .data.recv_initial_metadata.recv_initial_metadata = &call->initial_md};
  if (request->len > c->max_message_bytes) {
    refuse_size(call, call->gcall, request->len);
    blob_unref(&request);
  } else {
    call->out = rpc_msg_out(request);
    ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = call->out};
  }
  ops[n++] = (grpc_op){.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
  ops[n++] = (grpc_op){.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->in};
  if (!rpc_batch(call->gcall, ops, n, &call->on_status))
    abort(); /* a well-formed first batch is never refused; going on would leave a caller waiting for ever */
  return call;
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

struct rpc_call *rpc_stream_open(struct rpc_channel *c, const char *method, int64_t deadline_ns, rpc_done_fn done,
                                 void *arg) {
  struct rpc_call *call = call_new(c, method, deadline_ns);

  if (!call)
    return NULL;
  call->stream_done = done;
  call->done_arg = arg;
  call->on_status.fn = on_status;
  call->on_start.fn = on_start;
  call->pending = 2;
  /* Two batches, because the status comes last and the first message must not wait for it. */
  grpc_op start[] = {
      {.op = GRPC_OP_SEND_INITIAL_METADATA},
      {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &call->initial_md}};
  grpc_op status = recv_status(call);
  if (!rpc_batch(call->gcall, start, 2, &call->on_start) || !rpc_batch(call->gcall, &status, 1, &call->on_status))
    abort(); /* as in rpc_unary */
  return call;
}

static void start_close(struct rpc_call *call, grpc_call *g) {
  grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};

  call->on_closed.fn = on_closed;
  if (!rpc_batch(g, &op, 1, &call->on_closed))
    settle(call);
}

static void on_sent(struct rpc_tag *t, bool ok) {
  struct rpc_call *call = container_of(t, struct rpc_call, on_sent);
  rpc_sent_fn sent = call->sent;
  void *arg = call->sent_arg;

  if (call->out)
    grpc_byte_buffer_destroy(call->out);
  else /* it was over the limit and never sent */
    ok = false;
  call->out = NULL;
  pthread_mutex_lock(&call->mtx);
  call->sending = false;
  bool close = call->close_wanted && !call->closed;
  if (close) {
    call->closed = true;
    call->pending++;
  }
  pthread_mutex_unlock(&call->mtx);
  if (close)
    start_close(call, call->gcall);
  sent(arg, ok);
  settle(call);
}

void rpc_call_send(struct rpc_call *call, struct blob *message, rpc_sent_fn sent, void *arg) {
  size_t n = 0;

  pthread_mutex_lock(&call->mtx);
  grpc_call *g = call->close_wanted ? NULL : call->gcall;
  assert(!call->sending);
  if (g) {
    call->pending++;
    call->sending = true;
  }
  pthread_mutex_unlock(&call->mtx);
  if (!g) {
    blob_unref(&message);
    sent(arg, false);
    return;
  }
  call->sent = sent;
  call->sent_arg = arg;
  call->on_sent.fn = on_sent;
  grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
  if (message->len > call->channel->max_message_bytes) {
    refuse_size(call, g, message->len);
    blob_unref(&message);
  } else {
    call->out = rpc_msg_out(message);
    op.data.send_message.send_message = call->out;
    n = 1;
  }
  if (!rpc_batch(g, &op, n, &call->on_sent))
    on_sent(&call->on_sent, false);
}

void rpc_call_close_send(struct rpc_call *call) {
  pthread_mutex_lock(&call->mtx);
  grpc_call *g = call->close_wanted || call->sending ? NULL : call->gcall;
  call->close_wanted = true;
  if (g) {
    call->closed = true;
    call->pending++;
  }
  pthread_mutex_unlock(&call->mtx);
  if (g)
    start_close(call, g);
}

static void on_recv(struct rpc_tag *t, bool ok) {
  struct rpc_call *call = container_of(t, struct rpc_call, on_recv);
  struct blob *message = NULL;
  rpc_recv_fn recv = call->recv;
  void *arg = call->recv_arg;

  if (ok && call->in) {
    message = rpc_msg_in(call->in);
    call->in = NULL;
    if (!message) /* the stream must not look as if it had ended well */
      rpc_call_cancel(call);
  }
  recv(arg, message);
  blob_unref(&message);
  settle(call);
}

void rpc_call_recv(struct rpc_call *call, rpc_recv_fn recv, void *arg) {
  grpc_call *g = begin(call);

  if (!g) {
    recv(arg, NULL);
    return;
  }
  call->recv = recv;
  call->recv_arg = arg;
  call->on_recv.fn = on_recv;
  grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->in};
  if (!rpc_batch(g, &op, 1, &call->on_recv))
    on_recv(&call->on_recv, false);
}

void rpc_call_cancel(struct rpc_call *call) {
  struct rpc_loop *l = NULL;

  /* Not counted as an operation: the last one to be over runs `done`, and that must not be us, whose caller may hold
   * locks. References of our own make gRPC's call and the loop outlive the call into gRPC. */
  pthread_mutex_lock(&call->mtx);
  grpc_call *g = call->gcall;
  if (g) {
    grpc_call_ref(g);
    rpc_loop_hold(l = call->channel->loop);
  }
  pthread_mutex_unlock(&call->mtx);
  if (!g)
    return;
  grpc_call_cancel(g, NULL);
  grpc_call_unref(g);
  rpc_loop_release(l);
}
