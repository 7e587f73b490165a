/* internal.h - what the files of service/ share: the service itself, references to namespaces, and the two primitives
 * that everything is made of: "what is this key now" (attr) and "bytes of this block" (block).
 *
 * Lock order (docs/locks.md): catalog.mtx, then any of the leaf locks (flight shards, attr shards, tier shards, pool,
 * peer). No callback runs with a lock held. */
#ifndef FB_SERVICE_INTERNAL_H
#define FB_SERVICE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "client/lib/keys.h"
#include "client/lib/peer.h"
#include "common/clock.h"
#include "common/pool.h"
#include "common/ring.h"
#include "server/origin/origin.h"
#include "server/service/service.h"

/* ---- metrics ---- */
enum metric {
#define X(name, unit, help) M_##name,
#include "server/service/metrics.def"
#undef X
  M_COUNT
};

/* ---- namespaces (catalog.c) ---- */

/* One namespace as the operations see it. Immutable after it was made, but for the lazily opened origin. */
struct ns {
  atomic_uint refs;   /* catalog (until dropped or replaced) and operations in flight */
  struct ns_record r; /* strings in `store` */
  char *store;
  pthread_mutex_t origin_mtx;
  struct origin *origin; /* under origin_mtx; opened by the first that needs it, never changes then */
};
struct ns *ns_ref(struct ns *n);
void ns_unref(struct ns **n);
/* True when bytes come from an origin: datasets, and derived data with ack=origin. */
static inline bool ns_has_origin(const struct ns *n) { return n->r.origin[0] != '\0'; }
/* Derived values are placed whole, with chunk 0. */
static inline bool ns_whole(const struct ns *n) { return n->r.kind == NS_DERIVED; }
/* Path of a key below the origin: derived data of a version lies in a directory of that name. Returns buf or key. */
static inline const char *ns_path(const struct ns *n, const char *key, char buf[HASH_VERSION_MAX + HASH_KEY_MAX + 2]) {
  if (n->r.kind != NS_DERIVED || !n->r.version[0])
    return key;
  snprintf(buf, HASH_VERSION_MAX + HASH_KEY_MAX + 2, "%s/%s", n->r.version, key);
  return buf;
}
/* Opens the namespace's origin if need be. Blocks: pool threads only. The origin lives as long as the reference. */
int ns_origin(struct service *s, struct ns *n, struct origin **ret, struct err *e);

/* A failure's text with the name of what it happened to (key NULL: a namespace), unless it has that already, as one
 * that came from another peer does. Returns `code`. */
int fail_object(struct err *e, int code, const char *ns, const char *key, const char *text);

struct catalog; /* catalog.c: name -> record, tombstones too, saved in state_dir */
int catalog_new(struct catalog **ret, struct service *s, const char *state_dir, struct err *e);
void catalog_free(struct catalog **c);
int catalog_load(struct catalog *c, struct err *e);
/* A reference to the live namespace, or NULL. */
struct ns *catalog_find(struct catalog *c, const char *name);
/* Takes each record that is newer (revision, then id) than what is there; it is saved soon. A namespace that a
 * tombstone or another id replaces loses its blocks: freed bytes are added to *freed (may be NULL). A record that is
 * refused does not keep the others out: the first refusal's code is returned in the end. */
int catalog_apply(struct catalog *c, const struct ns_record *records, unsigned n, uint64_t *freed, struct err *e);
/* False once the namespace was dropped or made anew: nothing may be kept under its id any more. Whoever puts a block
 * into the tier asks after the commit, and takes it out again: the drop has passed by then. */
bool catalog_lives(struct catalog *c, const struct ns *n);
/* The ticker's part: has what other peers told saved, by save_pool. */
void catalog_tend(struct catalog *c, int64_t now_ns);
bool catalog_saving(struct catalog *c);
/* Calls f with a snapshot of all records; -ENOMEM: not called. */
int catalog_all(struct catalog *c, bool tombstones, ns_list_fn f, void *arg);

/* 0, or -FB_ERING with both hashes when `theirs` is not 0 and not our ring's. */
int ring_check(struct service *s, uint64_t theirs, struct err *e);
/* Finds a namespace, asking the other peers' catalogs (at most once a second) before it says -FB_ENONS. Also checks
 * route->ns_id and route->ring_hash. `found` gets a reference to keep. May run at once.
 *
 * An operation lets go of its namespace before it answers: the answer may be the last that the service waits for, and
 * the namespace's origin counts its files in the service. */
typedef void (*ns_found_fn)(void *arg, int code, const char *text, struct ns *ns);
void ns_find(struct service *s, const char *name, const struct route *route, ns_found_fn found, void *arg);

/* ---- attributes (attr.c) ---- */

struct attr {
  uint64_t size;
  int64_t mtime_ns;
  uint64_t etag;
  bool directory;
};
/* What `key` is. etag != 0: the attributes of that version, however old they are (a version never changes), or
 * -FB_ECHANGED if the current version is another. etag == 0: the current version, not older than attr_ttl_ms, or fresh
 * from the origin. Concurrent look-ups of a key are one. `done` may run at once. */
