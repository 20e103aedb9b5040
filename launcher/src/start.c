/* Start: restore the application, or start it cold. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#define MS 1000000ull
/* If the application fails this soon after the restore, assume that the restore is the cause. */
#define CRASH_NS (5000 * MS)

static uint64_t start_ns;

static unsigned elapsed_ms(void)
{
	return (clock_ns(CLOCK_MONOTONIC) - start_ns) / MS;
}

static bool is_enabled(struct reason *reason)
{
	const char *setting = getenv("WARMSTART");

	if (setting && !strcmp(setting, "off"))
		return set_reason(reason, "WARMSTART is off");
	return true;
}

static bool has_checkpoint(struct manifest *manifest, struct reason *reason)
{
	char *text = read_file(MANIFEST);

	if (!text)
		return set_reason(reason, errno == ENOENT ? "no checkpoint" : "cannot read " MANIFEST ": %s",
				  strerror(errno));
	if (!parse_manifest(text, manifest, reason))
		return false;
	if (!manifest->complete)
		return set_reason(reason, "the checkpoint is incomplete");
	return true;
}

/* The clock of the node counts, as for certificates. */
static bool is_fresh(const struct manifest *manifest, struct reason *reason)
{
	time_t expires_s = manifest->expires_s;
	char moment[sizeof "9999-12-31T23:59:59Z"];

	if (!expires_s || time(NULL) < expires_s)
		return true;
	strftime(moment, sizeof moment, "%FT%TZ", gmtime(&expires_s));
	return set_reason(reason, "the image expired at %s: it is older than its maxAge", moment);
}

static bool is_same_command(const struct manifest *manifest, char **command, struct reason *reason)
{
	size_t i = 0;

	while (command[i] && i < manifest->argument_count && !strcmp(escape(command[i]), manifest->arguments[i]))
		i++;
	if (command[i] || i < manifest->argument_count)
		return set_reason(reason, "the command differs from the checkpoint's");
	return true;
}

static bool is_same_identity(const struct manifest *manifest, struct reason *reason)
{
	struct identity own;

	current_identity(&own);
	if (own.user != manifest->identity.user)
		return set_reason(reason, "uid is %u, the checkpoint was made as %u", own.user, manifest->identity.user);
	if (own.group != manifest->identity.group)
		return set_reason(reason, "gid is %u, the checkpoint was made as %u", own.group, manifest->identity.group);
	if (!same_groups(&own, &manifest->identity))
		return set_reason(reason, "the supplementary groups differ from the checkpoint's");
	return true;
}

/* If processes of several users are to be restored, the launcher must be able to become them, and to signal them. */
static bool has_capabilities(const struct manifest *manifest, struct reason *reason)
{
	uint64_t missing = manifest->needs & ~own_capabilities();

	if (missing)
		return set_reason(reason, "the container lacks capabilities that the restore needs: %s",
				  name_capabilities(missing));
	return true;
}

static bool has_files(const struct manifest *manifest, struct reason *reason)
{
	int directory = open(CHECKPOINT, O_PATH | O_DIRECTORY | O_CLOEXEC);

	for (size_t i = 0; i < manifest->file_count; i++) {
		const struct image_file *file = &manifest->files[i];
		struct stat status;

		if (fstatat(directory, file->name, &status, 0) < 0)
			return set_reason(reason, "%s of the checkpoint: %s", file->name, strerror(errno));
		if ((uint64_t)status.st_size != file->size_bytes)
			return set_reason(reason, "%s of the checkpoint has %jd bytes instead of %ju", file->name,
					  (intmax_t)status.st_size, (uintmax_t)file->size_bytes);
	}
	close(directory);
	return true;
}

static bool has_cpu(const struct manifest *manifest, struct reason *reason)
{
	for (size_t i = 0; i < manifest->cpu_count; i++) {
		size_t feature = cpu_feature(manifest->cpu[i]);

		if (!cpu_feature_names[feature] || !cpu_has(feature))
			return set_reason(reason, "this processor has no %s, the checkpoint's had", manifest->cpu[i]);
	}
	return true;
}

uint64_t memory_limit(void)
{
	char *text = read_file("/sys/fs/cgroup/memory.max"), *end;
	uint64_t limit;

	if (!text)
		text = read_file("/sys/fs/cgroup/memory/memory.limit_in_bytes"); /* cgroup v1 */
	if (!text)
		return UINT64_MAX;
	limit = strtoull(text, &end, 10);
	return end == text ? UINT64_MAX : limit; /* "max" */
}

/* If the kernel kills the whole container when it runs out of memory (memory.oom.group), a restore that needs too much
 * would be retried forever. Memory mapped from the image counts only once it has changed. */
static bool has_memory(const struct manifest *manifest, struct reason *reason)
{
	uint64_t needed = 0, limit = memory_limit();

	for (size_t i = 0; i < manifest->file_count; i++)
		if (!strncmp(manifest->files[i].name, "pages-", strlen("pages-")))
			needed += manifest->files[i].size_bytes;
	if (limit < needed)
		return set_reason(reason, "the memory limit is %ju bytes, the checkpoint has %ju", (uintmax_t)limit,
				  (uintmax_t)needed);
	return true;
}

/* With a difference that the recipe allows, `warning` has it. */
static bool has_same_variables(const struct manifest *manifest, struct reason *reason, struct reason *warning)
{
	*warning->text = 0;
	if (same_variables(manifest, environ, reason))
		return true;
	if (!warns_of_variables(manifest))
		return false;
	*warning = *reason;
	return true;
}

