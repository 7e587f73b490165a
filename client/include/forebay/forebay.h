/* forebay.h - libforebay: a client of a Forebay cluster. The only public header.
 *
 *   struct fb_error err = {0};
 *   fb_client *c;
 *   if (fb_open(&c, NULL, &err) < 0) die(err.text);           // peers from $FOREBAY_PEERS
 *   ssize_t n = fb_pread(c, "imagenet", "train/000.tar", buf, sizeof buf, 0, &err);
 *   fb_close(&c);
 *
 * Conventions
 *  - Calls return 0 or a count on success and a negative code on failure: -1..-4095 are Linux errnos (an origin's
 *    errors are passed on unchanged), below -5000 the FB_E* codes here. `err` may be NULL; otherwise it gets a
 *    sentence that says what failed, on what, and what would be accepted.
 *  - A client is thread-safe: any number of threads may use one. Calls block at most for the client's timeout_ms
 *    (then -ETIMEDOUT), except where stated.
 *  - Strings are UTF-8, NUL-terminated. Keys are 1..1024 bytes. Sizes and offsets are bytes, times are what their
 *    names say.
 *  - Outputs named ret_* are written only on success.
 *  - Structs that the caller fills start zeroed: a zero field means the default, so new fields keep old programs valid.
 *  - Not across fork(): a child opens its own client (until the binary lane comes).
 */
#ifndef FOREBAY_H
#define FOREBAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FB_API __attribute__((visibility("default")))

enum {
  FB_ENONS = 5001,        /* no such namespace */
  FB_ENSEXISTS = 5002,    /* namespace exists already */
  FB_ENSNAME = 5003,      /* bad namespace name */
  FB_EKEYEMPTY = 5004,    /* empty key */
  FB_EKEYLONG = 5005,     /* key longer than 1024 bytes */
  FB_EKEYNAME = 5006,     /* key has an empty, '.' or '..' component, or a NUL byte */
  FB_EPASTEND = 5007,     /* range starts past the end */
  FB_ETOOBIG = 5008,      /* message or value over its size limit */
  FB_EPEERSEMPTY = 5009,  /* empty peer list */
  FB_EPEERSDUP = 5010,    /* duplicate peer in the list */
  FB_ERING = 5011,        /* peers disagree on the ring */
  FB_ECHANGED = 5012,     /* file changed while it was read */
  FB_ECRC = 5013,         /* checksum mismatch */
  FB_EESCAPES = 5014,     /* path leaves the origin directory */
  FB_ENOTDERIVED = 5015,  /* namespace does not take puts */
  FB_EORIGINROOT = 5016,  /* origin directory is not below an allowed root */
  FB_EPEERDOWN = 5017,    /* peer unreachable */
  FB_EBUSY = 5018,        /* over a configured limit, try again later */
  FB_ESHORT = 5019,       /* origin returned fewer bytes than the file holds */
  FB_EPROTO = 5020,       /* malformed or unexpected message */
  FB_EBADCONF = 5021,     /* bad configuration */
  FB_EBELOWTARGET = 5022, /* prestage ended below its target */
  FB_EDIFFERS = 5023,     /* cache and origin differ */
};

/* What went wrong, for people. Zero it before use. */
struct fb_error {
  int code;       /* the negative code that was returned, 0 = none */
  char text[512]; /* sentence, NUL-terminated */
};

/* Symbolic name ("ENOENT", "FB_ENONS") and short description of a code of either sign. Static storage. */
FB_API const char *fb_error_name(int code);
FB_API const char *fb_error_describe(int code);
/* "0.1.0" */
FB_API const char *fb_version(void);

/* ---- opening ---------------------------------------------------------------------------------------------------- */

typedef struct fb_client fb_client;

struct fb_options {
  /* Comma-separated host:port list of some peers; the rest is learnt from them. NULL: the file `config`, else
   * $FOREBAY_PEERS, else $FOREBAY_CONFIG, else /etc/forebay/client.yaml. */
  const char *peers;
  const char *config;       /* client YAML file: `peers: [host:port, ...]`, `timeout_ms`, `retries`, `parallel` */
  uint32_t timeout_ms;      /* whole-call limit, 1..3600000; 0 = 30000 */
  uint32_t peer_timeout_ms; /* one attempt at one peer, 1..timeout_ms; 0 = 5000 */
  uint32_t retries;         /* further attempts after the first, 1..16; 0 = 4 */
  uint32_t parallel;        /* requests in flight per call, 1..256; 0 = 16 */
  bool any_peer;            /* do not plan with the ring: send all to the first peer that answers, which forwards */
};

