/* conf_yaml.c - from YAML to values: the tree is checked against the rows, libcyaml loads the text by a schema that is
 * made from the rows, and each loaded text is converted and range-checked.
 *
 * The schema loads every scalar as text into a slot of its own (slots[i] belongs to rows[i]; a record has slots for its
 * fields), because libcyaml knows neither ranges nor sizes like 64KiB, nor where in the file a value stood. Sections
 * are mappings over the same array of slots. The only user of cyaml.h. */
#include <assert.h>
#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/conf_priv.h"
#include "common/names.h"

struct slot {
  void *p;    /* char *, or the entries of a sequence: char *[n], or struct slot[n][fields] */
  uint32_t n; /* entries of a sequence */
};

/* What a load holds on to. */
struct load {
  const struct conf_row *rows;
  const struct conf_tree *t;
  struct err *e;
  /* The schema, each in one allocation that is carved up. */
  cyaml_schema_field_t *fields;
  cyaml_schema_value_t *entries; /* entries[i]: what a sequence of rows[i] consists of */
  char *names;                   /* of sections */
};

/* ---- finding rows ---- */

static unsigned distance(const char *a, const char *b) {
  unsigned row[65];
  size_t n = strlen(b);

  if (n > 64 || strlen(a) > 64)
    return 64;
  for (unsigned j = 0; j <= n; j++)
    row[j] = j;
  for (unsigned i = 1; *a; a++, i++) {
    unsigned diagonal = row[0];
    row[0] = i;
    for (unsigned j = 1; j <= n; j++) {
      unsigned above = row[j], best = diagonal + (*a != b[j - 1]);
      best = above + 1 < best ? above + 1 : best;
      best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
      diagonal = above;
      row[j] = best;
    }
  }
  return row[n];
}

/* What a row is called within a section ("" = top level, where rows of sections go by their section's name; NULL = by
 * its full key). False if it is not to be found there, or its section was named by an earlier row. */
static bool local_name(const struct conf_row *rows, unsigned i, const char *section, char out[80]) {
  const char *key = rows[i].key;
  size_t len = conf_section_len(key);

  if (!section) {
    snprintf(out, 80, "%s", key);
    return true;
  }
  if (*section) {
    snprintf(out, 80, "%s", key + len + 1);
    return len == strlen(section) && !memcmp(key, section, len);
  }
  snprintf(out, 80, "%.*s", (int)(len ? len : strlen(key)), key);
  for (unsigned j = 0; j < i; j++)
    if (len && conf_section_len(rows[j].key) == len && !memcmp(rows[j].key, key, len))
      return false;
  return true;
}

const struct conf_row *conf_lookup(const struct conf_row *rows, const char *section, const char *key) {
  size_t len = strlen(section);

  for (; rows->key; rows++) {
    size_t n = conf_section_len(rows->key);
    if (n == len && !memcmp(rows->key, section, n) && !strcmp(rows->key + (n ? n + 1 : 0), key))
      return rows;
  }
  return NULL;
}

int conf_unknown_key(const struct conf_row *rows, const char *section, const char *key, const char *name, unsigned line,
                     const char *shown, struct err *e) {
  char local[80], accepted[CONF_ACCEPTED_MAX] = "", near[128] = "";
  unsigned best = 64;
  size_t n = 0;
  bool cut = false;

  for (unsigned i = 0; rows[i].key; i++) {
    if (!local_name(rows, i, section, local))
      continue;
    bool fits = n + strlen(local) + sizeof ", , ..." <= sizeof accepted;
    if (!cut)
      n += (size_t)snprintf(accepted + n, sizeof accepted - n, "%s%s", n ? ", " : "", fits ? local : "...");
    cut = cut || !fits;
    unsigned d = distance(key, local);
    if (d < best && d <= 1 + strlen(key) / 3) {
      best = d;
      snprintf(near, sizeof near, ", did you mean %s?", local);
    }
  }
  /* The right word in the wrong place: the same key in another section. */
  for (unsigned i = 0; rows[i].key && !*near; i++) {
    size_t section_len = conf_section_len(rows[i].key);
    if (!strcmp(rows[i].key + (section_len ? section_len + 1 : 0), key))
      snprintf(near, sizeof near, ", did you mean %s?", rows[i].key);
  }
  return conf_fail(e, name, line, shown, accepted, "unknown key%s", near);
}

