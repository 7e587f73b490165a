/* read.c - an example of libforebay: reads one object in order, as a data loader would, and prints how much came from
 * where. The guide docs/client.md goes through it.
 *
 *   FOREBAY_PEERS=node1:7077,node2:7077 forebay-example-read imagenet train/000.tar > 000.tar
 */
#include <forebay/forebay.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define PIECE ((size_t)8 << 20)

static int fail(const struct fb_error *err) {
  fprintf(stderr, "forebay-example-read: %s (%s)\n", err->text, fb_error_name(err->code));
  return 1;
}

/* Copies the version that is current now to standard output. */
static int copy(fb_client *c, const char *ns, const char *key, char *buf) {
  struct fb_error err = {0};
  struct fb_info info;
  uint64_t offset = 0;

  if (fb_stat(c, ns, key, &info, &err) < 0)
    return fail(&err);
  while (offset < info.size) {
    /* pinned by the etag: if the file changes meanwhile this fails, rather than mixing two versions */
    ssize_t n = fb_pread_version(c, ns, key, info.etag, buf, PIECE, offset, NULL, &err);
    if (n < 0)
      return fail(&err);
    if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n) {
      perror("forebay-example-read: cannot write");
      return 1;
    }
    offset += (uint64_t)n;
  }
  if (fflush(stdout) != 0) {
    perror("forebay-example-read: cannot write");
    return 1;
  }
  return 0;
}

int main(int argc, char **argv) {
  struct fb_error err = {0};
  struct fb_client_stats stats;
  fb_client *c;

  if (argc != 3) {
    fprintf(stderr, "usage: FOREBAY_PEERS=host:port,... %s NAMESPACE KEY > FILE\n", argv[0]);
    return 2;
  }
  char *buf = malloc(PIECE);
  if (!buf) {
    perror("forebay-example-read");
    return 1;
  }
  if (fb_open(&c, NULL, &err) < 0) { /* NULL: peers from the environment or a file */
    free(buf);
    return fail(&err);
  }
  int status = copy(c, argv[1], argv[2], buf);
  fb_client_stats(c, &stats);
  fprintf(stderr, "%" PRIu64 " bytes from RAM, %" PRIu64 " from the origin, %" PRIu64 " retries\n", stats.bytes_ram,
          stats.bytes_origin, stats.retries);
  fb_close(&c);
  free(buf);
  return status;
}
