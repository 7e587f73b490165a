/* daemon.c - puts a peer together, bottom up: state directory, tier, loops, port, member list, service, and last the
 * door opens; and takes it apart in the reverse order.
 *
 * Calls to other peers have a loop of their own: a peer that does not answer can hold up those threads, not the ones
 * that serve. */
#include "server/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "proto/rpc.h"
#include "server/member/member.h"
#include "server/net/rpc_server.h"
#include "server/service/service.h"
#include "server/tier/tier.h"

#define LOCK_FILE "lock"
#define RECEIVE_MAX_BYTES ((size_t)256 << 20) /* messages on their way in, beside the values being put */
/* After the calls' own time: what the service may take to end fills and runs that have just been told to stop. */
#define SERVICE_STOP_NS (5 * NS_PER_S)

struct daemon {
  int state_dir, lock; /* descriptors; -1 = none */
  struct tier *tier;
  struct rpc_loop *serving, *calling;
  struct face *face;
  struct member *member;
  struct service *service;
  bool stopped;
};

/* ---- the machine ------------------------------------------------------------------------------------------------ */

/* One peer per state directory: two would write each other's catalog. The lock goes with the process, however it ends.
 */
static int lock_state_dir(struct daemon *d, const char *path, struct err *e) {
  if (mkdir(path, 0750) < 0 && errno != EEXIST)
    return err_set(e, -errno, "peer.state_dir: cannot make %s: %s", path, strerror(errno));
  d->state_dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (d->state_dir < 0)
    return err_set(e, -errno, "peer.state_dir: cannot open %s: %s", path, strerror(errno));
  d->lock = openat(d->state_dir, LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
  if (d->lock < 0)
    return err_set(e, -errno, "peer.state_dir: cannot write in %s: %s", path, strerror(errno));
  if (flock(d->lock, LOCK_EX | LOCK_NB) == 0)
    return 0;
  if (errno != EWOULDBLOCK)
    return err_set(e, -errno, "peer.state_dir: cannot lock %s/%s: %s", path, LOCK_FILE, strerror(errno));
  return err_set(e, -EBUSY, "peer.state_dir: %s is in use by another forebayd; give each peer a directory of its own",
                 path);
}

static int raise_descriptors(const struct server_conf *conf, struct err *e) {
  uint64_t want = server_conf_descriptors(conf);
  struct rlimit lim;

  if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
    return err_set(e, -errno, "cannot read the limit of descriptors: %s", strerror(errno));
  if (lim.rlim_cur != RLIM_INFINITY && lim.rlim_cur < want) {
    if (lim.rlim_max != RLIM_INFINITY && lim.rlim_max < want)
      return err_set(
          e, -EMFILE,
          "this configuration may need %llu descriptors and the hard limit is %llu: raise it (ulimit -Hn, or "
          "LimitNOFILE= of the unit), or lower rpc.max_connections (now %llu) or origin.open_files (now %llu)",
          (unsigned long long)want, (unsigned long long)lim.rlim_max, (unsigned long long)conf->rpc_max_connections,
          (unsigned long long)conf->origin_open_files);
    lim.rlim_cur = want;
    if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
      return err_set(e, -errno, "cannot raise the limit of descriptors to %llu: %s", (unsigned long long)want,
                     strerror(errno));
  }
  return 0;
}

static unsigned thread_count(const struct server_conf *conf) {
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);

  if (conf->rpc_threads)
    return (unsigned)conf->rpc_threads;
  return cpus < 1 ? 1 : cpus > 4 ? 4 : (unsigned)cpus;
}

/* ---- the parts -------------------------------------------------------------------------------------------------- */

static int make_face(struct daemon *d, const struct server_conf *conf, struct err *e) {
  unsigned n = thread_count(conf);
  int r = rpc_loop_new(&d->serving, n, "serve", e);

  if (r == 0)
    r = rpc_loop_new(&d->calling, (n + 1) / 2, "peers", e);
  if (r < 0)
    return r;
  r = face_new(&d->face,
               &(struct face_conf){
                   .listen = conf->peer_listen,
                   .loop = d->serving,
                   .limits = {.max_connections = (uint32_t)conf->rpc_max_connections,
                              .max_streams = (uint32_t)conf->rpc_max_streams,
                              .max_message_bytes = MESSAGE_MAX_BYTES,
                              /* Values being put are kept as they were received, so they count there too. */
                              .receive_bytes = RECEIVE_MAX_BYTES + conf->put_max_inflight_bytes,
                              .max_calls = (uint32_t)conf->rpc_max_calls,
                              .handshake_ms = (uint32_t)conf->rpc_handshake_ms,
                              .idle_ms = (uint32_t)conf->rpc_idle_ms},
                   .default_deadline_ms = (uint32_t)conf->rpc_default_deadline_ms,
               },
               e);
  return r < 0 ? err_prefix(e, "peer.listen: cannot serve on %s", conf->peer_listen) : 0;
}

