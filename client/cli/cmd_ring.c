/* cmd_ring.c - `forebay ring`: how the key space is shared out, and who owns a key. */
#include <errno.h>
#include <inttypes.h>

#include "client/cli/commands.h"
#include "client/cli/out.h"

static int locate(struct cli *cli, const char *word, uint64_t offset) {
  struct fb_location l;
  struct target t;
  int rc = target_parse_key(cli, word, &t);

  if (rc == 0)
    rc = cli_open(cli);
  if (rc == 0)
    rc = fb_locate(cli->client, t.ns, t.rest, offset, &l, &cli->err);
  if (rc != 0)
    return rc;
  unsigned n = l.n_owners < 8 ? l.n_owners : 8;
  if (!cli->json) {
    printf("slot %" PRIu32 "\n", l.slot);
    for (unsigned i = 0; i < n; i++) {
      out_text(stdout, l.owners[i]);
      putchar(' ');
      out_text(stdout, l.addresses[i]);
      putchar('\n');
    }
    return 0;
  }
  json_object(&cli->out, NULL);
  json_string(&cli->out, "namespace", t.ns);
  json_string(&cli->out, "key", t.rest);
  json_uint(&cli->out, "offset", offset);
  json_uint(&cli->out, "slot", l.slot);
  json_array(&cli->out, "owners");
  for (unsigned i = 0; i < n; i++) {
    json_object(&cli->out, NULL);
    json_string(&cli->out, "name", l.owners[i]);
    json_string(&cli->out, "address", l.addresses[i]);
    json_end(&cli->out);
  }
  return 0;
}

/* Load of a peer relative to its weight's share of the slots; 1 is perfect. */
static double load_of(const struct fb_cluster *cl, const struct fb_peer *p, uint64_t weights) {
  if (!p->weight || !cl->slots)
    return 0;
  return (double)p->slots_owned * (double)weights / ((double)p->weight * (double)cl->slots);
}

static int run_ring(struct cli *cli, const struct args *a) {
  static const char *const headings[] = {"PEER", "ADDRESS", "DOMAIN", ">WEIGHT", ">SLOTS", ">SHARE", ">LOAD", NULL};
  CLEANUP(fb_cluster_free) struct fb_cluster *cl = NULL;
  uint64_t weights = 0;
  double worst = 0;

  if (args_set(a, "locate"))
    return locate(cli, args_text(a, "locate", NULL), args_number(a, "offset", 0));
  if (args_set(a, "offset"))
    return cli_fail(cli, -EINVAL, "--offset says where in a key to look: it wants --locate NS/KEY");
  int rc = cli_open(cli);
  if (rc == 0)
    rc = fb_cluster_status(cli->client, &cl, &cli->err);
  if (rc != 0)
    return rc;
  for (size_t i = 0; i < cl->n_peers; i++)
    weights += cl->peers[i].weight;
  for (size_t i = 0; i < cl->n_peers; i++) {
    double load = load_of(cl, &cl->peers[i], weights);
    worst = load > worst ? load : worst;
  }
  if (cli->json) {
    struct json *j = &cli->out;
    json_object(j, NULL);
    json_uint(j, "epoch", cl->epoch);
    json_hex(j, "ring_hash", cl->ring_hash);
    json_uint(j, "slots", cl->slots);
    json_real(j, "max_over_mean", worst);
    json_array(j, "peers");
    for (size_t i = 0; i < cl->n_peers; i++) {
      const struct fb_peer *p = &cl->peers[i];
      json_object(j, NULL);
      json_string(j, "name", p->name);
      json_string(j, "address", p->address);
      json_string(j, "domain", p->domain);
      json_uint(j, "weight", p->weight);
      json_uint(j, "slots_owned", p->slots_owned);
      json_real(j, "load", load_of(cl, p, weights));
      json_end(j);
    }
    json_end(j);
    return 0;
  }
  printf("epoch %" PRIu64 ", %" PRIu32 " slots, hash %016" PRIx64 ", max/mean %.3f\n", cl->epoch, cl->slots,
         cl->ring_hash, worst);
  struct out_table *t = out_table_new(headings);
  for (size_t i = 0; i < cl->n_peers; i++) {
    const struct fb_peer *p = &cl->peers[i];
    out_cell(t, "%s", p->name);
    out_cell(t, "%s", p->address);
    out_cell(t, "%s", *p->domain ? p->domain : "-");
    out_cell(t, "%" PRIu32, p->weight);
    out_cell(t, "%" PRIu32, p->slots_owned);
    out_cell(t, "%.2f%%", cl->slots ? 100.0 * p->slots_owned / cl->slots : 0);
    out_cell(t, "%.3f", load_of(cl, p, weights));
  }
  out_table_print(t, stdout);
  out_table_free(&t);
  return 0;
}

static const struct arg_row ring_rows[] = {
    {"locate", 'l', ARG_STRING, "NS/KEY", 1, 0, NULL, "print the owners of a key, best first, instead"},
    {"offset", 'o', ARG_BYTES, "N", 0, INT64_MAX, NULL,
     "with --locate: where in the key; every 16 MiB of a file may have other owners"},
    {0},
};

const struct command cmd_ring = {
    .name = "ring",
    .words = "",
    .summary = "how the key space is shared out",
    .details = "Prints the members of the ring with the slots they own. LOAD is a peer's share relative to its weight: "
               "1 is perfect, and max/mean is the worst.\n",
    .rows = ring_rows,
    .run = run_ring,
};
