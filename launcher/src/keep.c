/* Copy the application's temporary files for the restore: see seed.c.
 *
 * The launcher is root here, and the directories belong to the application. So each name is opened once, relative to
 * the directory that lists it, and links are never followed. The application is stopped meanwhile.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "launcher.h"

#define MAX_BYTES (256ll << 20)
#define MAX_LEVELS 100
enum { CHOWN = 0 }; /* a capability */

static const struct identity *owner;
static bool keeps_all; /* files of all owners: root may give them back */
static off_t kept_bytes;

static bool is_owned(const struct stat *status)
{
	return keeps_all || status->st_uid == owner->user;
}

static void copy_owner(int to, const char *name, const struct stat *status)
{
	if (fchownat(to, name, status->st_uid, status->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		fail("%s: cannot keep the owner (needs CAP_CHOWN): %s", name, strerror(errno));
}

static void keep_file(int from, int to, const char *name, const char *path)
{
	int source = open_beneath(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, NO_LINKS | NO_OTHER_MOUNTS), target;
	struct stat status;

	if (source < 0 && errno == EXDEV)
		return;
	if (source < 0 || fstat(source, &status) < 0 || !S_ISREG(status.st_mode))
		fail("cannot read %s/%s: %s", path, name, source < 0 ? strerror(errno) : "no longer a file");
	target = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (target < 0 && errno == EEXIST) { /* kept already, by another path of the same mount */
		close(source);
		return;
	}
	kept_bytes += status.st_size;
	if (kept_bytes > MAX_BYTES)
		fail("temporary files of the application exceed %lld MB: %s/%s", MAX_BYTES >> 20,
		     path, name);
	for (off_t left = status.st_size; left > 0;) {
		ssize_t sent = sendfile(target, source, NULL, left);
		if (sent <= 0)
			fail("cannot keep %s/%s: %s", path, name, sent ? strerror(errno) : "the file has shrunk");
		left -= sent;
	}
	if (target < 0 || fchmod(target, status.st_mode & 07777) < 0)
		fail("cannot keep %s/%s: %s", path, name, strerror(errno));
	close(source);
	close(target);
	copy_owner(to, name, &status);
}

static void keep_link(int from, int to, const char *name, const struct stat *status)
{
	char target[4096];
	ssize_t length = readlinkat(from, name, target, sizeof target - 1);

	if (length < 0)
		return;
	target[length] = 0;
	if (!symlinkat(target, to, name))
		copy_owner(to, name, status);
}

/* Its content is in the dump. */
static void keep_fifo(int to, const char *name, const struct stat *status)
{
	if (mkfifoat(to, name, 0600) < 0) {
		if (errno == EEXIST) /* kept already, by another path of the same mount */
			return;
		fail("cannot keep the FIFO %s: %s", name, strerror(errno));
	}
	if (fchmodat(to, name, status->st_mode & 07777, 0) < 0)
		fail("cannot keep the FIFO %s: %s", name, strerror(errno));
	copy_owner(to, name, status);
}

static void keep_all(int from, int to, const char *path, int level);

/* Keep a directory if the application owns it or something in it is kept. Only at level 0 may it be a mount point. */
static void keep_directory(int from, int to, const char *name, const char *path, int level)
{
	int source = open_beneath(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
				  NO_LINKS | (level ? NO_OTHER_MOUNTS : 0)),
	    target;
	char inner[4096];
	struct stat status;

	if (source < 0 && errno == EXDEV)
		return;
	snprintf(inner, sizeof inner, "%s/%s", path, name);
	if (level > MAX_LEVELS)
		fail("directories of the application are nested more than %d deep: %s", MAX_LEVELS, inner);
	if (source < 0 || fstat(source, &status) < 0)
		fail("cannot read %s: %s", inner, strerror(errno));
	if (mkdirat(to, name, 0700) < 0 && errno != EEXIST)
		fail("cannot keep %s: %s", inner, strerror(errno));
	target = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0 || fchmod(target, status.st_mode & 07777) < 0)
		fail("cannot keep %s: %s", inner, strerror(errno));
	keep_all(source, target, inner, level);
	close(target);
	copy_owner(to, name, &status);
	if (!is_owned(&status))
		unlinkat(to, name, AT_REMOVEDIR);
}

/* Mounts are handled separately, or hold secrets and configuration, even if they are of the same file system. */
static void keep_one(int from, int to, const char *name, const char *path, int level)
{
	struct stat status;

	if (fstatat(from, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	if (S_ISDIR(status.st_mode))
		keep_directory(from, to, name, path, level + 1);
	else if (!is_owned(&status))
		return;
	else if (S_ISREG(status.st_mode))
		keep_file(from, to, name, path);
	else if (S_ISLNK(status.st_mode))
		keep_link(from, to, name, &status);
	else if (S_ISFIFO(status.st_mode))
		keep_fifo(to, name, &status);
}

/* Closes `from`. */
static void keep_all(int from, int to, const char *path, int level)
{
	DIR *listing = fdopendir(from);
	struct dirent *entry;

	if (!listing)
		fail("cannot read %s: %s", path, strerror(errno));
	while ((entry = readdir(listing)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			keep_one(from, to, entry->d_name, path, level);
	closedir(listing);
}

/* Keep the directory at the relative path `rest`. Keep its parents only if it is kept. Modifies `rest`. */
static void keep_path(int from, int to, const char *path, char *rest)
{
	char *name = strsep(&rest, "/"), inner[4096];
	int source, target;
	bool is_new;

	if (!rest) {
		keep_directory(from, to, name, path, 0);
		return;
	}
	snprintf(inner, sizeof inner, "%s/%s", path, name);
	is_new = !mkdirat(to, name, 0755);
	source = openat(from, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	target = openat(to, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (source < 0 || target < 0)
		fail("cannot keep %s: %s", inner, strerror(errno));
	keep_path(source, target, inner, rest);
	close(source);
	close(target);
	if (is_new)
		unlinkat(to, name, AT_REMOVEDIR);
}

/* Read-only mounts hold secrets and configuration, not the application's files. */
static bool is_writable(int container, const char *path)
{
	int fd = open_beneath(container, path, O_RDONLY | O_DIRECTORY, NO_LINKS);
	struct statvfs system;
	bool writable = fd >= 0 && !fstatvfs(fd, &system) && !(system.f_flag & ST_RDONLY);

	close(fd);
	return writable;
}

static void keep_if_writable(int container, int seed, const char *path)
{
	char *own = strdup(path);

	if (!own)
		fail("out of memory");
	if (is_writable(container, own))
		keep_path(container, seed, "", own);
	free(own);
}

/* Parse a line of /proc/self/mountinfo, see proc_pid_mountinfo(5):
 * "36 35 98:0 /root /mount/point options [optional fields] - type source options". Modifies the line. */
const char *parse_tmpfs(char *line)
{
	char *word = NULL, *mount_point = NULL;

	for (int i = 0; i < 5; i++)
		mount_point = next_word(&line);
	do
		word = next_word(&line);
	while (word && strcmp(word, "-"));
	word = next_word(&line);
	return mount_point && word && !strcmp(word, "tmpfs") ? mount_point : NULL;
}

/* Kept whether they are mount points or not. */
static const char *const directories[] = {"tmp", "var/tmp", "run"};

static bool is_kept_always(const char *path)
{
	for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
		if (!strcmp(path, directories[i]))
			return true;
	return false;
}

/* Whether a directory is not part of the changes to the root file system. */
bool is_left_out(const char *path)
{
	return is_kept_always(path) || !strcmp(path, ".warmstart");
}

static bool is_other_mount(const char *path)
{
	return !is_kept_always(path) && strcmp(path, "dev") && strncmp(path, "proc", 4) && strncmp(path, "sys", 3);
}

static bool is_volume(const struct manifest *manifest, const char *path)
{
	for (size_t i = 0; i < manifest->volume_count; i++)
		if (!strcmp(path, manifest->volumes[i] + 1))
			return true;
	return false;
}

void keep_files(const struct manifest *manifest)
{
	int container = open(CONTAINER, O_PATH | O_DIRECTORY | O_CLOEXEC), seed;
	char *mounts = read_file("/proc/self/mountinfo");

	owner = &manifest->identity;
	keeps_all = !owner->user && manifest->capabilities & 1 << CHOWN;
	if (mkdir(STATE "/seed", 0755) < 0)
		fail("cannot make " STATE "/seed: %s", strerror(errno));
	seed = open(STATE "/seed", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
		keep_if_writable(container, seed, directories[i]);
	for (size_t i = 0; i < manifest->volume_count; i++)
		if (!is_kept_always(manifest->volumes[i] + 1))
			keep_if_writable(container, seed, manifest->volumes[i] + 1);
	for (char *line; (line = next_line(&mounts));) {
		const char *path = parse_tmpfs(line);

		if (path && !strncmp(path, CONTAINER "/", strlen(CONTAINER "/")) &&
		    is_other_mount(path + strlen(CONTAINER "/")) &&
		    !is_volume(manifest, path + strlen(CONTAINER "/")))
			keep_if_writable(container, seed, path + strlen(CONTAINER "/"));
	}
	close(container);
	close(seed);
	rmdir(STATE "/seed");
}
