/* The steps after a restore: signals, commands and HTTP requests, one after the other.
 *
 * Each command or request runs in a process of its own, so that its time can be limited. Meanwhile the launcher goes on
 * acting for the application: it forwards signals and notices if the application ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#define MS 1000000ull
/* Time for the application to end after a step has failed. */
#define END_NS (5000 * MS)
/* A step may fail because the application is ending. */
#define SETTLE_NS (50 * MS)

static bool parse_words(char *words, struct step *step)
{
	size_t count = 0;

	for (char *word; (word = next_word(&words)); count++) {
		if (!unescape(word))
			return false;
		step->words = grow(step->words, count, sizeof *step->words);
		step->words[count] = word;
	}
	step->words = grow(step->words, count, sizeof *step->words);
	step->words[count] = NULL;
	return count && **step->words;
}

static bool parse_request(char *words, struct step *step)
{
	char *port = next_word(&words), *host = next_word(&words), *text = next_word(&words);
	uint64_t number;

	if (!text || (words && *words) || !parse_number(port, MAX_PORT, &number) || !number || !unescape(host) ||
	    !unescape(text))
		return false;
	step->port = number;
	step->host = strcmp(host, "-") ? host : NULL;
	step->request = text;
	return *host && *text;
}

/* The value of a line `step`: see ../README.md. */
bool parse_step(char *value, struct step *step)
{
	char *kind = next_word(&value);
	uint64_t number;

	*step = (struct step){0};
	if (!kind || !parse_number(next_word(&value), UINT32_MAX, &number) || !number)
		return false;
	if (!strcmp(kind, "signal")) {
		step->signal = number;
		return number <= MAX_SIGNAL && (!value || !*value);
	}
	step->limit_ms = number;
	if (!strcmp(kind, "exec"))
		return parse_words(value, step);
	return !strcmp(kind, "http") && parse_request(value, step);
}

/* The command without its arguments, or the method and the path. */
static void describe(const struct step *step, char *text, size_t size)
{
	size_t length;
	char *escaped;

	if (step->request) {
		length = strcspn(step->request, " ");
		length += strcspn(step->request + length + 1, " \r\n") + 1;
		snprintf(text, size, "%.*s", (int)length, step->request);
	} else {
		snprintf(text, size, "exec %s", *step->words);
	}
	escaped = escape(text);
	snprintf(text, size, "%s", escaped);
	free(escaped);
}

static _Noreturn void perform(const struct step *step, struct reason *reason)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	setpgid(0, 0);
	unblock_signals();
	if (step->request)
		_exit(request(step, reason) ? 0 : EXIT_FAILED);
	dup2(null, STDIN_FILENO);
	execvp(*step->words, step->words);
	set_reason(reason, "%s", strerror(errno));
	_exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

enum awaited { STEP_ENDED, APP_ENDED, TIMED_OUT };

/* Wait for the end of the step, or of the application; with `step` 0, of the application alone. */
static enum awaited await(pid_t app, pid_t step, int signals, uint64_t limit_ns, int *status, struct app_exit *end)
{
	uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + limit_ns, now;

	for (;;) {
		bool step_ended = false, app_ended = false;
		pid_t pid;
		int each;

		while ((pid = waitpid(-1, &each, WNOHANG)) > 0) {
			if (pid == app) {
				end->status = each;
				app_ended = true;
			} else if (pid == step) {
				*status = each;
				step_ended = true;
			}
		}
		if (app_ended || step_ended)
			return app_ended ? APP_ENDED : STEP_ENDED;
		if (pid < 0 && errno == ECHILD) { /* as in supervise() */
			end->status = SIGKILL;
			return APP_ENDED;
		}
		now = clock_ns(CLOCK_MONOTONIC);
		if (now >= deadline)
			return TIMED_OUT;
		poll(&(struct pollfd){.fd = signals, .events = POLLIN}, 1, (deadline - now) / MS + 1);
		forward_signals(app, signals, end);
	}
}

static bool describe_end(int status, const struct reason *said, struct reason *reason)
{
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return true;
	if (*said->text)
		return set_reason(reason, "%s", said->text);
	if (WIFEXITED(status))
		return set_reason(reason, "exit status %d", WEXITSTATUS(status));
	return set_reason(reason, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
}

static enum steps_end run_step(const struct step *step, pid_t app, int signals, struct app_exit *end,
			       struct reason *reason)
{
	/* Shared with the process of the step. */
	struct reason *said = mmap(NULL, sizeof *said, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	enum awaited awaited;
	bool succeeded;
	int status = 0;
	pid_t pid;

	pid = said == MAP_FAILED ? -1 : fork();
	if (!pid)
		perform(step, said);
	if (pid < 0)
		return set_reason(reason, "cannot fork: %s", strerror(errno)), STEPS_FAILED;
	setpgid(pid, pid);
	awaited = await(app, pid, signals, step->limit_ms * MS, &status, end);
	if (awaited == TIMED_OUT)
		set_reason(reason, "no end after %g s", step->limit_ms / 1000.0);
	succeeded = awaited == STEP_ENDED && describe_end(status, said, reason);
	munmap(said, sizeof *said);
	if (succeeded)
		return STEPS_DONE;
	kill(-pid, SIGKILL);
	if (awaited == STEP_ENDED)
		awaited = await(app, 0, signals, SETTLE_NS, &status, end);
	return awaited == APP_ENDED ? STEPS_APP_ENDED : STEPS_FAILED;
}

enum steps_end run_steps(const struct manifest *manifest, int signals, struct app_exit *end, struct reason *reason)
{
	for (size_t i = 0; i < manifest->step_count; i++) {
		const struct step *step = &manifest->steps[i];
		struct reason why = {""};
		enum steps_end ended;
		char text[200];

		if (step->signal) {
			kill(manifest->pid, step->signal);
			continue;
		}
		ended = run_step(step, manifest->pid, signals, end, &why);
		if (ended == STEPS_DONE && !end->stop_requested)
			continue;
		describe(step, text, sizeof text);
		set_reason(reason, "after-restore step %zu (%s) failed: %s", i + 1, text, why.text);
		return ended == STEPS_DONE ? STEPS_FAILED : ended;
	}
	return STEPS_DONE;
}

bool has_awaited_steps(const struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->step_count; i++)
		if (!manifest->steps[i].signal)
			return true;
	return false;
}

/* End the application after a failed step: a pod must not become ready then. */
void end_application(pid_t app, int signals)
{
	struct app_exit ignored = {0};
	int status;

	kill(app, SIGTERM);
	await(app, 0, signals, END_NS, &status, &ignored);
	kill_descendants();
}
