/* progress.h - how far a long command is: one line that is redrawn on a terminal, plain lines otherwise.
 *
 * Drawing is a pure function (progress_render); the rest decides when. Not thread-safe: callers serialise. */
#ifndef FB_CLI_PROGRESS_H
#define FB_CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct progress_state {
  uint64_t bytes, bytes_total;
  uint64_t files, files_total;
  bool total_final; /* the totals will not grow any more */
};

struct progress {
  FILE *out;
  const char *label; /* borrowed */
  bool terminal, off, drawn;
  int64_t started_ns, shown_ns;
  uint64_t shown_bytes;
  double rate; /* bytes per second, smoothed; 0 = not known yet */
};

/* Redraws at most ten times a second on a terminal, else prints a line every five seconds. quiet: nothing at all. */
void progress_init(struct progress *p, FILE *out, const char *label, bool quiet);
void progress_update(struct progress *p, const struct progress_state *s);
/* Takes the bar away so that a line may be printed to either stream; the next update draws it again. */
void progress_clear(struct progress *p);
/* The last state: leaves a full bar (or a last line) behind. */
void progress_end(struct progress *p, const struct progress_state *s);

/* One line of at most `width` columns (0 = no limit, no bar) without newline; returns its length in bytes. */
size_t progress_render(char *buf, size_t cap, unsigned width, const char *label, const struct progress_state *s,
                       double rate);

#endif
