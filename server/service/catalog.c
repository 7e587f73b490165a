/* catalog.c - which namespaces there are, as this peer knows it.
 *
 * A record has a revision; of two records of a name the one with the higher (revision, id) holds, on every peer, in
 * whatever order they come: the catalogs of all peers converge by exchanging what they have. A drop leaves a tombstone,
 * so that an old record does not come back. Creates and drops of a name are made at one peer, the owner of the name's
 * slot (ns.c), so two of them race only while the cluster is split.
 *
 * On disk: state_dir/catalog = "FBCATLG1" | le32 length | le32 CRC32C of the body | body (a packed SyncCatalogReply),
 * replaced atomically. A damaged file is refused, never half read. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/crc.h"
#include "forebay/v1/admin.pb-c.h"
#include "server/service/catalog.h"

#define MAGIC "FBCATLG1"
#define HEAD_BYTES 16u
#define FILE_MAX (64u << 20)

struct catalog {
  struct service *s;
  char *dir;
  pthread_mutex_t mtx;
  unsigned n, cap;          /* under mtx */
  struct ns **v;            /* under mtx; by name; tombstones too */
  bool dirty;               /* under mtx: the file is older than this */
  pthread_mutex_t save_mtx; /* one save at a time; taken before mtx */
};

/* ---- namespaces ------------------------------------------------------------------------------------------------- */

struct ns *ns_ref(struct ns *n) {
  atomic_fetch_add(&n->refs, 1);
  return n;
}

void ns_unref(struct ns **np) {
  struct ns *n = *np;

  *np = NULL;
  if (!n || atomic_fetch_sub(&n->refs, 1) != 1)
    return;
  origin_free(&n->origin);
  pthread_mutex_destroy(&n->origin_mtx);
  free(n->store);
  free(n);
}

struct ns *ns_make(const struct ns_record *r) {
  size_t a = strlen(r->name) + 1, b = strlen(r->origin) + 1, c = strlen(r->version) + 1;
  struct ns *n = calloc(1, sizeof *n);

  if (!n || !(n->store = malloc(a + b + c))) {
    free(n);
    return NULL;
  }
  atomic_init(&n->refs, 1);
  pthread_mutex_init(&n->origin_mtx, NULL);
  n->r = *r;
  n->r.name = memcpy(n->store, r->name, a);
  n->r.origin = memcpy(n->store + a, r->origin, b);
  n->r.version = memcpy(n->store + a + b, r->version, c);
  return n;
}

