/* cmd_put.c - `forebay put` and `forebay invalidate`: putting into the cache, and making it forget. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/commands.h"
#include "client/cli/out.h"

/* A value is one message to the library, so it has to fit into memory; peers have their own, lower limit. */
#define VALUE_MAX_BYTES (UINT64_C(1) << 30)

static int too_big(struct cli *cli, const char *name) {
  return cli_fail(cli, -FB_ETOOBIG, "%.300s: more than %" PRIu64 " bytes; a value is at most that long", name,
                  VALUE_MAX_BYTES);
}

/* Reads fd to its end. The buffer starts with the size that the file tells and grows by doubling, up to one byte over
 * the limit. */
static int slurp(struct cli *cli, int fd, const char *name, char **ret, size_t *ret_len) {
  struct stat st;
  size_t len = 0, cap = 64 << 10;
  char *buf = NULL;

  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
    if ((uint64_t)st.st_size > VALUE_MAX_BYTES)
      return too_big(cli, name);
    cap = (size_t)st.st_size + 1; /* so that the read that meets the end needs no growth */
  }
  for (;;) {
    if (!buf || len == cap) {
      if (buf)
        cap = cap < VALUE_MAX_BYTES / 2 ? 2 * cap : VALUE_MAX_BYTES + 1;
      char *grown = realloc(buf, cap);
      if (!grown) {
        free(buf);
        return cli_fail(cli, -ENOMEM, "%.300s: no memory for %zu bytes", name, cap);
      }
      buf = grown;
    }
    ssize_t n = read(fd, buf + len, cap - len);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0) {
      int rc = cli_fail(cli, -errno, "cannot read %.300s: %s", name, strerror(errno));
      free(buf);
      return rc;
    }
    if (n == 0)
      break;
    len += (size_t)n;
    if (len > VALUE_MAX_BYTES) {
      free(buf);
      return too_big(cli, name);
    }
  }
  *ret = buf;
  *ret_len = len;
  return 0;
}

static int run_put(struct cli *cli, const struct args *a) {
  const char *path = a->words[1];
  bool standard = strcmp(path, "-") == 0;
  struct fb_put_options options = {.overwrite = args_set(a, "overwrite")};
  struct fb_info info;
  char buf[OUT_BYTES_CAP], *data = NULL;
  size_t len = 0;
  struct target t;
  int rc = target_parse_key(cli, a->words[0], &t);

  if (rc != 0)
    return rc;
  int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return cli_fail(cli, -errno, "cannot read %.300s: %s", path, strerror(errno));
  rc = slurp(cli, fd, standard ? "standard input" : path, &data, &len);
  if (!standard)
    close(fd);
  if (rc == 0)
    rc = cli_open(cli);
  if (rc == 0)
    rc = fb_put(cli->client, t.ns, t.rest, data, len, &options, &info, &cli->err);
  free(data);
  if (rc != 0)
    return rc;
  if (cli->json) {
    json_object(&cli->out, NULL);
    json_string(&cli->out, "namespace", t.ns);
    json_string(&cli->out, "key", t.rest);
    json_uint(&cli->out, "size", info.size);
    json_int(&cli->out, "mtime_ns", info.mtime_ns);
    json_hex(&cli->out, "etag", info.etag);
  } else if (!cli->quiet) {
    fputs("put ", stdout);
    out_text(stdout, a->words[0]);
    printf(", %s\n", out_bytes(buf, info.size));
  }
  return 0;
}

static const struct arg_row put_rows[] = {
    {"overwrite", 'f', ARG_FLAG, NULL, 0, 0, NULL, "replace a value that exists; otherwise that is an error"},
    {0},
};

const struct command cmd_put = {
    .name = "put",
    .words = "NS/KEY FILE|-",
    .summary = "store a value",
    .details = "Stores a file, or with - standard input, as a value of a derived namespace. Returns when the "
               "namespace's ack level is reached.\n",
    .min_words = 2,
    .max_words = 2,
    .kinds = {WORD_KEY, WORD_FILE},
    .rows = put_rows,
    .run = run_put,
};

static int run_invalidate(struct cli *cli, const struct args *a) {
  uint64_t blocks = 0, bytes = 0;
  char buf[OUT_BYTES_CAP];
  struct target t;
  int rc = target_parse(cli, a->words[0], &t);

  if (rc == 0)
    rc = cli_open(cli);
  if (rc == 0)
    rc = fb_invalidate(cli->client, t.ns, t.rest, &blocks, &bytes, &cli->err);
  if (rc != 0)
    return rc;
  if (cli->json) {
    json_object(&cli->out, NULL);
    json_string(&cli->out, "namespace", t.ns);
    json_string(&cli->out, "pattern", t.rest ? t.rest : "");
    json_uint(&cli->out, "blocks", blocks);
    json_uint(&cli->out, "bytes", bytes);
  } else if (!cli->quiet) {
    printf("forgot %" PRIu64 " blocks, %s\n", blocks, out_bytes(buf, bytes));
  }
  return 0;
}

static const struct arg_row no_rows[] = {{0}};

const struct command cmd_invalidate = {
    .name = "invalidate",
    .words = "NS[/GLOB]",
    .summary = "make the peers forget cached blocks",
    .details =
        "Makes all peers forget the blocks and attributes of the keys that match, so that the next read asks the "
        "origin. Files at the origin are not touched, and values that are stored nowhere else stay.\n",
    .min_words = 1,
    .max_words = 1,
    .kinds = {WORD_KEY},
    .rows = no_rows,
    .run = run_invalidate,
};
