/* test_rpc.c - calls and streams between a real server and a real client: bytes, codes, deadlines, cancelling, limits
 * per call, stopping. What happens to connections is in test_rpc_guard.c, peers that fail are in test_rpc_failures.c.
 */
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

#include "common/clock.h"
#include "tests/lib/rpc_fixture.h"
#include "tests/lib/testlib.h"

static int64_t soon(void) { return deadline_in_ms(20000); }

/* ---- unary ------------------------------------------------------------------------------------------------------ */

static void unary_brings_the_bytes_back(void **state) {
  struct rig r;
  struct answer a;

  (void)state;
  rig_up(&r, NULL);
  call_wait(r.channel, "/t/Echo", blob_text("hello"), soon(), &a);
  assert_int_equal(a.code, 0);
  assert_true(blob_equals(a.reply, "hello", 5));
  answer_fini(&a);
  /* An empty message is a message. */
  call_wait(r.channel, "/t/Echo", blob_new(0), soon(), &a);
  assert_int_equal(a.code, 0);
  assert_non_null(a.reply);
  assert_int_equal(a.reply->len, 0);
  answer_fini(&a);
  rig_down(&r);
}

static atomic_int released;
static void count_release(void *owner) {
  (void)owner;
  atomic_fetch_add(&released, 1);
}
static bool three_released(void *arg) {
  (void)arg;
  return atomic_load(&released) == 3;
}

static void big_messages_are_the_same_bytes(void **state) {
  static uint8_t bytes[4 << 20];
  struct rng rng;
  struct rig r;
  struct answer a;

  (void)state;
  rng_init(&rng, test_seed("RPC_SEED"));
  rng_fill(&rng, bytes, sizeof bytes);
  rig_up(&r, NULL);
  struct blob *b = blob_new(3); /* a tiny piece that is copied, and two that are referred to */
  atomic_store(&released, 0);
  blob_append(b, bytes, 7, count_release, NULL);
  blob_append(b, bytes + 7, 1000000, count_release, NULL);
  blob_append(b, bytes + 1000007, sizeof bytes - 1000007, count_release, NULL);
  call_wait(r.channel, "/t/Echo", b, soon(), &a);
  assert_int_equal(a.code, 0);
  assert_int_equal(a.reply->len, sizeof bytes);
  assert_true(blob_equals(a.reply, bytes, sizeof bytes));
  answer_fini(&a);
  rig_down(&r);
  /* Every piece was let go of, once, and not before gRPC had no use for it (ASan would see that). */
  assert_true(test_wait(three_released, NULL, 5000));
}

static void a_reply_outlives_everything(void **state) {
  struct rig r;
  struct answer a;

  (void)state;
  rig_up(&r, NULL);
  call_wait(r.channel, "/t/Big", blob_text("100000"), soon(), &a);
  rig_down(&r); /* gRPC itself is shut down by this */
  assert_int_equal(a.code, 0);
  assert_int_equal(a.reply->len, 100000);
  for (size_t i = 0; i < 100000; i += 997) {
    uint8_t byte;
    assert_int_equal(blob_read(a.reply, i, &byte, 1), 1);
    assert_int_equal(byte, (uint8_t)(i * 31 >> 3));
  }
  answer_fini(&a);
}

static void codes_and_texts_arrive(void **state) {
  static const int codes[] = {FB_ENONS, FB_EPASTEND, FB_ERING, FB_EBUSY,  FB_ETOOBIG,
                              ENOENT,   EIO,         ESTALE,   ECANCELED, 4095};
  struct rig r;
  struct answer a;
  char request[1600], long_text[1500];

  (void)state;
  rig_up(&r, NULL);
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    snprintf(request, sizeof request, "-%d caf\xc3\xa9 100%% \x01 key 'a/b'", codes[i]);
    call_wait(r.channel, "/t/Fail", blob_text(request), soon(), &a);
    assert_int_equal(a.code, -codes[i]);
    assert_string_equal(a.text, "caf\xc3\xa9 100% \x01 key 'a/b'");
    assert_null(a.reply);
    answer_fini(&a);
  }
  /* No text: the code's description. */
  snprintf(request, sizeof request, "-%d", FB_ECRC);
  call_wait(r.channel, "/t/Fail", blob_text(request), soon(), &a);
  assert_int_equal(a.code, -FB_ECRC);
  assert_string_equal(a.text, err_describe(FB_ECRC));
  answer_fini(&a);
  /* A long one is cut, not lost. */
  memset(long_text, 'x', sizeof long_text - 1);
  long_text[sizeof long_text - 1] = '\0';
  snprintf(request, sizeof request, "-2 %s", long_text);
  call_wait(r.channel, "/t/Fail", blob_text(request), soon(), &a);
  assert_int_equal(a.code, -ENOENT);
  assert_in_range(strlen(a.text), 1000, 1024);
  answer_fini(&a);
  rig_down(&r);
}

