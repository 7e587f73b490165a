/* clock.h - time as 64-bit nanoseconds, and absolute deadlines on the monotonic clock.
 *
 * Decisions never read a clock: time comes to them with the event. Deadlines are monotonic, so a wall clock that
 * jumps neither fires nor hides them. */
#ifndef FB_COMMON_CLOCK_H
#define FB_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)
#define DEADLINE_NONE INT64_MAX

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline int64_t clock_mono_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

/* Nanoseconds since the epoch (CLOCK_REALTIME): for people, file times and log lines only. */
static inline int64_t clock_wall_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static inline struct timespec clock_timespec(int64_t ns) {
  return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

/* The deadline `ms` from now; DEADLINE_NONE when ms is negative, or so long that it makes no difference. */
static inline int64_t deadline_in_ms(int64_t ms) {
  return ms < 0 || ms > INT64_MAX / 2 / NS_PER_MS ? DEADLINE_NONE : clock_mono_ns() + ms * NS_PER_MS;
}

#endif
