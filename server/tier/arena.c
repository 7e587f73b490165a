/* arena.c - two-level segregated free lists over one reserved stretch of address space; see arena.h. */
#include "server/tier/arena.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif
#ifdef ARENA_ASAN /* so that a use after the last release is reported although the memory is ours */
#include <sanitizer/asan_interface.h>
#define poison(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define unpoison(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define poison(p, n) ((void)(p), (void)(n))
#define unpoison(p, n) ((void)(p), (void)(n))
#endif

#define HUGE (UINT64_C(2) << 20)
#define SL_BITS 5u /* 32 lists per power of two */
#define SL (1u << SL_BITS)
#define FL 40u        /* powers of two, in grains: far beyond any address space */
#define FIT_TRIES 16u /* chunks of the exact class to look at before taking a larger one */
#define ARENA_MAX (UINT64_C(1) << 44)

/* Chunks tile [base, end). Free ones are never neighbours. */
struct chunk {
  uint64_t size_free;  /* bytes with this header, a multiple of the grain; bit 0: free */
  struct chunk *prev;  /* the one that ends where this begins; NULL for the first */
  struct chunk *fnext; /* from here on: only while free */
  struct chunk *fprev;
};

struct arena {
  pthread_mutex_t mtx;
  char *map; /* what was reserved; the rest is under mtx */
  uint64_t map_bytes;
  char *base, *end; /* managed now; base is huge-page aligned */
  uint64_t want;    /* size to be; smaller than end - base while something allocated is in the way of shrinking */
  uint64_t reserve; /* from base */
  char *top;        /* the farthest end ever */
  struct chunk *last;
  uint64_t allocated;
  uint64_t fl_map; /* bit f: sl_map[f] != 0 */
  uint32_t sl_map[FL];
  struct chunk *heads[FL][SL];
};

static uint64_t chunk_size(const struct chunk *c) { return c->size_free & ~UINT64_C(1); }
static bool chunk_is_free(const struct chunk *c) { return c->size_free & 1; }
static void *chunk_mem(struct chunk *c) { return (char *)c + ARENA_CHUNK_HEADER; }
static struct chunk *chunk_of(void *p) { return (struct chunk *)((char *)p - ARENA_CHUNK_HEADER); }

static struct chunk *chunk_next(const struct arena *a, struct chunk *c) {
  char *n = (char *)c + chunk_size(c);
  return n == a->end ? NULL : (struct chunk *)n;
}

/* The list of chunks of `size` bytes. */
static void class_of(uint64_t size, unsigned *fl, unsigned *sl) {
  uint64_t g = size / ARENA_GRAIN;
  if (g < SL) {
    *fl = 0;
    *sl = (unsigned)g;
  } else {
    unsigned top = 63 - (unsigned)__builtin_clzll(g);
    *fl = top - SL_BITS + 1;
    *sl = (unsigned)(g >> (top - SL_BITS)) - SL;
  }
}

static void free_insert(struct arena *a, struct chunk *c) {
  unsigned fl, sl;

  c->size_free |= 1;
  class_of(chunk_size(c), &fl, &sl);
  c->fprev = NULL;
  c->fnext = a->heads[fl][sl];
  if (c->fnext)
    c->fnext->fprev = c;
  a->heads[fl][sl] = c;
  a->sl_map[fl] |= 1u << sl;
  a->fl_map |= UINT64_C(1) << fl;
}

static void free_remove(struct arena *a, struct chunk *c) {
  unsigned fl, sl;

  class_of(chunk_size(c), &fl, &sl);
  if (c->fnext)
    c->fnext->fprev = c->fprev;
  if (c->fprev) {
    c->fprev->fnext = c->fnext;
  } else {
    a->heads[fl][sl] = c->fnext;
    if (!c->fnext) {
      a->sl_map[fl] &= ~(1u << sl);
      if (!a->sl_map[fl])
        a->fl_map &= ~(UINT64_C(1) << fl);
    }
  }
  c->size_free &= ~UINT64_C(1);
}

/* A free chunk of at least `size` bytes. Its own class is looked into first: most blocks have one and the same size,
 * and the one that was just evicted fits exactly, though its class also holds slightly smaller ones. */
