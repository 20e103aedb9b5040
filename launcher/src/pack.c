/* Pack: write everything that an image needs of a dumped application to standard output, as a tar.
 *
 * In a cluster, nobody outside the container can look into it: neither at the launcher's files, nor at what the
 * application has changed in its root file system. So the launcher writes both:
 *
 *   state/...     its own files
 *   changes/...   files and directories of the root file system whose status changed since the application was started
 *   kept/...      an empty file for each other name in a directory that has changed; a name in neither was removed
 *
 * The status change time of a file is the kernel's. Nobody can set it, and files of an image's layers have an older one.
 * The application is stopped meanwhile, and may own the directories: each name is opened once, relative to the directory
 * that lists it, and no link is followed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#define STARTED STATE "/started"
#define MAX_LEVELS 250
#define MAX_BACK_NS 1000000000ll

/* How far the clock of files is ahead of the one that is never set. */
static int64_t find_offset_ns(void)
{
	return (int64_t)(clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_BOOTTIME));
}

/* The time at which this file is made separates the changes of the application from all that was there before. */
void mark_start(void)
{
	int fd = open(STARTED, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 || dprintf(fd, "%" PRId64, find_offset_ns()) < 0)
		fail("cannot write " STARTED ": %s", strerror(errno));
	close(fd);
}

static struct timespec read_start(void)
{
	char *text = read_file(STARTED);
	struct stat status;

	if (!text || stat(STARTED, &status) < 0)
		fail("cannot read " STARTED " (written by build): %s", strerror(errno));
	if (find_offset_ns() < strtoll(text, NULL, 10) - MAX_BACK_NS)
		fail("the clock of the node was set back during the build: nobody knows which files have changed");
	return status.st_mtim;
}

static bool is_since(const struct stat *status, const struct timespec *start)
{
	const struct timespec *changed = &status->st_ctim;

	if (changed->tv_sec != start->tv_sec)
		return changed->tv_sec > start->tv_sec;
	/* Some file systems keep no more than seconds. */
	return changed->tv_nsec >= start->tv_nsec || !changed->tv_nsec;
}

struct walk {
	const char *prefix;    /* of names in the tar */
	bool has_all;	       /* otherwise without the files that the dump has kept elsewhere */
	struct timespec start; /* only files that have changed since */
};

static void pack_all(int directory, const char *path, int level, bool lists, const struct walk *walk);

static void add_kept(const char *path)
{
	char name[PATH_MAX + 16];

	snprintf(name, sizeof name, "kept/%s", path);
	tar_add_name(name);
}

/* With `lists`, the name is reported even if nothing has changed. */
static void pack_one(int directory, const char *entry, const char *path, int level, bool lists, const struct walk *walk)
{
	int fd = open_beneath(directory, entry, O_PATH | O_NOFOLLOW, NO_OTHER_MOUNTS);
	char name[PATH_MAX + 16];
	struct stat status;
	bool is_changed;

	if (fd < 0 && errno == EXDEV) {
		if (lists)
			add_kept(path);
		return;
	}
	if (fd < 0 || fstat(fd, &status) < 0)
		fail("cannot read %s: %s", path, strerror(errno));
	is_changed = is_since(&status, &walk->start);
	snprintf(name, sizeof name, "%s/%s", walk->prefix, path);
	if (is_changed)
		tar_add(fd, name, &status);
	else if (lists)
		add_kept(path);
	if (S_ISDIR(status.st_mode))
		pack_all(fd, path, level + 1, is_changed, walk);
	close(fd);
}

static void pack_all(int directory, const char *path, int level, bool lists, const struct walk *walk)
{
	int readable = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *listing = readable < 0 ? NULL : fdopendir(readable);
	char inner[PATH_MAX];
	struct dirent *entry;

	if (!listing)
		fail("cannot read %s: %s", path, strerror(errno));
	if (level > MAX_LEVELS)
		fail("directories are nested more than %d deep: %s", MAX_LEVELS, path);
	while ((entry = readdir(listing))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "/" : "", entry->d_name) >=
		    (int)sizeof inner)
			fail("the path is too long: %s", path);
		if (walk->has_all || !is_left_out(inner))
			pack_one(directory, entry->d_name, inner, level, lists, walk);
		else if (lists)
			add_kept(inner);
	}
	closedir(listing);
}

static void pack(const char *directory, const struct walk *walk)
{
	int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0)
		fail("cannot open %s: %s", directory, strerror(errno));
	pack_all(fd, "", 0, is_since(&status, &walk->start), walk);
	close(fd);
}

int pack_mode(void)
{
	char *text = read_file(STATE "/manifest");
	struct manifest manifest;
	struct reason reason;

	if (!text)
		fail("cannot read " STATE "/manifest (written by build): %s", strerror(errno));
	if (!parse_manifest(text, &manifest, &reason))
		fail("%s", reason.text);
	if (!manifest.complete)
		fail("the application is not dumped");
	if (!check_no_other_processes(manifest.pid, true, &reason))
		fail("%s", reason.text);
	pack(STATE, &(struct walk){.prefix = "state", .has_all = true});
	pack(CONTAINER, &(struct walk){.prefix = "changes", .start = read_start()});
	tar_end();
	return 0;
}

/* Print the manifest, which has the pid and the user of the application once it runs. */
int show_mode(void)
{
	char *text = read_file(STATE "/manifest");

	if (!text)
		fail("the application has not started: " STATE "/manifest: %s", strerror(errno));
	return fputs(text, stdout) < 0 || fflush(stdout) ? EXIT_FAILED : 0;
}