/* Cheap checks come first. */
static bool may_restore(struct manifest *manifest, char **command, struct reason *reason, struct reason *warning)
{
	return is_enabled(reason) && has_checkpoint(manifest, reason) && is_fresh(manifest, reason) &&
	       is_same_command(manifest, command, reason) &&
	       is_same_identity(manifest, reason) && has_capabilities(manifest, reason) && has_files(manifest, reason) &&
	       has_memory(manifest, reason) &&
	       has_cpu(manifest, reason) && has_same_variables(manifest, reason, warning);
}

static _Noreturn void start_cold(char **command, const struct reason *reason)
{
	remove_files();
	remove_leftovers();
	say("cold start: %s (%u ms)", reason->text, elapsed_ms());
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	unblock_signals();
	add_hooks_to_environment();
	execvp(*command, command);
	say("%s: %s", *command, strerror(errno));
	exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

static bool is_crash(struct app_exit end, uint64_t restored_ns)
{
	bool well = WIFEXITED(end.status) && !WEXITSTATUS(end.status);

	return !well && !end.stop_requested && is_within(restored_ns, clock_ns(CLOCK_MONOTONIC), CRASH_NS);
}

static void describe_crash(int status, struct reason *reason)
{
	if (WIFEXITED(status))
		set_reason(reason, "the restored application exited with status %d right after the restore", WEXITSTATUS(status));
	else
		set_reason(reason, "the restored application was killed by signal %d (%s) right after the restore", WTERMSIG(status),
			   strsignal(WTERMSIG(status)));
}

static _Noreturn void end_after_failure(struct manifest *manifest, int signals, const struct reason *reason, unsigned restored_ms)
{
	say("restored in %u ms, but %s", restored_ms, reason->text);
	end_application(manifest->pid, signals);
	exit(EXIT_FAILED);
}

/* With the hooks of the application done, do the steps after the restore, and log all. Return whether the application has ended. If it is being stopped, it
 * does not matter whether all steps are done. */
static bool complete(struct manifest *manifest, int signals, unsigned restored_ms, const struct reason *warning,
		     struct app_exit *end)
{
	unsigned hooks_ms = elapsed_ms() - restored_ms;
	char hooks[40] = "";
	struct reason reason;
	enum steps_end ended = run_steps(manifest, signals, end, &reason);

	if (manifest->hook_count)
		snprintf(hooks, sizeof hooks, ", hooks in %u ms", hooks_ms);
	if (ended == STEPS_FAILED && !end->stop_requested)
		end_after_failure(manifest, signals, &reason, restored_ms);
	if (ended == STEPS_DONE && has_awaited_steps(manifest))
		say("restored in %u ms%s, after-restore steps in %u ms", restored_ms, hooks,
		    elapsed_ms() - restored_ms - hooks_ms);
	else
		say("restored in %u ms%s", restored_ms, hooks);
	if (*warning->text)
		say("warning: %s, and the restored application does not see it", warning->text);
	tell_new_variables(manifest, environ);
	stop_listening(manifest);
	return ended == STEPS_APP_ENDED;
}

/* After hooks that failed, nobody has been served yet: the application can still start cold. */
static _Noreturn void give_up(struct manifest *manifest, char **command, const struct app_exit *end,
			      const struct reason *reason)
{
	kill_descendants();
	stop_listening(manifest);
	if (end->stop_requested)
		exit(EXIT_FAILED);
	start_cold(command, reason);
}

int start_mode(enum clocks clocks, char **command)
{
	uint64_t restored_ns;
	unsigned restored_ms;
	bool restored;
	struct manifest manifest;
	struct reason reason, warning;
	struct app_exit end = {0};
	enum steps_end hooks;
	int signals, replies;

	start_ns = clock_ns(CLOCK_MONOTONIC);
	signals = block_signals();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (!may_restore(&manifest, command, &reason, &warning))
		start_cold(command, &reason);
	/* With the node's clocks, a runtime takes a checkpoint next, and does the steps after its own restores. */
	if (clocks == CLOCKS_OF_NODE)
		manifest.step_count = manifest.hook_count = 0;
	if (!open_replies(&manifest, &replies, &reason))
		start_cold(command, &reason);
	/* A runtime is to take a checkpoint of the application alone. */
	if (clocks == CLOCKS_OF_CHECKPOINT)
		read_ahead(&manifest);
	listen_early(&manifest, manifest.hook_count || has_awaited_steps(&manifest));
	put_back_files();
	unlock_files(&manifest);
	/* Keep this container's environment out of a runtime's checkpoint. */
	manifest.environment = clocks == CLOCKS_OF_NODE ? empty_environment() : environment_file(environ);
	restored = restore(&manifest, clocks, signals, &reason);
	lock_files(&manifest);
	if (!restored) {
		stop_listening(&manifest);
		start_cold(command, &reason);
	}

	restored_ns = clock_ns(CLOCK_MONOTONIC);
	restored_ms = elapsed_ms();
	hooks = await_hooks(&manifest, replies, signals, &end, &reason);
	close(replies);
	if (hooks == STEPS_FAILED)
		give_up(&manifest, command, &end, &reason);
	if (hooks == STEPS_APP_ENDED)
		stop_listening(&manifest);
	else if (!complete(&manifest, signals, restored_ms, &warning, &end)) {
		bool stop_requested = end.stop_requested;

		end = supervise(manifest.pid, signals, NULL, 0);
		end.stop_requested |= stop_requested;
	}
	if (is_crash(end, restored_ns)) {
		kill_descendants();
		describe_crash(end.status, &reason);
		start_cold(command, &reason);
	}
	return exit_like(end.status);
}
