/* fuzz_glob.c - input: a pattern, a NUL byte, a key. Compared with plain recursion where that is cheap enough, and held
 * to what must be true of any key: an escaped one matches itself. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/glob.h"

/* Patterns without brackets, over ASCII. */
static bool slow_match(const char *start, const char *p, const char *s) {
  if (*p == '\0')
    return *s == '\0';
  if (*p == '*') {
    size_t stars = strspn(p, "*");
    const char *rest = p + stars;

    if (stars > 1 && (p == start || p[-1] == '/') && *rest == '/' && slow_match(start, rest + 1, s))
      return true;
    for (;; s++) {
      if (slow_match(start, rest, s))
        return true;
      if (*s == '\0' || (*s == '/' && stars == 1))
        return false;
    }
  }
  return *s != '\0' && (*p == *s || (*p == '?' && *s != '/')) && slow_match(start, p + 1, s + 1);
}

static bool is_simple(const char *pattern, const char *key) {
  for (const char *p = pattern; *p; p++)
    if (*p == '[' || *p == '\\' || (uint8_t)*p >= 0x80)
      return false;
  for (const char *k = key; *k; k++)
    if ((uint8_t)*k >= 0x80)
      return false;
  return strlen(pattern) <= 10 && strlen(key) <= 10;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *nul = memchr(data, '\0', size);
  size_t pattern_len = nul ? (size_t)(nul - data) : size;
  char *pattern = strndup((const char *)data, pattern_len);
  char *key = strndup(nul ? (const char *)nul + 1 : "", nul ? size - pattern_len - 1 : 0);
  struct err e = {0};

  int r = glob_check(pattern, &e);
  bool match = glob_match(pattern, key);
  if (r != 0 && (match || !*e.text))
    abort();
  if (r == 0 && is_simple(pattern, key) && match != slow_match(pattern, pattern, key))
    abort();

  char *escaped = malloc(2 * strlen(key) + 1);
  size_t n = 0;
  for (const char *k = key; *k; k++) {
    if (strchr("*?[\\", *k))
      escaped[n++] = '\\';
    escaped[n++] = *k;
  }
  escaped[n] = '\0';
  if (glob_check(escaped, NULL) == 0 && !glob_match(escaped, key))
    abort();
  if (!glob_match("**", key))
    abort();
  free(escaped);
  free(pattern);
  free(key);
  return 0;
}
