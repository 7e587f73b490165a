/* multi.c - many ranges at once: one MultiGet stream per owner and some megabytes, each answer copied straight into its
 * item's buffer by the loop thread that received it (every item belongs to one stream, so nobody else writes there).
 * What a stream did not bring, because its peer is down, busy or sent damaged bytes, is asked for piece by piece after
 * the streams, with the retries and fail-over of single reads. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib/request.h"
#include "common/bytes.h"
#include "common/names.h"

#define GROUP_BYTES (UINT64_C(16) << 20)

struct item {
  struct fb_range *range;
  unsigned owner; /* candidate that it is asked of first */
  bool done;      /* its result stands */
  bool avoid;     /* the owner does not answer: begin with the next */
  int code;       /* of the last attempt */
};

struct many {
  struct call *k;
  struct item *items; /* that have passed their checks; pending ones sorted by owner while groups run */
  size_t n;
  struct waiter waiter;
  unsigned running; /* groups; under waiter.mtx */
  struct err first; /* text of the first failure; under waiter.mtx while groups run */
};

/* One stream. */
struct group {
  struct many *m;
  struct rpc_call *handle;
  struct item *items;
  size_t n;
  bool sent, over; /* over: under waiter.mtx */
  int code;
  char text[ERR_TEXT_MAX];
};

static void note_failure(struct many *m, const struct item *it, int code, const char *text) {
  if (m->first.code)
    return;
  const char *why = text && *text ? text : err_describe(code);
  char name[NAME_OBJECT_MAX];
  if (strstr(why, name_object(name, m->k->ns, it->range->key)))
    err_set(&m->first, code, "%s", why);
  else
    err_set(&m->first, code, "%s: %s", name, why);
}

static void finish(struct item *it, const Forebay__V1__GetReply *reply, size_t bytes) {
  it->range->result = (ssize_t)bytes;
  it->range->info = (struct fb_info){.size = reply->size, .mtime_ns = reply->mtime_ns, .etag = reply->etag};
  it->done = true;
}

static void finish_failed(struct item *it, int code) {
  it->range->result = code;
  it->done = true;
}

/* What a peer sent for one item. 0, or as read_check, or -FB_ECHANGED. */
static int take_item(struct many *m, struct item *it, const Forebay__V1__GetReply *reply, const struct blob *payload,
                     struct peer *asked, struct err *e) {
  const struct fb_range *range = it->range;
  size_t bytes = payload ? payload->len : 0;

  int r = read_check(reply, payload, range->offset, range->len, range->buf, e);
  if (r == 0 && range->etag && reply->etag != range->etag)
    r = err_set(e, -FB_EPROTO, "it sent another version than the one that was asked for");
  if (r < 0)
    return r;
  read_count(m->k, reply, asked, bytes);
  finish(it, reply, bytes);
  return 0;
}

/* Is an item's failure worth asking again on its own? */
static bool item_moves_on(const struct item *it, int code) {
  return code_moves_on(code) || code == -FB_ERING || code == -FB_ENONS || (code == -FB_ECHANGED && !it->range->etag);
}

/* ---- groups: on loop threads --------------------------------------------------------------------------------------
 */

struct group_peer {
  struct group g;
  struct peer *peer; /* reference */
};

