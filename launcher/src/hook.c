/* The mode `steps`: the steps after a restore by a runtime, as the postStart hook of a pod. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#define MS 1000000ull

/* The beginning of the command line of PID 1, with a NUL after each word. A launcher that has restored the application
 * itself has no option there, and after a cold start PID 1 is the application. Only the launcher in a runtime's
 * checkpoint was started with the node's clocks. */
static const char launcher_of_checkpoint[] = WARMSTART_DIR "/launcher\0start\0--clocks\0node\0--";

static bool is_restored_by_runtime(void)
{
	char words[sizeof launcher_of_checkpoint] = "";
	int fd = open("/proc/1/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t got = read(fd, words, sizeof words);

	close(fd);
	return got == sizeof words && !memcmp(words, launcher_of_checkpoint, sizeof words);
}

static void read_manifest(struct manifest *manifest)
{
	char *text = read_file(MANIFEST);
	struct reason reason;

	if (!text)
		fail("cannot read " MANIFEST ": %s", strerror(errno));
	if (!parse_manifest(text, manifest, &reason))
		fail("%s", reason.text);
}

/* Do the steps if nobody else does. A runtime runs the hook after its restore. */
int steps_mode(void)
{
	uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
	struct app_exit unused = {0};
	struct manifest manifest;
	struct reason reason;

	if (!is_restored_by_runtime())
		return 0;
	read_manifest(&manifest);
	/* The application is another process's child, so its end is not noticed here. */
	if (run_steps(&manifest, block_child_signal(), &unused, &reason) != STEPS_DONE)
		fail("%s", reason.text);
	say("after-restore steps in %u ms", (unsigned)((clock_ns(CLOCK_MONOTONIC) - start_ns) / MS));
	return 0;
}