static void unknown_method_is_enosys(void **state) {
  static const char *const paths[] = {"/t/Nothing", "/t/Ech", "/t/Echo2", "/", "/t/Echo/", "/zzz"};
  struct rig r;
  struct answer a;

  (void)state;
  rig_up(&r, NULL);
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    call_wait(r.channel, paths[i], blob_text("x"), soon(), &a);
    assert_int_equal(a.code, -ENOSYS);
    assert_non_null(strstr(a.text, "method"));
    answer_fini(&a);
  }
  char path[600] = "/";
  memset(path + 1, 'a', sizeof path - 2);
  call_wait(r.channel, path, blob_text("x"), soon(), &a);
  assert_int_equal(a.code, -ENOSYS);
  answer_fini(&a);
  rig_down(&r);
}

static void deadlines_pass_at_both_ends(void **state) {
  struct rig r;
  struct answer a;

  (void)state;
  rig_up(&r, NULL);
  int64_t start = clock_mono_ns(), deadline = start + 200 * NS_PER_MS;
  call_wait(r.channel, "/t/Hang", blob_text("x"), deadline, &a);
  int64_t took = clock_mono_ns() - start;
  assert_int_equal(a.code, -ETIMEDOUT);
  assert_true(took >= 190 * NS_PER_MS && took < 5 * NS_PER_S);
  answer_fini(&a);
  assert_true(rig_wait_cancels(&r, 1));
  int64_t off = r.deadline_seen_ns - deadline; /* sent as a duration: only about the same */
  assert_true(off > -100 * NS_PER_MS && off < 1000 * NS_PER_MS);
  rig_release(&r);
  /* One that has passed already. */
  call_wait(r.channel, "/t/Echo", blob_text("x"), clock_mono_ns() - NS_PER_S, &a);
  assert_int_equal(a.code, -ETIMEDOUT);
  answer_fini(&a);
  /* None at all. */
  answer_init(&a);
  unsigned before = r.n_hung;
  struct rpc_call *call = rpc_unary(r.channel, "/t/Hang", blob_text("x"), DEADLINE_NONE, answer_set, &a);
  assert_true(rig_wait_hung(&r, before + 1));
  assert_true(r.deadline_seen_ns == DEADLINE_NONE);
  assert_memory_equal(r.peer_seen, "127.0.0.1:", 10);
  rig_release(&r);
  answer_wait(&a);
  assert_int_equal(a.code, 0);
  rpc_call_unref(&call);
  answer_fini(&a);
  rig_down(&r);
}

struct witness {
  pthread_t caller;
  atomic_bool by_caller;
  struct answer a;
};

static void witness_set(void *arg, int code, const char *text, struct blob *reply) {
  struct witness *w = arg;

  if (pthread_equal(pthread_self(), w->caller))
    atomic_store(&w->by_caller, true);
  answer_set(&w->a, code, text, reply);
}

/* Whoever cancels may hold locks that `done` takes: it must not run within the cancelling, even if the call ends just
 * then. */
static void cancel_runs_no_callback(void **state) {
  struct witness w = {.caller = pthread_self()};
  struct rig r;

  (void)state;
  rig_up(&r, NULL);
  for (int i = 0; i < 3000; i++) {
    answer_init(&w.a);
    struct rpc_call *call = rpc_unary(r.channel, "/t/Echo", blob_text("x"), soon(), witness_set, &w);
    for (volatile int pause = i % 100 * 100; pause > 0; pause--)
      ;
    rpc_call_cancel(call);
    answer_wait(&w.a);
    rpc_call_unref(&call);
    answer_fini(&w.a);
  }
  assert_false(atomic_load(&w.by_caller));
  rig_down(&r);
}

