/* Dump: checkpoint the application of a build, from inside its container, and finish the manifest.
 *
 * CRIU dumps what it shares namespaces with: a time namespace other than its own it would record, and the restore,
 * without privileges, could not make it again. So CRIU runs in the application's, and as the application's user, but
 * with the capabilities of the build container.
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static void enter_clocks(pid_t app)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "/proc/%d/ns/time", app);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail("the application is not running: %s: %s", path, strerror(errno));
	if (setns(fd, CLONE_NEWTIME) < 0)
		fail("cannot enter the application's time namespace, which takes CAP_SYS_ADMIN: %s", strerror(errno));
	close(fd);
}

static void make_directory(const struct identity *identity)
{
	if (mkdir(CHECKPOINT, 0700) < 0 && errno != EEXIST)
		fail("cannot make " CHECKPOINT ": %s", strerror(errno));
	if (chown(CHECKPOINT, identity->user, identity->group) < 0)
		fail("cannot give " CHECKPOINT " to user %u, which takes CAP_CHOWN: %s", identity->user,
		     strerror(errno));
}

/* Capabilities of the permitted set become inheritable and ambient: they outlive the change of user and the exec.
 * The structures are those of capget(2), which the C library does not declare. */
static void keep_capabilities(void)
{
	struct {
		uint32_t version;
		int pid;
	} header = {.version = 0x20080522};
	struct {
		uint32_t effective, permitted, inheritable;
	} data[2];

	if (syscall(SYS_capget, &header, data) < 0)
		fail("capget: %s", strerror(errno));
	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].inheritable = data[i].permitted;
	if (syscall(SYS_capset, &header, data) < 0)
		fail("capset: %s", strerror(errno));
	for (int number = 0; prctl(PR_CAPBSET_READ, number) >= 0; number++)
		if (data[number / 32].permitted >> number % 32 & 1 &&
		    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0)
			fail("cannot keep capability %d: %s", number, strerror(errno));
}

static _Noreturn void be_dumper(const struct manifest *manifest)
{
	char pid[16];

	prctl(PR_SET_KEEPCAPS, 1);
	become(&manifest->identity);
	keep_capabilities();
	snprintf(pid, sizeof pid, "%d", manifest->pid);
	execv(CRIU, (char *[]){CRIU, "dump", "--no-default-config", "--unprivileged", "-t", pid, "-D", CHECKPOINT,
			       "-v4", "-o", "dump.log", "--leave-stopped", "--network-lock", "skip",
			       "--manage-cgroups=ignore", "--tcp-close", "--file-locks", NULL});
	fail(CRIU ": %s", strerror(errno));
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
	int fd = open(MANIFEST, O_WRONLY | O_APPEND | O_CLOEXEC);

	if (fd < 0)
		fail("cannot write " MANIFEST ": %s", strerror(errno));
	if (!write_checkpoint(fd, CHECKPOINT, monotonic_ns, boottime_ns, &reason))
		fail("%s", reason.text);
	close(fd);
}

int dump_mode(void)
{
	char *text = read_file(MANIFEST);
	struct manifest manifest;
	uint64_t monotonic_ns, boottime_ns;
	struct reason reason;
	int status;
	pid_t dumper;

	if (!text)
		fail("cannot read " MANIFEST ", which build writes: %s", strerror(errno));
	if (!parse_manifest(text, &manifest, &reason))
		fail("%s", reason.text);
	if (manifest.complete)
		fail("the application has been dumped already");
	make_directory(&manifest.identity);
	enter_clocks(manifest.pid);
	dumper = fork();
	if (!dumper)
		be_dumper(&manifest);
	if (dumper < 0 || waitpid(dumper, &status, 0) != dumper)
		fail("cannot fork: %s", strerror(errno));
	/* The application has not run any more since before now. */
	monotonic_ns = clock_ns(CLOCK_MONOTONIC);
	boottime_ns = clock_ns(CLOCK_BOOTTIME);
	rename(CHECKPOINT "/dump.log", DUMP_LOG);
	unlink(CHECKPOINT "/stats-dump");
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		print_errors(DUMP_LOG);
		fail("CRIU could not dump the application, see " DUMP_LOG);
	}
	keep_files(&manifest.identity);
	finish_manifest(monotonic_ns, boottime_ns);
	return 0;
}
