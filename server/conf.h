/* conf.h - the settings of forebayd: conf.def as a struct, and what the rows cannot check one by one. */
#ifndef FB_SERVER_CONF_H
#define FB_SERVER_CONF_H

#include <limits.h>

#include "common/conf.h"
#include "common/err.h"
#include "common/names.h"
#include "common/ring.h"

/* A record of cluster.members. */
struct server_conf_member {
  char *name, *address;
  uint64_t weight;
  char *domain;
};

#define SERVER_CONF_STRING char *
#define SERVER_CONF_BOOL bool
#define SERVER_CONF_UINT uint64_t
#define SERVER_CONF_BYTES uint64_t
#define SERVER_CONF_ENUM unsigned
#define SERVER_CONF_STRINGS struct conf_strings
#define SERVER_CONF_RECORDS struct conf_records
struct server_conf {
#define X(type, member, ...) SERVER_CONF_##type member;
#include "server/conf.def"
#undef X
};

extern const struct conf_row server_conf_rows[];

/* Defaults, then `file` (NULL: none), then the assignments in order, then server_conf_check. Errors as conf_load's and
 * server_conf_check's; on failure there is nothing to free. */
int server_conf_load(struct server_conf *ret, const char *file, char *const *sets, unsigned n_sets, struct err *e);
void server_conf_fini(struct server_conf *c);

/* What holds between settings, and what a range cannot say. The text names file (or "defaults and --set") and key:
 *   -FB_EBADCONF, or the ring's own -FB_EPEERSEMPTY, -FB_EPEERSDUP */
int server_conf_check(const struct server_conf *c, const char *file, struct err *e);

/* peer.name, or the host's name when that is empty. 0, or -FB_EBADCONF when the host's name is no peer name. */
int server_conf_name(const struct server_conf *c, char ret[NAME_PEER_MAX + 1], struct err *e);

/* The member list as the ring wants it, pointing into `c`; without cluster.members this peer alone, at `name` and
 * `address` (borrowed). *ret is malloc'd. */
int server_conf_members(const struct server_conf *c, const char *name, const char *address, struct ring_member **ret,
                        unsigned *ret_n, struct err *e);

/* Descriptors that this configuration may need at a time. */
uint64_t server_conf_descriptors(const struct server_conf *c);

/* Takes over the reloadable values of `next`. changed(key, reloadable, arg) is called for every row that differs. */
void server_conf_apply(struct server_conf *c, const struct server_conf *next,
                       void (*changed)(const char *key, bool reloadable, void *arg), void *arg);

#endif
