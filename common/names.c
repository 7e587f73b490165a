/* names.c - the rules for names, in one place for peers, client and CLI. */
#include "common/names.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/utf8.h"

/* Appends as much of name[*at..len) as `cap` bytes hold, made harmless. Returns the bytes written; *at moves. */
static size_t put_safe(char *out, size_t cap, const char *name, size_t len, size_t *at, bool quoted) {
  size_t n = 0;

  while (*at < len) {
    const char *s = name + *at;
    char piece[8];
    uint32_t c = 0;
    unsigned used = utf8_next(s, len - *at, &c), piece_len = used;

    if (used == 0 || c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029) {
      piece_len = 4; /* byte by byte: a longer character's other bytes are not UTF-8 on their own */
      used = 1;
      snprintf(piece, sizeof piece, "\\x%02x", (unsigned)(uint8_t)*s);
    } else if (quoted && (c == '"' || c == '\\')) {
      piece_len = 2;
      piece[0] = '\\';
      piece[1] = (char)c;
    } else {
      memcpy(piece, s, used);
    }
    if (n + piece_len > cap)
      break;
    memcpy(out + n, piece, piece_len);
    n += piece_len;
    *at += used;
  }
  return n;
}

const char *name_quote(char out[NAME_QUOTE_MAX], const void *name, size_t len) {
  size_t at = 0;

  if (!name)
    return strcpy(out, "(none)");
  out[0] = '"';
  /* What follows at most: the closing quote, "..." and NUL. */
  size_t n = 1 + put_safe(out + 1, NAME_QUOTE_MAX - 6, name, len, &at, true);
  strcpy(out + n, at < len ? "\"..." : "\"");
  return out;
}

const char *name_object(char out[NAME_OBJECT_MAX], const char *ns, const char *key) {
  size_t at = 0, ns_len = ns ? strnlen(ns, NAME_NS_MAX + 1) : 0, key_len = key ? strnlen(key, NAME_OBJECT_MAX) : 0;
  size_t n = put_safe(out, NAME_NS_MAX, ns, ns_len, &at, false);

  if (at < ns_len)
    n += (size_t)sprintf(out + n, "...");
  if (key) {
    out[n++] = '/';
    at = 0;
    n += put_safe(out + n, NAME_OBJECT_MAX - 4 - n, key, key_len, &at, false);
    if (at < key_len)
      n += (size_t)sprintf(out + n, "...");
  }
  out[n] = '\0';
  return out;
}

static bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
static bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_mark(char c) { return c == '.' || c == '_' || c == '-'; }

int name_check_ns(const char *name, struct err *e) {
  static const char accepted[] = "accepted: 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or a digit";
  size_t len = name ? strnlen(name, NAME_NS_MAX + 1) : 0;
  char q[NAME_QUOTE_MAX];

  if (len == 0)
    return err_set(e, -FB_ENSNAME, "namespace name is empty; %s", accepted);
  name_quote(q, name, len);
  if (len > NAME_NS_MAX)
    return err_set(e, -FB_ENSNAME, "namespace name %s is longer than %u bytes; %s", q, NAME_NS_MAX, accepted);
  for (size_t i = 0; i < len; i++)
    if (!is_lower(name[i]) && !is_digit(name[i]) && (i == 0 || !is_mark(name[i])))
      return err_set(e, -FB_ENSNAME, "bad namespace name %s; %s", q, accepted);
  return 0;
}

int name_check_peer(const char *name, struct err *e) {
  static const char accepted[] = "accepted: 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-'";
  size_t len = name ? strnlen(name, NAME_PEER_MAX + 1) : 0;
  char q[NAME_QUOTE_MAX];

  if (len == 0)
    return err_set(e, -EINVAL, "peer name is empty; %s", accepted);
  name_quote(q, name, len);
  if (len > NAME_PEER_MAX)
    return err_set(e, -EINVAL, "peer name %s is longer than %u bytes; %s", q, NAME_PEER_MAX, accepted);
  for (size_t i = 0; i < len; i++)
    if (!is_lower(name[i]) && !is_upper(name[i]) && !is_digit(name[i]) && !is_mark(name[i]))
      return err_set(e, -EINVAL, "bad peer name %s; %s", q, accepted);
  return 0;
}

