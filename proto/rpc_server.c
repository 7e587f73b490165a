/* rpc_server.c - the answering side: sessions, the method table, stopping.
 *
 * Every queue of the loop has a few requests for "the next call" posted; each is a session in waiting. A session that
 * gets a call posts its successor, finds its method and hands itself to the handler. It is freed when the handler has
 * finished and gRPC has reported the close of the call: that is what its references count. */
#include "proto/rpc_internal.h"

#include <assert.h>
#include <errno.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "proto/status.h"

#define REQUESTS_PER_QUEUE 32
#define PEER_MAX 64
#define RECEIVE_BYTES_DEFAULT ((size_t)256 << 20)
/* After the last call has ended: time for its answer and the goodbye to leave, then connections are cut. */
#define FAREWELL_NS (500 * NS_PER_MS)

struct rpc_server {
  struct rpc_loop *loop;
  struct rpc_listener *listener;
  grpc_server *server;
  struct rpc_server_limits limits;
  struct rpc_method *methods; /* sorted by path */
  size_t n_methods;
  uint16_t port;
  atomic_uint calls; /* handed to handlers and not ended */
  atomic_uint_fast64_t refused_calls;

  struct rpc_tag on_shutdown;
  pthread_mutex_t mtx;
  pthread_cond_t changed;
  /* under mtx */
  bool started, stopping, shut;
  unsigned sessions; /* all of them, waiting ones too */
  unsigned open;     /* with a call */
};

struct rpc_session {
  atomic_uint refs; /* RECV_CLOSE's, the handler's until its finish has completed, and one per receive */
  struct rpc_server *srv;
  unsigned queue;
  grpc_call *call;
  grpc_call_details details;
  grpc_metadata_array metadata;
  char peer[PEER_MAX];
  bool counted; /* in srv->calls */
  bool owes;    /* there was no memory for its successor: its end makes up for it */

  struct rpc_tag on_new, on_close, on_recv, on_sent, on_finish;
  grpc_byte_buffer *in, *out;
  int gone; /* RECV_CLOSE's answer */

  /* owned by the one outstanding receive, or send */
  rpc_session_recv_fn recv;
  void *recv_arg;
  rpc_session_sent_fn sent;
  void *sent_arg;
  bool sent_initial;

  atomic_bool cancelled;
  pthread_mutex_t mtx;
  pthread_cond_t cancel_done;
  /* under mtx */
  void (*cancel_fn)(struct rpc_session *s, void *arg);
  void *cancel_arg;
  unsigned cancels_running;
  bool finished;
};

/* The session whose `cancelled` is running on this thread: a rpc_finish from inside it would wait for itself. */
static _Thread_local const struct rpc_session *cancelling;

static bool post(struct rpc_server *srv, unsigned queue);

/* ---- a session's life ------------------------------------------------------------------------------------------- */

static struct rpc_session *session_new(struct rpc_server *srv, unsigned queue) {
  struct rpc_session *s = calloc(1, sizeof *s);

  if (!s)
    return NULL;
  s->srv = srv;
  s->queue = queue;
  atomic_init(&s->refs, 1);
  grpc_call_details_init(&s->details);
  grpc_metadata_array_init(&s->metadata);
  pthread_mutex_init(&s->mtx, NULL);
  pthread_cond_init(&s->cancel_done, NULL);
  rpc_loop_hold(srv->loop);
  pthread_mutex_lock(&srv->mtx);
  srv->sessions++;
  pthread_mutex_unlock(&srv->mtx);
  return s;
}

