/* commands.c - the command table, the global options, and how words find their command. */
#include "client/cli/commands.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

const struct command *const cli_commands[] = {
    &cmd_status,     &cmd_ring, &cmd_ns_create, &cmd_ns_list,    &cmd_ns_show,  &cmd_ns_drop, &cmd_ls,
    &cmd_stat,       &cmd_get,  &cmd_put,       &cmd_invalidate, &cmd_prestage, &cmd_verify,  &cmd_doctor,
    &cmd_completion, &cmd_help, NULL,
};

const struct arg_row cli_globals[] = {
    {"peers", 'P', ARG_STRING, "LIST", 0, 0, NULL,
     "comma-separated host:port of some peers, the others are learnt from them; default: $FOREBAY_PEERS"},
    {"config", 'c', ARG_STRING, "FILE", 1, 0, NULL,
     "client configuration; default: $FOREBAY_CONFIG, else /etc/forebay/client.yaml"},
    {"timeout-ms", 0, ARG_UINT, "N", 1, 3600000, NULL, "limit of one call in milliseconds; default: 30000"},
    {"any-peer", 0, ARG_FLAG, NULL, 0, 0, NULL,
     "send everything to the first peer that answers, which forwards, instead of to each key's owner"},
    {"json", 'j', ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object on standard output"},
    {"quiet", 'q', ARG_FLAG, NULL, 0, 0, NULL, "no progress; lists print names only"},
    {"help", 'h', ARG_FLAG, NULL, 0, 0, NULL, "print help and exit"},
    {"version", 'V', ARG_FLAG, NULL, 0, 0, NULL, "print the version and exit"},
    {0},
};

const struct command *cli_find(const char *first, const char *second) {
  for (const struct command *const *c = cli_commands; *c; c++) {
    size_t n = strcspn((*c)->name, " ");
    const char *rest = (*c)->name[n] ? (*c)->name + n + 1 : NULL;
    if (strlen(first) == n && strncmp((*c)->name, first, n) == 0 &&
        (rest ? second && strcmp(rest, second) == 0 : !second))
      return *c;
  }
  return NULL;
}

int cli_fail(struct cli *cli, int code, const char *fmt, ...) {
  va_list ap;

  cli->err.code = code;
  va_start(ap, fmt);
  vsnprintf(cli->err.text, sizeof cli->err.text, fmt, ap);
  va_end(ap);
  return code;
}

int cli_open(struct cli *cli) { return cli->client ? 0 : fb_open(&cli->client, &cli->options, &cli->err); }

int target_parse(struct cli *cli, const char *word, struct target *ret) {
  static const char scheme[] = "forebay://";

  if (strncmp(word, scheme, sizeof scheme - 1) == 0)
    word += sizeof scheme - 1;
  size_t n = strcspn(word, "/");
  if (n == 0 || n >= sizeof ret->ns)
    return cli_fail(cli, -FB_ENSNAME,
                    "'%.80s' does not start with a namespace; expected NS or NS/KEY, where NS is 1..64 of [a-z0-9._-]",
                    word);
  memcpy(ret->ns, word, n);
  ret->ns[n] = '\0';
  ret->rest = word[n] ? word + n + 1 : NULL;
  return 0;
}

int target_parse_key(struct cli *cli, const char *word, struct target *ret) {
  int rc = target_parse(cli, word, ret);

  if (rc == 0 && !ret->rest)
    return cli_fail(cli, -EINVAL, "'%.80s' names a namespace; expected NS/KEY", word);
  return rc;
}
