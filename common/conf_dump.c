/* conf_dump.c - the rows and their values for people: YAML that reads back the same, and the text of --help. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/conf_priv.h"
#include "common/utf8.h"

#define WIDTH 100

/* Words that need no quotes in YAML, whatever they mean there: every row knows its own type. */
static bool is_plain(const char *s) {
  static const char *const inside = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
  bool starts_well = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || *s == '/';
  return starts_well && strspn(s, inside) == strlen(s) && !conf_is_null_word(s);
}

static void put_text(const char *s, FILE *out) {
  size_t left;

  s = s ? s : "";
  if (is_plain(s)) {
    fputs(s, out);
    return;
  }
  fputc('"', out);
  for (left = strlen(s); left > 0;) {
    uint32_t c = 0;
    unsigned n = utf8_next(s, left, &c);

    if (n == 0) { /* YAML has no bytes; --set and files bring none either */
      c = 0xfffd;
      n = 1;
    }
    if (c == '"' || c == '\\')
      fprintf(out, "\\%c", (int)c);
    else if (c < 0x20 || (c >= 0x7f && c <= 0xa0))
      fprintf(out, "\\x%02x", (unsigned)c);
    else if (c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffd || c == 0xfffe || c == 0xffff)
      fprintf(out, "\\u%04x", (unsigned)c);
    else
      fwrite(s, 1, n, out);
    s += n;
    left -= n;
  }
  fputc('"', out);
}

/* Words of `text`, each line after `indent` and at most WIDTH columns. */
static void put_wrapped(const char *indent, const char *text, FILE *out) {
  size_t column = 0;

  while (*(text += strspn(text, " "))) {
    size_t n = strcspn(text, " ");
    if (column > 0 && column + 1 + n > WIDTH) {
      fputc('\n', out);
      column = 0;
    }
    column += (size_t)fprintf(out, "%s%.*s", column ? " " : indent, (int)n, text);
    text += n;
  }
  fputc('\n', out);
}

static const char *default_text(const struct conf_row *row) {
  return row->dflt && *row->dflt                                  ? row->dflt
         : row->type == CONF_STRINGS || row->type == CONF_RECORDS ? "an empty list"
                                                                  : "empty";
}

static void put_comment(const char *indent, const struct conf_row *row, FILE *out) {
  char lead[16], accepted[CONF_ACCEPTED_MAX], text[2048];

  snprintf(lead, sizeof lead, "%s# ", indent);
  snprintf(text, sizeof text, "%s (%s; default %s%s)", row->help ? row->help : "", conf_accepted(row, accepted),
           default_text(row), row->reload ? "; SIGHUP reloads it" : "");
  put_wrapped(lead, text, out);
}

/* "KEY: VALUE" and a newline; what needs lines of its own goes `indent` deep. */
static void put_value(const struct conf_row *row, const char *key, const void *base, const char *indent, FILE *out) {
  const void *at = (const char *)base + row->offset;
  const struct conf_strings *s = at;
  const struct conf_records *r = at;
  char bytes[32], deeper[16];

  fprintf(out, "%s:", key);
  switch (row->type) {
  case CONF_STRING:
    fputc(' ', out);
    put_text(*(char *const *)at, out);
    break;
  case CONF_BOOL:
    fputs(*(const bool *)at ? " true" : " false", out);
    break;
  case CONF_UINT:
    fprintf(out, " %" PRIu64, *(const uint64_t *)at);
    break;
  case CONF_BYTES:
    fprintf(out, " %s", conf_bytes_text(*(const uint64_t *)at, bytes));
    break;
  case CONF_ENUM:
    fputc(' ', out);
    put_text(row->choices[*(const unsigned *)at], out);
    break;
  case CONF_STRINGS:
    for (unsigned i = 0; i < s->n; i++) {
      fprintf(out, "\n%s- ", indent);
      put_text(s->v[i], out);
    }
    if (s->n == 0)
      fputs(" []", out);
    break;
  case CONF_RECORDS:
    snprintf(deeper, sizeof deeper, "%s    ", indent);
    fputs(r->n ? "\n" : " []\n", out);
    for (unsigned i = 0; i < r->n; i++)
      for (const struct conf_row *f = row->fields; f->key; f++) {
        fprintf(out, "%s%s", indent, f == row->fields ? "- " : "  ");
        put_value(f, f->key, (const char *)r->v + i * row->record_size, deeper, out);
      }
    return; /* the last field has ended the line */
  }
  fputc('\n', out);
}

static void put_row(const struct conf_row *row, const void *conf, bool comments, FILE *out) {
  size_t n = conf_section_len(row->key);
  const char *indent = n ? "  " : "";

  if (comments)
    put_comment(indent, row, out);
  fputs(indent, out);
  put_value(row, row->key + (n ? n + 1 : 0), conf, n ? "    " : "  ", out);
}

void conf_dump(const struct conf_row *rows, const void *conf, bool comments, FILE *out) {
  bool begun = false;

  for (const struct conf_row *row = rows; row->key; row++)
    if (conf_section_len(row->key) == 0) {
      put_row(row, conf, comments, out);
      begun = true;
    }
  for (const struct conf_row *row = rows; row->key; row++) {
    size_t n = conf_section_len(row->key);
    const struct conf_row *first = rows;

    while (n && (conf_section_len(first->key) != n || memcmp(first->key, row->key, n) != 0)) {
      first++;
      assert(first->key); /* at the latest it is `row` */
    }
    if (n == 0 || first != row)
      continue;
    fprintf(out, "%s%.*s:\n", comments && begun ? "\n" : "", (int)n, row->key);
    begun = true;
    for (; first->key; first++)
      if (conf_section_len(first->key) == n && !memcmp(first->key, row->key, n))
        put_row(first, conf, comments, out);
  }
}

static void put_help(const char *prefix, const struct conf_row *row, FILE *out) {
  char accepted[CONF_ACCEPTED_MAX], text[1024];

  fprintf(out, "%s%s\n", prefix, row->key);
  snprintf(text, sizeof text, "%s; %s%s%s", conf_accepted(row, accepted),
           *prefix && !row->dflt ? "required" : "default ", *prefix && !row->dflt ? "" : default_text(row),
           row->reload ? "; SIGHUP reloads it" : "");
  put_wrapped("    ", text, out);
  if (row->help)
    put_wrapped("    ", row->help, out);
}

void conf_help(const struct conf_row *rows, FILE *out) {
  for (const struct conf_row *row = rows; row->key; row++) {
    char prefix[96];

    put_help("", row, out);
    snprintf(prefix, sizeof prefix, "%s[].", row->key);
    for (const struct conf_row *f = row->fields; row->type == CONF_RECORDS && f->key; f++)
      put_help(prefix, f, out);
  }
}
