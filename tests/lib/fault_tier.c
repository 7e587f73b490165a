/* fault_tier.c - a tier wrapper that counts, holds and fails; see fault_tier.h. */
#include "tests/lib/fault_tier.h"

#include <stdlib.h>

static struct fault_tier *of(struct tier *t) { return (struct fault_tier *)t; }

static int ft_get(struct tier *t, const struct block_id *id, struct tier_view *ret) {
  int r = fault_step(&of(t)->get);
  return r < 0 ? r : tier_get(of(t)->inner, id, ret);
}

static void ft_release(struct tier *t, struct tier_view *v) {
  atomic_fetch_add(&of(t)->releases, 1);
  tier_release(of(t)->inner, v);
}

static int ft_reserve(struct tier *t, const struct block_id *id, uint32_t len, unsigned flags, struct tier_slot *ret) {
  int r = fault_step(&of(t)->reserve);
  return r < 0 ? r : tier_reserve(of(t)->inner, id, len, flags, ret);
}

static int ft_commit(struct tier *t, struct tier_slot *s, uint32_t crc, struct tier_view *ret_view) {
  fault_step(&of(t)->commit);
  return tier_commit(of(t)->inner, s, crc, ret_view);
}

static void ft_abort(struct tier *t, struct tier_slot *s) {
  atomic_fetch_add(&of(t)->aborts, 1);
  tier_abort(of(t)->inner, s);
}

static bool ft_contains(struct tier *t, const struct block_id *id) { return tier_contains(of(t)->inner, id); }

static int ft_remove(struct tier *t, const struct block_id *id) {
  int r = fault_step(&of(t)->remove);
  return r < 0 ? r : tier_remove(of(t)->inner, id);
}

static uint64_t ft_drop(struct tier *t, uint64_t ns_id,
                        bool (*match)(void *arg, const void *key, uint32_t key_len, bool kept), void *arg,
                        uint64_t *ret_blocks) {
  fault_step(&of(t)->drop);
  return tier_drop(of(t)->inner, ns_id, match, arg, ret_blocks);
}

static int ft_scan(struct tier *t, uint64_t ns_id,
                   int (*each)(void *arg, const void *key, uint32_t key_len, const struct tier_view *v), void *arg) {
  int r = fault_step(&of(t)->scan);
  return r < 0 ? r : tier_scan(of(t)->inner, ns_id, each, arg);
}

static void ft_usage(struct tier *t, uint64_t ns_id, uint64_t *ret_bytes, uint64_t *ret_blocks) {
  tier_usage(of(t)->inner, ns_id, ret_bytes, ret_blocks);
}

static int ft_resize(struct tier *t, uint64_t max_bytes) {
  int r = fault_step(&of(t)->resize);
  return r < 0 ? r : tier_resize(of(t)->inner, max_bytes);
}

static void ft_stats(struct tier *t, struct tier_stats *ret) { tier_stats(of(t)->inner, ret); }

static void ft_free(struct tier *t) {
  struct fault_tier *f = of(t);

  tier_free(&f->inner);
  fault_fini(&f->get);
  fault_fini(&f->reserve);
  fault_fini(&f->commit);
  fault_fini(&f->remove);
  fault_fini(&f->drop);
  fault_fini(&f->scan);
  fault_fini(&f->resize);
  free(f);
}

static const struct tier_ops ft_ops = {
    .kind = "fault",
    .get = ft_get,
    .release = ft_release,
    .reserve = ft_reserve,
    .commit = ft_commit,
    .abort = ft_abort,
    .contains = ft_contains,
    .remove = ft_remove,
    .drop = ft_drop,
    .scan = ft_scan,
    .usage = ft_usage,
    .resize = ft_resize,
    .stats = ft_stats,
    .free = ft_free,
};

struct fault_tier *fault_tier_new(struct tier **inner) {
  struct fault_tier *f = calloc(1, sizeof *f);

  if (!f)
    abort();
  f->base.ops = &ft_ops;
  f->inner = *inner;
  *inner = NULL;
  fault_init(&f->get);
  fault_init(&f->reserve);
  fault_init(&f->commit);
  fault_init(&f->remove);
  fault_init(&f->drop);
  fault_init(&f->scan);
  fault_init(&f->resize);
  return f;
}