int ns_origin(struct service *s, struct ns *n, struct origin **ret, struct err *e) {
  int r = 0;

  pthread_mutex_lock(&n->origin_mtx);
  if (!n->origin) {
    r = origin_posix_new(&n->origin, n->r.origin, s->origin_roots, s->n_origin_roots, s->conf.origin_open_files, e);
    if (r == 0)
      origin_posix_share_fds(n->origin, &s->origin_fds);
  }
  if (r == 0)
    *ret = n->origin;
  pthread_mutex_unlock(&n->origin_mtx);
  return r;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

int catalog_new(struct catalog **ret, struct service *s, const char *state_dir, struct err *e) {
  struct catalog *c = calloc(1, sizeof *c);

  if (!c || !(c->dir = strdup(state_dir))) {
    free(c);
    return err_set(e, -ENOMEM, "out of memory");
  }
  c->s = s;
  pthread_mutex_init(&c->mtx, NULL);
  pthread_mutex_init(&c->save_mtx, NULL);
  *ret = c;
  return 0;
}

void catalog_free(struct catalog **cp) {
  struct catalog *c = *cp;

  if (!c)
    return;
  for (unsigned i = 0; i < c->n; i++)
    ns_unref(&c->v[i]);
  free(c->v);
  free(c->dir);
  pthread_mutex_destroy(&c->save_mtx);
  pthread_mutex_destroy(&c->mtx);
  free(c);
  *cp = NULL;
}

/* Index of the name, or where it would stand. */
static unsigned position(const struct catalog *c, const char *name, bool *ret_there) {
  unsigned lo = 0, hi = c->n;

  while (lo < hi) {
    unsigned mid = (lo + hi) / 2;
    int d = strcmp(c->v[mid]->r.name, name);
    if (d == 0) {
      *ret_there = true;
      return mid;
    }
    if (d < 0)
      lo = mid + 1;
    else
      hi = mid;
  }
  *ret_there = false;
  return lo;
}

struct ns *catalog_find(struct catalog *c, const char *name) {
  struct ns *n = NULL;
  bool there;

  pthread_mutex_lock(&c->mtx);
  unsigned i = position(c, name, &there);
  if (there && !c->v[i]->r.dropped)
    n = ns_ref(c->v[i]);
  pthread_mutex_unlock(&c->mtx);
  return n;
}

bool catalog_lives(struct catalog *c, const struct ns *n) {
  bool there;

  pthread_mutex_lock(&c->mtx);
  unsigned i = position(c, n->r.name, &there);
  bool lives = there && !c->v[i]->r.dropped && c->v[i]->r.id == n->r.id;
  pthread_mutex_unlock(&c->mtx);
  return lives;
}

uint64_t catalog_revision(struct catalog *c, const char *name) {
  bool there;

  pthread_mutex_lock(&c->mtx);
  unsigned i = position(c, name, &there);
  uint64_t revision = there ? c->v[i]->r.revision : 0;
  pthread_mutex_unlock(&c->mtx);
  return revision;
}

/* A full table gives up its oldest tombstone. Under mtx. */
static bool forget_a_tombstone(struct catalog *c) {
  unsigned oldest = c->n;

  for (unsigned i = 0; i < c->n; i++)
    if (c->v[i]->r.dropped && (oldest == c->n || c->v[i]->r.revision < c->v[oldest]->r.revision))
      oldest = i;
  if (oldest == c->n)
    return false;
  ns_unref(&c->v[oldest]);
  memmove(&c->v[oldest], &c->v[oldest + 1], (c->n - oldest - 1) * sizeof *c->v);
  c->n--;
  return true;
}

/* 1: taken; *ret_old (may be NULL) is what it replaced, with its reference. 0: not news. Under mtx. */
static int take(struct catalog *c, struct ns *fresh, struct ns **ret_old) {
  bool there;
  unsigned i = position(c, fresh->r.name, &there);

  *ret_old = NULL;
  if (there) {
    const struct ns_record *old = &c->v[i]->r;
    if (fresh->r.revision < old->revision || (fresh->r.revision == old->revision && fresh->r.id <= old->id))
      return 0;
    *ret_old = c->v[i];
    c->v[i] = fresh;
    return 1;
  }
  if (c->n >= NS_MAX) {
    if (!forget_a_tombstone(c))
      return -FB_EBUSY;
    i = position(c, fresh->r.name, &there);
  }
  if (c->n == c->cap) {
    unsigned cap = c->cap ? c->cap * 2 : 16;
    struct ns **v = reallocarray(c->v, cap, sizeof *v);
    if (!v)
      return -ENOMEM;
    c->v = v;
    c->cap = cap;
  }
  memmove(&c->v[i + 1], &c->v[i], (c->n - i) * sizeof *c->v);
  c->v[i] = fresh;
  c->n++;
  return 1;
}

int catalog_apply(struct catalog *c, const struct ns_record *records, unsigned n, uint64_t *freed, struct err *e) {
  for (unsigned i = 0; i < n; i++) {
    const struct ns_record *r = &records[i];
    struct ns *fresh, *old;
    int took = ns_record_check(r, e);
    if (took < 0)
      return took;
    if (!(fresh = ns_make(r)))
      return err_set(e, -ENOMEM, "out of memory");
    pthread_mutex_lock(&c->mtx);
    took = take(c, fresh, &old);
    if (took > 0)
      c->dirty = true;
    pthread_mutex_unlock(&c->mtx);
    if (took <= 0)
      ns_unref(&fresh);
    if (took < 0)
      return err_set(e, took,
                     took == -ENOMEM ? "out of memory" : "there are %u namespaces already, the most there may be",
                     NS_MAX);
    if (old && !old->r.dropped && (r->dropped || r->id != old->r.id)) {
      uint64_t bytes = tier_drop(c->s->tier, old->r.id, NULL, NULL, NULL);
      if (freed)
        *freed += bytes;
      attr_forget_matching(c->s, old, "");
    }
    ns_unref(&old);
  }
  return 0;
}

int catalog_create(struct catalog *c, const struct ns_record *r, struct err *e) {
  struct ns *fresh = ns_make(r), *old = NULL;
  bool there;

  if (!fresh)
    return err_set(e, -ENOMEM, "out of memory");
  pthread_mutex_lock(&c->mtx);
  unsigned i = position(c, r->name, &there);
  int took = there && !c->v[i]->r.dropped ? -FB_ENSEXISTS : take(c, fresh, &old);
  if (took > 0)
    c->dirty = true;
  pthread_mutex_unlock(&c->mtx);
  if (took <= 0)
    ns_unref(&fresh);
  ns_unref(&old); /* a tombstone, if anything */
  if (took == -FB_ENSEXISTS || took == 0)
    return err_set(e, -FB_ENSEXISTS, "namespace exists already: drop it first, or choose another name");
  if (took < 0)
    return err_set(
        e, took, took == -ENOMEM ? "out of memory" : "there are %u namespaces already, the most there may be", NS_MAX);
  return 0;
}

void catalog_all(struct catalog *c, bool tombstones, ns_list_fn f, void *arg) {
  unsigned n = 0;

  pthread_mutex_lock(&c->mtx);
  struct ns **held = calloc(c->n ? c->n : 1, sizeof *held);
  struct ns_record *r = calloc(c->n ? c->n : 1, sizeof *r);
  for (unsigned i = 0; held && r && i < c->n; i++)
    if (tombstones || !c->v[i]->r.dropped) {
      held[n] = ns_ref(c->v[i]);
      r[n++] = c->v[i]->r;
    }
  pthread_mutex_unlock(&c->mtx);
  f(arg, r, n);
  for (unsigned i = 0; i < n; i++)
    ns_unref(&held[i]);
  free(held);
  free(r);
}

/* ---- on disk ---------------------------------------------------------------------------------------------------- */

struct packed {
  uint8_t *data;
  size_t len;
};

static void pack_all(void *arg, const struct ns_record *records, unsigned n) {
  struct packed *out = arg;
  Forebay__V1__SyncCatalogReply m = FOREBAY__V1__SYNC_CATALOG_REPLY__INIT;

  m.records = ns_records_to_pb(records, n);
  if (!m.records)
    return;
  m.n_records = n;
  size_t body = protobuf_c_message_get_packed_size(&m.base);
  out->data = malloc(HEAD_BYTES + body);
  if (out->data) {
    protobuf_c_message_pack(&m.base, out->data + HEAD_BYTES);
    memcpy(out->data, MAGIC, 8);
    put_le32(out->data + 8, (uint32_t)body);
    put_le32(out->data + 12, crc32c(0, out->data + HEAD_BYTES, body));
    out->len = HEAD_BYTES + body;
  }
  ns_records_pb_free(m.records, n);
}

static int write_all(int fd, const uint8_t *p, size_t len) {
  while (len > 0) {
    ssize_t n = write(fd, p, len);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -errno;
    p += n;
    len -= (size_t)n;
  }
  return 0;
}

/* Writes, fsyncs and renames; the directory too, so that the new name survives a power cut. */
static int replace_file(const char *dir, const struct packed *p) {
  char tmp[4200], final[4200];
  int r, fd, dfd;

  snprintf(tmp, sizeof tmp, "%s/catalog.new", dir);
  snprintf(final, sizeof final, "%s/catalog", dir);
  fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  if (fd < 0)
    return -errno;
  r = write_all(fd, p->data, p->len);
  if (r == 0 && fsync(fd) < 0)
    r = -errno;
  close(fd);
  if (r == 0 && rename(tmp, final) < 0)
    r = -errno;
  if (r < 0) {
    unlink(tmp);
    return r;
  }
  dfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dfd < 0)
    return -errno;
  if (fsync(dfd) < 0)
    r = -errno;
  close(dfd);
  return r;
}

