/* test_peer.c - calls to one peer, and what its breaker makes of how they end. */
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

#include <cmocka.h>

#include "client/lib/keys.h"
#include "client/lib/peer.h"
#include "common/clock.h"
#include "forebay/v1/admin.pb-c.h"
#include "forebay/v1/cache.pb-c.h"
#include "tests/lib/fake_peer.h"
#include "tests/lib/testlib.h"

struct setup {
  struct fake_cluster *f;
  struct rpc_loop *loop;
  struct peer *p;
};

static struct setup up(void) {
  struct setup s = {.f = fake_new(1)};
  struct err e;

  assert_int_equal(rpc_loop_new(&s.loop, 2, "test", &e), 0);
  assert_int_equal(peer_new(&s.p, s.loop, fake_address(s.f, 0), MESSAGE_MAX_BYTES, &e), 0);
  return s;
}

static void down(struct setup *s) {
  peer_unref(&s->p);
  rpc_loop_free(&s->loop);
  fake_free(&s->f);
}

/* What came of one call. */
struct outcome {
  atomic_int done; /* times */
  int code;
  char text[256];
  const ProtobufCMessage *reply;
  struct blob *payload;
  atomic_uint messages, damaged;
  unsigned stop_at;
  pthread_t thread;
};

static void on_reply(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  struct outcome *o = arg;

  o->code = code;
  snprintf(o->text, sizeof o->text, "%s", text ? text : "");
  o->reply = reply;
  o->payload = payload ? blob_ref(payload) : NULL;
  o->thread = pthread_self();
  atomic_fetch_add(&o->done, 1);
}

static bool on_each(void *arg, const ProtobufCMessage *reply, const ProtobufCMessage *inner, struct blob *payload) {
  struct outcome *o = arg;

  o->reply = reply;
  if (inner && (!payload || blob_crc32c(payload) != ((const Forebay__V1__GetReply *)inner)->crc32c))
    atomic_fetch_add(&o->damaged, 1); /* not asserted: cmocka cannot fail on this thread */
  return atomic_fetch_add(&o->messages, 1) + 1 != o->stop_at;
}

static void on_done(void *arg, int code, const char *text) { on_reply(arg, code, text, NULL, NULL); }

static bool is_done(void *arg) { return atomic_load(&((struct outcome *)arg)->done) > 0; }

static const Forebay__V1__GetStatsRequest stats_request = FOREBAY__V1__GET_STATS_REQUEST__INIT;

static struct peer_call_args stats_args(int64_t timeout_ms) {
  return (struct peer_call_args){.method = "/forebay.v1.Cluster/GetStats",
                                 .request = &stats_request.base,
                                 .reply_type = &forebay__v1__get_stats_reply__descriptor,
                                 .deadline_ns = deadline_in_ms(timeout_ms)};
}

/* Calls and waits; returns the code. */
static int call(struct setup *s, const struct peer_call_args *a, struct outcome *o) {
  *o = (struct outcome){0};
  struct rpc_call *h = peer_call(s->p, a, on_reply, o);

  assert_true(test_wait(is_done, o, 20000));
  assert_int_equal(o->done, 1);
  rpc_call_unref(&h);
  return o->code;
}

static void test_unary(void **state) {
  struct setup s = up();
  struct outcome o;
  struct peer_stats st;
  Forebay__V1__GetRequest get = FOREBAY__V1__GET_REQUEST__INIT;
  struct peer_call_args a = stats_args(10000);

  (void)state;
  a.keep_reply = true;
  assert_int_equal(call(&s, &a, &o), 0);
  assert_string_equal(((const Forebay__V1__GetStatsReply *)o.reply)->version, "9.9.9");
  protobuf_c_message_free_unpacked((ProtobufCMessage *)(uintptr_t)o.reply, NULL);
  fake_object(s.f, "k", 100000, 1);
  get.ns = (char *)(uintptr_t)FAKE_NS;
  get.key = (char *)(uintptr_t) "k";
  get.length = 100000;
  a = (struct peer_call_args){.method = "/forebay.v1.Cache/Get",
                              .request = &get.base,
                              .reply_type = &forebay__v1__get_reply__descriptor,
                              .want_payload = true,
                              .deadline_ns = deadline_in_ms(10000)};
  assert_int_equal(call(&s, &a, &o), 0);
  assert_int_equal(o.payload->len, 100000);
  uint8_t *copy = malloc(100000);
  blob_read(o.payload, 0, copy, 100000);
  assert_memory_equal(copy, fake_bytes(s.f, "k", NULL), 100000);
  free(copy);
  blob_unref(&o.payload);
  peer_stats(s.p, &st);
  assert_int_equal(st.calls, 2);
  assert_int_equal(st.failures, 0);
  down(&s);
}

