/* daemon.h - one peer, put together from its rooms and taken apart again. main.c gives it a configuration and signals.
 */
#ifndef FB_SERVER_DAEMON_H
#define FB_SERVER_DAEMON_H

#include <stdint.h>

#include "common/err.h"
#include "server/conf.h"

struct daemon;

/* Locks the state directory, raises the limit of descriptors, takes the port, starts everything and serves. `conf` is
 * read during the call only. On failure everything is undone. */
int daemon_start(struct daemon **ret, const struct server_conf *conf, struct err *e);
uint16_t daemon_port(const struct daemon *d);
/* Applies the reloadable values of `conf`, which has been checked. -errno of the RAM tier's resize (the rest is applied
 * all the same). */
int daemon_reload(struct daemon *d, const struct server_conf *conf, struct err *e);
/* Drains: health NOT_SERVING, no new connections, calls in flight get until deadline_ns and are then cancelled, and
 * background work ends. Blocks. Returns how many calls were cancelled. */
unsigned daemon_stop(struct daemon *d, int64_t deadline_ns);
/* NULLs it; accepts NULL. Stops first if that has not been done. */
void daemon_free(struct daemon **d);

#endif