static void session_unref(struct rpc_session *s) {
  struct rpc_server *srv = s->srv;
  struct rpc_loop *loop = srv->loop;

  if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
    return;
  bool had_call = s->call != NULL, owes = s->owes;
  unsigned queue = s->queue;
  if (s->in)
    grpc_byte_buffer_destroy(s->in);
  if (s->out)
    grpc_byte_buffer_destroy(s->out);
  grpc_call_details_destroy(&s->details);
  grpc_metadata_array_destroy(&s->metadata);
  if (s->call)
    grpc_call_unref(s->call);
  if (s->counted)
    atomic_fetch_sub_explicit(&srv->calls, 1, memory_order_relaxed);
  pthread_mutex_destroy(&s->mtx);
  pthread_cond_destroy(&s->cancel_done);
  free(s);
  if (owes)
    post(srv, queue);
  pthread_mutex_lock(&srv->mtx);
  srv->sessions--;
  srv->open -= had_call;
  if (srv->stopping)
    pthread_cond_broadcast(&srv->changed);
  pthread_mutex_unlock(&srv->mtx); /* from here on the server may be gone */
  rpc_loop_release(loop);
}

static void session_ref(struct rpc_session *s) { atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed); }

/* Under mtx, which it gives back. Runs the handler's `cancelled` if both it and the cause are there: rpc_finish waits
 * for its end, so that a handler may free what `arg` points to. */
static void tell_cancelled(struct rpc_session *s) {
  void (*fn)(struct rpc_session *, void *) = s->cancel_fn;
  const struct rpc_session *outer = cancelling;

  if (!fn || s->finished || !atomic_load_explicit(&s->cancelled, memory_order_relaxed)) {
    pthread_mutex_unlock(&s->mtx);
    return;
  }
  void *arg = s->cancel_arg;
  s->cancel_fn = NULL;
  s->cancels_running++;
  pthread_mutex_unlock(&s->mtx);
  cancelling = s;
  fn(s, arg);
  cancelling = outer;
  pthread_mutex_lock(&s->mtx);
  s->cancels_running--;
  pthread_cond_broadcast(&s->cancel_done);
  pthread_mutex_unlock(&s->mtx);
}

static void on_close(struct rpc_tag *t, bool ok) {
  struct rpc_session *s = container_of(t, struct rpc_session, on_close);

  (void)ok; /* always succeeds */
  if (s->gone) {
    pthread_mutex_lock(&s->mtx);
    atomic_store_explicit(&s->cancelled, true, memory_order_release);
    tell_cancelled(s);
  }
  session_unref(s);
}

static int by_path(const void *a, const void *b) {
  return strcmp(((const struct rpc_method *)a)->path, ((const struct rpc_method *)b)->path);
}

static const struct rpc_method *find_method(const struct rpc_server *srv, const grpc_slice *path) {
  char name[256];
  size_t len = GRPC_SLICE_LENGTH(*path);

  if (len >= sizeof name)
    return NULL;
  memcpy(name, GRPC_SLICE_START_PTR(*path), len);
  name[len] = '\0';
  if (strlen(name) != len)
    return NULL;
  return bsearch(&(struct rpc_method){.path = name}, srv->methods, srv->n_methods, sizeof *srv->methods, by_path);
}

/* gRPC calls a connection that was handed to it "fd:N". */
static void learn_peer(struct rpc_session *s) {
  char *uri = grpc_call_get_peer(s->call);
  int fd;

  if (uri && sscanf(uri, "fd:%d", &fd) == 1)
    rpc_listener_peer(s->srv->listener, fd, s->peer, sizeof s->peer);
  else
    snprintf(s->peer, sizeof s->peer, "unknown");
  gpr_free(uri);
}