/* Answers never count against a peer, however bad they are. */
static void test_answers_are_no_failures(void **state) {
  static const int codes[] = {-ENOENT, -EIO, -FB_EBUSY, -FB_ERING, -EACCES, -ETIMEDOUT};
  struct setup s = up();
  struct outcome o;
  struct peer_stats st;

  (void)state;
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    fake_rules_clear(s.f);
    fake_rule(s.f, 0, &(struct fake_rule){.op = FAKE_GET_STATS, .what = FAKE_CODE, .code = codes[i]});
    for (int k = 0; k < 5; k++) {
      struct peer_call_args a = stats_args(10000);
      assert_int_equal(call(&s, &a, &o), codes[i]);
      assert_string_equal(o.text, "as the test wants it");
      assert_null(o.reply);
    }
    assert_true(peer_usable(s.p));
  }
  fake_rules_clear(s.f);
  fake_rule(s.f, 0, &(struct fake_rule){.op = FAKE_GET_STATS, .what = FAKE_GARBAGE});
  for (int k = 0; k < 5; k++) {
    struct peer_call_args a = stats_args(10000);
    assert_int_equal(call(&s, &a, &o), -FB_EPROTO);
  }
  assert_true(peer_usable(s.p));
  peer_stats(s.p, &st);
  assert_int_equal(st.failures, 0);
  down(&s);
}

static bool goes_again(void *arg) {
  struct setup *s = arg;
  struct outcome o;
  struct peer_call_args a = stats_args(1000);

  return call(s, &a, &o) == 0;
}

static void test_breaker(void **state) {
  struct setup s = up();
  struct outcome o;
  struct peer_stats st;
  struct peer_call_args a;
  char why[200];

  (void)state;
  fake_stop(s.f, 0);
  for (int i = 0; i < 3; i++) {
    assert_true(peer_usable(s.p));
    a = stats_args(5000);
    assert_int_equal(call(&s, &a, &o), -FB_EPEERDOWN);
  }
  assert_false(peer_usable(s.p));
  /* refused from this very call, with the reason, and without a handle */
  o = (struct outcome){0};
  a = stats_args(5000);
  assert_null(peer_call(s.p, &a, on_reply, &o));
  assert_int_equal(o.done, 1);
  assert_int_equal(o.code, -FB_EPEERDOWN);
  assert_true(pthread_equal(o.thread, pthread_self()));
  assert_non_null(strstr(o.text, fake_address(s.f, 0)));
  o = (struct outcome){0};
  assert_null(peer_stream(s.p, &a, NULL, on_each, on_done, &o));
  assert_int_equal(o.code, -FB_EPEERDOWN);
  struct peer_paced *paced = (struct peer_paced *)&o;
  o = (struct outcome){0};
  peer_paced_open(&paced, s.p, &a, on_each, on_done, &o);
  assert_null(paced);
  assert_int_equal(o.code, -FB_EPEERDOWN);
  struct blob *value = blob_copy("v", 1);
  Forebay__V1__PutRequest head = FOREBAY__V1__PUT_REQUEST__INIT;
  o = (struct outcome){0};
  assert_null(peer_put(s.p, &head.base, value, deadline_in_ms(1000), on_reply, &o));
  assert_int_equal(o.code, -FB_EPEERDOWN);
  blob_unref(&value);
  peer_stats(s.p, &st);
  assert_int_equal(st.failures, 3);
  assert_int_equal(st.refused_open, 4);
  peer_last_failure(s.p, why, sizeof why);
  assert_non_null(strstr(why, "refused"));
  /* the doctor may look all the same */
  fake_start(s.f, 0);
  a = stats_args(5000);
  a.ignore_breaker = true;
  o = (struct outcome){0};
  call(&s, &a, &o);
  assert_true(o.code == 0 || o.code == -FB_EPEERDOWN); /* gRPC may still wait to connect again */
  /* and after the pause a probe closes it */
  assert_true(test_wait(goes_again, &s, 20000));
  assert_true(peer_usable(s.p));
  down(&s);
}

/* A deadline that passes in silence counts; one that passes while the peer answers other calls does not. */
static void test_deadlines(void **state) {
  struct setup s = up();
  struct outcome o, slow = {0};
  struct peer_stats st;
  struct peer_call_args a;

  (void)state;
  a = stats_args(5000);
  assert_int_equal(call(&s, &a, &o), 0);
  fake_rule(s.f, 0, &(struct fake_rule){.op = FAKE_GET_STATS, .what = FAKE_HANG});
  a = stats_args(100);
  assert_int_equal(call(&s, &a, &o), -ETIMEDOUT);
  peer_stats(s.p, &st);
  assert_int_equal(st.failures, 1);

  const Forebay__V1__GetRingRequest ring = FOREBAY__V1__GET_RING_REQUEST__INIT;
  a = stats_args(400);
  struct rpc_call *h = peer_call(s.p, &a, on_reply, &slow);
  a = (struct peer_call_args){.method = "/forebay.v1.Cluster/GetRing",
                              .request = &ring.base,
                              .reply_type = &forebay__v1__get_ring_reply__descriptor,
                              .deadline_ns = deadline_in_ms(5000)};
  assert_int_equal(call(&s, &a, &o), 0);
  assert_true(test_wait(is_done, &slow, 10000));
  assert_int_equal(slow.code, -ETIMEDOUT);
  rpc_call_unref(&h);
  peer_stats(s.p, &st);
  assert_int_equal(st.failures, 1);
  down(&s);
}

