/* fake_peer.h - a cluster of peers that do what a test tells them: real sockets and messages (proto/rpc.h), one shared
 * store of objects, and per peer a list of rules that make single answers late, wrong, damaged or missing. */
#ifndef FB_TESTS_LIB_FAKE_PEER_H
#define FB_TESTS_LIB_FAKE_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fake_op {
  FAKE_GET_RING,
  FAKE_GET_STATS,
  FAKE_GET,
  FAKE_MULTI_GET,
  FAKE_PUT,
  FAKE_STAT,
  FAKE_LIST,
  FAKE_INVALIDATE,
  FAKE_NS_CREATE,
  FAKE_NS_LIST,
  FAKE_NS_SHOW,
  FAKE_NS_DROP,
  FAKE_PRESTAGE,
  FAKE_OPS
};

enum fake_what {
  FAKE_CODE,       /* answer `code` */
  FAKE_DO_CODE,    /* do it (put, create, drop), then answer `code` */
  FAKE_HANG,       /* no answer, until the cluster is freed */
  FAKE_GARBAGE,    /* bytes that are no message */
  FAKE_BAD_CRC,    /* get: a flipped checksum */
  FAKE_BAD_BYTE,   /* get: a flipped byte */
  FAKE_SHORT,      /* get: one byte less, with a checksum that fits */
  FAKE_LONG,       /* get: `n` bytes more than asked for */
  FAKE_SIZE,       /* get, stat: claims size `n` */
  FAKE_ETAG,       /* get, stat: claims etag `n` */
  FAKE_CHANGE,     /* get, stat: the object changes (fake_change) before it is answered */
  FAKE_BREAK,      /* streams: after `n` messages, `code` */
  FAKE_BREAK_HANG, /* streams: after `n` messages, silence */
  FAKE_TWICE,      /* multi-get: the first item comes twice */
  FAKE_INDEX,      /* multi-get: an index that was not asked for */
  FAKE_FORGET,     /* multi-get: the last item is left out */
  FAKE_BARE,       /* the answer without its inner message */
};

/* Affects `times` calls (0: all) after `skip` ones. */
struct fake_rule {
  enum fake_op op;
  enum fake_what what;
  unsigned skip, times;
  int code; /* negative */
  uint64_t n;
};

struct fake_cluster;

#define FAKE_PEERS_MAX 8
#define FAKE_NS "ns"
#define FAKE_NS_ID UINT64_C(77)

/* `n` peers named p0, p1, ... on free ports; a namespace FAKE_NS. Aborts on failure. */
struct fake_cluster *fake_new(unsigned n);
void fake_free(struct fake_cluster **c);
/* "127.0.0.1:port,..." of all peers. Lives as long as the cluster. */
const char *fake_peers(struct fake_cluster *c);
const char *fake_address(struct fake_cluster *c, unsigned peer);

void fake_rule(struct fake_cluster *c, unsigned peer, const struct fake_rule *rule);
void fake_rules_clear(struct fake_cluster *c);
/* Calls that a peer has got since the last fake_calls_clear. */
unsigned fake_calls(struct fake_cluster *c, unsigned peer, enum fake_op op);
unsigned fake_calls_all(struct fake_cluster *c, enum fake_op op);
void fake_calls_clear(struct fake_cluster *c);

/* Stops a peer: its port refuses connections from then on. fake_start brings it back there. */
void fake_stop(struct fake_cluster *c, unsigned peer);
void fake_start(struct fake_cluster *c, unsigned peer);
/* From now on the peer has another ring (its weight differs), and refuses requests that were planned with the others'.
 */
void fake_other_ring(struct fake_cluster *c, unsigned peer);
/* All peers take a new ring, or one of them. */
void fake_take_new_ring(struct fake_cluster *c, unsigned peer);
void fake_new_ring(struct fake_cluster *c);
/* The namespace is made anew: other id. derived: takes puts, not cut into chunks. */
void fake_remake_ns(struct fake_cluster *c, uint64_t id, bool derived);
void fake_drop_ns(struct fake_cluster *c);

/* Creates or replaces an object of `len` bytes made from `seed`; a new etag. */
void fake_object(struct fake_cluster *c, const char *key, size_t len, uint64_t seed);
/* The bytes that it has now (borrowed until it is replaced or the cluster freed). */
const uint8_t *fake_bytes(struct fake_cluster *c, const char *key, size_t *ret_len);
uint64_t fake_etag(struct fake_cluster *c, const char *key);
void fake_remove(struct fake_cluster *c, const char *key);
/* First owner of the chunk at `offset`, by the cluster's ring; rank 1 is the next one. */
unsigned fake_owner(struct fake_cluster *c, const char *key, uint64_t offset, unsigned rank);

/* Requests that were addressed wrongly: to a peer that does not own the place (and not marked local), or a ring-aware
 * request without ring hash or namespace id. */
unsigned fake_misrouted(struct fake_cluster *c);
/* Longest Get that was asked for, Gets without an etag (both since fake_calls_clear), and the last call's deadline. */
uint64_t fake_longest_get(struct fake_cluster *c);
unsigned fake_unpinned(struct fake_cluster *c);
int64_t fake_deadline_ns(struct fake_cluster *c);

/* While held, Gets are answered only by fake_release: all that wait, and those to come if `for_good`. */
void fake_hold(struct fake_cluster *c);
unsigned fake_held(struct fake_cluster *c);
void fake_release(struct fake_cluster *c, bool for_good);

#endif
