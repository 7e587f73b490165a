/* read.c - ranges of one version of one object: stat, pread and get.
 *
 * A read is cut into pieces that go to the owners of their chunks, several at a time. The first piece of a read that is
 * not pinned says which version is the current one and how long it is; all others carry that version's etag, so that a
 * peer refuses them (-FB_ECHANGED) when they cannot be of it. Then the whole read starts again with the version that
 * the origin has now, at most RESTARTS times. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib/request.h"
#include "common/bytes.h"
#include "common/crc.h"

#define RESTARTS 3
#define RESTART_PAUSE_NS (20 * NS_PER_MS)
#define PIECE_BYTES (UINT64_C(1) << 20) /* of one request, unless the namespace's blocks are larger */

/* ---- stat ---------------------------------------------------------------------------------------------------------
 */

struct stat_args {
  bool fresh;
  struct fb_info *ret;
};

static void to_info(const Forebay__V1__ObjectInfo *m, struct fb_info *ret) {
  *ret = (struct fb_info){.size = m->size, .mtime_ns = m->mtime_ns, .etag = m->etag, .directory = m->directory};
}

static int take_stat(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__ObjectInfo *m = ((const Forebay__V1__StatReply *)q->reply)->info;

  if (!m || (m->etag == 0 && !m->directory) || m->size > INT64_MAX)
    return err_set(e, -FB_EPROTO, "the answer to a stat carries no version, or an impossible size");
  to_info(m, b->arg);
  return 0;
}

static uint64_t place(const struct call *k, uint64_t offset) {
  return place_key(k->record.id, k->record.version, k->key, k->record.whole, offset).hi;
}

static int stat_once(struct call *k, void *arg) {
  Forebay__V1__StatRequest m = FOREBAY__V1__STAT_REQUEST__INIT;
  Forebay__V1__Route route;
  struct stat_args *a = arg;
  struct request q = {.method = "/forebay.v1.Cache/Stat",
                      .message = &m.base,
                      .route = &route,
                      .reply_type = &forebay__v1__stat_reply__descriptor,
                      .picker = {.placed = true, .hash = place(k, 0)}};

  m.ns = (char *)(uintptr_t)k->ns;
  m.key = (char *)(uintptr_t)k->key;
  m.fresh = a->fresh;
  m.route = &route;
  return request_run(k, &q, take_stat, a->ret);
}

/* With any_peer the peers know the namespace, and we need not. */
static unsigned what(const fb_client *c) { return CALL_NS | CALL_KEY | (c && c->o.any_peer ? 0 : CALL_RECORD); }

int fb_stat(fb_client *c, const char *ns, const char *key, struct fb_info *ret, struct fb_error *err) {
  struct stat_args a = {.ret = ret};
  struct call k;

  int r = call_begin(&k, c, what(c), ns, key);
  if (r == 0)
    r = call_run(&k, stat_once, &a);
  return (int)call_end(&k, r, err);
}

/* ---- what a peer sent ---------------------------------------------------------------------------------------------
 */

/* Are there as many bytes as the reply's own figures make due? */
static int check_sizes(const Forebay__V1__GetReply *reply, const struct blob *payload, uint64_t offset, uint64_t length,
                       struct err *e) {
  uint64_t got = payload ? payload->len : 0;

  if (reply->etag == 0 || reply->size > INT64_MAX || offset > reply->size)
    return err_set(e, -FB_EPROTO, "it answered with a version of %llu bytes to a read at %llu",
                   (unsigned long long)reply->size, (unsigned long long)offset);
  uint64_t due = min_u64(length, reply->size - offset);
  if (got != due)
    return err_set(e, -FB_EPROTO, "it sent %llu bytes where %llu are due", (unsigned long long)got,
                   (unsigned long long)due);
  return 0;
}