int catalog_save(struct catalog *c, struct err *e) {
  struct packed p = {0};
  int r = 0;

  pthread_mutex_lock(&c->save_mtx);
  pthread_mutex_lock(&c->mtx);
  bool dirty = c->dirty;
  c->dirty = false;
  pthread_mutex_unlock(&c->mtx);
  if (dirty) {
    catalog_all(c, true, pack_all, &p);
    r = p.data ? replace_file(c->dir, &p) : -ENOMEM;
    if (r < 0) {
      pthread_mutex_lock(&c->mtx);
      c->dirty = true;
      pthread_mutex_unlock(&c->mtx);
      err_set(e, r, "cannot write %s/catalog: %s", c->dir, err_describe(r));
    }
    free(p.data);
  }
  pthread_mutex_unlock(&c->save_mtx);
  return r;
}

int catalog_decode(struct catalog *c, const uint8_t *data, size_t len, struct err *e) {
  int r;

  if (len < HEAD_BYTES || memcmp(data, MAGIC, 8) != 0)
    return err_set(e, -FB_EBADCONF, "is no catalog of this version (it must begin with " MAGIC ")");
  if (get_le32(data + 8) != len - HEAD_BYTES)
    return err_set(e, -FB_ECRC, "holds %zu bytes behind its head, the head says %u", len - HEAD_BYTES,
                   get_le32(data + 8));
  if (crc32c(0, data + HEAD_BYTES, len - HEAD_BYTES) != get_le32(data + 12))
    return err_set(e, -FB_ECRC, "does not match its checksum");
  Forebay__V1__SyncCatalogReply *m = (Forebay__V1__SyncCatalogReply *)protobuf_c_message_unpack(
      &forebay__v1__sync_catalog_reply__descriptor, NULL, len - HEAD_BYTES, data + HEAD_BYTES);
  if (!m)
    return err_set(e, -FB_EPROTO, "is malformed");
  struct ns_record *records = ns_records_from_pb(m->records, m->n_records);
  r = records ? catalog_apply(c, records, (unsigned)m->n_records, NULL, e) : err_set(e, -ENOMEM, "out of memory");
  free(records);
  protobuf_c_message_free_unpacked(&m->base, NULL);
  return r;
}

