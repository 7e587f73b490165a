/* parts.h - how the service makes and ends its parts: core.c is the only caller. */
#ifndef FB_SERVICE_PARTS_H
#define FB_SERVICE_PARTS_H

#include "server/service/internal.h"

#define SCAN_THREADS 4u
#define SCAN_QUEUE 256u
#define PUT_THREADS 4u
#define PUT_QUEUE 1024u

/* attr.c: at most `entries` attributes. */
int attr_table_new(struct attr_table **ret, unsigned entries);
void attr_table_free(struct attr_table **t);

/* peers.c: connections to the others, made as they are needed. */
int peer_table_new(struct peer_table **ret);
void peer_table_free(struct peer_table **t);

/* prestage.c: the runs of this peer. Stop refuses new ones, asks the others to end, and tells how many have not yet. */
int prestage_runs_new(struct prestage_runs **ret, struct service *s);
unsigned prestage_runs_stop(struct prestage_runs *r);
void prestage_runs_free(struct prestage_runs **r);

/* catalog.c: begins an exchange with another peer (in turn), unless one is under way. Does not block. */
void catalog_pull(struct service *s, int64_t now_ns);

#endif
