/* list.c - what a namespace holds, page by page.
 *
 * With an origin the listing is the origin's, read by whichever peer was asked: directories need no owner. Values that
 * live in RAM only are scattered: each peer gives the keys it holds, the peer that was asked merges them. A listing
 * runs on a scan thread, which waits for the reader after every page, within the deadline. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/names.h"
#include "forebay/v1/cache.pb-c.h"
#include "server/service/internal.h"

#define MERGE_MAX 1000000u /* keys held in memory while the listing of a RAM-only namespace is merged */

struct list_op {
  struct pool_job job; /* first */
  struct service *s;
  struct ns *ns;     /* reference, once found */
  struct list_req q; /* ns and prefix point into `names` */
  list_page_fn page;
  op_done_fn done;
  void *arg;
  uint64_t given;
  /* the page being filled */
  unsigned n;
  struct list_entry entry[LIST_PAGE];
  /* the reader's answer */
  pthread_mutex_t mtx;
  pthread_cond_t cond;
  bool answered, go_on; /* under mtx */
  char names[];
};

static void finish(struct list_op *op, int code, const char *text) {
  struct err e;

  if (code < 0)
    fail_object(&e, code, op->q.ns, *op->q.prefix ? op->q.prefix : NULL, text);
  ns_unref(&op->ns);
  op->done(op->arg, code, code < 0 ? e.text : "");
  for (unsigned i = 0; i < op->n; i++)
    free((char *)op->entry[i].key);
  pthread_cond_destroy(&op->cond);
  pthread_mutex_destroy(&op->mtx);
  free(op);
}

void service_list_next(struct list_op *op, bool go_on) {
  pthread_mutex_lock(&op->mtx);
  op->answered = true;
  op->go_on = go_on;
  pthread_cond_signal(&op->cond);
  pthread_mutex_unlock(&op->mtx);
}

/* Gives the page to the reader and waits for the word to go on. The reader always answers: its transport ends a send
 * at the call's deadline. 0, -ECANCELED, -ETIMEDOUT. */
static int flush_page(struct list_op *op) {
  if (op->n == 0)
    return 0;
  op->answered = false;
  op->page(op->arg, op, op->entry, op->n);
  pthread_mutex_lock(&op->mtx);
  while (!op->answered)
    pthread_cond_wait(&op->cond, &op->mtx);
  bool go_on = op->go_on;
  pthread_mutex_unlock(&op->mtx);
  for (unsigned i = 0; i < op->n; i++)
    free((char *)op->entry[i].key);
  op->given += op->n;
  op->n = 0;
  return !go_on ? -ECANCELED : clock_mono_ns() >= op->q.deadline_ns ? -ETIMEDOUT : 0;
}

static bool limit_reached(const struct list_op *op) { return op->q.limit && op->given + op->n >= op->q.limit; }

/* 0 to go on, 1 when the limit is reached, or a code. */
static int add(struct list_op *op, const char *key, const struct object_info *info) {
  if (limit_reached(op))
    return 1;
  char *copy = strdup(key);
  if (!copy)
    return -ENOMEM;
  op->entry[op->n++] = (struct list_entry){.key = copy, .info = *info};
  return op->n == LIST_PAGE ? flush_page(op) : 0;
}

/* ---- from the origin -------------------------------------------------------------------------------------------- */

static int on_origin_entry(void *arg, const char *path, const struct origin_stat *st) {
  struct list_op *op = arg;
  size_t skip = op->ns->r.kind == NS_DERIVED && op->ns->r.version[0] ? strlen(op->ns->r.version) + 1 : 0;
  struct object_info info = {.size = st->size, .mtime_ns = st->mtime_ns, .etag = st->etag, .directory = st->directory};

  return add(op, path + skip, &info);
}

static int list_origin(struct list_op *op, struct err *e) {
  char path[HASH_VERSION_MAX + HASH_KEY_MAX + 2];
  const char *dir = op->q.prefix;
  struct origin *o;
  int r = ns_origin(op->s, op->ns, &o, e);

  if (r < 0)
    return r;
  if (op->ns->r.kind == NS_DERIVED && op->ns->r.version[0]) {
    if (*dir)
      dir = ns_path(op->ns, dir, path);
    else
      dir = op->ns->r.version;
  }
  return origin_list(o, dir, op->q.recursive, on_origin_entry, op, e);
}

