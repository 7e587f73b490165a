/* peer.h - one peer as its clients see it: a channel, a breaker, and asynchronous calls with protobuf messages.
 *
 * This is the part of the library that the server uses too, because a peer is a client of its peers. Thread-safe.
 * Callbacks run once, on a loop thread, with no lock held; they must not block. */
#ifndef FB_CLIENT_PEER_H
#define FB_CLIENT_PEER_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/blob.h"
#include "common/err.h"
#include "proto/rpc.h"

struct peer;

struct peer_stats {                       /* totals */
  uint64_t calls, failures, refused_open; /* failures: unreachable or deadline; refused_open: by the breaker */
};

/* `address` is host:port; connects when first called. 0, -EINVAL, -ENOMEM. One reference. The loop outlives the peer.
 */
int peer_new(struct peer **ret, struct rpc_loop *l, const char *address, size_t max_message_bytes, struct err *e);
struct peer *peer_ref(struct peer *p);
void peer_unref(struct peer **p);
const char *peer_address(const struct peer *p);

/* False while the breaker keeps requests away. Does not use up the half-open probe. */
bool peer_usable(struct peer *p);
void peer_stats(struct peer *p, struct peer_stats *ret);
/* Last failure as a text ("" = none), into buf. */
void peer_last_failure(struct peer *p, char *buf, size_t cap);

/* What counts against a peer: being unreachable, and silence until a call's deadline (no answer to anything since that
 * call began). An answer counts for it, whatever its code.
 *
 * A unary call. `reply` and `payload` (field 15 of the reply, when want_payload) are borrowed by the callback; NULL on
 * failure. When the breaker is open the callback gets -FB_EPEERDOWN, from this very call. Returns a handle to cancel
 * and unref, or NULL if the callback ran or will run without one (open breaker, out of memory -> -ENOMEM). */
typedef void (*peer_reply_fn)(void *arg, int code, const char *text, const ProtobufCMessage *reply,
                              struct blob *payload);
struct peer_call_args {
  const char *method;              /* "/forebay.v1.Cache/Get" */
  const ProtobufCMessage *request; /* packed before the call returns */
  struct blob *request_payload;    /* goes into field 15 when not NULL; borrowed */
  const ProtobufCMessageDescriptor *reply_type;
  bool want_payload;
  int64_t deadline_ns; /* monotonic */
  bool ignore_breaker; /* health checks and the doctor */
  bool keep_reply;     /* the callback owns the messages it gets: it frees them with
                        * protobuf_c_message_free_unpacked(m, NULL) */
};
struct rpc_call *peer_call(struct peer *p, const struct peer_call_args *a, peer_reply_fn done, void *arg);

/* A call with a stream of replies. `each` gets every message (with the payload of field 15 cut off when want_payload,
 * for MultiGetReply: of the nested field 15); returning false cancels. `done` runs last. The next message is asked for
 * after `each` returned. */
typedef bool (*peer_each_fn)(void *arg, const ProtobufCMessage *reply, const ProtobufCMessage *inner,
                             struct blob *payload);
typedef void (*peer_done_fn)(void *arg, int code, const char *text);
struct rpc_call *peer_stream(struct peer *p, const struct peer_call_args *a,
                             const ProtobufCMessageDescriptor *inner_type, /* nested message in field 15, or NULL */
                             peer_each_fn each, peer_done_fn done, void *arg);

/* The same for callers that consume at their own pace: after each message the next is asked for only by
 * peer_paced_next. `done` may run before that, when the call has broken off; then peer_paced_next does nothing.
 * The handle is unref'ed by the caller; NULL as above. *ret is written before any callback can run. */
struct peer_paced;
void peer_paced_open(struct peer_paced **ret, struct peer *p, const struct peer_call_args *a, peer_each_fn each,
                     peer_done_fn done, void *arg);
void peer_paced_next(struct peer_paced *s);
void peer_paced_cancel(struct peer_paced *s);
void peer_paced_unref(struct peer_paced **s); /* NULLs it; accepts NULL */

/* Cache/Put: sends `head` (a PutRequest without data) and `value` in pieces of at most 1 MiB. reply: PutReply. */
struct rpc_call *peer_put(struct peer *p, const ProtobufCMessage *head, struct blob *value, int64_t deadline_ns,
                          peer_reply_fn done, void *arg);

#endif
