/* The hooks of runtimes: agents inside the application that call its callbacks before a checkpoint and after a restore.
 *
 * They answer with JSON lines on a FIFO of the image; docs/hooks.md has the protocol. The build speaks with them before
 * the checkpoint. After a restore they begin by themselves, and the launcher waits until each process has answered.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#define MS 1000000ull
#define REPLY HOOKS "/reply"
/* An agent ends its process at its own limit. The launcher gives it that much longer. */
#define GRACE_NS (5000 * MS)

/* Nobody has to read or write for it to open. */
static int open_fifo(int fd)
{
	struct stat status;

	if (fd >= 0 && (fstat(fd, &status) < 0 || !S_ISFIFO(status.st_mode))) {
		close(fd);
		fd = -1;
		errno = EINVAL;
	}
	return fd;
}

/* A FIFO of the hooks, from the launcher's mount namespace. The container may have replaced it. */
int open_fifo_of_container(const char *path)
{
	return open_fifo(open_beneath(AT_FDCWD, path, O_RDWR | O_NONBLOCK, NO_LINKS));
}

/* Without an open descriptor, a line written before the build reads the FIFO would be lost. */
void keep_replies(void)
{
	open_fifo_of_container(CONTAINER REPLY);
}

bool open_replies(const struct manifest *manifest, int *replies, struct reason *reason)
{
	*replies = -1;
	if (!manifest->hook_count)
		return true;
	*replies = open_fifo(open(REPLY, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
	return *replies >= 0 || set_reason(reason, "cannot open " REPLY ": %s", strerror(errno));
}

static void extend(const char *name, const char *format, const char *own)
{
	const char *value = getenv(name);
	char *longer;

	if (!value || !*value)
		setenv(name, own, 1);
	else if (!strstr(value, own) && asprintf(&longer, format, value, own) >= 0)
		setenv(name, longer, 1);
}

static bool is_readable(const char *path)
{
	return !access(path, R_OK);
}

/* The classes and modules of the agents are there in a cold start too, as they were in the build. An agent of a JVM slows
 * its start down, and only a call of org.crac's checkpointRestore() misses its classes; the build has left a mark then. */
void add_hooks_to_environment(void)
{
	bool has_java = is_readable(HOOKS "/java-asks"), has_python = is_readable(HOOKS "/python"),
	     has_node = is_readable(HOOKS "/node/hooks.cjs");

	if (has_java)
		extend("JAVA_TOOL_OPTIONS", "%s %s",
		       "-Xbootclasspath/a:" HOOKS "/agent.jar -Dorg.crac.Core.Compat=warmstart.crac");
	if (has_python)
		extend("PYTHONPATH", "%2$s:%1$s", HOOKS "/python");
	if (has_node)
		extend("NODE_OPTIONS", "%s %s", "--require " HOOKS "/node/hooks.cjs");
	if (has_java || has_python || has_node || is_readable(REPLY))
		setenv("WARMSTART_HOOKS", HOOKS, 1);
}

static char *skip_spaces(char *text)
{
	return text + strspn(text, " \t\r");
}

static char *put_character(char *to, unsigned code)
{
	if (code < 0x80) {
		*to++ = code;
	} else if (code < 0x800) {
		*to++ = 0xc0 | code >> 6;
		*to++ = 0x80 | (code & 0x3f);
	} else {
		*to++ = 0xe0 | code >> 12;
		*to++ = 0x80 | (code >> 6 & 0x3f);
		*to++ = 0x80 | (code & 0x3f);
	}
	return to;
}

/* An escape in a string, after the backslash. Surrogates stay as they are: the text is for a log. */
static bool parse_escape(char **from, char **to)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	const char *name = strchr(names, **from);
	unsigned char code[2];
	char digits[5] = "";

	if (!**from)
		return false;
	if (name) {
		*(*to)++ = values[name - names];
		++*from;
		return true;
	}
	strncpy(digits, *from + 1, 4);
	if (**from != 'u' || strlen(digits) < 4 || !parse_hex(digits, code, 2) || !(code[0] | code[1]))
		return false;
	*to = put_character(*to, code[0] << 8 | code[1]);
	*from += 5;
	return true;
}

/* A string, in place. Set `rest` to what follows its end. */
static char *parse_string(char *text, char **rest)
{
	char *from = text + 1, *to = text;

	if (*text != '"')
		return NULL;
	while (*from && *from != '"')
		if (*from != '\\')
			*to++ = *from++;
		else if (++from, !parse_escape(&from, &to))
			return NULL;
	if (!*from)
		return NULL;
	*rest = from + 1;
	*to = 0;
	return text;
}

/* A number, true, false or null: cut off behind it. */
static char *parse_plain(char *text, char **rest, char *after)
{
	size_t length = strspn(text, "+-.0123456789abcdefghijklmnopqrstuvwxyzE");

	*rest = text + length;
	*after = **rest;
	**rest = 0;
	return length ? text : NULL;
}

static bool take_field(const char *key, char *value, struct reply *reply)
{
	uint64_t number;

	if (!strcmp(key, "pid")) {
		if (!parse_number(value, MAX_PID, &number) || !number)
			return false;
		reply->pid = number;
	} else if (!strcmp(key, "event")) {
		reply->event = value;
	} else if (!strcmp(key, "error")) {
		reply->error = value;
	}
	return true;
}

/* A line of an agent: an object of strings and numbers. */
bool parse_reply(char *line, struct reply *reply)
{
	char *at = skip_spaces(line);

	*reply = (struct reply){.event = "", .error = ""};
	if (*at != '{')
		return false;
	do {
		char after = 0, *value, *key = parse_string(skip_spaces(at + 1), &at);

		if (!key || *(at = skip_spaces(at)) != ':')
			return false;
		at = skip_spaces(at + 1);
		value = *at == '"' ? parse_string(at, &at) : parse_plain(at, &at, &after);
		if (!value || !take_field(key, value, reply))
			return false;
		if (after)
			*at = after;
		at = skip_spaces(at);
	} while (*at == ',');
	return *at == '}' && !*skip_spaces(at + 1) && reply->pid && *reply->event;
}

static bool take_line(struct manifest *manifest, char *line, struct reason *reason)
{
	struct reply reply;

	if (!parse_reply(line, &reply))
		return true;
	if (!strcmp(reply.event, "failed"))
		return set_reason(reason, "after-restore hook of process %d failed: %s", reply.pid, escape(reply.error));
	for (size_t i = 0; i < manifest->hook_count; i++)
		if (manifest->hooks[i].pid == reply.pid)
			manifest->hooks[i].is_done |= !strcmp(reply.event, "restored");
	return true;
}

/* Each line is written at once. One that does not fit is dropped. */
static bool read_lines(struct manifest *manifest, int replies, struct reason *reason)
{
	static char text[2 * 4096 + 1];
	static size_t length;
	ssize_t got;

	while ((got = read(replies, text + length, sizeof text - 1 - length)) > 0) {
		char *rest = text, *end;

		length += got;
		text[length] = 0;
		while ((end = strchr(rest, '\n'))) {
			*end = 0;
			if (!take_line(manifest, rest, reason))
				return false;
			rest = end + 1;
		}
		length = rest == text && length == sizeof text - 1 ? 0 : strlen(rest);
		memmove(text, rest, length);
	}
	return true;
}

/* The process without an answer, or 0. Those that have ended need not answer. */
static pid_t find_silent(const struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->hook_count; i++)
		if (!manifest->hooks[i].is_done && (!kill(manifest->hooks[i].pid, 0) || errno != ESRCH))
			return manifest->hooks[i].pid;
	return 0;
}

/* Wait until each process has done its hooks after the restore. */
enum steps_end await_hooks(struct manifest *manifest, int replies, int signals, struct app_exit *end,
			   struct reason *reason)
{
	uint64_t began = clock_ns(CLOCK_MONOTONIC), limit = manifest->hooks_limit_ms * MS + GRACE_NS, now;
	struct pollfd polled[] = {{.fd = signals, .events = POLLIN}, {.fd = replies, .events = POLLIN}};
	pid_t silent;

	while (manifest->hook_count) {
		bool has_ended = reap(manifest->pid, &end->status);

		if (!read_lines(manifest, replies, reason))
			return STEPS_FAILED;
		if (has_ended)
			return STEPS_APP_ENDED;
		silent = find_silent(manifest);
		if (!silent)
			break;
		now = clock_ns(CLOCK_MONOTONIC);
		if (now - began >= limit)
			return set_reason(reason, "the after-restore hooks of process %d did not end within %g s", silent,
					  limit / 1e9),
			       STEPS_FAILED;
		/* A process may end without an answer. */
		poll(polled, 2, 100);
		forward_signals(manifest->pid, signals, end);
	}
	return STEPS_DONE;
}