static bool group_each(void *arg, const ProtobufCMessage *message, const ProtobufCMessage *inner,
                       struct blob *payload) {
  const Forebay__V1__MultiGetReply *reply = (const Forebay__V1__MultiGetReply *)message;
  struct group_peer *gp = arg;
  struct group *g = &gp->g;
  struct many *m = g->m;
  struct err e = {0};
  int code;

  if (reply->index >= g->n || g->items[reply->index].done || g->items[reply->index].code) {
    snprintf(g->text, sizeof g->text, "it answered item %u of %zu, or that twice", reply->index, g->n);
    return false;
  }
  struct item *it = &g->items[reply->index];
  if (reply->status && reply->status->code) {
    code = reply->status->code <= 65535 ? -(int)reply->status->code : -FB_EPROTO;
    err_set(&e, code, "%s", reply->status->text);
  } else if (!inner) {
    code = err_set(&e, -FB_EPROTO, "it answered an item with nothing");
  } else {
    code = take_item(m, it, (const Forebay__V1__GetReply *)inner, payload, gp->peer, &e);
    if (code == -FB_ECRC)
      count(&m->k->c->stats.crc_errors, 1);
  }
  it->code = code;
  if (code < 0 && !item_moves_on(it, code)) {
    finish_failed(it, code);
    pthread_mutex_lock(&m->waiter.mtx);
    note_failure(m, it, code, e.text);
    pthread_mutex_unlock(&m->waiter.mtx);
  }
  return true;
}

static void group_done(void *arg, int code, const char *text) {
  struct group *g = &((struct group_peer *)arg)->g;
  struct many *m = g->m;

  if (g->text[0])
    code = -FB_EPROTO;
  else
    snprintf(g->text, sizeof g->text, "%s", text && *text ? text : err_describe(code));
  pthread_mutex_lock(&m->waiter.mtx);
  g->code = code;
  g->over = true;
  m->running--;
  pthread_cond_signal(&m->waiter.cond);
  pthread_mutex_unlock(&m->waiter.mtx);
}

/* ---- groups: on the caller's thread --------------------------------------------------------------------------------
 */

static int by_owner(const void *a, const void *b) {
  const struct item *x = a, *y = b;

  if (x->done != y->done)
    return x->done ? 1 : -1;
  return x->owner < y->owner ? -1 : x->owner > y->owner;
}

static uint64_t place(const struct many *m, const struct item *it) {
  const struct call *k = m->k;
  return place_key(k->record.id, k->record.version, it->range->key, k->record.whole, it->range->offset).hi;
}

/* Chooses each pending item's first peer and brings those of one peer together. Returns how many are pending. */
static size_t plan(struct many *m) {
  struct call *k = m->k;
  struct ring *ring = topology_ring(k->topology);
  size_t pending = 0;

  for (size_t i = 0; i < m->n; i++) {
    struct item *it = &m->items[i];
    it->avoid = false;
    it->code = 0;
    if (it->done)
      continue;
    pending++;
    if (k->c->o.any_peer)
      it->owner = atomic_load(&k->c->preferred) % k->c->o.n_peers;
    else
      it->owner = ring_owner(ring, ring_slot(ring, place(m, it)));
  }
  qsort(m->items, m->n, sizeof *m->items, by_owner);
  return pending;
}

static size_t group_end(const struct many *m, size_t from, size_t pending) {
  uint64_t bytes = 0;
  size_t i = from;

  for (; i < pending && i - from < MULTI_GET_MAX && m->items[i].owner == m->items[from].owner; i++) {
    bytes += m->items[i].range->len;
    if (i > from && bytes > GROUP_BYTES)
      break;
  }
  return i;
}

