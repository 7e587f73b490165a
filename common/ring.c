/* ring.c - the ring as its users see it: a checked, sorted copy of the member list, its hash, and the owner tables that
 * ring_place fills. The tables are rank-major, so that finding a key's owner touches one small array. */
#include "common/ring.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/ring_place.h"

#define NAME_MAX_LEN 63
#define ADDRESS_MAX_LEN 255
#define DOMAIN_MAX_LEN 63
#define HASH_FORMAT 1

struct ring {
  atomic_uint refs;
  unsigned bits, shift; /* slots = 2^bits; a slot is the hash shifted right */
  unsigned n, ranks;    /* members; owners per slot */
  uint64_t epoch;
  struct hash128 hash;
  size_t bytes;
  struct ring_member *members; /* sorted by name, pointing into strings */
  char *strings;
  uint16_t *owners; /* [rank][slot] */
  uint32_t *loads;  /* [rank][member] */
};

static bool name_ok(const char *name) {
  size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
  return len > 0 && len <= NAME_MAX_LEN && name[len] == '\0';
}

static int member_check(const struct ring_member *m, struct err *e) {
  if (!m->name || !name_ok(m->name))
    return err_set(e, -EINVAL, "peer name \"%.80s\": must be 1 to %d characters of A-Z a-z 0-9 . _ -",
                   m->name ? m->name : "", NAME_MAX_LEN);
  if (!m->address || !*m->address || strnlen(m->address, ADDRESS_MAX_LEN + 1) > ADDRESS_MAX_LEN)
    return err_set(e, -EINVAL, "peer %s: address must be host:port, 1 to %d bytes", m->name, ADDRESS_MAX_LEN);
  if (m->weight < 1 || m->weight > RING_WEIGHT_MAX)
    return err_set(e, -EINVAL, "peer %s: weight %u: must be 1 to %u", m->name, m->weight, RING_WEIGHT_MAX);
  if (m->domain && strnlen(m->domain, DOMAIN_MAX_LEN + 1) > DOMAIN_MAX_LEN)
    return err_set(e, -EINVAL, "peer %s: failure domain is longer than %d bytes", m->name, DOMAIN_MAX_LEN);
  return 0;
}

static int list_check(const struct ring_member *members, unsigned n, uint32_t slots, struct err *e) {
  if (n == 0)
    return err_set(e, -FB_EPEERSEMPTY, "the peer list is empty: name at least one peer");
  if (n > RING_MEMBERS_MAX)
    return err_set(e, -EINVAL, "%u peers: at most %u are supported", n, RING_MEMBERS_MAX);
  if (slots < RING_SLOTS_MIN || slots > RING_SLOTS_MAX || (slots & (slots - 1)) != 0)
    return err_set(e, -EINVAL, "%u ring slots: must be a power of two from %u to %u", slots, RING_SLOTS_MIN,
                   RING_SLOTS_MAX);
  if (slots / 16 < n)
    return err_set(e, -EINVAL, "%u ring slots are too few for %u peers: at least 16 per peer are needed", slots, n);
  for (unsigned i = 0; i < n; i++) {
    int r = member_check(&members[i], e);
    if (r < 0)
      return r;
  }
  return 0;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct ring_member *)a)->name, ((const struct ring_member *)b)->name);
}

static int by_address(const void *a, const void *b) {
  return strcmp((*(const struct ring_member *const *)a)->address, (*(const struct ring_member *const *)b)->address);
}

static int by_domain(const void *a, const void *b) {
  return strcmp((*(const struct ring_member *const *)a)->domain, (*(const struct ring_member *const *)b)->domain);
}

static const char *copy(char **to, const char *s) {
  size_t size = strlen(s) + 1;
  char *at = memcpy(*to, s, size);

  *to += size;
  return at;
}

/* Copies the list and sorts it by name. */
static int members_copy(struct ring *r, const struct ring_member *members) {
  size_t size = 1; /* so that malloc is never asked for nothing */

  for (unsigned i = 0; i < r->n; i++)
    size +=
        strlen(members[i].name) + strlen(members[i].address) + 3 + (members[i].domain ? strlen(members[i].domain) : 0);
  r->bytes += size + r->n * sizeof *r->members;
  r->members = reallocarray(NULL, r->n, sizeof *r->members);
  r->strings = malloc(size);
  if (!r->members || !r->strings)
    return -ENOMEM;
  char *to = r->strings;
  for (unsigned i = 0; i < r->n; i++) {
    const struct ring_member *m = &members[i];
    r->members[i] = (struct ring_member){
        .name = copy(&to, m->name),
        .address = copy(&to, m->address),
        .weight = m->weight,
        .domain = copy(&to, m->domain ? m->domain : ""),
    };
  }
  qsort(r->members, r->n, sizeof *r->members, by_name);
  return 0;
}

/* Refuses duplicates and numbers the domains. `sorted` is room for n pointers. */
static int members_survey(const struct ring *r, const struct ring_member **sorted, struct ring_place_peer *peers,
                          unsigned *ret_domains, struct err *e) {
  unsigned domains = 0;

  for (unsigned i = 0; i < r->n; i++) {
    if (i > 0 && strcmp(r->members[i - 1].name, r->members[i].name) == 0)
      return err_set(e, -FB_EPEERSDUP, "peer name %s appears twice in the peer list", r->members[i].name);
    sorted[i] = &r->members[i];
    peers[i].name = r->members[i].name;
    peers[i].weight = r->members[i].weight;
  }
  qsort(sorted, r->n, sizeof *sorted, by_address);
  for (unsigned i = 1; i < r->n; i++)
    if (strcmp(sorted[i - 1]->address, sorted[i]->address) == 0)
      return err_set(e, -FB_EPEERSDUP, "peers %s and %s have the same address %s", sorted[i - 1]->name, sorted[i]->name,
                     sorted[i]->address);
  qsort(sorted, r->n, sizeof *sorted, by_domain);
  for (unsigned i = 0; i < r->n; i++) {
    bool same = i > 0 && *sorted[i]->domain && strcmp(sorted[i - 1]->domain, sorted[i]->domain) == 0;
    if (!same)
      domains++;
    peers[sorted[i] - r->members].domain = (uint16_t)(domains - 1);
  }
  *ret_domains = domains;
  return 0;
}

