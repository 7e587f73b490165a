/* doctor_cluster.c - can this machine talk to every peer, and do they agree with each other? */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/doctor.h"
#include "client/cli/out.h"

#define CONNECT_MS 1000
#define RESOLVE_MS 2000
#define SKEW_MAX_NS INT64_C(1000000000)
#define NAMESPACES_MAX 64
/* Each probe of a port may take CONNECT_MS; a large cluster that is down should not take minutes to tell. */
#define PROBES_MAX 16

/* A look-up on a thread of its own: getaddrinfo may take half a minute, and cannot be told to take less. */
struct lookup {
  char host[300], port[8];
  struct addrinfo *found;
  atomic_int parties; /* that still use this; the last one frees it */
};

static void lookup_unref(struct lookup *l) {
  if (atomic_fetch_sub(&l->parties, 1) > 1)
    return;
  if (l->found)
    freeaddrinfo(l->found);
  free(l);
}

static void *look_up(void *arg) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  struct lookup *l = arg;

  if (getaddrinfo(l->host, l->port, &hints, &found) == 0)
    l->found = found;
  lookup_unref(l);
  return NULL;
}

/* The addresses, or NULL when there are none or it took longer than RESOLVE_MS. */
static struct addrinfo *resolve(const char *host, const char *port) {
  struct lookup *l = calloc(1, sizeof *l);
  struct addrinfo *found = NULL;
  struct timespec until;
  pthread_t thread;

  if (!l)
    return NULL;
  snprintf(l->host, sizeof l->host, "%s", host);
  snprintf(l->port, sizeof l->port, "%s", port);
  atomic_init(&l->parties, 2);
  if (pthread_create(&thread, NULL, look_up, l) != 0) {
    free(l);
    return NULL;
  }
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += RESOLVE_MS / 1000;
  if (pthread_timedjoin_np(thread, NULL, &until) == 0) {
    found = l->found;
    l->found = NULL;
  } else {
    pthread_detach(thread);
  }
  lookup_unref(l);
  return found;
}

/* Connects and hangs up. 0, -ENXIO when the name does not resolve, or the errno of connect. */
static int probe(const char *address) {
  char host[300];
  const char *colon = strrchr(address, ':');
  int rc = -ENXIO;

  if (!colon || (size_t)(colon - address) >= sizeof host)
    return -EINVAL;
  size_t n = (size_t)(colon - address);
  bool brackets = n >= 2 && address[0] == '[' && address[n - 1] == ']';
  snprintf(host, sizeof host, "%.*s", (int)(n - 2 * brackets), address + brackets);
  struct addrinfo *list = resolve(host, colon + 1);
  for (struct addrinfo *a = list; a && rc != 0; a = a->ai_next) {
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
      continue;
    rc = connect(fd, a->ai_addr, a->ai_addrlen) < 0 ? -errno : 0;
    if (rc == -EINPROGRESS) {
      struct pollfd p = {.fd = fd, .events = POLLOUT};
      int code = ETIMEDOUT;
      socklen_t len = sizeof code;
      if (poll(&p, 1, CONNECT_MS) == 1)
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len);
      rc = -code;
    }
    close(fd);
  }
  if (list)
    freeaddrinfo(list);
  return rc;
}

/* Why does a peer not answer? Tells by what its port does. */
static void tell_unreachable(struct doctor *d, const char *name, const char *address, const char *text) {
  if (d->probes++ >= PROBES_MAX) {
    doctor_say(d, DOCTOR_FAIL, "peers", "as with the others", "%s %s: %s", name, address, text);
    return;
  }
  int rc = probe(address);

  switch (-rc) {
  case 0:
    doctor_say(d, DOCTOR_FAIL, "peers", "see the peer's log: it may be starting, draining, or not be a forebayd",
               "%s %s: the port is open, but %s", name, address, *text ? text : "no answer came");
    break;
  case ECONNREFUSED:
    doctor_say(d, DOCTOR_FAIL, "peers", "start forebayd there, or correct the port", "%s %s: nothing listens there",
               name, address);
    break;
  case ETIMEDOUT:
    doctor_say(d, DOCTOR_FAIL, "peers", "is the machine up? does a firewall drop the port?",
               "%s %s: no answer to connect", name, address);
    break;
  case ENXIO:
    doctor_say(d, DOCTOR_FAIL, "peers", "correct the name, or DNS", "%s %s: the name does not resolve", name, address);
    break;
  default:
    doctor_say(d, DOCTOR_FAIL, "peers", "check the address and the route", "%s %s: %s", name, address, strerror(-rc));
  }
}