static bool is_section(const struct conf_row *rows, const char *name) {
  size_t n = strlen(name);

  for (; rows->key; rows++)
    if (n > 0 && conf_section_len(rows->key) == n && !memcmp(rows->key, name, n))
      return true;
  return false;
}

/* ---- the tree against the rows ---- */

static int fail_at(const struct load *l, unsigned node, const char *accepted, const char *what) {
  char path[CONF_PATH_MAX];
  return conf_fail(l->e, l->t->name, l->t->nodes[node].line, conf_tree_path(l->t, node, path), accepted, "%s", what);
}

static int check_map(const struct load *l, const struct conf_row *rows, const char *section, unsigned map);

/* Is the node of the shape that the row asks for? */
static int check_shape(const struct load *l, const struct conf_row *row, unsigned node) {
  static const char *const kinds[] = {"is a single value", "is a mapping", "is a list"};
  const struct conf_node *c = &l->t->nodes[node];
  char accepted[CONF_ACCEPTED_MAX];
  int r = 0;

  conf_accepted(row, accepted);
  if (c->null)
    return fail_at(l, node, accepted, "has no value (leave the key out to get its default)");
  if (c->kind != (conf_is_scalar(row) ? CONF_NODE_SCALAR : CONF_NODE_SEQ))
    return fail_at(l, node, accepted, kinds[c->kind]);
  if (conf_is_scalar(row))
    return 0;
  if (c->n < row->min || c->n > row->max)
    return fail_at(l, node, accepted, c->n < row->min ? "has too few entries" : "has too many entries");
  for (unsigned i = c->first; i && r == 0; i = l->t->nodes[i].next) {
    const struct conf_node *entry = &l->t->nodes[i];
    if (row->type == CONF_STRINGS) {
      if (entry->kind != CONF_NODE_SCALAR || entry->null)
        r = fail_at(l, i, "a text", entry->null ? "has no value" : kinds[entry->kind]);
    } else if (entry->kind != CONF_NODE_MAP) {
      r = fail_at(l, i, accepted, entry->null ? "has no value" : kinds[entry->kind]);
    } else {
      r = check_map(l, row->fields, "", i);
    }
  }
  return r;
}

static int check_map(const struct load *l, const struct conf_row *rows, const char *section, unsigned map) {
  const struct conf_tree *t = l->t;
  char path[CONF_PATH_MAX];

  for (unsigned i = t->nodes[map].first; i; i = t->nodes[i].next) {
    const struct conf_node *c = &t->nodes[i];
    int r;

    if (!*section && is_section(rows, c->key)) {
      if (c->kind != CONF_NODE_MAP)
        return fail_at(l, i, "a section: indented KEY: VALUE lines",
                       c->null ? "is an empty section (leave it out)" : "is a section, but has a value");
      r = check_map(l, rows, c->key, i);
    } else {
      const struct conf_row *row = conf_lookup(rows, section, c->key);
      r = row ? check_shape(l, row, i)
              : conf_unknown_key(rows, section, c->key, t->name, c->line, conf_tree_path(t, i, path), l->e);
    }
    if (r < 0)
      return r;
  }
  /* Records: nothing that is required may be missing. */
  for (const struct conf_row *row = rows; rows != l->rows && row->key; row++) {
    unsigned i = t->nodes[map].first;
    while (i && strcmp(t->nodes[i].key, row->key) != 0)
      i = t->nodes[i].next;
    if (!i && !row->dflt) {
      char accepted[CONF_ACCEPTED_MAX];
      return conf_fail(l->e, t->name, t->nodes[map].line, conf_tree_path(t, map, path), conf_accepted(row, accepted),
                       "lacks the key %s", row->key);
    }
  }
  return 0;
}

/* ---- libcyaml ---- */

static const cyaml_schema_value_t text_entry = {
    .type = CYAML_STRING, .flags = CYAML_FLAG_POINTER, .data_size = sizeof(char), .string = {0, UINT32_MAX}};

