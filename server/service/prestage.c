/* prestage.c - filling a dataset before the job: list, let every owner warm its chunks, then count what is there.
 *
 *   origin listing -> spool file (key, etag, size) -> batches of chunks per owner -> Warm at the owners, PARALLEL at a
 * time
 *                                                  -> second pass over the spool: Warm with check_only
 *
 * A run has a thread of its own and bounded memory: the listing goes through an unlinked spool file, batches in flight
 * are bounded, and the listing waits when they are out. What a run reports as resident in the end was counted, with
 * checksums, after the last fill: a fill that was evicted again, or a file that changed, does not count. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/glob.h"
#include "common/names.h"
#include "common/utf8.h"
#include "forebay/v1/admin.pb-c.h"
#include "server/service/internal.h"
#include "server/service/parts.h"

#define BATCH_ITEMS 64u
#define REPORT_NS (250 * NS_PER_MS)
#define FAILURES_MAX 20u
#define WARM_MS 120000 /* one batch at one owner: at most BATCH_ITEMS small files, or one chunk, and a slow origin */

struct prestage_runs {
  struct service *s;
  pthread_mutex_t mtx;
  unsigned n; /* under mtx */
  bool stop;  /* under mtx */
};

/* A file whose chunks are on their way; it counts when the last one is in. Under run.mtx. */
struct file {
  unsigned chunks;
  bool failed;
};

/* Items that go to one owner in one call: many small files, or one chunk. Two references while it is out: the sender's
 * and the callback's. */
struct batch {
  struct batch *next, **prev; /* in run.out or run.again (next only); under run.mtx */
  struct rpc_call *call;      /* under run.mtx; while it is out to another peer */
  bool over;                  /* under run.mtx: the callback has run */
  atomic_uint refs;
  struct run *run;
  unsigned owner, n;
  bool check;
  struct warm_item item[BATCH_ITEMS]; /* keys are owned */
  struct file *file[BATCH_ITEMS];
  unsigned rank[BATCH_ITEMS]; /* which of the slot's owners this is, for the next attempt */
};

struct failure {
  char *key;
  int code;
  char text[160];
};

struct run {
  struct prestage_runs *runs;
  struct service *s;
  struct ns *ns;     /* reference, once found */
  struct ring *ring; /* the run plans with one ring; reference */
  char *ns_name, *pattern;
  bool background;
  unsigned parallel;
  prestage_progress_fn progress; /* NULL: nobody listens */
  op_done_fn done;
  void *arg;
  /* the run's own thread */
  int64_t started_ns, reported_ns;
  FILE *spool;
  struct batch **open; /* per owner: the batch being filled */
  bool listed;

  pthread_mutex_t mtx; /* the rest */
  pthread_cond_t cond;
  unsigned *in_flight; /* per owner */
  unsigned in_flight_all;
  struct batch *out;   /* in flight */
  struct batch *again; /* failed at one owner, to be sent to the next */
  uint64_t files_total, bytes_total;
  uint64_t files_filled, bytes_filled, bytes_origin, files_checked, bytes_checked, files_failed;
  unsigned n_failures, n_told;
  struct failure failure[FAILURES_MAX];
  bool stop;
};

/* ---- reporting -------------------------------------------------------------------------------------------------- */

static bool stopping(struct run *r) {
  pthread_mutex_lock(&r->runs->mtx);
  bool stop = r->runs->stop;
  pthread_mutex_unlock(&r->runs->mtx);
  pthread_mutex_lock(&r->mtx);
  r->stop |= stop;
  stop = r->stop;
  pthread_mutex_unlock(&r->mtx);
  return stop;
}

