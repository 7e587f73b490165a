/* test_golden.c - the committed answers of placement, for this and for any other implementation.
 *
 * tests/golden/hash.json and ring.json hold inputs and the answers to them. This program computes the same text again
 * and compares it with the files byte by byte; `test_golden --write` (in the repository's root) replaces the files,
 * which nobody may do while clusters with the old answers run: a changed file is a changed placement and wants a new
 * format number. tests/golden/check_ring.py answers the same questions with code that shares nothing with ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/ring.h"
#include "tests/lib/testlib.h"

#define HASH_FILE "tests/golden/hash.json"
#define RING_FILE "tests/golden/ring.json"

static void put_hash(FILE *f, struct hash128 h) {
  fprintf(f, "\"%016llx%016llx\"", (unsigned long long)h.hi, (unsigned long long)h.lo);
}

static void hash_case(FILE *f, bool first, uint64_t ns_id, const char *version, const char *key, uint64_t chunk) {
  fprintf(f, "%s\n    {\"namespace\": \"%016llx\", \"version\": \"%s\", \"key\": \"%s\", \"chunk\": %llu, \"hash\": ",
          first ? "" : ",", (unsigned long long)ns_id, version, key, (unsigned long long)chunk);
  put_hash(f, hash_chunk(ns_id, version, strlen(version), key, strlen(key), chunk));
  fputs("}", f);
}

static void write_hashes(FILE *f) {
  /* XXH3 works differently on up to 16, 128, 240 and more bytes: 18 of them come before version and key. */
  static const unsigned lengths[] = {1, 2, 3, 8, 16, 17, 64, 109, 110, 111, 128, 221, 222, 223, 224, 400, 1006, 1024};
  char key[HASH_KEY_MAX + 1];
  char version[HASH_VERSION_MAX + 1];

  fputs("{\n  \"format\": 1,\n  \"what\": \"XXH3-128, seed 0, of le64 namespace | le64 chunk | le16 version length | "
        "version | key; hash = hi and lo in hexadecimal\",\n  \"chunks\": [",
        f);
  hash_case(f, true, 0, "", "a", 0);
  hash_case(f, false, 0, "", "a", 1);
  hash_case(f, false, 1, "", "a", 0);
  hash_case(f, false, UINT64_MAX, "", "a", 1u << 20);
  hash_case(f, false, UINT64_C(0x0123456789abcdef), "v1", "train/shard-000017.tar", 3);
  hash_case(f, false, UINT64_C(0x0123456789abcdef), "v", "1train/shard-000017.tar", 3);
  hash_case(f, false, 7, "2024-05-01", "données/école/été.txt", 0);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    for (unsigned k = 0; k < lengths[i]; k++)
      key[k] = (char)('a' + (k * k + 7 * i) % 26);
    key[lengths[i]] = '\0';
    hash_case(f, false, 42, i % 2 ? "snapshot" : "", key, i);
  }
  memset(version, 'v', HASH_VERSION_MAX);
  version[HASH_VERSION_MAX] = '\0';
  hash_case(f, false, 42, version, key, 5);
  fputs("\n  ]\n}\n", f);
}

/* One ring: its members, its hash, the owners of some slots and the hash of all of them. */
static void write_ring(FILE *f, bool first, const char *what, const struct ring_member *members, unsigned n,
                       uint32_t slots) {
  struct ring *r;
  struct err e = {0};
  unsigned ranks = n < RING_RANKS ? n : RING_RANKS, owners[RING_RANKS];

  if (ring_new(&r, members, n, slots, 1, &e) < 0)
    fail_msg("%s: %s", what, e.text);
  fprintf(f, "%s\n    {\n      \"what\": \"%s\",\n      \"slots\": %u,\n      \"members\": [", first ? "" : ",", what,
          slots);
  for (unsigned i = 0; i < n; i++)
    fprintf(f, "%s\n        {\"name\": \"%s\", \"address\": \"%s\", \"weight\": %u, \"domain\": \"%s\"}", i ? "," : "",
            members[i].name, members[i].address, members[i].weight, members[i].domain ? members[i].domain : "");
  fputs("\n      ],\n      \"hash\": ", f);
  put_hash(f, ring_hash(r));
  uint8_t *table = malloc((size_t)slots * ranks * 2);
  for (uint32_t s = 0; s < slots; s++) {
    ring_owners(r, s, owners);
    for (unsigned rank = 0; rank < ranks; rank++)
      put_le16(table + 2 * ((size_t)rank * slots + s), (uint16_t)owners[rank]);
  }
  fputs(",\n      \"table\": ", f);
  put_hash(f, hash_bytes128(table, (size_t)slots * ranks * 2));
  free(table);
  fputs(",\n      \"owners\": {", f);
  for (unsigned i = 0; i < 24; i++) {
    uint32_t slot = (uint32_t)((uint64_t)i * (slots - 1) / 23);
    fprintf(f, "%s\"%u\": [", i == 0 ? "" : i % 6 ? ", " : ",\n                 ", slot);
    ring_owners(r, slot, owners);
    for (unsigned rank = 0; rank < ranks; rank++)
      fprintf(f, "%s%u", rank ? ", " : "", owners[rank]);
    fputs("]", f);
  }
  fputs("}\n    }", f);
  ring_unref(&r);
}

