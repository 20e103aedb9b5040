/* Put back the application's temporary files, from directories such as /tmp that are empty when a container starts.
 *
 * A restored application may have such files open or mapped, or rely on having created them: a JVM maps a file in
 * /tmp/hsperfdata_USER, and Tomcat keeps uploads in a directory in /tmp. At best, the image contains /tmp as the build
 * left it, and a volume mounted there hides even that. So the dump keeps copies of these files (keep.c), and the start
 * puts back the missing ones before CRIU opens them.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

#define SEED WARMSTART_DIR "/seed"
#define OPEN_DIRECTORIES 16

/* Global, because nftw(3) passes no argument to its callback. */
static char **created; /* paths that were put back, parents before children */
static size_t created_count;

/* The owner first: a change of owner clears bits of the mode. */
static void copy_owner_and_mode(const char *path, const struct stat *status)
{
	if (!geteuid() && lchown(path, status->st_uid, status->st_gid) < 0)
		return;
	if (!S_ISLNK(status->st_mode))
		chmod(path, status->st_mode & 07777);
}

static bool copy_bytes(const char *from, const char *to, off_t left)
{
	int source = open(from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	int target = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	bool is_created = target >= 0;

	while (left > 0) {
		ssize_t sent = sendfile(target, source, NULL, left);
		if (sent <= 0)
			break;
		left -= sent;
	}
	close(source);
	close(target);
	return is_created;
}

static bool copy_link(const char *from, const char *to)
{
	char target[4096];
	ssize_t length = readlink(from, target, sizeof target - 1);

	target[length > 0 ? length : 0] = 0;
	return !symlink(target, to);
}

static bool create_copy(const char *from, const char *to, const struct stat *status)
{
	if (S_ISDIR(status->st_mode))
		return !mkdir(to, 0700);
	if (S_ISFIFO(status->st_mode))
		return !mkfifo(to, 0600);
	if (S_ISREG(status->st_mode))
		return copy_bytes(from, to, status->st_size);
	return S_ISLNK(status->st_mode) && copy_link(from, to);
}

/* Copy one file or directory, unless the target exists. Return whether it was created. */
bool copy_file(const char *from, const char *to, const struct stat *status)
{
	bool is_created = create_copy(from, to, status);

	if (is_created)
		copy_owner_and_mode(to, status);
	return is_created;
}

static void record_created(const char *path)
{
	created = grow(created, created_count, sizeof *created);
	created[created_count] = strdup(path);
	if (!created[created_count++])
		fail("out of memory");
}

static int put_back(const char *path, const struct stat *status, int type, struct FTW *position)
{
	const char *target = path + strlen(SEED);

	(void)type;
	(void)position;
	if (*target && copy_file(path, target, status))
		record_created(target);
	return 0;
}

void put_back_files(void)
{
	nftw(SEED, put_back, OPEN_DIRECTORIES, FTW_PHYS);
}

/* A file that the application opened and only then made unreadable or read-only, such as a lock file with mode 0400,
 * cannot be opened again without privileges. Its owner may change the mode meanwhile. The modes to go back to are kept. */
void unlock_files(struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->locked_count; i++) {
		struct locked *locked = &manifest->locked[i];
		struct stat status;
		int fd = open(locked->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		char path[64];

		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		locked->is_open = fd >= 0 && !fstat(fd, &status) && S_ISREG(status.st_mode) &&
				  status.st_uid == geteuid() && !chmod(path, (status.st_mode & 07777) | 0600);
		locked->mode = locked->is_open ? status.st_mode & 07777 : 0;
		locked->fd = fd;
	}
}

void lock_files(struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->locked_count; i++) {
		struct locked *locked = &manifest->locked[i];
		char path[64];

		snprintf(path, sizeof path, "/proc/self/fd/%d", locked->fd);
		if (locked->is_open)
			chmod(path, locked->mode);
		close(locked->fd);
	}
}

/* Remove the files that put_back_files() created, before a cold start. */
void remove_files(void)
{
	while (created_count > 0)
		remove(created[--created_count]);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *position)
{
	(void)status;
	(void)type;
	(void)position;
	if (remove(path) < 0)
		say("cannot remove %s before the cold start: %s", path, strerror(errno));
	return 0;
}

/* Remove what the recipe names: files that the application has left in the image, and that would keep it from starting.
 * The file has a path in each line, in which bytes other than printable ASCII are escaped. */
void remove_leftovers(void)
{
	char *text = read_file(REMOVED);

	for (char *path; text && (path = next_line(&text));)
		if (unescape(path) && *path == '/')
			nftw(path, remove_one, OPEN_DIRECTORIES, FTW_PHYS | FTW_DEPTH);
}
