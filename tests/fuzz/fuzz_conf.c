/* fuzz_conf.c - any bytes as a configuration file: refused with a text, or taken, dumped, and read back the same. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/conf.h"

struct member {
  char *name;
  uint64_t weight;
  struct conf_strings tags;
};
struct conf {
  char *name;
  bool drain;
  uint64_t threads, bytes;
  unsigned level;
  struct conf_strings roots;
  struct conf_records peers;
};

static const char *const levels[] = {"error", "info", "null", NULL};
static const struct conf_row fields[] = {
    {.key = "name", .type = CONF_STRING, .offset = offsetof(struct member, name), .max = 16},
    {.key = "weight", .type = CONF_UINT, .offset = offsetof(struct member, weight), .dflt = "1", .max = 9},
    {.key = "tags", .type = CONF_STRINGS, .offset = offsetof(struct member, tags), .dflt = "[x]", .max = 4},
    {0},
};
static const struct conf_row rows[] = {
    {.key = "name", .type = CONF_STRING, .offset = offsetof(struct conf, name), .dflt = "n", .max = 64},
    {.key = "s.drain", .type = CONF_BOOL, .offset = offsetof(struct conf, drain), .dflt = "true"},
    {.key = "s.threads", .type = CONF_UINT, .offset = offsetof(struct conf, threads), .dflt = "4", .max = UINT64_MAX},
    {.key = "s.bytes", .type = CONF_BYTES, .offset = offsetof(struct conf, bytes), .dflt = "1MiB", .max = UINT64_MAX},
    {.key = "t.level", .type = CONF_ENUM, .offset = offsetof(struct conf, level), .dflt = "info", .choices = levels},
    {.key = "roots", .type = CONF_STRINGS, .offset = offsetof(struct conf, roots), .max = 8},
    {.key = "t.peers",
     .type = CONF_RECORDS,
     .offset = offsetof(struct conf, peers),
     .max = 8,
     .fields = fields,
     .record_size = sizeof(struct member)},
    {0},
};

static void differs(const char *key, bool reloadable, void *arg) {
  (void)reloadable;
  fprintf(stderr, "%s came back different from:\n%s\n", key, (const char *)arg);
  abort();
}

static void check_round_trip(const struct conf *c) {
  struct conf back = {0};
  struct err e = {0};
  char *text = NULL;
  size_t len;
  FILE *out = open_memstream(&text, &len);

  conf_dump(rows, c, true, out);
  fclose(out);
  if (conf_parse(rows, &back, "dump", text, len, &e) != 0) {
    fprintf(stderr, "%s in:\n%s\n", e.text, text);
    abort();
  }
  conf_diff(rows, c, &back, differs, text);
  conf_fini(rows, &back);
  free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct conf c = {0};
  struct err e = {0};
  char *text = malloc(size + 1);

  memcpy(text, data, size);
  text[size] = '\0';
  if (conf_defaults(rows, &c) != 0)
    abort();
  int r = conf_parse(rows, &c, "f.yaml", text, size, &e);
  /* libcyaml must never refuse what the checks before it have let pass. */
  if (r != 0 && (r != -FB_EBADCONF || e.code != r || strncmp(e.text, "f.yaml:", 7) != 0 ||
                 strncmp(e.text, "f.yaml: libcyaml", 16) == 0))
    abort();
  check_round_trip(&c);
  conf_set(rows, &c, text, &e);
  check_round_trip(&c);
  conf_fini(rows, &c);
  free(text);
  return 0;
}