static void on_new(struct rpc_tag *t, bool ok) {
  struct rpc_session *s = container_of(t, struct rpc_session, on_new);
  struct rpc_server *srv = s->srv;

  if (!ok) { /* the server is shutting down: there will be no call */
    s->call = NULL;
    session_unref(s);
    return;
  }
  pthread_mutex_lock(&srv->mtx);
  srv->open++;
  pthread_mutex_unlock(&srv->mtx);
  s->owes = !post(srv, s->queue);

  s->on_close.fn = on_close;
  session_ref(s);
  grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &s->gone};
  if (!rpc_batch(s->call, &op, 1, &s->on_close))
    session_unref(s);
  learn_peer(s);

  const struct rpc_method *m = find_method(srv, &s->details.method);
  if (!m) {
    rpc_finish(s, NULL, -ENOSYS, "this peer does not know that method: is the client newer than the peer?");
    return;
  }
  if (atomic_fetch_add_explicit(&srv->calls, 1, memory_order_relaxed) >= srv->limits.max_calls) {
    char text[96];
    atomic_fetch_sub_explicit(&srv->calls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&srv->refused_calls, 1, memory_order_relaxed);
    snprintf(text, sizeof text, "this peer serves %u calls already: try again later", srv->limits.max_calls);
    rpc_finish(s, NULL, -FB_EBUSY, text);
    return;
  }
  s->counted = true;
  m->start(s, m->arg);
}

/* Asks for one more call on `queue`. False only when out of memory. */
static bool post(struct rpc_server *srv, unsigned queue) {
  struct rpc_session *s = session_new(srv, queue);
  grpc_completion_queue *cq = rpc_loop_queue(srv->loop, queue);

  if (!s)
    return false;
  s->on_new.fn = on_new;
  rpc_hand_over(&s->on_new);
  if (grpc_server_request_call(srv->server, &s->call, &s->details, &s->metadata, cq, cq, &s->on_new) != GRPC_CALL_OK)
    session_unref(s);
  return true;
}

/* ---- what handlers do ------------------------------------------------------------------------------------------- */

static void on_recv(struct rpc_tag *t, bool ok) {
  struct rpc_session *s = container_of(t, struct rpc_session, on_recv);
  struct blob *message = NULL;
  rpc_session_recv_fn recv = s->recv;
  void *arg = s->recv_arg;

  if (ok && s->in) {
    message = rpc_msg_in(s->in);
    s->in = NULL;
    if (!message) /* the stream must not look as if the client had ended it */
      grpc_call_cancel_with_status(s->call, GRPC_STATUS_RESOURCE_EXHAUSTED, "out of memory", NULL);
  }
  recv(s, message, arg);
  blob_unref(&message);
  session_unref(s);
}

void rpc_recv(struct rpc_session *s, rpc_session_recv_fn recv, void *arg) {
  grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->in};

  s->recv = recv;
  s->recv_arg = arg;
  s->on_recv.fn = on_recv;
  session_ref(s);
  if (!rpc_batch(s->call, &op, 1, &s->on_recv))
    on_recv(&s->on_recv, false);
}

static void on_sent(struct rpc_tag *t, bool ok) {
  struct rpc_session *s = container_of(t, struct rpc_session, on_sent);

  if (s->out)
    grpc_byte_buffer_destroy(s->out);
  else /* it was over the limit and never sent */
    ok = false;
  s->out = NULL;
  s->sent(s, ok, s->sent_arg);
  session_unref(s);
}

void rpc_send(struct rpc_session *s, struct blob *message, rpc_session_sent_fn sent, void *arg) {
  grpc_op ops[2];
  size_t n = 0;

  assert(!s->out); /* one send at a time */
  s->sent = sent;
  s->sent_arg = arg;
  s->on_sent.fn = on_sent;
  session_ref(s);
  if (message->len > s->srv->limits.max_message_bytes) {
    blob_unref(&message);
  } else {
    if (!s->sent_initial)
      ops[n++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    s->sent_initial = true;
    s->out = rpc_msg_out(message);
    ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = s->out};
  }
  if (!rpc_batch(s->call, ops, n, &s->on_sent))
    on_sent(&s->on_sent, false);
}

static void on_finish(struct rpc_tag *t, bool ok) {
  (void)ok; /* whether the client got it is not ours to know */
  session_unref(container_of(t, struct rpc_session, on_finish));
}

