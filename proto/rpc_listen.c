/* rpc_listen.c - our own front door: accepts, bounds, checks the preface, and counts who is inside.
 *
 * libgrpc 1.51 has no limit on connections and stops accepting for ever after one EMFILE, so it gets no listening
 * socket from us, only connections that have shown the HTTP/2 preface. One thread does it all with epoll; a connection
 * is
 *
 *     accept ──> GREETING ──preface──> INSIDE ──hang-up──> closed
 *                    └──other bytes, end, handshake_ms over──> closed
 *
 * INSIDE, gRPC owns a duplicate of the descriptor. It shuts the socket down when it is done with it, and our own
 * descriptor then reports EPOLLHUP: that is how we know that the connection has gone, whoever ended it.
 *
 * When descriptors run out, accept fails and the connection would stay in the backlog, readable for ever: then the
 * reserve descriptor is closed, the connection taken and dropped, and the reserve opened again. */
#include "proto/rpc_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define PREFACE_LEN (sizeof PREFACE - 1)
#define BACKLOG 1024
#define ACCEPTS_PER_WAKE 64
#define BACKOFF_NS (20 * NS_PER_MS)
#define HANDSHAKE_MS_DEFAULT 10000
#define PEER_TEXT 64

struct conn {
  TAILQ_ENTRY(conn) link; /* in `greeting`, oldest first, or in `inside` */
  int fd;                 /* ours; gRPC has a duplicate once it is inside */
  int given;              /* the duplicate's number, -1 before */
  int64_t deadline_ns;
  char peer[PEER_TEXT];
};
TAILQ_HEAD(conn_list, conn);

struct rpc_listener {
  rpc_ready_fn ready;
  void *arg;
  uint32_t max_connections;
  int64_t handshake_ns;
  uint16_t port;
  int ep, wake;
  pthread_t thread;
  bool running; /* the thread exists; of the thread that starts and frees */

  /* owned by the acceptor's thread */
  int sock, reserve;
  bool listening; /* `sock` is in `ep` */
  int64_t resume_ns;
  struct conn_list greeting;

  /* under mtx */
  pthread_mutex_t mtx;
  pthread_cond_t changed;
  bool close_wanted, closed, end_wanted;
  struct conn_list inside;
  struct conn **by_fd; /* inside, by the duplicate's number */
  size_t by_fd_cap;

  atomic_uint connections; /* greeting and inside */
  atomic_uint_fast64_t accepted, refused_full, refused_preface, accept_errors;
};

/* ---- addresses ----------------------------------------------------------------------------------------------------
 */

int rpc_split_address(const char *address, char *ret_host, size_t cap, uint16_t *ret_port, struct err *e) {
  const char *host = address, *colon = strrchr(address, ':'), *end = colon;
  unsigned long port = 0;

  if (!colon)
    return err_set(e, -EINVAL, "address '%.200s': expected HOST:PORT", address);
  if (*host == '[') {
    host++;
    if (end <= host || end[-1] != ']')
      return err_set(e, -EINVAL, "address '%.200s': expected [IPv6]:PORT", address);
    end--;
  } else if (memchr(address, ':', (size_t)(colon - address))) {
    return err_set(e, -EINVAL, "address '%.200s': an IPv6 address is written [IPv6]:PORT", address);
  }
  size_t digits = strspn(colon + 1, "0123456789");
  if (digits == 0 || digits > 5 || colon[1 + digits] != '\0' || (port = strtoul(colon + 1, NULL, 10)) > 65535)
    return err_set(e, -EINVAL, "address '%.200s': the port must be a number, 0..65535", address);
  size_t len = (size_t)(end - host);
  if (len == 0 || len >= cap)
    return err_set(e, -EINVAL, "address '%.200s': the host must have 1..%zu bytes", address, cap - 1);
  memcpy(ret_host, host, len);
  ret_host[len] = '\0';
  *ret_port = (uint16_t)port;
  return 0;
}