/* Tells the caller how far the run is, if it is time. False: stop. */
static bool report(struct run *r, bool done) {
  struct prestage_failure told[FAILURES_MAX];
  int64_t now = clock_mono_ns();

  if (stopping(r))
    return false;
  if (!r->progress || (!done && now - r->reported_ns < REPORT_NS))
    return true;
  r->reported_ns = now;
  pthread_mutex_lock(&r->mtx);
  struct prestage_progress p = {.files_total = r->files_total,
                                .bytes_total = r->bytes_total,
                                .files_resident = done ? r->files_checked : r->files_filled,
                                .bytes_resident = done ? r->bytes_checked : r->bytes_filled,
                                .bytes_from_origin = r->bytes_origin,
                                .files_failed = r->files_failed,
                                .elapsed_ns = (uint64_t)(now - r->started_ns),
                                .listed = r->listed,
                                .done = done,
                                .failures = told};
  for (; r->n_told < r->n_failures; r->n_told++)
    told[p.n_failures++] = (struct prestage_failure){
        .key = r->failure[r->n_told].key, .code = r->failure[r->n_told].code, .text = r->failure[r->n_told].text};
  pthread_mutex_unlock(&r->mtx);
  bool go_on = r->progress(r->arg, &p);
  if (!go_on) {
    pthread_mutex_lock(&r->mtx);
    r->stop = true;
    pthread_mutex_unlock(&r->mtx);
  }
  return go_on;
}