/* A peer alone is its own member list, at an address that others could dial. */
static int own_address(const struct server_conf *conf, const char *name, uint16_t port, char *buf, size_t cap,
                       struct err *e) {
  char host[NAME_HOST_MAX + 1];
  uint16_t configured;
  int r = name_parse_hostport(conf->peer_listen, true, host, &configured, e);

  if (r < 0)
    return r;
  bool any = strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
  snprintf(buf, cap, strchr(host, ':') && !any ? "[%s]:%u" : "%s:%u", any ? name : host, port);
  return 0;
}

static int make_member(struct daemon *d, const struct server_conf *conf, const char *name, struct err *e) {
  char address[NAME_HOST_MAX + 16];
  struct ring_member *members;
  unsigned n;

  int r = own_address(conf, name, face_port(d->face), address, sizeof address, e);
  if (r == 0)
    r = server_conf_members(conf, name, address, &members, &n, e);
  if (r < 0)
    return r;
  r = member_static_new(&d->member, members, n, (uint32_t)conf->cluster_slots, e);
  free(members);
  return r;
}

static struct service_conf service_conf_of(const struct daemon *d, const struct server_conf *conf, const char *name) {
  return (struct service_conf){
      .self = name,
      .state_dir = conf->peer_state_dir,
      .member = d->member,
      .tier = d->tier,
      .loop = d->calling,
      .origin_roots = conf->origin_roots.v,
      .n_origin_roots = conf->origin_roots.n,
      .origin_threads = (uint32_t)conf->origin_threads,
      .origin_queue = (uint32_t)conf->origin_queue,
      .origin_open_files = (uint32_t)conf->origin_open_files,
      .error_ttl_ms = (uint32_t)conf->origin_error_ttl_ms,
      .attr_entries = (uint32_t)conf->cache_attr_entries,
      .uncached_max_bytes = conf->cache_uncached_max_bytes,
      .put_max_value_bytes = conf->put_max_value_bytes,
      .put_max_inflight_bytes = conf->put_max_inflight_bytes,
      .peer_timeout_ms = (uint32_t)conf->rpc_peer_timeout_ms,
      .prestage_parallel = (uint32_t)conf->prestage_parallel,
      .prestage_runs = (uint32_t)conf->prestage_runs,
      .catalog_sync_ms = (uint32_t)conf->catalog_sync_ms,
  };
}

static int make_service(struct daemon *d, const struct server_conf *conf, const char *name, struct err *e) {
  struct service_conf sc = service_conf_of(d, conf, name);
  int r = service_new(&d->service, &sc, e);

  if (r == 0)
    r = service_start(d->service, e);
  if (r == 0)
    r = face_start(d->face, d->service, e);
  return r;
}

int daemon_start(struct daemon **ret, const struct server_conf *conf, struct err *e) {
  char name[NAME_PEER_MAX + 1];
  struct daemon *d = calloc(1, sizeof *d);

  if (!d)
    return err_set(e, -ENOMEM, "out of memory");
  d->state_dir = d->lock = -1;
  int r = server_conf_name(conf, name, e);
  if (r == 0)
    r = raise_descriptors(conf, e);
  if (r == 0)
    r = lock_state_dir(d, conf->peer_state_dir, e);
  if (r == 0)
    r = tier_ram_new(&d->tier, conf->ram_max_bytes, e);
  if (r == 0)
    r = make_face(d, conf, e);
  if (r == 0)
    r = make_member(d, conf, name, e);
  if (r == 0)
    r = make_service(d, conf, name, e);
  if (r < 0) {
    daemon_free(&d);
    return r;
  }
  *ret = d;
  return 0;
}

uint16_t daemon_port(const struct daemon *d) { return face_port(d->face); }

int daemon_reload(struct daemon *d, const struct server_conf *conf, struct err *e) {
  struct service_conf sc = service_conf_of(d, conf, NULL);

  service_reload(d->service, &sc);
  int r = tier_resize(d->tier, conf->ram_max_bytes);
  if (r < 0)
    return err_set(e, r, "ram.max_bytes: cannot resize the RAM tier to %llu bytes: %s",
                   (unsigned long long)conf->ram_max_bytes, err_describe(r));
  return 0;
}

unsigned daemon_stop(struct daemon *d, int64_t deadline_ns) {
  unsigned cancelled = 0;

  if (d->stopped)
    return 0;
  d->stopped = true;
  if (d->service)
    service_drain(d->service, deadline_ns);
  if (d->face)
    cancelled = face_stop(d->face, deadline_ns);
  if (d->service)
    service_stop(d->service, clock_mono_ns() + SERVICE_STOP_NS);
  return cancelled;
}

void daemon_free(struct daemon **dp) {
  struct daemon *d = *dp;

  if (!d)
    return;
  daemon_stop(d, clock_mono_ns());
  face_free(&d->face); /* before the service, which late alarms may still call */
  service_free(&d->service);
  if (d->calling)
    rpc_loop_free(&d->calling);
  if (d->serving)
    rpc_loop_free(&d->serving);
  member_free(&d->member);
  tier_free(&d->tier);
  if (d->lock >= 0)
    close(d->lock);
  if (d->state_dir >= 0)
    close(d->state_dir);
  free(d);
  *dp = NULL;
}
