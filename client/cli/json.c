/* json.c - the streaming JSON writer of json.h. */
#include "client/cli/json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>

unsigned utf8_length(const char *s) {
  const unsigned char *u = (const unsigned char *)s;

  if (u[0] < 0x80)
    return 1;
  unsigned n = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;
  if (u[0] < 0xc2 || u[0] > 0xf4)
    return 0;
  for (unsigned i = 1; i < n; i++)
    if ((u[i] & 0xc0) != 0x80)
      return 0;
  if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf0 && u[1] < 0x90) ||
      (u[0] == 0xf4 && u[1] > 0x8f))
    return 0;
  return n;
}

static void put_string(FILE *out, const char *s) {
  putc('"', out);
  while (*s) {
    unsigned n = utf8_length(s);
    if (n == 0) {
      fputs("\\ufffd", out);
      s++;
    } else if (n > 1) {
      fwrite(s, 1, n, out);
      s += n;
    } else {
      if (*s == '"' || *s == '\\')
        fprintf(out, "\\%c", *s);
      else if ((unsigned char)*s < 0x20 || *s == 0x7f)
        fprintf(out, "\\u%04x", (unsigned)*s);
      else
        putc(*s, out);
      s++;
    }
  }
  putc('"', out);
}

static void begin(struct json *j, const char *key) {
  if (j->depth > 0) {
    if (j->open[j->depth - 1].comma)
      fputs(", ", j->out);
    j->open[j->depth - 1].comma = true;
  }
  if (key) {
    put_string(j->out, key);
    fputs(": ", j->out);
  }
}

static void open_level(struct json *j, const char *key, char open, char close) {
  assert(j->depth < JSON_DEPTH_MAX);
  begin(j, key);
  putc(open, j->out);
  j->open[j->depth].close = close;
  j->open[j->depth++].comma = false;
}

void json_object(struct json *j, const char *key) { open_level(j, key, '{', '}'); }
void json_array(struct json *j, const char *key) { open_level(j, key, '[', ']'); }

void json_end(struct json *j) {
  assert(j->depth > 0);
  j->depth--;
  putc(j->open[j->depth].close, j->out);
  if (j->depth == 0)
    putc('\n', j->out);
}

void json_end_to(struct json *j, unsigned depth) {
  while (j->depth > depth)
    json_end(j);
}

void json_string(struct json *j, const char *key, const char *value) {
  begin(j, key);
  put_string(j->out, value);
}

void json_uint(struct json *j, const char *key, uint64_t value) {
  begin(j, key);
  fprintf(j->out, "%" PRIu64, value);
}

void json_int(struct json *j, const char *key, int64_t value) {
  begin(j, key);
  fprintf(j->out, "%" PRId64, value);
}

void json_hex(struct json *j, const char *key, uint64_t value) {
  begin(j, key);
  fprintf(j->out, "\"%016" PRIx64 "\"", value);
}

void json_real(struct json *j, const char *key, double value) {
  begin(j, key);
  if (isfinite(value))
    fprintf(j->out, "%.6g", value);
  else
    fputs("null", j->out); /* JSON has no infinities */
}

void json_bool(struct json *j, const char *key, bool value) {
  begin(j, key);
  fputs(value ? "true" : "false", j->out);
}
