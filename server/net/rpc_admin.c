/* rpc_admin.c - Namespaces, Cluster, and the peer to peer part of Prestage. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/ring.h"
#include "server/net/convert.h"
#include "server/net/face.h"

#define NS_PATH "/forebay.v1.Namespaces/"
#define CLUSTER_PATH "/forebay.v1.Cluster/"
#define WARM_MAX 256u

/* ---- namespaces ------------------------------------------------------------------------------------------------- */

static void create_done(void *arg, int code, const char *text, const struct ns_record *ns, uint64_t bytes,
                        uint64_t blocks, const struct name_list *unreachable) {
  struct rpc_session *s = arg;
  Forebay__V1__CreateNamespaceReply m = FOREBAY__V1__CREATE_NAMESPACE_REPLY__INIT;
  Forebay__V1__Namespace record;

  (void)bytes;
  (void)blocks;
  if (code < 0) {
    face_refuse(s, NS_PATH "Create", code, text);
    return;
  }
  ns_to_pb(ns, &record);
  m.ns = &record;
  m.unreachable = names_to_pb(unreachable, &m.n_unreachable);
  face_reply(s, NS_PATH "Create", &m.base, NULL);
}

static void serve_create(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__CreateNamespaceRequest *q = (const void *)*request;
  struct route route = route_from_pb(q->route);
  struct ns_record want;

  if (!q->ns) {
    face_refuse(s, NS_PATH "Create", -EINVAL,
                "the request has no namespace; accepted: `ns` with name, kind and settings");
    return;
  }
  ns_from_pb(q->ns, &want);
  service_ns_create(f->service, &want, &route, face_deadline(f, s), create_done, s);
}

/* Records as a repeated message. The pieces of one allocation; free(*ret). NULL when out of memory. `budget` bounds the
 * strings' and numbers' packed size: *ret_n may be less than n. */
static Forebay__V1__Namespace **records_to_pb(const struct ns_record *records, unsigned n, size_t budget, size_t *ret_n,
                                              void **ret) {
  void **pointers;
  Forebay__V1__Namespace *v = pb_array(n, sizeof *v, &pointers);
  unsigned i = 0;

  if (!v)
    return NULL;
  for (size_t used = 0; i < n; i++) {
    ns_to_pb(&records[i], &v[i]);
    used += forebay__v1__namespace__get_packed_size(&v[i]) + 8;
    if (used > budget)
      break;
  }
  *ret_n = i;
  *ret = v;
  return (Forebay__V1__Namespace **)pointers;
}

static void list_all(void *arg, const struct ns_record *records, unsigned n) {
  struct rpc_session *s = arg;
  Forebay__V1__ListNamespacesReply m = FOREBAY__V1__LIST_NAMESPACES_REPLY__INIT;
  void *v;

  m.namespaces = records_to_pb(records, n, SIZE_MAX, &m.n_namespaces, &v);
  if (!m.namespaces) {
    face_refuse(s, NS_PATH "List", -ENOMEM, NULL);
    return;
  }
  face_reply(s, NS_PATH "List", &m.base, NULL);
  free(v);
}

static void serve_list_ns(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  (void)request; /* it has no fields */
  if (service_ns_list(f->service, false, list_all, s) < 0)
    face_refuse(s, NS_PATH "List", -ENOMEM, NULL);
}

static void show_done(void *arg, int code, const char *text, const struct ns_record *ns, uint64_t bytes,
                      uint64_t blocks, const struct name_list *unreachable) {
  struct rpc_session *s = arg;
  Forebay__V1__ShowNamespaceReply m = FOREBAY__V1__SHOW_NAMESPACE_REPLY__INIT;
  Forebay__V1__Namespace record;

  if (code < 0) {
    face_refuse(s, NS_PATH "Show", code, text);
    return;
  }
  ns_to_pb(ns, &record);
  m.ns = &record;
  m.resident_bytes = bytes;
  m.resident_blocks = blocks;
  m.unreachable = names_to_pb(unreachable, &m.n_unreachable);
  face_reply(s, NS_PATH "Show", &m.base, NULL);
}

