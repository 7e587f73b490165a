/* doctor.h - the parts of `forebay doctor`: each looks at one side of an installation and says what to do about it. */
#ifndef FB_CLI_DOCTOR_H
#define FB_CLI_DOCTOR_H

#include <stdint.h>
#include <sys/types.h>

#include "client/cli/cli.h"

enum doctor_status { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };

struct doctor {
  struct cli *cli;
  unsigned counts[DOCTOR_FAIL + 1];
  unsigned probes; /* ports that were tried */
  /* What is known of the forebayd of this machine. */
  struct {
    bool configured; /* the fields below hold what its configuration says */
    char listen[300], state_dir[1100];
    uint64_t ram_max_bytes, max_connections;
    pid_t pid; /* 0 = none was found on its port */
  } daemon;
};

/* One line of the report. `todo`: what to do, NULL when nothing. */
void doctor_say(struct doctor *d, enum doctor_status s, const char *check, const char *todo, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* doctor_daemon.c: runs `forebayd --check-config` and reads what is in force. config: NULL = the default file if it is
 * there. forebayd: NULL = beside this program, else in $PATH. */
void doctor_config(struct doctor *d, const char *forebayd, const char *config);
/* doctor_host.c: port, descriptors, locked memory, io_uring, memory, state directory. */
void doctor_host(struct doctor *d);
/* doctor_cluster.c: peers, ring, clocks, origins. */
void doctor_cluster(struct doctor *d);
/* Free space of the filesystem that holds `path`. */
void doctor_space(struct doctor *d, const char *what, const char *path, bool written);

#endif
