/* The two mount namespaces of a build: the container's, for the application, and the launcher's own.
 *
 * An application that runs as root may rename any directory of its root filesystem, in a user namespace even one that
 * is a mount point elsewhere. So the launcher runs and writes no file through a path of the container. The first process
 * moves into a namespace with the read-only mount /.warmstart as its root, and removes that mount from the container's
 * namespace. A command that a runtime runs in the container joins the first process, and therefore our namespace.
 *
 *   /launcher, /criu    read-only
 *   /state              written by build and dump
 *   /proc               the container's
 *   /container          the container's root filesystem and mounts at its start
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"

/* The first process keeps the container's namespace open as this descriptor. Opening it through /proc requires all
 * capabilities of the first process, see ptrace(2), and the application has none. */
#define KEPT_FD 200
#define KEPT_PATH "/proc/1/fd/200"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

static void move_root(void)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail("cannot make the mounts private (needs CAP_SYS_ADMIN): %s", strerror(errno));
	if (mount("/proc", WARMSTART_DIR "/proc", NULL, MS_BIND | MS_REC, NULL) < 0)
		fail("cannot mount /proc on " WARMSTART_DIR "/proc: %s", strerror(errno));
	if (syscall(SYS_pivot_root, WARMSTART_DIR, WARMSTART_DIR CONTAINER) < 0)
		fail("cannot make " WARMSTART_DIR " (must be a mount point) the root directory: %s",
		     strerror(errno));
	if (chdir("/") < 0)
		fail("cannot enter the root directory: %s", strerror(errno));
}

int leave_container(void)
{
	int fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC), kept = fcntl(fd, F_DUPFD_CLOEXEC, KEPT_FD);

	if (fd < 0 || kept != KEPT_FD)
		fail("cannot keep the container's mount namespace: %s", strerror(errno));
	close(fd);
	if (unshare(CLONE_NEWNS) < 0)
		fail("cannot make a mount namespace (needs CAP_SYS_ADMIN): %s", strerror(errno));
	move_root();
	return kept;
}

int open_container(void)
{
	int fd = open(KEPT_PATH, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail("cannot open the container's mount namespace: %s", strerror(errno));
	return fd;
}

void enter_container(int namespace)
{
	if (setns(namespace, CLONE_NEWNS) < 0)
		fail("cannot enter the container's mount namespace (needs CAP_SYS_ADMIN and CAP_SYS_CHROOT): %s",
		     strerror(errno));
	close(namespace);
}

void hide_launcher(void)
{
	if (umount2(WARMSTART_DIR, MNT_DETACH) < 0)
		fail("cannot unmount " WARMSTART_DIR " from the container: %s", strerror(errno));
}

/* The application would be the first process of its container, and programs write logs to /proc/1/fd/1. Here, the first
 * process is the launcher, whose descriptors they may not open. So let theirs stand in for them. */
void stand_in_for_init(void)
{
	static const char directory[] = "/proc/1/fd";
	char path[32], target[48];

	if (mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=0755") < 0)
		fail("cannot mount a file system on %s (needs CAP_SYS_ADMIN): %s", directory, strerror(errno));
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		snprintf(path, sizeof path, "%s/%d", directory, fd);
		snprintf(target, sizeof target, "/proc/%d/fd/%d", getpid(), fd);
		if (symlink(target, path) < 0)
			fail("%s: %s", path, strerror(errno));
	}
}

int open_beneath(int directory, const char *path, int flags, uint64_t resolve)
{
	struct {
		uint64_t flags, mode, resolve;
	} how = {flags | O_CLOEXEC, 0, resolve};

	return syscall(SYS_openat2, directory, path, &how, sizeof how);
}

/* Enter a directory, and create missing ones as runtimes do. Follow symbolic links anywhere in the container, but not
 * through /proc into other processes' namespaces. */
void enter_directory(const char *directory)
{
	char *own = strdup(directory), *rest = own;
	int at = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), next;

	if (!own)
		fail("out of memory");
	for (char *name; (name = strsep(&rest, "/"));) {
		if (!*name)
			continue;
		next = open_beneath(at, name, O_PATH | O_DIRECTORY, NO_MAGIC_LINKS);
		if (next < 0 && errno == ENOENT && !mkdirat(at, name, 0755))
			next = open_beneath(at, name, O_PATH | O_DIRECTORY, NO_MAGIC_LINKS);
		if (next < 0)
			fail("cannot enter the working directory %s: %s", directory, strerror(errno));
		close(at);
		at = next;
	}
	if (fchdir(at) < 0)
		fail("cannot enter the working directory %s: %s", directory, strerror(errno));
	close(at);
}
