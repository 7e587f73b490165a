/* peer_stream.c - a peer's streaming calls: many replies to one request (peer_stream, peer_paced), and a value sent in
 * pieces (peer_put).
 *
 * rpc.h promises that a call's `done` comes after its other callbacks, except that an operation that is started on an
 * ended call fails at once, on the thread that starts it. Both may therefore meet here after `done`: `over` is set by
 * whichever thread runs `done`, and the context lives until the opener and `done` have let go. */
#include "client/lib/peer_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib/keys.h"
#include "common/bytes.h"
#include "common/clock.h"
#include "forebay/v1/cache.pb-c.h"
#include "proto/wire.h"

struct peer_paced {
  atomic_uint refs;      /* rpc.c's until `done`, and the opener's (a paced stream's handle) */
  struct peer *peer;     /* reference */
  struct rpc_call *call; /* set before the first receive; a reference if paced, else valid until `done` has run */
  const ProtobufCMessageDescriptor *type, *inner_type;
  bool want_payload, keep_reply, paced;
  peer_each_fn each;
  peer_done_fn done;
  void *arg;
  int64_t started_ns, deadline_ns;
  atomic_bool over;
  /* set on the receiving side before `done` */
  bool stopped; /* `each` wanted no more */
  int broken;   /* a message could not be read: the code instead of the cancelled call's */
  const char *why;
};

static void stream_unref(struct peer_paced *s) {
  if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
    return;
  if (s->paced)
    rpc_call_unref(&s->call);
  peer_unref(&s->peer);
  free(s);
}

static void on_message(void *arg, struct blob *message);

static void ask_next(struct peer_paced *s) {
  if (!atomic_load_explicit(&s->over, memory_order_acquire))
    rpc_call_recv(s->call, on_message, s);
}

static int unpack(struct peer_paced *s, struct blob *message, ProtobufCMessage **ret, ProtobufCMessage **ret_inner,
                  struct blob **ret_payload) {
  if (s->inner_type)
    return wire_unpack_nested(s->type, s->inner_type, message, ret, ret_inner, ret_payload);
  return wire_unpack(s->type, message, ret, s->want_payload ? ret_payload : NULL);
}

static void on_message(void *arg, struct blob *message) {
  struct peer_paced *s = arg;
  ProtobufCMessage *reply = NULL, *inner = NULL;
  struct blob *payload = NULL;

  if (!message)
    return; /* `done` tells how it ended */
  int r = unpack(s, message, &reply, &inner, &payload);
  if (r < 0) {
    s->broken = r;
    s->why = r == -FB_EPROTO ? "a streamed answer is not a message of this protocol" : "out of memory";
    rpc_call_cancel(s->call);
    return;
  }
  peer_note(s->peer, 0, NULL, s->started_ns, s->deadline_ns);
  bool more = s->each(s->arg, reply, inner, payload);
  if (!s->keep_reply) {
    protobuf_c_message_free_unpacked(reply, NULL);
    if (inner)
      protobuf_c_message_free_unpacked(inner, NULL);
  }
  blob_unref(&payload);
  if (!more) {
    s->stopped = true;
    rpc_call_cancel(s->call);
  } else if (!s->paced) {
    ask_next(s);
  }
}

static void on_done(void *arg, int code, const char *text) {
  struct peer_paced *s = arg;

  atomic_store_explicit(&s->over, true, memory_order_release);
  peer_note(s->peer, code, text, s->started_ns, s->deadline_ns);
  if (s->broken) {
    code = s->broken;
    text = s->why;
  } else if (s->stopped) {
    code = -ECANCELED;
    text = "stopped by the caller";
  }
  s->done(s->arg, code, text);
  stream_unref(s);
}

static void on_request_sent(void *arg, bool ok) { (void)arg, (void)ok; /* a failure shows in the status */ }

/* NULL: `done` has run. Else *ret, written before any callback can run, is the opener's reference. */
static struct rpc_call *open_stream(struct peer *p, const struct peer_call_args *a,
                                    const ProtobufCMessageDescriptor *inner_type, peer_each_fn each, peer_done_fn done,
                                    void *arg, bool paced, struct peer_paced **ret) {
  char text[ERR_TEXT_MAX];

  if (!peer_admit(p, a->ignore_breaker, text, sizeof text)) {
    done(arg, -FB_EPEERDOWN, text);
    return NULL;
  }
  struct peer_paced *s = calloc(1, sizeof *s);
  struct blob *request = s ? wire_pack(a->request, a->request_payload) : NULL;
  if (!request)
    goto no_memory;
  *s = (struct peer_paced){.peer = peer_ref(p),
                           .type = a->reply_type,
                           .inner_type = inner_type,
                           .want_payload = a->want_payload,
                           .keep_reply = a->keep_reply,
                           .paced = paced,
                           .each = each,
                           .done = done,
                           .arg = arg,
                           .started_ns = clock_mono_ns(),
                           .deadline_ns = a->deadline_ns};
  atomic_init(&s->refs, 2);
  *ret = s;
  /* `done` may run before this returns; it does not look at s->call, and our reference keeps s. */
  struct rpc_call *call = rpc_stream_open(peer_channel(p), a->method, a->deadline_ns, on_done, s);
  if (!call) {
    *ret = NULL;
    peer_unref(&s->peer);
    blob_unref(&request);
    goto no_memory;
  }
  s->call = call;
  rpc_call_send(call, request, on_request_sent, s);
  rpc_call_close_send(call);
  ask_next(s);
  return call;
no_memory:
  free(s);
  done(arg, -ENOMEM, "out of memory");
  return NULL;
}