/* Sends the group's stream. 0 or -ENOMEM. */
static int group_send(struct group_peer *gp) {
  struct group *g = &gp->g;
  struct many *m = g->m;
  struct call *k = m->k;
  Forebay__V1__MultiGetRequest message = FOREBAY__V1__MULTI_GET_REQUEST__INIT;
  Forebay__V1__Route route = FOREBAY__V1__ROUTE__INIT;
  int64_t deadline_ns = clock_mono_ns() + k->c->o.peer_timeout_ms * NS_PER_MS;

  Forebay__V1__GetItem *wire = calloc(g->n, sizeof *wire);
  Forebay__V1__GetItem **pointers = calloc(g->n, sizeof *pointers);
  gp->peer =
      k->c->o.any_peer ? peer_ref(k->c->seeds[g->items[0].owner]) : topology_peer(k->topology, k->c, g->items[0].owner);
  if (!wire || !pointers || !gp->peer) {
    free(wire);
    free(pointers);
    return err_set(&k->e, -ENOMEM, "out of memory for %zu items", g->n);
  }
  for (size_t i = 0; i < g->n; i++) {
    const struct fb_range *range = g->items[i].range;
    wire[i] = (Forebay__V1__GetItem)FOREBAY__V1__GET_ITEM__INIT;
    wire[i].key = (char *)(uintptr_t)range->key;
    wire[i].offset = range->offset;
    wire[i].length = (uint32_t)range->len;
    wire[i].etag = range->etag;
    pointers[i] = &wire[i];
  }
  message.ns = (char *)(uintptr_t)k->ns;
  message.n_items = g->n;
  message.items = pointers;
  message.route = &route;
  route.ns_id = k->record.id;
  if (!k->c->o.any_peer) {
    route.ring_hash = topology_hash(k->topology);
    route.local = true;
  }
  const struct peer_call_args args = {.method = "/forebay.v1.Cache/MultiGet",
                                      .request = &message.base,
                                      .reply_type = &forebay__v1__multi_get_reply__descriptor,
                                      .want_payload = true,
                                      .deadline_ns = deadline_ns < k->deadline_ns ? deadline_ns : k->deadline_ns};
  count(&k->c->stats.requests, 1);
  pthread_mutex_lock(&m->waiter.mtx);
  m->running++;
  pthread_mutex_unlock(&m->waiter.mtx);
  g->sent = true;
  g->handle = peer_stream(gp->peer, &args, &forebay__v1__get_reply__descriptor, group_each, group_done, gp);
  free(wire);
  free(pointers);
  return 0;
}

/* What its items have come to. 0, or -FB_ERING or -FB_ENONS, after which the plan must change. */
static int group_judge(struct group_peer *gp) {
  struct group *g = &gp->g;
  struct many *m = g->m;
  int verdict = 0;

  if (g->code == 0 || g->code == -FB_EPROTO)
    g->code = -FB_EPROTO; /* for items that it ended without */
  for (size_t i = 0; i < g->n; i++) {
    struct item *it = &g->items[i];
    if (it->done)
      continue;
    bool answered = it->code != 0;
    if (!answered)
      it->code = g->code;
    it->avoid = !answered && (g->code == -FB_EPEERDOWN || g->code == -ETIMEDOUT);
    if (!item_moves_on(it, it->code)) {
      finish_failed(it, it->code);
      note_failure(m, it, it->code, g->text);
    } else if (it->code == -FB_ERING || it->code == -FB_ENONS) {
      verdict = err_set(&m->k->e, it->code, "%s", g->code == it->code ? g->text : err_describe(it->code));
    }
  }
  if (verdict == -FB_ERING) {
    peer_unref(&m->k->ring_peer);
    m->k->ring_peer = peer_ref(gp->peer);
  }
  return verdict;
}

/* Cancels what runs and waits for it: loop threads write into the caller's buffers. */
static void withdraw(struct many *m, struct group_peer *groups, unsigned n) {
  for (unsigned i = 0; i < n; i++)
    if (groups[i].g.sent && groups[i].g.handle)
      rpc_call_cancel(groups[i].g.handle);
  pthread_mutex_lock(&m->waiter.mtx);
  while (m->running)
    waiter_wait(&m->waiter, DEADLINE_NONE);
  pthread_mutex_unlock(&m->waiter.mtx);
}

static void group_free(struct group_peer *gp) {
  rpc_call_unref(&gp->g.handle);
  peer_unref(&gp->peer);
  memset(gp, 0, sizeof *gp);
}

