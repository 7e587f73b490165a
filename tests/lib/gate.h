/* gate.h - a place where a test holds other threads until it has seen what it wanted to see. Open when new. */
#ifndef FB_TESTS_LIB_GATE_H
#define FB_TESTS_LIB_GATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct gate {
  pthread_mutex_t mtx;
  pthread_cond_t changed;
  bool closed;
  unsigned waiting; /* threads held now */
  unsigned admit;   /* of those, how many may pass all the same */
  uint64_t passed;  /* in all */
};

void gate_init(struct gate *g);
void gate_fini(struct gate *g);
void gate_close(struct gate *g);
void gate_open(struct gate *g);  /* lets all pass */
void gate_admit(struct gate *g); /* lets one pass that waits now; the gate stays closed */
void gate_pass(struct gate *g);  /* the other threads' side: waits while it is closed */
/* Waits until at least n threads are held. False after timeout_ms. */
bool gate_wait(struct gate *g, unsigned n, int64_t timeout_ms);

#endif