void rpc_finish(struct rpc_session *s, struct blob *message, int code, const char *text) {
  char buf[RPC_TEXT_MAX], number[16];
  grpc_op ops[3];
  grpc_metadata trailing;
  grpc_slice details;
  size_t n = 0;

  pthread_mutex_lock(&s->mtx);
  s->finished = true;
  while (s->cancels_running > (cancelling == s ? 1 : 0))
    pthread_cond_wait(&s->cancel_done, &s->mtx);
  pthread_mutex_unlock(&s->mtx);

  if (message && message->len > s->srv->limits.max_message_bytes) {
    snprintf(buf, sizeof buf, "the answer has %zu bytes and the limit is %zu: ask for less per call", message->len,
             s->srv->limits.max_message_bytes);
    code = -FB_ETOOBIG;
    text = buf;
    blob_unref(&message);
  }
  if (!s->sent_initial)
    ops[n++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
  s->sent_initial = true;
  if (message) {
    s->out = rpc_msg_out(message);
    ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = s->out};
  }
  code = code < 0 ? code : -code;
  snprintf(number, sizeof number, "%d", -code);
  trailing.key = grpc_slice_from_static_string(RPC_CODE_KEY);
  trailing.value = grpc_slice_from_copied_string(number);
  if (!text)
    text = code ? err_describe(code) : "";
  details = grpc_slice_from_copied_buffer(text, strnlen(text, RPC_TEXT_MAX));
  ops[n++] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
                       .data.send_status_from_server = {.trailing_metadata_count = code ? 1 : 0,
                                                        .trailing_metadata = &trailing,
                                                        .status = (grpc_status_code)status_from_code(code),
                                                        .status_details = &details}};
  s->on_finish.fn = on_finish;
  bool ok = rpc_batch(s->call, ops, n, &s->on_finish);
  grpc_slice_unref(trailing.value);
  grpc_slice_unref(details);
  if (!ok) { /* the handler has broken the contract: at least the client must not wait */
    grpc_call_cancel(s->call, NULL);
    session_unref(s);
  }
}

int64_t rpc_deadline_ns(const struct rpc_session *s) {
  gpr_timespec t = gpr_convert_clock_type(s->details.deadline, GPR_CLOCK_MONOTONIC);

  if (gpr_time_cmp(t, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0 || t.tv_sec > INT64_MAX / NS_PER_S - 1)
    return DEADLINE_NONE;
  return t.tv_sec < 0 ? 0 : t.tv_sec * NS_PER_S + t.tv_nsec;
}

bool rpc_cancelled(const struct rpc_session *s) { return atomic_load_explicit(&s->cancelled, memory_order_acquire); }

void rpc_on_cancel(struct rpc_session *s, void (*cancelled)(struct rpc_session *s, void *arg), void *arg) {
  pthread_mutex_lock(&s->mtx);
  s->cancel_fn = cancelled;
  s->cancel_arg = arg;
  session_ref(s); /* the handler's may go while `cancelled` runs here */
  tell_cancelled(s);
  session_unref(s);
}

const char *rpc_peer(const struct rpc_session *s) { return s->peer; }

/* ---- the server ------------------------------------------------------------------------------------------------- */

/* On the acceptor's thread, which ends before the gRPC server does. */
static void on_ready(void *arg, int fd) {
  struct rpc_server *srv = arg;
  grpc_server_credentials *creds = grpc_insecure_server_credentials_create();

  grpc_server_add_channel_from_fd(srv->server, fd, creds);
  grpc_server_credentials_release(creds);
}

static void on_shutdown(struct rpc_tag *t, bool ok) {
  struct rpc_server *srv = container_of(t, struct rpc_server, on_shutdown);
  struct rpc_loop *loop = srv->loop;

  (void)ok;
  pthread_mutex_lock(&srv->mtx);
  srv->shut = true;
  pthread_cond_broadcast(&srv->changed);
  pthread_mutex_unlock(&srv->mtx); /* from here on the server may be gone */
  rpc_loop_release(loop);
}

static int copy_methods(struct rpc_server *srv, const struct rpc_method *methods, struct err *e) {
  while (methods[srv->n_methods].path)
    srv->n_methods++;
  srv->methods = calloc(srv->n_methods + 1, sizeof *methods);
  if (!srv->methods)
    return err_set(e, -ENOMEM, "out of memory for the method table");
  memcpy(srv->methods, methods, srv->n_methods * sizeof *methods);
  qsort(srv->methods, srv->n_methods, sizeof *methods, by_path);
  return 0;
}

static grpc_arg int_arg(const char *key, uint64_t value) {
  return (grpc_arg){.type = GRPC_ARG_INTEGER,
                    .key = (char *)(uintptr_t)key,
                    .value.integer = value > INT32_MAX ? INT32_MAX : (int)value};
}

static grpc_server *make_server(const struct rpc_server_limits *limits) {
  grpc_arg args[16];
  size_t n = 0;

  args[n++] = int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits->max_streams);
  args[n++] = int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, limits->max_message_bytes);
  args[n++] = int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0);
  args[n++] = int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0); /* a few bytes must not become gigabytes */
  args[n++] = int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1); /* "identity" alone */
  args[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);                     /* a peer that vanished without a word */
  args[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  args[n++] = int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 100);
  if (limits->idle_ms)
    args[n++] = int_arg(GRPC_ARG_MAX_CONNECTION_IDLE_MS, limits->idle_ms);
  /* gRPC compares a message with the cap only when all of it is there, so a few clients could make it hold gigabytes;
   * over the quota it resets the streams instead. */
  grpc_resource_quota *quota = grpc_resource_quota_create("forebay server");
  grpc_resource_quota_resize(quota, limits->receive_bytes);
  args[n++] = (grpc_arg){.type = GRPC_ARG_POINTER,
                         .key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA,
                         .value.pointer = {.p = quota, .vtable = grpc_resource_quota_arg_vtable()}};
  grpc_server *server = grpc_server_create(&(grpc_channel_args){.num_args = n, .args = args}, NULL);
  grpc_resource_quota_unref(quota);
  return server;
}

