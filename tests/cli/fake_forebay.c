/* fake_forebay.c - libforebay for the CLI's tests: namespaces are directories, failures happen when they are ordered.
 *
 * $FAKE_ROOT holds one directory per namespace; its files are what the cache serves. A namespace's origin is the same
 * directory, or $FAKE_ORIGIN/NS if that is set (so that the two sides can differ); one named "derived*" takes puts,
 * one named "*-noorigin" has no origin. Orders, in the environment:
 *
 *   FAKE_FAIL=fb_get:CODE@N,...  the N-th call (from 1) and all later ones of that function fail with -CODE
 *   FAKE_PEERS=N                 size of the cluster (3)
 *   FAKE_DOWN=n1,n2              peers that do not answer
 *   FAKE_SKEW_MS=N               clock of the last peer
 *   FAKE_OTHER_RING=NAME         a peer with another ring
 *   FAKE_ADDRESS=host:port       address of every peer
 *   FAKE_RESIDENT=PERCENT        what a prestage reaches (100); FAKE_STEPS its progress messages (3)
 *   FAKE_STEP_MS=N               time between them, and for every read
 *   FAKE_LOG=FILE                a line per call, with its arguments */
#include <forebay/forebay.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/err.h"
#include "common/glob.h"

struct fb_client {
  struct fb_client_stats stats;
};

static const char *env(const char *name, const char *dflt) {
  const char *v = getenv(name);
  return v && *v ? v : dflt;
}

static int fail(struct fb_error *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int fail(struct fb_error *e, int code, const char *fmt, ...) {
  va_list ap;

  if (e) {
    e->code = code;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
  }
  return code;
}

static void pause_ms(long ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&t, &t) < 0 && errno == EINTR)
    ;
}

static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *fmt, ...) {
  const char *path = getenv("FAKE_LOG");
  FILE *f = path ? fopen(path, "ae") : NULL;
  va_list ap;

  if (!f)
    return;
  va_start(ap, fmt);
  vfprintf(f, fmt, ap);
  va_end(ap);
  fputc('\n', f);
  fclose(f);
}

/* Was this call of `function` ordered to fail? `calls` counts them. */
static int ordered(const char *function, unsigned *calls, struct fb_error *e) {
  const char *p = env("FAKE_FAIL", "");
  size_t n = strlen(function);
  unsigned call = __atomic_add_fetch(calls, 1, __ATOMIC_RELAXED);

  while (*p) {
    if (strncmp(p, function, n) == 0 && p[n] == ':') {
      char *end;
      int code = -(int)strtol(p + n + 1, &end, 10);
      unsigned from = *end == '@' ? (unsigned)strtoul(end + 1, NULL, 10) : 1;
      if (call >= from)
        return fail(e, code, "%s was ordered to fail", function);
    }
    p += strcspn(p, ",");
    p += *p == ',';
  }
  return 0;
}
#define ORDERED(e)                                                                                                     \
  do {                                                                                                                 \
    static unsigned calls;                                                                                             \
    int ordered_rc = ordered(__func__, &calls, e);                                                                     \
    if (ordered_rc < 0)                                                                                                \
      return ordered_rc;                                                                                               \
  } while (0)

const char *fb_error_name(int code) { return err_name(code); }
const char *fb_error_describe(int code) { return err_describe(code); }
const char *fb_version(void) { return "0.0.0-fake"; }
bool fb_glob_match(const char *pattern, const char *key) { return !pattern || !*pattern || glob_match(pattern, key); }

int fb_open(fb_client **ret, const struct fb_options *o, struct fb_error *err) {
  const char *peers = o->peers ? o->peers : o->config ? NULL : getenv("FOREBAY_PEERS");

  note("fb_open peers=%s config=%s timeout_ms=%u any_peer=%d", peers ? peers : "-", o->config ? o->config : "-",
       o->timeout_ms, o->any_peer);
  ORDERED(err);
  *ret = calloc(1, sizeof **ret);
  return *ret ? 0 : -ENOMEM;
}