int name_check_key(const void *key, size_t len, struct err *e) {
  static const char accepted[] = "accepted: 1 to 1024 bytes of UTF-8, components separated by single '/', none of them "
                                 "empty, '.' or '..', no NUL byte";
  const char *s = key, *wrong = NULL;
  char q[NAME_QUOTE_MAX];

  if (len == 0)
    return err_set(e, -FB_EKEYEMPTY, "key is empty; %s", accepted);
  if (len > NAME_KEY_MAX)
    return err_set(e, -FB_EKEYLONG, "key %s has %zu bytes; %s", name_quote(q, key, len), len, accepted);

  size_t start = 0; /* of the component that is being read */
  for (size_t i = 0; i <= len && !wrong;) {
    uint32_t c = 0;
    unsigned n;

    if (i == len || s[i] == '/') {
      size_t comp = i - start;
      if (comp == 0)
        wrong = i == 0 ? "starts with '/'" : i == len ? "ends with '/'" : "has an empty component";
      else if (comp <= 2 && s[start] == '.' && s[i - 1] == '.')
        wrong = comp == 1 ? "has a '.' component" : "has a '..' component";
      start = ++i;
    } else if (s[i] == '\0') {
      wrong = "has a NUL byte";
    } else if ((n = utf8_next(s + i, len - i, &c)) == 0) {
      wrong = "is not UTF-8";
    } else {
      i += n;
    }
  }
  if (wrong)
    return err_set(e, -FB_EKEYNAME, "key %s %s; %s", name_quote(q, key, len), wrong, accepted);
  return 0;
}

/* Decimal, no sign, no leading zeros: anything else is more likely a slip than a port. */
static bool parse_port(const char *s, bool port_0, uint16_t *ret) {
  unsigned v = 0;
  size_t len = strnlen(s, 6);

  if (len == 0 || len > 5 || (s[0] == '0' && len > 1))
    return false;
  for (size_t i = 0; i < len; i++) {
    if (!is_digit(s[i]))
      return false;
    v = v * 10 + (unsigned)(s[i] - '0');
  }
  if (v > UINT16_MAX || (v == 0 && !port_0))
    return false;
  *ret = (uint16_t)v;
  return true;
}

static bool is_ipv6(const char *host) {
  char addr[NAME_HOST_MAX + 1];
  struct in6_addr ignored;
  size_t len = strcspn(host, "%"); /* "%eth0": a link-local address's interface */

  memcpy(addr, host, len);
  addr[len] = '\0';
  if (host[len] == '%') {
    if (host[len + 1] == '\0')
      return false;
    for (const char *z = host + len + 1; *z; z++)
      if (!is_lower(*z) && !is_upper(*z) && !is_digit(*z) && !is_mark(*z))
        return false;
  }
  return inet_pton(AF_INET6, addr, &ignored) == 1;
}

/* A DNS name or an IPv4 address. All-numeric names are addresses, so they must be good ones. */
static bool is_hostname(const char *host, size_t len) {
  struct in_addr ignored;
  bool numeric = true;

  for (size_t i = 0; i < len; i++) {
    bool dot = host[i] == '.';
    if (!is_lower(host[i]) && !is_upper(host[i]) && !is_digit(host[i]) && !is_mark(host[i]))
      return false;
    if ((dot && (i == 0 || host[i - 1] == '.')) || (host[i] == '-' && i == 0))
      return false;
    numeric = numeric && (dot || is_digit(host[i]));
  }
  return len > 0 && (!numeric || inet_pton(AF_INET, host, &ignored) == 1);
}

int name_parse_hostport(const char *text, bool port_0, char ret_host[NAME_HOST_MAX + 1], uint16_t *ret_port,
                        struct err *e) {
  size_t len = text ? strlen(text) : 0, host_len;
  const char *host = text, *colon, *wrong = NULL;
  char q[NAME_QUOTE_MAX], copy[NAME_HOST_MAX + 1];
  uint16_t port = 0;
  bool v6 = len > 0 && text[0] == '[';

  if (len == 0)
    return err_set(e, -EINVAL, "address is empty; accepted: HOST:PORT or [IPV6]:PORT");
  name_quote(q, text, len);
  if (v6) {
    host++;
    colon = strchr(text, ']');
    if (!colon)
      return err_set(e, -EINVAL, "address %s has no closing bracket; accepted: [IPV6]:PORT", q);
    host_len = (size_t)(colon++ - host);
  } else {
    colon = strrchr(text, ':');
    host_len = colon ? (size_t)(colon - host) : len;
    if (memchr(host, ':', host_len))
      return err_set(e, -EINVAL, "address %s has more than one ':'; accepted: HOST:PORT, and IPv6 as [IPV6]:PORT", q);
  }
  if (!colon || *colon != ':')
    wrong = "has no port";
  else if (host_len == 0)
    wrong = "has no host (to listen everywhere: 0.0.0.0 or [::])";
  else if (host_len > NAME_HOST_MAX)
    wrong = "has a host name over 253 bytes";
  if (wrong)
    return err_set(e, -EINVAL, "address %s %s; accepted: HOST:PORT or [IPV6]:PORT", q, wrong);

  memcpy(copy, host, host_len);
  copy[host_len] = '\0';
  if (v6 ? !is_ipv6(copy) : !is_hostname(copy, host_len))
    return err_set(e, -EINVAL,
                   "address %s: the host is neither a DNS name nor an IP address; accepted: HOST:PORT or "
                   "[IPV6]:PORT",
                   q);
  if (!parse_port(colon + 1, port_0, &port))
    return err_set(e, -EINVAL, "address %s: bad port; accepted: a decimal number, %d..65535", q, port_0 ? 0 : 1);
  memcpy(ret_host, copy, host_len + 1);
  *ret_port = port;
  return 0;
}
