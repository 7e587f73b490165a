/* fault.c - counting, holding and failing calls; see fault.h. */
#include "tests/lib/fault.h"

void fault_init(struct fault *f) {
  atomic_init(&f->calls, 0);
  atomic_init(&f->nth, 0);
  atomic_init(&f->times, 0);
  atomic_init(&f->code, 0);
  gate_init(&f->gate);
}

void fault_fini(struct fault *f) { gate_fini(&f->gate); }

void fault_set(struct fault *f, uint64_t n, uint64_t times, int code) {
  atomic_store(&f->code, code);
  atomic_store(&f->times, times);
  atomic_store(&f->nth, atomic_load(&f->calls) + n);
}

int fault_step(struct fault *f) {
  uint64_t call = atomic_fetch_add(&f->calls, 1) + 1, nth;

  gate_pass(&f->gate);
  nth = atomic_load(&f->nth);
  return nth && call >= nth && call - nth < atomic_load(&f->times) ? atomic_load(&f->code) : 0;
}