void fb_close(fb_client **c) {
  free(*c);
  *c = NULL;
}

static int path_of(char *buf, size_t cap, const char *ns, const char *key, struct fb_error *e) {
  snprintf(buf, cap, "%s/%s", env("FAKE_ROOT", "."), ns);
  if (access(buf, F_OK) < 0)
    return fail(e, -FB_ENONS, "no namespace named %s", ns);
  if (key && !*key)
    return fail(e, -FB_EKEYEMPTY, "empty key; expected 1..1024 bytes");
  if (key && strstr(key, ".."))
    return fail(e, -FB_EKEYNAME, "key has a '..' component");
  if (key) {
    size_t n = strlen(buf);
    snprintf(buf + n, cap - n, "/%s", key);
  }
  return 0;
}

static struct fb_info info_of(const struct stat *st) {
  if (S_ISDIR(st->st_mode))
    return (struct fb_info){.directory = true};
  int64_t mtime = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
  return (struct fb_info){
      .size = (uint64_t)st->st_size, .mtime_ns = mtime, .etag = (uint64_t)mtime ^ (uint64_t)st->st_size};
}

int fb_stat(fb_client *c, const char *ns, const char *key, struct fb_info *ret, struct fb_error *err) {
  char path[8192];
  struct stat st;
  (void)c;

  note("fb_stat %s %s", ns, key);
  ORDERED(err);
  int rc = path_of(path, sizeof path, ns, key, err);
  if (rc < 0)
    return rc;
  if (stat(path, &st) < 0)
    return fail(err, -errno, "%s/%s: %s", ns, key, strerror(errno));
  *ret = info_of(&st);
  return 0;
}

ssize_t fb_pread_version(fb_client *c, const char *ns, const char *key, uint64_t etag, void *buf, size_t len,
                         uint64_t offset, struct fb_info *ret_info, struct fb_error *err) {
  char path[8192];
  struct stat st;

  note("fb_pread_version %s %s etag=%d offset=%" PRIu64 " len=%zu", ns, key, etag != 0, offset, len);
  pause_ms(atol(env("FAKE_STEP_MS", "0")));
  ORDERED(err);
  int rc = path_of(path, sizeof path, ns, key, err);
  if (rc < 0)
    return rc;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) < 0)
    return fail(err, -errno, "%s/%s: %s", ns, key, strerror(errno));
  struct fb_info i = info_of(&st);
  ssize_t n;
  if (i.directory)
    n = fail(err, -EISDIR, "%s/%s is a directory", ns, key);
  else if (etag && etag != i.etag)
    n = fail(err, -FB_ECHANGED, "%s/%s changed", ns, key);
  else if (offset > i.size)
    n = fail(err, -FB_EPASTEND, "offset %" PRIu64 " is past the end, %" PRIu64, offset, i.size);
  else
    n = pread(fd, buf, len, (off_t)offset);
  close(fd);
  if (n >= 0) {
    if (ret_info)
      *ret_info = i;
    __atomic_add_fetch(&c->stats.bytes_ram, (uint64_t)n, __ATOMIC_RELAXED);
  }
  return n;
}

int fb_put(fb_client *c, const char *ns, const char *key, const void *data, size_t len,
           const struct fb_put_options *options, struct fb_info *ret, struct fb_error *err) {
  char path[8192];
  struct stat st;
  (void)c;

  note("fb_put %s %s len=%zu overwrite=%d", ns, key, len, options && options->overwrite);
  ORDERED(err);
  int rc = path_of(path, sizeof path, ns, key, err);
  if (rc < 0)
    return rc;
  if (strncmp(ns, "derived", 7) != 0)
    return fail(err, -FB_ENOTDERIVED, "namespace %s is a dataset", ns);
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (options && options->overwrite ? O_TRUNC : O_EXCL), 0644);
  if (fd < 0)
    return fail(err, -errno, "%s/%s: %s", ns, key, strerror(errno));
  if (write(fd, data, len) != (ssize_t)len || fstat(fd, &st) < 0) {
    close(fd);
    return fail(err, -EIO, "short write");
  }
  close(fd);
  *ret = info_of(&st);
  return 0;
}

