/* invalidate.c - makes all peers forget what a pattern matches. One peer tells the others; it says whom it missed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/lib/request.h"
#include "common/glob.h"

struct forgotten {
  uint64_t blocks, bytes;
  size_t missed;
  char names[200];
};

static int take(struct batch *b, struct request *q, struct err *e) {
  const Forebay__V1__InvalidateReply *m = (const Forebay__V1__InvalidateReply *)q->reply;
  struct forgotten *f = b->arg;
  size_t len = 0;

  (void)e;
  *f = (struct forgotten){.blocks = m->blocks, .bytes = m->bytes, .missed = m->n_unreachable};
  for (size_t i = 0; i < m->n_unreachable && len < sizeof f->names; i++)
    len += (size_t)snprintf(f->names + len, sizeof f->names - len, "%s%s", i ? ", " : "", m->unreachable[i]);
  return 0;
}

int fb_invalidate(fb_client *c, const char *ns, const char *pattern, uint64_t *ret_blocks, uint64_t *ret_bytes,
                  struct fb_error *err) {
  Forebay__V1__InvalidateRequest m = FOREBAY__V1__INVALIDATE_REQUEST__INIT;
  struct request q = {.method = "/forebay.v1.Cache/Invalidate",
                      .message = &m.base,
                      .reply_type = &forebay__v1__invalidate_reply__descriptor};
  struct forgotten f = {0};
  struct call k;

  int r = call_begin(&k, c, CALL_NS, ns, NULL);
  if (r == 0 && pattern && *pattern)
    r = glob_check(pattern, &k.e);
  if (r == 0) {
    m.ns = (char *)(uintptr_t)ns;
    m.pattern = (char *)(uintptr_t)(pattern ? pattern : "");
    q.extra_ns = c->o.peer_timeout_ms * NS_PER_MS; /* the peer waits for its peers as long as we do for it */
    r = request_run(&k, &q, take, &f);
  }
  if (r == 0 && f.missed)
    r = err_set(
        &k.e, -FB_EPEERDOWN,
        "%llu blocks are forgotten, but %zu peer%s could not be told (%s): they may serve old bytes until their "
        "attributes expire",
        (unsigned long long)f.blocks, f.missed, f.missed == 1 ? "" : "s", f.names);
  if (r == 0 && ret_blocks)
    *ret_blocks = f.blocks;
  if (r == 0 && ret_bytes)
    *ret_bytes = f.bytes;
  return (int)call_end(&k, r, err);
}
