/* utf8.h - one strict step of UTF-8 decoding, for everything that looks at names from outside. */
#ifndef FB_COMMON_UTF8_H
#define FB_COMMON_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Decodes the character at p[0..len), len > 0. Returns its length, 1..4, or 0 when the bytes there are not UTF-8 as
 * RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF. */
static inline unsigned utf8_next(const void *text, size_t len, uint32_t *ret) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const uint8_t *p = text;
  uint32_t c = p[0];
  unsigned n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;

  if (n == 0 || n > len)
    return 0;
  if (n > 1)
    c &= 0x7fu >> n;
  for (unsigned i = 1; i < n; i++) {
    if ((p[i] & 0xc0) != 0x80)
      return 0;
    c = c << 6 | (p[i] & 0x3f);
  }
  if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
    return 0;
  *ret = c;
  return n;
}

/* Takes the rest of a character away that a text ends with because it was cut: texts travel in fields that have to be
 * UTF-8. */
static inline void utf8_trim(char *text) {
  size_t len = strlen(text), start = len;
  uint32_t c;

  while (start > 0 && len - start < 4 && ((uint8_t)text[--start] & 0xc0) == 0x80)
    ;
  if (len > 0 && utf8_next(text + start, len - start, &c) != len - start)
    text[start] = '\0';
}

#endif
