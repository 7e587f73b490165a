/* rpc_server.h - the gRPC face of a peer: every method of proto/forebay/v1 and grpc.health.v1 on one port.
 *
 * It translates and bounds, and decides nothing: a handler receives, checks what the service does not, calls the
 * service, and sends what comes back without copying payload. Every call is finished exactly once. */
#ifndef FB_SERVER_NET_RPC_SERVER_H
#define FB_SERVER_NET_RPC_SERVER_H

#include <stdint.h>

#include "common/err.h"
#include "proto/rpc.h"

struct service;
struct face;

struct face_conf {
  const char *listen;    /* host:port, port 0: the kernel picks one */
  struct rpc_loop *loop; /* outlives the face */
  struct rpc_server_limits limits;
  uint32_t default_deadline_ms; /* of calls whose client set none */
};

/* Takes the port; accepts nothing yet. Errors as rpc_server_new's, and -EAGAIN (no thread). */
int face_new(struct face **ret, const struct face_conf *conf, struct err *e);
uint16_t face_port(const struct face *f);
/* Serves `s`, which outlives face_stop. */
int face_start(struct face *f, struct service *s, struct err *e);
/* From now on health says NOT_SERVING, watches of it end, and prestage runs are given up. Calls are still taken. */
void face_drain(struct face *f);
/* Stops accepting; open calls may go on until deadline_ns, then they are cancelled. Blocks until all have ended.
 * Returns how many had to be cancelled. */
unsigned face_stop(struct face *f, int64_t deadline_ns);
/* NULLs it; accepts NULL and a face that was never started. */
void face_free(struct face **f);

#endif