static void cancel_reaches_the_handler(void **state) {
  struct rig r;
  struct answer a;

  (void)state;
  rig_up(&r, NULL);
  answer_init(&a);
  struct rpc_call *call = rpc_unary(r.channel, "/t/Hang", blob_text("x"), soon(), answer_set, &a);
  assert_true(rig_wait_hung(&r, 1));
  rpc_call_cancel(call);
  rpc_call_cancel(call);
  answer_wait(&a);
  assert_int_equal(a.code, -ECANCELED);
  assert_true(rig_wait_cancels(&r, 1));
  assert_int_equal(rig_release(&r), 1);
  rpc_call_cancel(call); /* after the end: nothing */
  rpc_call_unref(&call);
  assert_null(call);
  answer_fini(&a);
  /* Before the call has got anywhere. */
  for (int i = 0; i < 50; i++) {
    answer_init(&a);
    call = rpc_unary(r.channel, "/t/Echo", blob_text("x"), soon(), answer_set, &a);
    rpc_call_cancel(call);
    answer_wait(&a);
    assert_true(a.code == -ECANCELED || a.code == 0); /* the answer may have been faster */
    rpc_call_unref(&call);
    answer_fini(&a);
  }
  rig_down(&r);
}

static void messages_over_the_limit_are_refused(void **state) {
  struct rpc_server_limits limits = rig_limits();
  struct rpc_channel_limits wide = {.max_message_bytes = 64 << 20};
  struct rpc_channel *c;
  struct rig r;
  struct answer a;
  char *mib = calloc(1, 3 << 20);

  (void)state;
  limits.max_message_bytes = 1 << 20;
  rig_up(&r, &limits);
  assert_int_equal(rpc_channel_new(&c, r.loop, r.address, &wide, NULL), 0);
  /* Exactly the limit passes. */
  call_wait(c, "/t/Echo", blob_copy(mib, 1 << 20), soon(), &a);
  assert_int_equal(a.code, 0);
  answer_fini(&a);
  /* One more is refused by the server ... */
  call_wait(c, "/t/Echo", blob_copy(mib, (1 << 20) + 1), soon(), &a);
  assert_int_equal(a.code, -FB_ETOOBIG);
  assert_non_null(strstr(a.text, "1048577"));
  assert_non_null(strstr(a.text, "1048576"));
  answer_fini(&a);
  /* ... and so is an answer of its own. */
  call_wait(c, "/t/Big", blob_text("1048577"), soon(), &a);
  assert_int_equal(a.code, -FB_ETOOBIG);
  assert_non_null(strstr(a.text, "1048576"));
  answer_fini(&a);
  rpc_channel_free(&c);
  /* The client's limit holds for what it sends and for what it gets. */
  struct rpc_channel_limits narrow = {.max_message_bytes = 1000};
  assert_int_equal(rpc_channel_new(&c, r.loop, r.address, &narrow, NULL), 0);
  call_wait(c, "/t/Echo", blob_copy(mib, 1001), soon(), &a);
  assert_int_equal(a.code, -FB_ETOOBIG);
  assert_non_null(strstr(a.text, "1001"));
  assert_non_null(strstr(a.text, "1000"));
  answer_fini(&a);
  call_wait(c, "/t/Big", blob_text("1001"), soon(), &a);
  assert_int_equal(a.code, -FB_ETOOBIG);
  answer_fini(&a);
  call_wait(c, "/t/Big", blob_text("1000"), soon(), &a);
  assert_int_equal(a.code, 0);
  answer_fini(&a);
  rpc_channel_free(&c);
  rig_down(&r);
  free(mib);
}

