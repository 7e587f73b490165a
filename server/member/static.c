/* static.c - membership that is the configuration's list: every peer has the same list, so every peer has the same
 * ring. */
#include <errno.h>
#include <stdlib.h>

#include "server/member/member.h"

struct member_static {
  struct member base;
  struct ring *ring; /* immutable; our reference */
};

static struct ring *static_current(struct member *m) { return ring_ref(((struct member_static *)m)->ring); }

static void static_free(struct member *m) {
  struct member_static *s = (struct member_static *)m;

  ring_unref(&s->ring);
  free(s);
}

static const struct member_ops static_ops = {.kind = "static", .current = static_current, .free = static_free};

int member_static_new(struct member **ret, const struct ring_member *members, unsigned n, uint32_t slots,
                      struct err *e) {
  struct member_static *s = calloc(1, sizeof *s);

  if (!s)
    return err_set(e, -ENOMEM, "out of memory");
  s->base.ops = &static_ops;
  int r = ring_new(&s->ring, members, n, slots, 1, e);
  if (r < 0) {
    free(s);
    return r;
  }
  *ret = &s->base;
  return 0;
}
