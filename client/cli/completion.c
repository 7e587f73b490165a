/* completion.c - the shell completion script, made from the command table.
 *
 * Namespaces and keys are asked of the cluster, under a timeout and with no output on failure: pressing TAB must
 * neither hang nor print. */
#include <errno.h>
#include <string.h>

#include "client/cli/commands.h"

static const char bash_head[] = "# bash completion for forebay. Made by 'forebay completion bash': do not edit.\n"
                                "\n"
                                "# Asks the cluster, for two seconds at most.\n"
                                "_forebay_ask() {\n"
                                "  timeout -k 1 2 \"${words[0]/#\\~/$HOME}\" ${peers:+--peers \"$peers\"} -q "
                                "--timeout-ms 1500 \"$@\" 2>/dev/null </dev/null\n"
                                "}\n"
                                "\n"
                                "# Offers the words of $1.\n"
                                "_forebay_of() {\n"
                                "  mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$cur\")\n"
                                "}\n"
                                "\n"
                                "# Offers the lines of stdin, each between $1 and $2. Not by compgen -W, which would "
                                "expand what the cluster says.\n"
                                "_forebay_lines() {\n"
                                "  local line\n"
                                "  while IFS= read -r line; do\n"
                                "    printf -v line '%q' \"$1$line\"\n"
                                "    [[ $line$2 == \"$cur\"* ]] && COMPREPLY+=(\"$line$2\")\n"
                                "  done\n"
                                "}\n"
                                "\n"
                                "_forebay_ns() {\n"
                                "  _forebay_lines '' '' < <(_forebay_ask ns list)\n"
                                "}\n"
                                "\n"
                                "# NS/ first, then the entries of the directory that is typed so far.\n"
                                "_forebay_key() {\n"
                                "  compopt -o nospace 2>/dev/null\n"
                                "  if [[ $cur == */* ]]; then\n"
                                "    _forebay_lines \"${cur%%/*}/\" '' < <(_forebay_ask ls \"${cur%/*}\" --limit 200)\n"
                                "  else\n"
                                "    _forebay_lines '' / < <(_forebay_ask ns list)\n"
                                "  fi\n"
                                "}\n"
                                "\n";

/* bash cuts words at ':' and '=', which stand in addresses and keys: the line is cut again, at blanks only. */
static const char bash_start[] =
    "_forebay_words() {\n"
    "  local cur prev command='' peers='' position=0 i word words\n"
    "  read -ra words <<<\"${COMP_LINE:0:COMP_POINT}\"\n"
    "  [[ ${COMP_LINE:COMP_POINT-1:1} == ' ' ]] && words+=('')\n"
    "  cur=${words[-1]} prev=${words[-2]}\n"
    "  # The command is the first one or two words that are no options; position counts the words behind it.\n"
    "  for ((i = 1; i < ${#words[@]} - 1; i++)); do\n"
    "    word=${words[i]}\n"
    "    case \"$command $word\" in\n"
    "    *' --peers='*) peers=${word#*=} ;;\n"
    "    ";

/* First words, each once. */
static void print_first_words(FILE *out) {
  for (const struct command *const *c = cli_commands; *c; c++) {
    size_t n = strcspn((*c)->name, " ");
    if (c != cli_commands && strcspn(c[-1]->name, " ") == n && strncmp(c[-1]->name, (*c)->name, n) == 0)
      continue;
    fprintf(out, "%s%.*s", c == cli_commands ? "" : " ", (int)n, (*c)->name);
  }
}

static void print_options(FILE *out, const struct arg_row *rows) {
  for (; rows->name; rows++)
    fprintf(out, " --%s", rows->name);
}

/* `case` patterns over "COMMAND OPTION" of the options that take a value, so that it is not counted as a word;
 * `before` is a pattern's beginning, up to the option. */
static void print_valued(FILE *out, const char *before, const struct arg_row *rows, bool *any) {
  for (; rows->name; rows++) {
    if (rows->type == ARG_FLAG)
      continue;
    fprintf(out, "%s%s--%s'", *any ? " | " : "", before, rows->name);
    if (rows->letter)
      fprintf(out, " | %s-%c'", before, rows->letter);
    *any = true;
  }
}

/* What can stand behind an option that takes a value. */
static void print_value_cases(FILE *out, const char *before, const struct arg_row *rows) {
  for (const struct arg_row *r = rows; r->name; r++) {
    if (r->type == ARG_FLAG)
      continue;
    fprintf(out, "  %s--%s'", before, r->name);
    if (r->letter)
      fprintf(out, " | %s-%c'", before, r->letter);
    fputs(")\n", out);
    if (r->type == ARG_CHOICE) {
      fputs("    _forebay_of '", out);
      for (const char *const *choice = r->choices; *choice; choice++)
        fprintf(out, "%s%s", choice == r->choices ? "" : " ", *choice);
      fputs("'\n", out);
    } else if (strcmp(r->metavar, "FILE") == 0 || strcmp(r->metavar, "PATH") == 0) {
      fputs("    compopt -o default 2>/dev/null\n", out);
    } else if (strcmp(r->metavar, "DIR") == 0) {
      fputs("    compopt -o dirnames 2>/dev/null\n", out);
    } else if (strcmp(r->metavar, "NS/KEY") == 0) {
      fputs("    _forebay_key\n", out);
    }
    fputs("    return\n    ;;\n", out);
  }
}

