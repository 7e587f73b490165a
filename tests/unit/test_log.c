/* test_log.c - one line per event, whatever stands in its strings, and never a byte over the limit. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/log.h"
#include "common/utf8.h"
#include "tests/lib/testlib.h"

static int fds[2];

static int setup(void **state) {
  (void)state;
  return pipe2(fds, O_NONBLOCK);
}

static int teardown(void **state) {
  (void)state;
  log_setup(LOG_INFO, LOG_LOGFMT, 2);
  close(fds[0]);
  close(fds[1]);
  return 0;
}

/* What was logged since the last call. */
static const char *logged(void) {
  static char buf[2 * LOG_LINE_MAX];
  ssize_t n = read(fds[0], buf, sizeof buf - 1);
  buf[n > 0 ? n : 0] = '\0';
  return buf;
}

/* The line behind its timestamp, which is checked here. */
static const char *after_time(const char *line, const char *open, const char *close_) {
  size_t n = strlen(open);

  assert_memory_equal(line, open, n);
  for (const char *want = "dddd-dd-ddTdd:dd:dd.dddZ"; *want; want++, n++) {
    if (*want == 'd')
      assert_in_range(line[n], '0', '9');
    else
      assert_int_equal(line[n], *want);
  }
  assert_memory_equal(line + n, close_, strlen(close_));
  return line + n + strlen(close_);
}

static void logfmt(void **state) {
  (void)state;
  log_setup(LOG_INFO, LOG_LOGFMT, fds[1]);
  log_event(LOG_INFO, "peer up", LOGF_S("peer", "gpu-7"), LOGF_U("epoch", 18446744073709551615u),
            LOGF_I("d", INT64_MIN), LOGF_X("ring", 0xabcdef));
  assert_string_equal(after_time(logged(), "ts=", " "),
                      "level=info msg=\"peer up\" peer=gpu-7 epoch=18446744073709551615 "
                      "d=-9223372036854775808 ring=0xabcdef\n");
  log_event(LOG_ERROR, "x", LOGF_S("none", NULL), LOGF_S("empty", ""), LOGF_S("blank", "a b"), LOGF_S("eq", "a=b"),
            LOGF_S("q", "a\"b"), LOGF_S("back", "a\\b"));
  assert_string_equal(
      after_time(logged(), "ts=", " "),
      "level=error msg=\"x\" none=\"\" empty=\"\" blank=\"a b\" eq=\"a=b\" q=\"a\\\"b\" back=\"a\\\\b\"\n");
  log_event(LOG_WARN, "only\na\rmessage\t");
  assert_string_equal(after_time(logged(), "ts=", " "), "level=warn msg=\"only\\na\\rmessage\\t\"\n");
  log_event(LOG_INFO, "b", LOGF_S("c", "\x01\x1b[31m\x7f"), LOGF_S("u", "caf\xc3\xa9"), LOGF_S("bad", "\xff\xc3"),
            LOGF_S("c1", "\xc2\x9b"), LOGF_S("ls", "\xe2\x80\xa8"));
  assert_string_equal(
      after_time(logged(), "ts=", " "),
      "level=info msg=\"b\" c=\"\\x01\\x1b[31m\\x7f\" u=\"caf\xc3\xa9\" bad=\"\\xff\\xc3\" c1=\"\\u009b\" "
      "ls=\"\\u2028\"\n");
}

static void json(void **state) {
  (void)state;
  log_setup(LOG_DEBUG, LOG_JSON, fds[1]);
  log_event(LOG_DEBUG, "peer \"up\"\n", LOGF_S("peer", "gpu-7"), LOGF_U("n", 7), LOGF_I("i", -7), LOGF_X("ring", 0xff),
            LOGF_S("none", NULL), LOGF_S("c", "\x01\x7f\xff\xc2\x9b\\"), LOGF_S("u", "\xe4\xb8\xad"));
  assert_string_equal(
      after_time(logged(), "{\"ts\":\"", "\""),
      ",\"level\":\"debug\",\"msg\":\"peer \\\"up\\\"\\n\",\"peer\":\"gpu-7\",\"n\":7,\"i\":-7,"
      "\"ring\":\"0xff\",\"none\":\"\",\"c\":\"\\u0001\\u007f\\u00ff\\u009b\\\\\",\"u\":\"\xe4\xb8\xad\"}\n");
}

static void levels(void **state) {
  (void)state;
  log_setup(LOG_WARN, LOG_LOGFMT, fds[1]);
  assert_true(log_enabled(LOG_ERROR));
  assert_true(log_enabled(LOG_WARN));
  assert_false(log_enabled(LOG_INFO));
  log_event(LOG_INFO, "no");
  log_write(LOG_DEBUG, "no", NULL, 0);
  assert_string_equal(logged(), "");
  log_event(LOG_WARN, "yes");
  assert_non_null(strstr(logged(), "yes"));
}