/* Runs streams for all pending items, `parallel` at a time. */
static int run_groups(struct many *m) {
  struct call *k = m->k;
  size_t pending = plan(m), at = 0;
  unsigned n = (unsigned)min_u64(k->c->o.parallel, pending);
  int r = 0;

  if (pending == 0)
    return 0;
  struct group_peer *groups = calloc(n, sizeof *groups);
  if (!groups)
    return err_set(&k->e, -ENOMEM, "out of memory for %u streams", n);
  for (bool busy = true; busy && r == 0;) {
    busy = false;
    for (unsigned i = 0; i < n && r == 0; i++) {
      struct group_peer *gp = &groups[i];
      pthread_mutex_lock(&m->waiter.mtx);
      bool over = gp->g.over;
      pthread_mutex_unlock(&m->waiter.mtx);
      if (gp->g.sent && over) {
        r = group_judge(gp);
        group_free(gp);
      }
      if (!gp->g.sent && at < pending && r == 0) {
        size_t end = group_end(m, at, pending);
        gp->g = (struct group){.m = m, .items = m->items + at, .n = end - at};
        at = end;
        r = group_send(gp);
      }
      busy |= gp->g.sent;
    }
    pthread_mutex_lock(&m->waiter.mtx);
    bool any_over = false, in_time = true;
    while (r == 0 && busy && in_time) {
      for (unsigned i = 0; i < n; i++)
        any_over |= groups[i].g.sent && groups[i].g.over;
      if (any_over)
        break;
      in_time = waiter_wait(&m->waiter, k->deadline_ns);
    }
    pthread_mutex_unlock(&m->waiter.mtx);
    if (!in_time)
      r = err_set(&k->e, -ETIMEDOUT, "not done within %u ms", k->c->o.timeout_ms);
  }
  withdraw(m, groups, n);
  for (unsigned i = 0; i < n; i++)
    group_free(&groups[i]);
  free(groups);
  return r;
}

/* ---- the rest, one by one -------------------------------------------------------------------------------------------
 */

struct rest {
  struct many *m;
  size_t next;
};

struct single {
  struct request q;
  Forebay__V1__GetRequest message;
  Forebay__V1__Route route;
  struct item *item;
};

static bool single_next(struct batch *b, struct request *q) {
  struct rest *rest = b->arg;
  struct many *m = rest->m;
  struct single *s = (struct single *)q;

  while (rest->next < m->n && m->items[rest->next].done)
    rest->next++;
  if (rest->next == m->n)
    return false;
  struct item *it = &m->items[rest->next++];
  *s = (struct single){.message = FOREBAY__V1__GET_REQUEST__INIT, .item = it};
  q->method = "/forebay.v1.Cache/Get";
  q->message = &s->message.base;
  q->route = s->message.route = &s->route;
  q->reply_type = &forebay__v1__get_reply__descriptor;
  q->want_payload = true;
  q->picker.placed = true;
  q->picker.hash = place(m, it);
  if (it->avoid) {
    q->picker.seen = b->call->topology;
    q->picker.tried[q->picker.n_tried++] = it->owner;
    count(&b->call->c->stats.failovers, 1);
  }
  count(&b->call->c->stats.retries, 1);
  s->message.ns = (char *)(uintptr_t)b->call->ns;
  s->message.key = (char *)(uintptr_t)it->range->key;
  s->message.offset = it->range->offset;
  s->message.length = (uint32_t)it->range->len;
  s->message.etag = it->range->etag;
  return true;
}

static int single_take(struct batch *b, struct request *q, struct err *e) {
  struct rest *rest = b->arg;

  return take_item(rest->m, ((struct single *)q)->item, (const Forebay__V1__GetReply *)q->reply, q->payload, q->peer,
                   e);
}

static int single_failed(struct batch *b, struct request *q, int code, const struct err *e) {
  struct rest *rest = b->arg;
  struct item *it = ((struct single *)q)->item;

  if (code == -FB_ERING || code == -FB_ENONS)
    return code;
  finish_failed(it, code);
  note_failure(rest->m, it, code, e->text);
  return 0;
}

