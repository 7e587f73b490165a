/* out.h - output for people: aligned tables, sizes, rates, times, and text that cannot drive a terminal. */
#ifndef FB_CLI_OUT_H
#define FB_CLI_OUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define OUT_BYTES_CAP 24
/* "999 B", "1.5 KiB", "12.3 GiB". Returns buf. */
char *out_bytes(char buf[OUT_BYTES_CAP], uint64_t bytes);
/* "1.5 GiB/s" */
char *out_rate(char buf[OUT_BYTES_CAP], uint64_t bytes, uint64_t elapsed_ns);
/* "0:07", "12:34", "1:02:03", "3 days" */
char *out_duration(char buf[OUT_BYTES_CAP], uint64_t ns);
/* "2026-01-31 12:00:00", local time */
#define OUT_TIME_CAP 32
char *out_time(char buf[OUT_TIME_CAP], int64_t unix_ns);
/* Writes `text` with control characters and broken UTF-8 as \xNN: keys come from file names, and those may hold
 * anything. One line stays one line. */
void out_text(FILE *out, const char *text);

/* A table: cells are copied, columns as wide as their widest cell, numbers (by '>' in the heading) to the right. */
struct out_table;
/* headings: e.g. "NAME", ">SIZE"; NULL ends. NULL when out of memory; the others then do nothing. */
struct out_table *out_table_new(const char *const *headings);
/* One printf per cell, in order; a row is complete after the last column. */
void out_cell(struct out_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void out_table_print(struct out_table *t, FILE *out);
void out_table_free(struct out_table **t);

#endif
