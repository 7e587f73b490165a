/* breaker.h - the decision whether to send to a peer at all, as a pure state machine.
 *
 *            failures >= limit                 pause over: one probe may go
 *   CLOSED ---------------------> OPEN ---------------------------------> HALF_OPEN
 *     ^                            ^                                        |   |
 *     |                            +------------- probe failed -------------+   |
 *     +---------------------------------- probe succeeded ---------------------+
 *
 * Only failures of the peer count (unreachable, deadline), never its answers. The pause doubles from base to max and is
 * jittered by +-25 % from the caller's random word, so that many clients do not probe in step. Time comes in; no clock,
 * no lock: the owner of the struct serialises. */
#ifndef FB_CLIENT_BREAKER_H
#define FB_CLIENT_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };

struct breaker {
  enum breaker_state state;
  uint32_t failures; /* in a row */
  uint32_t opened;   /* times in a row, for the doubling */
  int64_t retry_at_ns;
};

struct breaker_conf {
  uint32_t failure_limit; /* >= 1 */
  int64_t pause_base_ns, pause_max_ns;
};

/* May a request go now? In HALF_OPEN exactly one caller gets true per pause. */
bool breaker_allow(struct breaker *b, const struct breaker_conf *c, int64_t now_ns);
/* What became of a request that was allowed. */
void breaker_success(struct breaker *b);
void breaker_failure(struct breaker *b, const struct breaker_conf *c, int64_t now_ns, uint64_t random);

#endif
