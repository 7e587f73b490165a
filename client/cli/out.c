/* out.c - tables and units for people. */
#include "client/cli/out.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/json.h"

char *out_bytes(char buf[OUT_BYTES_CAP], uint64_t bytes) {
  static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double v = (double)bytes / 1024;
  unsigned u = 0;

  if (bytes < 1024) {
    snprintf(buf, OUT_BYTES_CAP, "%" PRIu64 " B", bytes);
    return buf;
  }
  /* 1023.95 would be printed as 1024.0 */
  while (v >= 1023.95 && u + 1 < sizeof units / sizeof *units) {
    v /= 1024;
    u++;
  }
  snprintf(buf, OUT_BYTES_CAP, "%.1f %s", v, units[u]);
  return buf;
}

char *out_rate(char buf[OUT_BYTES_CAP], uint64_t bytes, uint64_t elapsed_ns) {
  double per_second = elapsed_ns ? (double)bytes * 1e9 / (double)elapsed_ns : 0;

  out_bytes(buf, per_second < 1e18 ? (uint64_t)per_second : 0);
  strcat(buf, "/s"); /* the longest out_bytes is "1023.9 KiB" */
  return buf;
}

char *out_duration(char buf[OUT_BYTES_CAP], uint64_t ns) {
  uint64_t s = ns / 1000000000;

  if (s >= UINT64_C(72) * 3600)
    snprintf(buf, OUT_BYTES_CAP, "%" PRIu64 " days", s / 86400);
  else if (s >= 3600)
    snprintf(buf, OUT_BYTES_CAP, "%u:%02u:%02u", (unsigned)(s / 3600), (unsigned)(s / 60 % 60), (unsigned)(s % 60));
  else
    snprintf(buf, OUT_BYTES_CAP, "%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
  return buf;
}

char *out_time(char buf[OUT_TIME_CAP], int64_t unix_ns) {
  time_t t = (time_t)(unix_ns / 1000000000);
  struct tm tm;

  if (!localtime_r(&t, &tm) || strftime(buf, OUT_TIME_CAP, "%Y-%m-%d %H:%M:%S", &tm) == 0)
    snprintf(buf, OUT_TIME_CAP, "?");
  return buf;
}

void out_text(FILE *out, const char *text) {
  while (*text) {
    unsigned n = utf8_length(text);
    unsigned char c = (unsigned char)*text;
    /* U+0080..U+009F are control characters too: some terminals obey them. */
    if (n == 0 || c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)text[1] < 0xa0)) {
      fprintf(out, "\\x%02x", c);
      if (n == 2)
        fprintf(out, "\\x%02x", (unsigned char)text[1]);
      text += n ? n : 1;
    } else {
      fwrite(text, 1, n, out);
      text += n;
    }
  }
}

#define COLUMNS_MAX 16

struct out_table {
  const char *const *headings;
  unsigned n_columns;
  size_t width[COLUMNS_MAX];
  char **cells;
  size_t n_cells, cap;
};

/* Columns on a terminal; wide characters count as one, which only costs alignment. */
static size_t text_width(const char *s) {
  size_t n = 0;
  for (; *s; s++)
    n += ((unsigned char)*s & 0xc0) != 0x80;
  return n;
}

static const char *heading_text(const char *h) { return h[0] == '>' ? h + 1 : h; }

struct out_table *out_table_new(const char *const *headings) {
  struct out_table *t = calloc(1, sizeof *t);

  if (!t)
    return NULL;
  t->headings = headings;
  while (t->n_columns < COLUMNS_MAX && headings[t->n_columns]) {
    t->width[t->n_columns] = text_width(heading_text(headings[t->n_columns]));
    t->n_columns++;
  }
  return t;
}

void out_cell(struct out_table *t, const char *fmt, ...) {
  char *raw = NULL, *clean = NULL;
  size_t len = 0;
  va_list ap;

  if (!t)
    return;
  if (t->n_cells == t->cap) {
    size_t cap = t->cap ? 2 * t->cap : 64;
    char **grown = reallocarray(t->cells, cap, sizeof *grown);
    if (!grown)
      return;
    t->cells = grown;
    t->cap = cap;
  }
  va_start(ap, fmt);
  int n = vasprintf(&raw, fmt, ap);
  va_end(ap);
  if (n < 0)
    return;
  FILE *f = open_memstream(&clean, &len);
  if (f) {
    out_text(f, raw);
    fclose(f);
  }
  free(raw);
  if (!clean)
    return;
  size_t *width = &t->width[t->n_cells % t->n_columns];
  if (text_width(clean) > *width)
    *width = text_width(clean);
  t->cells[t->n_cells++] = clean;
}

static void print_cell(const struct out_table *t, unsigned column, const char *text, FILE *out) {
  int pad = (int)(t->width[column] - text_width(text));
  bool last = column + 1 == t->n_columns;

  if (t->headings[column][0] == '>')
    fprintf(out, "%*s%s", pad, "", text);
  else
    fprintf(out, "%s%*s", text, last ? 0 : pad, "");
  fputs(last ? "\n" : "  ", out);
}

void out_table_print(struct out_table *t, FILE *out) {
  if (!t)
    return;
  for (unsigned c = 0; c < t->n_columns; c++)
    print_cell(t, c, heading_text(t->headings[c]), out);
  /* A row that memory did not suffice for is left out. */
  for (size_t row = 0; row + t->n_columns <= t->n_cells; row += t->n_columns)
    for (unsigned c = 0; c < t->n_columns; c++)
      print_cell(t, c, t->cells[row + c], out);
}

void out_table_free(struct out_table **t) {
  if (!*t)
    return;
  for (size_t i = 0; i < (*t)->n_cells; i++)
    free((*t)->cells[i]);
  free((*t)->cells);
  free(*t);
  *t = NULL;
}
