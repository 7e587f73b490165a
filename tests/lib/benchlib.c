/* benchlib.c - options, table and JSON of the benches; see benchlib.h. */
#include "tests/lib/benchlib.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

struct bench {
  char *name, *json;
  bool quick;
  struct bench_row *rows;
  size_t count;
};

static char *text_copy(const char *s) {
  char *copy = s ? strdup(s) : NULL;

  if (s && !copy)
    abort();
  return copy;
}

struct bench *bench_new(const char *name, const char *about, int argc, char **argv) {
  struct bench *b = calloc(1, sizeof *b);

  if (!b)
    abort();
  b->name = text_copy(name);
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--quick") == 0) {
      b->quick = true;
    } else if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      b->json = text_copy(argv[++i]);
    } else {
      bool help = strcmp(argv[i], "--help") == 0;
      fprintf(help ? stdout : stderr,
              "usage: bench_%s [--quick] [--json FILE]\n%s\n  --quick      fewer repetitions\n"
              "  --json FILE  also write one JSON object\n",
              name, about);
      exit(help ? 0 : 2);
    }
  }
  return b;
}

bool bench_quick(const struct bench *b) { return b->quick; }

void bench_add(struct bench *b, const struct bench_row *row) {
  struct bench_row *rows = realloc(b->rows, (b->count + 1) * sizeof *rows);

  if (!rows)
    abort();
  b->rows = rows;
  rows[b->count] = *row;
  rows[b->count].name = text_copy(row->name);
  rows[b->count].ref_name = text_copy(row->ref_name);
  rows[b->count].unit = text_copy(row->unit);
  b->count++;
}

static double ratio_of(const struct bench_row *r) { return r->ref != 0 ? r->ours / r->ref : BENCH_NONE; }

static bool missed(const struct bench_row *r) {
  double value = r->bar_on_ratio ? ratio_of(r) : r->ours;

  if (isnan(r->bar) || isnan(value))
    return false;
  return r->higher_is_better ? value < r->bar : value > r->bar;
}

/* Four significant digits, whatever the size; "-" for none. */
static const char *figure(char buf[24], double v) {
  if (isnan(v))
    snprintf(buf, 24, "-");
  else if (fabs(v) >= 1000)
    snprintf(buf, 24, "%.0f", v);
  else
    snprintf(buf, 24, "%.4g", v);
  return buf;
}

static void print_table(const struct bench *b) {
  int name = 4, unit = 4, ref_name = 9;
  char ours[24], ref[24], ratio[24], bar[24];

  for (size_t i = 0; i < b->count; i++) {
    const struct bench_row *r = &b->rows[i];
    int len = (int)strlen(r->name);
    name = len > name ? len : name;
    len = (int)strlen(r->unit);
    unit = len > unit ? len : unit;
    len = r->ref_name ? (int)strlen(r->ref_name) : 0;
    ref_name = len > ref_name ? len : ref_name;
  }
  printf("%-*s  %-*s %10s %10s %8s %9s       %5s  %s\n", name, b->name, unit, "unit", "ours", "ref", "ratio", "bar",
         "runs", "reference");
  for (size_t i = 0; i < b->count; i++) {
    const struct bench_row *r = &b->rows[i];
    const char *verdict = isnan(r->bar) ? "" : missed(r) ? "MISS" : "ok";
    char sign = isnan(r->bar) ? ' ' : r->higher_is_better ? '>' : '<';
    printf("%-*s  %-*s %10s %10s %8s %c%8s %-5s %5u  %s\n", name, r->name, unit, r->unit, figure(ours, r->ours),
           figure(ref, r->ref), figure(ratio, ratio_of(r)), sign, figure(bar, r->bar), verdict, r->runs,
           r->ref_name ? r->ref_name : "-");
  }
}

static void json_text(FILE *f, const char *s) {
  if (!s) {
    fputs("null", f);
    return;
  }
  putc('"', f);
  for (; *s; s++) {
    if (*s == '"' || *s == '\\')
      fprintf(f, "\\%c", *s);
    else if ((unsigned char)*s < 0x20)
      fprintf(f, "\\u%04x", (unsigned)*s);
    else
      putc(*s, f);
  }
  putc('"', f);
}

static void json_number(FILE *f, const char *key, double v) {
  if (isfinite(v))
    fprintf(f, ", \"%s\": %.6g", key, v);
  else
    fprintf(f, ", \"%s\": null", key);
}

static void json_host(FILE *f) {
  struct utsname u;
  struct sysinfo si;
  char line[256], model[256] = "unknown";
  FILE *cpu = fopen("/proc/cpuinfo", "re");

  while (cpu && fgets(line, sizeof line, cpu))
    if (sscanf(line, "model name : %255[^\n]", model) == 1)
      break;
  if (cpu)
    fclose(cpu);
  fputs("{\"cpu\": ", f);
  json_text(f, model);
  fprintf(f, ", \"cores\": %ld", sysconf(_SC_NPROCESSORS_ONLN));
  if (sysinfo(&si) == 0)
    fprintf(f, ", \"memory_bytes\": %llu", (unsigned long long)si.totalram * si.mem_unit);
  fputs(", \"kernel\": ", f);
  json_text(f, uname(&u) == 0 ? u.release : NULL);
  fputs(", \"compiler\": ", f);
#ifdef __clang__
  json_text(f, "clang " __clang_version__);
#else
  json_text(f, "gcc " __VERSION__);
#endif
  fputs("}", f);
}

static void json_write(const struct bench *b, FILE *f) {
  fputs("{\"bench\": ", f);
  json_text(f, b->name);
  fputs(", \"host\": ", f);
  json_host(f);
  fputs(", \"rows\": [", f);
  for (size_t i = 0; i < b->count; i++) {
    const struct bench_row *r = &b->rows[i];
    fprintf(f, "%s\n  {\"name\": ", i ? "," : "");
    json_text(f, r->name);
    json_number(f, "ours", r->ours);
    json_number(f, "ref", r->ref);
    fputs(", \"ref_name\": ", f);
    json_text(f, r->ref_name);
    fputs(", \"unit\": ", f);
    json_text(f, r->unit);
    json_number(f, "ratio", ratio_of(r));
    json_number(f, "bar", r->bar);
    fprintf(f, ", \"better\": \"%s\", \"runs\": %u}", r->higher_is_better ? "higher" : "lower", r->runs);
  }
  fputs("\n]}\n", f);
}

int bench_finish(struct bench **bp) {
  struct bench *b = *bp;
  int status = 0;

  *bp = NULL;
  print_table(b);
  if (b->json) {
    FILE *f = fopen(b->json, "we");
    if (f)
      json_write(b, f);
    if (!f || fclose(f) != 0) {
      fprintf(stderr, "bench_%s: cannot write %s: %s\n", b->name, b->json, strerror(errno));
      status = 1;
    }
  }
  for (size_t i = 0; i < b->count; i++) {
    free((char *)b->rows[i].name);
    free((char *)b->rows[i].ref_name);
    free((char *)b->rows[i].unit);
  }
  free(b->rows);
  free(b->name);
  free(b->json);
  free(b);
  return status;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double bench_median(double *values, size_t n) {
  qsort(values, n, sizeof *values, by_value);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}
