/* ram_ns.c - the RAM tier's map of namespaces; see ram_ns.h. */
#include "server/tier/ram_ns.h"

#include <assert.h>
#include <stdlib.h>

#include "common/hash.h"

void ram_ns_init(struct ram_ns_map *m, unsigned shards) {
  pthread_mutex_init(&m->mtx, NULL);
  m->shards = shards;
}

void ram_ns_fini(struct ram_ns_map *m) {
  for (unsigned i = 0; i < RAM_NS_BUCKETS; i++)
    assert(!m->buckets[i]);
  pthread_mutex_destroy(&m->mtx);
}

static struct ram_ns **find_locked(struct ram_ns_map *m, uint64_t id) {
  struct ram_ns **at = &m->buckets[hash_mix64(id) % RAM_NS_BUCKETS];

  while (*at && (*at)->id != id)
    at = &(*at)->next;
  return at;
}

struct ram_ns *ram_ns_find(struct ram_ns_map *m, uint64_t id) {
  pthread_mutex_lock(&m->mtx);
  struct ram_ns *ns = *find_locked(m, id);
  if (ns)
    ns->refs++;
  pthread_mutex_unlock(&m->mtx);
  return ns;
}

struct ram_ns *ram_ns_make(struct ram_ns_map *m, uint64_t id, bool *ret_made) {
  pthread_mutex_lock(&m->mtx);
  struct ram_ns **at = find_locked(m, id), *ns = *at;
  bool made = !ns;
  if (!ns) {
    ns = calloc(1, ram_ns_cost(m));
    if (ns) {
      ns->id = id;
      *at = ns;
    }
  }
  if (ns) {
    ns->refs++;
    *ret_made = made;
  }
  pthread_mutex_unlock(&m->mtx);
  return ns;
}

bool ram_ns_unref(struct ram_ns_map *m, struct ram_ns *ns) {
  pthread_mutex_lock(&m->mtx);
  bool last = --ns->refs == 0;
  if (last) {
    *find_locked(m, ns->id) = ns->next;
    free(ns);
  }
  pthread_mutex_unlock(&m->mtx);
  return last;
}
