/* exits.c - the one table from error codes to exit statuses. */
#include <errno.h>
#include <stdlib.h>

#include "client/cli/cli.h"

#define CODES_MAX 20

/* Ends of a row's codes are zero. What stands nowhere is CLI_FAILED. */
static const struct {
  const char *text;
  int codes[CODES_MAX];
} exits[CLI_EXITS] = {
    [CLI_OK] = {"success", {0}},
    [CLI_FAILED] = {"the operation failed", {0}},
    [CLI_USAGE] = {"bad command line, name, key, range or configuration",
                   {EINVAL, ERANGE, FB_ENSNAME, FB_EKEYEMPTY, FB_EKEYLONG, FB_EKEYNAME, FB_EPASTEND, FB_EPEERSEMPTY,
                    FB_EPEERSDUP, FB_EBADCONF}},
    [CLI_NOT_FOUND] = {"no such namespace, key or file", {ENOENT, ENOTDIR, FB_ENONS}},
    [CLI_UNREACHABLE] = {"peers unreachable, or no answer in time",
                         {FB_EPEERDOWN, ETIMEDOUT, ECONNREFUSED, ECONNRESET, ECONNABORTED, EHOSTUNREACH, ENETUNREACH,
                          EHOSTDOWN, ENETDOWN}},
    [CLI_BELOW_TARGET] = {"prestage ended below its target", {FB_EBELOWTARGET}},
    [CLI_DIFFERS] = {"verify found bytes that differ from the origin", {FB_EDIFFERS}},
    [CLI_REFUSED] = {"refused: exists already, not permitted, full, or over a limit",
                     {FB_ENSEXISTS, EEXIST, EACCES, EPERM, EROFS, EISDIR, ELOOP, ENOSPC, EDQUOT, EFBIG, EMFILE, ENFILE,
                      FB_ETOOBIG, FB_EESCAPES, FB_ENOTDERIVED, FB_EORIGINROOT, FB_EBUSY}},
};

enum cli_exit cli_exit_of(int code) {
  for (int e = 0; e < CLI_EXITS; e++)
    for (int i = 0; i < CODES_MAX && exits[e].codes[i]; i++)
      if (exits[e].codes[i] == abs(code))
        return (enum cli_exit)e;
  return code == 0 ? CLI_OK : CLI_FAILED;
}

const char *cli_exit_describe(enum cli_exit e) { return exits[e].text; }
