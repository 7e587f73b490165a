/* bench_get.c - gets from RAM over loopback: libforebay beside a bare socket pair, memcached and redis.
 *
 * One loop for all: `outstanding` threads, each with one request at a time, take values of one size in turn and touch
 * nothing but the bytes that arrive. Stores differ in their `get` alone. The bare pair is the limit: a blocking server
 * that answers a 16-byte request {index, length} with that many bytes from memory. Every get is checked for its length
 * and its first and last 8 bytes. Stores are measured in turn, round by round, so that drift hits all; figures are
 * medians over rounds.
 *
 * tests/bench/get.sh starts the servers and tells where they are: BENCH_FOREBAY (host:port, with namespace "bench"),
 * BENCH_MEMCACHED, BENCH_REDIS (ports). */
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/include/forebay/forebay.h"
#include "common/clock.h"
#include "tests/lib/benchlib.h"

#define KEYS 16u /* values of each size: more than a cache line, less than a memory */
#define SIZE_MAX_BYTES (4u << 20)
#define THREADS_MAX 16u

static const size_t sizes[] = {4u << 10, 64u << 10, 1u << 20, 4u << 20};

static void die(const char *what) {
  fprintf(stderr, "bench_get: %s: %s\n", what, strerror(errno));
  exit(1);
}

static const char *need_env(const char *name) {
  const char *v = getenv(name);

  if (!v || !*v) {
    fprintf(stderr, "bench_get: %s is not set: run it as tests/bench/run.sh get\n", name);
    exit(2);
  }
  return v;
}

/* Byte i of value `key`: any function of both that is cheap to check at two places. */
static uint64_t word_at(unsigned key, size_t size, size_t at) {
  return (key + 1) * UINT64_C(0x9e3779b97f4a7c15) + size + at;
}

static void make_value(uint8_t *buf, unsigned key, size_t size) {
  for (size_t i = 0; i < size; i += 8) {
    uint64_t w = word_at(key, size, i);
    memcpy(buf + i, &w, 8);
  }
}

static bool value_is(const uint8_t *buf, unsigned key, size_t size) {
  uint64_t first, last;

  memcpy(&first, buf, 8);
  memcpy(&last, buf + size - 8, 8);
  return first == word_at(key, size, 0) && last == word_at(key, size, size - 8);
}

static void key_name(char out[32], unsigned key, size_t size) { snprintf(out, 32, "s%zu/k%u", size, key); }

/* ---- sockets ---------------------------------------------------------------------------------------------------- */

