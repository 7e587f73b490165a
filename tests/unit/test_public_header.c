/* test_public_header.c - forebay.h stands alone (in C here, in C++ by ctest), says what err.h says, and is all that the
 * library shows. */
#include <forebay/forebay.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/err.h" /* leaves the codes' names to forebay.h, which came first */

static void test_codes(void **state) {
  (void)state;
#define X(name, number, text)                                                                                          \
  _Static_assert(name == (number), "forebay.h and err.h differ in " #name);                                            \
  assert_string_equal(fb_error_name(-name), #name);                                                                    \
  assert_string_equal(fb_error_name(name), #name);                                                                     \
  assert_string_equal(fb_error_describe(-name), text);
  FB_CODES(X)
#undef X
  assert_string_equal(fb_error_name(-2), "ENOENT");
  assert_string_equal(fb_error_name(0), "OK");
}

/* One more than the last of the table has no name: a code that was added to the header alone would show here. */
static void test_no_more_codes(void **state) {
  int last = 0;

  (void)state;
#define X(name, number, text) last = number > last ? number : last;
  FB_CODES(X)
#undef X
  assert_string_equal(fb_error_name(-(last + 1)), "E?");
}

static void test_error_layout(void **state) {
  (void)state;
  assert_int_equal(sizeof(struct fb_error), sizeof(struct err));
  assert_int_equal(sizeof((struct fb_error *)0)->text, ERR_TEXT_MAX);
}

static void test_version(void **state) {
  (void)state;
  assert_string_equal(fb_version(), FOREBAY_VERSION);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_codes),
      cmocka_unit_test(test_no_more_codes),
      cmocka_unit_test(test_error_layout),
      cmocka_unit_test(test_version),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
