/* test_rpc_guard.c - the server's front door: how many may come in, who is sent away, who is counted as gone, and what
 * happens when descriptors or memory run out. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "tests/lib/rpc_fixture.h"
#include "tests/lib/testlib.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define SETTINGS "\0\0\0\4\0\0\0\0\0" /* an empty frame */

static char *self; /* this program, to be run again */

static int64_t soon(void) { return deadline_in_ms(20000); }

static void put(int fd, const void *bytes, size_t len) {
  assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* A connection that speaks HTTP/2 and says nothing more. */
static int enter(struct rig *r) {
  int fd = dial(rpc_server_port(r->server));
  put(fd, PREFACE SETTINGS, sizeof PREFACE - 1 + sizeof SETTINGS - 1);
  return fd;
}

static int echo_code(struct rpc_channel *c) {
  struct answer a;

  call_wait(c, "/t/Echo", blob_text("x"), soon(), &a);
  int code = a.code;
  answer_fini(&a);
  return code;
}

static bool echo_works(void *arg) { return echo_code(arg) == 0; }

static void reset(int fd) {
  struct linger hard = {.l_onoff = 1};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  close(fd);
}

struct counter_is {
  struct rig *r;
  size_t offset; /* of a uint64_t in struct rpc_server_stats */
  uint64_t n;
};
static bool counter_is(void *arg) {
  struct counter_is *c = arg;
  struct rpc_server_stats st = rig_stats(c->r);
  uint64_t v;
  memcpy(&v, (char *)&st + c->offset, sizeof v);
  return v >= c->n;
}
#define wait_counter(rig, field, value)                                                                                \
  test_wait(counter_is, &(struct counter_is){rig, offsetof(struct rpc_server_stats, field), value}, 10000)

/* ---- counting -----------------------------------------------------------------------------------------------------
 */

static void connections_are_counted_until_they_are_gone(void **state) {
  struct rig r;
  struct rpc_channel *channels[8];
  int raw[8];

  (void)state;
  rig_up(&r, NULL);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 8; i++) {
      assert_int_equal(rpc_channel_new(&channels[i], r.loop, r.address, NULL, NULL), 0);
      assert_int_equal(echo_code(channels[i]), 0);
      raw[i] = enter(&r);
    }
    assert_true(rig_wait_connections(&r, 16));
    for (int i = 0; i < 8; i++) {
      rpc_channel_free(&channels[i]);
      if (i % 2)
        reset(raw[i]);
      else
        close(raw[i]);
    }
    assert_true(rig_wait_connections(&r, 0));
  }
  struct rpc_server_stats st = rig_stats(&r);
  assert_int_equal(st.accepted, 48);
  assert_int_equal(st.refused_full + st.refused_preface + st.accept_errors, 0);
  rig_down(&r);
}

static void idle_connections_are_closed_by_the_server(void **state) {
  struct rpc_server_limits limits = rig_limits();
  struct rig r;

  (void)state;
  limits.idle_ms = 150;
  rig_up(&r, &limits);
  for (int i = 0; i < 3; i++) {
    /* The channel connects again by itself. A call may just meet the goodbye: the next one does not. */
    assert_true(test_wait(echo_works, r.channel, 10000));
    assert_true(rig_wait_connections(&r, 0));
  }
  int fd = enter(&r);
  assert_true(closed_within(fd, 10000));
  close(fd);
  assert_true(rig_wait_connections(&r, 0));
  rig_down(&r);
}

