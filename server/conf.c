/* conf.c - the table of settings made from conf.def, and the checks between settings.
 *
 * A range belongs into the row. Here is what needs two settings, or the machine: this peer must be in its own member
 * list at its own port, the list must make a ring, and memory limits must fit into each other. */
#include "server/conf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "server/tier/tier.h"

static const char *const LOG_LEVELS[] = {"error", "warn", "info", "debug", NULL};
static const char *const LOG_FORMATS[] = {"logfmt", "json", NULL};
_Static_assert(LOG_ERROR == 0 && LOG_WARN == 1 && LOG_INFO == 2 && LOG_DEBUG == 3, "LOG_LEVELS follows enum log_level");
_Static_assert(LOG_LOGFMT == 0 && LOG_JSON == 1, "LOG_FORMATS follows enum log_format");

static const struct conf_row MEMBER_ROWS[] = {
    {.key = "name",
     .type = CONF_STRING,
     .offset = offsetof(struct server_conf_member, name),
     .min = 1,
     .max = NAME_PEER_MAX,
     .help = "Name of the peer: letters, digits, '.', '_' and '-'; its identity in the ring."},
    {.key = "address",
     .type = CONF_STRING,
     .offset = offsetof(struct server_conf_member, address),
     .min = 3,
     .max = NAME_HOST_MAX + 8,
     .help = "Where the other peers and clients reach it, host:port."},
    {.key = "weight",
     .type = CONF_UINT,
     .offset = offsetof(struct server_conf_member, weight),
     .dflt = "100",
     .min = 1,
     .max = RING_WEIGHT_MAX,
     .help = "Capacity in proportion to the others'."},
    {.key = "domain",
     .type = CONF_STRING,
     .offset = offsetof(struct server_conf_member, domain),
     .dflt = "",
     .min = 0,
     .max = 63,
     .help = "Failure domain (a rack, a power feed): owners of a key are in different ones; empty means its own."},
    {.key = NULL},
};

#define EXTRA_STRING(x)
#define EXTRA_BOOL(x)
#define EXTRA_UINT(x)
#define EXTRA_BYTES(x)
#define EXTRA_STRINGS(x)
#define EXTRA_ENUM(x) .choices = x,
#define EXTRA_RECORDS(x) .fields = x, .record_size = sizeof(struct server_conf_member),

const struct conf_row server_conf_rows[] = {
#define X(type_, member_, key_, dflt_, min_, max_, extra_, reload_, help_)                                             \
  {.key = (key_),                                                                                                      \
   .type = CONF_##type_,                                                                                               \
   .offset = offsetof(struct server_conf, member_),                                                                    \
   .dflt = (dflt_),                                                                                                    \
   .min = (min_),                                                                                                      \
   .max = (max_),                                                                                                      \
   EXTRA_##type_(extra_).reload = (reload_),                                                                           \
   .help = (help_)},
#include "server/conf.def"
#undef X
    {.key = NULL},
};

static const char *source(const char *file) { return file ? file : "defaults and --set"; }

int server_conf_name(const struct server_conf *c, char ret[NAME_PEER_MAX + 1], struct err *e) {
  char host[HOST_NAME_MAX + 1] = "";
  const char *name = c->peer_name;
  struct err why;

  if (!name || !*name) {
    gethostname(host, sizeof host - 1);
    name = host;
  }
  if (name_check_peer(name, &why) < 0)
    return err_set(e, -FB_EBADCONF, "peer.name: %s%s", why.text,
                   name == host ? " (that is the host's name, since peer.name is empty)" : "");
  memcpy(ret, name, strlen(name) + 1);
  return 0;
}

int server_conf_members(const struct server_conf *c, const char *name, const char *address, struct ring_member **ret,
                        unsigned *ret_n, struct err *e) {
  const struct server_conf_member *v = c->cluster_members.v;
  unsigned n = c->cluster_members.n;
  struct ring_member *m = calloc(n ? n : 1, sizeof *m);

  if (!m)
    return err_set(e, -ENOMEM, "out of memory for the member list");
  for (unsigned i = 0; i < n; i++)
    m[i] = (struct ring_member){
        .name = v[i].name, .address = v[i].address, .weight = (uint32_t)v[i].weight, .domain = v[i].domain};
  if (n == 0)
    m[n++] = (struct ring_member){.name = name, .address = address, .weight = 100};
  *ret = m;
  *ret_n = n;
  return 0;
}

/* This peer as the list has it, at the port it listens on. */
static int check_self(const struct server_conf *c, const char *name, uint16_t listen_port, struct err *e) {
  const struct server_conf_member *v = c->cluster_members.v;
  char host[NAME_HOST_MAX + 1];
  uint16_t port;

  for (unsigned i = 0; i < c->cluster_members.n; i++) {
    struct err why;
    if (!v[i].name || !v[i].address)
      return err_set(e, -FB_EBADCONF, "cluster.members: record %u lacks name or address", i + 1);
    if (name_parse_hostport(v[i].address, false, host, &port, &why) < 0)
      return err_set(e, -FB_EBADCONF, "cluster.members: address of %s: %s", v[i].name, why.text);
  }
  for (unsigned i = 0; i < c->cluster_members.n; i++) {
    if (strcmp(v[i].name, name) != 0)
      continue;
    name_parse_hostport(v[i].address, false, host, &port, NULL);
    if (port == listen_port)
      return 0;
    return err_set(
        e, -FB_EBADCONF,
        "cluster.members: %s has port %u in its address %s and peer.listen has %u; accepted: the same port in "
        "both (the host may differ, as with 0.0.0.0)",
        name, port, v[i].address, listen_port);
  }
  return err_set(e, -FB_EBADCONF,
                 "peer.name: '%s' is not in cluster.members; accepted: the name of one of its %u records%s", name,
                 c->cluster_members.n, c->peer_name && *c->peer_name ? "" : " (empty means the host's name)");
}

