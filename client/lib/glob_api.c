/* glob_api.c - the cluster's globs for users of the public header, so that no program brings its own idea of `**`. */
#include <forebay/forebay.h>

#include "common/glob.h"

bool fb_glob_match(const char *pattern, const char *key) { return !pattern || !*pattern || glob_match(pattern, key); }
