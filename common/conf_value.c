/* conf_value.c - the value of one row: from text, freed, moved, compared; and the words for what it accepts. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/conf_priv.h"
#include "common/utf8.h"

static void *at(const struct conf_row *row, const void *base) { return (char *)base + row->offset; }

static size_t value_size(enum conf_type type) {
  switch (type) {
  case CONF_STRING:
    return sizeof(char *);
  case CONF_BOOL:
    return sizeof(bool);
  case CONF_UINT:
  case CONF_BYTES:
    return sizeof(uint64_t);
  case CONF_ENUM:
    return sizeof(unsigned);
  case CONF_STRINGS:
    return sizeof(struct conf_strings);
  case CONF_RECORDS:
    return sizeof(struct conf_records);
  }
  return 0;
}

bool conf_is_scalar(const struct conf_row *row) { return row->type != CONF_STRINGS && row->type != CONF_RECORDS; }

size_t conf_span(const struct conf_row *rows) {
  size_t span = 0;

  for (; rows->key; rows++)
    span = (size_t)max_u64(span, rows->offset + value_size(rows->type));
  return span;
}

unsigned conf_count(const struct conf_row *rows) {
  unsigned n = 0;

  while (rows[n].key)
    n++;
  return n;
}

size_t conf_section_len(const char *key) {
  const char *dot = strchr(key, '.');
  return dot ? (size_t)(dot - key) : 0;
}

bool conf_is_null_word(const char *text) {
  return !*text || !strcmp(text, "~") || !strcmp(text, "null") || !strcmp(text, "Null") || !strcmp(text, "NULL");
}

static const struct {
  const char *name;
  unsigned shift;
} units[] = {{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"", 0}};

const char *conf_bytes_text(uint64_t v, char out[32]) {
  unsigned i = 0;

  while (v == 0 ? units[i].shift > 0 : v & ((UINT64_C(1) << units[i].shift) - 1))
    i++;
  snprintf(out, 32, "%" PRIu64 "%s", v >> units[i].shift, units[i].name);
  return out;
}

const char *conf_accepted(const struct conf_row *row, char out[CONF_ACCEPTED_MAX]) {
  char lo[32], hi[32];
  size_t n;

  switch (row->type) {
  case CONF_STRING:
    snprintf(out, CONF_ACCEPTED_MAX, "text of %" PRIu64 "..%" PRIu64 " bytes", row->min, row->max);
    break;
  case CONF_BOOL:
    snprintf(out, CONF_ACCEPTED_MAX, "true or false");
    break;
  case CONF_UINT:
    snprintf(out, CONF_ACCEPTED_MAX, "a whole number, %" PRIu64 "..%" PRIu64, row->min, row->max);
    break;
  case CONF_BYTES:
    snprintf(out, CONF_ACCEPTED_MAX, "%s..%s, in bytes or with KiB, MiB, GiB or TiB", conf_bytes_text(row->min, lo),
             conf_bytes_text(row->max, hi));
    break;
  case CONF_ENUM:
    n = (size_t)snprintf(out, CONF_ACCEPTED_MAX, "one of");
    for (const char *const *c = row->choices; *c && n < CONF_ACCEPTED_MAX; c++)
      n += (size_t)snprintf(out + n, CONF_ACCEPTED_MAX - n, "%s %s", c == row->choices ? "" : ",", *c);
    break;
  case CONF_STRINGS:
    snprintf(out, CONF_ACCEPTED_MAX, "a list of %" PRIu64 "..%" PRIu64 " texts", row->min, row->max);
    break;
  case CONF_RECORDS:
    n = (size_t)snprintf(out, CONF_ACCEPTED_MAX, "a list of %" PRIu64 "..%" PRIu64 " mappings with", row->min,
                         row->max);
    for (const struct conf_row *f = row->fields; f->key && n < CONF_ACCEPTED_MAX; f++)
      n += (size_t)snprintf(out + n, CONF_ACCEPTED_MAX - n, "%s %s%s", f == row->fields ? "" : ",", f->key,
                            f->dflt ? " (optional)" : "");
    break;
  }
  return out;
}

/* Digits only, no leading zeros (YAML 1.1 would read them as octal). Returns what follows the digits, NULL if there is
 * no such number or it is over 64 bits. */
static const char *parse_digits(const char *s, uint64_t *ret) {
  uint64_t v = 0;

  if (*s < '0' || *s > '9' || (s[0] == '0' && s[1] >= '0' && s[1] <= '9'))
    return NULL;
  for (; *s >= '0' && *s <= '9'; s++)
    if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
      return NULL;
  *ret = v;
  return s;
}

