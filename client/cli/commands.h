/* commands.h - the rows of all commands; each stands in the file that implements it. */
#ifndef FB_CLI_COMMANDS_H
#define FB_CLI_COMMANDS_H

#include "client/cli/cli.h"

extern const struct command cmd_status, cmd_ring, cmd_ns_create, cmd_ns_list, cmd_ns_show, cmd_ns_drop, cmd_ls,
    cmd_stat, cmd_get, cmd_put, cmd_invalidate, cmd_prestage, cmd_verify, cmd_doctor, cmd_completion, cmd_help;

#endif