static void peer_text(char *buf, size_t cap, const struct sockaddr_storage *sa) {
  char ip[INET6_ADDRSTRLEN] = "?";

  if (sa->ss_family == AF_INET) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
    inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip);
    snprintf(buf, cap, "%s:%u", ip, ntohs(in->sin_port));
  } else if (sa->ss_family == AF_INET6) {
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;
    inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
    snprintf(buf, cap, "[%s]:%u", ip, ntohs(in6->sin6_port));
  } else {
    snprintf(buf, cap, "unknown");
  }
}

/* ---- who is inside ---------------------------------------------------------------------------------------------- */

static bool remember(struct rpc_listener *l, struct conn *c) {
  bool ok = true;

  pthread_mutex_lock(&l->mtx);
  if ((size_t)c->given >= l->by_fd_cap) {
    size_t cap = ((size_t)c->given + 64) * 2;
    struct conn **grown = realloc(l->by_fd, cap * sizeof *grown);
    if (grown) {
      memset(grown + l->by_fd_cap, 0, (cap - l->by_fd_cap) * sizeof *grown);
      l->by_fd = grown;
      l->by_fd_cap = cap;
    } else {
      ok = false;
    }
  }
  if (ok) {
    l->by_fd[c->given] = c;
    TAILQ_INSERT_TAIL(&l->inside, c, link);
  }
  pthread_mutex_unlock(&l->mtx);
  return ok;
}

static void drop(struct rpc_listener *l, struct conn *c) {
  if (c->given < 0) {
    TAILQ_REMOVE(&l->greeting, c, link);
  } else {
    pthread_mutex_lock(&l->mtx);
    TAILQ_REMOVE(&l->inside, c, link);
    if (l->by_fd[c->given] == c) /* gRPC may have closed its number, and a newer connection has it now */
      l->by_fd[c->given] = NULL;
    pthread_mutex_unlock(&l->mtx);
  }
  epoll_ctl(l->ep, EPOLL_CTL_DEL, c->fd, NULL); /* close alone would not: gRPC may still hold its duplicate */
  close(c->fd);
  free(c);
  atomic_fetch_sub_explicit(&l->connections, 1, memory_order_relaxed);
}

void rpc_listener_peer(struct rpc_listener *l, int fd, char *buf, size_t cap) {
  pthread_mutex_lock(&l->mtx);
  const struct conn *c = fd >= 0 && (size_t)fd < l->by_fd_cap ? l->by_fd[fd] : NULL;
  snprintf(buf, cap, "%s", c ? c->peer : "unknown");
  pthread_mutex_unlock(&l->mtx);
}

/* ---- the acceptor ------------------------------------------------------------------------------------------------ */

static void listen_on(struct rpc_listener *l) {
  struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &l->sock};
  if (!l->listening && epoll_ctl(l->ep, EPOLL_CTL_ADD, l->sock, &ev) == 0)
    l->listening = true;
}

static void listen_off(struct rpc_listener *l) {
  if (l->listening)
    epoll_ctl(l->ep, EPOLL_CTL_DEL, l->sock, NULL);
  l->listening = false;
}

static void back_off(struct rpc_listener *l) {
  listen_off(l);
  l->resume_ns = clock_mono_ns() + BACKOFF_NS;
}