/* A JSON string's end, or NULL where none is. */
static const char *json_string(const char *p) {
  if (*p++ != '"')
    return NULL;
  while (*p != '"') {
    uint32_t c;
    unsigned n = utf8_next(p, strlen(p), &c);
    if (n == 0 || c < 0x20)
      return NULL;
    if (*p == '\\') {
      n = p[1] == 'u' ? 6 : 2;
      if (!strchr("\"\\nrtu", p[1]) || strlen(p) < n)
        return NULL;
    }
    p += n;
  }
  return p + 1;
}

static bool is_json_object(const char *p) {
  if (*p++ != '{')
    return false;
  for (;;) {
    p = json_string(p);
    if (!p || *p++ != ':')
      return false;
    if (*p == '"')
      p = json_string(p);
    else if (strncmp(p, "true", 4) == 0)
      p += 4;
    else
      p += strspn(p, "-0123456789");
    if (!p)
      return false;
    if (*p == '}')
      return strcmp(p, "}\n") == 0;
    if (*p++ != ',')
      return false;
  }
}

static void long_lines_are_cut_and_say_so(void **state) {
  static char text[3 * LOG_LINE_MAX];
  static const char *const units[] = {"x", "\n", "\xff", "\xe4\xb8\xad", "a b"};
  unsigned cut = 0, whole = 0;

  (void)state;
  for (int format = LOG_LOGFMT; format <= LOG_JSON; format++) {
    log_setup(LOG_INFO, (enum log_format)format, fds[1]);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
      size_t unit = strlen(units[u]);
      for (size_t want = 0; want<4400; want += want> 3800 && want < 4100 ? 1 : 97) {
        size_t n = 0;
        for (; n + unit <= want; n += unit)
          memcpy(text + n, units[u], unit);
        text[n] = '\0';
        log_event(LOG_INFO, "m", LOGF_S("key", text), LOGF_U("number", 123456789), LOGF_S("behind", "b"));
        const char *line = logged();
        size_t len = strlen(line);
        assert_true(len > 0 && len <= LOG_LINE_MAX);
        assert_ptr_equal(strchr(line, '\n'), line + len - 1);
        bool is_cut = strstr(line, format == LOG_JSON ? ",\"cut\":true}\n" : " cut=true\n") != NULL;
        bool has_all = strstr(line, format == LOG_JSON ? "\"behind\":\"b\"" : " behind=b") != NULL;
        assert_int_equal(is_cut, !has_all);
        cut += is_cut;
        whole += has_all;
        if (format == LOG_JSON && !is_json_object(line))
          fail_msg("not JSON: %s", line);
      }
    }
  }
  assert_true(cut > 100 && whole > 100);
}

static void errno_survives(void **state) {
  (void)state;
  log_setup(LOG_INFO, LOG_LOGFMT, -1);
  errno = ENOTTY;
  log_event(LOG_ERROR, "nowhere to go");
  assert_int_equal(errno, ENOTTY);
}

#define THREADS 4
#define LINES 400

static void *chatter(void *arg) {
  char text[600];

  memset(text, 'a' + (int)(intptr_t)arg, sizeof text - 1);
  text[sizeof text - 1] = '\0';
  for (int i = 0; i < LINES; i++) {
    if (i % 50 == 0) /* settings change while others write */
      log_setup(LOG_INFO, LOG_LOGFMT, fds[1]);
    log_event(LOG_INFO, "line", LOGF_S("text", text));
  }
  return NULL;
}

static void lines_of_threads_do_not_mix(void **state) {
  char *dir = test_tmpdir(), *path = test_printf("%s/log", dir);
  int fd = open(path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600), old = fds[1];
  pthread_t threads[THREADS];
  unsigned lines = 0;

  (void)state;
  assert_true(fd >= 0);
  fds[1] = fd;
  log_setup(LOG_INFO, LOG_LOGFMT, fd);
  for (intptr_t i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, chatter, (void *)i), 0);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  fds[1] = old;
  close(fd);

  char *all = test_read_file(path, NULL);
  for (char *line = all, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
    *end = '\0';
    const char *text = strstr(after_time(line, "ts=", " "), " text=");
    assert_non_null(text);
    text += 6;
    assert_int_equal(strlen(text), 599);
    for (int i = 0; i < 599; i++)
      assert_int_equal(text[i], text[0]);
  }
  assert_int_equal(lines, THREADS * LINES);
  free(all);
  test_rmtree(dir);
  free(dir);
  free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(logfmt, setup, teardown),
      cmocka_unit_test_setup_teardown(json, setup, teardown),
      cmocka_unit_test_setup_teardown(levels, setup, teardown),
      cmocka_unit_test_setup_teardown(long_lines_are_cut_and_say_so, setup, teardown),
      cmocka_unit_test_setup_teardown(errno_survives, setup, teardown),
      cmocka_unit_test_setup_teardown(lines_of_threads_do_not_mix, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
