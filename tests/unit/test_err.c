/* test_err.c - codes have names, texts are cut and never overrun. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/err.h"
#include "tests/lib/testlib.h"

static const struct {
  const char *name;
  int number;
  const char *text;
} codes[] = {
#define X(name, number, text) {#name, number, text},
    FB_CODES(X)
#undef X
};
#define N_CODES (sizeof codes / sizeof *codes)

static void every_code_has_its_own_number_name_and_text(void **state) {
  (void)state;
  for (size_t i = 0; i < N_CODES; i++) {
    assert_true(codes[i].number > 5000 && codes[i].number < 6000);
    assert_string_equal(err_name(codes[i].number), codes[i].name);
    assert_string_equal(err_name(-codes[i].number), codes[i].name);
    assert_string_equal(err_describe(-codes[i].number), codes[i].text);
    for (size_t j = 0; j < i; j++) {
      assert_int_not_equal(codes[i].number, codes[j].number);
      assert_string_not_equal(codes[i].text, codes[j].text);
    }
  }
  assert_int_equal(FB_ENONS, 5001);
}

/* The public header cannot be included beside err.h (it repeats the names), so its text is read. */
static void public_header_repeats_the_codes(void **state) {
  char *text = test_read_file("client/include/forebay/forebay.h", NULL);
  size_t found = 0;

  (void)state;
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
    char name[64];
    int number;

    if (sscanf(line, " FB_%60[A-Z] = %d ,", name, &number) != 2)
      continue;
    assert_true(found < N_CODES);
    assert_string_equal(name, codes[found].name + 3);
    assert_int_equal(number, codes[found].number);
    if (!strstr(line, codes[found].text))
      fail_msg("forebay.h describes FB_%s otherwise than \"%s\"", name, codes[found].text);
    found++;
  }
  assert_int_equal(found, N_CODES);
  free(text);
}

static void errnos_and_strangers(void **state) {
  (void)state;
  assert_string_equal(err_name(0), "OK");
  assert_string_equal(err_describe(0), "success");
  assert_string_equal(err_name(-ENOENT), "ENOENT");
  assert_string_equal(err_name(EIO), "EIO");
  assert_string_equal(err_describe(-ENOENT), "No such file or directory");
  assert_string_equal(err_name(4999), "E?");
  assert_string_equal(err_describe(-99999), "unknown error");
  assert_string_equal(err_name(INT_MIN), "E?");
}

static void texts_are_set_and_cut(void **state) {
  struct err e = {0};
  char longer[2 * ERR_TEXT_MAX];

  (void)state;
  assert_int_equal(err_set(&e, -ENOSPC, "tier %s is full", "ram"), -ENOSPC);
  assert_int_equal(e.code, -ENOSPC);
  assert_string_equal(e.text, "tier ram is full");
  assert_int_equal(err_set(NULL, -EIO, "nobody reads %d", 1), -EIO);

  memset(longer, 'x', sizeof longer);
  longer[sizeof longer - 1] = '\0';
  err_set(&e, -EIO, "%s", longer);
  assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
}

static void prefixes_go_in_front(void **state) {
  struct err e = {0};
  char longer[2 * ERR_TEXT_MAX];

  (void)state;
  err_set(&e, -EIO, "read failed");
  assert_int_equal(err_prefix(&e, "block %d", 7), -EIO);
  assert_string_equal(e.text, "block 7: read failed");
  assert_int_equal(err_prefix(NULL, "x"), 0);

  /* Whatever the two lengths are: a whole prefix, and as much of the old text as fits. */
  memset(longer, 'x', sizeof longer);
  for (size_t len = 0; len < sizeof longer; len++) {
    longer[len] = '\0';
    err_set(&e, -EIO, "%0*d", ERR_TEXT_MAX + 10, 0);
    err_prefix(&e, "%s", longer);
    longer[len] = 'x';
    size_t got = strlen(e.text), expect = len > ERR_TEXT_MAX - 1 ? ERR_TEXT_MAX - 1 : len;
    assert_true(got < ERR_TEXT_MAX);
    assert_memory_equal(e.text, longer, expect);
    if (len + 2 < ERR_TEXT_MAX - 1) {
      assert_memory_equal(e.text + len, ": 0", 3);
      assert_int_equal(got, ERR_TEXT_MAX - 1);
    }
  }
}

/* A cut never leaves a part of a character, wherever it falls. */
static void cuts_fall_between_characters(void **state) {
  static const char *const characters[] = {"x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\xa6\x80"};
  char many[2 * ERR_TEXT_MAX], prefix[8];
  struct err e = {0};

  (void)state;
  for (size_t i = 0; i < sizeof characters / sizeof *characters; i++) {
    size_t width = strlen(characters[i]);
    many[0] = '\0';
    for (size_t n = 0; n + width < sizeof many; n += width)
      strcpy(many + n, characters[i]);
    for (int before = 0; before < 4; before++) {
      snprintf(prefix, sizeof prefix, "%.*s", before, "abc");
      err_set(&e, -EIO, "%s%s", prefix, many);
      size_t len = strlen(e.text);
      assert_int_equal((len - (size_t)before) % width, 0);
      assert_in_range(len, ERR_TEXT_MAX - width, ERR_TEXT_MAX - 1);
      err_prefix(&e, "%s", "p");
      len = strlen(e.text);
      assert_int_equal((len - 3 - (size_t)before) % width, 0);
      assert_in_range(len, ERR_TEXT_MAX - width, ERR_TEXT_MAX - 1);
    }
  }
  err_set(&e, -EIO, "%s", "");
  assert_string_equal(e.text, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_code_has_its_own_number_name_and_text),
      cmocka_unit_test(public_header_repeats_the_codes),
      cmocka_unit_test(errnos_and_strangers),
      cmocka_unit_test(texts_are_set_and_cut),
      cmocka_unit_test(prefixes_go_in_front),
      cmocka_unit_test(cuts_fall_between_characters),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
