/* fault_tier.h - a tier that passes everything on to another one, but for what the test tells it to hold or to fail. */
#ifndef FB_TESTS_LIB_FAULT_TIER_H
#define FB_TESTS_LIB_FAULT_TIER_H

#include "server/tier/tier.h"
#include "tests/lib/fault.h"

struct fault_tier {
  struct tier base;
  struct tier *inner; /* owned */
  struct fault get, reserve, commit, remove, drop, scan, resize;
  atomic_uint_least64_t releases, aborts;
};

/* Wraps *inner and takes it over. A failing get is a miss that the inner one does not count. Commits and drops cannot
 * fail by the contract: they are held and counted only (a commit that is held while its namespace is dropped gives
 * -ESTALE). */
struct fault_tier *fault_tier_new(struct tier **inner);

#endif
