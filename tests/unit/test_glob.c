/* test_glob.c - globs: a table of cases, a slow matcher to compare with, and patterns made to explode. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/glob.h"
#include "tests/lib/testlib.h"

static const struct {
  const char *pattern, *key;
  bool match;
} cases[] = {
    {"", "", true},
    {"", "a", false},
    {"a", "", false},
    {"abc", "abc", true},
    {"abc", "abd", false},
    {"abc", "abcd", false},
    {"abc", "ab", false},
    {"a/b", "a/b", true},
    /* ? */
    {"?", "a", true},
    {"?", "", false},
    {"?", "/", false},
    {"a?c", "a/c", false},
    {"??", "ab", true},
    {"?", "\xc3\xa9", true},
    {"??", "\xc3\xa9", false},
    {"?", "\xe4\xb8\xad", true},
    /* * */
    {"*", "", true},
    {"*", "abc", true},
    {"*", "a/b", false},
    {"*.tar", "000.tar", true},
    {"*.tar", ".tar", true},
    {"*.tar", "000.tar.idx", false},
    {"*.tar", "train/000.tar", false},
    {"train/*.tar", "train/000.tar", true},
    {"train/*", "train/a/b", false},
    {"*/*", "a/b", true},
    {"*/*", "a/b/c", false},
    {"a*b*c", "aXbYbZc", true},
    {"a*b*c", "aXbYbZ", false},
    {"*a/b*c", "xa/ba/bc", false},
    {"*ab", "aab", true},
    {"*?", "", false},
    {"*?", "ab", true},
    /* ** */
    {"**", "", true},
    {"**", "a/b/c", true},
    {"***", "a/b/c", true},
    {"**.tar", "a/b.tar", true},
    {"a**z", "a/b/z", true},
    {"a**z", "az", true},
    {"a/**", "a/b", true},
    {"a/**", "a/b/c", true},
    {"a/**", "a", false},
    {"a/**", "ab/c", false},
    {"**/x", "x", true},
    {"**/x", "a/x", true},
    {"**/x", "a/b/x", true},
    {"**/x", "ax", false},
    {"**/x", "a/bx", false},
    {"a/**/b", "a/b", true},
    {"a/**/b", "a/x/b", true},
    {"a/**/b", "a/x/y/b", true},
    {"a/**/b", "ab", false},
    {"a/**/b", "a/xb", false},
    {"a**/b", "a/b", true},
    {"a**/b", "ax/y/b", true},
    {"a**/b", "b", false},
    {"**/**/x", "x", true},
    {"**/**/x", "a/x", true},
    {"**/a/**/b", "a/b", true},
    {"**/a/**/b", "z/a/y/a/b", true},
    {"**/*.tar", "000.tar", true},
    {"**/*.tar", "train/shards/000.tar", true},
    {"**/*.tar", "train/shards/000.tgz", false},
    {"*/**/*", "a/b", true},
    {"*/**/*", "a", false},
    /* [...] */
    {"[abc]", "b", true},
    {"[abc]", "d", false},
    {"[a-c]", "c", true},
    {"[a-c]", "d", false},
    {"[!a-c]", "d", true},
    {"[^a-c]", "a", false},
    {"[!a]", "/", false},
    {"[+-9]", "/", false},
    {"[+-9]", "5", true},
    {"[]]", "]", true},
    {"[]a]", "a", true},
    {"[!]]", "]", false},
    {"[!]]", "a", true},
    {"[a-]", "-", true},
    {"[-a]", "-", true},
    {"[\\]]", "]", true},
    {"[\\!a]", "!", true},
    {"[a!]", "!", true},
    {"[*]", "*", true},
    {"[*]", "x", false},
    {"[\xc3\xa0-\xc3\xbf]", "\xc3\xa9", true},
    {"[\xc3\xa0-\xc3\xbf]", "e", false},
    {"shard-[0-9][0-9].tar", "shard-07.tar", true},
    {"shard-[0-9][0-9].tar", "shard-7.tar", false},
    /* backslash */
    {"\\*", "*", true},
    {"\\*", "a", false},
    {"\\?\\[\\\\", "?[\\", true},
    {"\\a", "a", true},
    {"*\\*", "ab*", true},
    {"\\**", "*abc", true},
    /* keys that are not UTF-8 match wildcards only */
    {"*", "\xff\xfe", true},
    {"??", "\xff\xfe", true},
    {"[!a]", "\xff", true},
    /* malformed patterns match nothing */
    {"[", "[", false},
    {"a\\", "a", false},
    {"\xff", "\xff", false},
};