/* Connects to one of the peers, learns the ring. `options` may be NULL. Errors: -FB_EPEERSEMPTY, -FB_EPEERSDUP,
 * -EINVAL (what, where), -FB_EBADCONF, -FB_EPEERDOWN (none answers: the text names each and why), -FB_ERING. */
FB_API int fb_open(fb_client **ret, const struct fb_options *options, struct fb_error *err);
/* Waits for calls that other threads still have open. NULLs it; accepts NULL. */
FB_API void fb_close(fb_client **c);

/* ---- objects ---------------------------------------------------------------------------------------------------- */

enum fb_source { FB_SOURCE_UNKNOWN = 0, FB_SOURCE_RAM = 1, FB_SOURCE_ORIGIN = 2, FB_SOURCE_NVME = 3 };

/* One version of one file or value. Equal etags mean equal bytes. */
struct fb_info {
  uint64_t size;
  int64_t mtime_ns; /* Unix time at the origin, or of the put */
  uint64_t etag;
  bool directory;
};

FB_API int fb_stat(fb_client *c, const char *ns, const char *key, struct fb_info *ret, struct fb_error *err);

/* Reads up to `len` bytes at `offset` of the current version into buf: all bytes of one call are of one version
 * (a change in the middle restarts the read, and is -FB_ECHANGED if that goes on). Returns the bytes read, fewer than
 * `len` only at the end, 0 exactly at the end; -FB_EPASTEND beyond it. On failure buf's contents are undefined. */
FB_API ssize_t fb_pread(fb_client *c, const char *ns, const char *key, void *buf, size_t len, uint64_t offset,
                        struct fb_error *err);
/* The same pinned to a version: -FB_ECHANGED when it is no longer to be had. etag 0 = any; `ret_info` may be NULL. */
FB_API ssize_t fb_pread_version(fb_client *c, const char *ns, const char *key, uint64_t etag, void *buf, size_t len,
                                uint64_t offset, struct fb_info *ret_info, struct fb_error *err);
/* A whole object in memory that the caller frees with free(). At most max_len bytes, else -FB_ETOOBIG. */
FB_API int fb_get(fb_client *c, const char *ns, const char *key, size_t max_len, void **ret_buf, size_t *ret_len,
                  struct fb_error *err);

/* One range of a batch. The caller fills the inputs; the call fills the results of every item, whatever it returns. */
struct fb_range {
  const char *key;
  uint64_t offset;
  void *buf;     /* room for len bytes */
  size_t len;    /* 0..4194304 */
  uint64_t etag; /* 0 = current */
  /* results */
  ssize_t result; /* bytes read, or a negative code */
  struct fb_info info;
};
/* Reads n ranges, grouped by owner, in parallel. Returns the number of items that failed (0 = all went well), or a
 * negative code when nothing could be done; err holds the first failure's text. */
FB_API int fb_multi_get(fb_client *c, const char *ns, struct fb_range *ranges, size_t n, struct fb_error *err);

struct fb_put_options {
  bool overwrite;
};
/* Stores a value in a derived namespace; returns when its ack level is reached. Errors: -FB_ENOTDERIVED, -EEXIST,
 * -FB_ETOOBIG, -ENOSPC (nothing was stored, an older value stays), ... `options` and `ret` may be NULL. */
FB_API int fb_put(fb_client *c, const char *ns, const char *key, const void *data, size_t len,
                  const struct fb_put_options *options, struct fb_info *ret, struct fb_error *err);

/* Calls `each` for every entry below directory `prefix` ("" = root); it stops the listing by returning non-zero, which
 * fb_list then returns. recursive: files only, all levels. limit 0 = none. timeout_ms holds between two pages. */
typedef int (*fb_list_fn)(void *arg, const char *key, const struct fb_info *info);
FB_API int fb_list(fb_client *c, const char *ns, const char *prefix, bool recursive, uint64_t limit, fb_list_fn each,
                   void *arg, struct fb_error *err);

/* Makes peers forget cached blocks of keys that match a glob (`*`, `?` within a component, `**` across; NULL or "" =
 * all). ret_* may be NULL. Peers that could not be reached: -FB_EPEERDOWN, after the others have forgotten. */
FB_API int fb_invalidate(fb_client *c, const char *ns, const char *pattern, uint64_t *ret_blocks, uint64_t *ret_bytes,
                         struct fb_error *err);
/* Does the key match such a glob? As the peers judge it; NULL or "" matches all, a malformed glob nothing. */
FB_API bool fb_glob_match(const char *pattern, const char *key);

/* ---- namespaces ------------------------------------------------------------------------------------------------- */

enum fb_ns_kind { FB_NS_DATASET = 1, FB_NS_DERIVED = 2 };
enum fb_ack { FB_ACK_DEFAULT = 0, FB_ACK_RAM = 1, FB_ACK_NVME = 2, FB_ACK_ORIGIN = 3 };

