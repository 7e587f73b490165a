/* put.c - storing a value of a derived namespace at its owner, at the namespace's ack level.
 *
 *   ack=origin  the file is written and fsynced in the origin directory first; RAM gets a copy if there is room
 *   ack=ram     the value is kept in RAM, never evicted, until it is dropped; no room means -ENOSPC and nothing stored
 *
 * A value becomes visible by one step (rename or link at the origin, the attribute block in RAM), after all its bytes
 * are in place, so a reader meets the old value or the new one, whole. Puts of one key to RAM are serialised; those to
 * the origin are ordered by the origin.
 *
 * Values in RAM are found at their slot's owners only, so only these take them: with all of them down a put fails. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/crc.h"
#include "common/names.h"
#include "forebay/v1/cache.pb-c.h"
#include "server/service/internal.h"

#define META_BYTES 24u /* le64 size, le64 etag, le64 mtime */
#define NOT_DERIVED "namespace is a dataset, its files come from the origin: put into a derived namespace"

int service_put_admit(struct service *s, const char *ns, const char *key, uint64_t size, struct err *e) {
  char name[NAME_OBJECT_MAX];
  int r = name_check_ns(ns, e);

  if (r == 0)
    r = name_check_key(key, strlen(key), e);
  if (r < 0)
    return r;
  struct ns *n = catalog_find(s->catalog, ns); /* what this peer has not heard of yet is for service_put to find */
  bool dataset = n && n->r.kind != NS_DERIVED;
  ns_unref(&n);
  if (dataset)
    return fail_object(e, -FB_ENOTDERIVED, ns, key, NOT_DERIVED);
  if (size > s->conf.put_max_value_bytes)
    return err_set(e, -FB_ETOOBIG, "%s: value of %llu bytes is over put.max_value_bytes = %llu",
                   name_object(name, ns, key), (unsigned long long)size,
                   (unsigned long long)s->conf.put_max_value_bytes);
  if (atomic_fetch_add(&s->put_inflight_bytes, size) + size > s->conf.put_max_inflight_bytes) {
    atomic_fetch_sub(&s->put_inflight_bytes, size);
    return err_set(e, -FB_EBUSY, "%s: puts in flight fill put.max_inflight_bytes = %llu: try again",
                   name_object(name, ns, key), (unsigned long long)s->conf.put_max_inflight_bytes);
  }
  return 0;
}

void service_put_release(struct service *s, uint64_t size) { atomic_fetch_sub(&s->put_inflight_bytes, size); }

struct put_op {
  struct pool_job job; /* first */
  struct service *s;
  struct ns *ns;    /* reference, once found */
  struct put_req q; /* value: reference; ns and key point into `names` */
  put_done_fn done;
  void *arg;
  struct candidates cand;
  bool cand_valid;
  struct err last;
  char names[];
};

static void finish(struct put_op *op, int code, const char *text, const struct object_info *info, int acked,
                   const char *peer) {
  struct err e;

  metric_add(op->s, M_put_requests, 1);
  ns_unref(&op->ns);
  if (code < 0) {
    metric_add(op->s, M_put_errors, 1);
    fail_object(&e, code, op->q.ns, op->q.key, text);
    op->done(op->arg, code, e.text, NULL, 0, NULL);
  } else {
    op->done(op->arg, 0, "", info, acked, peer);
  }
  if (op->cand_valid)
    candidates_fini(&op->cand);
  blob_unref(&op->q.value);
  free(op);
}

/* ---- here ------------------------------------------------------------------------------------------------------- */

/* Copies block `index` of the value into the tier. With `slot` the block is only reserved and written; commit follows.
 */
static int stage(struct put_op *op, const struct attr *a, uint64_t index, unsigned flags, struct tier_slot *slot) {
  uint8_t buf[TIER_KEY_MAX];
  struct block_id id;

  block_id_make(&id, buf, op->ns, op->q.key, a->etag, index);
  int r = tier_reserve(op->s->tier, &id, block_len(op->ns, a->size, index), flags, slot);
  if (r == 0)
    blob_read(op->q.value, index * op->ns->r.block_bytes, slot->data, slot->len);
  return r;
}

