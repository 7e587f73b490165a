/* convert.c - the field by field part of net/. */
#include "server/net/convert.h"

#include <stdalign.h>
#include <stdlib.h>

struct route route_from_pb(const Forebay__V1__Route *r) {
  if (!r)
    return (struct route){0};
  return (struct route){
      .ring_hash = r->ring_hash, .ns_id = r->ns_id, .local = r->local, .resident_only = r->resident_only};
}

void object_to_pb(const struct object_info *info, const char *key, Forebay__V1__ObjectInfo *ret) {
  forebay__v1__object_info__init(ret);
  ret->key = pb_str(key);
  ret->size = info->size;
  ret->mtime_ns = info->mtime_ns;
  ret->etag = info->etag;
  ret->directory = info->directory;
}

/* The service's numbers are the protocol's; anything else would have to be mapped here. */
_Static_assert((int)NS_DATASET == (int)FOREBAY__V1__NAMESPACE_KIND__NAMESPACE_KIND_DATASET &&
                   (int)NS_DERIVED == (int)FOREBAY__V1__NAMESPACE_KIND__NAMESPACE_KIND_DERIVED,
               "kinds of namespaces");
_Static_assert((int)ACK_DEFAULT == (int)FOREBAY__V1__ACK_LEVEL__ACK_LEVEL_UNSPECIFIED &&
                   (int)ACK_RAM == (int)FOREBAY__V1__ACK_LEVEL__ACK_LEVEL_RAM &&
                   (int)ACK_NVME == (int)FOREBAY__V1__ACK_LEVEL__ACK_LEVEL_NVME &&
                   (int)ACK_ORIGIN == (int)FOREBAY__V1__ACK_LEVEL__ACK_LEVEL_ORIGIN,
               "levels of acknowledgement");
_Static_assert((int)SOURCE_RAM == (int)FOREBAY__V1__SOURCE__SOURCE_RAM &&
                   (int)SOURCE_ORIGIN == (int)FOREBAY__V1__SOURCE__SOURCE_ORIGIN &&
                   (int)SOURCE_NVME == (int)FOREBAY__V1__SOURCE__SOURCE_NVME,
               "sources of bytes");

void ns_to_pb(const struct ns_record *r, Forebay__V1__Namespace *ret) {
  forebay__v1__namespace__init(ret);
  ret->name = pb_str(r->name);
  ret->id = r->id;
  ret->kind = (Forebay__V1__NamespaceKind)r->kind;
  ret->origin = pb_str(r->origin);
  ret->block_bytes = r->block_bytes;
  ret->ack = (Forebay__V1__AckLevel)r->ack;
  ret->attr_ttl_ms = r->attr_ttl_ms;
  ret->version = pb_str(r->version);
  ret->created_ns = r->created_ns;
  ret->revision = r->revision;
  ret->dropped = r->dropped;
  ret->replicas = r->replicas;
}

void ns_from_pb(const Forebay__V1__Namespace *n, struct ns_record *ret) {
  *ret = (struct ns_record){
      .name = n->name,
      .id = n->id,
      .kind = (int)n->kind,
      .origin = n->origin,
      .block_bytes = n->block_bytes,
      .ack = (int)n->ack,
      .attr_ttl_ms = n->attr_ttl_ms,
      .version = n->version,
      .created_ns = n->created_ns,
      .revision = n->revision,
      .dropped = n->dropped,
      .replicas = n->replicas,
  };
}

void status_to_pb(int code, const char *text, Forebay__V1__ItemStatus *ret) {
  forebay__v1__item_status__init(ret);
  ret->code = (uint32_t)(code < 0 ? -code : code);
  if (code)
    ret->text = pb_str(text ? text : err_describe(code));
}

void get_to_pb(const struct get_reply *r, Forebay__V1__GetReply *ret) {
  forebay__v1__get_reply__init(ret);
  ret->etag = r->info.etag;
  ret->size = r->info.size;
  ret->mtime_ns = r->info.mtime_ns;
  ret->source = (Forebay__V1__Source)r->source;
  ret->peer = pb_str(r->peer);
  ret->crc32c = r->crc;
}

char **names_to_pb(const struct name_list *names, size_t *ret_n) {
  *ret_n = names ? names->n : 0;
  return *ret_n ? (char **)(uintptr_t)names->v : NULL;
}

void *pb_array(size_t n, size_t size, void ***ret_pointers) {
  size_t bytes = (n * size + alignof(void *) - 1) / alignof(void *) * alignof(void *);
  char *v = calloc(1, bytes + n * sizeof(void *) + 1);

  if (!v)
    return NULL;
  *ret_pointers = (void **)(void *)(v + bytes);
  for (size_t i = 0; i < n; i++)
    (*ret_pointers)[i] = v + i * size;
  return v;
}
