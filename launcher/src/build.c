/* Build: run the application so that its checkpoint can be restored without privileges.
 *
 * The application gets a pid above those that the helper processes of a restore use up, clocks that start at zero (so
 * that they never run backwards on another machine), output pipes that the restore can replace, and none of the build
 * container's privileges. It cannot see the launcher: see mount_namespaces.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

/* Lower pids are left to the helper processes of a restore and to commands run in the container meanwhile. A restore
 * without privileges must use up all of them, so the number should be small. */
#define FIRST_PID 100

struct start {
	char **command;
	const char *directory;
	struct identity identity;
	uint64_t capabilities;
	const char **volumes; /* without links */
	size_t volume_count;
};

static void make_pipe(int pipes[2], const struct identity *identity)
{
	/* The application must own it, to be able to reopen it as /dev/stdout. */
	if (pipe2(pipes, O_CLOEXEC) < 0 || fchown(pipes[1], identity->user, identity->group) < 0)
		fail("cannot make a pipe for the application: %s", strerror(errno));
}

static uint64_t inode(int fd)
{
	struct stat status;

	return fstat(fd, &status) < 0 ? 0 : status.st_ino;
}

static void start_clocks(void)
{
	int fd, error;

	if (unshare(CLONE_NEWTIME) < 0)
		fail("cannot make a time namespace (needs CAP_SYS_ADMIN and Linux 5.6): %s", strerror(errno));
	fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
	error = fd < 0 || dprintf(fd, "monotonic -%ju 0\nboottime -%ju 0\n",
				  (uintmax_t)clock_ns(CLOCK_MONOTONIC) / 1000000000,
				  (uintmax_t)clock_ns(CLOCK_BOOTTIME) / 1000000000) < 0;
	if (error)
		fail("cannot set the clocks of the time namespace (needs CAP_SYS_TIME): %s", strerror(errno));
	close(fd);
}

/* A runtime that started the launcher as root has set HOME to root's, unless the image sets another one. */
void set_home(const char *home)
{
	struct identity root;
	struct reason ignored;
	char *passwd = read_file("/etc/passwd"), none[] = "";
	const char *given = getenv("HOME");

	if (resolve_user("0", passwd ? passwd : none, none, &root, &ignored) && given && strcmp(given, root.home))
		return;
	setenv("HOME", home, 1);
}

/* Keep some capabilities if the identity is root's. Others have none, but programs with file capabilities do not start
 * if those are missing in the bounding set. With no_new_privs they start, and gain nothing. */
void drop_privileges(const struct identity *identity, uint64_t kept)
{
	if (!limit_bounding_set(kept))
		fail("cannot drop capabilities (needs CAP_SETPCAP): %s", strerror(errno));
	clear_inheritable_capabilities();
	become(identity);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail("cannot set no_new_privs: %s", strerror(errno));
}

static _Noreturn void exec_application(struct start *start, int container, int out, int err)
{
	const struct identity *identity = &start->identity;
	char **command = start->command;
	int null;

	enter_container(container);
	hide_launcher();
	stand_in_for_init();
	enter_directory(start->directory);
	/* Open it in the container's mount namespace: CRIU identifies open files by their mounts. */
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	setsid();
	set_home(identity->home);
	drop_privileges(identity, start->capabilities);
	/* As for the first process of a container, which it would be: daemons below it remain its descendants. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	deny_unrestorable_calls();
	unblock_signals();
	dup2(out, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	dup2(null, STDIN_FILENO);
	execvp(*command, command);
	say("%s: %s", *command, strerror(errno));
	_exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

static void record(struct start *start, pid_t pid, int out, int err)
{
	int fd = open(STATE "/manifest", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	if (fd < 0)
		fail("cannot write " STATE "/manifest: %s", strerror(errno));
	fchmod(fd, 0644);
	write_command(fd, start->command, &start->identity, start->capabilities, pid, inode(out), inode(err));
	write_volumes(fd, start->volumes, start->volume_count);
	close(fd);
}

/* Reset the node's oom_score_adj, to keep it out of the checkpoint: a restore cannot lower it without privileges. */
static void reset_oom_score(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "0", 1) < 0)
		say("the application keeps the build's oom_score_adj: %s", strerror(errno));
	close(fd);
}

/* Until the application is in the container's mount namespace and runs its own program, or has ended: exec closes the
 * other end of the pipe. Who reads the manifest looks at the application's root directory. */
static void await_exec(int started[2])
{
	char none;

	close(started[1]);
	while (read(started[0], &none, 1) < 0 && errno == EINTR)
		;
	close(started[0]);
}

static int run(struct start *start)
{
	int out[2], err[2], started[2], signals = block_signals(), container;
	struct copy copies[2];
	pid_t app;

	if (getpid() != 1)
		fail("build must be the first process of its container");
	reset_oom_score();
	make_pipe(out, &start->identity);
	make_pipe(err, &start->identity);
	container = leave_container();
	copy_agents();
	keep_replies();
	if (spend_pids(FIRST_PID - 1) < 0)
		fail("cannot fork: %s", strerror(errno));
	if (pipe2(started, O_CLOEXEC) < 0)
		fail("cannot make a pipe: %s", strerror(errno));
	mark_start();
	start_clocks();
	app = fork();
	if (!app)
		exec_application(start, container, out[1], err[1]);
	if (app < 0)
		fail("cannot fork: %s", strerror(errno));
	await_exec(started);
	record(start, app, out[1], err[1]);
	close(out[1]);
	close(err[1]);
	copies[0] = (struct copy){out[0], STDOUT_FILENO};
	copies[1] = (struct copy){err[0], STDERR_FILENO};
	return exit_like(supervise(app, signals, copies, 2).status);
}

/* The application has not run yet, so these are the links of the image. A runtime has followed them as well. */
static void resolve_volumes(const struct build_options *options, struct start *start)
{
	for (size_t i = 0; i < options->volume_count; i++) {
		char *path = realpath(options->volumes[i], NULL);

		if (!path)
			fail("--volume %s: %s", options->volumes[i], strerror(errno));
		if (!strcmp(path, "/"))
			fail("--volume: the root directory is not a volume");
		start->volumes = grow(start->volumes, start->volume_count, sizeof *start->volumes);
		start->volumes[start->volume_count++] = path;
	}
}

int build_mode(const struct build_options *options, char **command)
{
	char *passwd = read_file("/etc/passwd"), *group = read_file("/etc/group"), none[] = "";
	struct start start = {
		.command = command, .directory = options->directory, .capabilities = options->capabilities};
	struct reason reason;

	if (!resolve_user(options->user, passwd ? passwd : none, group ? group : none, &start.identity, &reason))
		fail("%s", reason.text);
	if (!add_groups(options->groups, &start.identity))
		fail("--groups: expected comma-separated numbers, got %s", options->groups);
	resolve_volumes(options, &start);
	return run(&start);
}
