/* Temporary files of the application, in directories that are empty when a container starts, such as /tmp.
 *
 * A restored application may have such files open or mapped, or rely on having created them: a JVM maps a file in
 * /tmp/hsperfdata_USER, and Tomcat keeps uploads in a directory in /tmp. The image has /tmp as the build left it at
 * best, and a volume mounted there hides even that. So the dump keeps copies of the application's temporary files
 * (keep.c), and the start puts back the missing ones before CRIU opens them.
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

/* nftw(3) passes no argument to its callback. */
static char **made; /* paths put back, parents before children */
static size_t made_count;

static void give(const char *path, const struct stat *status)
{
	if (!S_ISLNK(status->st_mode))
		chmod(path, status->st_mode & 07777);
}

static bool copy_bytes(const char *from, const char *to, off_t left)
{
	int source = open(from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	int target = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	bool is_made = target >= 0;

	while (left > 0) {
		ssize_t sent = sendfile(target, source, NULL, left);
		if (sent <= 0)
			break;
		left -= sent;
	}
	close(source);
	close(target);
	return is_made;
}

static bool copy_link(const char *from, const char *to)
{
	char target[4096];
	ssize_t length = readlink(from, target, sizeof target - 1);

	target[length > 0 ? length : 0] = 0;
	return !symlink(target, to);
}

/* Leave existing files alone. */
static bool copy(const char *from, const char *to, const struct stat *status)
{
	if (S_ISDIR(status->st_mode))
		return !mkdir(to, 0700);
	if (S_ISREG(status->st_mode))
		return copy_bytes(from, to, status->st_size);
	return S_ISLNK(status->st_mode) && copy_link(from, to);
}

static void remember(const char *path)
{
	made = grow(made, made_count, sizeof *made);
	made[made_count] = strdup(path);
	if (!made[made_count++])
		fail("out of memory");
}

static int put_back(const char *path, const struct stat *status, int type, struct FTW *position)
{
	const char *target = path + strlen(SEED);

	(void)type;
	(void)position;
	if (*target && copy(path, target, status)) {
		give(target, status);
		remember(target);
	}
	return 0;
}

void put_back_files(void)
{
	nftw(SEED, put_back, OPEN_DIRECTORIES, FTW_PHYS);
}

/* Undo put_back_files(), for a cold start. */
void remove_files(void)
{
	while (made_count > 0)
		remove(made[--made_count]);
}
