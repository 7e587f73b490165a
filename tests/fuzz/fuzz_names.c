/* fuzz_names.c - any bytes as every kind of name: whatever is taken obeys the rule, and texts stay printable. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/names.h"
#include "common/utf8.h"

static void check_printable(const char *s) {
  size_t left = strlen(s);

  while (left > 0) {
    uint32_t c;
    unsigned n = utf8_next(s, left, &c);
    if (n == 0 || c < 0x20 || (c >= 0x7f && c < 0xa0)) {
      fprintf(stderr, "unprintable: %s\n", s);
      abort();
    }
    s += n;
    left -= n;
  }
}

/* The rule for keys once more, by cutting at every '/'. */
static bool is_good_key(const char *key, size_t len) {
  if (len == 0 || len > NAME_KEY_MAX || memchr(key, '\0', len))
    return false;
  for (size_t at = 0; at <= len;) {
    const char *slash = memchr(key + at, '/', len - at);
    size_t n = slash ? (size_t)(slash - key) - at : len - at;
    if (n == 0 || (n == 1 && key[at] == '.') || (n == 2 && key[at] == '.' && key[at + 1] == '.'))
      return false;
    at += n + 1;
  }
  for (size_t at = 0; at < len;) {
    uint32_t c;
    unsigned n = utf8_next(key + at, len - at, &c);
    if (n == 0)
      return false;
    at += n;
  }
  return true;
}

static void check_hostport(const char *text, bool port_0) {
  char host[NAME_HOST_MAX + 1], again[NAME_HOST_MAX + 1], whole[NAME_HOST_MAX + 16];
  uint16_t port, port_again;
  struct err e = {0};

  if (name_parse_hostport(text, port_0, host, &port, &e) != 0) {
    check_printable(e.text);
    return;
  }
  snprintf(whole, sizeof whole, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
  if ((port == 0 && !port_0) || strcmp(whole, text) != 0 ||
      name_parse_hostport(whole, port_0, again, &port_again, NULL) != 0 || strcmp(host, again) != 0 ||
      port != port_again)
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char quoted[NAME_QUOTE_MAX], *text = malloc(size + 1);
  struct err e = {0};

  memcpy(text, data, size);
  text[size] = '\0';
  name_quote(quoted, data, size);
  check_printable(quoted);
  int r = name_check_key(data, size, &e);
  if ((r == 0) != is_good_key((const char *)data, size))
    abort();
  check_printable(e.text);
  if (name_check_ns(text, &e) == 0 &&
      (strlen(text) > NAME_NS_MAX || name_check_peer(text, NULL) != (strlen(text) > NAME_PEER_MAX ? -22 : 0)))
    abort();
  check_printable(e.text);
  name_check_peer(text, &e);
  check_printable(e.text);
  check_hostport(text, false);
  check_hostport(text, true);
  free(text);
  return 0;
}
