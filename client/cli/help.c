/* help.c - usage texts and the manual page, both made from the command table. */
#include <errno.h>
#include <string.h>

#include "client/cli/commands.h"

#define WIDTH 80

/* Prints `text` folded at blanks, each line after `indent` blanks; the first line's indent is there already. */
static void fold(FILE *out, const char *text, unsigned indent) {
  unsigned column = indent;

  while (*text) {
    unsigned n = (unsigned)strcspn(text, " \n");
    if (column > indent && column + n > WIDTH) {
      fprintf(out, "\n%*s", (int)indent, "");
      column = indent;
    }
    fwrite(text, 1, n, out);
    column += n;
    text += n;
    if (*text == ' ') {
      text++;
      if (*text && column + 1 + strcspn(text, " \n") <= WIDTH) {
        putc(' ', out);
        column++;
      } else if (*text) {
        fprintf(out, "\n%*s", (int)indent, "");
        column = indent;
      }
    } else if (*text == '\n') {
      text++;
      if (*text)
        fprintf(out, "\n%*s", (int)indent, "");
      column = indent;
    }
  }
  putc('\n', out);
}

static void print_row(FILE *out, const struct arg_row *r) {
  char left[40], range[160] = "";
  char letter[8] = "    ";

  if (r->letter)
    snprintf(letter, sizeof letter, "-%c, ", r->letter);
  snprintf(left, sizeof left, "  %s--%s%s%s", letter, r->name, r->metavar ? " " : "", r->metavar ? r->metavar : "");
  fprintf(out, "%-26s", left);
  if (strlen(left) > 25)
    fprintf(out, "\n%26s", "");
  if (r->type == ARG_UINT)
    snprintf(range, sizeof range, " (%llu..%llu)", (unsigned long long)r->min, (unsigned long long)r->max);
  char text[400];
  snprintf(text, sizeof text, "%s%s", r->help, range);
  fold(out, text, 26);
}

static bool has_row(const struct arg_row *rows, const char *name) {
  for (; rows && rows->name; rows++)
    if (strcmp(rows->name, name) == 0)
      return true;
  return false;
}

/* Leaves out what `hidden_by` means something else with. */
static void print_rows(FILE *out, const char *title, const struct arg_row *rows, const struct arg_row *hidden_by) {
  fprintf(out, "\n%s:\n", title);
  for (; rows->name; rows++)
    if (!has_row(hidden_by, rows->name))
      print_row(out, rows);
}

static void print_exits(FILE *out) {
  fputs("\nExit status:\n", out);
  for (int e = 0; e < CLI_EXITS; e++)
    fprintf(out, "  %d  %s\n", e, cli_exit_describe((enum cli_exit)e));
}

static void print_summary(FILE *out, const struct command *c) { fprintf(out, "  %-14s %s\n", c->name, c->summary); }

void cli_help_all(FILE *out) {
  fputs("usage: forebay [OPTION...] COMMAND ...\n\n"
        "Reads, fills and looks after a Forebay cluster cache.\n\nCommands:\n",
        out);
  for (const struct command *const *c = cli_commands; *c; c++)
    print_summary(out, *c);
  print_rows(out, "Options of every command", cli_globals, NULL);
  print_exits(out);
  fputs("\n'forebay COMMAND --help' tells more about one command.\n", out);
}

static bool in_group(const struct command *c, const char *group) {
  size_t n = strlen(group);
  return strncmp(c->name, group, n) == 0 && c->name[n] == ' ';
}

bool cli_help_group(const char *group, FILE *out) {
  bool any = false;

  for (const struct command *const *c = cli_commands; *c; c++)
    if (in_group(*c, group)) {
      if (out && !any)
        fprintf(out, "usage: forebay %s COMMAND ...\n\nCommands:\n", group);
      if (out)
        print_summary(out, *c);
      any = true;
    }
  return any;
}

void cli_help_command(const struct command *c, FILE *out) {
  fprintf(out, "usage: forebay %s%s%s%s\n\n", c->name, *c->words ? " " : "", c->words,
          c->rows->name ? " [OPTION...]" : "");
  fold(out, c->details, 0);
  if (c->rows->name)
    print_rows(out, "Options", c->rows, NULL);
  print_rows(out, "Options of every command", cli_globals, c->rows);
  print_exits(out);
}

/* Text for roff: backslashes and hyphens are literal, no line starts with a control character. */
static void roff(FILE *out, const char *text) {
  bool line_start = true;

  for (; *text; text++) {
    if (line_start && (*text == '.' || *text == '\''))
      fputs("\\&", out);
    line_start = *text == '\n';
    if (*text == '\\')
      fputs("\\e", out);
    else if (*text == '-')
      fputs("\\-", out);
    else if (*text == '\'')
      fputs("\\(aq", out);
    else
      putc(*text, out);
  }
}

