/* block.c - one block of one version: pinned where it lies, or fetched once for all who want it.
 *
 * The origin reads straight into the tier's memory, and what waiters get is that memory, pinned: between the page cache
 * and the socket the bytes are written once. When the tier has no room (all pinned, kept or in flight) the block is
 * served from memory of its own, under a budget. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/crc.h"
#include "server/service/internal.h"

#define BLOCK_KEY_HEAD 24u /* le64 namespace id, le64 etag, le64 index; then the object's key */

void block_id_make(struct block_id *ret, uint8_t *buf, const struct ns *ns, const char *key, uint64_t etag,
                   uint64_t index) {
  size_t len = strlen(key);

  static_assert(BLOCK_KEY_HEAD + HASH_KEY_MAX <= TIER_KEY_MAX, "a block's key fits a tier's");
  assert(len <= HASH_KEY_MAX);
  put_le64(buf, ns->r.id);
  put_le64(buf + 8, etag);
  put_le64(buf + 16, index);
  memcpy(buf + BLOCK_KEY_HEAD, key, len);
  *ret = (struct block_id){.ns_id = ns->r.id, .key = buf, .key_len = (uint32_t)(BLOCK_KEY_HEAD + len)};
  ret->hash = hash_bytes128(buf, ret->key_len);
}

bool block_id_parse(const void *key, uint32_t key_len, const char **ret_key, size_t *ret_len, uint64_t *ret_etag,
                    uint64_t *ret_index) {
  const uint8_t *p = key;

  if (key_len <= BLOCK_KEY_HEAD)
    return false;
  *ret_key = (const char *)p + BLOCK_KEY_HEAD;
  *ret_len = key_len - BLOCK_KEY_HEAD;
  *ret_etag = get_le64(p + 8);
  *ret_index = get_le64(p + 16);
  return true;
}

/* ---- pins as blobs ---------------------------------------------------------------------------------------------- */

struct pinned {
  struct tier *tier;
  struct tier_view view;
};

static void pinned_release(void *owner) {
  struct pinned *p = owner;

  tier_release(p->tier, &p->view);
  free(p);
}

/* A blob of the pinned block; takes the pin over, whatever happens. */
static struct blob *blob_of_view(struct tier *t, struct tier_view *v) {
  struct pinned *p = malloc(sizeof *p);
  struct blob *b = blob_new(1);

  if (!p || !b) {
    tier_release(t, v);
    free(p);
    blob_unref(&b);
    return NULL;
  }
  *p = (struct pinned){.tier = t, .view = *v};
  if (blob_append(b, v->data, v->len, pinned_release, p) < 0)
    blob_unref(&b);
  return b;
}

static bool hit(struct service *s, const struct block_id *id, block_done_fn done, void *arg) {
  struct tier_view v;

  if (tier_get(s->tier, id, &v) < 0)
    return false;
  struct block_result r = {.crc = v.crc, .source = SOURCE_RAM};
  r.data = blob_of_view(s->tier, &v);
  if (r.data)
    done(arg, 0, "", &r);
  else
    done(arg, -ENOMEM, "out of memory", NULL);
  blob_unref(&r.data);
  return true;
}

/* ---- fills ------------------------------------------------------------------------------------------------------ */

struct fill_job {
  struct pool_job job; /* first */
  struct service *s;
  struct ns *ns; /* reference */
  struct flight *flight;
  struct attr attr;
  uint64_t index;
  char key[];
};

/* A block that the tier has no room for. */
struct uncached_block {
  struct uncached *budget; /* reference */
  uint32_t len;
  uint8_t data[];
};

struct uncached {
  atomic_uint refs; /* the service's, and one of each block */
  _Atomic uint64_t bytes;
  uint64_t max_bytes; /* constant */
};

int uncached_new(struct uncached **ret, uint64_t max_bytes) {
  struct uncached *u = calloc(1, sizeof *u);

  if (!u)
    return -ENOMEM;
  atomic_init(&u->refs, 1);
  u->max_bytes = max_bytes;
  *ret = u;
  return 0;
}

void uncached_unref(struct uncached **up) {
  struct uncached *u = *up;

  *up = NULL;
  if (u && atomic_fetch_sub(&u->refs, 1) == 1)
    free(u);
}

static void uncached_block_free(void *owner) {
  struct uncached_block *b = owner;

  atomic_fetch_sub(&b->budget->bytes, b->len);
  uncached_unref(&b->budget);
  free(b);
}