static int check_ring(const struct server_conf *c, struct err *e) {
  struct ring_member *members;
  struct ring *ring;
  unsigned n;
  int r = server_conf_members(c, NULL, NULL, &members, &n, e);

  if (r < 0)
    return r;
  r = ring_new(&ring, members, n, (uint32_t)c->cluster_slots, 1, e);
  free(members);
  if (r < 0)
    return err_prefix(e, "cluster.members");
  ring_unref(&ring);
  return 0;
}

static int check(const struct server_conf *c, struct err *e) {
  char name[NAME_PEER_MAX + 1], host[NAME_HOST_MAX + 1];
  struct err why;
  uint16_t port;

  int r = server_conf_name(c, name, e);
  if (r < 0)
    return r;
  if (name_parse_hostport(c->peer_listen, true, host, &port, &why) < 0)
    return err_set(e, -FB_EBADCONF, "peer.listen: %s", why.text);
  if (c->cluster_slots & (c->cluster_slots - 1))
    return err_set(e, -FB_EBADCONF, "cluster.slots: %llu is not a power of two; accepted: 1024, 2048, ... 1048576",
                   (unsigned long long)c->cluster_slots);
  if (c->cluster_members.n) {
    r = check_self(c, name, port, e);
    if (r == 0)
      r = check_ring(c, e);
    if (r < 0)
      return r;
  }
  for (unsigned i = 0; i < c->origin_roots.n; i++)
    if (c->origin_roots.v[i][0] != '/')
      return err_set(e, -FB_EBADCONF, "origin.roots: '%s' is not absolute; accepted: directories that begin with /",
                     c->origin_roots.v[i]);
  if (c->put_max_inflight_bytes < c->put_max_value_bytes)
    return err_set(e, -FB_EBADCONF,
                   "put.max_inflight_bytes: %llu is less than put.max_value_bytes (%llu), so the largest value could "
                   "never arrive; accepted: at least that",
                   (unsigned long long)c->put_max_inflight_bytes, (unsigned long long)c->put_max_value_bytes);
  return 0;
}

int server_conf_check(const struct server_conf *c, const char *file, struct err *e) {
  int r = check(c, e);

  return r < 0 ? err_prefix(e, "%s", source(file)) : 0;
}

int server_conf_load(struct server_conf *ret, const char *file, char *const *sets, unsigned n_sets, struct err *e) {
  struct server_conf c = {0};
  int r = conf_defaults(server_conf_rows, &c);

  if (r < 0)
    err_set(e, r, "out of memory for the configuration");
  if (r == 0 && file)
    r = conf_load(server_conf_rows, &c, file, e);
  for (unsigned i = 0; r == 0 && i < n_sets; i++)
    r = conf_set(server_conf_rows, &c, sets[i], e);
  if (r == 0)
    r = server_conf_check(&c, file, e);
  if (r < 0) {
    server_conf_fini(&c);
    return r;
  }
  *ret = c;
  return 0;
}

void server_conf_fini(struct server_conf *c) { conf_fini(server_conf_rows, c); }

/* gRPC holds one descriptor per connection and our acceptor watches it through a second; the rest is for calls to other
 * peers, epoll and event descriptors, state files, and directories of the origin. */
#define DESCRIPTORS_RESERVED 512u

uint64_t server_conf_descriptors(const struct server_conf *c) {
  return 2 * c->rpc_max_connections + c->origin_open_files + 2 * (uint64_t)c->cluster_members.n + DESCRIPTORS_RESERVED;
}

/* Only plain values can be taken over by assignment; a reloadable string would need its memory moved. */
#define PLAIN_STRING 0
#define PLAIN_BOOL 1
#define PLAIN_UINT 1
#define PLAIN_BYTES 1
#define PLAIN_ENUM 1
#define PLAIN_STRINGS 0
#define PLAIN_RECORDS 0
#define X(type, member, key, dflt, min, max, extra, reload, help)                                                      \
  _Static_assert(!(reload) || PLAIN_##type, key " cannot be reloadable");
#include "server/conf.def"
#undef X

void server_conf_apply(struct server_conf *c, const struct server_conf *next,
                       void (*changed)(const char *key, bool reloadable, void *arg), void *arg) {
  conf_diff(server_conf_rows, c, next, changed, arg);
#define TAKE_0(member)
#define TAKE_1(member) c->member = next->member;
#define X(type, member, key, dflt, min, max, extra, reload, help) TAKE_##reload(member)
#include "server/conf.def"
#undef X
}
