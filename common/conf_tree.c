/* conf_tree.c - walks libyaml's events once, to know which line every key stands in.
 *
 * It also refuses what no configuration needs and what loaders stumble over: aliases (a few lines of them can stand for
 * gigabytes), duplicate keys, tags, several documents, deep nesting. The only user of yaml.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/conf_priv.h"
#include "common/names.h"

int conf_fail(struct err *e, const char *name, unsigned line, const char *key, const char *accepted, const char *fmt,
              ...) {
  char what[ERR_TEXT_MAX], number[16] = "";
  size_t len = strlen(name);
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  if (line > 0)
    snprintf(number, sizeof number, "%u:", line);
  /* A path may be longer than a text: its end says most. */
  bool cut = len > 160;
  return err_set(e, -FB_EBADCONF, "%s%s:%s %s%s%s%s%s", cut ? "..." : "", cut ? name + len - 157 : name, number, key,
                 *key ? ": " : "", what, accepted ? "; accepted: " : "", accepted ? accepted : "");
}

struct walk {
  struct conf_tree *t;
  struct err *e;
  unsigned documents;
  unsigned depth;
  struct {
    unsigned node, last; /* container and its latest child */
    char *key;           /* of a mapping: the key whose value comes next */
    unsigned line;       /* of that key */
  } stack[CONF_DEPTH_MAX];
};

static bool is_word(const char *s) {
  size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
  return n > 0 && n <= 64 && s[n] == '\0';
}

const char *conf_tree_path(const struct conf_tree *t, unsigned node, char out[CONF_PATH_MAX]) {
  unsigned chain[CONF_DEPTH_MAX + 1], n = 0;
  size_t len = 0;

  for (; node != 0 && n < CONF_DEPTH_MAX + 1; node = t->nodes[node].parent)
    chain[n++] = node;
  out[0] = '\0';
  while (n-- > 0 && len < CONF_PATH_MAX) {
    const struct conf_node *c = &t->nodes[chain[n]];
    char quoted[NAME_QUOTE_MAX];

    if (c->key) {
      const char *word = is_word(c->key) ? c->key : name_quote(quoted, c->key, strlen(c->key));
      len += (size_t)snprintf(out + len, CONF_PATH_MAX - len, "%s%s", len ? "." : "", word);
    } else {
      unsigned index = 0;
      for (unsigned i = t->nodes[c->parent].first; i != chain[n]; i = t->nodes[i].next)
        index++;
      len += (size_t)snprintf(out + len, CONF_PATH_MAX - len, "[%u]", index);
    }
  }
  return out;
}

/* Where the walk stands, for texts: the key that waits for its value, or the innermost container. */
static int fail_here(const struct walk *w, unsigned line, const char *accepted, const char *what) {
  char path[CONF_PATH_MAX] = "", full[2 * CONF_PATH_MAX];

  if (w->depth > 0) {
    const char *key = w->stack[w->depth - 1].key;
    char quoted[NAME_QUOTE_MAX];
    conf_tree_path(w->t, w->stack[w->depth - 1].node, path);
    if (key) {
      snprintf(full, sizeof full, "%s%s%s", path, *path ? "." : "",
               is_word(key) ? key : name_quote(quoted, key, strlen(key)));
      return conf_fail(w->e, w->t->name, line, full, accepted, "%s", what);
    }
  }
  return conf_fail(w->e, w->t->name, line, path, accepted, "%s", what);
}

static int add_node(struct walk *w, enum conf_node_kind kind, bool null, unsigned line) {
  struct conf_tree *t = w->t;

  if (t->n == t->cap) {
    unsigned cap = t->cap ? 2 * t->cap : 64;
    struct conf_node *nodes = reallocarray(t->nodes, cap, sizeof *nodes);
    if (!nodes)
      return err_set(w->e, -ENOMEM, "%s: out of memory", t->name);
    t->nodes = nodes;
    t->cap = cap;
  }
  struct conf_node *c = &t->nodes[t->n];
  *c = (struct conf_node){.kind = (uint8_t)kind, .null = null, .line = line};
  if (w->depth > 0) {
    unsigned parent = w->stack[w->depth - 1].node, last = w->stack[w->depth - 1].last;

    c->parent = parent;
    c->key = w->stack[w->depth - 1].key;
    if (c->key)
      c->line = w->stack[w->depth - 1].line;
    w->stack[w->depth - 1].key = NULL;
    *(last ? &t->nodes[last].next : &t->nodes[parent].first) = t->n;
    w->stack[w->depth - 1].last = t->n;
    t->nodes[parent].n++;
  }
  t->n++;
  return 0;
}

/* A scalar where a mapping expects a key. */
static int take_key(struct walk *w, const char *key, unsigned line) {
  const struct conf_tree *t = w->t;
  const struct conf_node *map = &t->nodes[w->stack[w->depth - 1].node];
  char *copy = strdup(key), what[96];

  if (!copy)
    return err_set(w->e, -ENOMEM, "%s: out of memory", t->name);
  w->stack[w->depth - 1].key = copy; /* from here on freed with the walk or the tree */
  w->stack[w->depth - 1].line = line;
  if (map->n >= CONF_KEYS_MAX)
    return fail_here(w, line, "at most 256 keys in one mapping", "is one key too many");
  for (unsigned i = map->first; i; i = t->nodes[i].next)
    if (!strcmp(t->nodes[i].key, key)) {
      snprintf(what, sizeof what, "is given twice (first in line %u)", t->nodes[i].line);
      return fail_here(w, line, "each key once", what);
    }
  return 0;
}