/* Paragraphs, and lines that start with a blank as they are (examples). */
static void roff_details(FILE *out, const char *text) {
  bool literal = false;

  while (*text) {
    size_t n = strcspn(text, "\n");
    char line[1024];
    snprintf(line, sizeof line, "%.*s", (int)n, text);
    if (literal != (line[0] == ' ')) {
      literal = !literal;
      fputs(literal ? ".PP\n.nf\n" : ".fi\n", out);
    }
    if (!literal)
      fputs(".PP\n", out);
    if (n) {
      roff(out, line);
      putc('\n', out);
    }
    text += n + (text[n] == '\n');
  }
  if (literal)
    fputs(".fi\n", out);
}

static void roff_rows(FILE *out, const struct arg_row *rows) {
  for (; rows->name; rows++) {
    fputs(".TP\n", out);
    if (rows->letter)
      fprintf(out, "\\fB\\-%c\\fR, ", rows->letter);
    fputs("\\fB\\-\\-", out);
    roff(out, rows->name);
    fputs("\\fR", out);
    if (rows->metavar)
      fprintf(out, " \\fI%s\\fR", rows->metavar);
    putc('\n', out);
    roff(out, rows->help);
    if (rows->type == ARG_UINT)
      fprintf(out, " (%llu..%llu)", (unsigned long long)rows->min, (unsigned long long)rows->max);
    fputs(".\n", out);
  }
}

void cli_help_man(FILE *out) {
  fprintf(
      out,
      ".\\\" Made by 'forebay help --man': do not edit.\n.TH FOREBAY 1 \"\" \"forebay %s\" \"User Commands\"\n"
      ".SH NAME\nforebay \\- reads, fills and looks after a Forebay cluster cache\n"
      ".SH SYNOPSIS\n.B forebay\n.RI [ OPTION ...]\n.I COMMAND\n\\&...\n"
      ".SH DESCRIPTION\n"
      "Forebay keeps training data in the memory of GPU nodes while the canonical copy stays on a shared filesystem, "
      "the\n.IR origin .\nThis command talks to its peers.\n.PP\n"
      "Data is named\n.I NS/KEY\n(or forebay://NS/KEY): a namespace, and below it the path of a file or the key of a "
      "value.\nA glob over keys knows ? and * within a component, ** across components, [a\\-z] and \\e to take the "
      "next "
      "character as it is.\n.SH COMMANDS\n",
      FOREBAY_VERSION);
  for (const struct command *const *c = cli_commands; *c; c++) {
    fprintf(out, ".SS forebay %s ", (*c)->name);
    roff(out, (*c)->words);
    putc('\n', out);
    roff_details(out, (*c)->details);
    roff_rows(out, (*c)->rows);
  }
  fputs(".SH OPTIONS\nEvery command takes these, before or after its name.\n", out);
  roff_rows(out, cli_globals);
  fputs(".SH EXIT STATUS\n", out);
  for (int e = 0; e < CLI_EXITS; e++)
    fprintf(out, ".TP\n.B %d\n%s.\n", e, cli_exit_describe((enum cli_exit)e));
  fputs(".PP\nAn error is told once on standard error, as \"forebay: TEXT (NAME)\".\nWith\n.B \\-\\-json\n"
        "the object on standard output also has a member \"error\" with \"code\", \"name\", \"text\" and \"exit\".\n"
        ".SH ENVIRONMENT\n.TP\n.B FOREBAY_PEERS\nPeers to start from, as in\n.BR \\-\\-peers .\n"
        ".TP\n.B FOREBAY_CONFIG\nClient configuration, as in\n.BR \\-\\-config .\n"
        ".SH FILES\n.TP\n.I /etc/forebay/client.yaml\nClient configuration when nothing else names one.\n"
        ".SH EXAMPLES\n.nf\n"
        "forebay ns create imagenet \\-\\-origin /mnt/datasets/imagenet\n"
        "forebay prestage \\(aqimagenet/train/**\\(aq \\-\\-wait \\-\\-target 99.5\n"
        "forebay get imagenet/train/000.tar | tar \\-tv\n"
        "forebay verify imagenet \\-\\-json\n"
        ".fi\n",
        out);
}

static const struct arg_row help_rows[] = {
    {"man", 0, ARG_FLAG, NULL, 0, 0, NULL, "print the manual page as roff instead"},
    {0},
};

static int run_help(struct cli *cli, const struct args *a) {
  if (args_set(a, "man")) {
    cli_help_man(stdout);
    return 0;
  }
  if (a->n_words == 0) {
    cli_help_all(stdout);
    return 0;
  }
  const struct command *c = cli_find(a->words[0], a->n_words > 1 ? a->words[1] : NULL);
  if (c)
    cli_help_command(c, stdout);
  else if (a->n_words > 1 || !cli_help_group(a->words[0], stdout))
    return cli_fail(cli, -EINVAL, "there is no help for '%.60s'; 'forebay --help' lists the commands", a->words[0]);
  return 0;
}

const struct command cmd_help = {
    .name = "help",
    .words = "[COMMAND...]",
    .summary = "tell about a command",
    .details = "Prints the help of a command, or the list of commands.\n",
    .max_words = 2,
    .kinds = {WORD_COMMAND},
    .rows = help_rows,
    .run = run_help,
};