/* The field of rows[i], whose slot is slots[i]. */
static void make_field(struct load *l, cyaml_schema_field_t *f, const struct conf_row *rows, unsigned i,
                       const char *key, cyaml_schema_field_t **free_fields) {
  const struct conf_row *row = &rows[i];

  *f = (cyaml_schema_field_t){.key = key, .data_offset = (uint32_t)(i * sizeof(struct slot))};
  f->value.flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL;
  if (conf_is_scalar(row)) {
    f->value.type = CYAML_STRING;
    f->value.data_size = sizeof(char);
    f->value.string.max = UINT32_MAX;
    return;
  }
  f->count_offset = f->data_offset + (uint32_t)offsetof(struct slot, n);
  f->count_size = sizeof(uint32_t);
  f->value.type = CYAML_SEQUENCE;
  f->value.sequence.max = UINT32_MAX;
  if (row->type == CONF_STRINGS) {
    f->value.data_size = sizeof(char *);
    f->value.sequence.entry = &text_entry;
    return;
  }
  assert(free_fields); /* records do not nest */
  unsigned n = conf_count(row->fields);
  cyaml_schema_value_t *entry = &l->entries[i];
  entry->type = CYAML_MAPPING;
  entry->data_size = (uint32_t)(n * sizeof(struct slot));
  entry->mapping.fields = *free_fields;
  f->value.data_size = entry->data_size;
  f->value.sequence.entry = entry;
  for (unsigned j = 0; j < n; j++)
    make_field(l, &(*free_fields)[j], row->fields, j, row->fields[j].key, NULL); /* records do not nest */
  *free_fields += n + 1;                                                         /* and their end, a NULL key */
}

/* Builds the schema of the whole file into *ret. */
static int make_schema(struct load *l, cyaml_schema_value_t *ret) {
  unsigned n = conf_count(l->rows);
  size_t n_fields = 3 * ((size_t)n + 1), n_names = 1;

  for (unsigned i = 0; i < n; i++) {
    n_names += strlen(l->rows[i].key) + 1;
    if (l->rows[i].type == CONF_RECORDS)
      n_fields += conf_count(l->rows[i].fields) + 1;
  }
  l->fields = calloc(n_fields, sizeof *l->fields);
  l->entries = calloc(n + 1, sizeof *l->entries);
  l->names = calloc(n_names, 1);
  if (!l->fields || !l->entries || !l->names)
    return err_set(l->e, -ENOMEM, "%s: out of memory", l->t->name);

  cyaml_schema_field_t *top = l->fields, *next = l->fields + n + 1;
  char *name = l->names;
  for (unsigned i = 0; i < n; i++) {
    size_t len = conf_section_len(l->rows[i].key);
    char local[80];

    if (len == 0) {
      make_field(l, top++, l->rows, i, l->rows[i].key, &next);
    } else if (local_name(l->rows, i, "", local)) { /* the section's first row stands for all of them */
      strcpy(name, local);
      cyaml_schema_field_t *in = next;
      unsigned m = 0;
      for (unsigned j = i; j < n; j++)
        m += conf_section_len(l->rows[j].key) == len && !memcmp(l->rows[j].key, name, len);
      next += m + 1;
      *top++ = (cyaml_schema_field_t){.key = name,
                                      .value = {.type = CYAML_MAPPING,
                                                .flags = CYAML_FLAG_OPTIONAL,
                                                .data_size = (uint32_t)(n * sizeof(struct slot)),
                                                .mapping = {.fields = in}}};
      for (unsigned j = i; j < n; j++)
        if (conf_section_len(l->rows[j].key) == len && !memcmp(l->rows[j].key, name, len))
          make_field(l, in++, l->rows, j, l->rows[j].key + len + 1, &next);
      name += len + 1;
    }
  }
  *ret = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                .flags = CYAML_FLAG_POINTER,
                                .data_size = (uint32_t)(n * sizeof(struct slot)),
                                .mapping = {.fields = l->fields}};
  return 0;
}

/* ---- loaded texts to values ---- */

static int convert(const struct load *l, const struct conf_row *row, unsigned node, const struct slot *slot,
                   void *base);

