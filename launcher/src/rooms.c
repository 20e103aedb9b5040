/* The two mount namespaces of a build: the application's, which is the container's, and the launcher's own.
 *
 * The application may be root, and who is root may rename any directory of its root file system: in a user namespace of
 * its own even one that something is mounted on elsewhere. So no path of the container's leads to what we run or write.
 * The first process moves into a namespace whose root is the mount /.warmstart, which nobody can write to, and takes
 * that mount away from the container's namespace. A command that a runtime runs in the container joins the first
 * process, and so finds itself in ours.
 *
 *   /launcher, /criu    read-only
 *   /state              what build and dump write
 *   /proc               the container's
 *   /container          the container's root file system and its mounts, as they were when it started
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

/* Where the first process keeps the container's namespace open. Another process may open it there only if it has all
 * capabilities that the first one has, see ptrace(2); the application has none. */
#define KEPT_FD 200
#define KEPT_PATH "/proc/1/fd/200"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

static void move_root(void)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail("cannot make the mounts private, which takes CAP_SYS_ADMIN: %s", strerror(errno));
	if (mount("/proc", WARMSTART_DIR "/proc", NULL, MS_BIND | MS_REC, NULL) < 0)
		fail("cannot mount /proc on " WARMSTART_DIR "/proc: %s", strerror(errno));
	if (syscall(SYS_pivot_root, WARMSTART_DIR, WARMSTART_DIR CONTAINER) < 0)
		fail("cannot make " WARMSTART_DIR ", which has to be a mount, the root directory: %s",
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
		fail("cannot make a mount namespace, which takes CAP_SYS_ADMIN: %s", strerror(errno));
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
		fail("cannot enter the container's mount namespace, which takes CAP_SYS_ADMIN and CAP_SYS_CHROOT: %s",
		     strerror(errno));
	close(namespace);
}

void hide_launcher(void)
{
	if (umount2(WARMSTART_DIR, MNT_DETACH) < 0)
		fail("cannot take " WARMSTART_DIR " away from the application: %s", strerror(errno));
}

int open_beneath(int directory, const char *path, int flags, uint64_t resolve)
{
	struct {
		uint64_t flags, mode, resolve;
	} how = {flags | O_CLOEXEC, 0, resolve};

	return syscall(SYS_openat2, directory, path, &how, sizeof how);
}

/* Makes what is missing, as runtimes do. Links that the application or its image made may lead anywhere in the container,
 * but not through /proc to where other processes are. */
void go_to(const char *directory)
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