/* Blocks that were reserved after the namespace was dropped would stay for ever. True if it was. */
static bool forget_if_dropped(struct put_op *op) {
  if (catalog_lives(op->s->catalog, op->ns))
    return false;
  tier_drop(op->s->tier, op->ns->r.id, NULL, NULL, NULL);
  return true;
}

static unsigned block_count(const struct ns *ns, uint64_t size) {
  return (unsigned)((size + ns->r.block_bytes - 1) / ns->r.block_bytes);
}

static struct put_lock *lock_of(struct put_op *op) {
  return &op->s->put_locks[hash_bytes64(op->q.key, strlen(op->q.key)) % PUT_LOCKS];
}

/* The put's turn, or 0: others are going on. */
static uint64_t origin_begins(struct put_lock *l) {
  pthread_mutex_lock(&l->mtx);
  l->begun++;
  uint64_t turn = l->going_on++ == 0 ? l->begun : 0;
  pthread_mutex_unlock(&l->mtx);
  return turn;
}

/* True if no other put was going on at any time since. */
static bool origin_ends(struct put_lock *l, uint64_t turn) {
  pthread_mutex_lock(&l->mtx);
  l->going_on--;
  bool alone = turn == l->begun;
  pthread_mutex_unlock(&l->mtx);
  return alone;
}

static int put_origin(struct put_op *op, struct attr *ret, struct err *e) {
  char path[HASH_VERSION_MAX + HASH_KEY_MAX + 2];
  struct blob *v = op->q.value;
  struct origin_stat st;
  struct origin *o;
  int r = ns_origin(op->s, op->ns, &o, e);

  if (r < 0)
    return r;
  struct iovec *iov = calloc(v->n ? v->n : 1, sizeof *iov);
  if (!iov)
    return err_set(e, -ENOMEM, "out of memory");
  for (uint32_t i = 0; i < v->n; i++)
    iov[i] = (struct iovec){.iov_base = (void *)v->segs[i].data, .iov_len = v->segs[i].len};
  struct put_lock *lock = lock_of(op);
  uint64_t turn = origin_begins(lock);
  r = origin_put(o, ns_path(op->ns, op->q.key, path), iov, v->n, op->q.overwrite, &st, e);
  bool alone = origin_ends(lock, turn);
  free(iov);
  if (r < 0) {
    attr_forget(op->s, op->ns, op->q.key); /* it may be there all the same: see origin_put */
    if (r != -EEXIST)
      metric_add(op->s, M_origin_errors, 1);
    return r;
  }
  *ret = (struct attr){.size = st.size, .mtime_ns = st.mtime_ns, .etag = st.etag};
  if (alone)
    attr_learn(op->s, op->ns, op->q.key, ret);
  else
    attr_forget(op->s, op->ns, op->q.key);
  for (unsigned i = 0; i < block_count(op->ns, ret->size); i++) {
    struct tier_slot slot;
    if (stage(op, ret, i, 0, &slot) < 0)
      break; /* the origin has it: readers will fill */
    tier_commit(op->s->tier, &slot, crc32c(0, slot.data, slot.len), NULL);
  }
  forget_if_dropped(op);
  return 0;
}

static void remove_blocks(struct service *s, const struct ns *ns, const char *key, uint64_t etag, unsigned n) {
  uint8_t buf[TIER_KEY_MAX];
  struct block_id id;

  for (unsigned i = 0; i < n; i++) {
    block_id_make(&id, buf, ns, key, etag, i);
    tier_remove(s->tier, &id);
  }
}