static void serve_show(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__ShowNamespaceRequest *q = (const void *)*request;
  struct route route = route_from_pb(q->route);

  service_ns_show(f->service, q->name, &route, face_deadline(f, s), show_done, s);
}

static void drop_done(void *arg, int code, const char *text, const struct ns_record *ns, uint64_t bytes,
                      uint64_t blocks, const struct name_list *unreachable) {
  struct rpc_session *s = arg;
  Forebay__V1__DropNamespaceReply m = FOREBAY__V1__DROP_NAMESPACE_REPLY__INIT;

  (void)ns;
  (void)blocks;
  if (code < 0) {
    face_refuse(s, NS_PATH "Drop", code, text);
    return;
  }
  m.freed_bytes = bytes;
  m.unreachable = names_to_pb(unreachable, &m.n_unreachable);
  face_reply(s, NS_PATH "Drop", &m.base, NULL);
}

static void serve_drop(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__DropNamespaceRequest *q = (const void *)*request;
  struct route route = route_from_pb(q->route);

  service_ns_drop(f->service, q->name, &route, face_deadline(f, s), drop_done, s);
}

/* ---- catalog exchange ------------------------------------------------------------------------------------------- */

struct sync {
  struct face *face;
  struct blob *reply; /* packed by sync_lacks, without freed_bytes, which is known only after it */
  bool called;
};

/* What the caller lacks, as far as one message goes: NS_MAX records of 400 bytes. A partial answer is better than the
 * refusal of one that is too long. */
static void sync_lacks(void *arg, const struct ns_record *records, unsigned n) {
  struct sync *y = arg;
  Forebay__V1__SyncCatalogReply m = FOREBAY__V1__SYNC_CATALOG_REPLY__INIT;
  void *v;

  y->called = true;
  m.records = records_to_pb(records, n, y->face->limits.max_message_bytes - 64, &m.n_records, &v);
  if (!m.records)
    return;
  y->reply = wire_pack(&m.base, NULL);
  free(v);
}

static void serve_sync(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__SyncCatalogRequest *q = (const void *)*request;
  Forebay__V1__SyncCatalogReply freed = FOREBAY__V1__SYNC_CATALOG_REPLY__INIT;
  struct sync y = {.face = f};
  char text[96];
  struct err e;

  if (q->n_records > NS_MAX) {
    snprintf(text, sizeof text, "%zu records; accepted: up to %u", q->n_records, NS_MAX);
    face_refuse(s, NS_PATH "SyncCatalog", -EINVAL, text);
    return;
  }
  struct ns_record *records = calloc(q->n_records + 1, sizeof *records);
  if (!records) {
    face_refuse(s, NS_PATH "SyncCatalog", -ENOMEM, NULL);
    return;
  }
  for (size_t i = 0; i < q->n_records; i++)
    ns_from_pb(q->records[i], &records[i]);
  int r = service_ns_sync(f->service, records, (unsigned)q->n_records, q->ring_hash, &freed.freed_bytes, sync_lacks, &y,
                          &e);
  free(records);
  if (r < 0) {
    blob_unref(&y.reply);
    face_refuse(s, NS_PATH "SyncCatalog", r, e.text);
    return;
  }
  /* Concatenated messages are their union: protobuf's own rule. */
  struct blob *b = y.called && !y.reply ? NULL : wire_pack(&freed.base, NULL);
  if (b && y.reply && blob_append_range(b, y.reply, 0, y.reply->len) < 0)
    blob_unref(&b);
  blob_unref(&y.reply);
  if (b)
    rpc_finish(s, b, 0, NULL);
  else
    face_refuse(s, NS_PATH "SyncCatalog", -ENOMEM, NULL);
}

/* ---- prestage between peers ------------------------------------------------------------------------------------- */

