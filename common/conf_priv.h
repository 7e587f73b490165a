/* conf_priv.h - what the files of conf.h share: values of single rows, the tree of marks, and how problems are told. */
#ifndef FB_COMMON_CONF_PRIV_H
#define FB_COMMON_CONF_PRIV_H

#include "common/conf.h"

/* conf_value.c: one row's value in memory. `base` is the struct that row->offset is relative to. */
#define CONF_ACCEPTED_MAX 320
/* "a whole number, 1..65535": the second half of every refusal, and of --help. */
const char *conf_accepted(const struct conf_row *row, char out[CONF_ACCEPTED_MAX]);
/* Sets a scalar row from text, freeing what was there. 0, -ENOMEM, or -FB_EBADCONF with *ret_wrong saying why. */
int conf_value_set(const struct conf_row *row, void *base, const char *text, const char **ret_wrong);
/* Frees what the row points to and zeroes its field. */
void conf_value_fini(const struct conf_row *row, void *base);
/* Moves a row's value; the target's old one is freed, the source's field zeroed. */
void conf_value_move(const struct conf_row *row, void *to, void *from);
bool conf_value_equal(const struct conf_row *row, const void *a, const void *b);
bool conf_is_scalar(const struct conf_row *row);
/* Bytes of the struct that the rows cover. */
size_t conf_span(const struct conf_row *rows);
/* Number of rows before the one with the NULL key. */
unsigned conf_count(const struct conf_row *rows);
/* "64KiB": the largest unit that divides v. */
const char *conf_bytes_text(uint64_t v, char out[32]);
/* What YAML reads as "no value" when it stands unquoted. */
bool conf_is_null_word(const char *text);
/* Length of the section's name in a key, 0 for a key without section. */
size_t conf_section_len(const char *key);

/* Fills e with "NAME:LINE: KEY: WHAT; accepted: ACCEPTED" and returns -FB_EBADCONF. Line 0, an empty key and a NULL
 * `accepted` are left out. */
int conf_fail(struct err *e, const char *name, unsigned line, const char *key, const char *accepted, const char *fmt,
              ...) __attribute__((format(printf, 6, 7)));

/* conf_tree.c: the shape of a YAML text with the line of every node. Values are not kept. */
#define CONF_PATH_MAX 160
#define CONF_DEPTH_MAX 8
#define CONF_KEYS_MAX 256u /* of one mapping: what bounds the search for duplicates */

enum conf_node_kind { CONF_NODE_SCALAR, CONF_NODE_MAP, CONF_NODE_SEQ };
struct conf_node {
  char *key;     /* of a mapping's member, else NULL */
  unsigned line; /* of the key, or of the entry of a sequence; from 1 */
  uint8_t kind;
  bool null;                    /* a scalar without a value: nothing, ~ or null, unquoted */
  unsigned n;                   /* children */
  unsigned parent, first, next; /* 0 = none: node 0, the root, is nobody's child */
};
struct conf_tree {
  const char *name;
  struct conf_node *nodes;
  unsigned n, cap;
};

/* Parses text (its len bytes stay the caller's). An empty text gives a tree without nodes; otherwise node 0 is a
 * mapping. Refused, with line: malformed YAML, duplicate keys, aliases, tags, a second document, nesting over
 * CONF_DEPTH_MAX. */
int conf_tree_read(struct conf_tree *t, const char *name, const char *text, size_t len, struct err *e);
void conf_tree_free(struct conf_tree *t);
/* "peers[2].weight". Parts that are not plain words are quoted. */
const char *conf_tree_path(const struct conf_tree *t, unsigned node, char out[CONF_PATH_MAX]);

/* conf_yaml.c: checks the tree against the rows, loads the text with libcyaml and converts the values into `scratch`, a
 * zeroed struct; given[i] is set for each of the rows that was touched, also on failure. */
int conf_yaml_load(const struct conf_row *rows, const struct conf_tree *t, const char *text, size_t len, void *scratch,
                   bool *given, struct err *e);
/* The row "SECTION.key", or with section "" the row "key"; NULL if there is none. */
const struct conf_row *conf_lookup(const struct conf_row *rows, const char *section, const char *key);
/* Refuses a key that no row has, with the keys of that section ("" = top level, NULL = all full keys) and the nearest.
 */
int conf_unknown_key(const struct conf_row *rows, const char *section, const char *key, const char *name, unsigned line,
                     const char *shown, struct err *e);

#endif