static void test_cancel(void **state) {
  struct setup s = up();
  struct peer_stats st;

  (void)state;
  fake_rule(s.f, 0, &(struct fake_rule){.op = FAKE_GET_STATS, .what = FAKE_HANG});
  for (int i = 0; i < 10; i++) {
    struct outcome o = {0};
    struct peer_call_args a = stats_args(60000);
    struct rpc_call *h = peer_call(s.p, &a, on_reply, &o);
    rpc_call_cancel(h);
    assert_true(test_wait(is_done, &o, 10000));
    assert_int_equal(o.code, -ECANCELED);
    rpc_call_unref(&h);
  }
  assert_true(peer_usable(s.p));
  peer_stats(s.p, &st);
  assert_int_equal(st.failures, 0);
  down(&s);
}

/* ---- streams ------------------------------------------------------------------------------------------------------
 */

static Forebay__V1__ListRequest list_request = FOREBAY__V1__LIST_REQUEST__INIT;

static struct peer_call_args list_args(struct setup *s) {
  for (unsigned i = 0; i < 10; i++) { /* four messages */
    char key[16];
    snprintf(key, sizeof key, "k%u", i);
    fake_object(s->f, key, 100, i);
  }
  list_request.ns = (char *)(uintptr_t)FAKE_NS;
  return (struct peer_call_args){.method = "/forebay.v1.Cache/List",
                                 .request = &list_request.base,
                                 .reply_type = &forebay__v1__list_reply__descriptor,
                                 .deadline_ns = deadline_in_ms(20000)};
}

static void test_stream(void **state) {
  struct setup s = up();
  struct peer_call_args a = list_args(&s);
  struct outcome o = {0};

  (void)state;
  struct rpc_call *h = peer_stream(s.p, &a, NULL, on_each, on_done, &o);
  rpc_call_unref(&h); /* the call does not need it */
  assert_true(test_wait(is_done, &o, 10000));
  assert_int_equal(o.code, 0);
  assert_int_equal(o.messages, 4);
  o = (struct outcome){.stop_at = 2};
  h = peer_stream(s.p, &a, NULL, on_each, on_done, &o);
  assert_true(test_wait(is_done, &o, 10000));
  assert_int_equal(o.code, -ECANCELED);
  assert_int_equal(o.messages, 2);
  rpc_call_unref(&h);
  fake_rule(s.f, 0, &(struct fake_rule){.op = FAKE_LIST, .what = FAKE_GARBAGE});
  o = (struct outcome){0};
  h = peer_stream(s.p, &a, NULL, on_each, on_done, &o);
  assert_true(test_wait(is_done, &o, 10000));
  assert_int_equal(o.code, -FB_EPROTO);
  assert_int_equal(o.messages, 0);
  rpc_call_unref(&h);
  down(&s);
}

static void test_stream_nested(void **state) {
  struct setup s = up();
  struct outcome o = {0};
  Forebay__V1__MultiGetRequest q = FOREBAY__V1__MULTI_GET_REQUEST__INIT;
  Forebay__V1__GetItem item = FOREBAY__V1__GET_ITEM__INIT, *items[3] = {&item, &item, &item};

  (void)state;
  fake_object(s.f, "k", 70000, 1);
  q.ns = (char *)(uintptr_t)FAKE_NS;
  item.key = (char *)(uintptr_t) "k";
  item.length = 60000;
  q.n_items = 3;
  q.items = items;
  struct peer_call_args a = {.method = "/forebay.v1.Cache/MultiGet",
                             .request = &q.base,
                             .reply_type = &forebay__v1__multi_get_reply__descriptor,
                             .want_payload = true,
                             .deadline_ns = deadline_in_ms(10000)};
  struct rpc_call *h = peer_stream(s.p, &a, &forebay__v1__get_reply__descriptor, on_each, on_done, &o);
  assert_true(test_wait(is_done, &o, 10000));
  assert_int_equal(o.code, 0);
  assert_int_equal(o.messages, 3);
  assert_int_equal(o.damaged, 0);
  rpc_call_unref(&h);
  down(&s);
}

