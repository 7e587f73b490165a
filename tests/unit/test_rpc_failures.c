/* test_rpc_failures.c - peers that are not there, come back, freeze or say nothing; and calls that are cancelled at any
 * moment. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "tests/lib/rpc_fixture.h"
#include "tests/lib/testlib.h"

static int64_t soon(void) { return deadline_in_ms(20000); }

static int echo_code(struct rpc_channel *c) {
  struct answer a;

  call_wait(c, "/t/Echo", blob_text("x"), soon(), &a);
  int code = a.code;
  answer_fini(&a);
  return code;
}
static bool echo_works(void *arg) { return echo_code(arg) == 0; }

/* ---- reaching a peer ------------------------------------------------------------------------------------------------
 */

static void a_dead_peer_is_noticed_quickly(void **state) {
  struct rig r;
  struct rpc_channel *c;
  struct answer a;
  char address[64];

  (void)state;
  rig_up(&r, NULL);
  snprintf(address, sizeof address, "%s", r.address);
  rpc_server_free(&r.server);
  assert_int_equal(rpc_channel_new(&c, r.loop, address, NULL, NULL), 0);
  for (int i = 0; i < 5; i++) {
    int64_t start = clock_mono_ns();
    call_wait(c, "/t/Echo", blob_text("x"), soon(), &a);
    assert_int_equal(a.code, -FB_EPEERDOWN);
    assert_true(clock_mono_ns() - start < 3 * NS_PER_S);
    answer_fini(&a);
  }
  rpc_channel_free(&c);
  rig_down(&r);
}

static void a_proxy_in_the_environment_is_ignored(void **state) {
  struct rig r;
  struct answer a;

  (void)state;
  setenv("http_proxy", "http://127.0.0.1:1", 1);
  rig_up(&r, NULL);
  call_wait(r.channel, "/t/Echo", blob_text("x"), soon(), &a);
  assert_int_equal(a.code, 0);
  answer_fini(&a);
  rig_down(&r);
  unsetenv("http_proxy");
}

static void names_and_ipv6_are_reached(void **state) {
  static const char *const addresses[] = {"localhost:0", "[::1]:0", "[::]:0", "0.0.0.0:0"};
  unsigned reached = 0;

  (void)state;
  for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
    struct rig r;
    int code = rig_up_at(&r, addresses[i], NULL);
    if (code == -EADDRNOTAVAIL) /* a machine without IPv6 */
      continue;
    assert_int_equal(code, 0);
    assert_int_equal(echo_code(r.channel), 0);
    reached++;
    rig_down(&r);
  }
  assert_true(reached >= 2);
}

static void a_channel_finds_its_peer_again(void **state) {
  struct rig r;
  char address[64];

  (void)state;
  rig_up(&r, NULL);
  snprintf(address, sizeof address, "%s", r.address);
  for (int i = 0; i < 3; i++) {
    assert_true(test_wait(echo_works, r.channel, 10000));
    rpc_server_free(&r.server);
    assert_int_equal(echo_code(r.channel), -FB_EPEERDOWN);
    assert_int_equal(rig_serve(&r, address, NULL), 0); /* the same port, at once */
  }
  assert_true(test_wait(echo_works, r.channel, 10000));
  rig_down(&r);
}

/* A port that takes connections and never says a word. */
static void a_silent_peer_is_down(void **state) {
  struct sockaddr_in sa = {.sin_family = AF_INET};
  socklen_t len = sizeof sa;
  struct rpc_channel *c;
  struct rig r;
  char address[64];

  (void)state;
  rig_up(&r, NULL);
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(sock, (struct sockaddr *)&sa, sizeof sa), 0);
  assert_int_equal(listen(sock, 16), 0);
  assert_int_equal(getsockname(sock, (struct sockaddr *)&sa, &len), 0);
  snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(sa.sin_port));
  assert_int_equal(rpc_channel_new(&c, r.loop, address, NULL, NULL), 0);
  int64_t start = clock_mono_ns();
  assert_int_equal(echo_code(c), -FB_EPEERDOWN);
  assert_true(clock_mono_ns() - start < 8 * NS_PER_S);
  rpc_channel_free(&c);
  close(sock);
  rig_down(&r);
}

/* Carries bytes between a client and the rig's server until it is told to freeze: then it holds all and closes nothing.
 */
struct relay {
  struct rig *r;
  int sock;
  uint16_t port;
  pthread_t thread;
  atomic_bool frozen, end;
};

static void carry(int from, int to) {
  char buf[4096];
  ssize_t n = recv(from, buf, sizeof buf, MSG_DONTWAIT);
  if (n > 0)
    send(to, buf, (size_t)n, MSG_NOSIGNAL);
}

