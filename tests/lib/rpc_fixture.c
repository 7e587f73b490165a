/* rpc_fixture.c - see rpc_fixture.h. */
#include "tests/lib/rpc_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/lib/testlib.h"

#define WAIT_MS 20000

static void die(const char *what) {
  perror(what);
  abort();
}

struct blob *blob_text(const char *s) {
  return blob_copy(s, strlen(s));
}

bool blob_equals(const struct blob *a, const void *data, size_t len) {
  uint8_t *flat = malloc(len + 1);
  bool same = a && a->len == len && blob_read(a, 0, flat, len) == len && memcmp(flat, data, len) == 0;
  free(flat);
  return same;
}

static char *text_of(const struct blob *b, char *buf, size_t cap) {
  size_t n = blob_read(b, 0, buf, cap - 1);
  buf[n] = '\0';
  return buf;
}

/* ---- methods ---------------------------------------------------------------------------------------------------- */

static void on_echo(struct rpc_session *s, struct blob *m, void *arg) {
  (void)arg;
  if (m)
    rpc_finish(s, blob_ref(m), 0, NULL);
  else
    rpc_finish(s, NULL, -FB_EPROTO, "no request");
}
static void echo(struct rpc_session *s, void *arg) { rpc_recv(s, on_echo, arg); }

static void on_fail(struct rpc_session *s, struct blob *m, void *arg) {
  char buf[2048] = "", *end;

  (void)arg;
  if (m)
    text_of(m, buf, sizeof buf);
  int code = (int)strtol(buf, &end, 10);
  rpc_finish(s, NULL, code, *end == ' ' ? end + 1 : NULL);
}
static void fail(struct rpc_session *s, void *arg) { rpc_recv(s, on_fail, arg); }

static void on_big(struct rpc_session *s, struct blob *m, void *arg) {
  char buf[32] = "0";

  (void)arg;
  if (m)
    text_of(m, buf, sizeof buf);
  size_t len = strtoul(buf, NULL, 10);
  uint8_t *bytes = malloc(len + 1);
  for (size_t i = 0; i < len; i++)
    bytes[i] = (uint8_t)(i * 31 >> 3);
  struct blob *b = blob_new(1);
  blob_append(b, bytes, len, free, bytes);
  rpc_finish(s, b, 0, NULL);
}
static void big(struct rpc_session *s, void *arg) { rpc_recv(s, on_big, arg); }

struct counting {
  unsigned next, n;
};
static void count_on(struct rpc_session *s, bool ok, void *arg) {
  struct counting *c = arg;
  char buf[16];

  if (!ok || c->next == c->n) {
    free(c);
    rpc_finish(s, NULL, ok ? 0 : -ECANCELED, NULL);
    return;
  }
  snprintf(buf, sizeof buf, "%u", c->next++);
  rpc_send(s, blob_text(buf), count_on, c);
}
static void on_count(struct rpc_session *s, struct blob *m, void *arg) {
  struct counting *c = calloc(1, sizeof *c);
  char buf[16] = "0";

  (void)arg;
  if (m)
    text_of(m, buf, sizeof buf);
  c->n = (unsigned)atoi(buf);
  count_on(s, true, c);
}
static void count(struct rpc_session *s, void *arg) { rpc_recv(s, on_count, arg); }

struct sum {
  unsigned n;
  size_t bytes;
};
static void on_sum(struct rpc_session *s, struct blob *m, void *arg) {
  struct sum *t = arg;
  char buf[64];

  if (m) {
    t->n++;
    t->bytes += m->len;
    rpc_recv(s, on_sum, t);
    return;
  }
  snprintf(buf, sizeof buf, "%u %zu", t->n, t->bytes);
  free(t);
  rpc_finish(s, blob_text(buf), 0, NULL);
}
static void sum(struct rpc_session *s, void *arg) {
  (void)arg;
  rpc_recv(s, on_sum, calloc(1, sizeof(struct sum)));
}

static void on_deny(struct rpc_session *s, struct blob *m, void *arg) {
  (void)m;
  (void)arg;
  rpc_finish(s, NULL, -EINVAL, "the first message is wrong");
}
static void deny(struct rpc_session *s, void *arg) { rpc_recv(s, on_deny, arg); }