typedef void (*attr_done_fn)(void *arg, int code, const char *text, const struct attr *a);
void attr_get(struct service *s, struct ns *ns, const char *key, uint64_t etag, bool fresh, int64_t deadline_ns,
              attr_done_fn done, void *arg);
/* What is known without asking the origin: 0 with *ret, an error that is remembered, or -ENOENT. */
int attr_known(struct service *s, const struct ns *ns, const char *key, uint64_t etag, struct attr *ret);
/* Attributes of a value that lives in RAM only: 0 or -ENOENT. */
int attr_of_ram(struct service *s, const struct ns *ns, const char *key, struct attr *ret);
/* Forgets / sets what is known (after ECHANGED, invalidate, put, a listing). */
void attr_forget(struct service *s, const struct ns *ns, const char *key);
void attr_learn(struct service *s, const struct ns *ns, const char *key, const struct attr *a);
uint64_t attr_forget_matching(struct service *s, const struct ns *ns, const char *pattern);

/* ---- blocks (block.c) ---- */

/* Key of a block in a tier. `buf` must have TIER_KEY_MAX bytes; the id points into it. */
#define BLOCK_META UINT64_MAX /* index of a derived value's attributes */
void block_id_make(struct block_id *ret, uint8_t *buf, const struct ns *ns, const char *key, uint64_t etag,
                   uint64_t index);
/* The object key inside a block's key: a pointer into it (not NUL-terminated) and its length; false if malformed. */
bool block_id_parse(const void *key, uint32_t key_len, const char **ret_key, size_t *ret_len, uint64_t *ret_etag,
                    uint64_t *ret_index);
static inline uint32_t block_len(const struct ns *ns, uint64_t size, uint64_t index) {
  uint64_t off = index * ns->r.block_bytes;
  return off >= size ? 0 : (uint32_t)(size - off < ns->r.block_bytes ? size - off : ns->r.block_bytes);
}

struct block_result {
  struct blob *data; /* the whole block; borrowed by the callback */
  uint32_t crc;
  int source;
};
typedef void (*block_done_fn)(void *arg, int code, const char *text, const struct block_result *r);
/* One block of one version: from the tier, or fetched from the origin by one reader for all who want it (even when
 * their number is large, even when it then does not fit the tier). `done` may run at once.
 * -FB_ECHANGED, the origin's errno, -FB_EBUSY (queue full), -ETIMEDOUT (deadline); a RAM-only value's block that
 * is gone is -FB_ECHANGED too. */
void block_get(struct service *s, struct ns *ns, const char *key, const struct attr *a, uint64_t index,
               int64_t deadline_ns, block_done_fn done, void *arg);
/* The same without asking the origin: -ENOENT when the block is not resident here. */
void block_get_resident(struct service *s, const struct ns *ns, const char *key, const struct attr *a, uint64_t index,
                        block_done_fn done, void *arg);
/* Resident now? With verify also checks the CRC; a block that fails it is removed, counted and reported as absent. */
bool block_resident(struct service *s, const struct ns *ns, const char *key, uint64_t etag, uint64_t index,
                    bool verify);

/* Counts the memory of blocks that are served past a full tier; outlives the service with the last of them, because a
 * socket may hold one for a while. */
struct uncached;
int uncached_new(struct uncached **ret, uint64_t max_bytes);
void uncached_unref(struct uncached **u);

/* get_split.c: a get whose range crosses a chunk boundary. */
void get_split(struct service *s, const struct get_req *q, get_done_fn done, void *arg);

/* ---- single flight (flight.c) ---- */

/* What a flight hands to all its waiters. */
struct flight_result {
  int code;
  const char *text;
  const void *value; /* the kind's own result, borrowed */
};
struct flight_table;
struct flight;
struct flight_waiter {
  void (*done)(struct flight_waiter *w, const struct flight_result *r); /* once, no lock held */
  int64_t deadline_ns;
  /* private */
  struct flight *flight;
  struct flight_waiter *next, **prev;
};
int flight_table_new(struct flight_table **ret);
void flight_table_free(struct flight_table **t);
/* Joins the flight of `key` or begins one: true = the caller leads and must see to it that flight_land runs once. The
 * waiter must stay until its `done` ran. */
bool flight_join(struct flight_table *t, const void *key, size_t key_len, struct hash128 hash, struct flight_waiter *w,
                 struct flight **ret);
/* Ends a flight: all waiters get the result. */
void flight_land(struct flight_table *t, struct flight *f, const struct flight_result *r);
/* Ends waiters whose deadline has passed with -ETIMEDOUT (the ticker calls it). Returns how many. */
unsigned flight_expire(struct flight_table *t, int64_t now_ns);
unsigned flight_count(struct flight_table *t);

/* ---- peers and routes (peers.c) ---- */