static void connections_over_the_limit_are_closed_at_once(void **state) {
  struct rpc_server_limits limits = rig_limits();
  struct rig r;
  int fd[3], over;

  (void)state;
  limits.max_connections = 3;
  rig_up(&r, &limits);
  fd[0] = enter(&r);
  fd[1] = enter(&r);
  fd[2] = dial(rpc_server_port(r.server)); /* one that is still greeting takes a place too */
  assert_true(rig_wait_connections(&r, 3));
  over = dial(rpc_server_port(r.server));
  assert_true(closed_within(over, 10000));
  close(over);
  assert_int_equal(rig_stats(&r).refused_full, 1);
  assert_int_equal(echo_code(r.channel), -FB_EPEERDOWN);
  assert_true(rig_stats(&r).refused_full >= 2);
  /* A place becomes free, and the channel that was turned away gets it. */
  close(fd[1]);
  assert_true(rig_wait_connections(&r, 2));
  assert_true(test_wait(echo_works, r.channel, 10000));
  assert_int_equal(rig_stats(&r).connections, 3);
  close(fd[0]);
  close(fd[2]);
  assert_true(rig_wait_connections(&r, 1));
  rig_down(&r);
}

static void streams_over_the_limit_wait_their_turn(void **state) {
  struct rpc_server_limits limits = rig_limits();
  struct rig r;
  struct answer a[5];
  struct rpc_call *calls[5];

  (void)state;
  limits.max_streams = 2;
  rig_up(&r, &limits);
  assert_int_equal(echo_code(r.channel), 0); /* the client knows the limit from now on */
  for (int i = 0; i < 5; i++) {
    answer_init(&a[i]);
    calls[i] = rpc_unary(r.channel, "/t/Hang", blob_text("x"), soon(), answer_set, &a[i]);
  }
  for (unsigned left = 5; left > 0;) {
    unsigned now = left < 2 ? left : 2;
    assert_true(rig_wait_hung(&r, now));
    assert_int_equal(rig_release(&r), now); /* never more than two at a time */
    left -= now;
  }
  for (int i = 0; i < 5; i++) {
    answer_wait(&a[i]);
    assert_int_equal(a[i].code, 0);
    rpc_call_unref(&calls[i]);
    answer_fini(&a[i]);
  }
  rig_down(&r);
}

/* ---- greeting -----------------------------------------------------------------------------------------------------
 */

