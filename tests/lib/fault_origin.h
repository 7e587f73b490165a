/* fault_origin.h - an origin that passes everything on to another one, but for what the test tells it to hold or fail.
 */
#ifndef FB_TESTS_LIB_FAULT_ORIGIN_H
#define FB_TESTS_LIB_FAULT_ORIGIN_H

#include "server/origin/origin.h"
#include "tests/lib/fault.h"

struct fault_origin {
  struct origin base;
  struct origin *inner; /* owned */
  struct fault stat, read, list, put;
};

/* Wraps *inner and takes it over. Failures carry the text "injected". */
struct fault_origin *fault_origin_new(struct origin **inner);

#endif
