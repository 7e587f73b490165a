/* benchlib.h - what every bench shares: its options, medians, the table for people and the JSON for programs.
 *
 * Usage of any bench: bench_NAME [--quick] [--json FILE]. A bench measures ours and the reference in turns within one
 * run, adds one row per figure, and returns bench_finish(). DESIGN section 10 fixes the JSON. */
#ifndef FB_TESTS_LIB_BENCHLIB_H
#define FB_TESTS_LIB_BENCHLIB_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_NONE NAN /* for `ref` and `bar` of a row that has none */

struct bench_row {
  const char *name; /* copied, like all texts */
  double ours, ref;
  const char *ref_name; /* NULL without a reference */
  const char *unit;
  double bar; /* what is asked of `ours` (of ours / ref if bar_on_ratio); missed bars are marked */
  bool bar_on_ratio;
  bool higher_is_better;
  unsigned runs;
};

struct bench;

/* Reads the options; prints the usage and exits on --help (0) or anything unknown (2). */
struct bench *bench_new(const char *name, const char *about, int argc, char **argv);
bool bench_quick(const struct bench *b);
void bench_add(struct bench *b, const struct bench_row *row);
/* Prints the table, writes the JSON if asked, frees *b. Returns main's exit status: 0, or 1 if the file can't be
 * written. A missed bar is a finding and not a failure of the run. */
int bench_finish(struct bench **b);

/* Median of n > 0 values; sorts them. */
double bench_median(double *values, size_t n);

/* Keeps a computed value alive, at no cost, so that the compiler can't drop what led to it. */
static inline void bench_use(uint64_t value) { __asm__ volatile("" : : "r"(value)); }

#endif
