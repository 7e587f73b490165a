/* outfile.h - a file that appears under its name only when it is whole. */
#ifndef FB_CLI_OUTFILE_H
#define FB_CLI_OUTFILE_H

#include <stdbool.h>
#include <stddef.h>

struct outfile {
  int fd;
  bool direct;       /* stdout, a pipe, a device: written as it comes, nothing to rename */
  char *path, *temp; /* NULL when direct */
};

/* "-" or NULL: stdout. A regular file, or one that is not there, is written as a temporary file beside it, which
 * SIGINT, SIGTERM, SIGHUP and outfile_drop remove. One at a time. 0 or a negative errno (-EISDIR, -EACCES, ...). */
int outfile_open(struct outfile *f, const char *path);
/* All of buf. 0 or a negative errno. */
int outfile_write(struct outfile *f, const void *buf, size_t len);
/* Gives the file its name. 0 or a negative errno, after which outfile_drop is still due. */
int outfile_commit(struct outfile *f);
/* Removes what was not committed. Accepts a zeroed or finished one. */
void outfile_drop(struct outfile *f);

#endif