static void server_destroy(struct rpc_server *srv) {
  rpc_listener_free(&srv->listener);
  if (srv->server)
    grpc_server_destroy(srv->server);
  pthread_mutex_destroy(&srv->mtx);
  pthread_cond_destroy(&srv->changed);
  free(srv->methods);
  free(srv);
}

int rpc_server_new(struct rpc_server **ret, struct rpc_loop *l, const char *address,
                   const struct rpc_server_limits *limits, const struct rpc_method *methods, struct err *e) {
  pthread_condattr_t mono;

  if (limits->max_connections < 1 || limits->max_streams < 1 || limits->max_calls < 1)
    return err_set(e, -EINVAL, "max_connections, max_streams and max_calls must be at least 1");
  if (limits->max_message_bytes > RPC_MESSAGE_BYTES_MAX)
    return err_set(e, -EINVAL, "max_message_bytes %zu: at most %zu", limits->max_message_bytes, RPC_MESSAGE_BYTES_MAX);
  if (limits->receive_bytes && limits->receive_bytes / 2 < limits->max_message_bytes)
    return err_set(e, -EINVAL, "receive_bytes %zu: at least twice max_message_bytes", limits->receive_bytes);
  struct rpc_server *srv = calloc(1, sizeof *srv);
  if (!srv)
    return err_set(e, -ENOMEM, "out of memory for a server");
  srv->loop = l;
  srv->limits = *limits;
  if (!srv->limits.max_message_bytes)
    srv->limits.max_message_bytes = RPC_MESSAGE_BYTES_DEFAULT;
  if (!srv->limits.receive_bytes)
    srv->limits.receive_bytes = max_u64(RECEIVE_BYTES_DEFAULT, 4 * srv->limits.max_message_bytes);
  pthread_mutex_init(&srv->mtx, NULL);
  pthread_condattr_init(&mono);
  pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
  pthread_cond_init(&srv->changed, &mono);
  pthread_condattr_destroy(&mono);

  int r = copy_methods(srv, methods, e);
  if (r == 0)
    r = rpc_listener_new(&srv->listener, address, limits->max_connections, limits->handshake_ms, on_ready, srv, e);
  if (r == 0) {
    srv->port = rpc_listener_port(srv->listener);
    srv->server = make_server(&srv->limits);
    if (!srv->server)
      r = err_set(e, -ENOMEM, "gRPC cannot make a server");
  }
  if (r < 0) {
    server_destroy(srv);
    return r;
  }
  for (unsigned i = 0; i < rpc_loop_queues(l); i++)
    grpc_server_register_completion_queue(srv->server, rpc_loop_queue(l, i), NULL);
  *ret = srv;
  return 0;
}

