/* main.c - from a command line to a command, and from its result to an exit status and one error message. */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cli.h"
#include "client/cli/out.h"

/* With --json an error is a member of the one object on stdout too; stderr is for people in any case. */
static void tell_error(struct cli *cli, enum cli_exit status) {
  fflush(stdout);
  fputs("forebay: ", stderr);
  out_text(stderr, cli->err.text);
  fprintf(stderr, " (%s)\n", fb_error_name(cli->err.code));
  if (!cli->json)
    return;
  if (cli->out.depth == 0)
    json_object(&cli->out, NULL);
  json_end_to(&cli->out, 1);
  json_object(&cli->out, "error");
  json_int(&cli->out, "code", cli->err.code);
  json_string(&cli->out, "name", fb_error_name(cli->err.code));
  json_string(&cli->out, "text", cli->err.text);
  json_int(&cli->out, "exit", status);
  json_end(&cli->out);
}

/* Closes what is open and makes sure that everything reached stdout: a full disk behind a pipe is a failure too. */
static int finish(struct cli *cli, int rc) {
  enum cli_exit status = rc < 0 ? cli_exit_of(rc) : (enum cli_exit)rc;

  if (rc < 0 && cli->err.text[0] == '\0')
    cli_fail(cli, rc, "%s", fb_error_describe(rc));
  if (rc < 0) {
    cli->err.code = rc;
    tell_error(cli, status);
  }
  json_end_to(&cli->out, 0);
  fb_close(&cli->client);
  if (fflush(stdout) != 0 || ferror(stdout)) {
    fprintf(stderr, "forebay: cannot write to standard output: %s\n", strerror(errno));
    if (status == CLI_OK)
      status = CLI_FAILED;
  }
  return (int)status;
}

static const char *command_name(void *arg, size_t i) {
  (void)arg;
  for (size_t k = 0; k <= i; k++)
    if (!cli_commands[k])
      return NULL;
  return cli_commands[i]->name;
}

static int unknown_command(struct cli *cli, const char *group, const char *word) {
  char given[80];

  if (group && !word) {
    cli_help_group(group, stderr);
    return cli_fail(cli, -EINVAL, "'%s' wants one of the commands above", group);
  }
  snprintf(given, sizeof given, "%s%s%.60s", group ? group : "", group ? " " : "", word);
  const char *near = args_nearest(given, command_name, NULL);
  if (near)
    return cli_fail(cli, -EINVAL, "unknown command '%s'; did you mean '%s'?", given, near);
  return cli_fail(cli, -EINVAL, "unknown command '%s'; 'forebay --help' lists the commands", given);
}

static bool asks_for(int argc, char **argv, const char *option) {
  for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
    if (strcmp(argv[i], option) == 0)
      return true;
  return false;
}

static void take_globals(struct cli *cli, const struct args *a) {
  cli->options = (struct fb_options){
      .peers = args_text(a, "peers", NULL),
      .config = args_text(a, "config", NULL),
      .timeout_ms = (uint32_t)args_number(a, "timeout-ms", 0),
      .any_peer = args_set(a, "any-peer"),
  };
  cli->json = args_set(a, "json");
  cli->quiet = args_set(a, "quiet");
}

static int dispatch(struct cli *cli, int argc, char **argv) {
  struct args a = {0};
  char text[400];

  cli->json = asks_for(argc, argv, "--json") || asks_for(argc, argv, "-j");
  if (args_parse(&a, argc, argv, cli_globals, NULL, true, text, sizeof text) < 0)
    return cli_fail(cli, -EINVAL, "%s; see 'forebay --help'", text);
  if (args_set(&a, "version")) {
    printf("forebay %s (libforebay %s)\n", FOREBAY_VERSION, fb_version());
    return CLI_OK;
  }
  if (a.n_words == 0) {
    if (args_set(&a, "help")) {
      cli_help_all(stdout);
      return CLI_OK;
    }
    return cli_fail(cli, -EINVAL, "no command given; 'forebay --help' lists the commands");
  }
  /* Of a group's commands the name has two words, and options may stand between them. */
  const char *group = cli_help_group(a.words[0], NULL) ? a.words[0] : NULL;
  if (group && args_parse(&a, a.n_words, a.words, cli_globals, NULL, true, text, sizeof text) < 0)
    return cli_fail(cli, -EINVAL, "%s; see 'forebay %s --help'", text, group);
  const char *word = a.n_words ? a.words[0] : NULL;
  const struct command *c = word ? cli_find(group ? group : word, group ? word : NULL) : NULL;
  if (!c) {
    if (group && args_set(&a, "help") && cli_help_group(group, stdout))
      return CLI_OK;
    return unknown_command(cli, group, word);
  }

  /* The name's last word stands for argv[0]. */
  if (args_parse(&a, a.n_words, a.words, cli_globals, c->rows, false, text, sizeof text) < 0)
    return cli_fail(cli, -EINVAL, "%s; see 'forebay %s --help'", text, c->name);
  if (args_set(&a, "help")) {
    cli_help_command(c, stdout);
    return CLI_OK;
  }
  if ((unsigned)a.n_words < c->min_words || (unsigned)a.n_words > c->max_words)
    return cli_fail(cli, -EINVAL, "usage: forebay %s%s%s [OPTION...]; see 'forebay %s --help'", c->name,
                    *c->words ? " " : "", c->words, c->name);
  take_globals(cli, &a);
  return c->run(cli, &a);
}

int main(int argc, char **argv) {
  struct cli cli = {.out.out = stdout};

  /* gRPC allocates a message's pieces anew for every message: keep them, or each 1 MiB is mapped, faulted in and
   * unmapped again (1 MiB gets, 16 outstanding: 1.5 times the bytes per second). */
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_TOP_PAD, 16 << 20);
  return finish(&cli, dispatch(&cli, argc, argv));
}