static void on_chat(struct rpc_session *s, struct blob *m, void *arg);
static void chatted(struct rpc_session *s, bool ok, void *arg) {
  if (ok)
    rpc_recv(s, on_chat, arg);
  else
    rpc_finish(s, NULL, -ECANCELED, NULL);
}
static void on_chat(struct rpc_session *s, struct blob *m, void *arg) {
  if (m)
    rpc_send(s, blob_ref(m), chatted, arg);
  else
    rpc_finish(s, NULL, 0, NULL);
}
static void chat(struct rpc_session *s, void *arg) { rpc_recv(s, on_chat, arg); }

static void hang_cancelled(struct rpc_session *s, void *arg) {
  struct rig *r = arg;

  (void)s;
  pthread_mutex_lock(&r->mtx);
  r->cancels++;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->mtx);
}
static void hang_with(struct rpc_session *s, struct blob *kept, void *arg) {
  struct rig *r = arg;

  rpc_on_cancel(s, hang_cancelled, r);
  pthread_mutex_lock(&r->mtx);
  r->started++;
  r->deadline_seen_ns = rpc_deadline_ns(s);
  snprintf(r->peer_seen, sizeof r->peer_seen, "%s", rpc_peer(s));
  if (r->n_hung == sizeof r->hung / sizeof *r->hung)
    abort();
  r->kept[r->n_hung] = kept ? blob_ref(kept) : NULL;
  r->hung[r->n_hung++] = s;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->mtx);
}

static void hang(struct rpc_session *s, void *arg) { hang_with(s, NULL, arg); }
static void keep(struct rpc_session *s, void *arg) { rpc_recv(s, hang_with, arg); }

unsigned rig_release(struct rig *r) {
  struct rpc_session *mine[256];
  struct blob *kept[256];

  pthread_mutex_lock(&r->mtx);
  unsigned n = r->n_hung;
  memcpy(mine, r->hung, n * sizeof *mine);
  memcpy(kept, r->kept, n * sizeof *kept);
  r->n_hung = 0;
  pthread_mutex_unlock(&r->mtx);
  for (unsigned i = 0; i < n; i++) {
    blob_unref(&kept[i]);
    if (rpc_cancelled(mine[i]))
      rpc_finish(mine[i], NULL, -ECANCELED, "cancelled");
    else
      rpc_finish(mine[i], blob_text("released"), 0, NULL);
  }
  return n;
}

/* ---- waiting ------------------------------------------------------------------------------------------------------
 */

static bool wait_for(struct rig *r, const unsigned *what, unsigned n) {
  struct timespec ts;
  int e = 0;

  clock_gettime(CLOCK_REALTIME, &ts);
  ts.tv_sec += WAIT_MS / 1000;
  pthread_mutex_lock(&r->mtx);
  while (*what < n && e == 0)
    e = pthread_cond_timedwait(&r->changed, &r->mtx, &ts);
  bool ok = *what >= n;
  pthread_mutex_unlock(&r->mtx);
  return ok;
}

bool rig_wait_hung(struct rig *r, unsigned n) { return wait_for(r, &r->n_hung, n); }
bool rig_wait_cancels(struct rig *r, unsigned n) { return wait_for(r, &r->cancels, n); }

struct rpc_server_stats rig_stats(struct rig *r) {
  struct rpc_server_stats st;
  rpc_server_stats(r->server, &st);
  return st;
}

struct connections_are {
  struct rig *r;
  uint32_t n;
};
static bool connections_are(void *arg) {
  struct connections_are *c = arg;
  return rig_stats(c->r).connections == c->n;
}
bool rig_wait_connections(struct rig *r, uint32_t n) {
  return test_wait(connections_are, &(struct connections_are){r, n}, WAIT_MS);
}

