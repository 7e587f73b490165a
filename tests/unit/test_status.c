/* test_status.c - every code has the status that docs/protocol.md promises, and the way back leads to the same status.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/err.h"
#include "proto/status.h"
#include "tests/lib/testlib.h"

static const char *const names[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

static const struct {
  int code;
  const char *name;
} fb_codes[] = {
#define X(name, number, text) {number, #name},
    FB_CODES(X)
#undef X
};

static void either_sign_is_the_same(void **state) {
  (void)state;
  assert_int_equal(status_from_code(0), 0);
  for (int code = 1; code < 6000; code++) {
    int status = status_from_code(code);
    assert_int_equal(status_from_code(-code), status);
    assert_in_range(status, 1, 16); /* a failure is never OK */
  }
}

static void what_grpc_means_by_them(void **state) {
  static const struct {
    int code;
    const char *status;
  } want[] = {
      {ENOENT, "NOT_FOUND"},
      {EEXIST, "ALREADY_EXISTS"},
      {EACCES, "PERMISSION_DENIED"},
      {EPERM, "PERMISSION_DENIED"},
      {EROFS, "PERMISSION_DENIED"},
      {ENOSPC, "RESOURCE_EXHAUSTED"},
      {EDQUOT, "RESOURCE_EXHAUSTED"},
      {ENOMEM, "RESOURCE_EXHAUSTED"},
      {EMFILE, "RESOURCE_EXHAUSTED"},
      {EINVAL, "INVALID_ARGUMENT"},
      {ENAMETOOLONG, "INVALID_ARGUMENT"},
      {EISDIR, "FAILED_PRECONDITION"},
      {ENOTDIR, "FAILED_PRECONDITION"},
      {EIO, "INTERNAL"},
      {EBADMSG, "DATA_LOSS"},
      {ETIMEDOUT, "DEADLINE_EXCEEDED"},
      {ESTALE, "ABORTED"},
      {ENOSYS, "UNIMPLEMENTED"},
      {EOPNOTSUPP, "UNIMPLEMENTED"},
      {ECANCELED, "CANCELLED"},
      {ECONNREFUSED, "UNAVAILABLE"},
      {EAGAIN, "UNAVAILABLE"},
      {FB_ENONS, "NOT_FOUND"},
      {FB_ENSEXISTS, "ALREADY_EXISTS"},
      {FB_EKEYEMPTY, "INVALID_ARGUMENT"},
      {FB_EKEYLONG, "INVALID_ARGUMENT"},
      {FB_EKEYNAME, "INVALID_ARGUMENT"},
      {FB_EPASTEND, "OUT_OF_RANGE"},
      {FB_ETOOBIG, "RESOURCE_EXHAUSTED"},
      {FB_ERING, "FAILED_PRECONDITION"},
      {FB_ECHANGED, "ABORTED"},
      {FB_ECRC, "DATA_LOSS"},
      {FB_EPEERDOWN, "UNAVAILABLE"},
      {FB_EBUSY, "RESOURCE_EXHAUSTED"},
      {4000, "UNKNOWN"},
      {5999, "INTERNAL"},
  };

  (void)state;
  for (size_t i = 0; i < sizeof want / sizeof *want; i++)
    assert_string_equal(names[status_from_code(want[i].code)], want[i].status);
}

/* A foreign server's bare status becomes a code of the same status. UNAUTHENTICATED has no code of ours. */
static void the_way_back_keeps_the_status(void **state) {
  (void)state;
  assert_int_equal(status_to_code(0), 0);
  for (int status = 1; status <= 16; status++) {
    int code = status_to_code(status);
    assert_true(code < 0);
    assert_string_not_equal(err_name(code), "E?");
    assert_int_equal(status_from_code(code), status == 16 ? 7 : status);
  }
  assert_int_equal(status_to_code(14), -FB_EPEERDOWN);
  assert_int_equal(status_to_code(4), -ETIMEDOUT);
  assert_int_equal(status_to_code(1), -ECANCELED);
  assert_int_equal(status_to_code(12), -ENOSYS);
  assert_int_equal(status_to_code(8), -FB_EBUSY);
  assert_true(status_to_code(17) < 0);
  assert_true(status_to_code(-1) < 0);
  assert_true(status_to_code(1 << 30) < 0);
}

/* No code of ours was forgotten: INTERNAL is what the table's default gives, and FB_EPROTO alone means it. */
static void every_code_of_ours_is_in_the_table(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof fb_codes / sizeof *fb_codes; i++)
    if (fb_codes[i].code != FB_EPROTO)
      assert_string_not_equal(names[status_from_code(fb_codes[i].code)], "INTERNAL");
}

/* The protocol's page has a row "| NUMBER | `NAME` | STATUS |" for each. */
static void the_documentation_says_the_same(void **state) {
  size_t len;
  char *page = test_read_file("docs/protocol.md", &len);

  (void)state;
  for (size_t i = 0; i < sizeof fb_codes / sizeof *fb_codes; i++) {
    char *row = test_printf("| %d | `%s` | %s |", fb_codes[i].code, fb_codes[i].name,
                            names[status_from_code(fb_codes[i].code)]);
    if (!strstr(page, row))
      fail_msg("docs/protocol.md lacks the row: %s", row);
    free(row);
  }
  free(page);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(either_sign_is_the_same),         cmocka_unit_test(what_grpc_means_by_them),
      cmocka_unit_test(the_way_back_keeps_the_status),   cmocka_unit_test(every_code_of_ours_is_in_the_table),
      cmocka_unit_test(the_documentation_says_the_same),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
