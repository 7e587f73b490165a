/* ns_record.c - a namespace's record: what is well-formed, and its form on the wire. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/names.h"
#include "server/service/catalog.h"

#define REVISION_AHEAD_NS (86400 * (uint64_t)NS_PER_S)

int ns_record_check(const struct ns_record *r, struct err *e) {
  uint32_t bs = r->block_bytes;
  int rc = name_check_ns(r->name, e);

  if (rc < 0)
    return rc;
  if (r->kind != NS_DATASET && r->kind != NS_DERIVED)
    return err_set(e, -EINVAL, "namespace %s: kind %d is neither dataset (1) nor derived (2)", r->name, r->kind);
  if (r->kind == NS_DATASET && !*r->origin)
    return err_set(e, -EINVAL, "namespace %s: a dataset needs an origin directory", r->name);
  if (*r->origin && (*r->origin != '/' || strlen(r->origin) >= 4096))
    return err_set(e, -EINVAL, "namespace %s: origin must be an absolute path of at most 4095 bytes", r->name);
  if (bs < 65536 || bs > 4194304 || (bs & (bs - 1)))
    return err_set(e, -EINVAL, "namespace %s: block size %u is not a power of two in 65536..4194304", r->name, bs);
  if (r->attr_ttl_ms < 1 || r->attr_ttl_ms > 3600000)
    return err_set(e, -EINVAL, "namespace %s: attr_ttl_ms %u is not in 1..3600000", r->name, r->attr_ttl_ms);
  if (r->replicas != 1)
    return err_set(e, -EINVAL, "namespace %s: replicas = %u, but peers do not replicate yet; accepted: 1", r->name,
                   r->replicas);
  if (strlen(r->version) > HASH_VERSION_MAX || strchr(r->version, '/') || !strcmp(r->version, ".") ||
      !strcmp(r->version, ".."))
    return err_set(e, -EINVAL, "namespace %s: a version is at most 255 bytes without '/', and not '.' or '..'",
                   r->name);
  if (r->kind == NS_DERIVED && r->ack == ACK_NVME)
    return err_set(e, -EINVAL,
                   "namespace %s: ack=nvme needs an NVMe tier, which peers do not have yet; accepted: ram, "
                   "origin (with an origin directory)",
                   r->name);
  if (r->kind == NS_DERIVED && (r->ack == ACK_ORIGIN) != (*r->origin != '\0'))
    return err_set(e, -EINVAL,
                   "namespace %s: ack=origin and an origin directory belong together; without one use ack=ram",
                   r->name);
  if (r->ack < ACK_DEFAULT || r->ack > ACK_ORIGIN)
    return err_set(e, -EINVAL, "namespace %s: unknown ack level %d", r->name, r->ack);
  return 0;
}

int ns_record_check_revision(const struct ns_record *r, struct err *e) {
  if (r->revision > (uint64_t)clock_wall_ns() + REVISION_AHEAD_NS)
    return err_set(e, -EINVAL, "namespace %s: revision lies more than a day ahead of this peer's clock: set the clocks",
                   r->name);
  return 0;
}

Forebay__V1__Namespace **ns_records_to_pb(const struct ns_record *records, size_t n) {
  Forebay__V1__Namespace **pb = calloc(n + 1, sizeof *pb), *m = calloc(n + 1, sizeof *m);

  if (!pb || !m) {
    free(pb);
    free(m);
    return NULL;
  }
  for (size_t i = 0; i < n; i++) {
    const struct ns_record *r = &records[i];
    pb[i] = &m[i];
    forebay__v1__namespace__init(&m[i]);
    m[i].name = (char *)r->name;
    m[i].id = r->id;
    m[i].kind = (Forebay__V1__NamespaceKind)r->kind;
    m[i].origin = (char *)r->origin;
    m[i].block_bytes = r->block_bytes;
    m[i].ack = (Forebay__V1__AckLevel)r->ack;
    m[i].attr_ttl_ms = r->attr_ttl_ms;
    m[i].version = (char *)r->version;
    m[i].created_ns = r->created_ns;
    m[i].revision = r->revision;
    m[i].dropped = r->dropped;
    m[i].replicas = r->replicas;
  }
  if (n == 0) /* so that free finds it */
    pb[0] = m;
  return pb;
}

void ns_records_pb_free(Forebay__V1__Namespace **pb, size_t n) {
  (void)n;
  if (pb)
    free(pb[0]);
  free(pb);
}

struct ns_record *ns_records_from_pb(Forebay__V1__Namespace *const *pb, size_t n) {
  struct ns_record *r = calloc(n + 1, sizeof *r);

  for (size_t i = 0; r && i < n; i++)
    r[i] = (struct ns_record){.name = pb[i]->name,
                              .id = pb[i]->id,
                              .kind = (int)pb[i]->kind,
                              .origin = pb[i]->origin,
                              .block_bytes = pb[i]->block_bytes,
                              .ack = (int)pb[i]->ack,
                              .attr_ttl_ms = pb[i]->attr_ttl_ms,
                              .version = pb[i]->version,
                              .created_ns = pb[i]->created_ns,
                              .revision = pb[i]->revision,
                              .dropped = pb[i]->dropped,
                              .replicas = pb[i]->replicas};
  return r;
}
