/* rpc.h - calls and streams over gRPC's C core, for both sides; the files rpc_*.c are its only users.
 *
 * The idea: everything is asynchronous and every callback runs exactly once, on one of the loop's threads, with none
 * of our locks held. Nothing here blocks but the functions named *_stop and *_free. Messages are blobs: what is sent
 * is not copied, what arrives is handed on as gRPC's own slices. Codes are err.h's (negative), never gRPC's: the
 * mapping (proto/status.h) and the `forebay-code` metadata stay inside.
 *
 * At most one send and one receive may be outstanding per stream. A callback may start the next operation. One
 * exception to "on the loop's threads": what is started on a call after its end (its `done` may be running elsewhere)
 * fails at once, that is, its callback runs before rpc_call_send or rpc_call_recv returns. */
#ifndef FB_PROTO_RPC_H
#define FB_PROTO_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/blob.h"
#include "common/err.h"

/* ---- loops: threads that wait for gRPC ------------------------------------------------------------------------ */

struct rpc_loop;

/* Starts `threads` (1..64) threads, each with a completion queue of its own. 0, -EINVAL, -ENOMEM, -EAGAIN (threads). */
int rpc_loop_new(struct rpc_loop **ret, unsigned threads, const char *thread_name, struct err *e);
/* Waits for every outstanding operation of the loop to complete, then ends its threads. Channels and servers made on
 * it must be freed first. Blocks. NULLs it. */
void rpc_loop_free(struct rpc_loop **l);

/* ---- client side ------------------------------------------------------------------------------------------------ */

struct rpc_channel_limits {
  size_t max_message_bytes;        /* both ways; 0 = 4 MiB + 64 KiB */
  uint32_t connect_backoff_max_ms; /* 0 = 1000 */
  uint32_t keepalive_ms;           /* ping after so long without traffic while calls are open; 0 = off */
};

struct rpc_channel; /* one peer's connection; reconnects by itself; thread-safe */

/* `address` is host:port. Connects lazily; never honours http_proxy. 0, -EINVAL, -ENOMEM. */
int rpc_channel_new(struct rpc_channel **ret, struct rpc_loop *l, const char *address,
                    const struct rpc_channel_limits *limits, struct err *e);
/* Open calls go on to their end and keep what they need. NULLs it. */
void rpc_channel_free(struct rpc_channel **c);

/* One request, one reply. `done` gets code 0 and the reply (borrowed: ref it to keep it), or a negative code, a text
 * and NULL. Takes over the caller's reference to `request`. deadline_ns is monotonic (clock.h); when it passes the code
 * is -ETIMEDOUT; an unreachable peer is FB_EPEERDOWN (negated); a cancelled call -ECANCELED.
 * Returns a handle for rpc_call_cancel that the caller must rpc_call_unref (at any time: the call does not need it), or
 * NULL only when out of memory (then `done` will not run and the request was released). `done` may have run before
 * rpc_unary returns. `text` is valid during the callback, "" on success. */
struct rpc_call;
typedef void (*rpc_unary_fn)(void *arg, int code, const char *text, struct blob *reply);
struct rpc_call *rpc_unary(struct rpc_channel *c, const char *method, struct blob *request, int64_t deadline_ns,
                           rpc_unary_fn done, void *arg);

/* A stream in either or both directions. Send any number of messages, then rpc_call_close_send; receive until NULL;
 * `done` runs last, after all other callbacks, with the call's status. A message over max_message_bytes ends the call
 * with FB_ETOOBIG. rpc_call_close_send may be called while a send is out: it takes effect behind it. */
typedef void (*rpc_done_fn)(void *arg, int code, const char *text);
typedef void (*rpc_sent_fn)(void *arg, bool ok);
typedef void (*rpc_recv_fn)(void *arg, struct blob *message); /* NULL: no more. Borrowed. */
struct rpc_call *rpc_stream_open(struct rpc_channel *c, const char *method, int64_t deadline_ns, rpc_done_fn done,
                                 void *arg);
void rpc_call_send(struct rpc_call *call, struct blob *message, rpc_sent_fn sent,
                   void *arg); /* takes over the reference */
void rpc_call_close_send(struct rpc_call *call);
void rpc_call_recv(struct rpc_call *call, rpc_recv_fn recv, void *arg);

void rpc_call_cancel(struct rpc_call *call); /* idempotent, any thread */
void rpc_call_unref(struct rpc_call **call); /* accepts NULL */

/* ---- server side ------------------------------------------------------------------------------------------------ */