static struct uncached_block *uncached_block_new(struct uncached *u, uint32_t len) {
  struct uncached_block *b = NULL;

  if (atomic_fetch_add(&u->bytes, len) + len <= u->max_bytes && (b = malloc(sizeof *b + len))) {
    *b = (struct uncached_block){.budget = u, .len = len};
    atomic_fetch_add(&u->refs, 1);
    return b;
  }
  atomic_fetch_sub(&u->bytes, len);
  return NULL;
}

static int origin_into(struct fill_job *j, void *data, uint32_t len, struct err *e) {
  char path[HASH_VERSION_MAX + HASH_KEY_MAX + 2];
  struct service *s = j->s;
  struct origin_stat st;
  struct origin *o;
  int r = ns_origin(s, j->ns, &o, e);

  if (r < 0)
    return r;
  ssize_t n =
      origin_read(o, ns_path(j->ns, j->key, path), j->attr.etag, j->index * j->ns->r.block_bytes, data, len, &st, e);
  /* The size is the caller's word (a peer's, in Warm): a block of another length must not enter under this version. */
  if (n >= 0 && st.size != j->attr.size)
    n = err_set(e, -FB_ECHANGED, "size is %llu, not the %llu that was asked for", (unsigned long long)st.size,
                (unsigned long long)j->attr.size);
  if (n == (ssize_t)len) {
    metric_add(s, M_origin_reads, 1);
    metric_add(s, M_origin_read_bytes, len);
    return 0;
  }
  metric_add(s, M_origin_errors, 1);
  if (n >= 0)
    return err_set(e, -FB_ESHORT, "origin returned %zd bytes of block %llu, the file promises %u", n,
                   (unsigned long long)j->index, len);
  if (n == -FB_ECHANGED) {
    metric_add(s, M_origin_changed, 1);
    attr_forget(s, j->ns, j->key);
  }
  return (int)n;
}