/* ---- from the peers' RAM ---------------------------------------------------------------------------------------- */

struct merge {
  struct list_op *op;
  unsigned n, cap;
  struct list_entry *v;
  int code;
  /* one remote listing at a time */
  pthread_mutex_t mtx;
  pthread_cond_t cond;
  bool remote_done; /* under mtx */
  int remote_code;
};

static bool below(const char *key, size_t len, const char *prefix) {
  size_t n = strlen(prefix);
  return n == 0 || (len > n && memcmp(key, prefix, n) == 0 && key[n] == '/');
}

static int merge_add(struct merge *m, const char *key, size_t len, const struct object_info *info) {
  if (!below(key, len, m->op->q.prefix))
    return 0;
  if (m->n == MERGE_MAX)
    return -FB_EBUSY;
  if (m->n == m->cap) {
    unsigned cap = m->cap ? m->cap * 2 : 256;
    struct list_entry *v = reallocarray(m->v, cap, sizeof *v);
    if (!v)
      return -ENOMEM;
    m->v = v;
    m->cap = cap;
  }
  char *copy = strndup(key, len);
  if (!copy)
    return -ENOMEM;
  m->v[m->n++] = (struct list_entry){.key = copy, .info = *info};
  return 0;
}

static int on_kept_block(void *arg, const void *key, uint32_t key_len, const struct tier_view *v) {
  struct object_info info = {0};
  uint64_t etag, index;
  const char *name;
  size_t len;

  if (!block_id_parse(key, key_len, &name, &len, &etag, &index) || index != BLOCK_META)
    return 0;
  info.size = get_le64(v->data);
  info.etag = get_le64((const uint8_t *)v->data + 8);
  info.mtime_ns = (int64_t)get_le64((const uint8_t *)v->data + 16);
  return merge_add(arg, name, len, &info);
}

static bool on_remote_page(void *arg, const ProtobufCMessage *reply, const ProtobufCMessage *inner,
                           struct blob *payload) {
  const Forebay__V1__ListReply *g = (const Forebay__V1__ListReply *)reply;
  struct merge *m = arg;

  (void)inner;
  (void)payload;
  for (size_t i = 0; i < g->n_entries && m->code == 0; i++) {
    const Forebay__V1__ObjectInfo *e = g->entries[i];
    struct object_info info = {.size = e->size, .mtime_ns = e->mtime_ns, .etag = e->etag};
    m->code = merge_add(m, e->key, strlen(e->key), &info);
  }
  return m->code == 0;
}

static void on_remote_done(void *arg, int code, const char *text) {
  struct merge *m = arg;

  (void)text;
  pthread_mutex_lock(&m->mtx);
  m->remote_done = true;
  m->remote_code = code;
  pthread_cond_signal(&m->cond);
  pthread_mutex_unlock(&m->mtx);
}

/* Blocks until the peer's listing is in; its own deadline bounds that. A peer that is down has no values to list. */
static void merge_remote(struct merge *m, struct ring *ring, struct peer *p) {
  struct list_op *op = m->op;
  Forebay__V1__ListRequest q = FOREBAY__V1__LIST_REQUEST__INIT;
  Forebay__V1__Route route;

  route_to_peer(ring, op->ns, true, &route);
  q.ns = (char *)op->q.ns;
  q.prefix = (char *)op->q.prefix;
  q.recursive = true;
  q.route = &route;
  struct peer_call_args a = {.method = "/forebay.v1.Cache/List",
                             .request = &q.base,
                             .reply_type = &forebay__v1__list_reply__descriptor,
                             .deadline_ns = attempt_deadline(op->s, op->q.deadline_ns)};
  m->remote_done = false;
  struct rpc_call *call = peer_stream(p, &a, NULL, on_remote_page, on_remote_done, m);
  pthread_mutex_lock(&m->mtx);
  while (!m->remote_done)
    pthread_cond_wait(&m->cond, &m->mtx);
  pthread_mutex_unlock(&m->mtx);
  rpc_call_unref(&call);
}