static int copy_checked(const Forebay__V1__GetReply *reply, const struct blob *payload, uint64_t offset, uint8_t *dst,
                        struct err *e) {
  uint32_t crc = 0;

  for (uint32_t i = 0; payload && i < payload->n; i++) {
    const struct blob_seg *s = &payload->segs[i];
    if (s->len == 0)
      continue;
    crc = crc32c(crc, s->data, s->len);
    memcpy(dst, s->data, s->len); /* right behind the checksum, while it is in the CPU's cache */
    dst += s->len;
  }
  if (crc != reply->crc32c)
    return err_set(e, -FB_ECRC, "the bytes at %llu arrived with checksum %08x, it sent them with %08x",
                   (unsigned long long)offset, crc, reply->crc32c);
  return 0;
}

int read_check(const Forebay__V1__GetReply *reply, const struct blob *payload, uint64_t offset, uint64_t length,
               uint8_t *dst, struct err *e) {
  int r = check_sizes(reply, payload, offset, length, e);

  return r < 0 ? r : copy_checked(reply, payload, offset, dst, e);
}

/* Was it answered by another peer than the one that was asked? */
static bool forwarded(struct call *k, const char *by, struct peer *asked) {
  struct ring *ring = topology_ring(k->topology);
  int i = by && *by ? ring_find(ring, by) : -ENOENT;

  return i >= 0 && strcmp(ring_member(ring, (unsigned)i)->address, peer_address(asked)) != 0;
}

void read_count(struct call *k, const Forebay__V1__GetReply *reply, struct peer *asked, uint64_t bytes) {
  unsigned source = (unsigned)reply->source; /* FB_SOURCE_* have the protocol's numbers; a newer peer may know more */

  if (source > FB_SOURCE_UNKNOWN && source <= FB_SOURCE_NVME)
    count(&k->c->stats.by_source[source], bytes);
  if (forwarded(k, reply->peer, asked))
    count(&k->c->stats.forwarded, bytes);
}

/* ---- a read -------------------------------------------------------------------------------------------------------
 */

struct piece {
  struct request q;
  Forebay__V1__GetRequest message;
  Forebay__V1__Route route;
  uint64_t offset, length;
};

struct reading {
  /* what is wanted */
  uint64_t offset, length;
  uint64_t pin;     /* etag, 0: the current version */
  uint8_t *buf;     /* NULL: allocated once the size is known... */
  uint64_t max_len; /* ...if it is not larger than this */
  bool whole;       /* ...because the whole object is wanted */
  /* what has been learnt and done */
  bool learnt;
  struct fb_info info;
  uint64_t next; /* offset of the next piece */
  bool started;
};

static uint64_t end_of(const struct reading *r) {
  uint64_t end = r->offset + min_u64(r->length, UINT64_MAX - r->offset);
  return r->learnt ? min_u64(end, r->info.size) : end;
}

/* The piece at `offset`: all that is left if that is not more than a piece, else up to the next boundary. Larger pieces
 * than these, which a peer would serve, are slower when there are several in flight: they fall out of its CPU's cache.
 */
static uint64_t piece_end(const struct call *k, uint64_t offset, uint64_t end) {
  uint64_t chunk_end = k->record.whole ? UINT64_MAX : (offset | (CHUNK_BYTES - 1)) + 1;
  uint64_t unit = max_u64(PIECE_BYTES, k->record.id ? k->record.block_bytes : PIECE_BYTES);

  if (chunk_end <= offset) /* the last chunk of the number space */
    chunk_end = UINT64_MAX;
  end = min_u64(end, chunk_end);
  if (end - offset <= unit)
    return end;
  return min_u64(end, (offset | (unit - 1)) + 1);
}

