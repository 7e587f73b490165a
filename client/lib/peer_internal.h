/* peer_internal.h - what peer.c and peer_stream.c share. */
#ifndef FB_CLIENT_PEER_INTERNAL_H
#define FB_CLIENT_PEER_INTERNAL_H

#include <stdatomic.h>

#include "client/lib/breaker.h"
#include "client/lib/peer.h"

struct rpc_channel *peer_channel(struct peer *p);

/* Asks the breaker and counts the call. False: `text` says why not. */
bool peer_admit(struct peer *p, bool ignore_breaker, char *text, size_t cap);
/* Tells the breaker how an admitted call ended. */
void peer_note(struct peer *p, int code, const char *text, int64_t started_ns, int64_t deadline_ns);

#endif