int catalog_load(struct catalog *c, struct err *e) {
  char path[4200];
  struct stat st;
  int r = 0;

  snprintf(path, sizeof path, "%s/catalog", c->dir);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return errno == ENOENT ? 0 : err_set(e, -errno, "cannot open %s: %s", path, strerror(errno));
  if (fstat(fd, &st) < 0)
    r = err_set(e, -errno, "cannot stat %s: %s", path, strerror(errno));
  else if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
    r = err_set(e, -FB_EBADCONF, "%s is no catalog: a file of at most %u bytes is expected", path, FILE_MAX);
  uint8_t *data = r == 0 ? malloc((size_t)st.st_size + 1) : NULL;
  if (r == 0 && !data)
    r = err_set(e, -ENOMEM, "out of memory");
  size_t got = 0;
  while (r == 0 && got < (size_t)st.st_size) {
    ssize_t n = read(fd, data + got, (size_t)st.st_size - got);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      r = err_set(e, n < 0 ? -errno : -EIO, "cannot read %s: %s", path, n < 0 ? strerror(errno) : "it shrank");
    else
      got += (size_t)n;
  }
  if (r == 0 && (r = catalog_decode(c, data, got, e)) < 0)
    err_prefix(e, "%s: move it away to start with no namespaces (other peers give theirs)", path);
  c->dirty = false;
  free(data);
  close(fd);
  return r;
}