static bool piece_next(struct batch *b, struct request *q) {
  struct reading *r = b->arg;
  struct call *k = b->call;
  struct piece *p = (struct piece *)q;

  if (r->started && (!r->learnt || r->next >= end_of(r)))
    return false; /* no more, or not before the first one is in */
  uint64_t offset = r->started ? r->next : r->offset;
  uint64_t end = piece_end(k, offset, end_of(r));

  *p = (struct piece){.message = FOREBAY__V1__GET_REQUEST__INIT, .offset = offset, .length = end - offset};
  p->q.method = "/forebay.v1.Cache/Get";
  p->q.message = &p->message.base;
  p->q.route = p->message.route = &p->route;
  p->q.reply_type = &forebay__v1__get_reply__descriptor;
  p->q.want_payload = true;
  p->q.picker.placed = true;
  p->q.picker.hash = place(k, offset);
  p->message.ns = (char *)(uintptr_t)k->ns;
  p->message.key = (char *)(uintptr_t)k->key;
  p->message.offset = offset;
  p->message.length = (uint32_t)p->length;
  p->message.etag = r->learnt ? r->info.etag : r->pin;
  r->next = end;
  r->started = true;
  return true;
}

/* The first reply of a read decides what all of it is of. */
static int learn(struct reading *r, const Forebay__V1__GetReply *reply, struct err *e) {
  if (r->pin && reply->etag != r->pin)
    return err_set(e, -FB_ECHANGED, "version %016llx was asked for, it has %016llx", (unsigned long long)r->pin,
                   (unsigned long long)reply->etag);
  if (r->whole) {
    if (reply->size > r->max_len)
      return err_set(e, -FB_ETOOBIG, "it has %llu bytes; the caller takes at most %llu",
                     (unsigned long long)reply->size, (unsigned long long)r->max_len);
    r->buf = malloc(reply->size + 1); /* one more so that nothing is no NULL */
    if (!r->buf)
      return err_set(e, -ENOMEM, "out of memory for its %llu bytes", (unsigned long long)reply->size);
  }
  r->info = (struct fb_info){.size = reply->size, .mtime_ns = reply->mtime_ns, .etag = reply->etag};
  r->learnt = true;
  return 0;
}

static void unlearn(struct reading *r) {
  r->learnt = false;
  if (r->whole) {
    free(r->buf);
    r->buf = NULL;
  }
}

static int piece_take(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__GetReply *reply = (const Forebay__V1__GetReply *)q->reply;
  const struct piece *p = (const struct piece *)q;
  struct reading *r = b->arg;
  bool first = !r->learnt;

  int code = check_sizes(reply, q->payload, p->offset, p->length, e);
  if (code < 0)
    return code;
  if (first)
    code = learn(r, reply, e);
  else if (reply->etag != r->info.etag)
    code = err_set(e, -FB_ECHANGED, "it changed while it was read");
  else if (reply->size != r->info.size)
    code = err_set(e, -FB_EPROTO, "it gives version %016llx %llu bytes, another peer gave it %llu",
                   (unsigned long long)reply->etag, (unsigned long long)reply->size, (unsigned long long)r->info.size);
  if (code == 0)
    code = copy_checked(reply, q->payload, p->offset, r->buf + (p->offset - r->offset), e);
  if (code == 0)
    read_count(b->call, reply, q->peer, q->payload ? q->payload->len : 0);
  else if (first)
    unlearn(r); /* it comes again, from a peer that may know better */
  return code;
}

static int run_pieces(struct call *k, struct reading *r) {
  struct request *slots[256];
  struct piece one;
  uint64_t bytes = min_u64(r->length, UINT64_MAX - r->offset);

  struct piece *pieces = &one;
  unsigned n = 1;
  if (piece_end(k, r->offset, r->offset + bytes) != r->offset + bytes) {
    uint64_t most = bytes / PIECE_BYTES + 2;
    n = (unsigned)min_u64(min_u64(k->c->o.parallel, most), sizeof slots / sizeof *slots);
    pieces = calloc(n, sizeof *pieces);
    if (!pieces)
      return err_set(&k->e, -ENOMEM, "out of memory for %u requests", n);
  } else {
    memset(&one.q, 0, sizeof one.q);
  }
  for (unsigned i = 0; i < n; i++)
    slots[i] = &pieces[i].q;
  struct batch b = {.call = k, .requests = slots, .n = n, .next = piece_next, .take = piece_take, .arg = r};
  r->started = false;
  unlearn(r);
  int code = batch_run(&b);
  if (pieces != &one)
    free(pieces);
  return code;
}

