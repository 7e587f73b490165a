/* client.h - what the files of libforebay share: the client, what it knows of the cluster, and one call of it.
 *
 * A public function opens a `struct call` on its stack, runs, and closes it with its result:
 *
 *   struct call k;
 *   int r = call_begin(&k, c, CALL_NS | CALL_KEY, ns, key);
 *   if (r == 0)
 *     r = call_run(&k, once, &args);
 *   return (int)call_end(&k, r, err);
 *
 * All decisions of a call are taken on the caller's own thread; loop threads only hand over what has arrived
 * (request.h). So a call needs no locks of its own, and nothing writes into a caller's buffer after it has returned.
 *
 * The public header comes first here, and so this one does in every file: err.h leaves the codes' names to it. */
#ifndef FB_CLIENT_CLIENT_H
#define FB_CLIENT_CLIENT_H

#include <forebay/forebay.h>

#include <pthread.h>
#include <stdatomic.h>

#include "client/lib/keys.h"
#include "client/lib/peer.h"
#include "common/clock.h"
#include "common/err.h"
#include "common/ring.h"

/* ---- options.c -------------------------------------------------------------------------------------------------- */

#define PEERS_MAX 1024u /* in a list that a person gives */

struct options {
  char **peers; /* host:port, distinct */
  unsigned n_peers;
  uint32_t timeout_ms, peer_timeout_ms, retries, parallel;
  bool any_peer;
};

/* Finds the peers and settings where fb_options says. Errors as fb_open. */
int options_init(struct options *o, const struct fb_options *given, struct err *e);
void options_fini(struct options *o);

/* ---- the client ------------------------------------------------------------------------------------------------- */

/* The slim part of a namespace's record that requests are planned with. Immutable in the cluster for one id. */
struct ns_plan {
  uint64_t id; /* 0: not known (any_peer) */
  bool whole;  /* derived: not cut into chunks */
  uint32_t block_bytes, attr_ttl_ms;
  char version[HASH_VERSION_MAX + 1];
};

struct ns_entry {
  char name[65];
  int64_t fetched_ns, used_ns;
  struct ns_plan record;
};
#define NS_ENTRIES 64

struct fb_client {
  pid_t pid; /* that opened it */
  struct options o;
  struct rpc_loop *loop;
  struct peer **seeds;   /* n_peers, in the order of the list */
  atomic_uint preferred; /* where requests that have no owner start: index of a seed (any_peer) or member */

  pthread_mutex_t mtx;
  pthread_cond_t idle; /* calls == 0 */
  /* under mtx */
  unsigned calls;
  struct topology *topology; /* reference; NULL only during fb_open */
  int64_t refreshed_ns;
  unsigned n_ns;
  struct ns_entry ns[NS_ENTRIES];
  uint64_t random;

  struct {
    _Atomic uint64_t by_source[4], forwarded, requests, retries, failovers, errors, crc_errors;
  } stats;
};

static inline void count(_Atomic uint64_t *counter, uint64_t n) {
  atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ---- one call (client.c) ---------------------------------------------------------------------------------------- */

struct call {
  fb_client *c;
  int64_t deadline_ns;
  const char *ns, *key;      /* NULL where the call has none */
  struct topology *topology; /* reference: the ring that this call plans with */
  struct ns_plan record;
  bool with_record;
  bool refreshed;         /* the ring was asked for again because peers failed */
  struct peer *ring_peer; /* reference: who answered FB_ERING last */
  struct err e;           /* why it failed */
};

enum { CALL_NS = 1, CALL_KEY = 2, CALL_RECORD = 4 }; /* check ns; check key; load the namespace's record in call_run */

int call_begin(struct call *k, fb_client *c, unsigned what, const char *ns, const char *key);
/* Runs `once`; again with a new ring after -FB_ERING (a few times: peers take it over one by one), and with a new
 * record of the namespace after -FB_ENONS. */
int call_run(struct call *k, int (*once)(struct call *k, void *arg), void *arg);
/* Releases what the call holds, counts and tells its failure, returns r. */
ssize_t call_end(struct call *k, ssize_t r, struct fb_error *err);

uint64_t client_random(fb_client *c);
/* Sleeps until `until_ns`, at most to the call's deadline. */
void call_pause(struct call *k, int64_t until_ns);

/* ---- topology.c ------------------------------------------------------------------------------------------------- */

/* A ring and the peers on it, which are made when first asked for. Immutable but for that; shared by calls. */
struct topology;

struct ring *topology_ring(struct topology *t);
uint64_t topology_hash(struct topology *t);
struct topology *topology_ref(struct topology *t);
void topology_unref(struct topology **t);
/* A reference to member `index`'s peer. NULL: out of memory, or an address that is none. */
struct peer *topology_peer(struct topology *t, fb_client *c, unsigned index);

/* Asks the seeds for the ring, all at a time; the first that answers well decides. For fb_open. */
int topology_open(struct call *k);
/* Gives the call the newest ring: what another call has fetched meanwhile, or what `first` (may be NULL), the members
 * or the seeds answer. 0: the call has another ring than before; 1: the same; else a code, with k->e set. */
int topology_refresh(struct call *k, struct peer *first);

/* Whom to ask, in which order: the owners of a place, then the other members; without a place, or with any_peer, all
 * from the preferred one on. Peers behind an open breaker are left out as long as others are left. */
#define TRIES_MAX 17 /* 1 + the most retries */
struct picker {
  bool placed;
  uint64_t hash;
  struct topology *seen; /* compared only: `tried` holds its indexes */
  unsigned n_tried;
  uint32_t tried[TRIES_MAX];
};
struct pick {
  struct peer *peer; /* reference */
  unsigned index;
  bool ignore_breaker; /* all breakers are open: ask all the same */
};
/* 0, 1 when all that could be asked were tried (then the tries start anew), or -ENOMEM. */
int pick_peer(struct call *k, struct picker *p, struct pick *ret);
void pick_failed(struct call *k, struct picker *p, unsigned index);

/* ---- ns.c ------------------------------------------------------------------------------------------------------- */

/* Loads k->record: from memory if it is younger than a second (and not `fresh`), else from a peer; what is in memory
 * serves on if none can be asked: a peer refuses requests that carry an id that is gone. */
int ns_load(struct call *k, bool fresh);

#endif