/* Under r->mtx. */
static void note_failure(struct run *r, const char *key, int code, const char *text) {
  r->files_failed++;
  if (r->n_failures == FAILURES_MAX)
    return;
  struct failure *f = &r->failure[r->n_failures];
  if (!(f->key = strdup(key)))
    return;
  f->code = code;
  snprintf(f->text, sizeof f->text, "%s", text);
  utf8_trim(f->text);
  r->n_failures++;
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

static void batch_unref(struct batch *b) {
  if (atomic_fetch_sub(&b->refs, 1) != 1)
    return;
  for (unsigned i = 0; i < b->n; i++)
    free((char *)b->item[i].key);
  free(b);
}

/* One chunk is in, or has failed for good. Under r->mtx. */
static void chunk_over(struct run *r, const struct batch *b, unsigned i, int code, const char *text,
                       const struct warm_result *w) {
  struct file *f = b->file[i];
  uint64_t want = min_u64(CHUNK_BYTES, b->item[i].size - b->item[i].chunk * CHUNK_BYTES);
  bool good = w && w->resident_bytes == want && w->code == 0;

  if (b->check) {
    r->bytes_checked += w ? w->resident_bytes : 0;
  } else if (w) {
    r->bytes_filled += w->resident_bytes;
    r->bytes_origin += w->origin_bytes;
    metric_add(r->s, M_prestage_bytes_done, w->resident_bytes);
  }
  if (!good && !f->failed && !b->check)
    note_failure(r, b->item[i].key, w ? w->code : code, w ? w->text : text);
  f->failed |= !good;
  if (--f->chunks > 0)
    return;
  if (!f->failed && b->check)
    r->files_checked++;
  else if (!f->failed)
    r->files_filled++;
  free(f);
}

static void batch_over(struct batch *b, int code, const char *text, const struct warm_result *results, unsigned n) {
  struct run *r = b->run;

  pthread_mutex_lock(&r->mtx);
  r->in_flight[b->owner]--;
  *b->prev = b->next;
  if (b->next)
    b->next->prev = b->prev;
  b->over = true;
  struct rpc_call *call = b->call;
  b->call = NULL;
  if (retry_elsewhere(code)) { /* the owner is away: the run thread sends the items to their next owners */
    b->next = r->again;
    r->again = b;
    b = NULL;
  } else {
    for (unsigned i = 0; i < b->n; i++)
      chunk_over(r, b, i, code, text, code == 0 && i < n ? &results[i] : NULL);
  }
  r->in_flight_all--;
  pthread_cond_signal(&r->cond);
  pthread_mutex_unlock(&r->mtx);
  rpc_call_unref(&call);
  if (b)
    batch_unref(b);
}

static void warmed_here(void *arg, int code, const char *text, const struct warm_result *results, unsigned n) {
  batch_over(arg, code, text, results, n);
}

static void warmed_there(void *arg, int code, const char *text, const ProtobufCMessage *reply, struct blob *payload) {
  const Forebay__V1__WarmReply *g = (const Forebay__V1__WarmReply *)reply;
  struct warm_result results[BATCH_ITEMS] = {0};
  struct batch *b = arg;

  (void)payload;
  if (code == 0 && g->n_results != b->n) {
    batch_over(b, -FB_EPROTO, "the owner answered for another number of items", NULL, 0);
    return;
  }
  for (unsigned i = 0; code == 0 && i < b->n; i++) {
    const Forebay__V1__WarmResult *w = g->results[i];
    results[i].resident_bytes = w->resident_bytes;
    results[i].origin_bytes = w->origin_bytes;
    if (w->status && w->status->code) {
      results[i].code = -(int)w->status->code;
      snprintf(results[i].text, sizeof results[i].text, "%s", w->status->text);
    }
  }
  batch_over(b, code, text, results, b->n);
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

static void warm_there(struct run *r, struct batch *b, struct peer *p) {
  Forebay__V1__WarmRequest q = FOREBAY__V1__WARM_REQUEST__INIT;
  Forebay__V1__WarmItem item[BATCH_ITEMS], *items[BATCH_ITEMS];
  Forebay__V1__Route route;

  for (unsigned i = 0; i < b->n; i++) {
    forebay__v1__warm_item__init(&item[i]);
    item[i].key = (char *)b->item[i].key;
    item[i].etag = b->item[i].etag;
    item[i].size = b->item[i].size;
    item[i].chunk = b->item[i].chunk;
    items[i] = &item[i];
  }
  route_to_peer(r->ring, r->ns, false, &route);
  q.ns = r->ns_name;
  q.items = items;
  q.n_items = b->n;
  q.check_only = b->check;
  q.route = &route;
  struct peer_call_args a = {.method = "/forebay.v1.Prestage/Warm",
                             .request = &q.base,
                             .reply_type = &forebay__v1__warm_reply__descriptor,
                             .deadline_ns = deadline_in_ms(WARM_MS)};
  atomic_fetch_add(&b->refs, 1);
  struct rpc_call *call = peer_call(p, &a, warmed_there, b);
  pthread_mutex_lock(&r->mtx);
  if (!b->over) {
    b->call = call;
    call = NULL;
  }
  pthread_mutex_unlock(&r->mtx);
  rpc_call_unref(&call);
  batch_unref(b);
}

static void warm_here(struct run *r, struct batch *b) {
  struct warm_req q = {.ns = r->ns_name,
                       .items = b->item,
                       .n = b->n,
                       .check_only = b->check,
                       .route = {.local = true, .ns_id = r->ns->r.id},
                       .deadline_ns = deadline_in_ms(WARM_MS)};
  service_warm(r->s, &q, warmed_here, b);
}

/* Waits, reporting, until the owner has a place for one more batch (or, with limit 0, nothing is in flight at all). */
static bool wait_for_place(struct run *r, unsigned owner, unsigned limit) {
  for (;;) {
    if (!report(r, false))
      return false;
    pthread_mutex_lock(&r->mtx);
    bool room = limit ? r->in_flight[owner] < limit : r->in_flight_all == 0;
    if (!room) {
      struct timespec until = clock_timespec(clock_mono_ns() + 50 * NS_PER_MS);
      pthread_cond_timedwait(&r->cond, &r->mtx, &until);
    }
    pthread_mutex_unlock(&r->mtx);
    if (room)
      return true;
  }
}

static bool batch_send(struct run *r, struct batch *b) {
  struct peer *p = service_peer_of(r->s, r->ring, b->owner);

  if (!wait_for_place(r, b->owner, r->parallel)) {
    peer_unref(&p);
    pthread_mutex_lock(&r->mtx);
    for (unsigned i = 0; i < b->n; i++)
      chunk_over(r, b, i, -ECANCELED, "run was stopped", NULL);
    pthread_mutex_unlock(&r->mtx);
    batch_unref(b);
    return false;
  }
  pthread_mutex_lock(&r->mtx);
  r->in_flight[b->owner]++;
  r->in_flight_all++;
  b->over = false;
  b->next = r->out;
  b->prev = &r->out;
  if (b->next)
    b->next->prev = &b->next;
  r->out = b;
  pthread_mutex_unlock(&r->mtx);
  if (p)
    warm_there(r, b, p);
  else
    warm_here(r, b);
  peer_unref(&p);
  return true;
}

static bool flush_open(struct run *r) {
  bool go_on = true;

  for (unsigned i = 0; i < ring_size(r->ring); i++) {
    struct batch *b = r->open[i];
    r->open[i] = NULL;
    if (b)
      go_on = batch_send(r, b) && go_on;
  }
  return go_on;
}

/* The first owner from `*rank` on that can be reached; *rank moves with it. -1: none is left. */
static int owner_from(struct run *r, const char *key, uint64_t chunk, unsigned *rank) {
  unsigned owners[RING_RANKS];
  struct hash128 h = place_key(r->ns->r.id, r->ns->r.version, key, ns_whole(r->ns), chunk * CHUNK_BYTES);
  unsigned n = ring_owners(r->ring, ring_slot(r->ring, h.hi), owners);

  for (; *rank < n; (*rank)++) {
    struct peer *p = service_peer_of(r->s, r->ring, owners[*rank]);
    bool usable = !p || peer_usable(p);
    peer_unref(&p);
    if (usable)
      return (int)owners[*rank];
  }
  return -1;
}

static void fail_chunk(struct run *r, const struct warm_item *it, struct file *f, bool check, int code,
                       const char *text) {
  struct batch one = {.run = r, .n = 1, .check = check, .item = {*it}, .file = {f}};

  pthread_mutex_lock(&r->mtx);
  chunk_over(r, &one, 0, code, text, NULL);
  pthread_mutex_unlock(&r->mtx);
}

/* Puts a chunk into its owner's batch. A whole chunk goes at once, small files wait for company. */
static bool add_chunk(struct run *r, const struct warm_item *it, struct file *f, unsigned rank, bool check) {
  int owner = owner_from(r, it->key, it->chunk, &rank);

  if (owner < 0) {
    fail_chunk(r, it, f, check, -FB_EPEERDOWN, "no owner of the chunk can be reached");
    return true;
  }
  struct batch *b = r->open[owner];
  if (!b) {
    if ((b = malloc(sizeof *b)))
      *b = (struct batch){.run = r, .owner = (unsigned)owner, .check = check, .refs = 1};
    r->open[owner] = b;
  }
  char *key = b ? strdup(it->key) : NULL;
  if (!key) {
    fail_chunk(r, it, f, check, -ENOMEM, "out of memory");
    return true;
  }
  b->item[b->n] = *it;
  b->item[b->n].key = key;
  b->file[b->n] = f;
  b->rank[b->n++] = rank;
  if (b->n < BATCH_ITEMS && it->size < CHUNK_BYTES / BATCH_ITEMS)
    return true;
  r->open[owner] = NULL;
  return batch_send(r, b);
}

/* Sends what came back from owners that are away to the next ones. */
static bool send_again(struct run *r) {
  pthread_mutex_lock(&r->mtx);
  struct batch *list = r->again;
  r->again = NULL;
  pthread_mutex_unlock(&r->mtx);
  bool go_on = true;
  while (list) {
    struct batch *b = list;
    list = b->next;
    for (unsigned i = 0; i < b->n; i++)
      go_on = add_chunk(r, &b->item[i], b->file[i], b->rank[i] + 1, b->check) && go_on;
    batch_unref(b);
  }
  return go_on;
}

static bool add_file(struct run *r, const char *key, uint64_t etag, uint64_t size, bool check) {
  uint64_t chunks = (size + CHUNK_BYTES - 1) / CHUNK_BYTES;
  struct file *f = malloc(sizeof *f);

  pthread_mutex_lock(&r->mtx);
  if (!check) {
    r->files_total++;
    r->bytes_total += size;
    metric_add(r->s, M_prestage_files_total, 1);
    metric_add(r->s, M_prestage_bytes_total, size);
  }
  if (chunks == 0 || !f) {
    if (!f)
      note_failure(r, key, -ENOMEM, "out of memory");
    else if (check)
      r->files_checked++;
    else
      r->files_filled++;
  }
  pthread_mutex_unlock(&r->mtx);
  if (chunks == 0 || !f) {
    free(f);
    return report(r, false);
  }
  *f = (struct file){.chunks = (unsigned)chunks};
  bool go_on = true;
  for (uint64_t c = 0; c < chunks; c++) {
    struct warm_item it = {.key = key, .etag = etag, .size = size, .chunk = c};
    /* After a stop the rest of the file's chunks still must be counted off. */
    if (go_on)
      go_on = add_chunk(r, &it, f, 0, check);
    else
      fail_chunk(r, &it, f, check, -ECANCELED, "run was stopped");
  }
  return send_again(r) && go_on && report(r, false);
}

/* All that is open goes out, and all that is out comes in. */
static bool settle(struct run *r) {
  bool again;

  do {
    if (!send_again(r) || !flush_open(r) || !wait_for_place(r, 0, 0))
      return false;
    pthread_mutex_lock(&r->mtx);
    again = r->again != NULL;
    pthread_mutex_unlock(&r->mtx);
  } while (again);
  return true;
}

/* ---- the two passes --------------------------------------------------------------------------------------------- */

static bool wanted(const char *pattern, const char *key) {
  size_t n = strlen(pattern);

  /* A directory's name stands for all that is below it. */
  return n == 0 || glob_match(pattern, key) || (strncmp(key, pattern, n) == 0 && key[n] == '/');
}

/* Deepest directory that every match lies below. */
static void literal_dir(const char *pattern, char *ret) {
  size_t n = strcspn(pattern, "*?[\\");

  memcpy(ret, pattern, n);
  ret[n] = '\0';
  char *slash = strrchr(ret, '/');
  if (slash)
    *slash = '\0';
  else
    *ret = '\0';
}

static int on_file(void *arg, const char *path, const struct origin_stat *st) {
  struct run *r = arg;
  uint16_t len = (uint16_t)strlen(path);
  uint8_t head[18];

  if (st->directory || !wanted(r->pattern, path))
    return report(r, false) ? 0 : -ECANCELED;
  put_le16(head, len);
  put_le64(head + 2, st->etag);
  put_le64(head + 10, st->size);
  if (fwrite(head, sizeof head, 1, r->spool) != 1 || fwrite(path, len, 1, r->spool) != 1)
    return -errno;
  return add_file(r, path, st->etag, st->size, false) ? 0 : -ECANCELED;
}

static int fill_pass(struct run *r, struct err *e) {
  char dir[HASH_KEY_MAX + 1];
  struct origin *o;
  int rc = ns_origin(r->s, r->ns, &o, e);

  if (rc < 0)
    return rc;
  literal_dir(r->pattern, dir);
  rc = origin_list(o, dir, true, on_file, r, e);
  if (rc == 0) {
    r->listed = true;
    if (r->files_total == 0)
      return err_set(e, -ENOENT, "no file matches \"%s\"", r->pattern);
    rc = settle(r) ? 0 : -ECANCELED;
  } else if (!e->text[0]) {
    err_set(e, rc, "%s", rc == -ECANCELED ? "run was stopped" : err_describe(rc));
  }
  return rc;
}

static int check_pass(struct run *r, struct err *e) {
  char key[HASH_KEY_MAX + 1];
  uint8_t head[18];

  if (fflush(r->spool) != 0 || fseeko(r->spool, 0, SEEK_SET) < 0)
    return err_set(e, -errno, "spool file in state_dir: %s", strerror(errno));
  for (uint64_t i = 0; i < r->files_total; i++) {
    if (fread(head, sizeof head, 1, r->spool) != 1 || get_le16(head) > HASH_KEY_MAX ||
        fread(key, get_le16(head), 1, r->spool) != 1)
      return err_set(e, -EIO, "spool file in state_dir cannot be read back");
    key[get_le16(head)] = '\0';
    if (!add_file(r, key, get_le64(head + 2), get_le64(head + 10), true))
      return err_set(e, -ECANCELED, "run was stopped");
  }
  return settle(r) ? 0 : err_set(e, -ECANCELED, "run was stopped");
}

/* ---- a run's life ----------------------------------------------------------------------------------------------- */

static void run_free(struct run *r) {
  for (unsigned i = 0; i < r->n_failures; i++)
    free(r->failure[i].key);
  if (r->spool)
    fclose(r->spool);
  ns_unref(&r->ns);
  ring_unref(&r->ring);
  free(r->open);
  free(r->in_flight);
  free(r->ns_name);
  free(r->pattern);
  pthread_cond_destroy(&r->cond);
  pthread_mutex_destroy(&r->mtx);
  free(r);
}

static void refuse(struct run *r, int code, const char *text) {
  struct err e;

  fail_object(&e, code, r->ns_name, NULL, text);
  ns_unref(&r->ns);
  if (r->done)
    r->done(r->arg, code, e.text);
  run_free(r);
}

/* Whatever happens, nothing of the run may be in flight when it ends: batches point to it. */
static void drain(struct run *r) {
  for (unsigned i = 0; i < ring_size(r->ring); i++)
    if (r->open[i]) {
      pthread_mutex_lock(&r->mtx);
      for (unsigned k = 0; k < r->open[i]->n; k++)
        chunk_over(r, r->open[i], k, -ECANCELED, "run was stopped", NULL);
      pthread_mutex_unlock(&r->mtx);
      batch_unref(r->open[i]);
    }
  pthread_mutex_lock(&r->mtx);
  for (struct batch *b = r->out; b; b = b->next)
    if (b->call)
      rpc_call_cancel(b->call);
  while (r->in_flight_all > 0) /* cancelled, or ended by service_stop's flight_expire, or by its deadline */
    pthread_cond_wait(&r->cond, &r->mtx);
  while (r->again) {
    struct batch *b = r->again;
    r->again = b->next;
    for (unsigned i = 0; i < b->n; i++)
      chunk_over(r, b, i, -ECANCELED, "run was stopped", NULL);
    batch_unref(b);
  }
  pthread_mutex_unlock(&r->mtx);
}

static void *run_main(void *arg) {
  struct run *r = arg;
  struct prestage_runs *runs = r->runs;
  struct service *s = r->s;
  struct err e = {0};

  pthread_setname_np(pthread_self(), "fb-prestage");
  if (r->background) {
    r->progress(r->arg, &(struct prestage_progress){0});
    r->done(r->arg, 0, "");
    r->progress = NULL;
    r->done = NULL;
  }
  int rc = fill_pass(r, &e);
  if (rc == 0)
    rc = check_pass(r, &e);
  if (rc == 0 && !report(r, true))
    rc = err_set(&e, -ECANCELED, "run was stopped");
  drain(r);
  if (rc == 0 && r->done)
    r->done(r->arg, 0, "");
  if (rc == 0)
    r->done = NULL;
  atomic_fetch_sub(&s->metrics[M_prestage_active], 1);
  if (rc < 0)
    refuse(r, rc, e.text);
  else
    run_free(r);
  pthread_mutex_lock(&runs->mtx);
  runs->n--;
  pthread_mutex_unlock(&runs->mtx);
  return NULL;
}

static FILE *spool_open(const char *dir) {
  int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  FILE *f = fd < 0 ? NULL : fdopen(fd, "w+");

  if (fd >= 0 && !f)
    close(fd);
  return f;
}

static void found(void *arg, int code, const char *text, struct ns *ns) {
  struct run *r = arg;
  struct prestage_runs *runs = r->runs;
  struct service *s = r->s;
  pthread_attr_t attr;
  pthread_t thread;

  if (code < 0) {
    refuse(r, code, text);
    return;
  }
  r->ns = ns;
  if (!ns_has_origin(ns)) {
    refuse(r, -EINVAL, "namespace has no origin to prestage from");
    return;
  }
  r->ring = service_ring(s);
  r->open = calloc(ring_size(r->ring), sizeof *r->open);
  r->in_flight = calloc(ring_size(r->ring), sizeof *r->in_flight);
  if (!r->open || !r->in_flight) {
    refuse(r, -ENOMEM, "out of memory");
    return;
  }
  if (!(r->spool = spool_open(s->state_dir))) {
    refuse(r, -errno, "cannot make a spool file in peer.state_dir");
    return;
  }
  pthread_mutex_lock(&runs->mtx);
  bool room = !runs->stop && runs->n < s->conf.prestage_runs;
  runs->n += room;
  pthread_mutex_unlock(&runs->mtx);
  if (!room) {
    refuse(r, -FB_EBUSY, "prestage.runs are going on already: try again later");
    return;
  }
  metric_add(s, M_prestage_runs, 1);
  metric_add(s, M_prestage_active, 1);
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  int rc = pthread_create(&thread, &attr, run_main, r);
  pthread_attr_destroy(&attr);
  if (rc == 0)
    return;
  atomic_fetch_sub(&s->metrics[M_prestage_active], 1);
  pthread_mutex_lock(&runs->mtx);
  runs->n--;
  pthread_mutex_unlock(&runs->mtx);
  refuse(r, -rc, "cannot start a thread");
}

void service_prestage(struct service *s, const struct prestage_req *q, prestage_progress_fn progress, op_done_fn done,
                      void *arg) {
  static const struct route any = {0};
  struct run *r = calloc(1, sizeof *r);
  pthread_condattr_t attr;
  struct err e = {0};

  if (!r) {
    done(arg, -ENOMEM, "out of memory");
    return;
  }
  r->runs = s->runs;
  r->s = s;
  r->background = q->background;
  r->parallel = q->parallel ? q->parallel : s->conf.prestage_parallel;
  r->progress = progress;
  r->done = done;
  r->arg = arg;
  r->started_ns = clock_mono_ns();
  pthread_mutex_init(&r->mtx, NULL);
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&r->cond, &attr);
  pthread_condattr_destroy(&attr);
  r->ns_name = strdup(q->ns);
  r->pattern = strdup(q->pattern);
  if (!r->ns_name || !r->pattern) {
    free(r->ns_name);
    r->ns_name = strdup("");
    refuse(r, -ENOMEM, "out of memory");
  } else if (r->parallel > 64) {
    refuse(r, -EINVAL, "parallel is not in 1..64");
  } else if (*q->pattern && glob_check(q->pattern, &e) < 0) {
    refuse(r, e.code, e.text);
  } else {
    ns_find(s, r->ns_name, &any, found, r);
  }
}

int prestage_runs_new(struct prestage_runs **ret, struct service *s) {
  struct prestage_runs *runs = calloc(1, sizeof *runs);

  if (!runs)
    return -ENOMEM;
  runs->s = s;
  pthread_mutex_init(&runs->mtx, NULL);
  *ret = runs;
  return 0;
}

unsigned prestage_runs_stop(struct prestage_runs *runs) {
  pthread_mutex_lock(&runs->mtx);
  runs->stop = true;
  unsigned n = runs->n;
  pthread_mutex_unlock(&runs->mtx);
  return n;
}

void prestage_runs_free(struct prestage_runs **runs) {
  if (!*runs)
    return;
  pthread_mutex_destroy(&(*runs)->mtx);
  free(*runs);
  *runs = NULL;
}
