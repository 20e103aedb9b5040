/* Restore: run CRIU, read its log, and limit its time. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#define MS 1000000ull
/* Abort a restore after this time. The time per byte allows for a slow disk. */
#define LIMIT_NS (5000 * MS)
#define NS_PER_BYTE 10
/* CRIU may hang after an error if one of its own tasks has died. */
#define AFTER_ERROR_NS (300 * MS)

/* Name of the file in the dump. CRIU compares it without the leading slash. See warmstart/dump/edit/environment.py. */
#define ENVIRONMENT_NAME ".warmstart/environment"

bool read_log(struct criu_log *log, const char *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (bytes[i] != '\n') {
			if (log->length + 1 < sizeof log->line)
				log->line[log->length++] = bytes[i];
			continue;
		}
		log->line[log->length] = 0;
		log->length = 0;
		/* "(00.012345)    300: Error (criu/files.c:123): the message" */
		char *error = strstr(log->line, "Error ("), *message = error ? strstr(error, "): ") : NULL;

		if (message && !*log->error)
			snprintf(log->error, sizeof log->error, "%s", message + strlen("): "));
	}
	return *log->error;
}

struct arguments {
	char **words;
	size_t count;
};

static void add_word(struct arguments *arguments, char *word)
{
	arguments->words = grow(arguments->words, arguments->count, sizeof *arguments->words);
	arguments->words[arguments->count++] = word;
}

/* Have CRIU replace the application's file of this name with our descriptor. */
__attribute__((format(printf, 3, 4))) static void add_inherited(struct arguments *arguments, int fd, const char *format,
								...)
{
	char *name, *word;
	va_list values;

	va_start(values, format);
	if (vasprintf(&name, format, values) < 0 || asprintf(&word, "fd[%d]:%s", fd, name) < 0)
		fail("out of memory");
	va_end(values);
	add_word(arguments, "--inherit-fd");
	add_word(arguments, word);
}

static _Noreturn void run_criu(const struct manifest *manifest, int log)
{
	char output[32], *always[] = {CRIU,	   "restore", "--no-default-config", "--unprivileged",
				      "-D",	   CHECKPOINT, "-o",		     output,
				      "-d",	   "--manage-cgroups=ignore", "--tcp-close", "--file-locks",
				      /* CRIU must not load plugins from the image. */
				      "--libdir",  "/proc/self/fdinfo"};
	struct arguments arguments = {0};
	int own = dup(log); /* stays open across exec, like the listeners' descriptors */

	snprintf(output, sizeof output, "/proc/self/fd/%d", own);
	for (size_t i = 0; i < sizeof always / sizeof *always; i++)
		add_word(&arguments, always[i]);
	add_inherited(&arguments, STDOUT_FILENO, "pipe:[%ju]", (uintmax_t)manifest->stdout_inode);
	add_inherited(&arguments, STDERR_FILENO, "pipe:[%ju]", (uintmax_t)manifest->stderr_inode);
	if (manifest->environment >= 0)
		add_inherited(&arguments, dup(manifest->environment), ENVIRONMENT_NAME);
	for (size_t i = 0; i < manifest->listener_count; i++)
		if (manifest->listeners[i].fd >= 0)
			add_inherited(&arguments, dup(manifest->listeners[i].fd), "socket:[%ju]",
				      (uintmax_t)manifest->listeners[i].inode);
	add_word(&arguments, NULL);
	execv(CRIU, arguments.words);
	dprintf(log, "Error (launcher): " CRIU ": %s\n", strerror(errno));
	_exit(EXIT_NOT_EXECUTABLE);
}

static _Noreturn void run_with_clocks_of_node(const struct manifest *manifest, int log)
{
	if (clock_ns(CLOCK_MONOTONIC) >= manifest->monotonic_ns)
		run_criu(manifest, log);
	dprintf(log, "Error (launcher): the monotonic clock would go backwards\n");
	_exit(EXIT_FAILED);
}

/* Set the clocks in a child process: a process cannot leave its namespaces if creating the others fails. */
static _Noreturn void run_restorer(const struct manifest *manifest, enum clocks clocks, int log)
{
	int status;
	pid_t pid;

	unblock_signals();
	if (clocks == CLOCKS_OF_NODE)
		run_with_clocks_of_node(manifest, log);
	pid = fork();
	if (!pid)
		_exit(run_within_clocks(manifest, run_criu, log));
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		_exit(EXIT_FAILED);
	if (WEXITSTATUS(status) != NO_CLOCKS)
		_exit(WEXITSTATUS(status));
	run_with_clocks_of_node(manifest, log);
}

static bool drain(int fd, struct criu_log *log)
{
	char bytes[4096];
	ssize_t count;

	while ((count = read(fd, bytes, sizeof bytes)) > 0)
		read_log(log, bytes, count);
	return *log->error;
}

static uint64_t limit_ns(const struct manifest *manifest)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < manifest->file_count; i++)
		bytes += manifest->files[i].size_bytes;
	return LIMIT_NS + bytes * NS_PER_BYTE;
}

static bool watch(pid_t restorer, int log_fd, int signals, uint64_t limit, struct reason *reason)
{
	struct pollfd polled[] = {{.fd = log_fd, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
	uint64_t now = clock_ns(CLOCK_MONOTONIC), deadline = now + limit;
	struct criu_log log = {0};
	int status;

	/* Wait only for the restorer: supervise() needs the exit status of the restored application. */
	while (waitpid(restorer, &status, WNOHANG) != restorer) {
		now = clock_ns(CLOCK_MONOTONIC);
		if (now >= deadline) {
			if (*log.error)
				return set_reason(reason, "CRIU: %s", log.error);
			return set_reason(reason, "CRIU timed out");
		}
		poll(polled, 2, (deadline - now) / MS + 1);
		if (!*log.error && drain(log_fd, &log) && deadline > now + AFTER_ERROR_NS)
			deadline = now + AFTER_ERROR_NS;
		for (int number; (number = next_signal(signals));)
			if (is_stop_signal(number)) {
				kill_descendants();
				exit(exit_like(number));
			}
	}
	drain(log_fd, &log);
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return true;
	if (*log.error)
		return set_reason(reason, "CRIU: %s", log.error);
	return set_reason(reason, "CRIU failed without an error message");
}

static bool run(const struct manifest *manifest, enum clocks clocks, int signals, struct reason *reason)
{
	int pipes[2];
	bool restored;
	pid_t restorer;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return set_reason(reason, "pipe: %s", strerror(errno));
	fcntl(pipes[0], F_SETFL, O_NONBLOCK);
	restorer = fork();
	if (!restorer)
		run_restorer(manifest, clocks, pipes[1]);
	close(pipes[1]);
	if (restorer < 0) {
		close(pipes[0]);
		return set_reason(reason, "fork: %s", strerror(errno));
	}
	restored = watch(restorer, pipes[0], signals, limit_ns(manifest), reason);
	close(pipes[0]);
	return restored;
}

bool restore(const struct manifest *manifest, enum clocks clocks, int signals, struct reason *reason)
{
	if (run(manifest, clocks, signals, reason))
		return true;
	kill_descendants();
	return false;
}