static struct chunk *free_find(struct arena *a, uint64_t size) {
  unsigned fl, sl, tries = 0;

  class_of(size, &fl, &sl);
  for (struct chunk *c = a->heads[fl][sl]; c && tries < FIT_TRIES; c = c->fnext, tries++)
    if (chunk_size(c) >= size)
      return c;
  uint32_t sls = sl + 1 < SL ? a->sl_map[fl] & (~UINT32_C(0) << (sl + 1)) : 0;
  if (!sls) {
    uint64_t fls = a->fl_map & (~UINT64_C(0) << (fl + 1));
    if (!fls)
      return NULL;
    fl = (unsigned)__builtin_ctzll(fls);
    sls = a->sl_map[fl];
  }
  return a->heads[fl][__builtin_ctz(sls)];
}

/* Links a new chunk of `size` bytes at `at`, after `prev`; says so to the chunk behind it. */
static struct chunk *chunk_put(struct arena *a, char *at, uint64_t size, struct chunk *prev) {
  struct chunk *c = (struct chunk *)at;

  unpoison(c, sizeof *c);
  c->size_free = size;
  c->prev = prev;
  struct chunk *next = chunk_next(a, c);
  if (next)
    next->prev = c;
  else
    a->last = c;
  return c;
}

void *arena_alloc(struct arena *a, uint64_t size) {
  uint64_t cost = arena_cost(size);

  if (size > ARENA_MAX)
    return NULL;
  pthread_mutex_lock(&a->mtx);
  struct chunk *c = free_find(a, cost);
  if (!c) {
    pthread_mutex_unlock(&a->mtx);
    return NULL;
  }
  uint64_t rest = chunk_size(c) - cost;
  free_remove(a, c);
  c->size_free = cost;
  if (rest)
    free_insert(a, chunk_put(a, (char *)c + cost, rest, c));
  a->allocated += cost;
  unpoison(c, ARENA_CHUNK_HEADER + size);
  memset(chunk_mem(c), 0, size < ARENA_ZEROED ? size : ARENA_ZEROED);
  pthread_mutex_unlock(&a->mtx);
  return chunk_mem(c);
}

/* Cuts the free chunk at the end so that the arena has its wanted size, or as near to it as that chunk allows. */
static void trim_locked(struct arena *a) {
  struct chunk *c = a->last;
  char *to = a->base + a->want;

  if (a->end <= to || !c || !chunk_is_free(c))
    return;
  free_remove(a, c);
  char *old_end = a->end;
  if ((char *)c >= to) { /* all of it goes */
    a->last = c->prev;
    a->end = (char *)c;
  } else {
    a->end = to;
    c->size_free = (uint64_t)(to - (char *)c);
    free_insert(a, c);
  }
  uintptr_t first = ((uintptr_t)a->end + 4095) & ~(uintptr_t)4095;
  if (first < (uintptr_t)old_end)
    madvise((void *)first, (uintptr_t)old_end - first, MADV_DONTNEED);
}

void arena_release(struct arena *a, void *p) {
  struct chunk *c = chunk_of(p);

  pthread_mutex_lock(&a->mtx);
  assert(!chunk_is_free(c));
  uint64_t size = chunk_size(c);
  a->allocated -= size;
  poison(chunk_mem(c), size - ARENA_CHUNK_HEADER);
  struct chunk *next = chunk_next(a, c), *prev = c->prev;
  if (next && chunk_is_free(next)) {
    free_remove(a, next);
    size += chunk_size(next);
    poison(next, sizeof *next);
  }
  if (prev && chunk_is_free(prev)) {
    free_remove(a, prev);
    size += chunk_size(prev);
    poison(c, sizeof *c);
    c = prev;
  }
  free_insert(a, chunk_put(a, (char *)c, size, c->prev));
  trim_locked(a);
  pthread_mutex_unlock(&a->mtx);
}

static bool may_join(struct chunk *c, bool (*can_go)(void *p)) {
  return c && (chunk_is_free(c) || can_go(chunk_mem(c)));
}

