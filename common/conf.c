/* conf.c - a configuration struct's life: defaults, what a file or --set puts over them, comparing, freeing. */
#include "common/conf.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/conf_priv.h"
#include "common/names.h"

int conf_defaults(const struct conf_row *rows, void *conf) {
  for (const struct conf_row *row = rows; row->key; row++) {
    const char *wrong;
    int r = 0;

    if (row->type == CONF_STRING && !row->dflt) {
      char *empty = strdup("");
      if (!empty)
        return -ENOMEM;
      conf_value_fini(row, conf);
      *(char **)((char *)conf + row->offset) = empty;
    } else if (conf_is_scalar(row) && row->dflt) {
      r = conf_value_set(row, conf, row->dflt, &wrong);
    } else if (row->dflt) {
      /* A list: as it would stand in the file. */
      size_t n = conf_section_len(row->key);
      char *text = NULL;
      int len = asprintf(&text, "%.*s%s%s: %s%s", (int)n, row->key, n ? ": {" : "", row->key + (n ? n + 1 : 0),
                         row->dflt, n ? "}" : "");
      if (len < 0)
        return -ENOMEM;
      r = conf_parse(rows, conf, "default", text, (size_t)len, NULL);
      free(text);
    }
    assert(r != -FB_EBADCONF); /* a default that its own row refuses */
    if (r < 0)
      return r;
  }
  return 0;
}

int conf_parse(const struct conf_row *rows, void *conf, const char *name, const char *text, size_t len, struct err *e) {
  struct conf_tree tree;
  int r;

  if (len > CONF_FILE_MAX)
    return conf_fail(e, name, 0, "", "at most 1 MiB", "the file is too large");
  if (len == 0)
    return 0;
  r = conf_tree_read(&tree, name, text, len, e);
  if (r < 0)
    return r;
  /* Into a struct of its own, so that a failure half-way leaves conf as it was. */
  void *scratch = calloc(1, conf_span(rows));
  bool *given = calloc(conf_count(rows) + 1, sizeof *given);
  if (scratch && given)
    r = conf_yaml_load(rows, &tree, text, len, scratch, given, e);
  else
    r = err_set(e, -ENOMEM, "%s: out of memory", name);
  for (unsigned i = 0; scratch && given && rows[i].key; i++) {
    if (given[i] && r == 0)
      conf_value_move(&rows[i], conf, scratch);
    else if (given[i])
      conf_value_fini(&rows[i], scratch);
  }
  free(given);
  free(scratch);
  conf_tree_free(&tree);
  return r;
}

/* Reads at most cap bytes. */
static ssize_t read_file(int fd, char *buf, size_t cap) {
  size_t n = 0;

  while (n < cap) {
    ssize_t got = read(fd, buf + n, cap - n);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return -errno;
    if (got == 0)
      break;
    n += (size_t)got;
  }
  return (ssize_t)n;
}

static int fail_file(struct err *e, const char *path, int code) {
  return err_set(e, code, "%s: cannot be read: %s; accepted: a YAML file that this user may read", path,
                 err_describe(code));
}

int conf_load(const struct conf_row *rows, void *conf, const char *path, struct err *e) {
  /* O_NONBLOCK: a FIFO must not hold up the start. */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  struct stat st;

  if (fd < 0)
    return fail_file(e, path, -errno);
  if (fstat(fd, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)) {
    close(fd);
    return S_ISDIR(st.st_mode) ? fail_file(e, path, -EISDIR)
                               : conf_fail(e, path, 0, "", "a regular file", "is a pipe or a socket");
  }
  char *text = malloc(CONF_FILE_MAX + 1); /* one more than allowed, to see that there is more */
  ssize_t n = text ? read_file(fd, text, CONF_FILE_MAX + 1) : -ENOMEM;
  close(fd);
  int r = n < 0 ? fail_file(e, path, (int)n) : conf_parse(rows, conf, path, text, (size_t)n, e);
  free(text);
  return r;
}

int conf_set(const struct conf_row *rows, void *conf, const char *assignment, struct err *e) {
  static const char name[] = "--set";
  const char *eq = strchr(assignment, '='), *wrong;
  char accepted[CONF_ACCEPTED_MAX], q[NAME_QUOTE_MAX], key[128], section[128];

  if (!eq || eq == assignment)
    return conf_fail(e, name, 0, "", "KEY=VALUE, such as log.level=debug", "%s has no %s",
                     name_quote(q, assignment, strlen(assignment)), eq ? "key" : "'='");
  name_quote(q, assignment, (size_t)(eq - assignment));
  snprintf(key, sizeof key, "%.*s", (int)min_u64((uint64_t)(eq - assignment), sizeof key), assignment);
  size_t n = conf_section_len(key);
  snprintf(section, sizeof section, "%.*s", (int)n, key);
  const struct conf_row *row = conf_lookup(rows, section, key + (n ? n + 1 : 0));
  if (!row)
    return conf_unknown_key(rows, NULL, key, name, 0, q, e);
  if (!conf_is_scalar(row))
    return conf_fail(e, name, 0, row->key, "keys with a single value", "is a list and can be set in the file only");
  int r = conf_value_set(row, conf, eq + 1, &wrong);
  if (r == -FB_EBADCONF)
    return conf_fail(e, name, 0, row->key, conf_accepted(row, accepted), "%s %s", name_quote(q, eq + 1, strlen(eq + 1)),
                     wrong);
  return r < 0 ? err_set(e, r, "%s: out of memory", name) : 0;
}

void conf_fini(const struct conf_row *rows, void *conf) {
  for (; rows->key; rows++)
    conf_value_fini(rows, conf);
}

void conf_diff(const struct conf_row *rows, const void *a, const void *b,
               void (*changed)(const char *key, bool reloadable, void *arg), void *arg) {
  for (; rows->key; rows++)
    if (!conf_value_equal(rows, a, b))
      changed(rows->key, rows->reload, arg);
}
