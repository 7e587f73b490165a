/* conf.h - one table row per setting feeds the YAML parser, the range check, --help, the manual page and --dump-config.
 *
 * The file is parsed by libcyaml after a schema that is made from the table; what libcyaml cannot say (ranges, the line
 * of an offending key) comes from a walk over libyaml's marks. Any problem stops the start and names file, line, key
 * and what would be accepted. */
#ifndef FB_COMMON_CONF_H
#define FB_COMMON_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/err.h"

enum conf_type {
  CONF_STRING,  /* char *, min..max = length in bytes */
  CONF_BOOL,    /* bool */
  CONF_UINT,    /* uint64_t, min..max; written with its unit in the key's name (_ms, _bytes) */
  CONF_BYTES,   /* uint64_t, min..max; also accepts 64KiB, 10MiB, 2GiB, 1TiB suffixes */
  CONF_ENUM,    /* unsigned: index into `choices`, a NULL-terminated array of names */
  CONF_STRINGS, /* struct conf_strings: a YAML sequence of strings; min..max = number of them */
  CONF_RECORDS, /* struct conf_records: a YAML sequence of mappings, each after `fields` (no records among them);
                   min..max = number of them */
};

struct conf_strings {
  char **v;
  unsigned n;
};
struct conf_records {
  void *v; /* n records of record_size bytes */
  unsigned n;
};

/* A row; tables of rows end with a NULL key. Key is "section.name" or "name" (one level of sections), under 80 bytes.
 * Offsets are into the configuration struct (for the rows in `fields`: into the record). */
struct conf_row {
  const char *key;
  enum conf_type type;
  size_t offset;
  const char *dflt; /* as it would stand in the file; NULL = required (in records) or empty (strings, sequences) */
  uint64_t min, max;
  const char *const *choices;
  const struct conf_row *fields; /* CONF_RECORDS: ends with a NULL key */
  size_t record_size;
  bool reload;      /* SIGHUP may change it */
  const char *help; /* one sentence, with the unit */
};

/* Fills `conf` (zeroed by the caller) from the rows' defaults; strings are never NULL afterwards. 0 or -ENOMEM
 * (conf_fini frees what is there by then). A default that its own row refuses is a bug, and asserted. */
int conf_defaults(const struct conf_row *rows, void *conf);
/* Reads `path` over what is in `conf`; a list in the file replaces the whole list. Keys that the file does not have
 * keep their values, so min..max hold for what is given. -ENOENT, -EACCES..., -ENOMEM, -FB_EBADCONF; the text has the
 * form FILE:LINE: KEY: what is wrong; accepted: ... On failure conf is unchanged. The file may hold at most
 * CONF_FILE_MAX bytes, no aliases, tags, or second document. */
#define CONF_FILE_MAX (1u << 20)
int conf_load(const struct conf_row *rows, void *conf, const char *path, struct err *e);
/* The same from memory; `name` stands for the file in texts. */
int conf_parse(const struct conf_row *rows, void *conf, const char *name, const char *text, size_t len, struct err *e);
/* Sets one row from "KEY=VALUE" (--set). Scalars only. Errors as conf_load, with "--set" for FILE:LINE. */
int conf_set(const struct conf_row *rows, void *conf, const char *assignment, struct err *e);
/* Frees what rows point to and zeroes their fields. */
void conf_fini(const struct conf_row *rows, void *conf);

/* YAML that conf_load would read back to the same values, each key with its help as a comment when `comments`. */
void conf_dump(const struct conf_row *rows, const void *conf, bool comments, FILE *out);
/* One paragraph per key: name, type, range, default, reloadable, help. */
void conf_help(const struct conf_row *rows, FILE *out);
/* Calls changed(key, reloadable, arg) for each row whose value differs between a and b. */
void conf_diff(const struct conf_row *rows, const void *a, const void *b,
               void (*changed)(const char *key, bool reloadable, void *arg), void *arg);

#endif
