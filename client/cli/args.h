/* args.h - options after a table, with getopt_long; errors name what would have been accepted. */
#ifndef FB_CLI_ARGS_H
#define FB_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum arg_type {
  ARG_FLAG,    /* no value */
  ARG_STRING,  /* at least min bytes */
  ARG_UINT,    /* min..max, decimal */
  ARG_BYTES,   /* min..max; KiB, MiB, GiB, TiB suffixes (K, M, G, T are the same) */
  ARG_PERCENT, /* 0..100 with decimals, an optional '%' */
  ARG_CHOICE,  /* one of `choices` */
};

struct arg_row {
  const char *name; /* long name, without the dashes */
  char letter;      /* short form, 0 = none */
  enum arg_type type;
  const char *metavar; /* of the value, NULL for a flag */
  uint64_t min, max;
  const char *const *choices; /* NULL-terminated */
  const char *help;           /* one sentence without full stop; starts in lower case */
};

#define ARGS_MAX 32
/* Result of a parse; borrows from argv and the tables. */
struct args {
  const struct arg_row *rows[ARGS_MAX];
  unsigned n_rows;
  struct arg_value {
    bool set;
    const char *text;
    uint64_t number; /* of ARG_UINT, ARG_BYTES; index of ARG_CHOICE */
    double percent;
  } values[ARGS_MAX];
  char **words; /* what is not an option */
  int n_words;
};

/* Parses argv[1..argc) by the rows of both tables (`own` may be NULL). Stops at the first word when `leading`, else
 * options and words may be mixed ("--" ends the options). `ret` may hold values of an earlier parse by the same tables'
 * globals: later ones win. An own row goes before a global of the same name. Returns 0 or -EINVAL with a sentence in
 * `text`. */
int args_parse(struct args *ret, int argc, char **argv, const struct arg_row *globals, const struct arg_row *own,
               bool leading, char *text, size_t text_cap);

/* Values by long name. The name must be in the tables. */
bool args_set(const struct args *a, const char *name);
const char *args_text(const struct args *a, const char *name, const char *dflt);
uint64_t args_number(const struct args *a, const char *name, uint64_t dflt);
double args_percent(const struct args *a, const char *name, double dflt);

/* The candidate nearest to `word` by edit distance, or NULL when none is near enough to be meant. */
const char *args_nearest(const char *word, const char *(*candidate)(void *arg, size_t i), void *arg);

#endif
