/* attr.c - what a key is now: its size, time and version, asked of the origin at most once per attr_ttl_ms and key.
 *
 * A version never changes, so attributes that match the etag a reader asks for are good however old they are; only the
 * question "which version is current" ages. Errors of the origin are repeated for error_ttl_ms (at most 1 s). The table
 * is bounded: a full bucket group gives up its oldest entry. Values that live in RAM only keep their attributes in the
 * tier, as a block of their own.
 *
 * An answer of the origin counts from the moment it was asked. What was asked before something was forgotten or learnt
 * (an invalidate, a put, a change that a reader met) may be older than that: such an answer is for those who asked
 * before, is not kept, and nobody joins the look-up any more. Each shard has a generation that says so; it is raised
 * for all keys of the shard, which costs the others one more look-up at most. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/glob.h"
#include "server/service/internal.h"
#include "server/service/parts.h"

#define SHARDS 64u

struct entry {
  struct entry *next;
  uint64_t ns_id;
  int64_t learned_ns;
  struct attr attr;
  int code; /* 0, or the origin's error */
  uint32_t hash;
  uint16_t key_len;
  char key[];
};

struct shard {
  pthread_mutex_t mtx;
  unsigned n, max, n_buckets;
  unsigned hand;       /* bucket from which the next one is taken when full */
  uint64_t generation; /* look-ups of an older one are not kept */
  struct entry **bucket;
};

struct attr_table {
  struct shard shard[SHARDS];
};

int attr_table_new(struct attr_table **ret, unsigned entries) {
  struct attr_table *t = calloc(1, sizeof *t);
  unsigned max = entries / SHARDS + 1, buckets = 16;

  if (!t)
    return -ENOMEM;
  while (buckets < max)
    buckets *= 2;
  for (unsigned i = 0; i < SHARDS; i++) {
    struct shard *sh = &t->shard[i];
    pthread_mutex_init(&sh->mtx, NULL);
    sh->max = max;
    sh->n_buckets = buckets;
    if (!(sh->bucket = calloc(buckets, sizeof *sh->bucket))) {
      attr_table_free(&t);
      return -ENOMEM;
    }
  }
  *ret = t;
  return 0;
}

void attr_table_free(struct attr_table **tp) {
  struct attr_table *t = *tp;

  if (!t)
    return;
  for (unsigned i = 0; i < SHARDS; i++) {
    struct shard *sh = &t->shard[i];
    for (unsigned b = 0; sh->bucket && b < sh->n_buckets; b++)
      for (struct entry *e = sh->bucket[b], *next; e; e = next) {
        next = e->next;
        free(e);
      }
    free(sh->bucket);
    if (sh->n_buckets)
      pthread_mutex_destroy(&sh->mtx);
  }
  free(t);
  *tp = NULL;
}

static uint64_t hash_of(uint64_t ns_id, const char *key, size_t len) {
  return hash_mix64(hash_bytes64(key, len) ^ ns_id);
}

static struct entry **find(struct shard *sh, uint64_t h, uint64_t ns_id, const char *key, size_t len) {
  struct entry **p = &sh->bucket[(uint32_t)h & (sh->n_buckets - 1)];

  while (*p && !((*p)->hash == (uint32_t)h && (*p)->ns_id == ns_id && (*p)->key_len == len &&
                 memcmp((*p)->key, key, len) == 0))
    p = &(*p)->next;
  return p;
}

/* Makes room for one: the next bucket that holds anything gives its last (oldest) entry. */
static void evict_one(struct shard *sh) {
  for (unsigned i = 0; i < sh->n_buckets; i++) {
    struct entry **p = &sh->bucket[sh->hand++ & (sh->n_buckets - 1)];
    if (!*p)
      continue;
    while ((*p)->next)
      p = &(*p)->next;
    free(*p);
    *p = NULL;
    sh->n--;
    return;
  }
}

static struct shard *shard_of(struct service *s, uint64_t h) { return &s->attrs->shard[(h >> 32) % SHARDS]; }

/* NULL when out of memory: nothing is kept, which is not wrong. */
static struct entry *entry_new(uint64_t h, uint64_t ns_id, const char *key, const struct attr *a, int code,
                               int64_t asked_ns) {
  size_t len = strlen(key);
  struct entry *e = malloc(sizeof *e + len);

  if (!e)
    return NULL;
  *e = (struct entry){
      .ns_id = ns_id, .learned_ns = asked_ns, .code = code, .hash = (uint32_t)h, .key_len = (uint16_t)len};
  if (a)
    e->attr = *a;
  memcpy(e->key, key, len);
  return e;
}

/* Under mtx. The caller frees what comes out, once it is not locked any more. */
static struct entry *take_out_locked(struct shard *sh, uint64_t h, uint64_t ns_id, const char *key) {
  struct entry **at = find(sh, h, ns_id, key, strlen(key)), *e = *at;

  if (e) {
    *at = e->next;
    sh->n--;
  }
  return e;
}

