/* service.h - the operations of a peer, free of any wire format: what net/ carries and tests call directly.
 *
 * Every operation is asynchronous: its `done` runs exactly once, with no lock held, either from within the call or on
 * some thread of the service (pool worker, RPC loop, ticker); it must not block. Strings and structs given to an
 * operation need to live only until the call returns; what `done` gets lives only until it returns (ref blobs to keep
 * them). Codes are err.h's; a failure always comes with a text that names namespace and key.
 *
 * The rooms behind this header: core.c (the service itself), catalog*.c (which namespaces there are), attr.c (what a
 * key is now), flight.c (one fetch however many want it), block.c (one block: hit or fill), peers.c (whom to ask),
 * get*.c, stat.c, put.c, list.c, invalidate.c, warm.c, prestage*.c, ns*.c, cluster.c. internal.h is what they share. */
#ifndef FB_SERVICE_SERVICE_H
#define FB_SERVICE_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/lib/keys.h" /* the limits that requests are held to */
#include "common/blob.h"
#include "common/err.h"
#include "proto/rpc.h"
#include "server/member/member.h"
#include "server/tier/tier.h"

struct service;

/* What a service is made of. Pointers are borrowed and outlive the service; strings are copied. */
struct service_conf {
  const char *self;      /* our name in the member list */
  const char *state_dir; /* catalog and spool files; exists */
  struct member *member;
  struct tier *tier;
  struct rpc_loop *loop; /* for calls to other peers */
  char *const *origin_roots;
  unsigned n_origin_roots;
  uint32_t origin_threads;     /* concurrent origin reads, 1..256 */
  uint32_t origin_queue;       /* fills that may wait for a thread; more are refused with FB_EBUSY */
  uint32_t origin_open_files;  /* over all namespaces */
  uint32_t error_ttl_ms;       /* 0..1000: how long an origin's error may be repeated */
  uint32_t attr_entries;       /* attributes kept */
  uint64_t uncached_max_bytes; /* memory for blocks served while the tier has no room */
  uint64_t put_max_value_bytes;
  uint64_t put_max_inflight_bytes;
  uint32_t peer_timeout_ms;   /* one attempt at another peer */
  uint32_t prestage_parallel; /* chunks in flight per peer and run, 1..64 */
  uint32_t prestage_runs;     /* runs at a time, 1..64 */
  uint32_t catalog_sync_ms;   /* between pulls from another peer */
};

int service_new(struct service **ret, const struct service_conf *conf, struct err *e);
/* Loads the catalog, starts the threads, pulls the others' catalogs in the background. */
int service_start(struct service *s, struct err *e);
/* Stops prestage runs and background work, waits for fills in flight. Call after the RPC server has stopped. Blocks at
 * most until deadline_ns. False: an origin still has not answered a worker; service_free would wait for it. */
bool service_stop(struct service *s, int64_t deadline_ns);
void service_free(struct service **s);
/* SIGHUP: values that may change while running; others in conf are ignored. */
void service_reload(struct service *s, const struct service_conf *conf);
/* From now on this peer says that it is draining. At deadline_ns whoever still waits for the origin gets -ETIMEDOUT. */
void service_drain(struct service *s, int64_t deadline_ns);

/* How a caller addressed the request (common.proto, Route). Zeroed = "anybody, please". */
struct route {
  uint64_t ring_hash;
  uint64_t ns_id;
  bool local;
  bool resident_only;
};

enum { SOURCE_UNKNOWN, SOURCE_RAM, SOURCE_ORIGIN, SOURCE_NVME }; /* = proto Source */

struct object_info {
  uint64_t size;
  int64_t mtime_ns;
  uint64_t etag;
  bool directory;
};

/* ---- get ---- */
struct get_req {
  const char *ns, *key;
  uint64_t offset;
  uint32_t length; /* <= GET_MAX_BYTES, else -FB_ETOOBIG */
  uint64_t etag;
  struct route route;
  int64_t deadline_ns;
};
struct get_reply {
  struct object_info info;
  int source;
  const char *peer;
  uint32_t crc;      /* of data */
  struct blob *data; /* never NULL; may be empty */
};
typedef void (*get_done_fn)(void *arg, int code, const char *text, const struct get_reply *r);
void service_get(struct service *s, const struct get_req *q, get_done_fn done, void *arg);

/* ---- stat ---- */
struct stat_req {
  const char *ns, *key;
  bool fresh;
  struct route route;
  int64_t deadline_ns;
};
typedef void (*stat_done_fn)(void *arg, int code, const char *text, const struct object_info *info, const char *peer);
void service_stat(struct service *s, const struct stat_req *q, stat_done_fn done, void *arg);

/* ---- put ---- The caller has collected the value; admission of its bytes comes first:
 * service_put_admit checks namespace, key and size and reserves `size` of put_max_inflight_bytes (0, or a code with
 * text: -FB_ETOOBIG, -FB_EBUSY, -FB_ENONS...); service_put_release gives it back. */
int service_put_admit(struct service *s, const char *ns, const char *key, uint64_t size, struct err *e);
void service_put_release(struct service *s, uint64_t size);
struct put_req {
  const char *ns, *key;
  struct blob *value;
  uint32_t crc; /* of value; checked: -FB_ECRC */
  bool overwrite;
  struct route route;
  int64_t deadline_ns;
};
typedef void (*put_done_fn)(void *arg, int code, const char *text, const struct object_info *info, int acked,
                            const char *peer);
void service_put(struct service *s, const struct put_req *q, put_done_fn done, void *arg);

/* ---- list ---- Pages of at most LIST_PAGE entries. `page` runs on a scan thread, one at a time; after it the
 * operation waits until service_list_next is called (true: go on, false: stop). done runs last. */