/* A value that cannot fit whatever is evicted is refused before it evicts anything. */
static bool can_fit(struct put_op *op) {
  struct tier_stats st;

  if (op->q.value->len <= op->ns->r.block_bytes)
    return true;
  tier_stats(op->s->tier, &st);
  return st.kept_bytes < st.max_bytes && op->q.value->len < st.max_bytes - st.kept_bytes;
}

/* Reserves and writes everything first, so that a lack of room leaves nothing behind. Under the key's lock. */
static int put_ram_locked(struct put_op *op, const struct attr *a, const struct attr *old, struct err *e) {
  struct service *s = op->s;
  unsigned n = block_count(op->ns, a->size), staged = 0;
  struct tier_slot *slot = calloc(n + 1, sizeof *slot);
  uint8_t buf[TIER_KEY_MAX];
  struct block_id meta;
  int r = can_fit(op) ? 0 : -ENOSPC;

  if (!slot)
    return err_set(e, -ENOMEM, "out of memory");
  for (; staged < n && r == 0; staged += r == 0)
    r = stage(op, a, staged, TIER_KEEP, &slot[staged]);
  block_id_make(&meta, buf, op->ns, op->q.key, 0, BLOCK_META);
  if (r == 0 && (r = tier_reserve(s->tier, &meta, META_BYTES, TIER_KEEP, &slot[n])) == 0) {
    uint8_t *m = slot[n].data;
    put_le64(m, a->size);
    put_le64(m + 8, a->etag);
    put_le64(m + 16, (uint64_t)a->mtime_ns);
    unsigned i = 0;
    for (; i <= n && r == 0; i++)
      r = tier_commit(s->tier, &slot[i], crc32c(0, slot[i].data, slot[i].len), NULL);
    for (; i <= n; i++)
      tier_abort(s->tier, &slot[i]);
    free(slot);
    if (forget_if_dropped(op) || r < 0)
      return err_set(e, -FB_ENONS, "namespace was dropped meanwhile");
    if (old->etag)
      remove_blocks(s, op->ns, op->q.key, old->etag, block_count(op->ns, old->size));
    return 0;
  }
  while (staged > 0)
    tier_abort(s->tier, &slot[--staged]);
  free(slot);
  return err_set(e, r,
                 r == -ENOSPC ? "RAM tier has no room that may be freed (ram.max_bytes): drop or invalidate data, "
                                "or give the namespace an origin"
                              : "cannot reserve memory");
}

static int put_ram(struct put_op *op, struct attr *ret, struct err *e) {
  struct service *s = op->s;
  pthread_mutex_t *lock = &lock_of(op)->mtx;
  struct attr old = {0};
  int r;

  *ret = (struct attr){.size = op->q.value->len, .mtime_ns = clock_wall_ns()};
  ret->etag = hash_mix64((uint64_t)ret->mtime_ns ^ (atomic_fetch_add(&s->put_sequence, 1) << 40)) | 1;
  pthread_mutex_lock(lock);
  bool exists = attr_of_ram(s, op->ns, op->q.key, &old) == 0;
  if (exists && !op->q.overwrite)
    r = err_set(e, -EEXIST, "exists already: values are written once, or with overwrite");
  else
    r = put_ram_locked(op, ret, &old, e);
  pthread_mutex_unlock(lock);
  return r;
}

static void put_run(struct pool_job *job) {
  struct put_op *op = (struct put_op *)job;
  struct err e = {0};
  struct attr a;
  bool origin = ns_has_origin(op->ns);
  int r = origin ? put_origin(op, &a, &e) : put_ram(op, &a, &e);

  if (r < 0) {
    finish(op, r, e.text, NULL, 0, NULL);
    return;
  }
  metric_add(op->s, M_put_bytes, a.size);
  struct object_info info = {.size = a.size, .mtime_ns = a.mtime_ns, .etag = a.etag};
  finish(op, 0, "", &info, origin ? ACK_ORIGIN : ACK_RAM, op->s->self);
}