struct count {
  struct outcome *o;
  unsigned n;
};
static bool has_messages(void *arg) {
  struct count *c = arg;
  return atomic_load(&c->o->messages) >= c->n;
}

static void test_paced(void **state) {
  struct setup s = up();
  struct peer_call_args a = list_args(&s);
  struct outcome o = {0};
  struct peer_paced *p;

  (void)state;
  peer_paced_open(&p, s.p, &a, on_each, on_done, &o);
  for (unsigned i = 1; i <= 4; i++) {
    assert_true(test_wait(has_messages, &(struct count){&o, i}, 10000));
    assert_int_equal(o.messages, i);    /* the next has not been asked for */
    assert_true(i == 4 || o.done == 0); /* the end may follow the last message at once */
    peer_paced_next(p);
  }
  assert_true(test_wait(is_done, &o, 10000));
  assert_int_equal(o.code, 0);
  peer_paced_next(p); /* after the end: nothing */
  assert_int_equal(o.messages, 4);
  peer_paced_unref(&p);

  /* `done` comes while the stream is held, and next is harmless then */
  o = (struct outcome){0};
  peer_paced_open(&p, s.p, &a, on_each, on_done, &o);
  assert_true(test_wait(has_messages, &(struct count){&o, 1}, 10000));
  peer_paced_cancel(p);
  assert_true(test_wait(is_done, &o, 10000));
  assert_int_equal(o.code, -ECANCELED);
  peer_paced_next(p);
  peer_paced_unref(&p);

  /* let go of at once, while it runs */
  o = (struct outcome){0};
  peer_paced_open(&p, s.p, &a, on_each, on_done, &o);
  peer_paced_cancel(p);
  peer_paced_unref(&p);
  assert_true(test_wait(is_done, &o, 10000));
  down(&s);
}

static void test_put(void **state) {
  static const size_t sizes[] = {0, 1, PUT_PIECE_BYTES, 5 * PUT_PIECE_BYTES + 17};
  struct setup s = up();
  Forebay__V1__PutRequest head = FOREBAY__V1__PUT_REQUEST__INIT;
  struct rng r;

  (void)state;
  fake_remake_ns(s.f, 3, true);
  rng_init(&r, 1);
  uint8_t *data = malloc(6 * PUT_PIECE_BYTES);
  rng_fill(&r, data, 6 * PUT_PIECE_BYTES);
  head.ns = (char *)(uintptr_t)FAKE_NS;
  head.key = (char *)(uintptr_t) "v";
  head.overwrite = true;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct outcome o = {0};
    struct blob *value = blob_copy(data, sizes[i]);
    size_t len;
    head.size = sizes[i];
    head.crc32c = blob_crc32c(value);
    struct rpc_call *h = peer_put(s.p, &head.base, value, deadline_in_ms(20000), on_reply, &o);
    blob_unref(&value);
    assert_true(test_wait(is_done, &o, 20000));
    assert_int_equal(o.code, 0);
    assert_memory_equal(fake_bytes(s.f, "v", &len), data, sizes[i]);
    assert_int_equal(len, sizes[i]);
    rpc_call_unref(&h);
  }
  /* the peer refuses at once: the rest is not sent, its code is what counts */
  struct blob *value = blob_copy(data, 6 * PUT_PIECE_BYTES);
  struct outcome o = {0};
  fake_rule(s.f, 0, &(struct fake_rule){.op = FAKE_PUT, .what = FAKE_CODE, .code = -ENOSPC});
  struct rpc_call *h = peer_put(s.p, &head.base, value, deadline_in_ms(20000), on_reply, &o);
  assert_true(test_wait(is_done, &o, 20000));
  assert_int_equal(o.code, -ENOSPC);
  rpc_call_unref(&h);
  blob_unref(&value);
  free(data);
  down(&s);
}

static void test_bad_address(void **state) {
  static const char *const bad[] = {"", "host", ":1", "host:", "host:70000", "host:0", "[::1:5"};
  struct rpc_loop *loop;
  struct err e;

  (void)state;
  assert_int_equal(rpc_loop_new(&loop, 1, "test", &e), 0);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct peer *p = NULL;
    e = (struct err){0};
    if (peer_new(&p, loop, bad[i], 0, &e) != -EINVAL)
      fail_msg("'%s' was taken", bad[i]);
    assert_true(e.text[0]);
    assert_null(p);
  }
  rpc_loop_free(&loop);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_unary),         cmocka_unit_test(test_answers_are_no_failures),
      cmocka_unit_test(test_breaker),       cmocka_unit_test(test_deadlines),
      cmocka_unit_test(test_cancel),        cmocka_unit_test(test_stream),
      cmocka_unit_test(test_stream_nested), cmocka_unit_test(test_paced),
      cmocka_unit_test(test_put),           cmocka_unit_test(test_bad_address),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