static void open_reserve(struct rpc_listener *l) {
  if (l->reserve < 0)
    l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* No descriptor for the next connection: take it with the reserve's and close it, so that its client learns at once. */
static void shed(struct rpc_listener *l) {
  atomic_fetch_add_explicit(&l->accept_errors, 1, memory_order_relaxed);
  if (l->reserve >= 0) {
    close(l->reserve);
    l->reserve = -1;
    int fd = accept4(l->sock, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
      close(fd);
    open_reserve(l);
  }
  if (l->reserve < 0) /* another thread was faster: nothing to do but wait for descriptors */
    back_off(l);
}

static void hand_over(struct rpc_listener *l, struct conn *c) {
  struct epoll_event ev = {.events = EPOLLET, .data.ptr = c}; /* EPOLLHUP is always reported */
  int given = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);

  if (given < 0) {
    atomic_fetch_add_explicit(&l->accept_errors, 1, memory_order_relaxed);
    drop(l, c);
    return;
  }
  TAILQ_REMOVE(&l->greeting, c, link);
  c->given = given;
  if (!remember(l, c)) {
    TAILQ_INSERT_TAIL(&l->greeting, c, link);
    c->given = -1;
    close(given);
    drop(l, c);
    return;
  }
  epoll_ctl(l->ep, EPOLL_CTL_MOD, c->fd, &ev);
  l->ready(l->arg, given);
}

static void greet(struct rpc_listener *l, struct conn *c) {
  char buf[PREFACE_LEN];
  ssize_t n = recv(c->fd, buf, sizeof buf, MSG_PEEK | MSG_DONTWAIT);

  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (n > 0 && memcmp(buf, PREFACE, (size_t)n) == 0) {
    if ((size_t)n == PREFACE_LEN)
      hand_over(l, c);
    return; /* edge-triggered: we hear of it when more has come */
  }
  if (n > 0)
    atomic_fetch_add_explicit(&l->refused_preface, 1, memory_order_relaxed);
  drop(l, c);
}

static void admit(struct rpc_listener *l, int fd, const struct sockaddr_storage *sa) {
  int one = 1;

  atomic_fetch_add_explicit(&l->accepted, 1, memory_order_relaxed);
  if (atomic_load_explicit(&l->connections, memory_order_relaxed) >= l->max_connections) {
    atomic_fetch_add_explicit(&l->refused_full, 1, memory_order_relaxed);
    close(fd);
    return;
  }
  struct conn *c = calloc(1, sizeof *c);
  struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = c};
  if (!c || epoll_ctl(l->ep, EPOLL_CTL_ADD, fd, &ev) < 0) {
    atomic_fetch_add_explicit(&l->accept_errors, 1, memory_order_relaxed);
    free(c);
    close(fd);
    return;
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  c->fd = fd;
  c->given = -1;
  c->deadline_ns = clock_mono_ns() + l->handshake_ns;
  peer_text(c->peer, sizeof c->peer, sa);
  TAILQ_INSERT_TAIL(&l->greeting, c, link);
  atomic_fetch_add_explicit(&l->connections, 1, memory_order_relaxed);
}

static void accept_some(struct rpc_listener *l) {
  for (unsigned i = 0; i < ACCEPTS_PER_WAKE && l->listening; i++) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    int fd = accept4(l->sock, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      admit(l, fd, &sa);
      continue;
    }
    switch (errno) {
    case EAGAIN:
      return;
    case EMFILE:
    case ENFILE:
      shed(l);
      break;
    case ENOBUFS:
    case ENOMEM:
      atomic_fetch_add_explicit(&l->accept_errors, 1, memory_order_relaxed);
      back_off(l);
      break;
    default: /* that one connection failed before we took it (accept(2)): the next may be well */
      break;
    }
  }
}