void answer_init(struct answer *a) {
  memset(a, 0, sizeof *a);
  pthread_mutex_init(&a->mtx, NULL);
  pthread_cond_init(&a->changed, NULL);
}
void answer_set(void *arg, int code, const char *text, struct blob *reply) {
  struct answer *a = arg;

  pthread_mutex_lock(&a->mtx);
  if (a->done) /* exactly once is what we test */
    abort();
  a->done = true;
  a->code = code;
  snprintf(a->text, sizeof a->text, "%s", text);
  a->reply = reply ? blob_ref(reply) : NULL;
  pthread_cond_broadcast(&a->changed);
  pthread_mutex_unlock(&a->mtx);
}
void answer_set_done(void *arg, int code, const char *text) { answer_set(arg, code, text, NULL); }
void answer_wait(struct answer *a) {
  pthread_mutex_lock(&a->mtx);
  while (!a->done)
    pthread_cond_wait(&a->changed, &a->mtx);
  pthread_mutex_unlock(&a->mtx);
}
bool answer_done(struct answer *a) {
  pthread_mutex_lock(&a->mtx);
  bool done = a->done;
  pthread_mutex_unlock(&a->mtx);
  return done;
}
void answer_fini(struct answer *a) {
  blob_unref(&a->reply);
  pthread_mutex_destroy(&a->mtx);
  pthread_cond_destroy(&a->changed);
}

void call_wait(struct rpc_channel *c, const char *method, struct blob *request, int64_t deadline_ns, struct answer *a) {
  answer_init(a);
  struct rpc_call *call = rpc_unary(c, method, request, deadline_ns, answer_set, a);
  if (!call)
    die("rpc_unary");
  answer_wait(a);
  rpc_call_unref(&call);
}

/* ---- up and down ----------------------------------------------------------------------------------------------------
 */

struct rpc_server_limits rig_limits(void) {
  return (struct rpc_server_limits){.max_connections = 64,
                                    .max_streams = 256,
                                    .max_message_bytes = (4 << 20) + (64 << 10),
                                    .max_calls = 1024,
                                    .handshake_ms = 5000};
}

int rig_serve(struct rig *r, const char *address, const struct rpc_server_limits *limits) {
  const struct rpc_method methods[] = {
      {"/t/Echo", echo, r}, {"/t/Fail", fail, r}, {"/t/Count", count, r}, {"/t/Sum", sum, r},   {"/t/Chat", chat, r},
      {"/t/Hang", hang, r}, {"/t/Deny", deny, r}, {"/t/Big", big, r},     {"/t/Keep", keep, r}, {NULL, NULL, NULL}};
  struct rpc_server_limits defaults = rig_limits();

  int code = rpc_server_new(&r->server, r->loop, address, limits ? limits : &defaults, methods, NULL);
  if (code < 0)
    return code;
  snprintf(r->address, sizeof r->address, "%.*s:%u", (int)(strrchr(address, ':') - address), address,
           rpc_server_port(r->server));
  return rpc_server_start(r->server, NULL);
}

int rig_up_at(struct rig *r, const char *address, const struct rpc_server_limits *limits) {
  memset(r, 0, sizeof *r);
  if (rpc_loop_new(&r->loop, 2, "test", NULL) < 0)
    die("rpc_loop_new");
  int code = rig_serve(r, address, limits);
  if (code < 0) {
    rpc_loop_free(&r->loop);
    return code;
  }
  pthread_mutex_init(&r->mtx, NULL);
  pthread_cond_init(&r->changed, NULL);
  if (rpc_channel_new(&r->channel, r->loop, r->address, NULL, NULL) < 0)
    die("rpc_channel_new");
  return 0;
}

void rig_up(struct rig *r, const struct rpc_server_limits *limits) {
  if (rig_up_at(r, "127.0.0.1:0", limits) < 0)
    die("rig_up");
}

void rig_down(struct rig *r) {
  rpc_channel_free(&r->channel);
  rig_release(r);
  rpc_server_free(&r->server);
  rpc_loop_free(&r->loop);
  pthread_mutex_destroy(&r->mtx);
  pthread_cond_destroy(&r->changed);
}

int dial(uint16_t port) {
  struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

  sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0)
    die("dial");
  return fd;
}

bool closed_within(int fd, int timeout_ms) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  int64_t end = deadline_in_ms(timeout_ms);
  char buf[512];

  for (;;) {
    int64_t left = (end - clock_mono_ns()) / NS_PER_MS;
    if (left < 0 || poll(&p, 1, (int)left) <= 0)
      return false;
    ssize_t n = recv(fd, buf, sizeof buf, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
      return true;
  }
}