#define LIST_PAGE 1000u
struct list_entry {
  const char *key;
  struct object_info info;
};
struct list_req {
  const char *ns, *prefix;
  bool recursive;
  uint64_t limit; /* 0 = none */
  struct route route;
  int64_t deadline_ns;
};
struct list_op;
typedef void (*list_page_fn)(void *arg, struct list_op *op, const struct list_entry *entries, unsigned n);
typedef void (*op_done_fn)(void *arg, int code, const char *text);
void service_list(struct service *s, const struct list_req *q, list_page_fn page, op_done_fn done, void *arg);
void service_list_next(struct list_op *op, bool go_on);

/* ---- invalidate ---- */
struct invalidate_req {
  const char *ns, *pattern;
  struct route route;
  int64_t deadline_ns;
};
struct name_list { /* names of peers that could not be reached */
  unsigned n;
  const char *const *v;
};
typedef void (*invalidate_done_fn)(void *arg, int code, const char *text, uint64_t blocks, uint64_t bytes,
                                   const struct name_list *unreachable);
void service_invalidate(struct service *s, const struct invalidate_req *q, invalidate_done_fn done, void *arg);

/* ---- warm (peer to peer part of prestage) ---- */
struct warm_item {
  const char *key;
  uint64_t etag, size, chunk;
};
struct warm_result {
  int code; /* 0 or negative */
  char text[160];
  uint64_t resident_bytes, origin_bytes;
};
struct warm_req {
  const char *ns;
  const struct warm_item *items;
  unsigned n; /* 1..256 */
  bool check_only;
  struct route route;
  int64_t deadline_ns;
};
typedef void (*warm_done_fn)(void *arg, int code, const char *text, const struct warm_result *results, unsigned n);
void service_warm(struct service *s, const struct warm_req *q, warm_done_fn done, void *arg);

/* ---- prestage ---- `progress` runs on the run's own thread about four times a second and may block briefly (at most
 * 1 s); it returns false to stop the run. With background it gets one call, then the run goes on by itself. */
struct prestage_failure {
  const char *key;
  int code;
  const char *text;
};
struct prestage_progress {
  uint64_t files_total, bytes_total, files_resident, bytes_resident, bytes_from_origin, files_failed, elapsed_ns;
  bool listed, done;
  const struct prestage_failure *failures; /* new ones since the last call */
  unsigned n_failures;
};
struct prestage_req {
  const char *ns, *pattern;
  uint32_t parallel;
  bool background;
};
typedef bool (*prestage_progress_fn)(void *arg, const struct prestage_progress *p);
void service_prestage(struct service *s, const struct prestage_req *q, prestage_progress_fn progress, op_done_fn done,
                      void *arg);

/* ---- namespaces ---- */
struct ns_record { /* common.proto, Namespace; strings are borrowed */
  const char *name;
  uint64_t id;
  int kind; /* NS_DATASET, NS_DERIVED */
  const char *origin;
  uint32_t block_bytes;
  int ack; /* ACK_* */
  uint32_t attr_ttl_ms;
  const char *version;
  int64_t created_ns;
  uint64_t revision;
  bool dropped;
  uint32_t replicas;
};
enum { NS_DATASET = 1, NS_DERIVED = 2 };
enum { ACK_DEFAULT, ACK_RAM, ACK_NVME, ACK_ORIGIN };
#define NS_MAX 10000u

typedef void (*ns_done_fn)(void *arg, int code, const char *text, const struct ns_record *ns, uint64_t bytes,
                           uint64_t blocks, const struct name_list *unreachable);
void service_ns_create(struct service *s, const struct ns_record *want, const struct route *route, int64_t deadline_ns,
                       ns_done_fn done, void *arg);
/* bytes, blocks: resident over the peers that answered (route->local: here). */
void service_ns_show(struct service *s, const char *name, const struct route *route, int64_t deadline_ns,
                     ns_done_fn done, void *arg);
/* bytes: freed. */
void service_ns_drop(struct service *s, const char *name, const struct route *route, int64_t deadline_ns,
                     ns_done_fn done, void *arg);
/* Records by name; tombstones only when asked for. */
typedef void (*ns_list_fn)(void *arg, const struct ns_record *records, unsigned n);
int service_ns_list(struct service *s, bool tombstones, ns_list_fn each_all, void *arg); /* -ENOMEM: not called */
/* Takes newer records; then calls each_all with what the caller lacks. Returns the bytes that tombstones freed. */
int service_ns_sync(struct service *s, const struct ns_record *records, unsigned n, uint64_t ring_hash,
                    uint64_t *ret_freed, ns_list_fn each_all, void *arg, struct err *e);

/* ---- cluster ---- */
struct ring *service_ring(struct service *s); /* reference */
const char *service_self(struct service *s);
struct locate_reply {
  uint32_t slot;
  unsigned n;
  const char *owners[8];
};
typedef void (*locate_done_fn)(void *arg, int code, const char *text, const struct locate_reply *r);
void service_locate(struct service *s, const char *ns, const char *key, uint64_t offset, int64_t deadline_ns,
                    locate_done_fn done, void *arg);
struct service_counter {
  const char *name;
  uint64_t value;
};
struct service_peer {
  const char *name;
  bool reachable;
  char text[128];
};
struct service_stats {
  uint64_t uptime_ns, ram_used_bytes, ram_max_bytes;
  bool draining;
  unsigned n_counters;
  const struct service_counter *counters; /* rows of metrics.def */
  unsigned n_peers;
  const struct service_peer *peers; /* the others */
};
void service_stats(struct service *s, void (*with)(void *arg, const struct service_stats *st), void *arg);

#endif
