/* cmd_ls.c - `forebay ls` and `forebay stat`: what is there. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "client/cli/commands.h"
#include "client/cli/out.h"

struct listing {
  struct cli *cli;
  uint64_t entries, bytes;
};

static void info_members(struct json *j, const char *key, const struct fb_info *i) {
  json_string(j, "key", key);
  json_bool(j, "directory", i->directory);
  if (!i->directory) {
    json_uint(j, "size", i->size);
    json_int(j, "mtime_ns", i->mtime_ns);
    json_hex(j, "etag", i->etag);
  }
}

/* Entries are printed as they come: a listing of any length needs no memory here. */
static int print_entry(void *arg, const char *key, const struct fb_info *i) {
  struct listing *l = arg;
  char size[OUT_BYTES_CAP], when[OUT_TIME_CAP];

  l->entries++;
  l->bytes += i->size;
  if (l->cli->json) {
    json_object(&l->cli->out, NULL);
    info_members(&l->cli->out, key, i);
    json_end(&l->cli->out);
    return 0;
  }
  if (!l->cli->quiet)
    printf("%10s  %-19s  ", i->directory ? "-" : out_bytes(size, i->size),
           i->directory ? "-" : out_time(when, i->mtime_ns));
  out_text(stdout, key);
  fputs(i->directory ? "/\n" : "\n", stdout);
  /* The reader of our pipe is gone: the rest would be listed for nobody. */
  return ferror(stdout) ? -EPIPE : 0;
}

static int run_ls(struct cli *cli, const struct args *a) {
  struct listing l = {.cli = cli};
  struct fb_info info;
  struct target t;
  char prefix[2048];
  int rc = target_parse(cli, a->words[0], &t);

  if (rc == 0)
    rc = cli_open(cli);
  if (rc != 0)
    return rc;
  /* "NS/dir/" is what people type and what completion offers. */
  snprintf(prefix, sizeof prefix, "%s", t.rest ? t.rest : "");
  size_t n = strlen(prefix);
  if (n > 0 && prefix[n - 1] == '/')
    prefix[n - 1] = '\0';
  if (cli->json) {
    json_object(&cli->out, NULL);
    json_string(&cli->out, "namespace", t.ns);
    json_string(&cli->out, "prefix", prefix);
    json_array(&cli->out, "entries");
  }
  rc = fb_list(cli->client, t.ns, prefix, args_set(a, "recursive"), args_number(a, "limit", 0), print_entry, &l,
               &cli->err);
  /* A file by its name, as with ls(1). */
  if (rc == -ENOTDIR && l.entries == 0 && *prefix && fb_stat(cli->client, t.ns, prefix, &info, NULL) == 0)
    rc = print_entry(&l, prefix, &info);
  if (rc < 0)
    return rc == -EPIPE && ferror(stdout) ? CLI_FAILED : rc;
  if (cli->json) {
    json_end(&cli->out);
    json_uint(&cli->out, "count", l.entries);
    json_uint(&cli->out, "bytes", l.bytes);
  }
  return 0;
}

static const struct arg_row ls_rows[] = {
    {"recursive", 'R', ARG_FLAG, NULL, 0, 0, NULL, "all files below, not one level with its directories"},
    {"limit", 'l', ARG_UINT, "N", 1, UINT64_C(1000000000000), NULL, "stop after so many entries"},
    {0},
};

const struct command cmd_ls = {
    .name = "ls",
    .words = "NS[/PREFIX]",
    .summary = "list files or keys",
    .details = "Lists a directory of a namespace: size, time of modification, key. With --quiet the keys alone.\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_KEY},
    .rows = ls_rows,
    .run = run_ls,
};

static int run_stat(struct cli *cli, const struct args *a) {
  char buf[OUT_BYTES_CAP], when[OUT_TIME_CAP];
  struct fb_info i;
  struct target t;
  int rc = target_parse_key(cli, a->words[0], &t);

  if (rc == 0)
    rc = cli_open(cli);
  if (rc == 0)
    rc = fb_stat(cli->client, t.ns, t.rest, &i, &cli->err);
  if (rc != 0)
    return rc;
  if (cli->json) {
    json_object(&cli->out, NULL);
    json_string(&cli->out, "namespace", t.ns);
    info_members(&cli->out, t.rest, &i);
    return 0;
  }
  fputs("key       ", stdout);
  out_text(stdout, t.rest);
  if (i.directory)
    puts("\ntype      directory");
  else
    printf("\nsize      %" PRIu64 " (%s)\nmodified  %s\netag      %016" PRIx64 "\n", i.size, out_bytes(buf, i.size),
           out_time(when, i.mtime_ns), i.etag);
  return 0;
}

static const struct arg_row no_rows[] = {{0}};

const struct command cmd_stat = {
    .name = "stat",
    .words = "NS/KEY",
    .summary = "size, time and version of a file or value",
    .details =
        "Prints the size, the time of modification and the etag of a file or value: equal etags mean equal bytes.\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_KEY},
    .rows = no_rows,
    .run = run_stat,
};
