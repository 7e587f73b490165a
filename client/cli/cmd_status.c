/* cmd_status.c - `forebay status`: what every peer says of itself. */
#include <inttypes.h>

#include "client/cli/commands.h"
#include "client/cli/out.h"

static void status_json(struct json *j, const struct fb_cluster *cl) {
  json_object(j, NULL);
  json_uint(j, "epoch", cl->epoch);
  json_hex(j, "ring_hash", cl->ring_hash);
  json_uint(j, "slots", cl->slots);
  json_array(j, "peers");
  for (size_t i = 0; i < cl->n_peers; i++) {
    const struct fb_peer *p = &cl->peers[i];
    json_object(j, NULL);
    json_string(j, "name", p->name);
    json_string(j, "address", p->address);
    json_string(j, "domain", p->domain);
    json_uint(j, "weight", p->weight);
    json_bool(j, "reachable", p->reachable);
    if (!p->reachable) {
      json_string(j, "text", p->text);
      json_end(j);
      continue;
    }
    json_string(j, "version", p->version);
    json_bool(j, "draining", p->draining);
    json_uint(j, "uptime_ns", p->uptime_ns);
    json_uint(j, "epoch", p->epoch);
    json_hex(j, "ring_hash", p->ring_hash);
    json_uint(j, "ram_used_bytes", p->ram_used_bytes);
    json_uint(j, "ram_max_bytes", p->ram_max_bytes);
    json_uint(j, "connections", p->connections);
    json_uint(j, "connections_max", p->connections_max);
    json_int(j, "clock_skew_ns", p->clock_skew_ns);
    json_int(j, "round_trip_ns", p->round_trip_ns);
    json_uint(j, "slots_owned", p->slots_owned);
    json_object(j, "counters");
    for (size_t k = 0; k < p->n_counters; k++)
      json_uint(j, p->counters[k].name, p->counters[k].value);
    json_end(j);
    json_end(j);
  }
  json_end(j);
}

static void status_table(const struct fb_cluster *cl, bool counters) {
  static const char *const headings[] = {"PEER", "ADDRESS", "STATE",  ">UPTIME",      "VERSION",
                                         ">RAM", ">OF",     ">SLOTS", ">CONNECTIONS", NULL};
  struct out_table *t = out_table_new(headings);
  char used[OUT_BYTES_CAP], max[OUT_BYTES_CAP], up[OUT_BYTES_CAP];
  size_t reachable = 0;

  for (size_t i = 0; i < cl->n_peers; i++) {
    const struct fb_peer *p = &cl->peers[i];
    reachable += p->reachable;
    out_cell(t, "%s", p->name);
    out_cell(t, "%s", p->address);
    if (!p->reachable) {
      out_cell(t, "down");
      for (int k = 0; k < 6; k++)
        out_cell(t, "-");
      continue;
    }
    out_cell(t, "%s", p->draining ? "draining" : p->ring_hash != cl->ring_hash ? "other ring" : "up");
    out_cell(t, "%s", out_duration(up, p->uptime_ns));
    out_cell(t, "%s", p->version);
    out_cell(t, "%s", out_bytes(used, p->ram_used_bytes));
    out_cell(t, "%s", out_bytes(max, p->ram_max_bytes));
    out_cell(t, "%" PRIu32, p->slots_owned);
    out_cell(t, "%" PRIu32 "/%" PRIu32, p->connections, p->connections_max);
  }
  printf("%zu of %zu peers up, ring epoch %" PRIu64 ", hash %016" PRIx64 "\n", reachable, cl->n_peers, cl->epoch,
         cl->ring_hash);
  out_table_print(t, stdout);
  out_table_free(&t);
  for (size_t i = 0; counters && i < cl->n_peers; i++)
    for (size_t k = 0; k < cl->peers[i].n_counters; k++)
      printf("%s %s %" PRIu64 "\n", cl->peers[i].name, cl->peers[i].counters[k].name, cl->peers[i].counters[k].value);
}

static int run_status(struct cli *cli, const struct args *a) {
  CLEANUP(fb_cluster_free) struct fb_cluster *cl = NULL;
  size_t down = 0;
  const struct fb_peer *first = NULL;
  int rc = cli_open(cli);

  if (rc == 0)
    rc = fb_cluster_status(cli->client, &cl, &cli->err);
  if (rc != 0)
    return rc;
  if (cli->json)
    status_json(&cli->out, cl);
  else
    status_table(cl, args_set(a, "counters"));
  for (size_t i = 0; i < cl->n_peers; i++)
    if (!cl->peers[i].reachable) {
      first = first ? first : &cl->peers[i];
      down++;
    }
  if (down && args_set(a, "require-all"))
    return cli_fail(cli, -FB_EPEERDOWN, "%zu of %zu peers cannot be reached; %s (%.200s): %.200s", down, cl->n_peers,
                    first->name, first->address, first->text);
  return 0;
}

static const struct arg_row status_rows[] = {
    {"counters", 0, ARG_FLAG, NULL, 0, 0, NULL, "print every counter of every peer too (always there with --json)"},
    {"require-all", 0, ARG_FLAG, NULL, 0, 0, NULL,
     "exit with 4 unless every peer answers; default: if one does, all is told"},
    {0},
};

const struct command cmd_status = {
    .name = "status",
    .words = "",
    .summary = "state of every peer",
    .details = "Asks every member of the cluster for its state, and tells which do not answer.\n",
    .rows = status_rows,
    .run = run_status,
};