static void *relay_run(void *arg) {
  struct relay *y = arg;
  int in = accept(y->sock, NULL, NULL), out = dial(rpc_server_port(y->r->server));

  while (!atomic_load(&y->end)) {
    struct pollfd p[2] = {{.fd = in, .events = POLLIN}, {.fd = out, .events = POLLIN}};
    poll(p, 2, 10);
    if (atomic_load(&y->frozen))
      continue;
    if (p[0].revents)
      carry(in, out);
    if (p[1].revents)
      carry(out, in);
  }
  close(in);
  close(out);
  return NULL;
}

static void a_peer_that_freezes_is_noticed_by_keepalive(void **state) {
  struct rpc_channel_limits limits = {.keepalive_ms = 300};
  struct sockaddr_in sa = {.sin_family = AF_INET};
  socklen_t len = sizeof sa;
  struct rpc_channel *c;
  struct relay y = {0};
  struct answer a;
  struct rig r;
  char address[64];

  (void)state;
  rig_up(&r, NULL);
  y.r = &r;
  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  y.sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(y.sock, (struct sockaddr *)&sa, sizeof sa), 0);
  assert_int_equal(listen(y.sock, 1), 0);
  assert_int_equal(getsockname(y.sock, (struct sockaddr *)&sa, &len), 0);
  assert_int_equal(pthread_create(&y.thread, NULL, relay_run, &y), 0);
  snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(sa.sin_port));
  assert_int_equal(rpc_channel_new(&c, r.loop, address, &limits, NULL), 0);
  assert_int_equal(echo_code(c), 0);
  answer_init(&a);
  struct rpc_call *call = rpc_unary(c, "/t/Hang", blob_text("x"), soon(), answer_set, &a);
  assert_true(rig_wait_hung(&r, 1));
  int64_t start = clock_mono_ns();
  atomic_store(&y.frozen, true);
  answer_wait(&a);
  assert_int_equal(a.code, -FB_EPEERDOWN);
  assert_true(clock_mono_ns() - start < 10 * NS_PER_S); /* long before the deadline */
  rpc_call_unref(&call);
  answer_fini(&a);
  rpc_channel_free(&c);
  atomic_store(&y.end, true);
  pthread_join(y.thread, NULL);
  close(y.sock);
  assert_true(rig_wait_cancels(&r, 1));
  rig_down(&r);
}

/* A client that pings because of its calls in flight is never sent away for it. */
static void keepalive_pings_are_welcome(void **state) {
  struct rpc_channel_limits limits = {.keepalive_ms = 150};
  struct rpc_channel *c;
  struct answer a;
  struct rig r;

  (void)state;
  rig_up(&r, NULL);
  assert_int_equal(rpc_channel_new(&c, r.loop, r.address, &limits, NULL), 0);
  call_wait(c, "/t/Hang", blob_text("x"), deadline_in_ms(2000), &a);
  assert_int_equal(a.code, -ETIMEDOUT); /* and not FB_EPEERDOWN */
  answer_fini(&a);
  assert_int_equal(rig_stats(&r).accepted, 1);
  rpc_channel_free(&c);
  rig_down(&r);
}

/* ---- cancelling at any moment ---------------------------------------------------------------------------------------
 */

struct slow_cancel {
  struct rpc_session *session;
  atomic_bool entered, leave, left, finished;
};
static void slow_cancelled(struct rpc_session *s, void *arg) {
  struct slow_cancel *sc = arg;

  (void)s;
  atomic_store(&sc->entered, true);
  while (!atomic_load(&sc->leave))
    usleep(1000);
  atomic_store(&sc->left, true);
}
static void *finish_it(void *arg) {
  struct slow_cancel *sc = arg;

  rpc_finish(sc->session, NULL, -ECANCELED, NULL);
  if (!atomic_load(&sc->left))
    abort();
  atomic_store(&sc->finished, true);
  return NULL;
}
static bool is_set(void *arg) { return atomic_load((atomic_bool *)arg); }
static void note_cancel(struct rpc_session *s, void *arg) {
  (void)s;
  atomic_store((atomic_bool *)arg, true);
}

