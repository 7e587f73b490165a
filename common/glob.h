/* glob.h - patterns over keys, as prestage and invalidate take them.
 *
 *   ?        one character (of UTF-8), but not '/'
 *   *        any characters but '/', also none
 *   **       any characters, '/' too; as a whole component followed by '/' it also stands for no component at all, so
 *            that **\/x.tar matches x.tar, and a/ ** /b (without the blanks) matches a/b
 *   [a-z_]   one of these characters; [!...] or [^...] none of them; never '/'. A ']' right behind the opening is
 * itself \c       the character c itself
 *
 * Everything else stands for itself; a match covers the whole key. */
#ifndef FB_COMMON_GLOB_H
#define FB_COMMON_GLOB_H

#include <stdbool.h>

#include "common/err.h"

#define GLOB_PATTERN_MAX 1024u

/* True if the pattern matches the key. False for a pattern that glob_check refuses. Time is at most pattern length x
 * key length, whatever they hold; no allocation. */
bool glob_match(const char *pattern, const char *key);

/* 0, or -EINVAL with a text: longer than GLOB_PATTERN_MAX bytes, not UTF-8, ends in a backslash, '[' without ']', a
 * range that runs backwards, or '/' between brackets. An empty pattern is well-formed and matches the empty key only.
 */
int glob_check(const char *pattern, struct err *e);

#endif
