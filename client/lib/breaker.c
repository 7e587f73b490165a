/* breaker.c - the circuit breaker's transitions; the diagram is in breaker.h.
 *
 * What the diagram leaves out: a late answer of a request that was sent before the breaker opened closes it (the peer
 * lives), a late failure of one changes nothing (it was counted by opening). A probe whose outcome is never told,
 * because it was cancelled, blocks nobody: after another pause the next one may go. */
#include "client/lib/breaker.h"

/* The pause after the `opened`-th opening in a row, with jitter. */
static int64_t pause_ns(const struct breaker_conf *c, uint32_t opened, uint64_t random) {
  int64_t pause = c->pause_base_ns;

  for (uint32_t i = 1; i < opened && pause < c->pause_max_ns; i++)
    pause = pause > c->pause_max_ns / 2 ? c->pause_max_ns : pause * 2;
  if (pause > c->pause_max_ns)
    pause = c->pause_max_ns;
  /* pause * [0.75, 1.25), by the upper half of a product with 32 random bits */
  uint64_t span = (uint64_t)pause / 2;
  return pause - pause / 4 + (int64_t)(((unsigned __int128)span * (random >> 32)) >> 32);
}

bool breaker_allow(struct breaker *b, const struct breaker_conf *c, int64_t now_ns) {
  switch (b->state) {
  case BREAKER_CLOSED:
    return true;
  case BREAKER_OPEN:
  case BREAKER_HALF_OPEN:
    if (now_ns < b->retry_at_ns)
      return false;
    b->state = BREAKER_HALF_OPEN;
    b->retry_at_ns = now_ns + pause_ns(c, b->opened, UINT64_C(1) << 63);
    return true;
  }
  return false;
}

void breaker_success(struct breaker *b) { *b = (struct breaker){.state = BREAKER_CLOSED}; }

void breaker_failure(struct breaker *b, const struct breaker_conf *c, int64_t now_ns, uint64_t random) {
  if (b->failures < UINT32_MAX)
    b->failures++;
  if (b->state == BREAKER_OPEN || (b->state == BREAKER_CLOSED && b->failures < c->failure_limit))
    return;
  b->state = BREAKER_OPEN;
  if (b->opened < UINT32_MAX)
    b->opened++;
  b->retry_at_ns = now_ns + pause_ns(c, b->opened, random);
}
