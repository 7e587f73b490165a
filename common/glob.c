/* glob.c - matches by running all possibilities side by side.
 *
 * The pattern is cut into tokens; a set of states ("the tokens before this one have matched what was read so far") is
 * advanced by one character of the key at a time. Nothing is tried twice, so there is no pattern whose time explodes,
 * as it does in a matcher that backtracks. */
#include "common/glob.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/names.h"
#include "common/utf8.h"

enum token_type {
  /* Take one character and are done. */
  TOKEN_CHAR, /* `c` */
  TOKEN_ANY,  /* ? */
  TOKEN_SET,  /* [...]: `c` is where its first member stands in the pattern */
  /* Take none: the two tokens of a ** that is a component, with the '/' behind it: nothing, or all up to some '/'. */
  TOKEN_DIRS, /* the choice: go on inside, or behind the next token */
  /* Stay while they take characters. */
  TOKEN_STAR,   /* * */
  TOKEN_DEEP,   /* ** */
  TOKEN_INSIDE, /* follows TOKEN_DIRS: a '/' may be the last one that it takes */
};

struct token {
  uint32_t c;
  uint8_t type;
  bool inverted;
};

struct glob {
  unsigned n;
  struct token tokens[GLOB_PATTERN_MAX];
};

/* The pattern is checked UTF-8 and ends in NUL, so decoding never looks past that: its length needs no counting. */
static unsigned next_char(const char *p, uint32_t *ret) { return utf8_next(p, 4, ret); }

/* One character of a set, with its escape taken off. Returns the bytes used, 0 at the end of the pattern. */
static unsigned set_char(const char *p, uint32_t *ret) {
  unsigned escape = p[0] == '\\';

  if (p[escape] == '\0')
    return 0;
  return escape + next_char(p + escape, ret);
}

/* Walks the members of the set whose first member is at p: those of the form a-z and single ones. True if c is one.
 * *ret_len is the length up to and with the ']', *ret_wrong says what is malformed. */
static bool set_has(const char *p, uint32_t c, size_t *ret_len, const char **ret_wrong) {
  const char *start = p;
  bool found = false;

  while (*p != ']' || p == start) {
    uint32_t lo = 0, hi;
    unsigned n = set_char(p, &lo);

    if (n == 0) {
      *ret_wrong = "'[' without ']'";
      return false;
    }
    p += n;
    hi = lo;
    if (p[0] == '-' && p[1] != ']' && p[1] != '\0') {
      n = set_char(p + 1, &hi);
      if (n == 0) {
        *ret_wrong = "'[' without ']'";
        return false;
      }
      p += 1 + n;
    }
    if (lo > hi) {
      *ret_wrong = "a range in brackets that runs backwards";
      return false;
    }
    if (lo == '/' || hi == '/') {
      *ret_wrong = "'/' between brackets";
      return false;
    }
    found = found || (c >= lo && c <= hi);
  }
  *ret_len = (size_t)(p - start) + 1;
  return found;
}

/* Returns NULL, or what is wrong with the pattern. */
static const char *compile(const char *pattern, struct glob *g) {
  size_t len = strnlen(pattern, GLOB_PATTERN_MAX + 1), set_len = 0;
  const char *wrong = NULL;
  uint32_t c = 0;

  g->n = 0;
  if (len > GLOB_PATTERN_MAX)
    return "more than 1024 bytes";
  for (size_t i = 0; i < len; i += utf8_next(pattern + i, len - i, &c))
    if (utf8_next(pattern + i, len - i, &c) == 0)
      return "bytes that are not UTF-8";
  for (const char *p = pattern; *p && !wrong;) {
    struct token *t = &g->tokens[g->n++];

    *t = (struct token){.type = TOKEN_CHAR};
    if (*p == '?') {
      t->type = TOKEN_ANY;
      p++;
    } else if (*p == '*') {
      bool component = p == pattern || p[-1] == '/';
      size_t stars = strspn(p, "*");

      p += stars;
      t->type = stars == 1 ? TOKEN_STAR : TOKEN_DEEP;
      if (stars > 1 && component && *p == '/') {
        t->type = TOKEN_DIRS;
        g->tokens[g->n++] = (struct token){.type = TOKEN_INSIDE};
        p++;
      }
    } else if (*p == '[') {
      t->type = TOKEN_SET;
      t->inverted = p[1] == '!' || p[1] == '^';
      p += 1 + t->inverted;
      t->c = (uint32_t)(p - pattern);
      set_has(p, 0, &set_len, &wrong);
      p += wrong ? 0 : set_len;
    } else {
      if (*p == '\\' && *++p == '\0')
        return "a backslash at its end";
      p += next_char(p, &t->c);
    }
  }
  return wrong;
}

static bool takes(const char *pattern, const struct token *t, uint32_t c) {
  const char *wrong = NULL;
  size_t len;

  switch (t->type) {
  case TOKEN_CHAR:
    return c == t->c;
  case TOKEN_SET:
    return c != '/' && set_has(pattern + t->c, c, &len, &wrong) != t->inverted;
  case TOKEN_ANY:
  case TOKEN_STAR:
    return c != '/';
  case TOKEN_DIRS:
    return false;
  default:
    return true;
  }
}

/* Passes over the tokens that may stand for nothing. */
static void pass(const struct glob *g, bool *live) {
  for (unsigned i = 0; i < g->n; i++) {
    if (!live[i])
      continue;
    if (g->tokens[i].type == TOKEN_STAR || g->tokens[i].type == TOKEN_DEEP)
      live[i + 1] = true;
    else if (g->tokens[i].type == TOKEN_DIRS)
      live[i + 1] = live[i + 2] = true;
  }
}

bool glob_match(const char *pattern, const char *key) {
  struct glob g;
  bool live[2][GLOB_PATTERN_MAX + 1]; /* live[now][i]: tokens 0..i-1 can have matched what was read */
  size_t left = strlen(key);
  unsigned now = 0;
  bool any = true;

  if (compile(pattern, &g))
    return false;
  memset(live[now], 0, g.n + 1);
  live[now][0] = true;
  pass(&g, live[now]);
  while (left > 0 && any) {
    unsigned next = 1 - now;
    uint32_t c = 0;
    unsigned used = utf8_next(key, left, &c);

    if (used == 0) {
      used = 1;
      c = UINT32_MAX; /* a broken byte: wildcards take it, no character equals it */
    }
    key += used;
    left -= used;
    any = false;
    memset(live[next], 0, g.n + 1);
    for (unsigned i = 0; i < g.n; i++) {
      const struct token *t = &g.tokens[i];

      if (!live[now][i] || !takes(pattern, t, c))
        continue;
      any = true;
      if (t->type <= TOKEN_SET || (t->type == TOKEN_INSIDE && c == '/'))
        live[next][i + 1] = true;
      if (t->type >= TOKEN_STAR)
        live[next][i] = true;
    }
    pass(&g, live[next]);
    now = next;
  }
  return any && live[now][g.n];
}

int glob_check(const char *pattern, struct err *e) {
  struct glob g;
  char q[NAME_QUOTE_MAX];
  const char *wrong = compile(pattern, &g);

  if (wrong)
    return err_set(e, -EINVAL,
                   "pattern %s has %s; accepted: a glob of at most 1024 bytes with ?, *, **, [a-z], [!a-z] "
                   "and \\ before a character that shall stand for itself",
                   name_quote(q, pattern, strlen(pattern)), wrong);
  return 0;
}
