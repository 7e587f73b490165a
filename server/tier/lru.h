/* lru.h - the eviction order "least recently used", as a list that knows nothing of blocks, locks or bytes.
 *
 * Time is a number that comes with each event (the RAM tier counts its commits: no clock is read on a hit, and equal
 * runs evict equally), so that the oldest of several lists can be told by comparing lru_age. Not thread-safe. */
#ifndef FB_TIER_LRU_H
#define FB_TIER_LRU_H

#include <stddef.h>
#include <stdint.h>

#define LRU_EMPTY UINT64_MAX

struct lru_node {
  struct lru_node *newer, *older;
  uint64_t used; /* time of the last use */
};

struct lru {
  struct lru_node *newest, *oldest;
};

static inline void lru_remove(struct lru *l, struct lru_node *n) {
  if (n->newer)
    n->newer->older = n->older;
  else
    l->newest = n->older;
  if (n->older)
    n->older->newer = n->newer;
  else
    l->oldest = n->newer;
}

static inline void lru_insert(struct lru *l, struct lru_node *n, uint64_t now) {
  n->used = now;
  n->newer = NULL;
  n->older = l->newest;
  if (n->older)
    n->older->newer = n;
  else
    l->oldest = n;
  l->newest = n;
}

/* An entry that was used less than `slack` ago may stay where it is. */
static inline void lru_use(struct lru *l, struct lru_node *n, uint64_t now, uint64_t slack) {
  if (now - n->used < slack)
    return;
  lru_remove(l, n);
  lru_insert(l, n, now);
}

/* When the list's oldest entry was used last; LRU_EMPTY if there is none. */
static inline uint64_t lru_age(const struct lru *l) { return l->oldest ? l->oldest->used : LRU_EMPTY; }

#endif
