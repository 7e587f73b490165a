/* fake_peer.c - see fake_peer.h. Everything is under one lock but the answering itself: tests are not fast. */
#include "tests/lib/fake_peer.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/lib/keys.h"
#include "common/clock.h"
#include "common/crc.h"
#include "common/ring.h"
#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "proto/rpc.h"
#include "proto/wire.h"
#include "tests/lib/testlib.h"

#define RULES_MAX 32
#define OBJECTS_MAX 64
#define WAITING_MAX 512
#define MESSAGES_MAX 2048
#define SLOTS 1024
#define LIST_PAGE 3

/* A test that asks for more than the fake can do has a bug, in every kind of build. */
#define require(what)                                                                                                  \
  do {                                                                                                                 \
    if (!(what)) {                                                                                                     \
      fprintf(stderr, "fake_peer: %s does not hold\n", #what);                                                         \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

struct rule {
  struct fake_rule r;
  unsigned seen;
};

struct object {
  char key[128];
  uint8_t *data;
  size_t len;
  uint64_t etag;
};

struct place { /* a method's `arg` */
  struct fake_cluster *c;
  unsigned peer;
  enum fake_op op;
};

struct peer_fake {
  struct rpc_server *server;
  char address[32];
  uint32_t weight;
  struct ring *ring;
  struct rule rules[RULES_MAX];
  unsigned n_rules, calls[FAKE_OPS];
  bool stopping; /* under mtx */
  int port_fd;   /* while it is stopped */
  struct place places[FAKE_OPS];
  struct rpc_method methods[FAKE_OPS + 1];
};

struct answer {
  struct rpc_session *s;
  struct blob *message; /* of a unary call */
  int code;
  bool hangs;
};

struct fake_cluster {
  struct rpc_loop *loop;
  pthread_mutex_t mtx;
  unsigned n;
  struct peer_fake peers[FAKE_PEERS_MAX];
  char list[FAKE_PEERS_MAX * 32];
  struct object objects[OBJECTS_MAX];
  unsigned n_objects;
  uint64_t etags, ns_id;
  bool derived, no_ns, holding;
  struct answer waiting[WAITING_MAX];
  unsigned n_waiting, misrouted, unpinned;
  int64_t deadline_ns;
  uint64_t longest_get;
};

static const char *const paths[FAKE_OPS] = {
    [FAKE_GET_RING] = "/forebay.v1.Cluster/GetRing",
    [FAKE_GET_STATS] = "/forebay.v1.Cluster/GetStats",
    [FAKE_GET] = "/forebay.v1.Cache/Get",
    [FAKE_MULTI_GET] = "/forebay.v1.Cache/MultiGet",
    [FAKE_PUT] = "/forebay.v1.Cache/Put",
    [FAKE_STAT] = "/forebay.v1.Cache/Stat",
    [FAKE_LIST] = "/forebay.v1.Cache/List",
    [FAKE_INVALIDATE] = "/forebay.v1.Cache/Invalidate",
    [FAKE_NS_CREATE] = "/forebay.v1.Namespaces/Create",
    [FAKE_NS_LIST] = "/forebay.v1.Namespaces/List",
    [FAKE_NS_SHOW] = "/forebay.v1.Namespaces/Show",
    [FAKE_NS_DROP] = "/forebay.v1.Namespaces/Drop",
    [FAKE_PRESTAGE] = "/forebay.v1.Prestage/Run",
};

static const ProtobufCMessageDescriptor *const requests[FAKE_OPS] = {
    [FAKE_GET_RING] = &forebay__v1__get_ring_request__descriptor,
    [FAKE_GET_STATS] = &forebay__v1__get_stats_request__descriptor,
    [FAKE_GET] = &forebay__v1__get_request__descriptor,
    [FAKE_MULTI_GET] = &forebay__v1__multi_get_request__descriptor,
    [FAKE_PUT] = &forebay__v1__put_request__descriptor,
    [FAKE_STAT] = &forebay__v1__stat_request__descriptor,
    [FAKE_LIST] = &forebay__v1__list_request__descriptor,
    [FAKE_INVALIDATE] = &forebay__v1__invalidate_request__descriptor,
    [FAKE_NS_CREATE] = &forebay__v1__create_namespace_request__descriptor,
    [FAKE_NS_LIST] = &forebay__v1__list_namespaces_request__descriptor,
    [FAKE_NS_SHOW] = &forebay__v1__show_namespace_request__descriptor,
    [FAKE_NS_DROP] = &forebay__v1__drop_namespace_request__descriptor,
    [FAKE_PRESTAGE] = &forebay__v1__prestage_request__descriptor,
};

static struct object *find(struct fake_cluster *c, const char *key) {
  for (unsigned i = 0; i < c->n_objects; i++)
    if (strcmp(c->objects[i].key, key) == 0)
      return &c->objects[i];
  return NULL;
}

/* ---- one call ------------------------------------------------------------------------------------------------------
 */

struct fcall {
  struct fake_cluster *c;
  unsigned peer;
  enum fake_op op;
  struct rpc_session *s;
  struct rule rule; /* copy of the one that applies, if `ruled` */
  bool ruled;
  /* put */
  Forebay__V1__PutRequest *head;
  uint8_t *value;
  size_t value_len;
  /* streamed answers */
  struct blob *out[MESSAGES_MAX];
  unsigned n_out, sent;
  int code;
};

static void call_free(struct fcall *f) {
  if (f->head)
    protobuf_c_message_free_unpacked(&f->head->base, NULL);
  for (unsigned i = f->sent; i < f->n_out; i++)
    blob_unref(&f->out[i]);
  free(f->value);
  free(f);
}

static bool rule_is(const struct fcall *f, enum fake_what what) { return f->ruled && f->rule.r.what == what; }

static void finish(struct fcall *f, struct blob *message, int code) {
  struct rpc_session *s = f->s;

  call_free(f);
  rpc_finish(s, message, code, code ? "as the test wants it" : NULL);
}

/* Under mtx. Lets the session wait, unless its peer is being stopped: nobody would end it then. */
static bool park(struct fcall *f, struct blob *message, int code, bool hangs) {
  struct fake_cluster *c = f->c;

  if (c->peers[f->peer].stopping)
    return false;
  require(c->n_waiting < WAITING_MAX);
  c->waiting[c->n_waiting++] = (struct answer){.s = f->s, .message = message, .code = code, .hangs = hangs};
  return true;
}

static void hang(struct fcall *f) {
  pthread_mutex_lock(&f->c->mtx);
  bool parked = park(f, NULL, -ETIMEDOUT, true);
  pthread_mutex_unlock(&f->c->mtx);
  if (parked)
    call_free(f);
  else
    finish(f, NULL, -ETIMEDOUT);
}

static void answer(struct fcall *f, const ProtobufCMessage *message, struct blob *payload) {
  struct blob *b = rule_is(f, FAKE_GARBAGE) ? blob_copy("\xff\xff\xff garbage", 11) : wire_pack(message, payload);
  struct fake_cluster *c = f->c;

  blob_unref(&payload);
  pthread_mutex_lock(&c->mtx);
  bool parked = f->op == FAKE_GET && c->holding && park(f, b, 0, false);
  pthread_mutex_unlock(&c->mtx);
  if (parked)
    call_free(f);
  else
    finish(f, b, 0);
}

static void stream_sent(struct rpc_session *s, bool ok, void *arg);

static void stream_go_on(struct fcall *f) {
  if (f->sent < f->n_out)
    rpc_send(f->s, f->out[f->sent++], stream_sent, f);
  else if (rule_is(f, FAKE_BREAK_HANG))
    hang(f);
  else
    finish(f, NULL, f->code);
}

static void stream_sent(struct rpc_session *s, bool ok, void *arg) {
  struct fcall *f = arg;

  (void)s;
  if (ok)
    stream_go_on(f);
  else
    finish(f, NULL, -ECANCELED);
}

static void stream_add(struct fcall *f, struct blob *message) {
  require(f->n_out < MESSAGES_MAX && message);
  if ((rule_is(f, FAKE_BREAK) || rule_is(f, FAKE_BREAK_HANG)) && f->n_out >= f->rule.r.n) {
    blob_unref(&message);
    f->code = f->rule.r.code;
    return;
  }
  if (rule_is(f, FAKE_GARBAGE)) {
    blob_unref(&message);
    message = blob_copy("\xff\xff\xff garbage", 11);
  }
  f->out[f->n_out++] = message;
}

/* ---- checks of what was asked
 * ---------------------------------------------------------------------------------------- */

/* Under mtx. 0 or what a peer refuses it with. `key` NULL: no place. */
static int check_route(struct fcall *f, const char *ns, const Forebay__V1__Route *route, const char *key,
                       uint64_t offset) {
  struct fake_cluster *c = f->c;
  struct ring *ring = c->peers[f->peer].ring;
  unsigned owners[RING_RANKS];

  if (c->no_ns || strcmp(ns, FAKE_NS) != 0)
    return -FB_ENONS;
  if (route && route->ns_id && route->ns_id != c->ns_id)
    return -FB_ENONS;
  if (route && route->ring_hash && route->ring_hash != ring_hash(ring).hi)
    return -FB_ERING;
  if (!key || !route)
    return 0;
  uint32_t slot = ring_slot(ring, place_key(c->ns_id, "", key, c->derived, offset).hi);
  ring_owners(ring, slot, owners);
  bool planned = route->ring_hash != 0;
  if (planned && (!route->ns_id || !route->local))
    c->misrouted++;
  if (planned && owners[0] != f->peer && !route->local)
    c->misrouted++;
  return 0;
}

/* ---- operations
 * ------------------------------------------------------------------------------------------------------ */

static void get_ring(struct fcall *f) {
  Forebay__V1__GetRingReply m = FOREBAY__V1__GET_RING_REPLY__INIT;
  Forebay__V1__Member members[FAKE_PEERS_MAX], *pointers[FAKE_PEERS_MAX];
  char names[FAKE_PEERS_MAX][64];

  pthread_mutex_lock(&f->c->mtx);
  struct ring *ring = ring_ref(f->c->peers[f->peer].ring);
  pthread_mutex_unlock(&f->c->mtx);
  for (unsigned i = 0; i < ring_size(ring); i++) {
    const struct ring_member *r = ring_member(ring, i);
    members[i] = (Forebay__V1__Member)FOREBAY__V1__MEMBER__INIT;
    members[i].name = (char *)(uintptr_t)r->name;
    members[i].address = (char *)(uintptr_t)r->address;
    members[i].weight = r->weight;
    members[i].domain = (char *)(uintptr_t)(r->domain ? r->domain : "");
    pointers[i] = &members[i];
  }
  snprintf(names[0], sizeof names[0], "p%u", f->peer);
  m.peer = names[0];
  m.epoch = ring_epoch(ring);
  m.slots = ring_slots(ring);
  m.ring_hash = ring_hash(ring).hi ^ (rule_is(f, FAKE_SIZE) ? f->rule.r.n : 0);
  m.ring_hash_lo = ring_hash(ring).lo;
  m.n_members = rule_is(f, FAKE_BARE) ? 0 : ring_size(ring);
  m.members = pointers;
  answer(f, &m.base, NULL);
  ring_unref(&ring);
}

static void get_stats(struct fcall *f) {
  Forebay__V1__GetStatsReply m = FOREBAY__V1__GET_STATS_REPLY__INIT;
  Forebay__V1__Counter counter = FOREBAY__V1__COUNTER__INIT, *counters = &counter;
  char name[16];

  snprintf(name, sizeof name, "p%u", f->peer);
  m.peer = name;
  m.version = (char *)(uintptr_t) "9.9.9";
  m.ram_max_bytes = 1000 + f->peer;
  m.connections = 3;
  m.wall_clock_ns = clock_wall_ns() + (f->peer == 1 ? 3600 * NS_PER_S : 0);
  counter.name = (char *)(uintptr_t) "get_requests";
  counter.value = 5;
  m.n_counters = 1;
  m.counters = &counters;
  answer(f, &m.base, NULL);
}

/* Fills a GetReply. 0 or a code. *ret_payload may be NULL. */
static int fill_get(struct fcall *f, const char *key, uint64_t offset, uint32_t length, uint64_t etag,
                    Forebay__V1__GetReply *m, struct blob **ret_payload) {
  struct fake_cluster *c = f->c;
  uint8_t *extra;
  int code = 0;

  pthread_mutex_lock(&c->mtx);
  struct object *o = find(c, key);
  if (length > c->longest_get)
    c->longest_get = length;
  c->unpinned += etag == 0;
  if (!o)
    code = -ENOENT;
  else if (etag && etag != o->etag)
    code = -FB_ECHANGED;
  else if (offset > o->len)
    code = -FB_EPASTEND;
  if (code == 0) {
    size_t n = o->len - offset < length ? o->len - offset : length;
    size_t more = rule_is(f, FAKE_LONG) ? f->rule.r.n : 0;
    if (rule_is(f, FAKE_SHORT) && n)
      n--;
    m->etag = rule_is(f, FAKE_ETAG) ? f->rule.r.n : o->etag;
    m->size = rule_is(f, FAKE_SIZE) ? f->rule.r.n : o->len;
    m->source = f->peer == 0 ? FOREBAY__V1__SOURCE__SOURCE_ORIGIN : FOREBAY__V1__SOURCE__SOURCE_RAM;
    m->mtime_ns = 42;
    extra = calloc(1, n + more + 1);
    memcpy(extra, o->data + offset, n);
    m->crc32c = crc32c(0, extra, n + more) ^ rule_is(f, FAKE_BAD_CRC);
    if (rule_is(f, FAKE_BAD_BYTE) && n)
      extra[n / 2] ^= 1;
    *ret_payload = blob_copy(extra, n + more);
    free(extra);
  }
  pthread_mutex_unlock(&c->mtx);
  return code;
}

static void get(struct fcall *f, const Forebay__V1__GetRequest *q) {
  Forebay__V1__GetReply m = FOREBAY__V1__GET_REPLY__INIT;
  struct blob *payload = NULL;
  char name[16];

  snprintf(name, sizeof name, "p%u", f->peer);
  m.peer = name;
  if (rule_is(f, FAKE_CHANGE))
    fake_object(f->c, q->key, f->rule.r.n, 999 + f->rule.seen);
  pthread_mutex_lock(&f->c->mtx);
  int code = check_route(f, q->ns, q->route, q->key, q->offset);
  pthread_mutex_unlock(&f->c->mtx);
  if (code == 0)
    code = fill_get(f, q->key, q->offset, q->length, q->etag, &m, &payload);
  if (code)
    finish(f, NULL, code);
  else
    answer(f, &m.base, payload);
}

static void multi_get(struct fcall *f, const Forebay__V1__MultiGetRequest *q) {
  char name[16];
  int code = 0;

  snprintf(name, sizeof name, "p%u", f->peer);
  for (size_t i = 0; i < q->n_items && code == 0; i++) {
    pthread_mutex_lock(&f->c->mtx);
    code = check_route(f, q->ns, q->route, q->items[i]->key, q->items[i]->offset);
    pthread_mutex_unlock(&f->c->mtx);
  }
  if (code) {
    finish(f, NULL, code);
    return;
  }
  for (size_t k = 0; k < q->n_items; k++) {
    size_t i = q->n_items - 1 - k; /* backwards: replies come in any order */
    const Forebay__V1__GetItem *it = q->items[i];
    Forebay__V1__MultiGetReply m = FOREBAY__V1__MULTI_GET_REPLY__INIT;
    Forebay__V1__ItemStatus status = FOREBAY__V1__ITEM_STATUS__INIT;
    Forebay__V1__GetReply inner = FOREBAY__V1__GET_REPLY__INIT;
    struct blob *payload = NULL;
    if (rule_is(f, FAKE_FORGET) && k == q->n_items - 1)
      break;
    inner.peer = name;
    m.index = (uint32_t)i + (rule_is(f, FAKE_INDEX) ? 5000 : 0);
    code = fill_get(f, it->key, it->offset, it->length, it->etag, &inner, &payload);
    if (code || rule_is(f, FAKE_BARE)) {
      status.code = (uint32_t)-code;
      status.text = (char *)(uintptr_t) "as it is";
      m.status = &status;
      stream_add(f, wire_pack_nested(&m.base, NULL, NULL));
    } else {
      stream_add(f, wire_pack_nested(&m.base, &inner.base, payload));
      if (rule_is(f, FAKE_TWICE) && k == 0)
        stream_add(f, wire_pack_nested(&m.base, &inner.base, payload));
    }
    blob_unref(&payload);
  }
  stream_go_on(f);
}

static void put_end(struct fcall *f) {
  Forebay__V1__PutReply m = FOREBAY__V1__PUT_REPLY__INIT;
  Forebay__V1__ObjectInfo info = FOREBAY__V1__OBJECT_INFO__INIT;
  struct fake_cluster *c = f->c;
  Forebay__V1__PutRequest *q = f->head;
  int code = 0;

  if (!q) {
    finish(f, NULL, -FB_EPROTO);
    return;
  }
  pthread_mutex_lock(&c->mtx);
  struct object *o = find(c, q->key);
  code = check_route(f, q->ns, q->route, q->key, 0);
  if (code == 0 && !c->derived)
    code = -FB_ENOTDERIVED;
  else if (code == 0 && o && !q->overwrite)
    code = -EEXIST;
  else if (code == 0 && (q->size != f->value_len || crc32c(0, f->value, f->value_len) != q->crc32c))
    code = -FB_ECRC;
  if (code == 0) {
    if (!o) {
      require(c->n_objects < OBJECTS_MAX);
      o = &c->objects[c->n_objects++];
      *o = (struct object){0};
      snprintf(o->key, sizeof o->key, "%s", q->key);
    }
    free(o->data);
    o->data = malloc(f->value_len + 1);
    memcpy(o->data, f->value, f->value_len);
    o->len = f->value_len;
    o->etag = ++c->etags;
    info.key = o->key;
    info.size = o->len;
    info.etag = o->etag;
  }
  pthread_mutex_unlock(&c->mtx);
  if (code == 0 && rule_is(f, FAKE_DO_CODE))
    code = f->rule.r.code;
  m.info = rule_is(f, FAKE_BARE) ? NULL : &info;
  if (code)
    finish(f, NULL, code);
  else
    answer(f, &m.base, NULL);
}

static void put_message(struct rpc_session *s, struct blob *message, void *arg) {
  struct fcall *f = arg;
  ProtobufCMessage *m;
  struct blob *payload;

  if (!message) {
    put_end(f);
    return;
  }
  require(message->len <= PUT_PIECE_BYTES + (64 << 10));
  if (wire_unpack(&forebay__v1__put_request__descriptor, message, &m, &payload) < 0) {
    finish(f, NULL, -FB_EPROTO);
    return;
  }
  if (payload) {
    f->value = realloc(f->value, f->value_len + payload->len + 1);
    blob_read(payload, 0, f->value + f->value_len, payload->len);
    f->value_len += payload->len;
    blob_unref(&payload);
  }
  if (!f->head)
    f->head = (Forebay__V1__PutRequest *)m;
  else
    protobuf_c_message_free_unpacked(m, NULL);
  rpc_recv(s, put_message, f);
}

static void stat_op(struct fcall *f, const Forebay__V1__StatRequest *q) {
  Forebay__V1__StatReply m = FOREBAY__V1__STAT_REPLY__INIT;
  Forebay__V1__ObjectInfo info = FOREBAY__V1__OBJECT_INFO__INIT;
  struct fake_cluster *c = f->c;

  if (rule_is(f, FAKE_CHANGE))
    fake_object(c, q->key, f->rule.r.n, 555 + f->rule.seen);
  pthread_mutex_lock(&c->mtx);
  struct object *o = find(c, q->key);
  int code = check_route(f, q->ns, q->route, q->key, 0);
  if (code == 0 && !o)
    code = -ENOENT;
  if (code == 0) {
    info.key = o->key;
    info.size = rule_is(f, FAKE_SIZE) ? f->rule.r.n : o->len;
    info.etag = rule_is(f, FAKE_ETAG) ? f->rule.r.n : o->etag;
    info.mtime_ns = 42;
    m.info = rule_is(f, FAKE_BARE) ? NULL : &info;
  }
  pthread_mutex_unlock(&c->mtx);
  if (code)
    finish(f, NULL, code);
  else
    answer(f, &m.base, NULL);
}

static void list(struct fcall *f, const Forebay__V1__ListRequest *q) {
  struct fake_cluster *c = f->c;

  pthread_mutex_lock(&c->mtx);
  int code = check_route(f, q->ns, q->route, NULL, 0);
  for (unsigned i = 0; code == 0 && i < c->n_objects; i += LIST_PAGE) {
    Forebay__V1__ListReply m = FOREBAY__V1__LIST_REPLY__INIT;
    Forebay__V1__ObjectInfo infos[LIST_PAGE], *pointers[LIST_PAGE];
    for (unsigned k = i; k < c->n_objects && k < i + LIST_PAGE; k++) {
      struct object *o = &c->objects[k];
      if (q->limit && k >= q->limit)
        break;
      if (strncmp(o->key, q->prefix, strlen(q->prefix)) != 0)
        continue;
      infos[m.n_entries] = (Forebay__V1__ObjectInfo)FOREBAY__V1__OBJECT_INFO__INIT;
      infos[m.n_entries].key = rule_is(f, FAKE_BARE) ? (char *)(uintptr_t) "../up" : o->key;
      infos[m.n_entries].size = o->len;
      infos[m.n_entries].etag = o->etag;
      pointers[m.n_entries] = &infos[m.n_entries];
      m.n_entries++;
    }
    m.entries = pointers;
    stream_add(f, wire_pack(&m.base, NULL));
  }
  pthread_mutex_unlock(&c->mtx);
  if (code)
    finish(f, NULL, code);
  else
    stream_go_on(f);
}

static void invalidate(struct fcall *f) {
  Forebay__V1__InvalidateReply m = FOREBAY__V1__INVALIDATE_REPLY__INIT;
  char *missed[] = {(char *)(uintptr_t) "p7"};

  m.blocks = 4;
  m.bytes = 4096;
  if (rule_is(f, FAKE_SIZE)) {
    m.n_unreachable = 1;
    m.unreachable = missed;
  }
  answer(f, &m.base, NULL);
}

static void fill_ns(struct fake_cluster *c, Forebay__V1__Namespace *ns) {
  *ns = (Forebay__V1__Namespace)FOREBAY__V1__NAMESPACE__INIT;
  ns->name = (char *)(uintptr_t)FAKE_NS;
  ns->id = c->ns_id;
  ns->kind = c->derived ? FOREBAY__V1__NAMESPACE_KIND__NAMESPACE_KIND_DERIVED
                        : FOREBAY__V1__NAMESPACE_KIND__NAMESPACE_KIND_DATASET;
  ns->origin = (char *)(uintptr_t) "/data/set";
  ns->block_bytes = 1 << 20;
  ns->attr_ttl_ms = 1000;
  ns->replicas = 1;
}

static void namespaces(struct fcall *f, const ProtobufCMessage *q) {
  Forebay__V1__Namespace ns, *pointer = &ns;
  Forebay__V1__CreateNamespaceReply created = FOREBAY__V1__CREATE_NAMESPACE_REPLY__INIT;
  Forebay__V1__ListNamespacesReply listed = FOREBAY__V1__LIST_NAMESPACES_REPLY__INIT;
  Forebay__V1__ShowNamespaceReply shown = FOREBAY__V1__SHOW_NAMESPACE_REPLY__INIT;
  Forebay__V1__DropNamespaceReply dropped = FOREBAY__V1__DROP_NAMESPACE_REPLY__INIT;
  struct fake_cluster *c = f->c;
  const char *name = FAKE_NS;
  int code = 0;

  if (f->op == FAKE_NS_CREATE)
    name = ((const Forebay__V1__CreateNamespaceRequest *)q)->ns->name;
  else if (f->op == FAKE_NS_SHOW)
    name = ((const Forebay__V1__ShowNamespaceRequest *)q)->name;
  else if (f->op == FAKE_NS_DROP)
    name = ((const Forebay__V1__DropNamespaceRequest *)q)->name;
  pthread_mutex_lock(&c->mtx);
  bool exists = !c->no_ns && strcmp(name, FAKE_NS) == 0;
  if (f->op == FAKE_NS_CREATE && exists)
    code = -FB_ENSEXISTS;
  else if (f->op == FAKE_NS_CREATE)
    c->no_ns = false;
  else if (!exists)
    code = -FB_ENONS;
  fill_ns(c, &ns);
  if (rule_is(f, FAKE_SIZE))
    ns.block_bytes = (uint32_t)f->rule.r.n;
  if (f->op == FAKE_NS_DROP && code == 0)
    c->no_ns = true;
  pthread_mutex_unlock(&c->mtx);
  if (code == 0 && rule_is(f, FAKE_DO_CODE))
    code = f->rule.r.code;
  if (code) {
    finish(f, NULL, code);
    return;
  }
  created.ns = shown.ns = rule_is(f, FAKE_BARE) ? NULL : &ns;
  shown.resident_bytes = 123;
  shown.resident_blocks = 4;
  listed.n_namespaces = 1;
  listed.namespaces = &pointer;
  dropped.freed_bytes = 321;
  answer(f,
         f->op == FAKE_NS_CREATE ? &created.base
         : f->op == FAKE_NS_LIST ? &listed.base
         : f->op == FAKE_NS_SHOW ? &shown.base
                                 : &dropped.base,
         NULL);
}

static void prestage(struct fcall *f, const Forebay__V1__PrestageRequest *q) {
  struct fake_cluster *c = f->c;
  uint64_t bytes = 0;

  pthread_mutex_lock(&c->mtx);
  int code = c->no_ns || strcmp(q->ns, FAKE_NS) ? -FB_ENONS : 0;
  for (unsigned i = 0; code == 0 && i <= c->n_objects; i++) {
    Forebay__V1__PrestageProgress m = FOREBAY__V1__PRESTAGE_PROGRESS__INIT;
    Forebay__V1__PrestageFailure failure = FOREBAY__V1__PRESTAGE_FAILURE__INIT, *pointer = &failure;
    Forebay__V1__ItemStatus status = FOREBAY__V1__ITEM_STATUS__INIT;
    m.files_total = c->n_objects;
    m.files_resident = i;
    m.bytes_resident = bytes;
    m.listed = true;
    m.done = i == c->n_objects;
    if (i == 1) {
      status.code = EIO;
      status.text = (char *)(uintptr_t) "bad disk";
      failure.key = c->objects[0].key;
      failure.status = &status;
      m.n_failures = 1;
      m.failures = &pointer;
    }
    bytes += i < c->n_objects ? c->objects[i].len : 0;
    if (q->background) {
      m.done = m.listed = false;
      stream_add(f, wire_pack(&m.base, NULL));
      break;
    }
    stream_add(f, wire_pack(&m.base, NULL));
  }
  pthread_mutex_unlock(&c->mtx);
  if (code)
    finish(f, NULL, code);
  else
    stream_go_on(f);
}

static void on_request(struct rpc_session *s, struct blob *message, void *arg) {
  struct fcall *f = arg;
  ProtobufCMessage *q;

  (void)s;
  if (!message || wire_unpack(requests[f->op], message, &q, NULL) < 0) {
    finish(f, NULL, -FB_EPROTO);
    return;
  }
  switch (f->op) {
  case FAKE_GET_RING:
    get_ring(f);
    break;
  case FAKE_GET_STATS:
    get_stats(f);
    break;
  case FAKE_GET:
    get(f, (Forebay__V1__GetRequest *)q);
    break;
  case FAKE_MULTI_GET:
    multi_get(f, (Forebay__V1__MultiGetRequest *)q);
    break;
  case FAKE_STAT:
    stat_op(f, (Forebay__V1__StatRequest *)q);
    break;
  case FAKE_LIST:
    list(f, (Forebay__V1__ListRequest *)q);
    break;
  case FAKE_INVALIDATE:
    invalidate(f);
    break;
  case FAKE_PRESTAGE:
    prestage(f, (Forebay__V1__PrestageRequest *)q);
    break;
  default:
    namespaces(f, q);
    break;
  }
  protobuf_c_message_free_unpacked(q, NULL);
}

static void start_call(struct rpc_session *s, void *arg) {
  const struct place *at = arg;
  struct fake_cluster *c = at->c;
  struct fcall *f = calloc(1, sizeof *f);

  *f = (struct fcall){.c = c, .peer = at->peer, .op = at->op, .s = s};
  pthread_mutex_lock(&c->mtx);
  struct peer_fake *p = &c->peers[at->peer];
  p->calls[at->op]++;
  c->deadline_ns = rpc_deadline_ns(s);
  for (unsigned i = 0; i < p->n_rules && !f->ruled; i++) {
    struct rule *r = &p->rules[i];
    if (r->r.op != at->op)
      continue;
    unsigned nth = r->seen++;
    if (nth >= r->r.skip && (!r->r.times || nth < r->r.skip + r->r.times)) {
      f->rule = *r;
      f->ruled = true;
    }
  }
  pthread_mutex_unlock(&c->mtx);
  if (rule_is(f, FAKE_CODE))
    finish(f, NULL, f->rule.r.code);
  else if (rule_is(f, FAKE_HANG))
    hang(f);
  else if (at->op == FAKE_PUT)
    rpc_recv(s, put_message, f);
  else
    rpc_recv(s, on_request, f);
}

/* ---- the cluster
 * ------------------------------------------------------------------------------------------------------ */

static void must(int r, const struct err *e) {
  if (r == 0)
    return;
  fprintf(stderr, "fake_peer: %s\n", e->text);
  abort();
}

static struct ring *make_ring(struct fake_cluster *c, uint32_t weight_of_last, uint64_t epoch) {
  struct ring_member members[FAKE_PEERS_MAX];
  char names[FAKE_PEERS_MAX][16];
  struct ring *ring;
  struct err e;

  for (unsigned i = 0; i < c->n; i++) {
    snprintf(names[i], sizeof names[i], "p%u", i);
    members[i] = (struct ring_member){
        .name = names[i], .address = c->peers[i].address, .weight = i == c->n - 1 ? weight_of_last : 100};
  }
  must(ring_new(&ring, members, c->n, SLOTS, epoch, &e), &e);
  return ring;
}

static void up(struct fake_cluster *c, unsigned i, const char *address) {
  static const struct rpc_server_limits limits = {
      .max_connections = 64, .max_streams = 1000, .max_message_bytes = 0, .max_calls = 1000, .handshake_ms = 5000};
  struct peer_fake *p = &c->peers[i];
  struct err e;

  for (unsigned op = 0; op < FAKE_OPS; op++) {
    p->places[op] = (struct place){.c = c, .peer = i, .op = (enum fake_op)op};
    p->methods[op] = (struct rpc_method){.path = paths[op], .start = start_call, .arg = &p->places[op]};
  }
  must(rpc_server_new(&p->server, c->loop, address, &limits, p->methods, &e), &e);
  must(rpc_server_start(p->server, &e), &e);
  snprintf(p->address, sizeof p->address, "127.0.0.1:%u", rpc_server_port(p->server));
}

struct fake_cluster *fake_new(unsigned n) {
  struct fake_cluster *c = calloc(1, sizeof *c);
  size_t len = 0;
  struct err e;

  require(n >= 1 && n <= FAKE_PEERS_MAX);
  c->n = n;
  c->ns_id = FAKE_NS_ID;
  c->etags = 1000;
  pthread_mutex_init(&c->mtx, NULL);
  must(rpc_loop_new(&c->loop, 2, "fake", &e), &e);
  for (unsigned i = 0; i < n; i++) {
    up(c, i, "127.0.0.1:0");
    len += (size_t)snprintf(c->list + len, sizeof c->list - len, "%s%s", i ? "," : "", c->peers[i].address);
  }
  for (unsigned i = 0; i < n; i++)
    c->peers[i].ring = make_ring(c, 100, 1);
  return c;
}

/* Ends what waits; all of it with `hanging`. */
static void end_waiting(struct fake_cluster *c, bool hanging) {
  static struct answer take[WAITING_MAX];
  unsigned n = 0, keep = 0;

  pthread_mutex_lock(&c->mtx);
  for (unsigned i = 0; i < c->n_waiting; i++) {
    if (hanging || !c->waiting[i].hangs)
      take[n++] = c->waiting[i];
    else
      c->waiting[keep++] = c->waiting[i];
  }
  c->n_waiting = keep;
  pthread_mutex_unlock(&c->mtx);
  for (unsigned i = 0; i < n; i++)
    rpc_finish(take[i].s, take[i].message, take[i].code, NULL);
}

/* Keeps a stopped peer's port: bound but not listening it refuses, and no other test's peer can be given it. */
static int hold_port(const char *address) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

  at.sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1));
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  require(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
  return fd;
}

void fake_stop(struct fake_cluster *c, unsigned peer) {
  pthread_mutex_lock(&c->mtx);
  c->peers[peer].stopping = true;
  pthread_mutex_unlock(&c->mtx);
  end_waiting(c, true);
  if (!c->peers[peer].server)
    return;
  rpc_server_stop(c->peers[peer].server, clock_mono_ns());
  rpc_server_free(&c->peers[peer].server);
  c->peers[peer].port_fd = hold_port(c->peers[peer].address);
}

void fake_start(struct fake_cluster *c, unsigned peer) {
  char address[32];

  pthread_mutex_lock(&c->mtx);
  c->peers[peer].stopping = false;
  pthread_mutex_unlock(&c->mtx);
  close(c->peers[peer].port_fd);
  snprintf(address, sizeof address, "%s", c->peers[peer].address);
  up(c, peer, address);
}

void fake_free(struct fake_cluster **cp) {
  struct fake_cluster *c = *cp;

  *cp = NULL;
  if (!c)
    return;
  for (unsigned i = 0; i < c->n; i++) {
    fake_stop(c, i);
    close(c->peers[i].port_fd);
    ring_unref(&c->peers[i].ring);
  }
  rpc_loop_free(&c->loop);
  for (unsigned i = 0; i < c->n_objects; i++)
    free(c->objects[i].data);
  pthread_mutex_destroy(&c->mtx);
  free(c);
}

const char *fake_peers(struct fake_cluster *c) { return c->list; }
const char *fake_address(struct fake_cluster *c, unsigned peer) { return c->peers[peer].address; }

void fake_rule(struct fake_cluster *c, unsigned peer, const struct fake_rule *rule) {
  pthread_mutex_lock(&c->mtx);
  struct peer_fake *p = &c->peers[peer];
  require(p->n_rules < RULES_MAX);
  p->rules[p->n_rules++] = (struct rule){.r = *rule};
  pthread_mutex_unlock(&c->mtx);
}

void fake_rules_clear(struct fake_cluster *c) {
  pthread_mutex_lock(&c->mtx);
  for (unsigned i = 0; i < c->n; i++)
    c->peers[i].n_rules = 0;
  pthread_mutex_unlock(&c->mtx);
}

unsigned fake_calls(struct fake_cluster *c, unsigned peer, enum fake_op op) {
  pthread_mutex_lock(&c->mtx);
  unsigned n = c->peers[peer].calls[op];
  pthread_mutex_unlock(&c->mtx);
  return n;
}

unsigned fake_calls_all(struct fake_cluster *c, enum fake_op op) {
  unsigned n = 0;

  for (unsigned i = 0; i < c->n; i++)
    n += fake_calls(c, i, op);
  return n;
}

void fake_calls_clear(struct fake_cluster *c) {
  pthread_mutex_lock(&c->mtx);
  for (unsigned i = 0; i < c->n; i++)
    memset(c->peers[i].calls, 0, sizeof c->peers[i].calls);
  c->longest_get = 0;
  c->misrouted = 0;
  c->unpinned = 0;
  pthread_mutex_unlock(&c->mtx);
}

static void set_ring(struct fake_cluster *c, unsigned peer, uint32_t weight, uint64_t epoch) {
  struct ring *ring = make_ring(c, weight, epoch);

  pthread_mutex_lock(&c->mtx);
  struct ring *old = c->peers[peer].ring;
  c->peers[peer].ring = ring;
  pthread_mutex_unlock(&c->mtx);
  ring_unref(&old);
}

void fake_other_ring(struct fake_cluster *c, unsigned peer) { set_ring(c, peer, 300, 1); }

void fake_take_new_ring(struct fake_cluster *c, unsigned peer) { set_ring(c, peer, 200, 2); }

void fake_new_ring(struct fake_cluster *c) {
  for (unsigned i = 0; i < c->n; i++)
    fake_take_new_ring(c, i);
}

void fake_remake_ns(struct fake_cluster *c, uint64_t id, bool derived) {
  pthread_mutex_lock(&c->mtx);
  c->ns_id = id;
  c->derived = derived;
  c->no_ns = false;
  pthread_mutex_unlock(&c->mtx);
}

void fake_drop_ns(struct fake_cluster *c) {
  pthread_mutex_lock(&c->mtx);
  c->no_ns = true;
  pthread_mutex_unlock(&c->mtx);
}

void fake_object(struct fake_cluster *c, const char *key, size_t len, uint64_t seed) {
  struct rng r;
  uint8_t *data = malloc(len + 1);

  rng_init(&r, seed);
  rng_fill(&r, data, len);
  pthread_mutex_lock(&c->mtx);
  struct object *o = find(c, key);
  if (!o) {
    require(c->n_objects < OBJECTS_MAX);
    o = &c->objects[c->n_objects++];
    *o = (struct object){0};
    snprintf(o->key, sizeof o->key, "%s", key);
  }
  free(o->data);
  o->data = data;
  o->len = len;
  o->etag = ++c->etags;
  pthread_mutex_unlock(&c->mtx);
}

const uint8_t *fake_bytes(struct fake_cluster *c, const char *key, size_t *ret_len) {
  pthread_mutex_lock(&c->mtx);
  struct object *o = find(c, key);
  const uint8_t *data = o ? o->data : NULL;
  if (o && ret_len)
    *ret_len = o->len;
  pthread_mutex_unlock(&c->mtx);
  return data;
}

uint64_t fake_etag(struct fake_cluster *c, const char *key) {
  pthread_mutex_lock(&c->mtx);
  struct object *o = find(c, key);
  uint64_t etag = o ? o->etag : 0;
  pthread_mutex_unlock(&c->mtx);
  return etag;
}

void fake_remove(struct fake_cluster *c, const char *key) {
  pthread_mutex_lock(&c->mtx);
  struct object *o = find(c, key);
  if (o) {
    free(o->data);
    *o = c->objects[--c->n_objects];
  }
  pthread_mutex_unlock(&c->mtx);
}

unsigned fake_owner(struct fake_cluster *c, const char *key, uint64_t offset, unsigned rank) {
  unsigned owners[RING_RANKS];

  pthread_mutex_lock(&c->mtx);
  struct ring *ring = c->peers[0].ring;
  ring_owners(ring, ring_slot(ring, place_key(c->ns_id, "", key, c->derived, offset).hi), owners);
  pthread_mutex_unlock(&c->mtx);
  return owners[rank];
}

unsigned fake_misrouted(struct fake_cluster *c) {
  pthread_mutex_lock(&c->mtx);
  unsigned n = c->misrouted;
  pthread_mutex_unlock(&c->mtx);
  return n;
}

uint64_t fake_longest_get(struct fake_cluster *c) {
  pthread_mutex_lock(&c->mtx);
  uint64_t n = c->longest_get;
  pthread_mutex_unlock(&c->mtx);
  return n;
}

unsigned fake_unpinned(struct fake_cluster *c) {
  pthread_mutex_lock(&c->mtx);
  unsigned n = c->unpinned;
  pthread_mutex_unlock(&c->mtx);
  return n;
}

int64_t fake_deadline_ns(struct fake_cluster *c) {
  pthread_mutex_lock(&c->mtx);
  int64_t t = c->deadline_ns;
  pthread_mutex_unlock(&c->mtx);
  return t;
}

void fake_hold(struct fake_cluster *c) {
  pthread_mutex_lock(&c->mtx);
  c->holding = true;
  pthread_mutex_unlock(&c->mtx);
}

unsigned fake_held(struct fake_cluster *c) {
  unsigned n = 0;

  pthread_mutex_lock(&c->mtx);
  for (unsigned i = 0; i < c->n_waiting; i++)
    n += !c->waiting[i].hangs;
  pthread_mutex_unlock(&c->mtx);
  return n;
}

void fake_release(struct fake_cluster *c, bool for_good) {
  if (for_good) {
    pthread_mutex_lock(&c->mtx);
    c->holding = false;
    pthread_mutex_unlock(&c->mtx);
  }
  end_waiting(c, false);
}
