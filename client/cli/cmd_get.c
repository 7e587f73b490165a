/* cmd_get.c - `forebay get`: bytes of one version of a file, in pieces, so that memory stays bounded. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/commands.h"
#include "client/cli/out.h"
#include "client/cli/outfile.h"
#include "client/cli/progress.h"

#define PIECE_BYTES (UINT64_C(16) << 20) /* one placement chunk: whole pieces have one owner */

struct get {
  struct target t;
  uint64_t offset, length; /* what is wanted; length UINT64_MAX = to the end */
  struct fb_info info;     /* of the version that all bytes are of */
  uint64_t bytes;
};

/* Copies the range to f. The first piece decides the version, the others are pinned to it. */
static int copy(struct cli *cli, struct get *g, struct outfile *f, struct progress *p) {
  uint64_t want = g->length < PIECE_BYTES ? g->length : PIECE_BYTES;
  char *buf = malloc(want ? want : 1);
  int rc = 0;

  if (!buf)
    return cli_fail(cli, -ENOMEM, "no memory for a buffer of %" PRIu64 " bytes", want);
  for (;;) {
    uint64_t at = g->offset + g->bytes;
    /* Pieces end at multiples of their size, so that each has one owner. */
    uint64_t n = PIECE_BYTES - at % PIECE_BYTES;
    if (n > g->length - g->bytes)
      n = g->length - g->bytes;
    if (n > want)
      n = want;
    ssize_t got = fb_pread_version(cli->client, g->t.ns, g->t.rest, g->info.etag, buf, n, at, &g->info, &cli->err);
    if (got < 0) {
      rc = (int)got;
      break;
    }
    rc = outfile_write(f, buf, (size_t)got);
    if (rc < 0) {
      cli_fail(cli, rc, "cannot write: %s", strerror(-rc));
      break;
    }
    g->bytes += (uint64_t)got;
    uint64_t end = g->length > g->info.size - g->offset ? g->info.size - g->offset : g->length;
    struct progress_state s = {g->bytes, end, g->bytes == end, 1, true};
    progress_update(p, &s);
    if ((uint64_t)got < n || g->bytes >= end) {
      if (g->bytes < end)
        rc =
            cli_fail(cli, -FB_ESHORT, "%s/%s: the read at %" PRIu64 " was short, though the file has %" PRIu64 " bytes",
                     g->t.ns, g->t.rest, at, g->info.size);
      else
        progress_end(p, &s);
      break;
    }
  }
  free(buf);
  return rc;
}

static void get_json(struct cli *cli, const struct get *g, const char *path, uint64_t elapsed_ns) {
  struct fb_client_stats st;
  struct json *j = &cli->out;

  fb_client_stats(cli->client, &st);
  json_object(j, NULL);
  json_string(j, "namespace", g->t.ns);
  json_string(j, "key", g->t.rest);
  json_string(j, "file", path);
  json_uint(j, "offset", g->offset);
  json_uint(j, "bytes", g->bytes);
  json_uint(j, "size", g->info.size);
  json_int(j, "mtime_ns", g->info.mtime_ns);
  json_hex(j, "etag", g->info.etag);
  json_uint(j, "elapsed_ns", elapsed_ns);
  json_object(j, "sources");
  json_uint(j, "ram", st.bytes_ram);
  json_uint(j, "nvme", st.bytes_nvme);
  json_uint(j, "origin", st.bytes_origin);
  json_uint(j, "forwarded", st.bytes_forwarded);
  json_end(j);
}

static int run_get(struct cli *cli, const struct args *a) {
  const char *path = args_text(a, "output", NULL);
  bool to_file = path && strcmp(path, "-") != 0;
  struct get g = {.offset = args_number(a, "offset", 0), .length = args_number(a, "length", UINT64_MAX)};
  struct timespec t0, t1;
  struct outfile f = {.fd = -1};
  struct progress p;
  int rc = target_parse_key(cli, a->words[0], &g.t);

  if (rc != 0)
    return rc;
  if (cli->json && !to_file)
    return cli_fail(cli, -EINVAL, "--json and the file's bytes cannot both go to standard output; say -o FILE");
  if ((rc = cli_open(cli)) < 0)
    return rc;
  rc = outfile_open(&f, path);
  if (rc < 0)
    return cli_fail(cli, rc, "cannot write %.300s: %s", path, strerror(-rc));
  clock_gettime(CLOCK_MONOTONIC, &t0);
  /* A log gains nothing from the progress of one file. */
  progress_init(&p, stderr, g.t.rest, cli->quiet || !to_file || !isatty(STDERR_FILENO));
  rc = copy(cli, &g, &f, &p);
  if (rc == 0) {
    rc = outfile_commit(&f);
    if (rc < 0)
      cli_fail(cli, rc, "cannot write %.300s: %s", path, strerror(-rc));
  } else {
    progress_clear(&p);
  }
  outfile_drop(&f);
  clock_gettime(CLOCK_MONOTONIC, &t1);
  if (rc == 0 && cli->json)
    get_json(cli, &g, path, (uint64_t)((t1.tv_sec - t0.tv_sec) * INT64_C(1000000000) + (t1.tv_nsec - t0.tv_nsec)));
  return rc;
}

static const struct arg_row get_rows[] = {
    {"output", 'o', ARG_STRING, "FILE", 1, 0, NULL,
     "write to FILE, which appears only when it is whole; default: standard output"},
    {"offset", 0, ARG_BYTES, "N", 0, INT64_MAX, NULL, "start there; default: 0"},
    {"length", 0, ARG_BYTES, "N", 0, INT64_MAX, NULL, "stop after so many bytes; default: at the end"},
    {0},
};

const struct command cmd_get = {
    .name = "get",
    .words = "NS/KEY",
    .summary = "read a file or value",
    .details =
        "Writes the bytes of a file or value, all of one version: if it changes meanwhile the command fails, and "
        "with -o leaves FILE as it was.\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_KEY},
    .rows = get_rows,
    .run = run_get,
};
