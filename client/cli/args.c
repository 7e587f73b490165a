/* args.c - getopt_long behind a table of typed rows. getopt prints nothing: each error becomes one sentence here. */
#include "client/cli/args.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* getopt's values for the rows start above every short option. */
#define ROW_BASE 256

static size_t edit_distance(const char *a, const char *b) {
  size_t row[32];
  size_t n = strlen(b);

  if (n >= sizeof row / sizeof *row)
    return SIZE_MAX;
  for (size_t j = 0; j <= n; j++)
    row[j] = j;
  for (size_t i = 0; a[i]; i++) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < n; j++) {
      size_t substitute = diagonal + (a[i] != b[j]);
      size_t shorter = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
      diagonal = row[j + 1];
      row[j + 1] = substitute < shorter ? substitute : shorter;
    }
  }
  return row[n];
}

const char *args_nearest(const char *word, const char *(*candidate)(void *arg, size_t i), void *arg) {
  const char *best = NULL;
  size_t best_distance = SIZE_MAX;

  if (strlen(word) > 64)
    return NULL;
  for (size_t i = 0;; i++) {
    const char *c = candidate(arg, i);
    if (!c)
      break;
    /* The beginning of a longer word is as good as one typing error. */
    size_t d = strlen(word) >= 2 && strncmp(word, c, strlen(word)) == 0 ? 1 : edit_distance(word, c);
    if (d < best_distance) {
      best_distance = d;
      best = c;
    }
  }
  return best && best_distance <= 2 && best_distance < strlen(best) ? best : NULL;
}

static const char *row_name(void *arg, size_t i) {
  const struct args *a = arg;
  return i < a->n_rows ? a->rows[i]->name : NULL;
}

static void add_rows(struct args *a, const struct arg_row *rows) {
  for (; rows && rows->name; rows++) {
    assert(a->n_rows < ARGS_MAX);
    a->rows[a->n_rows++] = rows;
  }
}

/* A command's own option comes after the globals and goes before one of the same name. */
static unsigned index_of(const struct args *a, const char *name) {
  for (unsigned i = a->n_rows; i-- > 0;)
    if (strcmp(a->rows[i]->name, name) == 0)
      return i;
  assert(!"an option that no table holds");
  abort();
}

static bool parse_number(const char *text, bool suffixes, uint64_t *ret) {
  static const struct {
    const char *name;
    unsigned shift;
  } units[] = {{"", 0}, {"K", 10}, {"KiB", 10}, {"M", 20}, {"MiB", 20}, {"G", 30}, {"GiB", 30}, {"T", 40}, {"TiB", 40}};
  char *end;

  if (!isdigit((unsigned char)text[0]))
    return false;
  errno = 0;
  unsigned long long n = strtoull(text, &end, 10);
  if (errno)
    return false;
  if (!*end) {
    *ret = n;
    return true;
  }
  for (size_t i = 0; suffixes && i < sizeof units / sizeof *units; i++)
    if (strcmp(end, units[i].name) == 0 && n <= UINT64_MAX >> units[i].shift) {
      *ret = (uint64_t)n << units[i].shift;
      return true;
    }
  return false;
}

static int bad_value(const struct arg_row *r, const char *value, char *text, size_t cap) {
  int n = snprintf(text, cap, "--%s: '%.60s' is not accepted; expected ", r->name, value);
  if (n < 0 || (size_t)n >= cap)
    return -EINVAL;
  text += n;
  cap -= (size_t)n;
  switch (r->type) {
  case ARG_UINT:
    snprintf(text, cap, "a number in %" PRIu64 "..%" PRIu64, r->min, r->max);
    break;
  case ARG_BYTES:
    if (r->max >= INT64_MAX)
      snprintf(text, cap, "bytes from %" PRIu64 ", such as 4096, 64KiB, 10MiB, 2GiB", r->min);
    else
      snprintf(text, cap, "bytes in %" PRIu64 "..%" PRIu64 ", such as 65536 or 64KiB", r->min, r->max);
    break;
  case ARG_PERCENT:
    snprintf(text, cap, "a percentage in 0..100");
    break;
  case ARG_CHOICE:
    for (const char *const *c = r->choices; *c; c++) {
      n = snprintf(text, cap, "%s%s", c == r->choices ? "" : c[1] ? ", " : " or ", *c);
      if (n < 0 || (size_t)n >= cap)
        break;
      text += n;
      cap -= (size_t)n;
    }
    break;
  case ARG_STRING:
  case ARG_FLAG:
    snprintf(text, cap, "%s", r->metavar ? r->metavar : "no value");
    break;
  }
  return -EINVAL;
}

