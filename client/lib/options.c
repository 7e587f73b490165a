/* options.c - where the peers and the limits come from: what the program gave, a file, the environment. */
#include "client/lib/client.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/conf.h"
#include "common/names.h"

#define CONFIG_PATH "/etc/forebay/client.yaml"
#define TIMEOUT_MS_MAX 3600000u
#define RETRIES_MAX (TRIES_MAX - 1)
#define PARALLEL_MAX 256u

struct file {
  struct conf_strings peers;
  uint64_t timeout_ms, peer_timeout_ms, retries, parallel;
};

static const struct conf_row rows[] = {
    {.key = "peers",
     .type = CONF_STRINGS,
     .offset = offsetof(struct file, peers),
     .max = PEERS_MAX,
     .help = "host:port of some peers of the cluster; the others are learnt from them"},
    {.key = "timeout_ms",
     .type = CONF_UINT,
     .offset = offsetof(struct file, timeout_ms),
     .dflt = "30000",
     .min = 1,
     .max = TIMEOUT_MS_MAX,
     .help = "longest time that a call may take, milliseconds"},
    {.key = "peer_timeout_ms",
     .type = CONF_UINT,
     .offset = offsetof(struct file, peer_timeout_ms),
     .dflt = "5000",
     .min = 1,
     .max = TIMEOUT_MS_MAX,
     .help = "longest time that one attempt at one peer may take, milliseconds; at most timeout_ms"},
    {.key = "retries",
     .type = CONF_UINT,
     .offset = offsetof(struct file, retries),
     .dflt = "4",
     .min = 1,
     .max = RETRIES_MAX,
     .help = "further attempts after the first"},
    {.key = "parallel",
     .type = CONF_UINT,
     .offset = offsetof(struct file, parallel),
     .dflt = "16",
     .min = 1,
     .max = PARALLEL_MAX,
     .help = "requests in flight per call"},
    {0},
};

/* ---- lists of peers --------------------------------------------------------------------------------------------- */

/* The same peer under one spelling of host and port? */
static bool same_address(const char *a, const char *b) {
  char host_a[NAME_HOST_MAX + 1], host_b[NAME_HOST_MAX + 1];
  uint16_t port_a, port_b;

  return name_parse_hostport(a, false, host_a, &port_a, NULL) == 0 &&
         name_parse_hostport(b, false, host_b, &port_b, NULL) == 0 && port_a == port_b &&
         strcasecmp(host_a, host_b) == 0;
}

static int add_peer(struct options *o, const char *where, const char *text, size_t len, struct err *e) {
  char host[NAME_HOST_MAX + 1];
  uint16_t port;

  if (o->n_peers == PEERS_MAX)
    return err_set(e, -EINVAL, "%s: more than %u peers: a few are enough, the rest is learnt from them", where,
                   PEERS_MAX);
  char *address = strndup(text, len);
  char **peers = address ? reallocarray(o->peers, o->n_peers + 1, sizeof *peers) : NULL;
  if (!peers) {
    free(address);
    return err_set(e, -ENOMEM, "%s: out of memory", where);
  }
  o->peers = peers;
  int r = name_parse_hostport(address, false, host, &port, e);
  if (r < 0) {
    free(address);
    err_prefix(e, "%s: peer %u", where, o->n_peers + 1);
    return r;
  }
  for (unsigned i = 0; i < o->n_peers; i++)
    if (same_address(o->peers[i], address)) {
      r = err_set(e, -FB_EPEERSDUP, "%s: peer %s is listed twice: name each peer once", where, address);
      free(address);
      return r;
    }
  o->peers[o->n_peers++] = address;
  return 0;
}