static int by_key(const void *a, const void *b) {
  return strcmp(((const struct list_entry *)a)->key, ((const struct list_entry *)b)->key);
}

/* Emits the sorted keys; without `recursive`, deeper ones as their directory, once. */
static int merge_emit(struct merge *m) {
  struct list_op *op = m->op;
  size_t skip = *op->q.prefix ? strlen(op->q.prefix) + 1 : 0;
  const char *last = "";
  int r = 0;

  for (unsigned i = 0; i < m->n && r == 0; i++) {
    struct list_entry *e = &m->v[i];
    char *slash = op->q.recursive ? NULL : strchr(e->key + skip, '/');
    if (slash) {
      *slash = '\0';
      e->info = (struct object_info){.directory = true};
    }
    if (strcmp(e->key, last) != 0)
      r = add(op, e->key, &e->info);
    last = e->key;
  }
  return r;
}

static int list_ram(struct list_op *op, struct err *e) {
  struct merge m = {.op = op};
  int r;

  pthread_mutex_init(&m.mtx, NULL);
  pthread_cond_init(&m.cond, NULL);
  r = tier_scan(op->s->tier, op->ns->r.id, on_kept_block, &m);
  if (r == 0 && !op->q.route.local && !op->q.route.resident_only) {
    struct ring *ring = service_ring(op->s);
    for (unsigned i = 0; i < ring_size(ring) && m.code == 0; i++) {
      struct peer *p = service_peer_of(op->s, ring, i);
      if (p)
        merge_remote(&m, ring, p);
      peer_unref(&p);
    }
    ring_unref(&ring);
    r = m.code;
  }
  if (r == 0) {
    if (m.n)
      qsort(m.v, m.n, sizeof *m.v, by_key);
    r = merge_emit(&m);
  } else {
    err_set(e, r, r == -FB_EBUSY ? "more than 1000000 values: list below a prefix" : "out of memory");
  }
  for (unsigned i = 0; i < m.n; i++)
    free((char *)m.v[i].key);
  free(m.v);
  pthread_cond_destroy(&m.cond);
  pthread_mutex_destroy(&m.mtx);
  return r;
}

/* ----------------------------------------------------------------------------------------------------------------- */

static void list_run(struct pool_job *job) {
  struct list_op *op = (struct list_op *)job;
  struct err e = {0};
  int r = ns_has_origin(op->ns) ? list_origin(op, &e) : list_ram(op, &e);

  if (r >= 0) /* the end, or the limit */
    r = flush_page(op);
  finish(op, r, e.text[0] ? e.text : err_describe(r));
}

static void found(void *arg, int code, const char *text, struct ns *ns) {
  struct list_op *op = arg;

  if (code < 0) {
    finish(op, code, text);
    return;
  }
  op->ns = ns;
  op->job.fn = list_run;
  int r = pool_submit(op->s->scan_pool, &op->job);
  if (r < 0)
    finish(op, r, "too many listings wait: try again");
}

void service_list(struct service *s, const struct list_req *q, list_page_fn page, op_done_fn done, void *arg) {
  size_t ns_len = strlen(q->ns), prefix_len = strlen(q->prefix);
  struct list_op *op = calloc(1, sizeof *op + ns_len + prefix_len + 2);
  struct err e = {0};

  if (!op) {
    done(arg, -ENOMEM, "out of memory");
    return;
  }
  op->s = s;
  op->q = *q;
  op->page = page;
  op->done = done;
  op->arg = arg;
  pthread_mutex_init(&op->mtx, NULL);
  pthread_cond_init(&op->cond, NULL);
  op->q.ns = memcpy(op->names, q->ns, ns_len + 1);
  op->q.prefix = memcpy(op->names + ns_len + 1, q->prefix, prefix_len + 1);
  if (prefix_len && name_check_key(q->prefix, prefix_len, &e) < 0)
    finish(op, e.code, e.text);
  else
    ns_find(s, op->q.ns, &op->q.route, found, op);
}