static int connect_port(uint16_t port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct timeval patience = {.tv_sec = 20};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

  if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
    die("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  return fd;
}

static void send_all(int fd, const void *data, size_t len) {
  const uint8_t *p = data;

  while (len > 0) {
    ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
    if (n <= 0)
      die("send");
    p += n;
    len -= (size_t)n;
  }
}

static void recv_all(int fd, void *data, size_t len) {
  uint8_t *p = data;

  while (len > 0) {
    ssize_t n = recv(fd, p, len, 0);
    if (n <= 0)
      die("recv");
    p += n;
    len -= (size_t)n;
  }
}

/* A reply's text line, read ahead with MSG_PEEK so that not a byte of the value is taken. */
static size_t recv_line(int fd, char *line, size_t cap) {
  for (;;) {
    ssize_t n = recv(fd, line, cap - 1, MSG_PEEK);
    if (n <= 0)
      die("recv");
    char *end = memmem(line, (size_t)n, "\r\n", 2);
    if (end) {
      size_t len = (size_t)(end - line) + 2;
      recv_all(fd, line, len);
      line[len] = '\0';
      return len;
    }
    if ((size_t)n == cap - 1) {
      errno = EPROTO;
      die("reply line too long");
    }
  }
}

/* ---- stores ----------------------------------------------------------------------------------------------------- */

struct store {
  const char *name;
  void *(*open)(void);
  void (*get)(void *conn, unsigned key, size_t size, uint8_t *buf);
  void (*close)(void *conn);
};

static fb_client *forebay;

static void *forebay_open(void) { return forebay; }
static void forebay_get(void *conn, unsigned key, size_t size, uint8_t *buf) {
  struct fb_error e = {0};
  char name[32];

  key_name(name, key, size);
  if (fb_pread(conn, "bench", name, buf, size, 0, &e) != (ssize_t)size) {
    fprintf(stderr, "bench_get: forebay: %s\n", e.text);
    exit(1);
  }
}
static void forebay_close(void *conn) { (void)conn; }

static uint16_t bare_port, memcached_port, redis_port;
static void *fd_box(uint16_t port) {
  int *fd = malloc(sizeof *fd);
  *fd = connect_port(port);
  return fd;
}
static void fd_close(void *conn) {
  close(*(int *)conn);
  free(conn);
}

struct bare_request {
  uint64_t key, size;
};
static void *bare_open(void) { return fd_box(bare_port); }
static void bare_get(void *conn, unsigned key, size_t size, uint8_t *buf) {
  struct bare_request q = {.key = key, .size = size};

  send_all(*(int *)conn, &q, sizeof q);
  recv_all(*(int *)conn, buf, size);
}

static void *memcached_open(void) { return fd_box(memcached_port); }
static void memcached_get(void *conn, unsigned key, size_t size, uint8_t *buf) {
  char name[32], line[128];
  size_t got;
  int fd = *(int *)conn;

  key_name(name, key, size);
  send_all(fd, line, (size_t)snprintf(line, sizeof line, "get %s\r\n", name));
  recv_line(fd, line, sizeof line);
  if (sscanf(line, "VALUE %*s %*u %zu", &got) != 1 || got != size) {
    fprintf(stderr, "bench_get: memcached answered %s", line);
    exit(1);
  }
  recv_all(fd, buf, size);
  recv_all(fd, line, 7); /* \r\nEND\r\n */
}
static void memcached_set(int fd, unsigned key, size_t size, const uint8_t *value) {
  char name[32], line[128];

  key_name(name, key, size);
  send_all(fd, line, (size_t)snprintf(line, sizeof line, "set %s 0 0 %zu\r\n", name, size));
  send_all(fd, value, size);
  send_all(fd, "\r\n", 2);
  recv_line(fd, line, sizeof line);
  if (strcmp(line, "STORED\r\n") != 0) {
    fprintf(stderr, "bench_get: memcached would not store %zu bytes: %s", size, line);
    exit(1);
  }
}

static void *redis_open(void) { return fd_box(redis_port); }
static void redis_get(void *conn, unsigned key, size_t size, uint8_t *buf) {
  char name[32], line[128];
  size_t got;
  int fd = *(int *)conn;

  key_name(name, key, size);
  send_all(fd, line, (size_t)snprintf(line, sizeof line, "*2\r\n$3\r\nGET\r\n$%zu\r\n%s\r\n", strlen(name), name));
  recv_line(fd, line, sizeof line);
  if (sscanf(line, "$%zu", &got) != 1 || got != size) {
    fprintf(stderr, "bench_get: redis answered %s", line);
    exit(1);
  }
  recv_all(fd, buf, size);
  recv_all(fd, line, 2);
}
static void redis_set(int fd, unsigned key, size_t size, const uint8_t *value) {
  char name[32], line[128];

  key_name(name, key, size);
  send_all(fd, line,
           (size_t)snprintf(line, sizeof line, "*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$%zu\r\n", strlen(name), name, size));
  send_all(fd, value, size);
  send_all(fd, "\r\n", 2);
  recv_line(fd, line, sizeof line);
  if (strcmp(line, "+OK\r\n") != 0) {
    fprintf(stderr, "bench_get: redis would not store %zu bytes: %s", size, line);
    exit(1);
  }
}

/* ---- the bare server: a child process --------------------------------------------------------------------------- */

static uint8_t *bare_value[sizeof sizes / sizeof *sizes][KEYS];

static void *bare_serve(void *arg) {
  int fd = (int)(intptr_t)arg;
  struct bare_request q;

  for (;;) {
    size_t got = 0;
    while (got < sizeof q) {
      ssize_t n = recv(fd, (uint8_t *)&q + got, sizeof q - got, 0);
      if (n <= 0) {
        close(fd);
        return NULL;
      }
      got += (size_t)n;
    }
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
      if (sizes[s] == q.size && q.key < KEYS)
        send_all(fd, bare_value[s][q.key], q.size);
  }
}

static pid_t bare_start(void) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof a;
  int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;

  if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 64) < 0 ||
      getsockname(listener, (struct sockaddr *)&a, &len) < 0)
    die("bare server");
  bare_port = ntohs(a.sin_port);
  pid_t pid = fork();
  if (pid < 0)
    die("fork");
  if (pid > 0) {
    close(listener);
    return pid;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (unsigned k = 0; k < KEYS; k++)
      make_value(bare_value[s][k] = malloc(sizes[s]), k, sizes[s]);
  for (;;) {
    pthread_t t;
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
      _exit(1);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (pthread_create(&t, NULL, bare_serve, (void *)(intptr_t)fd) == 0)
      pthread_detach(t);
    else
      close(fd);
  }
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

struct worker {
  const struct store *store;
  pthread_barrier_t *start;
  size_t size;
  unsigned first;
  uint64_t gets;
};

static void *work(void *arg) {
  struct worker *w = arg;
  uint8_t *buf = malloc(w->size);
  void *conn = w->store->open();

  if (!buf)
    die("malloc");
  w->store->get(conn, w->first % KEYS, w->size, buf); /* connected and warm before the clock starts */
  pthread_barrier_wait(w->start);
  for (uint64_t i = 0; i < w->gets; i++) {
    unsigned key = (unsigned)((w->first + i) % KEYS);
    w->store->get(conn, key, w->size, buf);
    if (!value_is(buf, key, w->size)) {
      fprintf(stderr, "bench_get: %s returned wrong bytes\n", w->store->name);
      exit(1);
    }
  }
  pthread_barrier_wait(w->start);
  w->store->close(conn);
  free(buf);
  return NULL;
}

/* Gets per second. */
static double run(const struct store *store, size_t size, unsigned outstanding, uint64_t gets) {
  pthread_barrier_t barrier;
  pthread_t thread[THREADS_MAX];
  struct worker w[THREADS_MAX];

  pthread_barrier_init(&barrier, NULL, outstanding + 1);
  for (unsigned i = 0; i < outstanding; i++) {
    w[i] = (struct worker){
        .store = store, .start = &barrier, .size = size, .first = i * 5, .gets = gets / outstanding + 1};
    if (pthread_create(&thread[i], NULL, work, &w[i]))
      die("thread");
  }
  pthread_barrier_wait(&barrier);
  int64_t from = clock_mono_ns();
  pthread_barrier_wait(&barrier);
  int64_t ns = clock_mono_ns() - from;
  for (unsigned i = 0; i < outstanding; i++)
    pthread_join(thread[i], NULL);
  pthread_barrier_destroy(&barrier);
  return (double)(gets / outstanding + 1) * outstanding * 1e9 / (double)ns;
}

static void load(void) {
  uint8_t *buf = malloc(SIZE_MAX_BYTES);
  int m = connect_port(memcached_port), r = connect_port(redis_port);

  if (!buf)
    die("malloc");
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (unsigned k = 0; k < KEYS; k++) {
      make_value(buf, k, sizes[s]);
      memcached_set(m, k, sizes[s], buf);
      redis_set(r, k, sizes[s], buf);
      struct fb_error e = {0};
      char name[32];
      key_name(name, k, sizes[s]);
      if (fb_put(forebay, "bench", name, buf, sizes[s], NULL, NULL, &e) < 0) {
        fprintf(stderr, "bench_get: %s\n", e.text);
        exit(1);
      }
    }
  close(m);
  close(r);
  free(buf);
}

int main(int argc, char **argv) {
  static const struct store stores[] = {
      {"forebay", forebay_open, forebay_get, forebay_close},
      {"bare socket pair", bare_open, bare_get, fd_close},
      {"memcached", memcached_open, memcached_get, fd_close},
      {"redis", redis_open, redis_get, fd_close},
  };
  enum { STORES = sizeof stores / sizeof *stores };
  static const unsigned depths[] = {1, 16};
  struct bench *b =
      bench_new("get", "gets from RAM over loopback (gRPC path), beside bare sockets, memcached, redis", argc, argv);
  unsigned rounds = bench_quick(b) ? 3 : 7;
  struct fb_options o = {.peers = need_env("BENCH_FOREBAY")};
  struct fb_error e = {0};

  /* As the CLI does, and as docs/client.md advises every reader of large values. */
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_TOP_PAD, 16 << 20);
  memcached_port = (uint16_t)atoi(need_env("BENCH_MEMCACHED"));
  redis_port = (uint16_t)atoi(need_env("BENCH_REDIS"));
  pid_t bare = bare_start(); /* forks: before any thread is there */
  if (fb_open(&forebay, &o, &e) < 0) {
    fprintf(stderr, "bench_get: %s\n", e.text);
    kill(bare, SIGKILL);
    return 1;
  }
  load();
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (size_t d = 0; d < sizeof depths / sizeof *depths; d++) {
      double figure[STORES][16];
      uint64_t bytes = bench_quick(b) ? 32u << 20 : 256u << 20;
      uint64_t gets = bytes / sizes[s], most = bench_quick(b) ? 2000 : 10000;
      if (gets > most)
        gets = most;
      for (unsigned r = 0; r < rounds; r++)
        for (unsigned i = 0; i < STORES; i++)
          figure[(i + r) % STORES][r] = run(&stores[(i + r) % STORES], sizes[s], depths[d], gets);
      bool big = sizes[s] >= 64u << 10;
      double scale = big ? (double)sizes[s] / 1e9 : 1e-3, ours = bench_median(figure[0], rounds) * scale;
      for (unsigned i = 1; i < STORES; i++) {
        char name[64];
        snprintf(name, sizeof name, "%zu KiB, %u outstanding", sizes[s] >> 10, depths[d]);
        bench_add(b, &(struct bench_row){.name = name,
                                         .ours = ours,
                                         .ref = bench_median(figure[i], rounds) * scale,
                                         .ref_name = stores[i].name,
                                         .unit = big ? "GB/s" : "k gets/s",
                                         .bar = BENCH_NONE,
                                         .higher_is_better = true,
                                         .runs = rounds});
      }
    }
  fb_close(&forebay);
  kill(bare, SIGKILL);
  waitpid(bare, NULL, 0);
  return bench_finish(&b);
}