/* "host:port,host:port", blanks around them allowed. */
static int parse_list(struct options *o, const char *where, const char *list, struct err *e) {
  const char *p = list;

  while (isspace((unsigned char)*p))
    p++;
  if (!*p)
    return err_set(e, -FB_EPEERSEMPTY, "%s names no peer: give host:port of at least one, separated by commas", where);
  for (;;) {
    const char *comma = strchrnul(p, ',');
    const char *end = comma;
    while (isspace((unsigned char)*p))
      p++;
    while (end > p && isspace((unsigned char)end[-1]))
      end--;
    if (end == p)
      return err_set(e, -EINVAL, "%s: peer %u is empty: write host:port,host:port", where, o->n_peers + 1);
    int r = add_peer(o, where, p, (size_t)(end - p), e);
    if (r < 0 || !*comma)
      return r;
    p = comma + 1;
  }
}

/* ---- all of it -------------------------------------------------------------------------------------------------- */

/* Reads `path`; its peers only count where no list was given. */
static int read_file(struct options *o, struct file *f, const char *path, bool with_peers, struct err *e) {
  int r = conf_load(rows, f, path, e);

  for (unsigned i = 0; r == 0 && with_peers && i < f->peers.n; i++)
    r = add_peer(o, path, f->peers.v[i], strlen(f->peers.v[i]), e);
  if (r == 0 && with_peers && !o->n_peers)
    r = err_set(e, -FB_EPEERSEMPTY, "%s names no peer: give some as `peers: [host:port, ...]`", path);
  return r;
}

static int find_peers(struct options *o, struct file *f, const struct fb_options *given, struct err *e) {
  const char *list = given->peers, *config = given->config, *where = "the list of peers";
  int r = 0;

  if (!list && !config) {
    list = getenv("FOREBAY_PEERS");
    where = "$FOREBAY_PEERS";
  }
  if (list)
    r = parse_list(o, where, list, e);
  if (r < 0)
    return r;
  if (config || list)
    return config ? read_file(o, f, config, !list, e) : 0;
  config = getenv("FOREBAY_CONFIG");
  if (config && *config)
    return read_file(o, f, config, true, e);
  r = read_file(o, f, CONFIG_PATH, true, e);
  if (r == -ENOENT)
    r = err_set(e, -FB_EPEERSEMPTY,
                "no peers are known: set FOREBAY_PEERS=host:port,host:port, or FOREBAY_CONFIG, or write %s",
                CONFIG_PATH);
  return r;
}

/* What the program gave, else what the file says. */
static int limit(uint32_t *ret, const char *name, uint32_t given, uint64_t file, uint64_t max, struct err *e) {
  uint64_t v = given ? given : file;

  if (v < 1 || v > max)
    return err_set(e, -EINVAL, "%s is %llu; accepted: 1..%llu", name, (unsigned long long)v, (unsigned long long)max);
  *ret = (uint32_t)v;
  return 0;
}

int options_init(struct options *o, const struct fb_options *given, struct err *e) {
  static const struct fb_options none;
  struct file f = {0};

  if (!given)
    given = &none;
  *o = (struct options){.any_peer = given->any_peer};
  int r = conf_defaults(rows, &f);
  if (r < 0)
    err_set(e, r, "out of memory for the settings");
  if (r == 0)
    r = find_peers(o, &f, given, e);
  if (r == 0)
    r = limit(&o->timeout_ms, "timeout_ms", given->timeout_ms, f.timeout_ms, TIMEOUT_MS_MAX, e);
  if (r == 0) {
    /* a short timeout_ms shortens the default of an attempt too; one that was given must fit */
    uint64_t attempt = f.peer_timeout_ms < o->timeout_ms ? f.peer_timeout_ms : o->timeout_ms;
    r = limit(&o->peer_timeout_ms, "peer_timeout_ms", given->peer_timeout_ms, attempt, o->timeout_ms, e);
  }
  if (r == 0)
    r = limit(&o->retries, "retries", given->retries, f.retries, RETRIES_MAX, e);
  if (r == 0)
    r = limit(&o->parallel, "parallel", given->parallel, f.parallel, PARALLEL_MAX, e);
  conf_fini(rows, &f);
  if (r < 0)
    options_fini(o);
  return r;
}

void options_fini(struct options *o) {
  for (unsigned i = 0; i < o->n_peers; i++)
    free(o->peers[i]);
  free(o->peers);
  *o = (struct options){0};
}
