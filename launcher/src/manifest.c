/* The manifest: a text file next to the checkpoint that lists the conditions for its restore.
 *
 * Each line is `KEY VALUE`; ../README.md lists the keys. The first line has the format version, and the last is `end`.
 * Without the last line, the checkpoint is incomplete. Arguments of the command are escaped, and words that may hold
 * spaces too.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

#define VERSION "1"
/* The last second of the year 9999. */
#define MAX_TIME 253402300799ull

static bool parse_numbers(char *words, struct identity *identity)
{
	uint64_t number;

	for (char *word; (word = next_word(&words));) {
		if (!parse_number(word, UINT32_MAX, &number))
			return false;
		identity->groups = grow(identity->groups, identity->group_count, sizeof *identity->groups);
		identity->groups[identity->group_count++] = number;
	}
	return true;
}

static bool parse_file(char *words, struct manifest *manifest)
{
	char *size = next_word(&words);
	struct image_file file = {.name = words};

	if (!words || !*words || !parse_number(size, INT64_MAX, &file.size_bytes))
		return false;
	manifest->files = grow(manifest->files, manifest->file_count, sizeof *manifest->files);
	manifest->files[manifest->file_count++] = file;
	return true;
}

static bool parse_listener(char *words, struct manifest *manifest)
{
	char *network = next_word(&words), *port = next_word(&words), *backlog = next_word(&words);
	struct listener listener = {.family = AF_INET6, .fd = -1};
	uint64_t port_number, length;

	if (!words || !parse_number(port, MAX_PORT, &port_number) || !parse_number(backlog, INT32_MAX, &length) ||
	    !parse_number(words, UINT64_MAX, &listener.inode))
		return false;
	if (!strcmp(network, "tcp4"))
		listener.family = AF_INET;
	else if (!strcmp(network, "tcp6"))
		listener.v6_only = true;
	else if (strcmp(network, "tcp46"))
		return false;
	listener.port = port_number;
	listener.backlog = length;
	manifest->listeners = grow(manifest->listeners, manifest->listener_count, sizeof *manifest->listeners);
	manifest->listeners[manifest->listener_count++] = listener;
	return true;
}

static void add_text(const char ***texts, size_t *count, const char *text)
{
	*texts = grow(*texts, *count, sizeof **texts);
	(*texts)[(*count)++] = text;
}

static bool parse_cpu(char *words, struct manifest *manifest)
{
	for (char *name; (name = next_word(&words));)
		add_text(&manifest->cpu, &manifest->cpu_count, name);
	return true;
}

static bool parse_frozen(char *words, struct manifest *manifest)
{
	char *digest = next_word(&words);
	struct frozen frozen = {.name = words};

	if (!parse_hex(digest, frozen.digest, sizeof frozen.digest) || !unescape(words) || !*words)
		return false;
	manifest->frozen = grow(manifest->frozen, manifest->frozen_count, sizeof *manifest->frozen);
	manifest->frozen[manifest->frozen_count++] = frozen;
	return true;
}

static bool parse_steps(char *words, struct manifest *manifest)
{
	struct step step;

	if (!parse_step(words, &step))
		return free(step.words), false;
	manifest->steps = grow(manifest->steps, manifest->step_count, sizeof *manifest->steps);
	manifest->steps[manifest->step_count++] = step;
	return true;
}

static bool parse_hooks(char *words, struct manifest *manifest)
{
	uint64_t number;

	if (!parse_number(next_word(&words), UINT32_MAX, &manifest->hooks_limit_ms))
		return false;
	for (char *word; (word = next_word(&words));) {
		if (!parse_number(word, MAX_PID, &number) || !number)
			return false;
		manifest->hooks = grow(manifest->hooks, manifest->hook_count, sizeof *manifest->hooks);
		manifest->hooks[manifest->hook_count++] = (struct hook){.pid = number};
	}
	return true;
}

static bool parse_locked(char *path, struct manifest *manifest)
{
	if (!unescape(path) || *path != '/')
		return false;
	manifest->locked = grow(manifest->locked, manifest->locked_count, sizeof *manifest->locked);
	manifest->locked[manifest->locked_count++] = (struct locked){.path = path, .fd = -1};
	return true;
}

static bool parse_word(char *word, const char ***words, size_t *count)
{
	return unescape(word) && *word && (add_text(words, count, word), true);
}