/* The beginning of a shell pattern that takes the command literally. */
static const char *before_option(char buf[40], const struct command *c) {
  snprintf(buf, 40, "'%.30s ", c->name);
  return buf;
}

static void print_word(FILE *out, const struct command *c, unsigned i) {
  static const char *const actions[] = {
      [WORD_NS] = "_forebay_ns",
      [WORD_KEY] = "_forebay_key",
      [WORD_FILE] = "compopt -o default 2>/dev/null",
      [WORD_SHELL] = "_forebay_of bash",
  };
  if (c->kinds[i] == WORD_COMMAND) {
    fprintf(out, "  '%s %u') _forebay_of '", c->name, i);
    print_first_words(out);
    fputs("' ;;\n", out);
  } else if (c->kinds[i] < sizeof actions / sizeof *actions && actions[c->kinds[i]]) {
    fprintf(out, "  '%s %u') %s ;;\n", c->name, i, actions[c->kinds[i]]);
  }
}

void cli_completion_bash(FILE *out) {
  char before[40];
  bool any = false;

  fputs(bash_head, out);
  fputs(bash_start, out);
  print_valued(out, "*' ", cli_globals, &any);
  for (const struct command *const *c = cli_commands; *c; c++)
    print_valued(out, before_option(before, *c), (*c)->rows, &any);
  fputs(")\n"
        "      [[ $word == --peers || $word == -P ]] && peers=${words[i + 1]}\n"
        "      ((i++))\n"
        "      ;;\n"
        "    *' -'*) ;;\n"
        "    *)\n"
        "      if [[ -z $command || $command == ns ]]; then\n"
        "        command=\"${command:+$command }$word\"\n"
        "      else\n"
        "        ((position++))\n"
        "      fi\n"
        "      ;;\n"
        "    esac\n"
        "  done\n"
        "  case \"$command $prev\" in\n",
        out);
  print_value_cases(out, "*' ", cli_globals);
  for (const struct command *const *c = cli_commands; *c; c++)
    print_value_cases(out, before_option(before, *c), (*c)->rows);
  fputs("  esac\n  if [[ $cur == -* ]]; then\n    local options='", out);
  print_options(out, cli_globals);
  fputs("'\n    case $command in\n", out);
  for (const struct command *const *c = cli_commands; *c; c++)
    if ((*c)->rows->name) {
      fprintf(out, "    '%s') options+='", (*c)->name);
      print_options(out, (*c)->rows);
      fputs("' ;;\n", out);
    }
  fputs("    esac\n    _forebay_of \"$options\"\n    return\n  fi\n  case \"$command $position\" in\n  ' 0') "
        "_forebay_of '",
        out);
  print_first_words(out);
  fputs("' ;;\n  'ns 0') _forebay_of '", out);
  for (const struct command *const *c = cli_commands; *c; c++)
    if (strncmp((*c)->name, "ns ", 3) == 0)
      fprintf(out, " %s", (*c)->name + 3);
  fputs("' ;;\n", out);
  for (const struct command *const *c = cli_commands; *c; c++)
    for (unsigned i = 0; i < (*c)->max_words && i < 2; i++)
      print_word(out, *c, i);
  fputs("  esac\n}\n\n"
        "# What is left of a ':' or '=' is a word of its own to bash: it wants the rest only.\n"
        "_forebay() {\n"
        "  local typed=${COMP_LINE:0:COMP_POINT}\n"
        "  COMPREPLY=()\n"
        "  _forebay_words\n"
        "  typed=${typed##*[[:space:]]}\n"
        "  if [[ $typed == *[:=]* && $COMP_WORDBREAKS == *[:=]* ]]; then\n"
        "    COMPREPLY=(\"${COMPREPLY[@]#\"${typed%\"${typed##*[:=]}\"}\"}\")\n"
        "  fi\n"
        "}\n\ncomplete -F _forebay forebay\n",
        out);
}

static int run_completion(struct cli *cli, const struct args *a) {
  if (strcmp(a->words[0], "bash") != 0)
    return cli_fail(cli, -EINVAL, "no completion for '%.40s'; expected bash", a->words[0]);
  cli_completion_bash(stdout);
  return 0;
}

static const struct arg_row no_rows[] = {{0}};

const struct command cmd_completion = {
    .name = "completion",
    .words = "bash",
    .summary = "print the shell completion script",
    .details = "Prints the completion script of a shell. For this shell only:\n"
               "  source <(forebay completion bash)\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_SHELL},
    .rows = no_rows,
    .run = run_completion,
};