/* Reads the block to where it will stay and makes it visible. */
static int fill_cached(struct fill_job *j, const struct block_id *id, struct tier_slot *slot, struct block_result *ret,
                       struct err *e) {
  struct service *s = j->s;
  struct tier_view v;
  int r = origin_into(j, slot->data, slot->len, e);

  if (r < 0) {
    tier_abort(s->tier, slot);
    return r;
  }
  ret->crc = crc32c(0, slot->data, slot->len);
  if (tier_commit(s->tier, slot, ret->crc, &v) == 0 && !catalog_lives(s->catalog, j->ns))
    tier_remove(s->tier, id); /* reserved after the drop */
  ret->data = blob_of_view(s->tier, &v);
  return ret->data ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int fill_uncached(struct fill_job *j, uint32_t len, struct block_result *ret, struct err *e) {
  struct service *s = j->s;
  struct uncached_block *u = uncached_block_new(s->uncached, len);

  if (!u)
    return err_set(e, -FB_EBUSY, "RAM tier has no room and cache.uncached_max_bytes is used up: try again");
  int r = origin_into(j, u->data, len, e);
  if (r < 0) {
    uncached_block_free(u);
    return r;
  }
  ret->crc = crc32c(0, u->data, len);
  ret->data = blob_new(1);
  if (!ret->data || blob_append(ret->data, u->data, len, uncached_block_free, u) < 0) {
    if (!ret->data)
      uncached_block_free(u);
    blob_unref(&ret->data);
    return err_set(e, -ENOMEM, "out of memory");
  }
  metric_add(s, M_get_uncached_bytes, len);
  return 0;
}

static void fill_run(struct pool_job *job) {
  struct fill_job *j = (struct fill_job *)job;
  struct service *s = j->s;
  struct block_result res = {.source = SOURCE_ORIGIN};
  struct block_id id;
  struct tier_slot slot;
  uint8_t buf[TIER_KEY_MAX];
  uint32_t len = block_len(j->ns, j->attr.size, j->index);
  struct err e = {0};

  if (atomic_load(&s->stopping)) { /* nobody waits any more: the queue need not go through a slow origin */
    flight_land(s->block_flights, j->flight, &(struct flight_result){.code = -ECANCELED, .text = "peer is stopping"});
    ns_unref(&j->ns);
    free(j);
    return;
  }
  block_id_make(&id, buf, j->ns, j->key, j->attr.etag, j->index);
  int r = tier_reserve(s->tier, &id, len, 0, &slot);
  r = r == 0 ? fill_cached(j, &id, &slot, &res, &e) : fill_uncached(j, len, &res, &e);
  flight_land(s->block_flights, j->flight,
              &(struct flight_result){.code = r, .text = r ? e.text : "", .value = r ? NULL : &res});
  blob_unref(&res.data);
  ns_unref(&j->ns);
  free(j);
}

struct block_wait {
  struct flight_waiter w; /* first */
  block_done_fn done;
  void *arg;
};

static void block_landed(struct flight_waiter *w, const struct flight_result *r) {
  struct block_wait *bw = (struct block_wait *)w;

  bw->done(bw->arg, r->code, r->text, r->value);
  free(bw);
}

/* The leader's part: the block may have landed between our look and our joining; else a worker reads it. */
static void lead(struct service *s, struct ns *ns, const char *key, const struct attr *a, uint64_t index,
                 const struct block_id *id, struct flight *f) {
  size_t key_len = strlen(key);
  struct tier_view v;

  if (tier_contains(s->tier, id) && tier_get(s->tier, id, &v) == 0) {
    struct block_result r = {.crc = v.crc, .source = SOURCE_RAM};
    r.data = blob_of_view(s->tier, &v);
    flight_land(s->block_flights, f,
                r.data ? &(struct flight_result){.text = "", .value = &r}
                       : &(struct flight_result){.code = -ENOMEM, .text = "out of memory"});
    blob_unref(&r.data);
    return;
  }
  struct fill_job *j = malloc(sizeof *j + key_len + 1);
  int r = -ENOMEM;
  if (j) {
    *j = (struct fill_job){.job = {.fn = fill_run}, .s = s, .ns = ns_ref(ns), .flight = f, .attr = *a, .index = index};
    memcpy(j->key, key, key_len + 1);
    r = pool_submit(s->origin_pool, &j->job);
  }
  if (r < 0) {
    metric_add(s, M_fill_refused, 1);
    if (j)
      ns_unref(&j->ns);
    free(j);
    flight_land(s->block_flights, f,
                &(struct flight_result){.code = r, .text = "too many fills wait (origin.queue): try again"});
  }
}

void block_get(struct service *s, struct ns *ns, const char *key, const struct attr *a, uint64_t index,
               int64_t deadline_ns, block_done_fn done, void *arg) {
  uint8_t buf[TIER_KEY_MAX];
  struct block_id id;
  struct flight *f;

  block_id_make(&id, buf, ns, key, a->etag, index);
  if (hit(s, &id, done, arg))
    return;
  if (!ns_has_origin(ns)) { /* dropped, or overwritten since the attributes were read: asking anew will tell */
    done(arg, -FB_ECHANGED, "another version is current now", NULL);
    return;
  }
  struct block_wait *w = malloc(sizeof *w);
  if (!w) {
    done(arg, -ENOMEM, "out of memory", NULL);
    return;
  }
  *w = (struct block_wait){.w = {.done = block_landed, .deadline_ns = deadline_ns}, .done = done, .arg = arg};
  if (flight_join(s->block_flights, id.key, id.key_len, id.hash, &w->w, &f))
    lead(s, ns, key, a, index, &id, f);
  else
    metric_add(s, M_fill_joined, 1);
}

void block_get_resident(struct service *s, const struct ns *ns, const char *key, const struct attr *a, uint64_t index,
                        block_done_fn done, void *arg) {
  uint8_t buf[TIER_KEY_MAX];
  struct block_id id;

  block_id_make(&id, buf, ns, key, a->etag, index);
  if (!hit(s, &id, done, arg))
    done(arg, -ENOENT, "not resident here", NULL);
}

bool block_resident(struct service *s, const struct ns *ns, const char *key, uint64_t etag, uint64_t index,
                    bool verify) {
  uint8_t buf[TIER_KEY_MAX];
  struct block_id id;
  struct tier_view v;

  block_id_make(&id, buf, ns, key, etag, index);
  if (!verify)
    return tier_contains(s->tier, &id);
  if (tier_get(s->tier, &id, &v) < 0)
    return false;
  bool good = crc32c(0, v.data, v.len) == v.crc;
  tier_release(s->tier, &v);
  if (!good) {
    metric_add(s, M_block_crc_errors, 1);
    tier_remove(s->tier, &id);
  }
  return good;
}