static int convert_records(const struct load *l, const struct conf_row *row, unsigned node, const struct slot *slot,
                           struct conf_records *ret) {
  unsigned n_fields = conf_count(row->fields), entry = l->t->nodes[node].first;

  ret->v = calloc(slot->n ? slot->n : 1, row->record_size);
  if (!ret->v)
    return -ENOMEM;
  ret->n = slot->n;
  for (unsigned i = 0; i < slot->n; i++, entry = l->t->nodes[entry].next) {
    char *record = (char *)ret->v + i * row->record_size;
    const struct slot *slots = (const struct slot *)slot->p + (size_t)i * n_fields;
    int r = conf_defaults(row->fields, record);

    for (unsigned c = l->t->nodes[entry].first; c && r == 0; c = l->t->nodes[c].next)
      for (unsigned f = 0; f < n_fields; f++)
        if (!strcmp(row->fields[f].key, l->t->nodes[c].key)) {
          r = convert(l, &row->fields[f], c, &slots[f], record);
          break;
        }
    if (r < 0)
      return r;
  }
  return 0;
}

static int convert(const struct load *l, const struct conf_row *row, unsigned node, const struct slot *slot,
                   void *base) {
  const char *wrong, *const *texts = slot->p;
  char accepted[CONF_ACCEPTED_MAX], q[NAME_QUOTE_MAX], what[NAME_QUOTE_MAX + 64];

  if (conf_is_scalar(row)) {
    int r = conf_value_set(row, base, slot->p, &wrong);
    if (r != -FB_EBADCONF)
      return r;
    snprintf(what, sizeof what, "%s %s", name_quote(q, slot->p, strlen(slot->p)), wrong);
    return fail_at(l, node, conf_accepted(row, accepted), what);
  }
  conf_value_fini(row, base); /* a record's field may hold its default */
  if (row->type == CONF_RECORDS)
    return convert_records(l, row, node, slot, (struct conf_records *)((char *)base + row->offset));

  struct conf_strings *s = (struct conf_strings *)((char *)base + row->offset);
  s->v = calloc(slot->n ? slot->n : 1, sizeof *s->v);
  if (!s->v)
    return -ENOMEM;
  for (s->n = 0; s->n < slot->n; s->n++) {
    s->v[s->n] = strdup(texts[s->n]);
    if (!s->v[s->n])
      return -ENOMEM;
  }
  return 0;
}

/* All members of a mapping: of the file ("") or of a section. */
static int convert_map(const struct load *l, const char *section, unsigned map, const struct slot *slots, void *scratch,
                       bool *given) {
  const struct conf_tree *t = l->t;
  int r = 0;

  for (unsigned i = t->nodes[map].first; i && r == 0; i = t->nodes[i].next) {
    const char *key = t->nodes[i].key;

    if (!*section && is_section(l->rows, key)) {
      r = convert_map(l, key, i, slots, scratch, given);
      continue;
    }
    const struct conf_row *row = conf_lookup(l->rows, section, key); /* there: check_map has seen it */
    given[row - l->rows] = true;
    r = convert(l, row, i, &slots[row - l->rows], scratch);
  }
  return r;
}

int conf_yaml_load(const struct conf_row *rows, const struct conf_tree *t, const char *text, size_t len, void *scratch,
                   bool *given, struct err *e) {
  struct load l = {.rows = rows, .t = t, .e = e};
  const cyaml_config_t config = {.mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR, .flags = CYAML_CFG_NO_ALIAS};
  cyaml_schema_value_t schema;
  struct slot *slots = NULL;

  if (t->n == 0)
    return 0;
  int r = check_map(&l, rows, "", 0);
  if (r == 0)
    r = make_schema(&l, &schema);
  if (r == 0) {
    cyaml_err_t ce = cyaml_load_data((const uint8_t *)text, len, &config, &schema, (cyaml_data_t **)&slots, NULL);
    if (ce != CYAML_OK) /* memory, or something that check_map let pass */
      r = ce == CYAML_ERR_OOM ? -ENOMEM : conf_fail(e, t->name, 0, "", NULL, "libcyaml: %s", cyaml_strerror(ce));
  }
  if (r == 0)
    r = convert_map(&l, "", 0, slots, scratch, given);
  if (slots)
    cyaml_free(&config, &schema, slots, 0);
  free(l.fields);
  free(l.entries);
  free(l.names);
  return r == -ENOMEM ? err_set(e, -ENOMEM, "%s: out of memory", t->name) : r;
}