static void write_rings(FILE *f) {
  static const struct ring_member one[] = {{"solo", "127.0.0.1:7070", 1, NULL}};
  static const struct ring_member two[] = {{"tiny", "10.0.0.1:7070", 1, NULL}, {"huge", "10.0.0.2:7070", 65535, NULL}};
  static const struct ring_member three[] = {{"node-c", "node-c.example:7070", 100, "rack-2"},
                                             {"node-a", "node-a.example:7070", 100, "rack-1"},
                                             {"node-b", "node-b.example:7070", 100, "rack-1"}};
  struct ring_member many[100];
  char text[100][3][32];

  fputs("{\n  \"format\": 1,\n  \"what\": \"members in any order -> hash; owners by rank, as indexes into the members "
        "sorted by name; table = XXH3-128 of all owners as le16, rank-major (docs/placement.md)\",\n  \"rings\": [",
        f);
  write_ring(f, true, "one peer", one, 1, 1024);
  write_ring(f, false, "two peers, one of them tiny: its cap is 1 slot at rank 0 and has to give at rank 1", two, 2,
             1024);
  write_ring(f, false, "three peers, two domains: rank 2 has no domain left", three, 3, 65536);
  for (unsigned i = 0; i < 100; i++) {
    snprintf(text[i][0], sizeof text[i][0], "gpu-%02u", i * 37 % 100);
    snprintf(text[i][1], sizeof text[i][1], "10.1.%u.%u:7070", i / 10, i);
    snprintf(text[i][2], sizeof text[i][2], "row-%u", i % 7);
    many[i] = (struct ring_member){text[i][0], text[i][1], 1 + i * i % 9, i % 5 ? text[i][2] : NULL};
  }
  write_ring(f, false, "sixteen peers, mixed weights and domains", many, 16, 16384);
  write_ring(f, false, "one hundred peers on few slots: many reach their caps", many, 100, 2048);
  for (unsigned i = 0; i < 20; i++) {
    many[i].weight = i ? 10 : 1;
    many[i].domain = i ? "most" : "least";
  }
  write_ring(f, false, "twenty peers, all but a light one in one domain: its caps double at rank 1", many, 20, 1024);
  fputs("\n  ]\n}\n", f);
}

static void compare(const char *path, void (*generate)(FILE *)) {
  char *now;
  size_t len, now_len;
  FILE *f = open_memstream(&now, &now_len);

  assert_non_null(f);
  generate(f);
  assert_int_equal(fclose(f), 0);
  char *golden = test_read_file(path, &len);
  size_t same = 0;
  while (same < len && same < now_len && golden[same] == now[same])
    same++;
  if (same < len || same < now_len)
    fail_msg("%s: answers differ from byte %zu on: \"%.60s\" is committed, \"%.60s\" computed", path, same,
             golden + same, now + same);
  free(golden);
  free(now);
}

static void hashes_are_the_committed_ones(void **state) {
  (void)state;
  compare(HASH_FILE, write_hashes);
}

static void rings_are_the_committed_ones(void **state) {
  (void)state;
  compare(RING_FILE, write_rings);
}

static int write_file(const char *path, void (*generate)(FILE *)) {
  FILE *f = fopen(path, "we");

  if (!f) {
    perror(path);
    return 1;
  }
  generate(f);
  if (fclose(f) != 0) {
    perror(path);
    return 1;
  }
  printf("%s written\n", path);
  return 0;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(hashes_are_the_committed_ones),
      cmocka_unit_test(rings_are_the_committed_ones),
  };

  if (argc > 1 && strcmp(argv[1], "--write") == 0)
    return write_file(HASH_FILE, write_hashes) || write_file(RING_FILE, write_rings);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