static bool parse_bytes(const char *s, uint64_t *ret) {
  uint64_t v;
  const char *rest = parse_digits(s, &v);

  if (!rest)
    return false;
  for (size_t i = 0; i < sizeof units / sizeof *units; i++)
    if (!strcmp(rest, units[i].name)) {
      *ret = v << units[i].shift;
      return *ret >> units[i].shift == v;
    }
  return false;
}

static bool is_utf8(const char *s) {
  size_t left = strlen(s);
  unsigned n;

  for (uint32_t c; left > 0; s += n, left -= n)
    if ((n = utf8_next(s, left, &c)) == 0)
      return false;
  return true;
}

int conf_value_set(const struct conf_row *row, void *base, const char *text, const char **ret_wrong) {
  static const char not_a_number[] = "is not a whole number", not_a_size[] = "is not a size";
  uint64_t v = 0;
  const char *rest;
  char *copy;

  *ret_wrong = NULL;
  switch (row->type) {
  case CONF_STRING:
    v = strlen(text);
    if (v < row->min || v > row->max)
      *ret_wrong = v < row->min ? "is too short" : "is too long";
    else if (!is_utf8(text))
      *ret_wrong = "is not UTF-8";
    if (*ret_wrong)
      return -FB_EBADCONF;
    copy = strdup(text);
    if (!copy)
      return -ENOMEM;
    conf_value_fini(row, base);
    *(char **)at(row, base) = copy;
    return 0;
  case CONF_BOOL:
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
      *ret_wrong = "is neither true nor false";
      return -FB_EBADCONF;
    }
    *(bool *)at(row, base) = text[0] == 't';
    return 0;
  case CONF_UINT:
  case CONF_BYTES:
    rest = parse_digits(text, &v);
    if (row->type == CONF_UINT ? !rest || *rest : !parse_bytes(text, &v))
      *ret_wrong = row->type == CONF_UINT ? not_a_number : not_a_size;
    else if (v < row->min || v > row->max)
      *ret_wrong = "is out of range";
    if (*ret_wrong)
      return -FB_EBADCONF;
    *(uint64_t *)at(row, base) = v;
    return 0;
  case CONF_ENUM:
    for (unsigned i = 0; row->choices[i]; i++)
      if (!strcmp(text, row->choices[i])) {
        *(unsigned *)at(row, base) = i;
        return 0;
      }
    *ret_wrong = "is none of the choices";
    return -FB_EBADCONF;
  case CONF_STRINGS:
  case CONF_RECORDS:
    break;
  }
  *ret_wrong = "is one value where a list is expected";
  return -FB_EBADCONF;
}

void conf_value_fini(const struct conf_row *row, void *base) {
  if (row->type == CONF_STRING) {
    free(*(char **)at(row, base));
  } else if (row->type == CONF_STRINGS) {
    struct conf_strings *s = at(row, base);
    for (unsigned i = 0; i < s->n; i++)
      free(s->v[i]);
    free(s->v);
  } else if (row->type == CONF_RECORDS) {
    struct conf_records *r = at(row, base);
    for (unsigned i = 0; i < r->n; i++)
      conf_fini(row->fields, (char *)r->v + i * row->record_size);
    free(r->v);
  }
  memset(at(row, base), 0, value_size(row->type));
}

void conf_value_move(const struct conf_row *row, void *to, void *from) {
  conf_value_fini(row, to);
  memcpy(at(row, to), at(row, from), value_size(row->type));
  memset(at(row, from), 0, value_size(row->type));
}

static bool text_equal(const char *a, const char *b) { return !strcmp(a ? a : "", b ? b : ""); }

bool conf_value_equal(const struct conf_row *row, const void *a, const void *b) {
  const void *x = at(row, a), *y = at(row, b);

  if (row->type == CONF_STRING)
    return text_equal(*(char *const *)x, *(char *const *)y);
  if (row->type == CONF_STRINGS) {
    const struct conf_strings *s = x, *t = y;
    for (unsigned i = 0; i < s->n && s->n == t->n; i++)
      if (!text_equal(s->v[i], t->v[i]))
        return false;
    return s->n == t->n;
  }
  if (row->type == CONF_RECORDS) {
    const struct conf_records *s = x, *t = y;
    for (unsigned i = 0; i < s->n && s->n == t->n; i++)
      for (const struct conf_row *f = row->fields; f->key; f++)
        if (!conf_value_equal(f, (char *)s->v + i * row->record_size, (char *)t->v + i * row->record_size))
          return false;
    return s->n == t->n;
  }
  return !memcmp(x, y, value_size(row->type));
}
