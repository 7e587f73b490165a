/* test_face_admin.c - prestage, namespaces, cluster and health over gRPC; the drain; and what stops a start. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "proto/wire.h"
#include "tests/lib/face_fixture.h"
#include "tests/lib/testlib.h"

/* ---- prestage ---------------------------------------------------------------------------------------------------- */

static struct stream *prestage(struct face_fixture *f, const char *ns, const char *pattern, bool background) {
  Forebay__V1__PrestageRequest q = FOREBAY__V1__PRESTAGE_REQUEST__INIT;
  struct stream *s = stream_open(&f->c, "/forebay.v1.Prestage/Run", -1);

  q.ns = face_str(ns);
  q.pattern = face_str(pattern);
  q.background = background;
  assert_true(stream_send(s, &q.base, NULL));
  stream_close_send(s);
  return s;
}

static Forebay__V1__PrestageProgress *progress_of(struct stream *s) {
  struct blob *b = stream_recv(s);
  ProtobufCMessage *m = NULL;

  if (b)
    assert_int_equal(wire_unpack(&forebay__v1__prestage_progress__descriptor, b, &m, NULL), 0);
  blob_unref(&b);
  return (Forebay__V1__PrestageProgress *)m;
}

static void make_origin(struct face_fixture *f, const char *name, off_t size) {
  char *dir = test_printf("%s/origin", f->dir), *path = test_printf("%s/%s", dir, name);
  mkdir(dir, 0755);
  test_write_file(path, "x", 1);
  assert_int_equal(truncate(path, size), 0);
  free(path);
  free(dir);
}

static bool no_run_active(void *arg);

static void test_prestage(void **state) {
  struct face_fixture *f = *state;
  Forebay__V1__PrestageProgress *p, *last = NULL;
  const char *text;

  for (unsigned i = 0; i < 30; i++) {
    char name[16];
    snprintf(name, sizeof name, "%c%02u", i % 3 ? 'a' : 'b', i);
    make_origin(f, name, 100000 + i);
  }
  face_create_dataset(f);
  struct stream *s = prestage(f, "files", "a*", false);
  for (; (p = progress_of(s)); last = p) {
    if (last) {
      assert_false(last->done);
      forebay__v1__prestage_progress__free_unpacked(last, NULL);
    }
  }
  if (stream_end(s, &text) != 0)
    fail_msg("%s", text);
  assert_non_null(last);
  assert_true(last->done && last->listed);
  assert_int_equal(last->files_total, 20);
  assert_int_equal(last->files_resident, 20);
  assert_int_equal(last->bytes_resident, last->bytes_total);
  assert_int_equal(last->files_failed, 0);
  assert_true(last->bytes_total > 20 * 100000);
  forebay__v1__prestage_progress__free_unpacked(last, NULL);
  stream_free(&s);

  s = prestage(f, "files", "", true);
  p = progress_of(s);
  assert_non_null(p);
  assert_false(p->done || p->listed);
  forebay__v1__prestage_progress__free_unpacked(p, NULL);
  assert_null(stream_recv(s));
  assert_int_equal(stream_end(s, NULL), 0);
  stream_free(&s);
  assert_true(test_wait(no_run_active, f, 20000));

  s = prestage(f, "none", "", false);
  assert_null(stream_recv(s));
  assert_int_equal(stream_end(s, NULL), -FB_ENONS);
  stream_free(&s);
  s = prestage(f, "files", "[", false);
  assert_null(stream_recv(s));
  assert_int_equal(stream_end(s, NULL), -EINVAL);
  stream_free(&s);
}

struct stopper {
  struct face_fixture *f;
  int drain_ms;
  unsigned cancelled;
  atomic_bool stopped;
};
static void *stop(void *arg) {
  struct stopper *s = arg;
  s->cancelled = daemon_stop(s->f->d, deadline_in_ms(s->drain_ms));
  atomic_store(&s->stopped, true);
  return NULL;
}