struct walk {
  bool recursive;
  uint64_t left; /* entries, UINT64_MAX = no limit */
  fb_list_fn each;
  void *arg;
};

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static int walk(struct walk *w, const char *dir, const char *prefix, struct fb_error *err) {
  struct dirent **names;
  int rc = 0, n = scandir(dir, &names, NULL, by_name);

  if (n < 0)
    return fail(err, -errno, "%s: %s", prefix, strerror(errno));
  for (int i = 0; i < n; i++) {
    char path[8192], key[4096];
    struct stat st;
    const char *name = names[i]->d_name;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(key, sizeof key, "%s%s%s", prefix, *prefix ? "/" : "", name);
    bool skip = strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || stat(path, &st) < 0;
    if (rc == 0 && !skip && w->left > 0) {
      if (S_ISDIR(st.st_mode) && w->recursive) {
        rc = walk(w, path, key, err);
      } else {
        struct fb_info info = info_of(&st);
        rc = w->each(w->arg, key, &info);
        w->left--;
      }
    }
    free(names[i]);
  }
  free(names);
  return rc;
}

int fb_list(fb_client *c, const char *ns, const char *prefix, bool recursive, uint64_t limit, fb_list_fn each,
            void *arg, struct fb_error *err) {
  struct walk w = {recursive, limit ? limit : UINT64_MAX, each, arg};
  char path[8192];
  (void)c;

  note("fb_list %s '%s' recursive=%d limit=%" PRIu64, ns, prefix, recursive, limit);
  int rc = path_of(path, sizeof path, ns, *prefix ? prefix : NULL, err);
  if (rc == 0)
    rc = walk(&w, path, prefix, err);
  /* After the entries, so that a failure in the middle of a listing can be ordered. */
  if (rc == 0)
    ORDERED(err);
  return rc;
}

int fb_invalidate(fb_client *c, const char *ns, const char *pattern, uint64_t *ret_blocks, uint64_t *ret_bytes,
                  struct fb_error *err) {
  char path[8192];
  (void)c;

  note("fb_invalidate %s '%s'", ns, pattern ? pattern : "");
  ORDERED(err);
  int rc = path_of(path, sizeof path, ns, NULL, err);
  if (rc < 0)
    return rc;
  *ret_blocks = 7;
  *ret_bytes = 7 << 20;
  return 0;
}

static void ns_fill(struct fb_ns *ns, const char *name) {
  size_t n = strlen(name);

  *ns = (struct fb_ns){.id = 0x0123456789abcdef,
                       .kind = FB_NS_DATASET,
                       .block_bytes = 1 << 20,
                       .ack = FB_ACK_RAM,
                       .attr_ttl_ms = 1,
                       .replicas = 1,
                       .created_ns = INT64_C(1700000000000000000)};
  snprintf(ns->name, sizeof ns->name, "%s", name);
  if (strncmp(name, "derived", 7) == 0)
    ns->kind = FB_NS_DERIVED;
  if (n < 9 || strcmp(name + n - 9, "-noorigin") != 0)
    snprintf(ns->origin, sizeof ns->origin, "%s/%s", env("FAKE_ORIGIN", env("FAKE_ROOT", ".")), name);
  ns->resident_bytes = 3 << 20;
  ns->resident_blocks = 3;
}

