/* compare.h - one file, through the cache and at its origin, byte by byte.
 *
 * A difference is only called one when both sides were of the same version: a file that was rewritten or removed while
 * it was looked at is told apart, and so is a cache that lags by no more than attr_ttl_ms allows. */
#ifndef FB_CLI_COMPARE_H
#define FB_CLI_COMPARE_H

#include <forebay/forebay.h>
#include <stdint.h>

#define COMPARE_PIECE_BYTES ((size_t)4 << 20)

enum compare_outcome {
  COMPARE_SAME,
  COMPARE_DIFFERS,  /* same version, other bytes; or a version that the cache should have let go of */
  COMPARE_CHANGED,  /* rewritten meanwhile, or just before */
  COMPARE_VANISHED, /* at the origin no more */
  COMPARE_FAILED,   /* could not be read on one of the sides */
};

struct compare_report {
  enum compare_outcome outcome;
  uint64_t bytes;  /* that are equal, from the start of the file */
  uint64_t offset; /* of the first difference */
  int code;        /* COMPARE_FAILED: the negative code */
  char text[600];  /* a sentence unless COMPARE_SAME */
};

/* Bytes that were read, for progress: negative when an attempt is given up and starts again. */
typedef void (*compare_progress_fn)(void *arg, int64_t bytes);

/* `origin_fd` is the namespace's origin directory; `buf` has room for 2 * COMPARE_PIECE_BYTES. Blocks for the time of
 * the reads, and up to two seconds more when the file changes. Thread-safe. */
void compare_file(fb_client *c, const struct fb_ns *ns, int origin_fd, const char *key, void *buf,
                  compare_progress_fn progress, void *arg, struct compare_report *ret);

#endif