struct fb_ns {
  char name[65];
  uint64_t id;
  enum fb_ns_kind kind;
  char origin[4096]; /* "" = none */
  uint32_t block_bytes;
  enum fb_ack ack;
  uint32_t attr_ttl_ms;
  char version[256];
  uint32_t replicas;
  int64_t created_ns;
  /* filled by fb_ns_show only */
  uint64_t resident_bytes, resident_blocks;
};

/* Creates from name, kind and what else is not zero; *ns gets the settings that hold. -FB_ENSEXISTS, -FB_ENSNAME,
 * -FB_EORIGINROOT, -ENOENT / -ENOTDIR (origin), -EINVAL. */
FB_API int fb_ns_create(fb_client *c, struct fb_ns *ns, struct fb_error *err);
FB_API int fb_ns_show(fb_client *c, const char *name, struct fb_ns *ret, struct fb_error *err);
/* *ret: malloc'ed array of *ret_n, by name. */
FB_API int fb_ns_list(fb_client *c, struct fb_ns **ret, size_t *ret_n, struct fb_error *err);
FB_API int fb_ns_drop(fb_client *c, const char *name, uint64_t *ret_freed_bytes, struct fb_error *err);

/* ---- prestage --------------------------------------------------------------------------------------------------- */

struct fb_prestage_progress {
  uint64_t files_total, bytes_total; /* final once listed */
  uint64_t files_resident, bytes_resident;
  uint64_t bytes_from_origin;
  uint64_t files_failed;
  uint64_t elapsed_ns;
  bool listed, done; /* done: resident figures were verified in a pass over all peers */
};
/* Progress, about four times a second; failed_key and failure are set when a file's failure is told (at most 20 are).
 * Non-zero stops the run with -ECANCELED. */
typedef int (*fb_prestage_fn)(void *arg, const struct fb_prestage_progress *p, const char *failed_key,
                              const char *failure);
struct fb_prestage_options {
  uint32_t parallel; /* chunks in flight per peer, 1..64; 0 = the peer's default */
  bool background;   /* return once a peer has taken the run; it goes on without us (watch it with fb_cluster_status) */
};
/* Fills everything that matches the glob. Not bound by timeout_ms as long as progress arrives. Returns 0 when the run
 * reached its end: compare bytes_resident with bytes_total. `options` and `each` may be NULL. */
FB_API int fb_prestage(fb_client *c, const char *ns, const char *pattern, const struct fb_prestage_options *options,
                       fb_prestage_fn each, void *arg, struct fb_prestage_progress *ret, struct fb_error *err);

/* ---- the cluster ------------------------------------------------------------------------------------------------ */

struct fb_peer {
  char name[64], address[256], domain[64];
  uint32_t weight;
  bool reachable;
  char text[256]; /* why not */
  /* below: only when reachable and asked for by fb_cluster_status */
  char version[32];
  uint64_t uptime_ns, epoch, ring_hash;
  uint64_t ram_used_bytes, ram_max_bytes;
  uint32_t connections, connections_max;
  bool draining;
  int64_t clock_skew_ns; /* peer's wall clock minus ours, give or take half the round trip */
  int64_t round_trip_ns;
  uint32_t slots_owned; /* as first owner */
  size_t n_counters;
  struct fb_counter {
    char name[48];
    uint64_t value;
  } * counters;
};
struct fb_cluster {
  uint64_t epoch, ring_hash;
  uint32_t slots;
  size_t n_peers;
  struct fb_peer *peers; /* by name */
};
/* Asks every member. Succeeds if any peer answered. */
FB_API int fb_cluster_status(fb_client *c, struct fb_cluster **ret, struct fb_error *err);
FB_API void fb_cluster_free(struct fb_cluster **cl);

struct fb_location {
  uint32_t slot;
  unsigned n_owners;
  char owners[8][64]; /* best first */
  char addresses[8][256];
};
/* Owners of the chunk at `offset` of a key. */
FB_API int fb_locate(fb_client *c, const char *ns, const char *key, uint64_t offset, struct fb_location *ret,
                     struct fb_error *err);

/* Totals of this client since fb_open. Every byte that was returned is counted once, by where it came from. */
struct fb_client_stats {
  uint64_t bytes_ram, bytes_origin, bytes_nvme; /* by the owner's source */
  uint64_t bytes_forwarded;                     /* of these, through a peer that was not the owner */
  uint64_t requests, retries, failovers, errors, crc_errors;
};
FB_API void fb_client_stats(fb_client *c, struct fb_client_stats *ret);

#ifdef __cplusplus
}
#endif
#endif
