/* flight.c - one fetch however many want it: waiters for the same key share one flight and its result.
 *
 * Who joins first leads, and lands the flight when the work is done, whatever came of it. A waiter may leave earlier,
 * at its deadline, without disturbing the others. Flights are in sharded hash tables; their number is bounded by those
 * who lead (requests in work), not here. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/service/internal.h"

#define SHARDS 64u
#define BUCKETS 128u

struct flight {
  struct flight *next; /* in its bucket; under the shard's mtx */
  struct flight_waiter *waiters;
  struct hash128 hash;
  size_t key_len;
  uint8_t key[];
};

struct shard {
  pthread_mutex_t mtx;
  struct flight *bucket[BUCKETS];
  unsigned count;
};

struct flight_table {
  struct shard shard[SHARDS];
};

int flight_table_new(struct flight_table **ret) {
  struct flight_table *t = calloc(1, sizeof *t);

  if (!t)
    return -ENOMEM;
  for (unsigned i = 0; i < SHARDS; i++)
    pthread_mutex_init(&t->shard[i].mtx, NULL);
  *ret = t;
  return 0;
}

void flight_table_free(struct flight_table **t) {
  if (!*t)
    return;
  for (unsigned i = 0; i < SHARDS; i++)
    pthread_mutex_destroy(&(*t)->shard[i].mtx);
  free(*t);
  *t = NULL;
}

static struct shard *shard_of(struct flight_table *t, struct hash128 h) { return &t->shard[h.hi % SHARDS]; }

static struct flight **find(struct shard *sh, const void *key, size_t key_len, struct hash128 h) {
  struct flight **p = &sh->bucket[h.lo % BUCKETS];

  while (*p && !((*p)->hash.hi == h.hi && (*p)->hash.lo == h.lo && (*p)->key_len == key_len &&
                 memcmp((*p)->key, key, key_len) == 0))
    p = &(*p)->next;
  return p;
}

static void waiter_link(struct flight *f, struct flight_waiter *w) {
  w->flight = f;
  w->next = f->waiters;
  w->prev = &f->waiters;
  if (w->next)
    w->next->prev = &w->next;
  f->waiters = w;
}

static void waiter_unlink(struct flight_waiter *w) {
  *w->prev = w->next;
  if (w->next)
    w->next->prev = w->prev;
}

bool flight_join(struct flight_table *t, const void *key, size_t key_len, struct hash128 hash, struct flight_waiter *w,
                 struct flight **ret) {
  struct shard *sh = shard_of(t, hash);
  /* Made before the lock is taken; given back if somebody leads already. */
  struct flight *fresh = malloc(sizeof *fresh + key_len);
  bool lead = false;

  pthread_mutex_lock(&sh->mtx);
  struct flight **at = find(sh, key, key_len, hash);
  struct flight *f = *at;
  if (!f && fresh) {
    f = fresh;
    fresh = NULL;
    *f = (struct flight){.hash = hash, .key_len = key_len};
    memcpy(f->key, key, key_len);
    *at = f;
    sh->count++;
    lead = true;
  }
  if (f)
    waiter_link(f, w);
  pthread_mutex_unlock(&sh->mtx);
  free(fresh);
  if (!f) {
    w->done(w, &(struct flight_result){.code = -ENOMEM, .text = "out of memory"});
    return false;
  }
  *ret = f;
  return lead;
}

/* Calls every waiter of a list that no lock protects any more. A waiter may be gone once its `done` ran. */
static unsigned call_all(struct flight_waiter *list, const struct flight_result *r) {
  unsigned n = 0;

  while (list) {
    struct flight_waiter *w = list;
    list = w->next;
    w->done(w, r);
    n++;
  }
  return n;
}

void flight_land(struct flight_table *t, struct flight *f, const struct flight_result *r) {
  struct shard *sh = shard_of(t, f->hash);

  pthread_mutex_lock(&sh->mtx);
  struct flight **at = find(sh, f->key, f->key_len, f->hash);
  *at = f->next;
  sh->count--;
  struct flight_waiter *list = f->waiters;
  pthread_mutex_unlock(&sh->mtx);
  free(f);
  call_all(list, r);
}

unsigned flight_expire(struct flight_table *t, int64_t now_ns) {
  static const struct flight_result late = {.code = -ETIMEDOUT, .text = "deadline passed while waiting for the origin"};
  unsigned n = 0;

  for (unsigned i = 0; i < SHARDS; i++) {
    struct shard *sh = &t->shard[i];
    struct flight_waiter *expired = NULL;

    pthread_mutex_lock(&sh->mtx);
    for (unsigned b = 0; b < BUCKETS && sh->count; b++)
      for (struct flight *f = sh->bucket[b]; f; f = f->next)
        for (struct flight_waiter *w = f->waiters, *next; w; w = next) {
          next = w->next;
          if (w->deadline_ns <= now_ns) {
            waiter_unlink(w);
            w->next = expired;
            expired = w;
          }
        }
    pthread_mutex_unlock(&sh->mtx);
    n += call_all(expired, &late);
  }
  return n;
}

unsigned flight_count(struct flight_table *t) {
  unsigned n = 0;

  for (unsigned i = 0; i < SHARDS; i++) {
    pthread_mutex_lock(&t->shard[i].mtx);
    n += t->shard[i].count;
    pthread_mutex_unlock(&t->shard[i].mtx);
  }
  return n;
}