static void table(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (glob_match(cases[i].pattern, cases[i].key) != cases[i].match)
      fail_msg("pattern \"%s\" and key \"%s\": expected %d", cases[i].pattern, cases[i].key, cases[i].match);
}

static void malformed_ones_are_named(void **state) {
  static const char *const bad[] = {"[",     "a[",    "[]",    "[!]",    "[a",    "[a-",     "[z-a]",
                                    "[a/b]", "[/-9]", "[!/]",  "\\",     "a/b\\", "[\\",     "[a\\",
                                    "[a-\\", "\xff",  "a\xc3", "[\xc3]", "[a]b[", "**/[b-a]"};
  char longest[GLOB_PATTERN_MAX + 2];
  struct err e = {0};

  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    memset(&e, 0, sizeof e);
    if (glob_check(bad[i], &e) != -EINVAL)
      fail_msg("\"%s\" was taken", bad[i]);
    assert_int_equal(e.code, -EINVAL);
    assert_non_null(strstr(e.text, "pattern \""));
    assert_non_null(strstr(e.text, "accepted"));
    assert_false(glob_match(bad[i], ""));
  }
  for (size_t i = 0; i < sizeof cases / sizeof *cases - 3; i++)
    assert_int_equal(glob_check(cases[i].pattern, NULL), 0);
  memset(longest, 'a', sizeof longest);
  longest[GLOB_PATTERN_MAX + 1] = '\0';
  assert_int_equal(glob_check(longest, &e), -EINVAL);
  assert_false(glob_match(longest, longest));
  longest[GLOB_PATTERN_MAX] = '\0';
  assert_int_equal(glob_check(longest, &e), 0);
  assert_true(glob_match(longest, longest));
  memset(longest, '?', GLOB_PATTERN_MAX);
  assert_int_equal(glob_check(longest, &e), 0);
}

/* The same rules by plain recursion, for patterns of a, b, /, ? and *. Exponential, so for short ones only. */
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

static void agrees_with_plain_recursion(void **state) {
  struct rng rng;
  unsigned matches = 0;

  (void)state;
  rng_init(&rng, test_seed("FOREBAY_TEST_SEED"));
  for (int round = 0; round < 200000; round++) {
    char pattern[12] = "", key[10] = "";
    size_t pattern_len = rng_below(&rng, sizeof pattern), key_len = rng_below(&rng, sizeof key);

    for (size_t i = 0; i < pattern_len; i++)
      pattern[i] = "ab/?***"[rng_below(&rng, 7)];
    for (size_t i = 0; i < key_len; i++)
      key[i] = "aab/"[rng_below(&rng, 4)];
    bool want = slow_match(pattern, pattern, key);
    matches += want;
    if (glob_match(pattern, key) != want)
      fail_msg("pattern \"%s\" and key \"%s\": expected %d", pattern, key, want);
  }
  assert_true(matches > 1000);
}

static void nothing_explodes(void **state) {
  static const char *const units[] = {"*a", "**a", "**/", "*?", "a*", "**a*", "[ab]*", "**/*a/"};
  char pattern[GLOB_PATTERN_MAX + 1], key[1025];
  int64_t start = clock_mono_ns();

  (void)state;
  for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
    size_t n = 0, unit = strlen(units[u]);
    while (n + unit + 1 <= GLOB_PATTERN_MAX) {
      memcpy(pattern + n, units[u], unit);
      n += unit;
    }
    memcpy(pattern + n, "b", 2);
    for (int slashes = 0; slashes < 2; slashes++) {
      for (size_t i = 0; i < 1024; i++)
        key[i] = slashes && i % 2 ? '/' : 'a';
      key[1024] = '\0';
      assert_int_equal(glob_check(pattern, NULL), 0);
      assert_false(glob_match(pattern, key));
    }
  }
  /* Milliseconds each at worst; a matcher that backtracks would not come back. The bar leaves room for sanitizers. */
  assert_true(clock_mono_ns() - start < 10 * NS_PER_S);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(table),
      cmocka_unit_test(malformed_ones_are_named),
      cmocka_unit_test(agrees_with_plain_recursion),
      cmocka_unit_test(nothing_explodes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
