/* fault.h - what a fault wrapper does to one operation: counts its calls, holds them at a gate, fails the n-th. */
#ifndef FB_TESTS_LIB_FAULT_H
#define FB_TESTS_LIB_FAULT_H

#include <stdatomic.h>
#include <stdint.h>

#include "tests/lib/gate.h"

struct fault {
  atomic_uint_least64_t calls; /* that came in */
  atomic_uint_least64_t nth;   /* the call (1 = the first from the setting on) that fails; 0: none */
  atomic_uint_least64_t times; /* how many in a row from there on; UINT64_MAX: all */
  atomic_int code;             /* with what */
  struct gate gate;            /* passed before anything else */
};

void fault_init(struct fault *f);
void fault_fini(struct fault *f);
/* Lets `times` calls fail with `code`, from the n-th call from now on (n >= 1). Not while calls are in flight. */
void fault_set(struct fault *f, uint64_t n, uint64_t times, int code);
/* The wrapper's side: 0, or the code with which this call is to fail. */
int fault_step(struct fault *f);

#endif