bool arena_span(struct arena *a, void *p, uint64_t size, bool (*can_go)(void *p), void (*take)(void *arg, void *p),
                void *arg) {
  struct chunk *start = chunk_of(p), *first = start, *end;
  uint64_t cost = arena_cost(size), have = chunk_size(start);

  pthread_mutex_lock(&a->mtx);
  for (end = chunk_next(a, start); have < cost && may_join(end, can_go); end = chunk_next(a, end))
    have += chunk_size(end);
  while (have < cost && may_join(first->prev, can_go)) {
    first = first->prev;
    have += chunk_size(first);
  }
  bool found = have >= cost;
  if (found && take)
    for (struct chunk *c = first; c != end; c = chunk_next(a, c))
      if (c != start && !chunk_is_free(c))
        take(arg, chunk_mem(c));
  pthread_mutex_unlock(&a->mtx);
  return found;
}

int arena_resize(struct arena *a, uint64_t bytes) {
  int r = 0;

  bytes &= ~(uint64_t)(ARENA_GRAIN - 1);
  if (!bytes)
    return -EINVAL;
  pthread_mutex_lock(&a->mtx);
  uint64_t now = (uint64_t)(a->end - a->base);
  if (bytes > a->reserve || (bytes > now && mprotect(a->base, bytes, PROT_READ | PROT_WRITE) < 0)) {
    r = -ENOMEM;
  } else {
    a->want = bytes;
    if (bytes > now) {
      char *at = a->end;
      a->end = a->base + bytes;
      if (a->top < a->end)
        a->top = a->end;
      if (a->last && chunk_is_free(a->last)) {
        free_remove(a, a->last);
        free_insert(a, chunk_put(a, (char *)a->last, chunk_size(a->last) + (bytes - now), a->last->prev));
      } else {
        free_insert(a, chunk_put(a, at, bytes - now, a->last));
      }
    } else {
      trim_locked(a);
    }
  }
  pthread_mutex_unlock(&a->mtx);
  return r;
}

bool arena_trim(struct arena *a, void (*take)(void *arg, void *p), void *arg) {
  pthread_mutex_lock(&a->mtx);
  trim_locked(a);
  bool done = a->end <= a->base + a->want;
  if (!done && !chunk_is_free(a->last))
    take(arg, chunk_mem(a->last));
  pthread_mutex_unlock(&a->mtx);
  return done;
}

int arena_new(struct arena **ret, uint64_t bytes, uint64_t reserve) {
  if (!bytes)
    return -EINVAL;
  if (reserve < bytes)
    reserve = bytes;
  if (reserve > ARENA_MAX)
    return -ENOMEM;
  struct arena *a = calloc(1, sizeof *a);
  if (!a)
    return -ENOMEM;
  pthread_mutex_init(&a->mtx, NULL);
  reserve = (reserve + HUGE - 1) & ~(HUGE - 1);
  a->map_bytes = reserve + HUGE;
  /* Address space only: inaccessible memory is not charged to the machine's commit limit. */
  a->map = mmap(NULL, a->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (a->map == MAP_FAILED) {
    a->map = NULL;
    arena_free(&a);
    return -ENOMEM;
  }
  /* Huge pages where the kernel has them: a first touch costs a third. No part of the cache in core dumps: it is as
   * large as the machine and other people's data. Both are wishes. */
  madvise(a->map, a->map_bytes, MADV_HUGEPAGE);
  madvise(a->map, a->map_bytes, MADV_DONTDUMP);
  a->base = a->end = (char *)(((uintptr_t)a->map + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
  a->reserve = reserve;
  int r = arena_resize(a, bytes);
  if (r < 0) {
    arena_free(&a);
    return r;
  }
  *ret = a;
  return 0;
}

void arena_free(struct arena **a) {
  if (!*a)
    return;
  assert((*a)->allocated == 0);
  if ((*a)->map) {
    if ((*a)->top)
      unpoison((*a)->base, (size_t)((*a)->top - (*a)->base));
    munmap((*a)->map, (*a)->map_bytes);
  }
  pthread_mutex_destroy(&(*a)->mtx);
  free(*a);
  *a = NULL;
}