static void warm_done(void *arg, int code, const char *text, const struct warm_result *results, unsigned n) {
  struct rpc_session *s = arg;
  Forebay__V1__WarmReply m = FOREBAY__V1__WARM_REPLY__INIT;
  struct {
    Forebay__V1__WarmResult result; /* first member: the pointers point to it */
    Forebay__V1__ItemStatus status;
  } * v;
  void **pointers;

  if (code < 0) {
    face_refuse(s, PRESTAGE_PATH "Warm", code, text);
    return;
  }
  v = pb_array(n, sizeof *v, &pointers);
  if (!v) {
    face_refuse(s, PRESTAGE_PATH "Warm", -ENOMEM, NULL);
    return;
  }
  for (unsigned i = 0; i < n; i++) {
    forebay__v1__warm_result__init(&v[i].result);
    status_to_pb(results[i].code, results[i].text, &v[i].status);
    v[i].result.status = &v[i].status;
    v[i].result.resident_bytes = results[i].resident_bytes;
    v[i].result.origin_bytes = results[i].origin_bytes;
  }
  m.n_results = n;
  m.results = (Forebay__V1__WarmResult **)pointers;
  face_reply(s, PRESTAGE_PATH "Warm", &m.base, NULL);
  free(v);
}

static void serve_warm(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__WarmRequest *q = (const void *)*request;
  struct warm_item items[WARM_MAX];
  char text[96];

  if (q->n_items < 1 || q->n_items > WARM_MAX) {
    snprintf(text, sizeof text, "%zu items; accepted: 1 to %u per call", q->n_items, WARM_MAX);
    face_refuse(s, PRESTAGE_PATH "Warm", -EINVAL, text);
    return;
  }
  for (size_t i = 0; i < q->n_items; i++)
    items[i] = (struct warm_item){
        .key = q->items[i]->key, .etag = q->items[i]->etag, .size = q->items[i]->size, .chunk = q->items[i]->chunk};
  service_warm(f->service,
               &(struct warm_req){.ns = q->ns,
                                  .items = items,
                                  .n = (unsigned)q->n_items,
                                  .check_only = q->check_only,
                                  .route = route_from_pb(q->route),
                                  .deadline_ns = face_deadline(f, s)},
               warm_done, s);
}

/* ---- cluster ---------------------------------------------------------------------------------------------------- */

static void serve_ring(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  Forebay__V1__GetRingReply m = FOREBAY__V1__GET_RING_REPLY__INIT;
  struct ring *ring = service_ring(f->service);
  unsigned n = ring_size(ring);
  struct hash128 h = ring_hash(ring);
  void **pointers;
  Forebay__V1__Member *v = pb_array(n, sizeof *v, &pointers);

  (void)request; /* it has no fields */
  if (!v) {
    ring_unref(&ring);
    face_refuse(s, CLUSTER_PATH "GetRing", -ENOMEM, NULL);
    return;
  }
  for (unsigned i = 0; i < n; i++) {
    const struct ring_member *member = ring_member(ring, i);
    forebay__v1__member__init(&v[i]);
    v[i].name = pb_str(member->name);
    v[i].address = pb_str(member->address);
    v[i].weight = member->weight;
    v[i].domain = pb_str(member->domain);
  }
  m.epoch = ring_epoch(ring);
  m.slots = ring_slots(ring);
  m.ring_hash = h.hi;
  m.ring_hash_lo = h.lo;
  m.n_members = n;
  m.members = (Forebay__V1__Member **)pointers;
  m.peer = pb_str(service_self(f->service));
  face_reply(s, CLUSTER_PATH "GetRing", &m.base, NULL);
  free(v);
  ring_unref(&ring);
}

struct stats_call {
  struct face *face;
  struct rpc_session *session;
};

/* The face's own counters, beside the rows of metrics.def. */
static unsigned rpc_counters(const struct rpc_server_stats *st, struct service_counter ret[8]) {
  const struct service_counter rows[] = {
      {"rpc_calls", st->calls},
      {"rpc_accepted", st->accepted},
      {"rpc_refused_full", st->refused_full},
      {"rpc_refused_preface", st->refused_preface},
      {"rpc_refused_calls", st->refused_calls},
      {"rpc_accept_errors", st->accept_errors},
  };
  memcpy(ret, rows, sizeof rows);
  return sizeof rows / sizeof *rows;
}

