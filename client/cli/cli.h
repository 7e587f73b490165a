/* cli.h - what every command of `forebay` shares: its row in the table, its context, and the exit statuses.
 *
 * A command is one row (struct command), standing in the file that implements it and listed once in commands.c. The row
 * feeds the parser, --help, the completion script and the manual page, so none of them can know an option that the
 * others do not. The CLI sees <forebay/forebay.h> alone. */
#ifndef FB_CLI_CLI_H
#define FB_CLI_CLI_H

#include <forebay/forebay.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "client/cli/args.h"
#include "client/cli/json.h"

#define CLEANUP(f) __attribute__((cleanup(f)))

/* Stable: scripts rely on them. exits.c holds the texts and which error codes lead to which. */
enum cli_exit {
  CLI_OK = 0,
  CLI_FAILED = 1,
  CLI_USAGE = 2,
  CLI_NOT_FOUND = 3,
  CLI_UNREACHABLE = 4,
  CLI_BELOW_TARGET = 5,
  CLI_DIFFERS = 6,
  CLI_REFUSED = 7,
};
#define CLI_EXITS 8

/* Exit status for a negative error code. */
enum cli_exit cli_exit_of(int code);
const char *cli_exit_describe(enum cli_exit e);

/* One run of the program. The main thread's, but for what a command hands to its own threads. */
struct cli {
  struct fb_options options; /* strings borrowed from argv */
  bool json, quiet;
  struct json out;     /* stdout; untouched without --json */
  fb_client *client;   /* NULL until cli_open */
  struct fb_error err; /* of the command, told once by main */
};

/* Opens the client if it is not open yet. 0, or fb_open's errors with cli->err set. */
int cli_open(struct cli *cli);
/* Sets cli->err and returns `code` (negative). */
int cli_fail(struct cli *cli, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* What a positional word names; for completion. */
enum word_kind { WORD_NONE, WORD_NS, WORD_KEY, WORD_NEW_NS, WORD_FILE, WORD_SHELL, WORD_COMMAND };

struct command {
  const char *name;    /* one or two words: "get", "ns create" */
  const char *words;   /* positional words as usage shows them */
  const char *summary; /* one line, no full stop */
  const char *details; /* paragraphs for --help and the manual, each ended by a newline */
  unsigned min_words, max_words;
  enum word_kind kinds[2];
  const struct arg_row *rows; /* own options; ends with a NULL name */
  /* Returns 0, a negative error code (cli->err holds its text), or a positive exit status when all was said. */
  int (*run)(struct cli *cli, const struct args *a);
};

/* commands.c: all commands, ends with NULL; the options that each of them takes too, ends with a NULL name. */
extern const struct command *const cli_commands[];
extern const struct arg_row cli_globals[];
/* The command of that name; second is NULL for a name of one word. NULL = none. */
const struct command *cli_find(const char *first, const char *second);

/* help.c */
void cli_help_all(FILE *out);
void cli_help_command(const struct command *c, FILE *out);
void cli_help_man(FILE *out);
/* Lists the commands of a group ("ns"); false when there is no such group. */
bool cli_help_group(const char *group, FILE *out);
/* completion.c: the bash script. */
void cli_completion_bash(FILE *out);

/* "NS", "NS/REST" or "forebay://NS/REST". */
struct target {
  char ns[256];     /* as given, unchecked but for its length: the library judges names */
  const char *rest; /* after the first '/', may be ""; NULL without one. Borrows from the word. */
};
/* 0, or -FB_ENSNAME with cli->err. */
int target_parse(struct cli *cli, const char *word, struct target *ret);
/* The same, and a '/' must be there: -EINVAL else. */
int target_parse_key(struct cli *cli, const char *word, struct target *ret);

#endif
