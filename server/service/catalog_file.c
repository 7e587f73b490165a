/* catalog_file.c - the catalog on disk.
 *
 * state_dir/catalog = "FBCATLG1" | le32 length | le32 CRC32C of the body | body (a packed SyncCatalogReply), replaced
 * atomically. A damaged file is refused, never half read.
 *
 * What is made here (a create, a drop) is saved before it is acknowledged, by whoever makes it. What other peers tell
 * is saved soon after by a thread of its own, because a disk that hangs must hold up nothing else; a disk that fails is
 * tried again, ever more seldom. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/crc.h"
#include "common/log.h"
#include "forebay/v1/admin.pb-c.h"
#include "server/service/catalog.h"

#define MAGIC "FBCATLG1"
#define HEAD_BYTES 16u
#define FILE_MAX (64u << 20)
#define PAUSE_MIN_MS 500u
#define PAUSE_MAX_MS 30000u

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
    r = catalog_all(c, true, pack_all, &p);
    if (r == 0)
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

/* ---- saving what other peers told us ---- */

/* Puts off the next attempt, longer each time; says so once, and once when it works again. */
static void note(struct catalog *c, int r, const char *text) {
  if (r < 0) {
    if (!c->pause_ms)
      log_event(LOG_ERROR, "catalog cannot be saved", LOGF_S("error", text),
                LOGF_S("hint", "namespaces created or dropped meanwhile are known to this process only"));
    c->pause_ms = c->pause_ms ? min_u64(2 * c->pause_ms, PAUSE_MAX_MS) : PAUSE_MIN_MS;
  } else {
    if (c->pause_ms)
      log_event(LOG_INFO, "catalog is saved again", LOGF_S("dir", c->dir));
    c->pause_ms = 0;
  }
}

void catalog_save_run(struct pool_job *job) {
  struct catalog *c = (struct catalog *)((char *)job - offsetof(struct catalog, job));
  struct err e = {0};

  note(c, catalog_save(c, &e), e.text);
  atomic_store(&c->save_again_ns, clock_mono_ns() + (int64_t)c->pause_ms * NS_PER_MS);
  atomic_store(&c->saving, false); /* the last access: the service may end */
}

void catalog_tend(struct catalog *c, int64_t now_ns) {
  pthread_mutex_lock(&c->mtx);
  bool dirty = c->dirty;
  pthread_mutex_unlock(&c->mtx);
  if (!dirty || now_ns < atomic_load(&c->save_again_ns) || atomic_exchange(&c->saving, true))
    return;
  if (pool_submit(c->s->save_pool, &c->job) < 0)
    atomic_store(&c->saving, false);
}

bool catalog_saving(struct catalog *c) { return atomic_load(&c->saving); }

/* ---- reading ---- */

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
  r = records ? 0 : err_set(e, -ENOMEM, "out of memory");
  /* A revision from ahead of our clock is no reason to refuse: the clock may be wrong early in boot. */
  for (size_t i = 0; r == 0 && i < m->n_records; i++) {
    r = ns_record_check(&records[i], e);
    if (r == 0)
      r = catalog_take(c, &records[i], NULL, e);
  }
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