static void with_stats(void *arg, const struct service_stats *st) {
  const struct stats_call *c = arg;
  Forebay__V1__GetStatsReply m = FOREBAY__V1__GET_STATS_REPLY__INIT;
  struct ring *ring = service_ring(c->face->service);
  struct service_counter own[8];
  struct rpc_server_stats rs;
  void **counter_pointers, **peer_pointers;

  rpc_server_stats(c->face->server, &rs);
  unsigned n_own = rpc_counters(&rs, own), n = st->n_counters + n_own;
  Forebay__V1__Counter *counters = pb_array(n, sizeof *counters, &counter_pointers);
  Forebay__V1__PeerHealth *peers = pb_array(st->n_peers, sizeof *peers, &peer_pointers);
  if (!counters || !peers) {
    face_refuse(c->session, CLUSTER_PATH "GetStats", -ENOMEM, NULL);
    goto out;
  }
  for (unsigned i = 0; i < n; i++) {
    const struct service_counter *row = i < st->n_counters ? &st->counters[i] : &own[i - st->n_counters];
    forebay__v1__counter__init(&counters[i]);
    counters[i].name = pb_str(row->name);
    counters[i].value = row->value;
  }
  for (unsigned i = 0; i < st->n_peers; i++) {
    forebay__v1__peer_health__init(&peers[i]);
    peers[i].name = pb_str(st->peers[i].name);
    peers[i].reachable = st->peers[i].reachable;
    peers[i].text = pb_str(st->peers[i].text);
  }
  m.peer = pb_str(service_self(c->face->service));
  m.version = pb_str(FOREBAY_VERSION);
  m.uptime_ns = st->uptime_ns;
  m.epoch = ring_epoch(ring);
  m.ring_hash = ring_hash(ring).hi;
  m.ram_used_bytes = st->ram_used_bytes;
  m.ram_max_bytes = st->ram_max_bytes;
  m.connections = rs.connections;
  m.connections_max = c->face->limits.max_connections;
  m.n_counters = n;
  m.counters = (Forebay__V1__Counter **)counter_pointers;
  m.wall_clock_ns = clock_wall_ns();
  m.draining = st->draining;
  m.n_peers = st->n_peers;
  m.peers = (Forebay__V1__PeerHealth **)peer_pointers;
  face_reply(c->session, CLUSTER_PATH "GetStats", &m.base, NULL);
out:
  free(counters);
  free(peers);
  ring_unref(&ring);
}

static void serve_stats(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  (void)request; /* it has no fields */
  service_stats(f->service, with_stats, &(struct stats_call){f, s});
}

static void locate_done(void *arg, int code, const char *text, const struct locate_reply *r) {
  struct rpc_session *s = arg;
  Forebay__V1__LocateReply m = FOREBAY__V1__LOCATE_REPLY__INIT;

  if (code < 0) {
    face_refuse(s, CLUSTER_PATH "Locate", code, text);
    return;
  }
  m.slot = r->slot;
  m.owners = names_to_pb(&(struct name_list){r->n, r->owners}, &m.n_owners);
  face_reply(s, CLUSTER_PATH "Locate", &m.base, NULL);
}

static void serve_locate(struct face *f, struct rpc_session *s, ProtobufCMessage **request) {
  const Forebay__V1__LocateRequest *q = (const void *)*request;

  service_locate(f->service, q->ns, q->key, q->offset, face_deadline(f, s), locate_done, s);
}

const struct face_method admin_methods[] = {
    {NS_PATH "Create", &forebay__v1__create_namespace_request__descriptor, serve_create},
    {NS_PATH "List", &forebay__v1__list_namespaces_request__descriptor, serve_list_ns},
    {NS_PATH "Show", &forebay__v1__show_namespace_request__descriptor, serve_show},
    {NS_PATH "Drop", &forebay__v1__drop_namespace_request__descriptor, serve_drop},
    {NS_PATH "SyncCatalog", &forebay__v1__sync_catalog_request__descriptor, serve_sync},
    {PRESTAGE_PATH "Run", &forebay__v1__prestage_request__descriptor, serve_prestage},
    {PRESTAGE_PATH "Warm", &forebay__v1__warm_request__descriptor, serve_warm},
    {CLUSTER_PATH "GetRing", &forebay__v1__get_ring_request__descriptor, serve_ring},
    {CLUSTER_PATH "GetStats", &forebay__v1__get_stats_request__descriptor, serve_stats},
    {CLUSTER_PATH "Locate", &forebay__v1__locate_request__descriptor, serve_locate},
    {.path = NULL},
};