struct rpc_call *peer_stream(struct peer *p, const struct peer_call_args *a,
                             const ProtobufCMessageDescriptor *inner_type, peer_each_fn each, peer_done_fn done,
                             void *arg) {
  struct peer_paced *s;
  struct rpc_call *call = open_stream(p, a, inner_type, each, done, arg, false, &s);

  if (call)
    stream_unref(s);
  return call;
}

void peer_paced_open(struct peer_paced **ret, struct peer *p, const struct peer_call_args *a, peer_each_fn each,
                     peer_done_fn done, void *arg) {
  *ret = NULL;
  open_stream(p, a, NULL, each, done, arg, true, ret);
}

void peer_paced_next(struct peer_paced *s) { ask_next(s); }
void peer_paced_cancel(struct peer_paced *s) { rpc_call_cancel(s->call); }

void peer_paced_unref(struct peer_paced **s) {
  if (*s)
    stream_unref(*s);
  *s = NULL;
}

/* ---- put -------------------------------------------------------------------------------------------------------- */

struct put {
  atomic_uint refs;      /* rpc.c's until `done`, and the opener's */
  struct peer *peer;     /* reference */
  struct rpc_call *call; /* set before the first send; valid until `done` has run */
  struct blob *value;    /* reference */
  size_t sent;           /* bytes handed to rpc.c */
  peer_reply_fn done;
  void *arg;
  int64_t started_ns, deadline_ns;
  ProtobufCMessage *reply; /* set by the receive callback, which comes before `done` */
  atomic_int broken;       /* code that explains why we cancelled */
};

static void put_unref(struct put *u) {
  if (atomic_fetch_sub_explicit(&u->refs, 1, memory_order_acq_rel) != 1)
    return;
  blob_unref(&u->value);
  peer_unref(&u->peer);
  free(u);
}

static void put_sent(void *arg, bool ok);

/* Sends the next piece under `head`, which only the first message fills. */
static void put_send(struct put *u, const ProtobufCMessage *head) {
  size_t n = min_u64(u->value->len - u->sent, PUT_PIECE_BYTES);
  struct blob *piece = blob_new(1), *message = NULL;

  if (piece && blob_append_range(piece, u->value, u->sent, n) == 0)
    message = wire_pack(head, piece);
  blob_unref(&piece);
  if (!message) {
    u->broken = -ENOMEM;
    rpc_call_cancel(u->call);
    return;
  }
  u->sent += n;
  rpc_call_send(u->call, message, put_sent, u);
}

static void put_sent(void *arg, bool ok) {
  struct put *u = arg;
  const Forebay__V1__PutRequest more = FOREBAY__V1__PUT_REQUEST__INIT;

  if (!ok)
    return; /* the peer has ended the call: its status says why */
  if (u->sent < u->value->len)
    put_send(u, &more.base);
  else
    rpc_call_close_send(u->call);
}

static void put_reply(void *arg, struct blob *message) {
  struct put *u = arg;

  if (!message)
    return;
  if (u->reply) {
    u->broken = -FB_EPROTO;
    rpc_call_cancel(u->call);
    return;
  }
  int r = wire_unpack(&forebay__v1__put_reply__descriptor, message, &u->reply, NULL);
  if (r < 0)
    u->broken = r;
  rpc_call_recv(u->call, put_reply, u); /* for the end of the stream, which lets the status come */
}

static void put_done(void *arg, int code, const char *text) {
  struct put *u = arg;

  peer_note(u->peer, code, text, u->started_ns, u->deadline_ns);
  if (u->broken) {
    code = u->broken;
    text = code == -FB_EPROTO ? "the answer is not what this protocol has for a put" : "out of memory";
  } else if (code == 0 && !u->reply) {
    code = -FB_EPROTO;
    text = "the put ended without an answer";
  }
  u->done(u->arg, code, text, code == 0 ? u->reply : NULL, NULL);
  if (u->reply)
    protobuf_c_message_free_unpacked(u->reply, NULL);
  put_unref(u);
}

struct rpc_call *peer_put(struct peer *p, const ProtobufCMessage *head, struct blob *value, int64_t deadline_ns,
                          peer_reply_fn done, void *arg) {
  char text[ERR_TEXT_MAX];

  if (!peer_admit(p, false, text, sizeof text)) {
    done(arg, -FB_EPEERDOWN, text, NULL, NULL);
    return NULL;
  }
  struct put *u = calloc(1, sizeof *u);
  if (!u)
    goto no_memory;
  *u = (struct put){.peer = peer_ref(p),
                    .value = blob_ref(value),
                    .done = done,
                    .arg = arg,
                    .started_ns = clock_mono_ns(),
                    .deadline_ns = deadline_ns};
  atomic_init(&u->refs, 2);
  struct rpc_call *call = rpc_stream_open(peer_channel(p), "/forebay.v1.Cache/Put", deadline_ns, put_done, u);
  if (!call) {
    blob_unref(&u->value);
    peer_unref(&u->peer);
    goto no_memory;
  }
  u->call = call;
  rpc_call_recv(call, put_reply, u);
  put_send(u, head);
  put_unref(u);
  return call;
no_memory:
  free(u);
  done(arg, -ENOMEM, "out of memory", NULL, NULL);
  return NULL;
}