static int on_scalar(struct walk *w, const yaml_event_t *ev, unsigned line) {
  const char *text = (const char *)ev->data.scalar.value;
  bool null = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && conf_is_null_word(text);

  if (strlen(text) != ev->data.scalar.length)
    return fail_here(w, line, "text without NUL characters", "has a NUL character");
  if (ev->data.scalar.tag)
    return fail_here(w, line, "values without tags", "has a YAML tag");
  if (w->depth == 0)
    return null ? 0 : fail_here(w, line, "KEY: VALUE lines", "the file holds a single value");
  if (w->t->nodes[w->stack[w->depth - 1].node].kind == CONF_NODE_MAP && !w->stack[w->depth - 1].key)
    return take_key(w, text, line);
  return add_node(w, CONF_NODE_SCALAR, null, line);
}

static int on_start(struct walk *w, enum conf_node_kind kind, const yaml_char_t *tag, unsigned line) {
  if (w->depth == 0 && kind == CONF_NODE_SEQ)
    return fail_here(w, line, "KEY: VALUE lines", "the file holds a list");
  if (w->depth > 0 && w->t->nodes[w->stack[w->depth - 1].node].kind == CONF_NODE_MAP && !w->stack[w->depth - 1].key)
    return fail_here(w, line, "a single word before the ':'", "a key is a list or a mapping");
  if (tag)
    return fail_here(w, line, "values without tags", "has a YAML tag");
  if (w->depth == CONF_DEPTH_MAX)
    return fail_here(w, line, "at most 8 levels", "is nested too deep");
  int r = add_node(w, kind, false, line);
  if (r < 0)
    return r;
  w->stack[w->depth].node = w->t->n - 1;
  w->stack[w->depth].last = 0;
  w->stack[w->depth].key = NULL;
  w->depth++;
  return 0;
}

static int on_event(struct walk *w, const yaml_event_t *ev) {
  unsigned line = (unsigned)ev->start_mark.line + 1;

  switch (ev->type) {
  case YAML_DOCUMENT_START_EVENT:
    return w->documents++ ? fail_here(w, line, "one document per file", "a second document starts here") : 0;
  case YAML_ALIAS_EVENT:
    return fail_here(w, line, "the value itself, written out", "is a YAML alias (*NAME)");
  case YAML_SCALAR_EVENT:
    return on_scalar(w, ev, line);
  case YAML_MAPPING_START_EVENT:
    return on_start(w, CONF_NODE_MAP, ev->data.mapping_start.tag, line);
  case YAML_SEQUENCE_START_EVENT:
    return on_start(w, CONF_NODE_SEQ, ev->data.sequence_start.tag, line);
  case YAML_MAPPING_END_EVENT:
  case YAML_SEQUENCE_END_EVENT:
    w->depth--;
    return 0;
  default:
    return 0;
  }
}

static unsigned line_at(const char *text, size_t len, size_t off) {
  unsigned line = 1;

  for (size_t i = 0; i < len && i < off; i++)
    line += text[i] == '\n';
  return line;
}

static int malformed(struct walk *w, const yaml_parser_t *p, const char *text, size_t len) {
  char what[256];

  if (p->error == YAML_MEMORY_ERROR)
    return err_set(w->e, -ENOMEM, "%s: out of memory", w->t->name);
  unsigned line = (unsigned)p->problem_mark.line + 1;
  if (p->error == YAML_READER_ERROR)
    line = line_at(text, len, p->problem_offset);
  else if (p->context && len > 0 && line > line_at(text, len, len - 1))
    line = (unsigned)p->context_mark.line + 1; /* behind the last line: what was not ended says more */
  snprintf(what, sizeof what, "malformed YAML: %s%s%s", p->problem ? p->problem : "cannot be parsed",
           p->context ? " " : "", p->context ? p->context : "");
  return fail_here(w, line, "YAML in UTF-8", what);
}

int conf_tree_read(struct conf_tree *t, const char *name, const char *text, size_t len, struct err *e) {
  struct walk w = {.t = t, .e = e};
  const char *nul = memchr(text, '\0', len);
  yaml_parser_t parser;
  bool done = false;
  int r = 0;

  *t = (struct conf_tree){.name = name};
  /* libyaml would take a NUL for the end and never look at what follows. */
  if (nul)
    return conf_fail(e, name, line_at(text, len, (size_t)(nul - text)), "", "YAML in UTF-8", "NUL byte");
  if (!yaml_parser_initialize(&parser))
    return err_set(e, -ENOMEM, "%s: out of memory", name);
  yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
  yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
  while (!done && r == 0) {
    yaml_event_t ev;

    if (!yaml_parser_parse(&parser, &ev)) {
      r = malformed(&w, &parser, text, len);
      break;
    }
    r = on_event(&w, &ev);
    done = ev.type == YAML_STREAM_END_EVENT;
    yaml_event_delete(&ev);
  }
  yaml_parser_delete(&parser);
  while (w.depth > 0)
    free(w.stack[--w.depth].key);
  if (r < 0)
    conf_tree_free(t);
  return r;
}

void conf_tree_free(struct conf_tree *t) {
  for (unsigned i = 0; i < t->n; i++)
    free(t->nodes[i].key);
  free(t->nodes);
  *t = (struct conf_tree){0};
}
