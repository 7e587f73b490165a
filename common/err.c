/* err.c - error texts and the names of codes. */
#include "common/err.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"

int err_vset(struct err *e, int code, const char *fmt, va_list ap) {
  if (!e)
    return code;
  e->code = code;
  if (vsnprintf(e->text, sizeof e->text, fmt, ap) >= (int)sizeof e->text)
    utf8_trim(e->text);
  return code;
}

/* In parentheses: err.h makes it a macro for the analyzer. */
int(err_set)(struct err *e, int code, const char *fmt, ...) {
  va_list ap;

  va_start(ap, fmt);
  err_vset(e, code, fmt, ap);
  va_end(ap);
  return code;
}

int err_prefix(struct err *e, const char *fmt, ...) {
  char old[ERR_TEXT_MAX];
  va_list ap;

  if (!e)
    return 0;
  memcpy(old, e->text, sizeof old);
  va_start(ap, fmt);
  int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
  va_end(ap);
  if (n >= 0 && (size_t)n + 3 <= sizeof e->text) {
    size_t room = sizeof e->text - (size_t)n - 3, len = strnlen(old, sizeof old - 1);
    len = len < room ? len : room;
    memcpy(e->text + n, ": ", 2);
    memcpy(e->text + n + 2, old, len);
    e->text[(size_t)n + 2 + len] = '\0';
  }
  utf8_trim(e->text);
  return e->code;
}

/* Without its sign; INT_MIN, which has no positive twin, is nobody's code either. */
static int magnitude(int code) { return code == INT_MIN ? INT_MAX : abs(code); }

const char *err_name(int code) {
  switch (magnitude(code)) {
  case 0:
    return "OK";
#define X(name, number, text)                                                                                          \
  case number:                                                                                                         \
    return #name;
    FB_CODES(X)
#undef X
  default: {
    const char *name = strerrorname_np(magnitude(code));
    return name ? name : "E?";
  }
  }
}

const char *err_describe(int code) {
  switch (magnitude(code)) {
  case 0:
    return "success";
#define X(name, number, text)                                                                                          \
  case number:                                                                                                         \
    return text;
    FB_CODES(X)
#undef X
  default: {
    const char *text = strerrordesc_np(magnitude(code));
    return text ? text : "unknown error";
  }
  }
}