static void other_protocols_are_sent_away(void **state) {
  static const struct {
    const char *bytes;
    size_t len;
  } garbage[] = {
      {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27},
      {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11}, /* TLS */
      {"\0", 1},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", 24},
      {"PRI * HTTP/1.1\r\n", 16},
      {"SSH-2.0-x\r\n", 11},
  };
  struct rig r;

  (void)state;
  rig_up(&r, NULL);
  uint64_t n = sizeof garbage / sizeof *garbage;
  for (uint64_t i = 0; i < n; i++) {
    int fd = dial(rpc_server_port(r.server));
    put(fd, garbage[i].bytes, garbage[i].len);
    assert_true(closed_within(fd, 10000));
    close(fd);
    assert_true(wait_counter(&r, refused_preface, i + 1));
  }
  struct rng rng;
  rng_init(&rng, test_seed("RPC_GUARD_SEED"));
  for (int i = 0; i < 50; i++) {
    uint8_t bytes[512];
    size_t len = rng_range(&rng, 1, sizeof bytes);
    rng_fill(&rng, bytes, len);
    int fd = dial(rpc_server_port(r.server));
    put(fd, bytes, len);
    assert_true(closed_within(fd, 10000));
    close(fd);
  }
  assert_true(rig_wait_connections(&r, 0));
  /* The right preface and rubbish behind it: gRPC's to refuse, ours to count. */
  for (int i = 0; i < 20; i++) {
    uint8_t bytes[256];
    rng_fill(&rng, bytes, sizeof bytes);
    int fd = dial(rpc_server_port(r.server));
    put(fd, PREFACE, sizeof PREFACE - 1);
    send(fd, bytes, sizeof bytes, MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    assert_true(closed_within(fd, 10000));
    close(fd);
  }
  assert_true(rig_wait_connections(&r, 0));
  assert_int_equal(echo_code(r.channel), 0);
  rig_down(&r);
}

static void a_preface_may_come_byte_by_byte(void **state) {
  struct rig r;

  (void)state;
  rig_up(&r, NULL);
  int fd = dial(rpc_server_port(r.server)), one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  for (size_t i = 0; i < sizeof PREFACE - 1; i++)
    put(fd, &PREFACE[i], 1);
  put(fd, SETTINGS, sizeof SETTINGS - 1);
  char frame[9];
  assert_int_equal(recv(fd, frame, sizeof frame, MSG_WAITALL), sizeof frame); /* gRPC answers with its settings */
  assert_int_equal(frame[3], 4);
  assert_int_equal(rig_stats(&r).refused_preface, 0);
  close(fd);
  assert_true(rig_wait_connections(&r, 0));
  rig_down(&r);
}

static void silent_connections_are_dropped_in_time(void **state) {
  struct rpc_server_limits limits = rig_limits();
  struct rig r;
  int fd[3];

  (void)state;
  limits.handshake_ms = 200;
  rig_up(&r, &limits);
  int64_t start = clock_mono_ns();
  for (int i = 0; i < 3; i++)
    fd[i] = dial(rpc_server_port(r.server));
  put(fd[1], PREFACE, 10); /* not whole */
  put(fd[2], PREFACE, 10);
  shutdown(fd[2], SHUT_WR); /* and never will be */
  for (int i = 0; i < 3; i++) {
    assert_true(closed_within(fd[i], 10000));
    close(fd[i]);
  }
  int64_t took = clock_mono_ns() - start;
  assert_true(took >= 150 * NS_PER_MS && took < 8 * NS_PER_S);
  assert_true(wait_counter(&r, refused_preface, 3));
  assert_true(rig_wait_connections(&r, 0));
  rig_down(&r);
}

static void who_leaves_before_greeting_is_no_error(void **state) {
  struct rig r;

  (void)state;
  rig_up(&r, NULL);
  for (int i = 0; i < 10; i++) {
    int fd = dial(rpc_server_port(r.server));
    if (i % 2)
      reset(fd);
    else
      close(fd);
  }
  assert_true(wait_counter(&r, accepted, 10));
  assert_true(rig_wait_connections(&r, 0));
  assert_int_equal(rig_stats(&r).refused_preface, 0);
  rig_down(&r);
}

/* ---- running out ----------------------------------------------------------------------------------------------------
 */

/* In a process of its own, whose limit of open files we can lower. */
static int emfile_child(void) {
  struct rpc_server_limits limits = rig_limits();
  struct rpc_server_stats st;
  struct rig r;
  struct rlimit low = {.rlim_cur = 64, .rlim_max = 64};
  int fds[64], n = 0, pipe_fds[2];

  if (setrlimit(RLIMIT_NOFILE, &low) < 0)
    return 2;
  limits.max_connections = 1000;
  rig_up(&r, &limits);
  if (echo_code(r.channel) != 0 || pipe(pipe_fds) < 0)
    return 3;
  uint16_t port = rpc_server_port(r.server);
  /* The clients live in another process, so that only the server runs out. */
  pid_t pid = fork();
  if (pid == 0) {
    char c;
    for (int i = 3; i < 64; i++)
      if (i != pipe_fds[0])
        close(i);
    for (; n < 50; n++)
      fds[n] = dial(port);
    close(pipe_fds[1]);
    if (read(pipe_fds[0], &c, 1) < 0) /* until the parent has seen enough */
      _exit(1);
    for (int i = 0; i < n; i++)
      close(fds[i]);
    _exit(0);
  }
  if (!wait_counter(&r, accept_errors, 1))
    return 4;
  rpc_server_stats(r.server, &st);
  if (st.connections < 5)
    return 5;
  /* The connection that is there goes on; nothing spins or stops. */
  if (echo_code(r.channel) != 0)
    return 6;
  close(pipe_fds[0]);
  close(pipe_fds[1]);
  int status;
  if (waitpid(pid, &status, 0) != pid || status != 0)
    return 7;
  if (!rig_wait_connections(&r, 1))
    return 8;
  /* And new ones are taken again. */
  for (int i = 0; i < 5; i++) {
    struct rpc_channel *c;
    if (rpc_channel_new(&c, r.loop, r.address, NULL, NULL) < 0 || echo_code(c) != 0)
      return 9;
    rpc_channel_free(&c);
  }
  rig_down(&r);
  return 0;
}

static void running_out_of_descriptors_is_survived(void **state) {
  int status;

  (void)state;
  pid_t pid = fork();
  if (pid == 0) {
    execl(self, self, "--emfile-child", NULL);
    _exit(127);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

struct keeping {
  struct rig *r;
  struct answer *a;
  unsigned n;
};
/* Every call is either with the handler or refused. */
static bool settled(void *arg) {
  struct keeping *k = arg;
  unsigned n = 0;

  for (unsigned i = 0; i < k->n; i++)
    n += answer_done(&k->a[i]);
  pthread_mutex_lock(&k->r->mtx);
  n += k->r->n_hung;
  pthread_mutex_unlock(&k->r->mtx);
  return n >= k->n;
}

static void received_bytes_are_bounded(void **state) {
  struct rpc_server_limits limits = rig_limits();
  struct rig r;
  struct answer a[24];
  struct rpc_call *calls[24];
  unsigned refused = 0, kept = 0;

  (void)state;
  limits.receive_bytes = 16 << 20;
  rig_up(&r, &limits);
  for (int i = 0; i < 24; i++) { /* 96 MiB that the handler does not let go of */
    answer_init(&a[i]);
    struct blob *b = blob_new(1);
    uint8_t *bytes = calloc(1, 4 << 20);
    assert_int_equal(blob_append(b, bytes, 4 << 20, free, bytes), 0);
    calls[i] = rpc_unary(r.channel, "/t/Keep", b, deadline_in_ms(3000), answer_set, &a[i]);
  }
  assert_true(test_wait(settled, &(struct keeping){&r, a, 24}, 20000));
  pthread_mutex_lock(&r.mtx);
  for (unsigned i = 0; i < r.n_hung; i++) /* the handler of a refused one may run, without the message */
    kept += r.kept[i] != NULL;
  pthread_mutex_unlock(&r.mtx);
  rig_release(&r);
  for (int i = 0; i < 24; i++) {
    answer_wait(&a[i]);
    refused += a[i].code != 0;
    /* Reset for its memory, or held back by flow control until its deadline. */
    assert_true(a[i].code == 0 || a[i].code == -FB_EBUSY || a[i].code == -ETIMEDOUT);
    rpc_call_unref(&calls[i]);
    answer_fini(&a[i]);
  }
  assert_true(refused > 0 && kept <= 8);
  assert_true(test_wait(echo_works, r.channel, 10000));
  rig_down(&r);
}

/* ---- set-up and stop
 * --------------------------------------------------------------------------------------------------- */

static void bad_listen_addresses_and_limits_are_named(void **state) {
  static const struct rpc_method none[] = {{0}};
  struct rpc_server_limits limits = rig_limits(), bad;
  struct rpc_server *s = NULL, *other = NULL;
  struct rpc_loop *l;
  struct err e = {0};
  char address[64];

  (void)state;
  assert_int_equal(rpc_loop_new(&l, 1, "x", NULL), 0);
  assert_int_equal(rpc_server_new(&s, l, "nonsense", &limits, none, &e), -EINVAL);
  assert_non_null(strstr(e.text, "nonsense"));
  assert_int_equal(rpc_server_new(&s, l, "no-such-host.invalid:0", &limits, none, &e), -EINVAL);
  assert_int_equal(rpc_server_new(&s, l, "192.0.2.1:0", &limits, none, &e), -EADDRNOTAVAIL);
  assert_int_equal(rpc_server_new(&s, l, "localhost:0", &limits, none, &e), 0);
  assert_int_not_equal(rpc_server_port(s), 0);
  rpc_server_free(&s); /* never started */
  assert_null(s);
  assert_int_equal(rpc_server_new(&s, l, "127.0.0.1:0", &limits, none, &e), 0);
  snprintf(address, sizeof address, "127.0.0.1:%u", rpc_server_port(s));
  assert_int_equal(rpc_server_new(&other, l, address, &limits, none, &e), -EADDRINUSE);
  assert_non_null(strstr(e.text, address));
  assert_int_equal(rpc_server_start(s, &e), 0);
  assert_int_equal(rpc_server_start(s, &e), -EALREADY);
  assert_int_equal(rpc_server_stop(s, deadline_in_ms(1000)), 0);
  assert_int_equal(rpc_server_stop(s, deadline_in_ms(1000)), 0);
  rpc_server_free(&s);
  bad = limits;
  bad.max_connections = 0;
  assert_int_equal(rpc_server_new(&s, l, "127.0.0.1:0", &bad, none, &e), -EINVAL);
  bad = limits;
  bad.max_calls = 0;
  assert_int_equal(rpc_server_new(&s, l, "127.0.0.1:0", &bad, none, &e), -EINVAL);
  bad = limits;
  bad.receive_bytes = limits.max_message_bytes;
  assert_int_equal(rpc_server_new(&s, l, "127.0.0.1:0", &bad, none, &e), -EINVAL);
  bad = limits;
  bad.max_message_bytes = SIZE_MAX;
  assert_int_equal(rpc_server_new(&s, l, "127.0.0.1:0", &bad, none, &e), -EINVAL);
  rpc_loop_free(&l);
}

static void stop_turns_everybody_out(void **state) {
  struct rpc_server_limits limits = rig_limits();
  struct rig r;

  (void)state;
  rig_up(&r, &limits);
  int greeting = dial(rpc_server_port(r.server)), inside = enter(&r);
  assert_int_equal(echo_code(r.channel), 0);
  assert_true(rig_wait_connections(&r, 3));
  int64_t start = clock_mono_ns();
  assert_int_equal(rpc_server_stop(r.server, soon()), 0);
  /* The raw one never answers the goodbye's ping: it must not hold up the stop until the deadline. */
  assert_true(clock_mono_ns() - start < 8 * NS_PER_S);
  assert_true(closed_within(greeting, 10000));
  assert_true(closed_within(inside, 10000));
  close(greeting);
  close(inside);
  assert_int_equal(echo_code(r.channel), -FB_EPEERDOWN);
  rig_down(&r);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(connections_are_counted_until_they_are_gone),
      cmocka_unit_test(idle_connections_are_closed_by_the_server),
      cmocka_unit_test(connections_over_the_limit_are_closed_at_once),
      cmocka_unit_test(streams_over_the_limit_wait_their_turn),
      cmocka_unit_test(other_protocols_are_sent_away),
      cmocka_unit_test(a_preface_may_come_byte_by_byte),
      cmocka_unit_test(silent_connections_are_dropped_in_time),
      cmocka_unit_test(who_leaves_before_greeting_is_no_error),
      cmocka_unit_test(running_out_of_descriptors_is_survived),
      cmocka_unit_test(received_bytes_are_bounded),
      cmocka_unit_test(bad_listen_addresses_and_limits_are_named),
      cmocka_unit_test(stop_turns_everybody_out),
  };

  if (argc > 1 && strcmp(argv[1], "--emfile-child") == 0)
    return emfile_child();
  self = realpath("/proc/self/exe", NULL);
  if (argc > 1) /* a pattern: only the tests whose names match */
    cmocka_set_test_filter(argv[1]);
  int r = cmocka_run_group_tests(tests, NULL, NULL);
  free(self);
  return r;
}