/* No client could be opened: look at the addresses themselves, if we know any. */
static void without_client(struct doctor *d, int rc) {
  const char *peers = d->cli->options.peers;
  const struct fb_error *e = &d->cli->err;

  if (rc == -FB_ERING) {
    doctor_say(d, DOCTOR_FAIL, "ring", "give all peers the same cluster.members and cluster.slots, and restart them",
               "%s", e->text);
    return;
  }
  if (cli_exit_of(rc) != CLI_UNREACHABLE) {
    doctor_say(d, DOCTOR_FAIL, "peers", "name peers with --peers, $FOREBAY_PEERS or a client configuration", "%s",
               e->text);
    return;
  }
  if (!peers && !d->cli->options.config)
    peers = getenv("FOREBAY_PEERS");
  char *copy = peers ? strdup(peers) : NULL;
  if (!copy) {
    doctor_say(d, DOCTOR_FAIL, "peers", "start the peers, or correct their addresses", "%s", e->text);
    return;
  }
  char *save = NULL;
  for (char *a = strtok_r(copy, ", ", &save); a; a = strtok_r(NULL, ", ", &save))
    tell_unreachable(d, "peer", a, e->text);
  free(copy);
}

static void check_clock(struct doctor *d, const struct fb_peer *p) {
  int64_t off = p->clock_skew_ns < 0 ? -p->clock_skew_ns : p->clock_skew_ns;
  int64_t unsure = p->round_trip_ns / 2;

  if (off - unsure >= SKEW_MAX_NS)
    doctor_say(d, DOCTOR_FAIL, "clock", "synchronise the clocks (chrony, systemd-timesyncd)",
               "%s is %.3f s %s this machine (give or take %.3f s)", p->name, (double)off / 1e9,
               p->clock_skew_ns > 0 ? "ahead of" : "behind", (double)unsure / 1e9);
  else if (unsure >= SKEW_MAX_NS)
    doctor_say(d, DOCTOR_WARN, "clock", "run doctor again when the network is quiet",
               "%s answered after %.1f s: too late to tell", p->name, (double)p->round_trip_ns / 1e9);
  else
    doctor_say(d, DOCTOR_OK, "clock", NULL, "%s: %+.3f s", p->name, (double)p->clock_skew_ns / 1e9);
}

static void check_peers(struct doctor *d, const struct fb_cluster *cl) {
  size_t other = 0, up = 0;

  for (size_t i = 0; i < cl->n_peers; i++) {
    const struct fb_peer *p = &cl->peers[i];
    if (!p->reachable) {
      tell_unreachable(d, p->name, p->address, p->text);
      continue;
    }
    up++;
    if (p->draining)
      doctor_say(d, DOCTOR_WARN, "peers", "it is being stopped: nothing, if that is meant", "%s %s is draining",
                 p->name, p->address);
    else
      doctor_say(d, DOCTOR_OK, "peers", NULL, "%s %s answers in %.1f ms, version %s", p->name, p->address,
                 (double)p->round_trip_ns / 1e6, p->version);
    check_clock(d, p);
    if (p->ring_hash != cl->ring_hash) {
      other++;
      doctor_say(d, DOCTOR_FAIL, "ring",
                 "give it the same cluster.members and cluster.slots as the others, and restart it",
                 "%s has ring %016" PRIx64 ", others have %016" PRIx64, p->name, p->ring_hash, cl->ring_hash);
    }
  }
  if (!other)
    doctor_say(d, DOCTOR_OK, "ring", NULL, "%zu of %zu peers have ring %016" PRIx64, up, cl->n_peers, cl->ring_hash);
}

static void check_origins(struct doctor *d) {
  struct fb_ns *list = NULL;
  struct fb_error err = {0};
  char what[80];
  size_t n = 0;

  if (fb_ns_list(d->cli->client, &list, &n, &err) < 0) {
    doctor_say(d, DOCTOR_WARN, "space", "see the peers' logs", "namespaces could not be listed: %s", err.text);
    return;
  }
  for (size_t i = 0; i < n && i < NAMESPACES_MAX; i++)
    if (*list[i].origin) {
      snprintf(what, sizeof what, "origin of %s", list[i].name);
      doctor_space(d, what, list[i].origin, list[i].kind == FB_NS_DERIVED);
    }
  free(list);
}

void doctor_cluster(struct doctor *d) {
  CLEANUP(fb_cluster_free) struct fb_cluster *cl = NULL;
  int rc = cli_open(d->cli);

  if (rc == 0)
    rc = fb_cluster_status(d->cli->client, &cl, &d->cli->err);
  if (rc != 0) {
    without_client(d, rc);
    return;
  }
  check_peers(d, cl);
  check_origins(d);
}
