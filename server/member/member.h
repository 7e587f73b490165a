/* member.h - who belongs to the cluster, behind one interface: a static list now; DNS and etcd later.
 *
 * A source publishes rings, each newer than the last; readers take a reference to the current one and plan with it. */
#ifndef FB_MEMBER_MEMBER_H
#define FB_MEMBER_MEMBER_H

#include <stdint.h>

#include "common/err.h"
#include "common/ring.h"

struct member;
struct member_ops {
  const char *kind;
  struct ring *(*current)(struct member *m);
  void (*free)(struct member *m);
};
struct member {
  const struct member_ops *ops; /* first member of every implementation */
};

/* A reference to the ring in force (ring_unref it). Never NULL, never blocks. */
static inline struct ring *member_ring(struct member *m) { return m->ops->current(m); }
static inline void member_free(struct member **m) {
  if (*m)
    (*m)->ops->free(*m);
  *m = NULL;
}

/* static.c: the list of the configuration, epoch 1 for ever. Errors as ring_new's. */
int member_static_new(struct member **ret, const struct ring_member *members, unsigned n, uint32_t slots,
                      struct err *e);

#endif