/* The other peer `index` of `ring`; NULL for ourselves. Reference. */
struct peer *service_peer_of(struct service *s, struct ring *ring, unsigned index);
/* Owners to try for a placement hash, best first: the slot's owners; peers whose breaker is open come last. `self` is
 * our own index in the ring (or -1). */
struct candidates {
  struct ring *ring; /* reference; candidates_fini */
  unsigned n;
  unsigned index[RING_RANKS];
  unsigned first; /* the slot's first owner, whether it can be reached or not */
  int self;
  bool self_owns; /* we are one of them */
  /* the walk over them */
  unsigned next;
  bool self_tried, others_only;
  bool absent; /* somebody who could hold a RAM-only value has said that it does not */
};
void candidates_init(struct candidates *c, struct service *s, struct hash128 h);
void candidates_fini(struct candidates *c);
/* The next one to try: a peer (reference), ourselves, or nobody that is left (or the deadline has passed). When no
 * candidate was ourselves, we are the last resort. */
enum walk { WALK_END, WALK_SELF, WALK_PEER };
enum walk walk_next(struct candidates *c, struct service *s, int64_t deadline_ns, struct peer **ret);
/* Begins anew with the others only (asking around for a value that lives in RAM only, and that we do not have). */
void walk_others(struct candidates *c);
/* What a walk that found nobody has come to; `last` is the last failure that was met, if any. Returns last->code. */
int walk_verdict(const struct candidates *c, struct err *last);
/* When one attempt at another peer must have an answer. */
int64_t attempt_deadline(struct service *s, int64_t deadline_ns);
/* May a request that failed with `code` at one peer be tried at another? Unreachable or timed out, yes; not when busy:
 * another peer would only read from the origin what the owner holds. */
bool retry_elsewhere(int code);

/* Fills a Route message for a call to another peer on behalf of `ns` (NULL = none). */
struct Forebay__V1__Route;
void route_to_peer(struct ring *ring, const struct ns *ns, bool resident_only, struct Forebay__V1__Route *ret);

/* Calls `each` for every other member concurrently through peer_call with the same request, collecting who failed. */
typedef void (*fanout_reply_fn)(void *arg, const char *peer, const ProtobufCMessage *reply); /* serialised */
typedef void (*fanout_done_fn)(void *arg, int code, const struct name_list *unreachable); /* 0, -ENOMEM: nobody asked */
void fanout(struct service *s, const char *method, const ProtobufCMessage *request,
            const ProtobufCMessageDescriptor *reply_type, int64_t deadline_ns, fanout_reply_fn reply,
            fanout_done_fn done, void *arg);

/* ---- the service (core.c) ---- */

#define PUT_LOCKS 64u

/* What orders the puts of a key: those of RAM-only values run one at a time under `mtx`. Those that an origin orders go
 * on side by side, but only one that was alone knows that its own version is the current one. */
struct put_lock {
  pthread_mutex_t mtx; /* leaf but for the tier's */
  uint64_t begun;      /* puts to the origin, under mtx */
  unsigned going_on;   /* of these, now */
};

struct service {
  /* set by service_new, constant then */
  char *self, *state_dir;
  char **origin_roots;
  unsigned n_origin_roots;
  struct member *member;
  struct tier *tier;
  struct rpc_loop *loop;
  struct service_conf conf;     /* scalars only are read; reloadable ones through the atomics below */
  struct origin_fds origin_fds; /* files that all origins keep open together */
  struct pool *origin_pool;     /* blocking origin I/O: fills and attributes */
  struct pool *scan_pool;       /* listings: long, and slowed by who reads them */
  struct pool *put_pool;        /* puts: copies, fsyncs */
  struct pool *save_pool;       /* the catalog, when other peers changed it */
  struct catalog *catalog;
  struct attr_table *attrs;
  struct flight_table *block_flights, *attr_flights;
  struct uncached *uncached;
  struct peer_table *peers;
  struct prestage_runs *runs;
  int64_t started_ns;
  pthread_t ticker;
  bool ticker_runs;

  /* atomic */
  atomic_uint error_ttl_ms, peer_timeout_ms;
  atomic_bool draining, stopping;
  atomic_bool pulling; /* a catalog_pull is under way */
  _Atomic uint64_t put_inflight_bytes;
  _Atomic uint64_t put_sequence;
  _Atomic int64_t pulled_all_ns; /* when all the others' catalogs were last asked for */
  _Atomic int64_t ring_warn_again_ns, record_warn_again_ns;
  _Atomic int64_t drain_deadline_ns; /* with `draining` */
  _Atomic unsigned pull_turn;        /* whom the ticker asks next */
  _Atomic uint64_t metrics[M_COUNT];

  struct put_lock put_locks[PUT_LOCKS]; /* by key */
};

static inline void metric_add(struct service *s, enum metric m, uint64_t n) {
  atomic_fetch_add_explicit(&s->metrics[m], n, memory_order_relaxed);
}

#endif