int fb_ns_create(fb_client *c, struct fb_ns *ns, struct fb_error *err) {
  char path[8192];
  (void)c;

  note("fb_ns_create %s kind=%d origin=%s ack=%d block=%u ttl=%u replicas=%u version=%s", ns->name, ns->kind,
       ns->origin, ns->ack, ns->block_bytes, ns->attr_ttl_ms, ns->replicas, ns->version);
  ORDERED(err);
  snprintf(path, sizeof path, "%s/%s", env("FAKE_ROOT", "."), ns->name);
  if (mkdir(path, 0755) < 0)
    return errno == EEXIST ? fail(err, -FB_ENSEXISTS, "namespace %s exists", ns->name) : fail(err, -errno, "mkdir");
  struct fb_ns made = *ns;
  made.id = 42;
  made.block_bytes = ns->block_bytes ? ns->block_bytes : 1 << 20;
  *ns = made;
  return 0;
}

int fb_ns_show(fb_client *c, const char *name, struct fb_ns *ret, struct fb_error *err) {
  char path[8192];
  (void)c;

  note("fb_ns_show %s", name);
  ORDERED(err);
  int rc = path_of(path, sizeof path, name, NULL, err);
  if (rc == 0)
    ns_fill(ret, name);
  return rc;
}

int fb_ns_list(fb_client *c, struct fb_ns **ret, size_t *ret_n, struct fb_error *err) {
  struct dirent **names;
  (void)c;

  note("fb_ns_list");
  pause_ms(atol(env("FAKE_STEP_MS", "0")));
  ORDERED(err);
  int n = scandir(env("FAKE_ROOT", "."), &names, NULL, by_name);
  if (n < 0)
    return fail(err, -errno, "scandir");
  struct fb_ns *list = calloc((size_t)n + 1, sizeof *list);
  size_t used = 0;
  for (int i = 0; i < n; i++) {
    if (names[i]->d_name[0] != '.')
      ns_fill(&list[used++], names[i]->d_name);
    free(names[i]);
  }
  free(names);
  *ret = list;
  *ret_n = used;
  return 0;
}

int fb_ns_drop(fb_client *c, const char *name, uint64_t *ret_freed_bytes, struct fb_error *err) {
  char path[8192];
  (void)c;

  note("fb_ns_drop %s", name);
  ORDERED(err);
  int rc = path_of(path, sizeof path, name, NULL, err);
  if (rc == 0)
    *ret_freed_bytes = 5 << 20;
  return rc;
}

static int add_up(void *arg, const char *key, const struct fb_info *i) {
  struct fb_prestage_progress *p = arg;
  (void)key;
  p->files_total++;
  p->bytes_total += i->size;
  return 0;
}

int fb_prestage(fb_client *c, const char *ns, const char *pattern, const struct fb_prestage_options *options,
                fb_prestage_fn each, void *arg, struct fb_prestage_progress *ret, struct fb_error *err) {
  struct fb_prestage_progress p = {.elapsed_ns = 1};
  int steps = atoi(env("FAKE_STEPS", "3"));
  uint64_t percent = (uint64_t)atoi(env("FAKE_RESIDENT", "100"));
  struct walk w = {true, UINT64_MAX, add_up, &p};
  char path[8192];
  (void)c;

  note("fb_prestage %s '%s' background=%d parallel=%u", ns, pattern ? pattern : "", options->background,
       options->parallel);
  int rc = path_of(path, sizeof path, ns, NULL, err);
  if (rc < 0)
    return rc;
  if (options->background) {
    *ret = p;
    return 0;
  }
  if (!pattern || strcmp(pattern, "nothing*") != 0)
    walk(&w, path, "", err);
  p.listed = true;
  for (int i = 1; i <= steps; i++) {
    struct fb_prestage_progress now = p;
    now.bytes_resident = p.bytes_total * (uint64_t)i / (uint64_t)steps * percent / 100;
    now.files_resident = p.files_total * (uint64_t)i / (uint64_t)steps * percent / 100;
    now.bytes_from_origin = now.bytes_resident;
    now.elapsed_ns = (uint64_t)i * 250000000;
    bool failing = i == steps && percent < 100;
    now.files_failed = failing;
    if (each && each(arg, &now, failing ? "bad\nkey" : NULL, failing ? "Input/output error" : NULL))
      return fail(err, -ECANCELED, "stopped");
    now.done = true;
    *ret = now;
    note("step %d", i);
    pause_ms(atol(env("FAKE_STEP_MS", "0")));
    /* Between progress messages, so that it ends in the middle. */
    if (i == steps - 1)
      ORDERED(err);
  }
  return 0;
}

