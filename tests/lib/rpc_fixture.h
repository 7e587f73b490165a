/* rpc_fixture.h - a real server and a real client in one process, for tests of proto/rpc.h.
 *
 * The server's methods:
 *   /t/Echo   unary: the request comes back          /t/Count  server stream: request "N", N messages "0".."N-1"
 *   /t/Fail   unary: request "CODE TEXT", fails so   /t/Sum    client stream: answers "MESSAGES BYTES"
 *   /t/Chat   bidi: every message comes back          /t/Hang   answers when rig_release is called; counts cancels
 *   /t/Big    unary: request "N", answers N bytes     /t/Deny   client stream: fails with EINVAL at the first message
 *   /t/Keep   as Hang, and keeps the request's bytes until then */
#ifndef FB_TESTS_LIB_RPC_FIXTURE_H
#define FB_TESTS_LIB_RPC_FIXTURE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/rpc.h"

struct rig {
  struct rpc_loop *loop;
  struct rpc_server *server;
  struct rpc_channel *channel;
  char address[64];
  pthread_mutex_t mtx;
  pthread_cond_t changed;
  /* under mtx */
  struct rpc_session *hung[256];
  struct blob *kept[256]; /* of the session at the same place; NULL if none */
  unsigned n_hung, cancels, started;
  int64_t deadline_seen_ns;
  char peer_seen[64];
};

struct rpc_server_limits rig_limits(void);
/* Everything up on 127.0.0.1. Aborts when it cannot. */
void rig_up(struct rig *r, const struct rpc_server_limits *limits);
/* Everything up on "HOST:PORT" (a bracketed IPv6 address, a name, port 0). rpc_server_new's code if it fails. */
int rig_up_at(struct rig *r, const char *address, const struct rpc_server_limits *limits);
/* The server alone: after a rpc_server_free, another one at r->address. */
int rig_serve(struct rig *r, const char *address, const struct rpc_server_limits *limits);
void rig_down(struct rig *r);
/* Answers every call that hangs; returns how many. */
unsigned rig_release(struct rig *r);
bool rig_wait_hung(struct rig *r, unsigned n);
bool rig_wait_cancels(struct rig *r, unsigned n);
/* Waits until the server counts `n` connections. */
bool rig_wait_connections(struct rig *r, uint32_t n);
struct rpc_server_stats rig_stats(struct rig *r);

/* One result, waited for. */
struct answer {
  pthread_mutex_t mtx;
  pthread_cond_t changed;
  bool done;
  int code;
  char text[1100];
  struct blob *reply;
};
void answer_init(struct answer *a);
void answer_set(void *a, int code, const char *text, struct blob *reply); /* an rpc_unary_fn */
void answer_set_done(void *a, int code, const char *text);                /* an rpc_done_fn */
void answer_wait(struct answer *a);
bool answer_done(struct answer *a);
void answer_fini(struct answer *a);

/* Calls and waits; fills *a, which the caller finishes. Takes over the request. */
void call_wait(struct rpc_channel *c, const char *method, struct blob *request, int64_t deadline_ns, struct answer *a);

struct blob *blob_text(const char *s);
bool blob_equals(const struct blob *a, const void *data, size_t len);

/* A bare TCP connection to 127.0.0.1, blocking. */
int dial(uint16_t port);
/* True when the other end has closed within timeout_ms (end of stream or reset). */
bool closed_within(int fd, int timeout_ms);

#endif