/* Set `known` if the key is one of those with several words, or of a list. */
static bool parse_words(const char *key, char *value, struct manifest *m, bool *known)
{
	*known = true;
	if (!strcmp(key, "argument"))
		return add_text(&m->arguments, &m->argument_count, value), true;
	if (!strcmp(key, "cpu"))
		return parse_cpu(value, m);
	if (!strcmp(key, "groups"))
		return parse_numbers(value, &m->identity);
	if (!strcmp(key, "file"))
		return parse_file(value, m);
	if (!strcmp(key, "listen"))
		return parse_listener(value, m);
	if (!strcmp(key, "frozen"))
		return parse_frozen(value, m);
	if (!strcmp(key, "late"))
		return parse_word(value, &m->late, &m->late_count);
	if (!strcmp(key, "volume"))
		return parse_word(value, &m->volumes, &m->volume_count);
	if (!strcmp(key, "locked"))
		return parse_locked(value, m);
	if (!strcmp(key, "hooks"))
		return parse_hooks(value, m);
	if (!strcmp(key, "step"))
		return parse_steps(value, m);
	if (!strcmp(key, "salt"))
		return parse_hex(value, m->salt, sizeof m->salt);
	if (!strcmp(key, "difference"))
		return !strcmp(value, "cold") || (!strcmp(value, "warn") && (m->warns = true));
	return *known = false;
}

static bool parse_line(const char *key, char *value, struct manifest *m)
{
	uint64_t number = 0;
	bool is_number = parse_number(value, UINT64_MAX, &number), is_id = is_number && number <= UINT32_MAX, known;
	bool is_valid = parse_words(key, value, m, &known);

	if (known)
		return is_valid;
	if (!strcmp(key, "user"))
		return is_id && (m->identity.user = number, true);
	if (!strcmp(key, "group"))
		return is_id && (m->identity.group = number, true);
	if (!strcmp(key, "capabilities"))
		return is_number && (m->capabilities = number, true);
	if (!strcmp(key, "needs"))
		return is_number && (m->needs = number, true);
	if (!strcmp(key, "pid"))
		return is_number && number && number <= MAX_PID && (m->pid = number, true);
	if (!strcmp(key, "stdout"))
		return is_number && (m->stdout_inode = number, true);
	if (!strcmp(key, "stderr"))
		return is_number && (m->stderr_inode = number, true);
	if (!strcmp(key, "monotonic"))
		return is_number && (m->monotonic_ns = number, true);
	if (!strcmp(key, "expires"))
		return is_number && number <= MAX_TIME && (m->expires_s = number, true);
	if (!strcmp(key, "boottime"))
		return is_number && (m->boottime_ns = number, true);
	return !strcmp(key, "end") && (m->complete = true);
}

bool parse_manifest(char *text, struct manifest *manifest, struct reason *reason)
{
	char *line = next_line(&text);

	*manifest = (struct manifest){0};
	if (!line || strcmp(line, "warmstart " VERSION))
		return set_reason(reason, "this launcher does not support the manifest's format");
	for (int number = 2; (line = next_line(&text)); number++) {
		char *rest = line, *key = next_word(&rest);
		if (manifest->complete || !key || !parse_line(key, rest, manifest))
			return set_reason(reason, "line %d of the manifest is invalid", number);
	}
	if (!manifest->pid || !manifest->argument_count)
		return set_reason(reason, "the manifest has no pid or no command");
	return true;
}

void write_command(int fd, char **command, const struct identity *identity, uint64_t capabilities, pid_t pid, uint64_t out,
		   uint64_t err)
{
	dprintf(fd, "warmstart " VERSION "\n");
	for (; *command; command++)
		dprintf(fd, "argument %s\n", escape(*command));
	dprintf(fd, "user %u\ngroup %u\ngroups", identity->user, identity->group);
	for (size_t i = 0; i < identity->group_count; i++)
		dprintf(fd, " %u", identity->groups[i]);
	dprintf(fd, "\ncapabilities %ju\npid %d\nstdout %ju\nstderr %ju\n", (uintmax_t)capabilities, pid, (uintmax_t)out,
		(uintmax_t)err);
}

void write_volumes(int fd, const char **volumes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		dprintf(fd, "volume %s\n", escape_word(volumes[i]));
}

static bool write_sizes(int fd, const char *directory, struct reason *reason)
{
	struct dirent *entry;
	struct stat status;
	DIR *listing = opendir(directory);

	if (!listing)
		return set_reason(reason, "%s: %s", directory, strerror(errno));
	while ((entry = readdir(listing))) {
		if (fstatat(dirfd(listing), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
			return set_reason(reason, "%s/%s: %s", directory, entry->d_name, strerror(errno));
		if (S_ISREG(status.st_mode))
			dprintf(fd, "file %jd %s\n", (intmax_t)status.st_size, entry->d_name);
	}
	closedir(listing);
	return true;
}

bool write_checkpoint(int fd, const char *directory, uint64_t monotonic_ns, uint64_t boottime_ns,
		      struct reason *reason)
{
	if (!write_sizes(fd, directory, reason))
		return false;
	dprintf(fd, "cpu");
	for (size_t i = 0; cpu_feature_names[i]; i++)
		if (cpu_has(i))
			dprintf(fd, " %s", cpu_feature_names[i]);
	dprintf(fd, "\nmonotonic %ju\nboottime %ju\n", (uintmax_t)monotonic_ns, (uintmax_t)boottime_ns);
	if (dprintf(fd, "end\n") < 0)
		return set_reason(reason, "cannot write the manifest: %s", strerror(errno));
	return true;
}
