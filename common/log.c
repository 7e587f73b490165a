/* log.c - builds a line on the stack and writes it with one write(2).
 *
 * There is no lock: the settings are one atomic word, and the kernel keeps lines apart (a pipe takes up to PIPE_BUF =
 * LOG_LINE_MAX bytes at once, a file is best opened with O_APPEND). Strings may come from anywhere, so whatever could
 * end a line, a quote or a terminal's good behaviour is escaped. */
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/utf8.h"

/* level in bits 0..7, format in 8..15, descriptor in 32..63. */
static _Atomic uint64_t settings = (uint64_t)2 << 32 | LOG_LOGFMT << 8 | LOG_INFO;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

/* What a cut line ends with: it stays a well-formed line. */
#define CUT_LOGFMT " cut=true\n"
#define CUT_JSON ",\"cut\":true}\n"
#define ROOM (LOG_LINE_MAX - (sizeof CUT_JSON - 1))

struct line {
  bool json, cut;
  size_t n;
  char text[LOG_LINE_MAX];
};

void log_setup(enum log_level level, enum log_format format, int fd) {
  uint64_t word = (uint64_t)(uint32_t)fd << 32 | (uint64_t)format << 8 | (uint64_t)level;
  atomic_store_explicit(&settings, word, memory_order_relaxed);
}

bool log_enabled(enum log_level level) {
  return (uint64_t)level <= (atomic_load_explicit(&settings, memory_order_relaxed) & 0xff);
}

/* Appends all of it, or nothing and marks the line as cut. `reserve` bytes stay free behind it. */
static bool put(struct line *l, const char *s, size_t len, size_t reserve) {
  if (l->cut || len + reserve > ROOM - l->n) {
    l->cut = true;
    return false;
  }
  memcpy(l->text + l->n, s, len);
  l->n += len;
  return true;
}

/* One character of a quoted string as it stands in the line; returns how many bytes of s it took. */
static size_t escape(const struct line *l, const char *s, size_t len, char out[16], size_t *ret_len) {
  uint32_t c = 0;
  unsigned n = utf8_next(s, len, &c);
  const char *two = n == 0      ? NULL
                    : c == '"'  ? "\\\""
                    : c == '\\' ? "\\\\"
                    : c == '\n' ? "\\n"
                    : c == '\r' ? "\\r"
                    : c == '\t' ? "\\t"
                                : NULL;

  if (two) {
    memcpy(out, two, 2);
    *ret_len = 2;
  } else if (n == 0 || c < 0x20 || c == 0x7f) {
    /* A control byte, or one that is not UTF-8: its value in hex. */
    *ret_len = (size_t)snprintf(out, 16, l->json ? "\\u%04x" : "\\x%02x", (unsigned)(uint8_t)*s);
  } else if ((c >= 0x80 && c < 0xa0) || c == 0x2028 || c == 0x2029) {
    /* C1 controls steer terminals, and the two Unicode separators end a line for some readers. */
    *ret_len = (size_t)snprintf(out, 16, "\\u%04x", (unsigned)c);
  } else {
    memcpy(out, s, n);
    *ret_len = n;
  }
  return n ? n : 1;
}

static void put_quoted(struct line *l, const char *s, size_t len) {
  if (!put(l, "\"", 1, 1))
    return;
  while (len > 0) {
    char out[16];
    size_t out_len, used = escape(l, s, len, out, &out_len);

    if (!put(l, out, out_len, 1))
      break;
    s += used;
    len -= used;
  }
  l->text[l->n++] = '"'; /* the byte that was reserved above */
}

/* A logfmt value needs no quotes when no parser could trip over it. */
static bool is_bare(const char *s, size_t len) {
  for (size_t i = 0; i < len; i++)
    if (s[i] <= ' ' || s[i] >= 0x7f || s[i] == '"' || s[i] == '=' || s[i] == '\\')
      return false;
  return len > 0;
}

static void put_name(struct line *l, const char *key) {
  char name[64];
  int n = snprintf(name, sizeof name, l->json ? "%s\"%.48s\":" : "%s%.48s=", l->n <= 1 ? "" : l->json ? "," : " ", key);

  /* Behind a name there must be room for the shortest value: two quotes. */
  put(l, name, (size_t)n, 2);
}

static void put_str(struct line *l, const char *key, const char *s, bool bare_ok) {
  size_t len = s ? strlen(s) : 0;

  put_name(l, key);
  if (s && bare_ok && !l->json && is_bare(s, len) && len <= ROOM - l->n)
    put(l, s, len, 0);
  else
    put_quoted(l, s, len);
}

static void put_field(struct line *l, const struct log_field *f) {
  char num[32];
  int n = 0;
  size_t before = l->n;

  switch (f->type) {
  case LOGF_STR:
    put_str(l, f->key, f->s, true);
    return;
  case LOGF_I64:
    n = snprintf(num, sizeof num, "%" PRId64, f->i);
    break;
  case LOGF_U64:
    n = snprintf(num, sizeof num, "%" PRIu64, f->u);
    break;
  case LOGF_HEX:
    n = snprintf(num, sizeof num, l->json ? "\"0x%" PRIx64 "\"" : "0x%" PRIx64, f->u);
    break;
  }
  put_name(l, f->key);
  /* A number is never cut in two: without room for it, its name goes as well. */
  if (!put(l, num, (size_t)n, 0))
    l->n = before;
}

static void put_time(struct line *l) {
  int64_t now = clock_wall_ns();
  time_t s = (time_t)(now / NS_PER_S);
  struct tm tm;
  char date[32], text[48];

  gmtime_r(&s, &tm);
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
  snprintf(text, sizeof text, "%s.%03dZ", date, (int)(now % NS_PER_S / NS_PER_MS));
  put_str(l, "ts", text, true);
}

void log_write(enum log_level level, const char *msg, const struct log_field *fields, unsigned n) {
  uint64_t word = atomic_load_explicit(&settings, memory_order_relaxed);
  int saved = errno, fd = (int)(uint32_t)(word >> 32);
  struct line l;

  if ((uint64_t)level > (word & 0xff))
    return;
  l.json = (word >> 8 & 0xff) == LOG_JSON;
  l.cut = false;
  l.n = 0;
  if (l.json)
    put(&l, "{", 1, 0);
  put_time(&l);
  put_str(&l, "level", level_names[level], true);
  put_str(&l, "msg", msg, false);
  for (unsigned i = 0; i < n && !l.cut; i++)
    put_field(&l, &fields[i]);

  const char *end = l.cut ? (l.json ? CUT_JSON : CUT_LOGFMT) : (l.json ? "}\n" : "\n");
  size_t len = strlen(end);
  memcpy(l.text + l.n, end, len);
  /* A line that cannot be written has no better place to go. */
  while (write(fd, l.text, l.n + len) < 0 && errno == EINTR)
    ;
  errno = saved;
}
