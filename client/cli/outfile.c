/* outfile.c - temporary file beside the target, renamed at the end, removed on failure and on signals. */
#include "client/cli/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a signal has to remove. Written with the signals blocked. */
static char *volatile doomed;

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

static void on_signal(int signo) {
  if (doomed)
    unlink(doomed);
  /* Die of it, as the caller expects. */
  signal(signo, SIG_DFL);
  raise(signo);
}

static void set_doomed(char *path) {
  sigset_t block, old;

  sigemptyset(&block);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    sigaddset(&block, signals[i]);
  pthread_sigmask(SIG_BLOCK, &block, &old);
  doomed = path;
  for (size_t i = 0; path && i < sizeof signals / sizeof *signals; i++) {
    struct sigaction now, act = {.sa_handler = on_signal};
    /* Under nohup a hang-up stays ignored. */
    if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
      sigaction(signals[i], &act, NULL);
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static int open_beside(struct outfile *f) {
  mode_t mask = umask(0);

  umask(mask);
  char *slash = strrchr(f->path, '/');
  int dir = slash ? (int)(slash - f->path) + 1 : 0;
  if (asprintf(&f->temp, "%.*s.%.200s.XXXXXX", dir, f->path, f->path + dir) < 0) {
    f->temp = NULL;
    return -ENOMEM;
  }
  f->fd = mkostemp(f->temp, O_CLOEXEC);
  if (f->fd < 0) {
    int rc = -errno;
    free(f->temp);
    f->temp = NULL;
    return rc;
  }
  set_doomed(f->temp);
  /* mkostemp makes 0600; the target shall be as if it had been opened with O_CREAT. */
  if (fchmod(f->fd, 0666 & ~mask) < 0)
    return -errno;
  return 0;
}

int outfile_open(struct outfile *f, const char *path) {
  struct stat st;

  *f = (struct outfile){.fd = -1};
  if (!path || strcmp(path, "-") == 0) {
    f->fd = STDOUT_FILENO;
    f->direct = true;
    return 0;
  }
  if (stat(path, &st) == 0) {
    if (S_ISDIR(st.st_mode))
      return -EISDIR;
    if (!S_ISREG(st.st_mode)) {
      /* /dev/null is to be written, not to be replaced. */
      f->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
      f->direct = true;
      return f->fd < 0 ? -errno : 0;
    }
    f->path = realpath(path, NULL); /* through symlinks: they stay */
  } else if (errno == ENOENT) {
    f->path = strdup(path);
  }
  if (!f->path)
    return -errno;
  int rc = open_beside(f);
  if (rc < 0)
    outfile_drop(f);
  return rc;
}

int outfile_write(struct outfile *f, const void *buf, size_t len) {
  const char *p = buf;

  while (len > 0) {
    ssize_t n = write(f->fd, p, len);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -errno;
    p += n;
    len -= (size_t)n;
  }
  return 0;
}

int outfile_commit(struct outfile *f) {
  if (f->direct)
    return 0;
  /* Some filesystems tell of a full disk only at close. */
  int fd = f->fd;
  f->fd = -1;
  if (close(fd) < 0)
    return -errno;
  if (rename(f->temp, f->path) < 0)
    return -errno;
  set_doomed(NULL);
  free(f->temp);
  f->temp = NULL;
  return 0;
}

void outfile_drop(struct outfile *f) {
  if (f->temp) {
    unlink(f->temp);
    set_doomed(NULL);
  }
  if (f->fd > STDERR_FILENO)
    close(f->fd);
  free(f->temp);
  free(f->path);
  *f = (struct outfile){.fd = -1};
}