/* Under mtx. The key is not there. */
static void put_in_locked(struct shard *sh, struct entry *e) {
  if (sh->n >= sh->max)
    evict_one(sh);
  struct entry **head = &sh->bucket[e->hash & (sh->n_buckets - 1)];
  e->next = *head;
  *head = e;
  sh->n++;
}

static void replace(struct service *s, const struct ns *ns, const char *key, const struct attr *a) {
  uint64_t h = hash_of(ns->r.id, key, strlen(key));
  struct shard *sh = shard_of(s, h);
  struct entry *fresh = a ? entry_new(h, ns->r.id, key, a, 0, clock_mono_ns()) : NULL;

  pthread_mutex_lock(&sh->mtx);
  struct entry *old = take_out_locked(sh, h, ns->r.id, key);
  sh->generation++;
  if (fresh)
    put_in_locked(sh, fresh);
  pthread_mutex_unlock(&sh->mtx);
  free(old);
}

void attr_learn(struct service *s, const struct ns *ns, const char *key, const struct attr *a) {
  replace(s, ns, key, a);
}

void attr_forget(struct service *s, const struct ns *ns, const char *key) { replace(s, ns, key, NULL); }

uint64_t attr_forget_matching(struct service *s, const struct ns *ns, const char *pattern) {
  uint64_t n = 0;

  for (unsigned i = 0; i < SHARDS; i++) {
    struct shard *sh = &s->attrs->shard[i];
    pthread_mutex_lock(&sh->mtx);
    sh->generation++;
    for (unsigned b = 0; b < sh->n_buckets; b++)
      for (struct entry **p = &sh->bucket[b]; *p;) {
        char key[HASH_KEY_MAX + 1];
        struct entry *e = *p;
        memcpy(key, e->key, e->key_len);
        key[e->key_len] = '\0';
        if (e->ns_id == ns->r.id && (!pattern || !*pattern || glob_match(pattern, key))) {
          *p = e->next;
          free(e);
          sh->n--;
          n++;
        } else {
          p = &e->next;
        }
      }
    pthread_mutex_unlock(&sh->mtx);
  }
  return n;
}

/* What is known and still good for the question. True: *code and, if that is 0, *a are the answer. False: the origin
 * must be asked, *generation says as of when. */
static bool known(struct service *s, const struct ns *ns, const char *key, uint64_t etag, bool fresh, struct attr *a,
                  int *code, uint64_t *generation) {
  size_t len = strlen(key);
  uint64_t h = hash_of(ns->r.id, key, len);
  struct shard *sh = shard_of(s, h);
  bool good = false;

  pthread_mutex_lock(&sh->mtx);
  struct entry *e = *find(sh, h, ns->r.id, key, len);
  if (e) {
    int64_t age = clock_mono_ns() - e->learned_ns;
    int64_t ttl = (int64_t)(e->code ? atomic_load(&s->error_ttl_ms) : ns->r.attr_ttl_ms) * NS_PER_MS;
    if (etag && !e->code)
      good = e->attr.etag == etag;
    else
      good = !fresh && age < ttl;
    if (good) {
      *a = e->attr;
      *code = e->code;
    }
  }
  *generation = sh->generation;
  pthread_mutex_unlock(&sh->mtx);
  return good;
}

int attr_known(struct service *s, const struct ns *ns, const char *key, uint64_t etag, struct attr *ret) {
  uint64_t generation;
  int code;

  if (!ns_has_origin(ns))
    return attr_of_ram(s, ns, key, ret);
  return known(s, ns, key, etag, false, ret, &code, &generation) ? code : -ENOENT;
}

#define FLIGHT_HEAD 17u /* namespace id, generation, fresh; then the key */

/* ---- asking the origin ------------------------------------------------------------------------------------------ */

struct stat_job {
  struct pool_job job; /* first */
  struct service *s;
  struct ns *ns; /* reference */
  struct flight *flight;
  bool fresh;
  char key[];
};

/* The origin is about to be asked. Who wants to know what is true from now on (`fresh`) does not join this look-up: for
 * that, too, the generation is raised. */
static uint64_t ask_begins(struct shard *sh, bool fresh) {
  pthread_mutex_lock(&sh->mtx);
  sh->generation += fresh;
  uint64_t generation = sh->generation;
  pthread_mutex_unlock(&sh->mtx);
  return generation;
}

static int ask(struct stat_job *j, struct attr *ret, struct err *e) {
  char path[HASH_VERSION_MAX + HASH_KEY_MAX + 2];
  struct origin_stat st;
  struct origin *o;
  int r = ns_origin(j->s, j->ns, &o, e);

  if (r == 0) {
    metric_add(j->s, M_origin_stats, 1);
    r = origin_stat(o, ns_path(j->ns, j->key, path), &st, e);
  }
  if (r == 0)
    *ret = (struct attr){.size = st.size, .mtime_ns = st.mtime_ns, .etag = st.etag, .directory = st.directory};
  else
    metric_add(j->s, M_origin_errors, 1);
  return r;
}