static uint8_t *put_text(uint8_t *p, const char *s) {
  size_t len = strlen(s);

  *p++ = (uint8_t)len;
  memcpy(p, s, len);
  return p + len;
}

/* XXH3-128 over le32 format | le32 slots | le32 members, then for each member by name: name | address | le32 weight |
 * domain, texts with their length in one byte before them. */
static int list_hash(struct ring *r) {
  size_t room = 12;

  for (unsigned i = 0; i < r->n; i++)
    room += strlen(r->members[i].name) + strlen(r->members[i].address) + strlen(r->members[i].domain) + 7;
  uint8_t *buf = malloc(room), *p = buf;
  if (!buf)
    return -ENOMEM;
  put_le32(p, HASH_FORMAT);
  put_le32(p + 4, 1u << r->bits);
  put_le32(p + 8, r->n);
  p += 12;
  for (unsigned i = 0; i < r->n; i++) {
    p = put_text(p, r->members[i].name);
    p = put_text(p, r->members[i].address);
    put_le32(p, r->members[i].weight);
    p = put_text(p + 4, r->members[i].domain);
  }
  r->hash = hash_bytes128(buf, (size_t)(p - buf));
  free(buf);
  return 0;
}

static int tables_fill(struct ring *r, struct err *e) {
  size_t owners = (size_t)r->ranks << r->bits, loads = (size_t)r->ranks * r->n;
  struct ring_place_peer *peers = malloc(r->n * sizeof *peers);
  const struct ring_member **sorted = malloc(r->n * sizeof *sorted);
  unsigned domains = 0;
  int err = -ENOMEM;

  r->owners = malloc(owners * sizeof *r->owners);
  r->loads = malloc(loads * sizeof *r->loads);
  r->bytes += owners * sizeof *r->owners + loads * sizeof *r->loads;
  if (peers && sorted && r->owners && r->loads)
    err = members_survey(r, sorted, peers, &domains, e);
  if (err == 0)
    err = ring_place(peers, r->n, domains, r->bits, r->ranks, r->owners, r->loads);
  free(peers);
  free(sorted);
  return err;
}

int ring_new(struct ring **ret, const struct ring_member *members, unsigned n, uint32_t slots, uint64_t epoch,
             struct err *e) {
  int err = list_check(members, n, slots, e);

  if (err < 0)
    return err;
  struct ring *r = calloc(1, sizeof *r);
  if (!r)
    return err_set(e, -ENOMEM, "out of memory for a ring of %u peers", n);
  atomic_init(&r->refs, 1);
  r->bits = (unsigned)__builtin_ctz(slots);
  r->shift = 64 - r->bits;
  r->n = n;
  r->ranks = n < RING_RANKS ? n : RING_RANKS;
  r->epoch = epoch;
  r->bytes = sizeof *r;
  err = members_copy(r, members);
  if (err == 0)
    err = tables_fill(r, e);
  if (err == 0)
    err = list_hash(r);
  if (err == -ENOMEM)
    err_set(e, err, "out of memory for a ring of %u peers", n);
  if (err < 0) {
    ring_unref(&r);
    return err;
  }
  *ret = r;
  return 0;
}

struct ring *ring_ref(struct ring *r) {
  atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
  return r;
}

void ring_unref(struct ring **rp) {
  struct ring *r = *rp;

  *rp = NULL;
  if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) > 1)
    return;
  free(r->members);
  free(r->strings);
  free(r->owners);
  free(r->loads);
  free(r);
}

uint64_t ring_epoch(const struct ring *r) { return r->epoch; }
uint32_t ring_slots(const struct ring *r) { return 1u << r->bits; }
unsigned ring_size(const struct ring *r) { return r->n; }
struct hash128 ring_hash(const struct ring *r) {
  return r->hash;
}
size_t ring_bytes(const struct ring *r) { return r->bytes; }

const struct ring_member *ring_member(const struct ring *r, unsigned index) { return &r->members[index]; }

int ring_find(const struct ring *r, const char *name) {
  const struct ring_member key = {.name = name};
  const struct ring_member *m = bsearch(&key, r->members, r->n, sizeof key, by_name);

  return m ? (int)(m - r->members) : -ENOENT;
}

uint32_t ring_slot(const struct ring *r, uint64_t hash_hi) { return (uint32_t)(hash_hi >> r->shift); }

unsigned ring_owner(const struct ring *r, uint32_t slot) { return r->owners[slot]; }

unsigned ring_owners(const struct ring *r, uint32_t slot, unsigned ret[RING_RANKS]) {
  for (unsigned rank = 0; rank < r->ranks; rank++)
    ret[rank] = r->owners[((size_t)rank << r->bits) + slot];
  return r->ranks;
}

uint32_t ring_load(const struct ring *r, unsigned index, unsigned rank) {
  return rank < r->ranks ? r->loads[(size_t)rank * r->n + index] : 0;
}