/* A run over a file of a terabyte ends when its client leaves, and when the peer drains. */
static void test_prestage_given_up(void **state) {
  struct face_fixture *f = *state;
  struct stopper st = {.f = f, .drain_ms = 60000};
  const char *text;

  make_origin(f, "huge", (off_t)1 << 40);
  face_create_dataset(f);
  struct stream *s = prestage(f, "files", "", false);
  forebay__v1__prestage_progress__free_unpacked(progress_of(s), NULL);
  assert_false(no_run_active(f));
  stream_cancel(s);
  assert_int_equal(stream_end(s, NULL), -ECANCELED);
  stream_free(&s);
  assert_true(test_wait(no_run_active, f, 20000));

  s = prestage(f, "files", "", false);
  forebay__v1__prestage_progress__free_unpacked(progress_of(s), NULL);
  int64_t began = clock_mono_ns();
  stop(&st);
  assert_int_equal(st.cancelled, 0);
  assert_true(clock_mono_ns() - began < 30 * NS_PER_S);
  for (Forebay__V1__PrestageProgress *p; (p = progress_of(s));)
    forebay__v1__prestage_progress__free_unpacked(p, NULL);
  assert_int_equal(stream_end(s, &text), -FB_EPEERDOWN);
  assert_non_null(strstr(text, "another"));
  stream_free(&s);
}

/* ---- namespaces, cluster ----------------------------------------------------------------------------------------- */