static int take_value(const struct arg_row *r, const char *value, struct arg_value *ret, char *text, size_t cap) {
  struct arg_value v = {.set = true, .text = value};

  switch (r->type) {
  case ARG_FLAG:
    break;
  case ARG_STRING:
    if (strlen(value) < r->min)
      return bad_value(r, value, text, cap);
    break;
  case ARG_UINT:
  case ARG_BYTES:
    if (!parse_number(value, r->type == ARG_BYTES, &v.number) || v.number < r->min || v.number > r->max)
      return bad_value(r, value, text, cap);
    break;
  case ARG_PERCENT: {
    char *end;
    if (!isdigit((unsigned char)value[0]))
      return bad_value(r, value, text, cap);
    v.percent = strtod(value, &end);
    if (*end == '%')
      end++;
    if (*end || !(v.percent >= 0 && v.percent <= 100))
      return bad_value(r, value, text, cap);
    break;
  }
  case ARG_CHOICE:
    while (r->choices[v.number] && strcmp(r->choices[v.number], value) != 0)
      v.number++;
    if (!r->choices[v.number])
      return bad_value(r, value, text, cap);
    break;
  }
  *ret = v;
  return 0;
}

/* getopt_long says '?' for an option that is unknown, ambiguous, or a flag that was given a value. */
static int bad_option(struct args *a, const char *given, int letter, char *text, size_t cap) {
  char word[64];

  if (letter && letter < ROW_BASE && isprint(letter)) {
    snprintf(text, cap, "unknown option -%c", letter);
    return -EINVAL;
  }
  snprintf(word, sizeof word, "%s", given && strncmp(given, "--", 2) == 0 ? given + 2 : "");
  word[strcspn(word, "=")] = '\0';
  if (letter >= ROW_BASE) {
    snprintf(text, cap, "option --%s takes no value", a->rows[letter - ROW_BASE]->name);
    return -EINVAL;
  }
  const char *near = args_nearest(word, row_name, a);
  if (near)
    snprintf(text, cap, "unknown option --%s; did you mean --%s?", word, near);
  else
    snprintf(text, cap, "unknown option --%s", word);
  return -EINVAL;
}

/* Long options are taken in full only: getopt_long's unique prefixes would turn every later option into a break. */
static bool abbreviated(char **argv, const char *name) {
  for (int i = optind - 1; i >= 1 && i >= optind - 2; i--) {
    size_t n = strcspn(argv[i], "=");
    if (strncmp(argv[i], "--", 2) == 0 && n >= 2 && strncmp(argv[i] + 2, name, n - 2) == 0)
      return strlen(name) != n - 2;
  }
  return false;
}

int args_parse(struct args *ret, int argc, char **argv, const struct arg_row *globals, const struct arg_row *own,
               bool leading, char *text, size_t text_cap) {
  struct option longs[ARGS_MAX + 1] = {0};
  char shorts[2 * ARGS_MAX + 3];
  size_t n_shorts = 0, n_longs = 0;

  ret->n_rows = 0;
  add_rows(ret, globals);
  add_rows(ret, own);
  if (leading)
    shorts[n_shorts++] = '+';
  shorts[n_shorts++] = ':';
  for (unsigned i = 0; i < ret->n_rows; i++) {
    const struct arg_row *r = ret->rows[i];
    if (index_of(ret, r->name) != i)
      continue;
    longs[n_longs++] =
        (struct option){r->name, r->type == ARG_FLAG ? no_argument : required_argument, NULL, ROW_BASE + (int)i};
    if (r->letter) {
      shorts[n_shorts++] = r->letter;
      if (r->type != ARG_FLAG)
        shorts[n_shorts++] = ':';
    }
  }
  shorts[n_shorts] = '\0';

  optind = 0; /* glibc: start over */
  opterr = 0;
  for (;;) {
    int which = -1;
    int before = optind ? optind : 1;
    int c = getopt_long(argc, argv, shorts, longs, &which);
    if (c < 0)
      break;
    if (c == '?')
      return bad_option(ret, argv[optind > before ? optind - 1 : before], optopt, text, text_cap);
    if (c == ':') {
      for (unsigned i = 0; i < ret->n_rows; i++)
        if (optopt == ROW_BASE + (int)i || optopt == ret->rows[i]->letter)
          snprintf(text, text_cap, "option --%s wants a value: --%s %s", ret->rows[i]->name, ret->rows[i]->name,
                   ret->rows[i]->metavar);
      return -EINVAL;
    }
    unsigned i = 0;
    if (c >= ROW_BASE)
      i = (unsigned)(c - ROW_BASE);
    else
      while (i < ret->n_rows && ret->rows[i]->letter != c)
        i++;
    assert(i < ret->n_rows);
    if (which >= 0 && abbreviated(argv, ret->rows[i]->name)) {
      snprintf(text, text_cap, "options are not abbreviated; did you mean --%s?", ret->rows[i]->name);
      return -EINVAL;
    }
    int rc = take_value(ret->rows[i], optarg, &ret->values[i], text, text_cap);
    if (rc < 0)
      return rc;
  }
  ret->words = argv + optind;
  ret->n_words = argc - optind;
  return 0;
}

bool args_set(const struct args *a, const char *name) { return a->values[index_of(a, name)].set; }

const char *args_text(const struct args *a, const char *name, const char *dflt) {
  const struct arg_value *v = &a->values[index_of(a, name)];
  return v->set ? v->text : dflt;
}

uint64_t args_number(const struct args *a, const char *name, uint64_t dflt) {
  const struct arg_value *v = &a->values[index_of(a, name)];
  return v->set ? v->number : dflt;
}

double args_percent(const struct args *a, const char *name, double dflt) {
  const struct arg_value *v = &a->values[index_of(a, name)];
  return v->set ? v->percent : dflt;
}
