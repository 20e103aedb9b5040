/* The agents of hooks in a build that cannot look into the container, nor change its image.
 *
 * They come with the launcher's programs. They are copied into the container before the application starts, to the paths
 * that they have in the finished image: a runtime keeps their files open, and a mount would be missing after a restore.
 * The build speaks with them by exec; hook_channel.py has the other end, and docs/hooks.md the protocol.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#define ATTR_RDONLY 1
#define AGENTS "/hooks"
#define OPEN_DIRECTORIES 16
#define ANSWER_MS 1000

/* Of this namespace's mount alone: it stays read-only for the application. */
static void set_read_only(bool is_read_only)
{
	struct {
		uint64_t set, clear, propagation, user_namespace;
	} attributes = {is_read_only ? ATTR_RDONLY : 0, is_read_only ? 0 : ATTR_RDONLY, 0, 0};

	if (syscall(SYS_mount_setattr, AT_FDCWD, CONTAINER, 0, &attributes, sizeof attributes) < 0)
		fail("cannot write to the container's read-only root file system (needs Linux 5.12): %s",
		     strerror(errno));
}

static int copy_agent(const char *path, const struct stat *status, int type, struct FTW *position)
{
	(void)type;
	(void)position;
	/* The working directory is the container's /.warmstart. */
	if (!copy_file(path, path + 1, status))
		fail("cannot copy " WARMSTART_DIR "%s into the container: %s", path, strerror(errno));
	return 0;
}

static void make_fifo(const char *path)
{
	if (mkfifo(path, 0600) < 0 || chmod(path, 0666) < 0)
		fail("cannot make the FIFO %s in the container: %s", path, strerror(errno));
}

void copy_agents(void)
{
	struct statvfs root;
	bool is_read_only;
	int directory;

	if (access(AGENTS, F_OK))
		return;
	is_read_only = !statvfs(CONTAINER, &root) && root.f_flag & ST_RDONLY;
	if (is_read_only)
		set_read_only(false);
	directory = open_beneath(AT_FDCWD, CONTAINER WARMSTART_DIR, O_PATH | O_DIRECTORY, NO_LINKS);
	if (directory < 0 || fchdir(directory) < 0)
		fail("cannot enter " WARMSTART_DIR " of the container: %s", strerror(errno));
	close(directory);
	nftw(AGENTS, copy_agent, OPEN_DIRECTORIES, FTW_PHYS);
	make_fifo("hooks/reply");
	make_fifo("hooks/checkpoint");
	make_fifo("hooks/restored");
	if (chdir("/") < 0)
		fail("cannot enter the root directory: %s", strerror(errno));
	if (is_read_only)
		set_read_only(true);
}

/* One exchange: print the processes, then what the agents have written. With `asks`, they are asked for the checkpoint,
 * and one that has something to say has a second for it. */
int hooks_mode(bool asks)
{
	char answers[1 << 16];
	int replies = open_fifo_of_container(CONTAINER HOOKS "/reply"),
	    gate = asks ? open_fifo_of_container(CONTAINER HOOKS "/checkpoint") : -1;
	ssize_t count;

	if (replies < 0 || (asks && gate < 0))
		fail("cannot open the FIFOs of the hooks in the container: %s", strerror(errno));
	poll(&(struct pollfd){.fd = replies, .events = POLLIN}, 1, asks ? ANSWER_MS : 0);
	print_processes();
	count = read(replies, answers, sizeof answers);
	if (count > 0)
		fwrite(answers, 1, count, stdout);
	return fflush(stdout) ? EXIT_FAILED : 0;
}
