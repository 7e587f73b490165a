/* cmd_ns.c - `forebay ns`: namespaces. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "client/cli/commands.h"
#include "client/cli/out.h"

static const char *kind_name(enum fb_ns_kind k) {
  return k == FB_NS_DATASET ? "dataset" : k == FB_NS_DERIVED ? "derived" : "unknown";
}

static const char *ack_name(enum fb_ack a) {
  static const char *const names[] = {"default", "ram", "nvme", "origin"};
  return (unsigned)a < sizeof names / sizeof *names ? names[a] : "unknown";
}

static void ns_members(struct json *j, const struct fb_ns *ns) {
  json_string(j, "name", ns->name);
  json_hex(j, "id", ns->id);
  json_string(j, "kind", kind_name(ns->kind));
  json_string(j, "origin", ns->origin);
  json_uint(j, "block_bytes", ns->block_bytes);
  json_string(j, "ack", ack_name(ns->ack));
  json_uint(j, "attr_ttl_ms", ns->attr_ttl_ms);
  json_string(j, "version", ns->version);
  json_uint(j, "replicas", ns->replicas);
  json_int(j, "created_ns", ns->created_ns);
}

static void line(const char *name, const char *value) {
  printf("%-10s ", name);
  out_text(stdout, value);
  putchar('\n');
}

static void ns_lines(const struct fb_ns *ns) {
  char buf[OUT_BYTES_CAP], when[OUT_TIME_CAP];

  line("name", ns->name);
  printf("%-10s %016" PRIx64 "\n", "id", ns->id);
  line("kind", kind_name(ns->kind));
  line("origin", *ns->origin ? ns->origin : "-");
  line("block", out_bytes(buf, ns->block_bytes));
  if (ns->kind == FB_NS_DERIVED)
    line("ack", ack_name(ns->ack));
  printf("%-10s %" PRIu32 " ms\n", "attr ttl", ns->attr_ttl_ms);
  line("version", *ns->version ? ns->version : "-");
  printf("%-10s %" PRIu32 "\n", "replicas", ns->replicas);
  line("created", out_time(when, ns->created_ns));
}

/* ---- create ---- */

static const char *const acks[] = {"ram", "origin", NULL};
static const enum fb_ack ack_values[] = {FB_ACK_RAM, FB_ACK_ORIGIN};

static const struct arg_row create_rows[] = {
    {"origin", 'o', ARG_STRING, "DIR", 1, 0, NULL,
     "directory on the peers that holds the files; derived data is written there with --ack origin"},
    {"derived", 'd', ARG_FLAG, NULL, 0, 0, NULL, "a namespace that programs put values into, not a dataset"},
    {"ack", 0, ARG_CHOICE, "LEVEL", 0, 0, acks,
     "derived only: where a value is before a put returns, ram or origin; default: origin if there is one, else ram"},
    {"block-size", 'b', ARG_BYTES, "N", 65536, 4194304, NULL,
     "unit of fill, storage and checksum, a power of two in 64KiB..4MiB; default: 1MiB"},
    {"attr-ttl-ms", 0, ARG_UINT, "N", 1, 3600000, NULL,
     "how long a peer may go without asking the origin whether a file changed; default: 1000"},
    {"version", 0, ARG_STRING, "STR", 0, 0, NULL,
     "version string, part of every key: another version is another key space"},
    {0},
};

