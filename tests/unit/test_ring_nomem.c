/* test_ring_nomem.c - the ring when memory runs out: every allocation is failed once. The ring's files are compiled in
 * here a second time, over allocators that fail on demand; leaks and stray frees show under ASan. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int left = -1; /* allocations that still succeed; -1 = all */

static bool fails(void) { return left >= 0 && left-- == 0; }

static void *failing_malloc(size_t size) { return fails() ? NULL : malloc(size); }
static void *failing_calloc(size_t n, size_t size) { return fails() ? NULL : calloc(n, size); }
static void *failing_realloc(void *p, size_t size) { return fails() ? NULL : realloc(p, size); }
static void *failing_reallocarray(void *p, size_t n, size_t size) { return fails() ? NULL : reallocarray(p, n, size); }

#define malloc failing_malloc
#define calloc failing_calloc
#define realloc failing_realloc
#define reallocarray failing_reallocarray
/* NOLINTBEGIN(bugprone-suspicious-include): the sources are meant. */
#include "common/ring.c"
#include "common/ring_place.c"
#include "common/ring_points.c"
/* NOLINTEND(bugprone-suspicious-include) */

static void every_allocation_may_fail(void **state) {
  const struct ring_member members[] = {{"a", "h:1", 1, "x"}, {"b", "h:2", 3, "x"}, {"c", "h:3", 2, "y"}};
  struct ring *const untouched = (struct ring *)&left;
  int code = -ENOMEM, failed = 0;

  (void)state;
  for (; code == -ENOMEM; failed++) {
    struct ring *r = untouched;
    struct err e = {0};
    left = failed;
    code = ring_new(&r, members, 3, 1024, 1, &e);
    left = -1;
    if (code == -ENOMEM) {
      assert_ptr_equal(r, untouched);
      assert_int_equal(e.code, -ENOMEM);
      assert_non_null(strstr(e.text, "out of memory for a ring of 3 peers"));
    } else {
      assert_int_equal(code, 0);
      assert_int_equal(ring_size(r), 3);
      ring_unref(&r);
    }
  }
  assert_true(failed > 15); /* they were all on the way */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_may_fail)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