static void put_local(struct put_op *op) {
  op->job.fn = put_run;
  int r = pool_submit(op->s->put_pool, &op->job);
  if (r < 0)
    finish(op, r, "too many puts wait: try again", NULL, 0, NULL);
}

/* ---- elsewhere -------------------------------------------------------------------------------------------------- */

static void put_forward(struct put_op *op);

static void forwarded(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  struct put_op *op = arg;
  const Forebay__V1__PutReply *g = (const Forebay__V1__PutReply *)reply;

  (void)payload;
  if (code == -FB_EPEERDOWN) {
    err_set(&op->last, code, "%s", text);
    put_forward(op);
  } else if (code < 0) {
    /* A timeout too: the owner may have stored it. Only the caller can tell whether to try again. */
    finish(op, code, text, NULL, 0, NULL);
  } else if (!g->info) {
    finish(op, -FB_EPROTO, "the owner's answer lacks its info", NULL, 0, NULL);
  } else {
    struct object_info info = {.size = g->info->size, .mtime_ns = g->info->mtime_ns, .etag = g->info->etag};
    finish(op, 0, "", &info, (int)g->acked, g->peer);
  }
}

static void put_forward(struct put_op *op) {
  struct peer *p;

  switch (walk_next(&op->cand, op->s, op->q.deadline_ns, &p)) {
  case WALK_SELF:
    if (op->cand.self_owns || ns_has_origin(op->ns)) {
      put_local(op);
      return;
    }
    /* fall through */
  case WALK_END:
    finish(op, walk_verdict(&op->cand, &op->last), op->last.text, NULL, 0, NULL);
    return;
  case WALK_PEER:
    break;
  }
  Forebay__V1__PutRequest q = FOREBAY__V1__PUT_REQUEST__INIT;
  Forebay__V1__Route route;
  route_to_peer(op->cand.ring, op->ns, false, &route);
  q.ns = (char *)op->q.ns;
  q.key = (char *)op->q.key;
  q.size = op->q.value->len;
  q.crc32c = op->q.crc;
  q.overwrite = op->q.overwrite;
  q.route = &route;
  struct rpc_call *call = peer_put(p, &q.base, op->q.value, op->q.deadline_ns, forwarded, op);
  rpc_call_unref(&call);
  peer_unref(&p);
}

static void found(void *arg, int code, const char *text, struct ns *ns) {
  struct put_op *op = arg;

  if (code < 0) {
    finish(op, code, text, NULL, 0, NULL);
    return;
  }
  op->ns = ns;
  if (ns->r.kind != NS_DERIVED) {
    finish(op, -FB_ENOTDERIVED, NOT_DERIVED, NULL, 0, NULL);
  } else if (op->q.route.local) {
    put_local(op);
  } else {
    candidates_init(&op->cand, op->s, place_key(ns->r.id, ns->r.version, op->q.key, true, 0));
    op->cand_valid = true;
    put_forward(op);
  }
}

void service_put(struct service *s, const struct put_req *q, put_done_fn done, void *arg) {
  size_t ns_len = strlen(q->ns), key_len = strlen(q->key);
  struct put_op *op = calloc(1, sizeof *op + ns_len + key_len + 2);
  struct err e = {0};

  if (!op) {
    done(arg, -ENOMEM, "out of memory", NULL, 0, NULL);
    return;
  }
  *op = (struct put_op){.s = s, .q = *q, .done = done, .arg = arg};
  op->q.value = blob_ref(q->value);
  op->q.ns = memcpy(op->names, q->ns, ns_len + 1);
  op->q.key = memcpy(op->names + ns_len + 1, q->key, key_len + 1);
  if (name_check_key(q->key, key_len, &e) < 0)
    finish(op, e.code, e.text, NULL, 0, NULL);
  else if (blob_crc32c(q->value) != q->crc)
    finish(op, -FB_ECRC, "value does not match its checksum: send it again", NULL, 0, NULL);
  else
    ns_find(s, op->q.ns, &op->q.route, found, op);
}