static int run_create(struct cli *cli, const struct args *a) {
  struct fb_ns ns = {.kind = args_set(a, "derived") ? FB_NS_DERIVED : FB_NS_DATASET};
  const char *origin = args_text(a, "origin", NULL), *version = args_text(a, "version", "");
  uint64_t block = args_number(a, "block-size", 0);

  if (ns.kind == FB_NS_DATASET && !origin)
    return cli_fail(cli, -EINVAL, "a dataset wants --origin DIR; a namespace to put values into wants --derived");
  if (ns.kind == FB_NS_DATASET && args_set(a, "ack"))
    return cli_fail(cli, -EINVAL, "--ack is about puts: it wants --derived");
  if (block & (block - 1))
    return cli_fail(cli, -EINVAL, "--block-size: '%s' is not a power of two; expected 64KiB, 128KiB, ... 4MiB",
                    args_text(a, "block-size", ""));
  if (strlen(a->words[0]) >= sizeof ns.name)
    return cli_fail(cli, -FB_ENSNAME, "namespace name '%.20s...' is longer than %zu bytes", a->words[0],
                    sizeof ns.name - 1);
  if (strlen(version) >= sizeof ns.version)
    return cli_fail(cli, -EINVAL, "--version: longer than %zu bytes", sizeof ns.version - 1);
  strcpy(ns.name, a->words[0]);
  strcpy(ns.version, version);
  if (origin) {
    /* The peers want an absolute path; a relative one can only be meant from here. */
    char *resolved = origin[0] == '/' ? strdup(origin) : realpath(origin, NULL);
    if (!resolved)
      return cli_fail(cli, -errno, "--origin: %.300s: %s; give the absolute path of a directory on the peers", origin,
                      strerror(errno));
    if (strlen(resolved) >= sizeof ns.origin) {
      free(resolved);
      return cli_fail(cli, -ENAMETOOLONG, "--origin: longer than %zu bytes", sizeof ns.origin - 1);
    }
    strcpy(ns.origin, resolved);
    free(resolved);
  }
  ns.ack = args_set(a, "ack") ? ack_values[args_number(a, "ack", 0)] : FB_ACK_DEFAULT;
  ns.block_bytes = (uint32_t)block;
  ns.attr_ttl_ms = (uint32_t)args_number(a, "attr-ttl-ms", 0);

  int rc = cli_open(cli);
  if (rc == 0)
    rc = fb_ns_create(cli->client, &ns, &cli->err);
  if (rc != 0)
    return rc;
  if (cli->json) {
    json_object(&cli->out, NULL);
    ns_members(&cli->out, &ns);
  } else {
    printf("created namespace %s (%s)\n", ns.name, kind_name(ns.kind));
  }
  return 0;
}

const struct command cmd_ns_create = {
    .name = "ns create",
    .words = "NAME",
    .summary = "make a namespace",
    .details = "Makes a dataset namespace over a directory that all peers can read, or, with --derived, one that "
               "programs put values into. Settings hold for the life of the namespace.\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_NEW_NS},
    .rows = create_rows,
    .run = run_create,
};

/* ---- list, show ---- */

static const struct arg_row no_rows[] = {{0}};

static int run_list(struct cli *cli, const struct args *a) {
  static const char *const headings[] = {"NAME", "KIND", ">BLOCK", "VERSION", "CREATED", "ORIGIN", NULL};
  char buf[OUT_BYTES_CAP], when[OUT_TIME_CAP];
  struct fb_ns *list = NULL;
  size_t n = 0;
  (void)a;

  int rc = cli_open(cli);
  if (rc == 0)
    rc = fb_ns_list(cli->client, &list, &n, &cli->err);
  if (rc != 0)
    return rc;
  if (cli->json) {
    json_object(&cli->out, NULL);
    json_array(&cli->out, "namespaces");
    for (size_t i = 0; i < n; i++) {
      json_object(&cli->out, NULL);
      ns_members(&cli->out, &list[i]);
      json_end(&cli->out);
    }
  } else if (cli->quiet) {
    for (size_t i = 0; i < n; i++) {
      out_text(stdout, list[i].name);
      putchar('\n');
    }
  } else {
    struct out_table *t = out_table_new(headings);
    for (size_t i = 0; i < n; i++) {
      out_cell(t, "%s", list[i].name);
      out_cell(t, "%s", kind_name(list[i].kind));
      out_cell(t, "%s", out_bytes(buf, list[i].block_bytes));
      out_cell(t, "%s", *list[i].version ? list[i].version : "-");
      out_cell(t, "%s", out_time(when, list[i].created_ns));
      out_cell(t, "%s", *list[i].origin ? list[i].origin : "-");
    }
    out_table_print(t, stdout);
    out_table_free(&t);
  }
  free(list);
  return 0;
}

