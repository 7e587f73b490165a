/* test_names.c - which names are taken, which code each refusal has, and that texts carry no bytes that do harm. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/names.h"
#include "common/utf8.h"
#include "tests/lib/testlib.h"

#define ARRAY(a) (sizeof(a) / sizeof *(a))

static const char *repeat(char c, size_t n) {
  static char buf[2048];
  assert_true(n < sizeof buf);
  memset(buf, c, n);
  buf[n] = '\0';
  return buf;
}

static void assert_refused(int got, int want, const struct err *e, const char *what) {
  if (got != want)
    fail_msg("%s: got %d, expected %d", what, got, want);
  assert_int_equal(e->code, want);
  assert_non_null(strstr(e->text, "accepted"));
  for (const char *p = e->text; *p; p++)
    assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
}

static void namespaces(void **state) {
  static const char *const good[] = {"a", "0", "imagenet", "im-age_net.v2", "a-", "9.9"};
  static const char *const bad[] = {"",    "-a",  ".a",        "_a",       "A",   "imageNet", "a b",
                                    "a/b", "a\n", "a\x1b[31m", "\xc3\xa9", "a:b", "..",       "a\xff"};
  struct err e;

  (void)state;
  for (size_t i = 0; i < ARRAY(good); i++)
    assert_int_equal(name_check_ns(good[i], NULL), 0);
  for (size_t i = 0; i < ARRAY(bad); i++) {
    memset(&e, 0, sizeof e);
    assert_refused(name_check_ns(bad[i], &e), -FB_ENSNAME, &e, bad[i]);
  }
  assert_refused(name_check_ns(NULL, &e), -FB_ENSNAME, &e, "NULL");
  assert_int_equal(name_check_ns(repeat('a', 64), &e), 0);
  assert_refused(name_check_ns(repeat('a', 65), &e), -FB_ENSNAME, &e, "65 bytes");
  assert_int_equal(name_check_ns("Bad Name", &e), -FB_ENSNAME);
  assert_non_null(strstr(e.text, "\"Bad Name\""));
}

static void peers(void **state) {
  static const char *const good[] = {"a", "A", "-", "gpu-node_07.rack1", "peer1"};
  static const char *const bad[] = {"", "a b", "a/b", "a:1", "\xc3\xa9", "a\t"};
  struct err e;

  (void)state;
  for (size_t i = 0; i < ARRAY(good); i++)
    assert_int_equal(name_check_peer(good[i], NULL), 0);
  for (size_t i = 0; i < ARRAY(bad); i++)
    assert_refused(name_check_peer(bad[i], &e), -EINVAL, &e, bad[i]);
  assert_refused(name_check_peer(NULL, &e), -EINVAL, &e, "NULL");
  assert_int_equal(name_check_peer(repeat('x', 63), &e), 0);
  assert_refused(name_check_peer(repeat('x', 64), &e), -EINVAL, &e, "64 bytes");
}

static void keys(void **state) {
  static const char *const good[] = {"a",     "a/b", "train/000.tar", "...",  ".hidden", "a/.b/c",          "a/..b",
                                     "b../a", " ",   "\xc3\xa9/x",    "a\nb", "a/...",   "\xf0\x9f\x98\x80"};
  static const struct {
    const char *key, *says;
  } bad[] = {
      {"/", "starts with"},     {"/a", "starts with"},
      {"a/", "ends with"},      {"a//b", "empty component"},
      {".", "a '.' component"}, {"./a", "'.'"},
      {"a/.", "'.'"},           {"a/./b", "'.'"},
      {"..", "'..'"},           {"../a", "'..'"},
      {"a/..", "'..'"},         {"a/../b", "'..'"},
      {"\xff", "UTF-8"},        {"a/\xc3", "UTF-8"},
      {"\xc0\xaf", "UTF-8"},    {"\xed\xa0\x80", "UTF-8"},
      {"a\x80", "UTF-8"},       {"\xf4\x90\x80\x80", "UTF-8"},
  };
  struct err e;

  (void)state;
  for (size_t i = 0; i < ARRAY(good); i++)
    if (name_check_key(good[i], strlen(good[i]), &e) != 0)
      fail_msg("%s", e.text);
  for (size_t i = 0; i < ARRAY(bad); i++) {
    memset(&e, 0, sizeof e);
    assert_refused(name_check_key(bad[i].key, strlen(bad[i].key), &e), -FB_EKEYNAME, &e, bad[i].key);
    if (!strstr(e.text, bad[i].says))
      fail_msg("\"%s\" does not say \"%s\"", e.text, bad[i].says);
  }
  assert_refused(name_check_key("", 0, &e), -FB_EKEYEMPTY, &e, "empty");
  assert_refused(name_check_key(NULL, 0, &e), -FB_EKEYEMPTY, &e, "NULL");
  assert_refused(name_check_key("a\0b", 3, &e), -FB_EKEYNAME, &e, "NUL");
  assert_non_null(strstr(e.text, "NUL byte"));
  assert_non_null(strstr(e.text, "\"a\\x00b\""));
  assert_refused(name_check_key("\0", 1, &e), -FB_EKEYNAME, &e, "NUL");
  assert_int_equal(name_check_key(repeat('k', 1024), 1024, &e), 0);
  assert_refused(name_check_key(repeat('k', 1025), 1025, &e), -FB_EKEYLONG, &e, "long");
  assert_non_null(strstr(e.text, "1025 bytes"));
}

static void hostports(void **state) {
  static const struct {
    const char *text, *host;
    unsigned port;
  } good[] = {
      {"localhost:7077", "localhost", 7077},
      {"127.0.0.1:1", "127.0.0.1", 1},
      {"gpu-07.rack_1.example.com:65535", "gpu-07.rack_1.example.com", 65535},
      {"[::1]:80", "::1", 80},
      {"[::]:7077", "::", 7077},
      {"[fe80::1%eth0]:80", "fe80::1%eth0", 80},
      {"[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80},
      {"host.:1", "host.", 1},
      {"1host:1", "1host", 1},
  };
  static const char *const bad[] = {
      "",
      "host",
      ":80",
      "host:",
      "host:0",
      "host:65536",
      "host:99999999999",
      "host:+1",
      "host:-1",
      "host: 1",
      "host:1 ",
      "host:0x10",
      "host:080",
      "host:http",
      "::1:80",
      "::1",
      "[::1]",
      "[::1]80",
      "[::1",
      "[]:80",
      "[host]:80",
      "[1.2.3.4]:80",
      "[::1%]:80",
      "[::1%a b]:80",
      "a b:80",
      "a/b:80",
      "256.1.1.1:80",
      "1.2.3:80",
      "1234:80:1",
      ".host:1",
      "a..b:1",
      "-host:1",
      "h\xc3\xa9:1",
      "http://h:1",
      "[::1]x:80",
      "host:1\n",
  };
  char host[NAME_HOST_MAX + 1];
  uint16_t port;
  struct err e;

  (void)state;
  for (size_t i = 0; i < ARRAY(good); i++) {
    if (name_parse_hostport(good[i].text, false, host, &port, &e) != 0)
      fail_msg("%s", e.text);
    assert_string_equal(host, good[i].host);
    assert_int_equal(port, good[i].port);
  }
  strcpy(host, "untouched");
  port = 77;
  for (size_t i = 0; i < ARRAY(bad); i++) {
    memset(&e, 0, sizeof e);
    assert_refused(name_parse_hostport(bad[i], false, host, &port, &e), -EINVAL, &e, bad[i]);
  }
  assert_refused(name_parse_hostport(NULL, false, host, &port, &e), -EINVAL, &e, "NULL");
  assert_string_equal(host, "untouched");
  assert_int_equal(port, 77);

  assert_int_equal(name_parse_hostport("0.0.0.0:0", true, host, &port, &e), 0);
  assert_int_equal(port, 0);
  assert_int_equal(name_parse_hostport("h:00", true, host, &port, &e), -EINVAL);

  char *longest = test_printf("%s:1", repeat('h', NAME_HOST_MAX)), *longer = test_printf("h%s", longest);
  assert_int_equal(name_parse_hostport(longest, false, host, &port, &e), 0);
  assert_int_equal(strlen(host), NAME_HOST_MAX);
  assert_refused(name_parse_hostport(longer, false, host, &port, &e), -EINVAL, &e, "254 bytes");
  free(longest);
  free(longer);
}

static void quoting(void **state) {
  static const struct {
    const char *name;
    size_t len;
    const char *want;
  } cases[] = {
      {"plain", 5, "\"plain\""},
      {"", 0, "\"\""},
      {NULL, 0, "(none)"},
      {"a\"b\\c", 5, "\"a\\\"b\\\\c\""},
      {"a\0b\n", 4, "\"a\\x00b\\x0a\""},
      {"\x1b[2J\x7f", 5, "\"\\x1b[2J\\x7f\""},
      {"\xc3\xa9", 2, "\"\xc3\xa9\""},
      {"\xc3", 1, "\"\\xc3\""},
      {"\xc2\x9b", 2, "\"\\xc2\\x9b\""},
      {"\xe2\x80\xa8", 3, "\"\\xe2\\x80\\xa8\""},
  };
  char q[NAME_QUOTE_MAX];

  (void)state;
  for (size_t i = 0; i < ARRAY(cases); i++)
    assert_string_equal(name_quote(q, cases[i].name, cases[i].len), cases[i].want);
  for (size_t len = 0; len < 300; len++) {
    const char *got = name_quote(q, repeat(len % 2 ? 'x' : '\n', len), len);
    size_t n = strlen(got);
    assert_true(n < NAME_QUOTE_MAX);
    if (len * (len % 2 ? 1 : 4) + 6 > NAME_QUOTE_MAX)
      assert_string_equal(got + n - 4, "\"...");
    else
      assert_int_equal(got[n - 1], '"');
  }
}

static void objects(void **state) {
  char out[NAME_OBJECT_MAX], key[NAME_KEY_MAX + 1];

  (void)state;
  assert_string_equal(name_object(out, "demo", NULL), "demo");
  assert_string_equal(name_object(out, "demo", ""), "demo/");
  assert_string_equal(name_object(out, "demo", "a \"b\\c"), "demo/a \"b\\c");
  assert_string_equal(name_object(out, "demo", "a\nb\x1b\xff"), "demo/a\\x0ab\\x1b\\xff");
  assert_string_equal(name_object(out, NULL, "k"), "/k");
  for (size_t len = 1; len <= NAME_KEY_MAX; len++) {
    memset(key, 'k', len);
    key[len] = '\0';
    size_t got = strlen(name_object(out, key, key)), ns_len = len > NAME_NS_MAX ? NAME_NS_MAX + 3 : len;
    assert_true(got < NAME_OBJECT_MAX);
    assert_memory_equal(out, key, len > NAME_NS_MAX ? NAME_NS_MAX : len);
    if (ns_len + 1 + len <= NAME_OBJECT_MAX - 4)
      assert_int_equal(got, ns_len + 1 + len);
    else
      assert_string_equal(out + got - 4, "k...");
  }
}

static void utf8(void **state) {
  static const struct {
    const char *bytes;
    size_t len;
    unsigned n;
    uint32_t c;
  } cases[] = {
      {"\0", 1, 1, 0},
      {"\x7f", 1, 1, 0x7f},
      {"\xc2\x80", 2, 2, 0x80},
      {"\xdf\xbf", 2, 2, 0x7ff},
      {"\xe0\xa0\x80", 3, 3, 0x800},
      {"\xed\x9f\xbf", 3, 3, 0xd7ff},
      {"\xee\x80\x80", 3, 3, 0xe000},
      {"\xf0\x90\x80\x80", 4, 4, 0x10000},
      {"\xf4\x8f\xbf\xbf", 4, 4, 0x10ffff},
      {"\x80", 1, 0, 0},
      {"\xc0\x80", 2, 0, 0},
      {"\xc1\xbf", 2, 0, 0},
      {"\xe0\x9f\xbf", 3, 0, 0},
      {"\xed\xa0\x80", 3, 0, 0},
      {"\xf0\x8f\xbf\xbf", 4, 0, 0},
      {"\xf4\x90\x80\x80", 4, 0, 0},
      {"\xf5\x80\x80\x80", 4, 0, 0},
      {"\xff", 1, 0, 0},
      {"\xc2", 1, 0, 0},
      {"\xe0\xa0", 2, 0, 0},
      {"\xc2x", 2, 0, 0},
      {"\xf0\x90\x80x", 4, 0, 0},
  };

  (void)state;
  for (size_t i = 0; i < ARRAY(cases); i++) {
    uint32_t c = 0;
    assert_int_equal(utf8_next(cases[i].bytes, cases[i].len, &c), cases[i].n);
    assert_int_equal(c, cases[i].c);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(namespaces), cmocka_unit_test(peers), cmocka_unit_test(keys),    cmocka_unit_test(hostports),
      cmocka_unit_test(quoting),    cmocka_unit_test(utf8),  cmocka_unit_test(objects),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
