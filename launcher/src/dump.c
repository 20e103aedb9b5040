/* Dump: checkpoint the application of a build from inside its container, and finish the manifest.
 *
 * CRIU would record a time or mount namespace other than its own, and a restore without privileges could not recreate
 * it. So CRIU runs in the application's namespaces and as its user, but with the capabilities of the build container.
 * The criu program and its output directory do not exist in these namespaces, so they are passed as descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

#define PROC_MAGIC 0x9fa0
#define DIRECTORY STATE "/checkpoint"
#define DUMP_LOG STATE "/dump.log"

static void enter_clocks(pid_t app)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "/proc/%d/ns/time", app);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail("the application is not running: %s: %s", path, strerror(errno));
	if (setns(fd, CLONE_NEWTIME) < 0)
		fail("cannot enter the application's time namespace (needs CAP_SYS_ADMIN): %s", strerror(errno));
	close(fd);
}

/* With a user namespace, the application may have created another mount namespace. */
static void check_mounts(pid_t app, int container)
{
	struct stat own, kept;
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/ns/mnt", app);
	if (stat(path, &own) < 0 || fstat(container, &kept) < 0)
		fail("the application is not running: %s: %s", path, strerror(errno));
	if (own.st_ino != kept.st_ino)
		fail("the application has created a mount namespace, which cannot be restored without privileges");
}

static int make_directory(const struct identity *identity)
{
	int fd;

	if (mkdir(DIRECTORY, 0700) < 0)
		fail("cannot make " DIRECTORY ": %s", strerror(errno));
	if (chown(DIRECTORY, identity->user, identity->group) < 0)
		fail("cannot give " DIRECTORY " to user %u (needs CAP_CHOWN): %s", identity->user,
		     strerror(errno));
	fd = open(DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		fail("cannot open " DIRECTORY ": %s", strerror(errno));
	return fd;
}

/* CRIU trusts /proc. An application that runs as root controls its root directory, but not the mounts in it. */
static void check_proc(const char *images, int directory)
{
	struct stat seen, opened;
	struct statfs system;

	if (statfs("/proc", &system) < 0 || system.f_type != PROC_MAGIC || stat(images, &seen) < 0 ||
	    fstat(directory, &opened) < 0 || seen.st_ino != opened.st_ino || seen.st_dev != opened.st_dev)
		fail("the application has replaced /proc");
}

static _Noreturn void exec_criu(const struct manifest *manifest, int container, int directory)
{
	int criu = open("/criu", O_PATH | O_CLOEXEC), inherited = dup(directory);
	char pid[16], images[64];

	snprintf(images, sizeof images, "/proc/self/fd/%d", inherited);
	enter_container(container);
	check_proc(images, directory);
	prctl(PR_SET_KEEPCAPS, 1);
	become(&manifest->identity);
	keep_capabilities();
	snprintf(pid, sizeof pid, "%d", manifest->pid);
	/* CRIU must take neither its environment nor plugins from the image. */
	syscall(SYS_execveat, criu, "",
		(char *[]){"criu", "dump", "--no-default-config", "--unprivileged", "-t", pid, "-D", images, "-v4",
			   "-o", "dump.log", "--leave-stopped", "--network-lock", "skip", "--manage-cgroups=ignore",
			   "--tcp-close", "--file-locks", "--libdir", "/proc/self/fdinfo", NULL},
		(char *[]){NULL}, AT_EMPTY_PATH);
	fail("/criu: %s", strerror(errno));
}

static void print_errors(const char *log)
{
	char *text = read_file(log);

	for (char *line; (line = next_line(&text));)
		if (strstr(line, "Error ("))
			say("%s", line);
}

static void finish_manifest(uint64_t monotonic_ns, uint64_t boottime_ns)
{
	struct reason reason;
	int fd = open(STATE "/manifest", O_WRONLY | O_APPEND | O_CLOEXEC);

	if (fd < 0)
		fail("cannot write " STATE "/manifest: %s", strerror(errno));
	if (!write_checkpoint(fd, DIRECTORY, monotonic_ns, boottime_ns, &reason))
		fail("%s", reason.text);
	close(fd);
}

static void read_build(struct manifest *manifest)
{
	char *text = read_file(STATE "/manifest");
	struct reason reason;

	if (!text)
		fail("cannot read " STATE "/manifest (written by build): %s", strerror(errno));
	if (!parse_manifest(text, manifest, &reason))
		fail("%s", reason.text);
	if (manifest->complete)
		fail("the application is already dumped");
}

/* A process outside the dump would go on changing files while they are copied, and would be missing after a restore. */
static void require_no_other_processes(pid_t app, bool must_be_stopped)
{
	struct reason reason;

	if (!check_no_other_processes(app, must_be_stopped, &reason))
		fail("%s", reason.text);
}

static void run_criu(const struct manifest *manifest)
{
	int container = open_container(), directory = make_directory(&manifest->identity), status;
	pid_t dumper;

	check_mounts(manifest->pid, container);
	dumper = fork();
	if (!dumper)
		exec_criu(manifest, container, directory);
	if (dumper < 0 || waitpid(dumper, &status, 0) != dumper)
		fail("cannot fork: %s", strerror(errno));
	close(container);
	close(directory);
	rename(DIRECTORY "/dump.log", DUMP_LOG);
	unlink(DIRECTORY "/stats-dump");
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		print_errors(DUMP_LOG);
		fail("CRIU cannot dump the application: see " DUMP_LOG);
	}
}

int dump_mode(void)
{
	struct manifest manifest;
	uint64_t monotonic_ns, boottime_ns;

	read_build(&manifest);
	require_no_other_processes(manifest.pid, false);
	enter_clocks(manifest.pid);
	run_criu(&manifest);
	/* The application is stopped by now. */
	monotonic_ns = clock_ns(CLOCK_MONOTONIC);
	boottime_ns = clock_ns(CLOCK_BOOTTIME);
	require_no_other_processes(manifest.pid, true);
	keep_files(&manifest);
	finish_manifest(monotonic_ns, boottime_ns);
	return 0;
}