const struct command cmd_ns_list = {
    .name = "ns list",
    .words = "",
    .summary = "list the namespaces",
    .details = "Lists all namespaces by name; with --quiet the names alone.\n",
    .rows = no_rows,
    .run = run_list,
};

static int run_show(struct cli *cli, const struct args *a) {
  char buf[OUT_BYTES_CAP];
  struct fb_ns ns;
  int rc = cli_open(cli);

  if (rc == 0)
    rc = fb_ns_show(cli->client, a->words[0], &ns, &cli->err);
  if (rc != 0)
    return rc;
  if (cli->json) {
    json_object(&cli->out, NULL);
    ns_members(&cli->out, &ns);
    json_uint(&cli->out, "resident_bytes", ns.resident_bytes);
    json_uint(&cli->out, "resident_blocks", ns.resident_blocks);
  } else {
    ns_lines(&ns);
    printf("%-10s %s in %" PRIu64 " blocks\n", "resident", out_bytes(buf, ns.resident_bytes), ns.resident_blocks);
  }
  return 0;
}

const struct command cmd_ns_show = {
    .name = "ns show",
    .words = "NAME",
    .summary = "settings of a namespace, and what is resident",
    .details = "Prints the settings of a namespace and what the peers hold of it.\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_NS},
    .rows = no_rows,
    .run = run_show,
};

/* ---- drop ---- */

static const struct arg_row drop_rows[] = {
    {"yes", 'y', ARG_FLAG, NULL, 0, 0, NULL, "do not ask"},
    {0},
};

static bool confirmed(const struct fb_ns *ns) {
  char buf[OUT_BYTES_CAP], answer[16];

  fprintf(stderr, "Drop namespace %s (%s, %s resident)? %s [y/N] ", ns->name, kind_name(ns->kind),
          out_bytes(buf, ns->resident_bytes),
          *ns->origin ? "Files at its origin stay." : "Its values exist nowhere else.");
  fflush(stderr);
  return fgets(answer, sizeof answer, stdin) && (strcasecmp(answer, "y\n") == 0 || strcasecmp(answer, "yes\n") == 0);
}

static int run_drop(struct cli *cli, const struct args *a) {
  char buf[OUT_BYTES_CAP];
  uint64_t freed = 0;
  struct fb_ns ns;
  bool ask = !args_set(a, "yes");

  if (ask && !isatty(STDIN_FILENO))
    return cli_fail(cli, -EINVAL, "standard input is no terminal to ask on: say --yes to drop '%.64s'", a->words[0]);
  int rc = cli_open(cli);
  if (rc == 0 && ask) {
    rc = fb_ns_show(cli->client, a->words[0], &ns, &cli->err);
    if (rc == 0 && !confirmed(&ns))
      return cli_fail(cli, -ECANCELED, "namespace %s was not dropped", ns.name);
  }
  if (rc == 0)
    rc = fb_ns_drop(cli->client, a->words[0], &freed, &cli->err);
  if (rc != 0)
    return rc;
  if (cli->json) {
    json_object(&cli->out, NULL);
    json_string(&cli->out, "name", a->words[0]);
    json_uint(&cli->out, "freed_bytes", freed);
  } else {
    printf("dropped namespace %s, %s freed\n", a->words[0], out_bytes(buf, freed));
  }
  return 0;
}

const struct command cmd_ns_drop = {
    .name = "ns drop",
    .words = "NAME",
    .summary = "forget a namespace",
    .details =
        "Forgets a namespace and frees its blocks on every peer. Files at its origin are not touched; values that "
        "live in memory only are lost. Asks first unless --yes is given.\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_NS},
    .rows = drop_rows,
    .run = run_drop,
};