int rpc_server_start(struct rpc_server *srv, struct err *e) {
  pthread_mutex_lock(&srv->mtx);
  bool again = srv->started;
  srv->started = true;
  pthread_mutex_unlock(&srv->mtx);
  if (again)
    return err_set(e, -EALREADY, "the server was started before");
  grpc_server_start(srv->server);
  for (unsigned i = 0; i < rpc_loop_queues(srv->loop); i++)
    for (unsigned j = 0; j < REQUESTS_PER_QUEUE; j++)
      post(srv, i);
  return rpc_listener_start(srv->listener, e);
}

uint16_t rpc_server_port(const struct rpc_server *srv) { return srv->port; }

void rpc_server_stats(const struct rpc_server *srv, struct rpc_server_stats *ret) {
  *ret = (struct rpc_server_stats){
      .calls = atomic_load_explicit(&srv->calls, memory_order_relaxed),
      .refused_calls = atomic_load_explicit(&srv->refused_calls, memory_order_relaxed),
  };
  rpc_listener_stats(srv->listener, ret);
}

/* Under mtx. True when all calls have ended and gRPC has said goodbye to every connection. */
static bool wait_until(struct rpc_server *srv, int64_t deadline_ns, bool connections_too) {
  struct timespec ts = clock_timespec(deadline_ns);

  while (srv->open || (connections_too && !srv->shut)) {
    if (deadline_ns == DEADLINE_NONE)
      pthread_cond_wait(&srv->changed, &srv->mtx);
    else if (pthread_cond_timedwait(&srv->changed, &srv->mtx, &ts) == ETIMEDOUT)
      break;
  }
  return !srv->open && (!connections_too || srv->shut);
}

static int64_t earlier(int64_t a, int64_t b) { return a < b ? a : b; }

unsigned rpc_server_stop(struct rpc_server *srv, int64_t deadline_ns) {
  unsigned cancelled = 0;

  pthread_mutex_lock(&srv->mtx);
  bool first = srv->started && !srv->stopping;
  srv->stopping = true;
  pthread_mutex_unlock(&srv->mtx);
  rpc_listener_close(srv->listener);
  if (!first)
    return 0;
  srv->on_shutdown.fn = on_shutdown;
  rpc_loop_hold(srv->loop);
  rpc_hand_over(&srv->on_shutdown);
  grpc_server_shutdown_and_notify(srv->server, rpc_loop_queue(srv->loop, 0), &srv->on_shutdown);

  pthread_mutex_lock(&srv->mtx);
  if (!wait_until(srv, deadline_ns, false))
    cancelled = srv->open;
  else
    wait_until(srv, earlier(deadline_ns, clock_mono_ns() + FAREWELL_NS), true);
  bool shut = srv->shut;
  pthread_mutex_unlock(&srv->mtx);
  if (cancelled || !shut)
    grpc_server_cancel_all_calls(srv->server);

  pthread_mutex_lock(&srv->mtx);
  while (!srv->shut || srv->sessions)
    pthread_cond_wait(&srv->changed, &srv->mtx);
  pthread_mutex_unlock(&srv->mtx);
  return cancelled;
}

void rpc_server_free(struct rpc_server **sp) {
  if (!*sp)
    return;
  rpc_server_stop(*sp, clock_mono_ns());
  server_destroy(*sp);
  *sp = NULL;
}