static int next_timeout_ms(const struct rpc_listener *l, int64_t now_ns) {
  const struct conn *oldest = TAILQ_FIRST(&l->greeting);
  int64_t next = oldest ? oldest->deadline_ns : INT64_MAX;

  if (l->resume_ns && l->resume_ns < next)
    next = l->resume_ns;
  if (next == INT64_MAX)
    return -1;
  return next <= now_ns ? 0 : (int)((next - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static void on_time(struct rpc_listener *l, int64_t now_ns) {
  struct conn *c;

  while ((c = TAILQ_FIRST(&l->greeting)) && c->deadline_ns <= now_ns) {
    atomic_fetch_add_explicit(&l->refused_preface, 1, memory_order_relaxed);
    drop(l, c);
  }
  if (l->resume_ns && l->resume_ns <= now_ns && l->sock >= 0) {
    l->resume_ns = 0;
    open_reserve(l);
    listen_on(l);
  }
}

static void close_port(struct rpc_listener *l) {
  struct conn *c;

  listen_off(l);
  l->resume_ns = 0;
  if (l->sock >= 0)
    close(l->sock);
  l->sock = -1;
  while ((c = TAILQ_FIRST(&l->greeting)))
    drop(l, c);
}

/* False when the thread is to end. */
static bool obey(struct rpc_listener *l) {
  uint64_t n;

  while (read(l->wake, &n, sizeof n) > 0)
    ;
  pthread_mutex_lock(&l->mtx);
  bool close_it = l->close_wanted && !l->closed, end = l->end_wanted;
  pthread_mutex_unlock(&l->mtx);
  if (close_it) {
    close_port(l);
    pthread_mutex_lock(&l->mtx);
    l->closed = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mtx);
  }
  return !end;
}

static void *run(void *arg) {
  struct rpc_listener *l = arg;
  struct epoll_event evs[64];

  for (;;) {
    int n = epoll_wait(l->ep, evs, sizeof evs / sizeof *evs, next_timeout_ms(l, clock_mono_ns()));
    bool accepting = false, ordered = false;
    /* Hang-ups first and orders last: what they free must not be met again in the same round. */
    for (int i = 0; i < n; i++) {
      void *p = evs[i].data.ptr;
      if (p == &l->sock) {
        accepting = true;
      } else if (p == &l->wake) {
        ordered = true;
      } else {
        struct conn *c = p;
        if (c->given < 0)
          greet(l, c);
        else if (evs[i].events & EPOLLHUP)
          drop(l, c);
      }
    }
    if (accepting)
      accept_some(l);
    on_time(l, clock_mono_ns());
    if (ordered && !obey(l))
      return NULL;
  }
}

/* ---- set-up -------------------------------------------------------------------------------------------------------
 */

static int bind_to(const struct addrinfo *ai, int *ret_sock) {
  int one = 1, zero = 0;
  int sock = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

  if (sock < 0)
    return -errno;
  setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (ai->ai_family == AF_INET6) /* "[::]" is for everybody */
    setsockopt(sock, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
  if (bind(sock, ai->ai_addr, ai->ai_addrlen) < 0 || listen(sock, BACKLOG) < 0) {
    int r = -errno;
    close(sock);
    return r;
  }
  *ret_sock = sock;
  return 0;
}

static int open_port(struct rpc_listener *l, const char *address, struct err *e) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *all;
  union {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
  } bound = {0};
  socklen_t len = sizeof bound;
  char host[256], service[8];
  uint16_t port;

  int r = rpc_split_address(address, host, sizeof host, &port, e);
  if (r < 0)
    return r;
  snprintf(service, sizeof service, "%u", port);
  int g = getaddrinfo(host, service, &hints, &all);
  if (g != 0)
    return err_set(e, -EINVAL, "address %s: %s", address, gai_strerror(g));
  r = -EADDRNOTAVAIL;
  for (const struct addrinfo *ai = all; ai && l->sock < 0; ai = ai->ai_next)
    r = bind_to(ai, &l->sock);
  freeaddrinfo(all);
  if (l->sock < 0) {
    if (r == -EAFNOSUPPORT)
      r = -EADDRNOTAVAIL;
    return err_set(e, r, "cannot listen on %s: %s", address, err_describe(r));
  }
  if (getsockname(l->sock, &bound.sa, &len) < 0)
    return err_set(e, -errno, "cannot learn the port of %s", address);
  l->port = ntohs(bound.sa.sa_family == AF_INET6 ? bound.in6.sin6_port : bound.in.sin_port);
  return 0;
}

int rpc_listener_new(struct rpc_listener **ret, const char *address, uint32_t max_connections, uint32_t handshake_ms,
                     rpc_ready_fn ready, void *arg, struct err *e) {
  struct rpc_listener *l = calloc(1, sizeof *l);
  struct epoll_event ev = {.events = EPOLLIN};

  if (!l)
    return err_set(e, -ENOMEM, "out of memory for a listener");
  l->ready = ready;
  l->arg = arg;
  l->max_connections = max_connections;
  l->handshake_ns = (handshake_ms ? handshake_ms : HANDSHAKE_MS_DEFAULT) * NS_PER_MS;
  l->sock = l->reserve = -1;
  TAILQ_INIT(&l->greeting);
  TAILQ_INIT(&l->inside);
  pthread_mutex_init(&l->mtx, NULL);
  pthread_cond_init(&l->changed, NULL);
  l->ep = epoll_create1(EPOLL_CLOEXEC);
  l->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  open_reserve(l);
  ev.data.ptr = &l->wake;
  int r = 0;
  if (l->ep < 0 || l->wake < 0 || l->reserve < 0 || epoll_ctl(l->ep, EPOLL_CTL_ADD, l->wake, &ev) < 0)
    r = err_set(e, -errno, "no descriptors for a listener: raise the limit of open files");
  if (r == 0)
    r = open_port(l, address, e);
  if (r < 0) {
    rpc_listener_free(&l);
    return r;
  }
  *ret = l;
  return 0;
}

int rpc_listener_start(struct rpc_listener *l, struct err *e) {
  sigset_t all, old;

  listen_on(l);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int r = pthread_create(&l->thread, NULL, run, l);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (r)
    return err_set(e, -r, "cannot start the acceptor's thread: %s", err_describe(r));
  pthread_setname_np(l->thread, "fb-accept");
  l->running = true;
  return 0;
}

uint16_t rpc_listener_port(const struct rpc_listener *l) { return l->port; }

void rpc_listener_stats(struct rpc_listener *l, struct rpc_server_stats *ret) {
  ret->connections = atomic_load_explicit(&l->connections, memory_order_relaxed);
  ret->accepted = atomic_load_explicit(&l->accepted, memory_order_relaxed);
  ret->refused_full = atomic_load_explicit(&l->refused_full, memory_order_relaxed);
  ret->refused_preface = atomic_load_explicit(&l->refused_preface, memory_order_relaxed);
  ret->accept_errors = atomic_load_explicit(&l->accept_errors, memory_order_relaxed);
}

static void order(struct rpc_listener *l, bool *what) {
  uint64_t one = 1;

  pthread_mutex_lock(&l->mtx);
  *what = true;
  pthread_mutex_unlock(&l->mtx);
  while (write(l->wake, &one, sizeof one) < 0 && errno == EINTR)
    ;
}

void rpc_listener_close(struct rpc_listener *l) {
  if (!l->running) {
    close_port(l);
    return;
  }
  order(l, &l->close_wanted);
  pthread_mutex_lock(&l->mtx);
  while (!l->closed)
    pthread_cond_wait(&l->changed, &l->mtx);
  pthread_mutex_unlock(&l->mtx);
}

void rpc_listener_free(struct rpc_listener **lp) {
  struct rpc_listener *l = *lp;
  struct conn *c;

  if (!l)
    return;
  *lp = NULL;
  if (l->running) {
    order(l, &l->end_wanted);
    pthread_join(l->thread, NULL);
  }
  close_port(l);
  while ((c = TAILQ_FIRST(&l->inside)))
    drop(l, c);
  if (l->reserve >= 0)
    close(l->reserve);
  if (l->wake >= 0)
    close(l->wake);
  if (l->ep >= 0)
    close(l->ep);
  free(l->by_fd);
  pthread_mutex_destroy(&l->mtx);
  pthread_cond_destroy(&l->changed);
  free(l);
}