struct rpc_server_limits {
  uint32_t max_connections; /* >= 1; connections over it are closed at once and counted */
  uint32_t max_streams;     /* concurrent calls per connection */
  size_t max_message_bytes; /* both ways; 0 = 4 MiB + 64 KiB */
  size_t receive_bytes;     /* what received and half-received messages may take in all: over it, streams are reset
                             * (FB_EBUSY at the client); 0 = 256 MiB or 4 messages, whichever is more */
  uint32_t max_calls;       /* concurrent calls in all; over it: FB_EBUSY (RESOURCE_EXHAUSTED) */
  uint32_t handshake_ms;    /* a connection that sent no HTTP/2 preface by then is closed; 0 = 10000 */
  uint32_t idle_ms;         /* a connection without calls for so long is closed; 0 = never */
};

struct rpc_server_stats { /* totals since start, but for `connections` and `calls`, which are now */
  uint32_t connections, calls;
  uint64_t accepted, refused_full, refused_preface, refused_calls, accept_errors;
};

struct rpc_server;
struct rpc_session; /* one call as the server sees it */

/* What answers a method. Runs on a loop thread when the call arrives; must not block. `arg` is the table row's. */
typedef void (*rpc_handler_fn)(struct rpc_session *s, void *arg);
struct rpc_method {
  const char *path; /* "/forebay.v1.Cache/Get" */
  rpc_handler_fn start;
  void *arg;
};

/* Listens on host:port (port 0: the kernel picks one, see rpc_server_port). We accept ourselves and hand the sockets to
 * gRPC: libgrpc 1.51 has no connection cap and stops accepting for ever after EMFILE. `methods` ends with a NULL path
 * and must outlive the server; another path is answered -ENOSYS (UNIMPLEMENTED). Does not accept until
 * rpc_server_start. Errors: -EADDRINUSE, -EADDRNOTAVAIL, -EACCES (port below 1024), -EINVAL (address, limits), -EMFILE,
 * -ENOMEM. */
int rpc_server_new(struct rpc_server **ret, struct rpc_loop *l, const char *address,
                   const struct rpc_server_limits *limits, const struct rpc_method *methods, struct err *e);
int rpc_server_start(struct rpc_server *s, struct err *e);
uint16_t rpc_server_port(const struct rpc_server *s);
void rpc_server_stats(const struct rpc_server *s, struct rpc_server_stats *ret);
/* Stops accepting, lets open calls finish until deadline_ns, then cancels what is left. Blocks until all are gone.
 * Returns the number of calls that had to be cancelled. */
unsigned rpc_server_stop(struct rpc_server *s, int64_t deadline_ns);
void rpc_server_free(struct rpc_server **s);

/* A session lives until rpc_finish has run to its end; the handler owns it until it calls rpc_finish, exactly once.
 * rpc_recv: NULL message = the client has sent all (or is gone). A unary handler receives once, then finishes. A
 * receive that is out when the session is finished still gets its callback, with the session valid during it. */
typedef void (*rpc_session_recv_fn)(struct rpc_session *s, struct blob *message, void *arg); /* message borrowed */
typedef void (*rpc_session_sent_fn)(struct rpc_session *s, bool ok, void *arg);
void rpc_recv(struct rpc_session *s, rpc_session_recv_fn recv, void *arg);
void rpc_send(struct rpc_session *s, struct blob *message, rpc_session_sent_fn sent,
              void *arg); /* takes over the reference */
/* Ends the call: the last (or only) message if any (reference taken over), then the status. code 0 or negative (err.h);
 * text may be NULL (the code's description is sent then). No send may be outstanding. A message over max_message_bytes
 * becomes FB_ETOOBIG. Waits for a `cancelled` (below) that is just running on another thread, so that what its `arg`
 * points to may be freed afterwards: call it without locks that `cancelled` takes. */
void rpc_finish(struct rpc_session *s, struct blob *message, int code, const char *text);
/* Monotonic deadline of the call; DEADLINE_NONE when the client set none. */
int64_t rpc_deadline_ns(const struct rpc_session *s);
bool rpc_cancelled(const struct rpc_session *s);
/* `cancelled` runs at most once, if the client goes away before rpc_finish (at once if it has gone already). It may run
 * beside other callbacks of the session; the session stays valid during it. It must not call rpc_finish: set a flag or
 * cancel inner work, whose completion then finishes the session as usual. */
void rpc_on_cancel(struct rpc_session *s, void (*cancelled)(struct rpc_session *s, void *arg), void *arg);
/* Text form of the other end, e.g. "127.0.0.1:4711"; valid while the session is. */
const char *rpc_peer(const struct rpc_session *s);

#endif