static bool listed_in(const char *list, const char *name) {
  size_t n = strlen(name);
  for (const char *p = list; (p = strstr(p, name)); p += n)
    if ((p == list || p[-1] == ',') && (p[n] == '\0' || p[n] == ','))
      return true;
  return false;
}

int fb_cluster_status(fb_client *c, struct fb_cluster **ret, struct fb_error *err) {
  size_t n = (size_t)atoi(env("FAKE_PEERS", "3"));
  (void)c;

  note("fb_cluster_status");
  ORDERED(err);
  struct fb_cluster *cl = calloc(1, sizeof *cl);
  cl->epoch = 1;
  cl->ring_hash = 0xfeedface12345678;
  cl->slots = 65536;
  cl->n_peers = n;
  cl->peers = calloc(n + 1, sizeof *cl->peers);
  for (size_t i = 0; i < n; i++) {
    struct fb_peer *p = &cl->peers[i];
    snprintf(p->name, sizeof p->name, "n%zu", i + 1);
    snprintf(p->address, sizeof p->address, "%s", env("FAKE_ADDRESS", "127.0.0.1:1"));
    p->weight = 100;
    p->slots_owned = 65536 / (uint32_t)n;
    p->reachable = !listed_in(env("FAKE_DOWN", ""), p->name);
    if (!p->reachable) {
      snprintf(p->text, sizeof p->text, "connection refused");
      continue;
    }
    snprintf(p->version, sizeof p->version, "0.0.0");
    p->uptime_ns = UINT64_C(3723000000000);
    p->epoch = 1;
    p->ring_hash = strcmp(env("FAKE_OTHER_RING", ""), p->name) == 0 ? 1 : cl->ring_hash;
    p->ram_used_bytes = 1 << 20;
    p->ram_max_bytes = 1 << 30;
    p->connections = 2;
    p->connections_max = 4096;
    p->round_trip_ns = 300000;
    p->clock_skew_ns = i + 1 == n ? atol(env("FAKE_SKEW_MS", "0")) * INT64_C(1000000) : 0;
    p->n_counters = 1;
    p->counters = calloc(1, sizeof *p->counters);
    snprintf(p->counters[0].name, sizeof p->counters[0].name, "gets");
    p->counters[0].value = UINT64_C(12345678901234567890);
  }
  *ret = cl;
  return 0;
}

void fb_cluster_free(struct fb_cluster **cl) {
  if (!*cl)
    return;
  for (size_t i = 0; i < (*cl)->n_peers; i++)
    free((*cl)->peers[i].counters);
  free((*cl)->peers);
  free(*cl);
  *cl = NULL;
}

int fb_locate(fb_client *c, const char *ns, const char *key, uint64_t offset, struct fb_location *ret,
              struct fb_error *err) {
  char path[8192];
  (void)c;

  note("fb_locate %s %s %" PRIu64, ns, key, offset);
  ORDERED(err);
  int rc = path_of(path, sizeof path, ns, key, err);
  if (rc < 0)
    return rc;
  *ret = (struct fb_location){.slot = (uint32_t)(offset >> 24),
                              .n_owners = 2,
                              .owners = {"n2", "n1"},
                              .addresses = {"127.0.0.1:2", "127.0.0.1:1"}};
  return 0;
}

void fb_client_stats(fb_client *c, struct fb_client_stats *ret) { *ret = c->stats; }