static void test_namespaces(void **state) {
  struct face_fixture *f = *state;
  Forebay__V1__ListNamespacesRequest lq = FOREBAY__V1__LIST_NAMESPACES_REQUEST__INIT;
  Forebay__V1__ShowNamespaceRequest sq = FOREBAY__V1__SHOW_NAMESPACE_REQUEST__INIT;
  Forebay__V1__DropNamespaceRequest dq = FOREBAY__V1__DROP_NAMESPACE_REQUEST__INIT;
  Forebay__V1__SyncCatalogRequest yq = FOREBAY__V1__SYNC_CATALOG_REQUEST__INIT;

  struct reply r = face_call(&f->c, SPACES "List", &lq.base, &forebay__v1__list_namespaces_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  assert_int_equal(((const Forebay__V1__ListNamespacesReply *)(const void *)r.m)->n_namespaces, 0);
  reply_fini(&r);
  face_create(f, "one");
  face_create(f, "two");
  face_put_good(f, "one", "k", 100000, 1u << 20);
  r = face_call(&f->c, SPACES "List", &lq.base, &forebay__v1__list_namespaces_reply__descriptor, 0);
  const Forebay__V1__ListNamespacesReply *l = (const void *)r.m;
  assert_int_equal(l->n_namespaces, 2);
  assert_string_equal(l->namespaces[0]->name, "one");
  assert_int_equal(l->namespaces[0]->block_bytes, 1u << 20);
  assert_int_equal(l->namespaces[0]->ack, FOREBAY__V1__ACK_LEVEL__ACK_LEVEL_RAM);
  reply_fini(&r);

  sq.name = face_str("one");
  r = face_call(&f->c, SPACES "Show", &sq.base, &forebay__v1__show_namespace_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  assert_true(((const Forebay__V1__ShowNamespaceReply *)(const void *)r.m)->resident_bytes >= 100000);
  reply_fini(&r);
  dq.name = face_str("one");
  r = face_call(&f->c, SPACES "Drop", &dq.base, &forebay__v1__drop_namespace_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  assert_true(((const Forebay__V1__DropNamespaceReply *)(const void *)r.m)->freed_bytes >= 100000);
  reply_fini(&r);
  r = face_call(&f->c, SPACES "Show", &sq.base, &forebay__v1__show_namespace_reply__descriptor, 0);
  assert_int_equal(r.code, -FB_ENONS);
  reply_fini(&r);

  r = face_call(&f->c, SPACES "SyncCatalog", &yq.base, &forebay__v1__sync_catalog_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  const Forebay__V1__SyncCatalogReply *y = (const void *)r.m;
  assert_int_equal(y->n_records, 2); /* a tombstone too */
  assert_int_equal(y->records[0]->dropped + y->records[1]->dropped, 1);
  reply_fini(&r);

  Forebay__V1__Namespace record = FOREBAY__V1__NAMESPACE__INIT, **records = calloc(10001, sizeof *records);
  for (unsigned i = 0; i < 10001; i++)
    records[i] = &record;
  yq.n_records = 10001;
  yq.records = records;
  r = face_call(&f->c, SPACES "SyncCatalog", &yq.base, &forebay__v1__sync_catalog_reply__descriptor, 0);
  assert_int_equal(r.code, -EINVAL);
  assert_non_null(strstr(r.text, "10000"));
  reply_fini(&r);
  free(records);
}

static uint64_t counter(const Forebay__V1__GetStatsReply *m, const char *name) {
  for (size_t i = 0; i < m->n_counters; i++)
    if (strcmp(m->counters[i]->name, name) == 0)
      return m->counters[i]->value;
  fail_msg("no counter %s", name);
  return 0;
}

static bool no_run_active(void *arg) {
  struct face_fixture *f = arg;
  Forebay__V1__GetStatsRequest q = FOREBAY__V1__GET_STATS_REQUEST__INIT;
  struct reply r = face_call(&f->c, CLUSTER "GetStats", &q.base, &forebay__v1__get_stats_reply__descriptor, 0);

  assert_int_equal(r.code, 0);
  uint64_t n = counter((const Forebay__V1__GetStatsReply *)(const void *)r.m, "prestage_active");
  reply_fini(&r);
  return n == 0;
}

static void test_cluster(void **state) {
  struct face_fixture *f = *state;
  Forebay__V1__GetRingRequest rq = FOREBAY__V1__GET_RING_REQUEST__INIT;
  Forebay__V1__GetStatsRequest sq = FOREBAY__V1__GET_STATS_REQUEST__INIT;
  Forebay__V1__LocateRequest lq = FOREBAY__V1__LOCATE_REQUEST__INIT;
  char address[64];

  struct reply r = face_call(&f->c, CLUSTER "GetRing", &rq.base, &forebay__v1__get_ring_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  const Forebay__V1__GetRingReply *ring = (const void *)r.m;
  snprintf(address, sizeof address, "127.0.0.1:%u", daemon_port(f->d));
  assert_int_equal(ring->n_members, 1);
  assert_string_equal(ring->members[0]->name, "solo");
  assert_string_equal(ring->members[0]->address, address);
  assert_string_equal(ring->peer, "solo");
  assert_int_equal(ring->slots, 65536);
  assert_true(ring->ring_hash != 0 && ring->ring_hash_lo != 0);
  uint64_t hash = ring->ring_hash;
  reply_fini(&r);

  r = face_call(&f->c, CLUSTER "GetStats", &sq.base, &forebay__v1__get_stats_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  const Forebay__V1__GetStatsReply *st = (const void *)r.m;
  assert_string_equal(st->peer, "solo");
  assert_string_equal(st->version, FOREBAY_VERSION);
  assert_true(st->ring_hash == hash);
  assert_int_equal(st->ram_max_bytes, 128u << 20);
  assert_int_equal(st->connections, 1);
  assert_int_equal(st->connections_max, 64);
  assert_int_equal(counter(st, "rpc_accepted"), 1);
  assert_int_equal(counter(st, "rpc_calls"), 1); /* this one */
  assert_int_equal(counter(st, "get_requests"), 0);
  assert_true(llabs(st->wall_clock_ns - clock_wall_ns()) < 60 * NS_PER_S);
  assert_false(st->draining);
  reply_fini(&r);

  face_create(f, "d");
  lq.ns = face_str("d");
  lq.key = face_str("any/key");
  r = face_call(&f->c, CLUSTER "Locate", &lq.base, &forebay__v1__locate_reply__descriptor, 0);
  assert_int_equal(r.code, 0);
  const Forebay__V1__LocateReply *where = (const void *)r.m;
  assert_int_equal(where->n_owners, 1);
  assert_string_equal(where->owners[0], "solo");
  reply_fini(&r);
  /* A caller with another ring is told so. */
  Forebay__V1__GetRequest gq = FOREBAY__V1__GET_REQUEST__INIT;
  Forebay__V1__Route route = FOREBAY__V1__ROUTE__INIT;
  gq.ns = face_str("d");
  gq.key = face_str("k");
  gq.route = &route;
  route.ring_hash = hash + 1;
  r = face_call(&f->c, CACHE "Get", &gq.base, &forebay__v1__get_reply__descriptor, 0);
  assert_int_equal(r.code, -FB_ERING);
  reply_fini(&r);
}

/* ---- health and drain -------------------------------------------------------------------------------------------- */

static int check_health(struct face_fixture *f, const char *service, int *ret_status) {
  Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

  q.service = face_str(service);
  struct reply r = face_call(&f->c, HEALTH "Check", &q.base, &grpc__health__v1__health_check_response__descriptor, 0);
  if (r.code == 0)
    *ret_status = (int)((const Grpc__Health__V1__HealthCheckResponse *)(const void *)r.m)->status;
  int code = r.code;
  reply_fini(&r);
  return code;
}

static struct stream *watch(struct face_fixture *f, const char *service) {
  Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
  struct stream *s = stream_open(&f->c, HEALTH "Watch", -1);

  q.service = face_str(service);
  assert_true(stream_send(s, &q.base, NULL));
  stream_close_send(s);
  return s;
}

static int watched(struct stream *s) {
  struct blob *b = stream_recv(s);
  ProtobufCMessage *m;

  if (!b)
    return -1;
  assert_int_equal(wire_unpack(&grpc__health__v1__health_check_response__descriptor, b, &m, NULL), 0);
  int status = (int)((const Grpc__Health__V1__HealthCheckResponse *)(const void *)m)->status;
  protobuf_c_message_free_unpacked(m, NULL);
  blob_unref(&b);
  return status;
}

static void test_health(void **state) {
  struct face_fixture *f = *state;
  int status = -1;
  pthread_t t;

  assert_int_equal(check_health(f, "", &status), 0);
  assert_int_equal(status, GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
  assert_int_equal(check_health(f, "forebay.v1.Cache", &status), 0);
  assert_int_equal(check_health(f, "forebay.v2.Cache", &status), -ENOENT);

  struct stream *w = watch(f, "forebay.v1.Cache"), *unknown = watch(f, "what"), *gone = watch(f, "");
  assert_int_equal(watched(w), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
  assert_int_equal(watched(gone), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
  assert_int_equal(watched(unknown), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN);
  stream_cancel(gone);
  assert_int_equal(stream_end(gone, NULL), -ECANCELED);
  stream_free(&gone);
  assert_false(stream_ended(w));

  /* The drain is told to watches, which end by themselves: nothing has to be cancelled, nothing waits. */
  struct stopper s = {.f = f, .drain_ms = 20000};
  int64_t began = clock_mono_ns();
  assert_int_equal(pthread_create(&t, NULL, stop, &s), 0);
  assert_int_equal(watched(w), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING);
  assert_int_equal(watched(w), -1);
  assert_int_equal(watched(unknown), GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN);
  assert_int_equal(watched(unknown), -1);
  assert_int_equal(stream_end(w, NULL), -FB_EPEERDOWN);
  stream_end(unknown, NULL);
  stream_free(&w);
  stream_free(&unknown);
  pthread_join(t, NULL);
  assert_int_equal(s.cancelled, 0);
  assert_true(clock_mono_ns() - began < 10 * NS_PER_S);
}

/* A watch per thread that comes and goes while the peer drains. */
static void *watch_and_leave(void *arg) {
  struct face_fixture *f = arg;
  for (unsigned i = 0; i < 50; i++) {
    Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    struct stream *s = stream_open(&f->c, HEALTH "Watch", 5000);
    if (stream_send(s, &q.base, NULL) && i % 3)
      watched(s);
    stream_cancel(s);
    stream_end(s, NULL);
    stream_free(&s);
  }
  return NULL;
}

static void test_watches_leave_during_drain(void **state) {
  struct face_fixture *f = *state;
  struct stopper s = {.f = f, .drain_ms = 20000};
  pthread_t t[4], stopping;

  for (unsigned i = 0; i < 4; i++)
    assert_int_equal(pthread_create(&t[i], NULL, watch_and_leave, f), 0);
  assert_int_equal(pthread_create(&stopping, NULL, stop, &s), 0);
  for (unsigned i = 0; i < 4; i++)
    pthread_join(t[i], NULL);
  pthread_join(stopping, NULL);
}

static bool is_down(void *arg) {
  struct face_fixture *f = arg;
  struct face_client fresh;
  Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

  face_client_up(&fresh, daemon_port(f->d));
  struct reply r =
      face_call(&fresh, HEALTH "Check", &q.base, &grpc__health__v1__health_check_response__descriptor, 500);
  bool refused = r.code == -FB_EPEERDOWN || r.code == -ETIMEDOUT;
  reply_fini(&r);
  face_client_down(&fresh);
  return refused;
}

static void test_drain_finishes_calls(void **state) {
  struct face_fixture *f = *state;
  struct stopper st = {.f = f, .drain_ms = 20000};
  struct face_try_put busy = {f, "other", -FB_EBUSY};
  Forebay__V1__PutRequest q = FOREBAY__V1__PUT_REQUEST__INIT;
  struct blob *v = face_value("k", VALUE_MAX);
  struct stream *s = stream_open(&f->c, CACHE "Put", 0);
  const char *text;
  bool sent = true;
  pthread_t t;

  face_create(f, "d");
  q.ns = face_str("d");
  q.key = face_str("k");
  q.size = VALUE_MAX;
  q.crc32c = blob_crc32c(v);
  for (size_t off = 0; sent && off < VALUE_MAX; off += 1u << 20) {
    struct blob *p = face_piece(v, off, 1u << 20);
    sent = stream_send(s, &q.base, p);
    blob_unref(&p);
    forebay__v1__put_request__init(&q);
    if (off)
      continue;
    assert_true(test_wait(face_put_answers, &busy, 5000)); /* it has arrived */
    assert_int_equal(pthread_create(&t, NULL, stop, &st), 0);
    assert_true(test_wait(is_down, f, 10000)); /* new connections are not taken any more */
    assert_false(atomic_load(&st.stopped));
  }
  stream_close_send(s);
  struct blob *reply = stream_recv(s);
  int code = stream_end(s, &text);
  if (!sent || code || !reply)
    fail_msg("a put that was in flight: %d %s", code, text);
  blob_unref(&reply);
  stream_free(&s);
  pthread_join(t, NULL);
  assert_int_equal(st.cancelled, 0);
  blob_unref(&v);
}

static void test_drain_cancels_the_rest(void **state) {
  struct face_fixture *f = *state;
  struct stopper st = {.f = f, .drain_ms = 100};
  struct face_try_put busy = {f, "other", -FB_EBUSY};

  face_create(f, "d");
  struct stream *s = face_half_a_put(f, "k", VALUE_MAX, 0);
  assert_true(test_wait(face_put_answers, &busy, 5000)); /* it has arrived */
  stop(&st);
  assert_int_equal(st.cancelled, 1);
  assert_true(stream_end(s, NULL) < 0);
  stream_free(&s);
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

static int start_with(struct face_fixture *f, const char *listen, const char *state_dir, struct err *e) {
  struct server_conf conf;
  struct daemon *d = NULL;
  char *listen_set = test_printf("peer.listen=%s", listen), *state_set = test_printf("peer.state_dir=%s", state_dir);
  char *sets[] = {(char[]){"peer.name=other"}, (char[]){"ram.max_bytes=16MiB"}, (char[]){"rpc.max_connections=8"},
                  listen_set, state_set};

  (void)f;
  assert_int_equal(server_conf_load(&conf, NULL, sets, 5, e), 0);
  int r = daemon_start(&d, &conf, e);
  daemon_free(&d);
  server_conf_fini(&conf);
  free(listen_set);
  free(state_set);
  return r;
}

static void test_start_refusals(void **state) {
  struct face_fixture *f = *state;
  char *used = test_printf("127.0.0.1:%u", daemon_port(f->d)), *locked = test_printf("%s/state", f->dir);
  char *fresh = test_printf("%s/fresh", f->dir), *deep = test_printf("%s/no/such", f->dir);
  char *file = test_printf("%s/file", f->dir);
  struct err e;

  test_write_file(file, "x", 1);
  assert_int_equal(start_with(f, used, fresh, &e), -EADDRINUSE);
  assert_non_null(strstr(e.text, used));
  assert_int_equal(start_with(f, "127.0.0.1:0", locked, &e), -EBUSY);
  assert_non_null(strstr(e.text, "in use by another forebayd"));
  assert_int_equal(start_with(f, "127.0.0.1:0", deep, &e), -ENOENT);
  assert_non_null(strstr(e.text, deep));
  assert_int_equal(start_with(f, "127.0.0.1:0", file, &e), -ENOTDIR);
  assert_int_equal(start_with(f, "127.0.0.1:0", fresh, &e), 0); /* the first refusal left nothing locked */
  free(used);
  free(locked);
  free(fresh);
  free(deep);
  free(file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_prestage, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_prestage_given_up, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_namespaces, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_cluster, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_health, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_watches_leave_during_drain, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_drain_finishes_calls, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_drain_cancels_the_rest, face_up, face_down),
      cmocka_unit_test_setup_teardown(test_start_refusals, face_up, face_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
