/* alarm.h - one thread that ends what waits for a client: a put whose bytes stop coming, a watch whose client has left.
 *
 * Thread-safe. An alarm rings at most once, on the alarms' own thread, with no lock held. */
#ifndef FB_SERVER_NET_ALARM_H
#define FB_SERVER_NET_ALARM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

struct alarms;

/* Embed it in what waits. Private while set. */
struct alarm {
  void (*ring)(struct alarm *a);
  int64_t at_ns;
  struct alarm *next, **prev; /* prev is NULL while not set */
};

int alarms_new(struct alarms **ret, struct err *e);
/* None may be set any more. Joins the thread. NULLs it; accepts NULL. */
void alarms_free(struct alarms **as);

/* `ring` will run soon after at_ns (monotonic; DEADLINE_NONE: only by alarm_now). */
void alarm_set(struct alarms *as, struct alarm *a, int64_t at_ns, void (*ring)(struct alarm *a));
/* Lets it ring at once, if it is set. */
void alarm_now(struct alarms *as, struct alarm *a);
/* True: it was set and will not ring. False: it has rung, or is about to. */
bool alarm_cancel(struct alarms *as, struct alarm *a);

#endif
