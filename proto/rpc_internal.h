/* rpc_internal.h - what the files of rpc.h share: tags, loops, messages, addresses, and the acceptor.
 *
 * gRPC's completion queues give back the pointer that an operation was started with. Ours is always a `struct rpc_tag`
 * inside the object the operation belongs to; its function finds the object with container_of. libgrpc is not built
 * with thread checking, so the hand-over of a tag through it is spelled out for TSan in rpc_batch and the loop.
 *
 * Locks: loop.mtx (holds), call.mtx, session.mtx (cancelling), server.mtx (sessions, stopping), listener.mtx (who is
 * inside) are leaves: none is taken while another is held, and none is held over a call into gRPC or a callback. */
#ifndef FB_PROTO_RPC_INTERNAL_H
#define FB_PROTO_RPC_INTERNAL_H

#include <grpc/grpc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/blob.h"
#include "common/err.h"
#include "proto/rpc.h"

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#if defined(__SANITIZE_THREAD__)
#define RPC_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RPC_TSAN 1
#endif
#endif
#ifdef RPC_TSAN
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define rpc_hand_over(p) __tsan_release(p)
#define rpc_take_over(p) __tsan_acquire(p)
#else
#define rpc_hand_over(p) ((void)(p))
#define rpc_take_over(p) ((void)(p))
#endif

#define RPC_MESSAGE_BYTES_DEFAULT ((size_t)(4 << 20) + (64 << 10))
#define RPC_MESSAGE_BYTES_MAX ((size_t)1 << 30) /* gRPC counts lengths in int and a message's header in 32 bits */
#define RPC_TEXT_MAX 1024                       /* bytes of a status text that we send or keep */
#define RPC_CODE_KEY "forebay-code"

/* ---- rpc_loop.c ---- */

struct rpc_tag {
  void (*fn)(struct rpc_tag *t, bool ok); /* runs once on the loop's thread; `ok` is gRPC's success flag */
};

/* Starts `n` operations on `call` that complete with `t`. False if gRPC refuses them: then `t` will not run. An empty
 * batch completes at once, which is how we post to a loop thread. */
bool rpc_batch(grpc_call *call, const grpc_op *ops, size_t n, struct rpc_tag *t);

unsigned rpc_loop_queues(const struct rpc_loop *l);
grpc_completion_queue *rpc_loop_queue(const struct rpc_loop *l, unsigned i);
/* The queue for the next call: round robin. */
grpc_completion_queue *rpc_loop_pick(struct rpc_loop *l);
/* rpc_loop_free waits until every hold is released. Whoever may start an operation holds. */
void rpc_loop_hold(struct rpc_loop *l);
void rpc_loop_release(struct rpc_loop *l);

/* ---- rpc_msg.c ---- */

/* A gRPC message over the blob's own memory; takes over the reference, which lives until gRPC has sent it. */
grpc_byte_buffer *rpc_msg_out(struct blob *b);
/* A blob over what gRPC received; takes over `bb`. NULL when out of memory (then `bb` was destroyed). */
struct blob *rpc_msg_in(grpc_byte_buffer *bb);

/* ---- rpc_client.c ---- */

/* Our code for how a call ended: 0, from forebay-code if it is there and sane, else from the status and its text. */
int rpc_code_of(grpc_status_code status, const grpc_metadata_array *trailing, const char *text);

/* ---- rpc_listen.c: knows sockets, not gRPC ---- */

/* Splits "host:port" or "[v6]:port". 0 or -EINVAL. */
int rpc_split_address(const char *address, char *ret_host, size_t cap, uint16_t *ret_port, struct err *e);

struct rpc_listener;

/* A connection that has sent the HTTP/2 preface; the callee owns `fd`, which is non-blocking. On the acceptor's thread.
 */
typedef void (*rpc_ready_fn)(void *arg, int fd);

/* Binds and listens. Errors as rpc_server_new. */
int rpc_listener_new(struct rpc_listener **ret, const char *address, uint32_t max_connections, uint32_t handshake_ms,
                     rpc_ready_fn ready, void *arg, struct err *e);
int rpc_listener_start(struct rpc_listener *l, struct err *e);
uint16_t rpc_listener_port(const struct rpc_listener *l);
void rpc_listener_stats(struct rpc_listener *l, struct rpc_server_stats *ret); /* fills its own fields */
/* Text of the connection whose descriptor was handed out as `fd`; "unknown" if it is gone. Any thread. */
void rpc_listener_peer(struct rpc_listener *l, int fd, char *buf, size_t cap);
/* Stops accepting, closes the port and what has not been handed out, and goes on watching what has. Idempotent. */
void rpc_listener_close(struct rpc_listener *l);
/* Ends the thread. */
void rpc_listener_free(struct rpc_listener **l);

#endif