/* call_run's step: the read, and again with what is current now for as long as it changes under us. */
static int read_once(struct call *k, void *arg) {
  struct reading *r = arg;
  uint64_t pin = r->pin;
  int64_t pause = RESTART_PAUSE_NS;
  int code;

  for (unsigned restart = 0;; restart++) {
    code = run_pieces(k, r);
    if (code != -FB_ECHANGED || pin || restart == RESTARTS)
      break;
    if (restart > 0) { /* its attributes may be older elsewhere by the namespace's attr_ttl */
      call_pause(k, clock_mono_ns() + pause / 2 + (int64_t)(client_random(k->c) % (uint64_t)(pause / 2)));
      pause = (int64_t)min_u64((uint64_t)pause * 8, (uint64_t)NS_PER_S);
    }
    struct stat_args now = {.fresh = true, .ret = &r->info};
    code = stat_once(k, &now);
    if (code < 0)
      break;
    r->pin = r->info.etag;
  }
  r->pin = pin;
  return code;
}

/* Bytes read, or a code. */
static ssize_t read_range(struct call *k, struct reading *r) {
  int code = call_run(k, read_once, r);

  return code < 0 ? code : (ssize_t)(end_of(r) - r->offset);
}

ssize_t fb_pread_version(fb_client *c, const char *ns, const char *key, uint64_t etag, void *buf, size_t len,
                         uint64_t offset, struct fb_info *ret_info, struct fb_error *err) {
  uint8_t nothing;
  struct reading r = {.offset = offset, .length = len, .pin = etag, .buf = len ? buf : &nothing};
  struct call k;

  ssize_t n = call_begin(&k, c, what(c), ns, key);
  if (n == 0 && len > SSIZE_MAX)
    n = err_set(&k.e, -EINVAL, "a read of %zu bytes; accepted: up to %zd", len, SSIZE_MAX);
  if (n == 0 && len && !buf)
    n = err_set(&k.e, -EINVAL, "there is no buffer: it is NULL");
  if (n == 0)
    n = read_range(&k, &r);
  if (n >= 0 && ret_info)
    *ret_info = r.info;
  return call_end(&k, n, err);
}

ssize_t fb_pread(fb_client *c, const char *ns, const char *key, void *buf, size_t len, uint64_t offset,
                 struct fb_error *err) {
  return fb_pread_version(c, ns, key, 0, buf, len, offset, NULL, err);
}

/* A whole object of at most max_len bytes in new memory. */
static ssize_t read_whole(struct call *k, uint64_t max_len, uint8_t **ret, struct fb_info *ret_info) {
  struct reading r = {.length = min_u64(max_len, SSIZE_MAX - 1), .max_len = max_len, .whole = true};

  ssize_t n = read_range(k, &r);
  if (n < 0) {
    free(r.buf);
    return n;
  }
  *ret = r.buf;
  if (ret_info)
    *ret_info = r.info;
  return n;
}

int fb_get(fb_client *c, const char *ns, const char *key, size_t max_len, void **ret_buf, size_t *ret_len,
           struct fb_error *err) {
  uint8_t *buf = NULL;
  struct call k;

  ssize_t n = call_begin(&k, c, what(c), ns, key);
  if (n == 0)
    n = read_whole(&k, max_len, &buf, NULL);
  if (n >= 0) {
    *ret_buf = buf;
    *ret_len = (size_t)n;
  }
  n = call_end(&k, n, err);
  return n < 0 ? (int)n : 0;
}

int read_crc(struct call *k, uint64_t max_len, uint32_t *ret_crc, struct fb_info *ret) {
  uint8_t *buf;

  ssize_t n = read_whole(k, max_len, &buf, ret);
  if (n < 0)
    return (int)n;
  *ret_crc = crc32c(0, buf, (size_t)n);
  free(buf);
  return 0;
}