static void stat_run(struct pool_job *job) {
  struct stat_job *j = (struct stat_job *)job;
  struct service *s = j->s;
  uint64_t h = hash_of(j->ns->r.id, j->key, strlen(j->key));
  struct shard *sh = shard_of(s, h);
  struct err e = {0};
  struct attr a = {0};
  int r;

  if (atomic_load(&s->stopping)) { /* nobody waits any more: the queue need not go through a slow origin */
    r = err_set(&e, -ECANCELED, "peer is stopping");
  } else {
    uint64_t generation = ask_begins(sh, j->fresh);
    int64_t asked_ns = clock_mono_ns();
    r = ask(j, &a, &e);
    struct entry *fresh = entry_new(h, j->ns->r.id, j->key, &a, r, asked_ns), *over = fresh;
    pthread_mutex_lock(&sh->mtx);
    if (fresh && sh->generation == generation) {
      over = take_out_locked(sh, h, j->ns->r.id, j->key);
      put_in_locked(sh, fresh);
    }
    pthread_mutex_unlock(&sh->mtx);
    free(over);
  }
  flight_land(s->attr_flights, j->flight,
              &(struct flight_result){.code = r, .text = r ? e.text : "", .value = r ? NULL : &a});
  ns_unref(&j->ns);
  free(j);
}

struct attr_wait {
  struct flight_waiter w; /* first */
  uint64_t etag;
  attr_done_fn done;
  void *arg;
};

static void answer(attr_done_fn done, void *arg, uint64_t etag, int code, const char *text, const struct attr *a) {
  if (code == 0 && etag && a->etag != etag)
    done(arg, -FB_ECHANGED, "another version is current now", NULL);
  else
    done(arg, code, text, code ? NULL : a);
}

static void attr_landed(struct flight_waiter *w, const struct flight_result *r) {
  struct attr_wait *aw = (struct attr_wait *)w;

  answer(aw->done, aw->arg, aw->etag, r->code, r->text, r->value);
  free(aw);
}

/* Values that live in RAM only: their attributes are a block of the tier. */
int attr_of_ram(struct service *s, const struct ns *ns, const char *key, struct attr *ret) {
  uint8_t buf[TIER_KEY_MAX];
  struct block_id id;
  struct tier_view v;

  block_id_make(&id, buf, ns, key, 0, BLOCK_META);
  int r = tier_get(s->tier, &id, &v);
  if (r < 0)
    return r;
  *ret = (struct attr){.size = get_le64(v.data),
                       .etag = get_le64((const uint8_t *)v.data + 8),
                       .mtime_ns = (int64_t)get_le64((const uint8_t *)v.data + 16)};
  tier_release(s->tier, &v);
  return 0;
}

void attr_get(struct service *s, struct ns *ns, const char *key, uint64_t etag, bool fresh, int64_t deadline_ns,
              attr_done_fn done, void *arg) {
  uint8_t fkey[FLIGHT_HEAD + HASH_KEY_MAX];
  size_t len = strlen(key);
  uint64_t generation;
  struct flight *f;
  struct attr a;
  int code;

  if (!ns_has_origin(ns)) {
    code = attr_of_ram(s, ns, key, &a);
    answer(done, arg, etag, code, code ? "no such value" : "", &a);
    return;
  }
  if (known(s, ns, key, etag, fresh, &a, &code, &generation)) {
    answer(done, arg, etag, code, code ? err_describe(code) : "", &a);
    return;
  }
  struct attr_wait *w = malloc(sizeof *w);
  struct stat_job *j = malloc(sizeof *j + len + 1);
  if (!w || !j) {
    free(w);
    free(j);
    done(arg, -ENOMEM, "out of memory", NULL);
    return;
  }
  *w = (struct attr_wait){
      .w = {.done = attr_landed, .deadline_ns = deadline_ns}, .etag = etag, .done = done, .arg = arg};
  put_le64(fkey, ns->r.id);
  put_le64(fkey + 8, generation);
  fkey[16] = fresh;
  memcpy(fkey + FLIGHT_HEAD, key, len);
  len += FLIGHT_HEAD;
  if (!flight_join(s->attr_flights, fkey, len, hash_bytes128(fkey, len), &w->w, &f)) {
    free(j);
    return;
  }
  *j = (struct stat_job){.job = {.fn = stat_run}, .s = s, .ns = ns_ref(ns), .flight = f, .fresh = fresh};
  memcpy(j->key, key, len - FLIGHT_HEAD + 1);
  int r = pool_submit(s->origin_pool, &j->job);
  if (r < 0) {
    metric_add(s, M_fill_refused, 1);
    ns_unref(&j->ns);
    free(j);
    flight_land(s->attr_flights, f,
                &(struct flight_result){.code = r, .text = "too many origin requests wait (origin.queue): try again"});
  }
}