static void finish_waits_for_a_running_cancel(void **state) {
  struct slow_cancel sc = {0};
  struct rig r;
  struct answer a;
  pthread_t thread;
  atomic_bool late = false;

  (void)state;
  rig_up(&r, NULL);
  answer_init(&a);
  struct rpc_call *call = rpc_unary(r.channel, "/t/Hang", blob_text("x"), soon(), answer_set, &a);
  assert_true(rig_wait_hung(&r, 1));
  pthread_mutex_lock(&r.mtx);
  sc.session = r.hung[--r.n_hung];
  pthread_mutex_unlock(&r.mtx);
  rpc_on_cancel(sc.session, slow_cancelled, &sc); /* instead of the fixture's */
  rpc_call_cancel(call);
  assert_true(test_wait(is_set, &sc.entered, 10000));
  /* The client is gone already: a callback that is set now runs at once. */
  assert_true(rpc_cancelled(sc.session));
  rpc_on_cancel(sc.session, note_cancel, &late);
  assert_true(atomic_load(&late));
  assert_int_equal(pthread_create(&thread, NULL, finish_it, &sc), 0);
  usleep(20000); /* time to do wrong: nothing to wait for if all is well */
  assert_false(atomic_load(&sc.finished));
  atomic_store(&sc.leave, true);
  pthread_join(thread, NULL);
  assert_true(atomic_load(&sc.finished));
  answer_wait(&a);
  assert_int_equal(a.code, -ECANCELED);
  rpc_call_unref(&call);
  answer_fini(&a);
  rig_down(&r);
}

/* One stream of the storm: reads, writes, and is cancelled by another thread when that likes. */
struct storm_call {
  struct answer end;
  struct rpc_call *call;
  atomic_uint heard;
};
static void storm_sent(void *arg, bool ok) {
  struct storm_call *c = arg;
  if (ok)
    rpc_call_send(c->call, blob_text("more"), storm_sent, c);
}
static void storm_heard(void *arg, struct blob *m) {
  struct storm_call *c = arg;
  if (m) {
    atomic_fetch_add(&c->heard, 1);
    rpc_call_recv(c->call, storm_heard, c);
  }
}

struct storm {
  struct rig *r;
  uint64_t seed;
};
static void *storm(void *arg) {
  static const char *const methods[] = {"/t/Count", "/t/Chat", "/t/Sum", "/t/Deny", "/t/Nothing"};
  struct storm *s = arg;
  struct rng rng;

  rng_init(&rng, s->seed);
  for (int i = 0; i < 100; i++) {
    struct storm_call c = {0};
    struct answer a;
    answer_init(&c.end);
    answer_init(&a);
    c.call = rpc_stream_open(s->r->channel, methods[rng_below(&rng, 5)], soon(), answer_set_done, &c.end);
    struct rpc_call *unary = rpc_unary(s->r->channel, "/t/Echo", blob_text("x"),
                                       deadline_in_ms((int64_t)rng_below(&rng, 20)), answer_set, &a);
    rpc_call_recv(c.call, storm_heard, &c);
    rpc_call_send(c.call, blob_text("1000000000"), storm_sent, &c);
    if (rng_below(&rng, 4) == 0)
      rpc_call_close_send(c.call);
    if (rng_below(&rng, 2) == 0)
      usleep((useconds_t)rng_below(&rng, 2000));
    if (rng_below(&rng, 2) == 0)
      rpc_call_cancel(unary);
    rpc_call_unref(&unary);
    rpc_call_cancel(c.call);
    answer_wait(&a);
    answer_wait(&c.end);
    rpc_call_unref(&c.call);
    answer_fini(&a);
    answer_fini(&c.end);
  }
  return NULL;
}

static bool no_calls(void *arg) { return rig_stats(arg).calls == 0; }

static void cancels_at_any_moment_leave_nothing_behind(void **state) {
  pthread_t threads[8];
  struct storm s[8];
  struct rig r;
  uint64_t seed = test_seed("RPC_FAILURES_SEED");

  (void)state;
  rig_up(&r, NULL);
  for (int i = 0; i < 8; i++) {
    s[i] = (struct storm){.r = &r, .seed = seed + (uint64_t)i};
    assert_int_equal(pthread_create(&threads[i], NULL, storm, &s[i]), 0);
  }
  for (int i = 0; i < 8; i++)
    pthread_join(threads[i], NULL);
  assert_true(test_wait(no_calls, &r, 10000));
  assert_int_equal(echo_code(r.channel), 0);
  rig_down(&r);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_dead_peer_is_noticed_quickly),
      cmocka_unit_test(a_proxy_in_the_environment_is_ignored),
      cmocka_unit_test(names_and_ipv6_are_reached),
      cmocka_unit_test(a_channel_finds_its_peer_again),
      cmocka_unit_test(a_silent_peer_is_down),
      cmocka_unit_test(a_peer_that_freezes_is_noticed_by_keepalive),
      cmocka_unit_test(keepalive_pings_are_welcome),
      cmocka_unit_test(finish_waits_for_a_running_cancel),
      cmocka_unit_test(cancels_at_any_moment_leave_nothing_behind),
  };
  if (argc > 1) /* a pattern: only the tests whose names match */
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