static int run_rest(struct many *m) {
  struct request *slots[256];
  struct rest rest = {.m = m};
  size_t left = 0;

  for (size_t i = 0; i < m->n; i++)
    left += !m->items[i].done;
  if (left == 0)
    return 0;
  struct batch b = {
      .call = m->k, .requests = slots, .next = single_next, .take = single_take, .failed = single_failed, .arg = &rest};
  b.n = (unsigned)min_u64(min_u64(left, m->k->c->o.parallel), sizeof slots / sizeof *slots);
  struct single *singles = calloc(b.n, sizeof *singles);
  if (!singles)
    return err_set(&m->k->e, -ENOMEM, "out of memory for %u requests", b.n);
  for (unsigned i = 0; i < b.n; i++)
    slots[i] = &singles[i].q;
  int r = batch_run(&b);
  free(singles);
  return r;
}

/* ---- all of it
 * ------------------------------------------------------------------------------------------------------- */

static int multi_once(struct call *k, void *arg) {
  struct many *m = arg;

  (void)k;
  int r = run_groups(m);
  return r < 0 ? r : run_rest(m);
}

/* Can it be asked for at all? Its result says so. */
static bool admit(struct many *m, struct item *it) {
  struct fb_range *range = it->range;
  struct err e;
  int r = name_check_key(range->key, range->key ? strnlen(range->key, NAME_KEY_MAX + 1) : 0, &e);

  if (r == 0 && range->len > GET_MAX_BYTES)
    r = err_set(&e, -FB_ETOOBIG, "an item of %zu bytes; accepted: up to %u, read more with fb_pread", range->len,
                GET_MAX_BYTES);
  if (r == 0 && range->len && !range->buf)
    r = err_set(&e, -EINVAL, "an item without a buffer");
  if (r == 0)
    return true;
  range->result = r;
  if (!m->first.code)
    err_set(&m->first, r, "%s/item %zu: %s", m->k->ns, (size_t)(it - m->items), e.text);
  return false;
}

/* Sees to it that every item has a result; returns what fb_multi_get does. */
static int settle(struct many *m, struct fb_range *ranges, size_t n, int r) {
  size_t failed = 0;

  for (size_t i = 0; i < m->n; i++)
    if (!m->items[i].done)
      finish_failed(&m->items[i], r < 0 ? r : -FB_EPROTO);
  for (size_t i = 0; i < n; i++)
    failed += ranges[i].result < 0;
  if (r < 0 && failed == n)
    return r;
  if (failed && !m->first.code)
    m->first = m->k->e;
  return failed > INT_MAX ? INT_MAX : (int)failed;
}

int fb_multi_get(fb_client *c, const char *ns, struct fb_range *ranges, size_t n, struct fb_error *err) {
  struct call k;
  struct many m = {.k = &k};

  for (size_t i = 0; ranges && i < n; i++) {
    ranges[i].result = -ECANCELED;
    ranges[i].info = (struct fb_info){0};
  }
  int r = call_begin(&k, c, CALL_NS | (c && c->o.any_peer ? 0 : CALL_RECORD), ns, NULL);
  if (r == 0 && n && !ranges)
    r = err_set(&k.e, -EINVAL, "there are no ranges: the pointer is NULL");
  if (r == 0 && !(m.items = calloc(n + 1, sizeof *m.items)))
    r = err_set(&k.e, -ENOMEM, "out of memory for %zu items", n);
  if (r == 0) {
    waiter_init(&m.waiter);
    for (size_t i = 0; i < n; i++) {
      m.items[m.n] = (struct item){.range = &ranges[i]};
      m.n += admit(&m, &m.items[m.n]);
    }
    if (m.n)
      r = call_run(&k, multi_once, &m);
    r = settle(&m, ranges, n, r);
    waiter_fini(&m.waiter);
    free(m.items);
  } else {
    for (size_t i = 0; ranges && i < n; i++)
      ranges[i].result = r;
  }
  if (r > 0 && err) {
    err->code = m.first.code;
    snprintf(err->text, sizeof err->text, "%s", m.first.text);
  }
  return (int)call_end(&k, r, err);
}