static void calls_over_max_calls_are_busy(void **state) {
  struct rpc_server_limits limits = rig_limits();
  struct rig r;
  struct answer a[4], extra;
  struct rpc_call *calls[4];

  (void)state;
  limits.max_calls = 4;
  rig_up(&r, &limits);
  for (int i = 0; i < 4; i++) {
    answer_init(&a[i]);
    calls[i] = rpc_unary(r.channel, "/t/Hang", blob_text("x"), soon(), answer_set, &a[i]);
  }
  assert_true(rig_wait_hung(&r, 4));
  assert_int_equal(rig_stats(&r).calls, 4);
  call_wait(r.channel, "/t/Echo", blob_text("x"), soon(), &extra);
  assert_int_equal(extra.code, -FB_EBUSY);
  assert_non_null(strstr(extra.text, "4 calls"));
  answer_fini(&extra);
  assert_int_equal(rig_stats(&r).refused_calls, 1);
  rig_release(&r);
  for (int i = 0; i < 4; i++) {
    answer_wait(&a[i]);
    assert_int_equal(a[i].code, 0);
    rpc_call_unref(&calls[i]);
    answer_fini(&a[i]);
  }
  /* The places are free again; the server may learn of the end a little after the client. */
  do {
    call_wait(r.channel, "/t/Echo", blob_text("x"), soon(), &extra);
    int code = extra.code;
    answer_fini(&extra);
    assert_true(code == 0 || code == -FB_EBUSY);
    if (code == 0)
      break;
  } while (true);
  rig_down(&r);
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

struct listening {
  struct answer end;
  struct rpc_call *call;
  unsigned n, wrong;
  unsigned stop_at; /* cancel after so many; 0 = never */
  atomic_bool finished;
};

static void hear(void *arg, struct blob *m) {
  struct listening *l = arg;
  char want[16];

  if (!m) /* also the answer to a receive that was asked for after a short stream's end */
    return;
  if (atomic_load(&l->finished)) /* done must be last */
    abort();
  snprintf(want, sizeof want, "%u", l->n++);
  l->wrong += !blob_equals(m, want, strlen(want));
  if (l->n == l->stop_at)
    rpc_call_cancel(l->call);
  rpc_call_recv(l->call, hear, l);
}
static void heard_all(void *arg, int code, const char *text) {
  struct listening *l = arg;
  atomic_store(&l->finished, true);
  answer_set(&l->end, code, text, NULL);
}
static void sent_ok(void *arg, bool ok) {
  if (arg && !ok)
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void listen_to(struct rig *r, struct listening *l, const char *request, unsigned stop_at) {
  memset(l, 0, sizeof *l);
  answer_init(&l->end);
  l->stop_at = stop_at;
  l->call = rpc_stream_open(r->channel, "/t/Count", soon(), heard_all, l);
  assert_non_null(l->call);
  rpc_call_send(l->call, blob_text(request), sent_ok, NULL);
  rpc_call_close_send(l->call);
  rpc_call_recv(l->call, hear, l);
  answer_wait(&l->end);
  rpc_call_unref(&l->call);
  answer_fini(&l->end);
}

static void server_streams(void **state) {
  struct rig r;
  struct listening l;

  (void)state;
  rig_up(&r, NULL);
  listen_to(&r, &l, "1000", 0);
  assert_int_equal(l.end.code, 0);
  assert_int_equal(l.n, 1000);
  assert_int_equal(l.wrong, 0);
  listen_to(&r, &l, "0", 0);
  assert_int_equal(l.end.code, 0);
  assert_int_equal(l.n, 0);
  listen_to(&r, &l, "100000000", 100);
  assert_int_equal(l.end.code, -ECANCELED);
  assert_in_range(l.n, 100, 100000);
  assert_int_equal(l.wrong, 0);
  rig_down(&r);
}

struct talking {
  struct answer end, reply, sent;
  struct rpc_call *call;
  unsigned left;
  atomic_int failed;
};
static void talk(void *arg, bool ok) {
  struct talking *t = arg;
  static const char bytes[1000];

  if (ok && t->left > 0) {
    t->left--;
    rpc_call_send(t->call, blob_copy(bytes, sizeof bytes), talk, t);
    return;
  }
  if (ok)
    rpc_call_close_send(t->call);
  answer_set(&t->sent, ok ? 0 : -EPIPE, "", NULL);
}
static void take_reply(void *arg, struct blob *m) {
  struct talking *t = arg;
  answer_set(&t->reply, 0, "", m);
}
static void talk_to(struct rig *r, struct talking *t, const char *method, unsigned n) {
  memset(t, 0, sizeof *t);
  answer_init(&t->end);
  answer_init(&t->reply);
  answer_init(&t->sent);
  t->left = n;
  t->call = rpc_stream_open(r->channel, method, soon(), answer_set_done, &t->end);
  rpc_call_recv(t->call, take_reply, t);
  talk(t, true);
  answer_wait(&t->sent);
  answer_wait(&t->reply);
  answer_wait(&t->end);
  rpc_call_unref(&t->call);
}
static void talk_fini(struct talking *t) {
  answer_fini(&t->end);
  answer_fini(&t->reply);
  answer_fini(&t->sent);
}

static void client_streams(void **state) {
  struct rig r;
  struct talking t;

  (void)state;
  rig_up(&r, NULL);
  talk_to(&r, &t, "/t/Sum", 500);
  assert_int_equal(t.end.code, 0);
  assert_true(blob_equals(t.reply.reply, "500 500000", 10));
  talk_fini(&t);
  talk_to(&r, &t, "/t/Sum", 0);
  assert_int_equal(t.end.code, 0);
  assert_true(blob_equals(t.reply.reply, "0 0", 3));
  talk_fini(&t);
  /* The server fails in the middle: sending stops, the status arrives. */
  talk_to(&r, &t, "/t/Deny", 1000000);
  assert_int_equal(t.end.code, -EINVAL);
  assert_string_equal(t.end.text, "the first message is wrong");
  assert_int_equal(t.sent.code, -EPIPE);
  assert_null(t.reply.reply);
  talk_fini(&t);
  rig_down(&r);
}

struct chatting {
  struct answer end;
  struct rpc_call *call;
  unsigned turn, wrong;
  atomic_uint waiting_for; /* a turn ends when its message is sent and its answer heard, in whatever order */
};
static void chat_heard(void *arg, struct blob *m);
static void chat_said(void *arg, bool ok);
static void say(struct chatting *c) {
  char buf[32];

  if (c->turn == 200) {
    rpc_call_close_send(c->call);
    rpc_call_recv(c->call, chat_heard, c);
    return;
  }
  snprintf(buf, sizeof buf, "turn %u", c->turn);
  atomic_store(&c->waiting_for, 2);
  rpc_call_send(c->call, blob_text(buf), chat_said, c);
  rpc_call_recv(c->call, chat_heard, c);
}
static void turn_over(struct chatting *c) {
  if (atomic_fetch_sub(&c->waiting_for, 1) == 1)
    say(c);
}
static void chat_said(void *arg, bool ok) {
  if (ok)
    turn_over(arg);
}
static void chat_heard(void *arg, struct blob *m) {
  struct chatting *c = arg;
  char buf[32];

  if (!m)
    return;
  snprintf(buf, sizeof buf, "turn %u", c->turn++);
  c->wrong += !blob_equals(m, buf, strlen(buf));
  turn_over(c);
}

static void both_ways(void **state) {
  struct rig r;
  struct chatting c = {0};

  (void)state;
  rig_up(&r, NULL);
  answer_init(&c.end);
  c.call = rpc_stream_open(r.channel, "/t/Chat", soon(), answer_set_done, &c.end);
  say(&c);
  answer_wait(&c.end);
  assert_int_equal(c.end.code, 0);
  assert_int_equal(c.turn, 200);
  assert_int_equal(c.wrong, 0);
  rpc_call_unref(&c.call);
  answer_fini(&c.end);
  rig_down(&r);
}

static void late_operations_fail_at_once(void **state) {
  struct rig r;
  struct answer end, got;
  atomic_int failed = 0;

  (void)state;
  rig_up(&r, NULL);
  answer_init(&end);
  answer_init(&got);
  struct rpc_call *call = rpc_stream_open(r.channel, "/t/Nothing", soon(), answer_set_done, &end);
  answer_wait(&end);
  assert_int_equal(end.code, -ENOSYS);
  rpc_call_send(call, blob_text("x"), sent_ok, &failed);
  assert_int_equal(atomic_load(&failed), 1);
  struct talking t = {.reply = got};
  rpc_call_recv(call, take_reply, &t);
  assert_true(t.reply.done);
  assert_null(t.reply.reply);
  rpc_call_close_send(call);
  rpc_call_cancel(call);
  rpc_call_unref(&call);
  answer_fini(&end);
  rig_down(&r);
}

static void a_stream_message_over_the_limit_ends_the_call(void **state) {
  struct rpc_channel_limits narrow = {.max_message_bytes = 1000};
  struct rpc_channel *c;
  struct rig r;
  struct answer end;
  char bytes[1001] = {0};
  atomic_int failed = 0;

  (void)state;
  rig_up(&r, NULL);
  assert_int_equal(rpc_channel_new(&c, r.loop, r.address, &narrow, NULL), 0);
  answer_init(&end);
  struct rpc_call *call = rpc_stream_open(c, "/t/Sum", soon(), answer_set_done, &end);
  rpc_call_send(call, blob_copy(bytes, sizeof bytes), sent_ok, &failed);
  answer_wait(&end);
  assert_int_equal(end.code, -FB_ETOOBIG);
  assert_int_equal(atomic_load(&failed), 1);
  rpc_call_unref(&call);
  answer_fini(&end);
  rpc_channel_free(&c);
  rig_down(&r);
}

/* ---- stopping, many at once ---------------------------------------------------------------
 */

struct stopping {
  struct rig *r;
  int64_t deadline_ns;
  unsigned cancelled;
  atomic_bool returned;
};
static void *stop_it(void *arg) {
  struct stopping *s = arg;
  s->cancelled = rpc_server_stop(s->r->server, s->deadline_ns);
  atomic_store(&s->returned, true);
  return NULL;
}

static bool refuses(void *arg) {
  struct rig *r = arg;
  struct rpc_channel *c;
  struct answer a;

  assert_int_equal(rpc_channel_new(&c, r->loop, r->address, NULL, NULL), 0);
  call_wait(c, "/t/Echo", blob_text("x"), soon(), &a);
  int code = a.code;
  answer_fini(&a);
  rpc_channel_free(&c);
  return code == -FB_EPEERDOWN;
}

static void stop_lets_an_open_call_finish(void **state) {
  struct rig r;
  struct answer a;
  pthread_t thread;
  struct stopping s = {.r = &r, .deadline_ns = soon()};

  (void)state;
  rig_up(&r, NULL);
  answer_init(&a);
  struct rpc_call *call = rpc_unary(r.channel, "/t/Hang", blob_text("x"), soon(), answer_set, &a);
  assert_true(rig_wait_hung(&r, 1));
  assert_int_equal(pthread_create(&thread, NULL, stop_it, &s), 0);
  assert_true(test_wait(refuses, &r, 10000)); /* the port is closed, the call still open */
  assert_false(atomic_load(&s.returned));
  assert_false(answer_done(&a));
  rig_release(&r);
  answer_wait(&a);
  assert_int_equal(a.code, 0);
  assert_true(blob_equals(a.reply, "released", 8));
  pthread_join(thread, NULL);
  assert_int_equal(s.cancelled, 0);
  rpc_call_unref(&call);
  answer_fini(&a);
  assert_int_equal(rig_stats(&r).calls, 0);
  rig_down(&r);
}

static void stop_cancels_what_does_not_end(void **state) {
  struct rig r;
  struct answer a;
  pthread_t thread;
  struct stopping s = {.r = &r};

  (void)state;
  rig_up(&r, NULL);
  answer_init(&a);
  struct rpc_call *call = rpc_unary(r.channel, "/t/Hang", blob_text("x"), soon(), answer_set, &a);
  assert_true(rig_wait_hung(&r, 1));
  s.deadline_ns = deadline_in_ms(100);
  assert_int_equal(pthread_create(&thread, NULL, stop_it, &s), 0);
  assert_true(rig_wait_cancels(&r, 1));
  answer_wait(&a);
  assert_true(a.code == -FB_EPEERDOWN || a.code == -ECANCELED);
  assert_false(atomic_load(&s.returned)); /* the handler still has its session */
  rig_release(&r);
  pthread_join(thread, NULL);
  assert_int_equal(s.cancelled, 1);
  rpc_call_unref(&call);
  answer_fini(&a);
  rig_down(&r);
}

struct many {
  struct rig *r;
  unsigned index;
  unsigned wrong;
};
static void *many_calls(void *arg) {
  struct many *m = arg;
  char text[64];
  struct answer a;

  for (unsigned i = 0; i < 40; i++) {
    snprintf(text, sizeof text, "thread %u call %u", m->index, i);
    call_wait(m->r->channel, "/t/Echo", blob_text(text), soon(), &a);
    m->wrong += a.code != 0 || !blob_equals(a.reply, text, strlen(text));
    answer_fini(&a);
  }
  return NULL;
}

static void many_threads_share_a_channel(void **state) {
  struct rig r;
  pthread_t threads[64];
  struct many m[64];

  (void)state;
  rig_up(&r, NULL);
  for (unsigned i = 0; i < 64; i++) {
    m[i] = (struct many){.r = &r, .index = i};
    assert_int_equal(pthread_create(&threads[i], NULL, many_calls, &m[i]), 0);
  }
  for (unsigned i = 0; i < 64; i++) {
    pthread_join(threads[i], NULL);
    assert_int_equal(m[i].wrong, 0);
  }
  assert_int_equal(rig_stats(&r).connections, 1);
  rig_down(&r);
}

static void loops_come_and_go(void **state) {
  struct rpc_loop *l = NULL;
  struct err e = {0};

  (void)state;
  assert_int_equal(rpc_loop_new(&l, 0, "x", &e), -EINVAL);
  assert_int_equal(rpc_loop_new(&l, 65, "x", &e), -EINVAL);
  assert_null(l);
  rpc_loop_free(&l);
  for (int i = 0; i < 5; i++) {
    struct rig a, b;
    struct answer x;
    rig_up(&a, NULL);
    rig_up(&b, NULL);
    call_wait(a.channel, "/t/Echo", blob_text("x"), soon(), &x);
    assert_int_equal(x.code, 0);
    answer_fini(&x);
    rig_down(&a);
    call_wait(b.channel, "/t/Echo", blob_text("x"), soon(), &x);
    assert_int_equal(x.code, 0);
    answer_fini(&x);
    rig_down(&b);
  }
}

/* The channel is freed while its call is open: the call goes on. */
static void a_call_keeps_its_channel(void **state) {
  struct rig r;
  struct answer a;

  (void)state;
  rig_up(&r, NULL);
  answer_init(&a);
  struct rpc_call *call = rpc_unary(r.channel, "/t/Hang", blob_text("x"), soon(), answer_set, &a);
  rpc_channel_free(&r.channel);
  rpc_call_unref(&call);
  assert_true(rig_wait_hung(&r, 1));
  rig_release(&r);
  answer_wait(&a);
  assert_int_equal(a.code, 0);
  answer_fini(&a);
  rig_down(&r);
}

static void bad_addresses_are_named(void **state) {
  static const char *const bad[] = {"",       "host",   ":1",      "host:", "host:x",  "host:65536", "host:123456",
                                    "host:0", "::1:80", "[::1:80", "[]:80", "host:80 "};
  struct rpc_loop *l;
  struct rpc_channel *c = NULL;
  struct err e;

  (void)state;
  assert_int_equal(rpc_loop_new(&l, 1, NULL, NULL), 0);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    e = (struct err){0};
    assert_int_equal(rpc_channel_new(&c, l, bad[i], NULL, &e), -EINVAL);
    assert_null(c);
    assert_non_null(strstr(e.text, bad[i]));
  }
  assert_int_equal(rpc_channel_new(&c, l, "[::1]:80", NULL, &e), 0);
  rpc_channel_free(&c);
  rpc_channel_free(&c);
  rpc_loop_free(&l);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(unary_brings_the_bytes_back),
      cmocka_unit_test(big_messages_are_the_same_bytes),
      cmocka_unit_test(a_reply_outlives_everything),
      cmocka_unit_test(codes_and_texts_arrive),
      cmocka_unit_test(unknown_method_is_enosys),
      cmocka_unit_test(deadlines_pass_at_both_ends),
      cmocka_unit_test(cancel_reaches_the_handler),
      cmocka_unit_test(cancel_runs_no_callback),
      cmocka_unit_test(messages_over_the_limit_are_refused),
      cmocka_unit_test(calls_over_max_calls_are_busy),
      cmocka_unit_test(server_streams),
      cmocka_unit_test(client_streams),
      cmocka_unit_test(both_ways),
      cmocka_unit_test(late_operations_fail_at_once),
      cmocka_unit_test(a_stream_message_over_the_limit_ends_the_call),
      cmocka_unit_test(stop_lets_an_open_call_finish),
      cmocka_unit_test(stop_cancels_what_does_not_end),
      cmocka_unit_test(many_threads_share_a_channel),
      cmocka_unit_test(loops_come_and_go),
      cmocka_unit_test(a_call_keeps_its_channel),
      cmocka_unit_test(bad_addresses_are_named),
  };
  if (argc > 1) /* a pattern: only the tests whose names match */
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
