/* The application's files where a container starts with nothing: /tmp and the like.
 *
 * A restored application has files open, or mapped, or only counts on having made them, that are not in the image: a
 * JVM maps one in /tmp/hsperfdata_USER, Tomcat keeps uploads in a directory there. The image has /tmp as the build left
 * it at best, and a volume that is mounted on it hides even that. So the dump keeps copies of what is the
 * application's in such places, and the start puts back what is missing, before CRIU looks for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "launcher.h"

#define SEED WARMSTART_DIR "/seed"
#define MOST_BYTES (256ll << 20)
#define OPEN_DIRECTORIES 16

/* nftw(3) has no place for these. */
static const struct identity *owner; /* whose files are kept, or NULL where they are put back */
static off_t kept_bytes;
static char **made; /* what was put back, parents before children */
static size_t made_count;

static void give(const char *path, const struct stat *status)
{
	if (!S_ISLNK(status->st_mode))
		chmod(path, status->st_mode & 07777);
	if (owner && lchown(path, status->st_uid, status->st_gid) < 0)
		fail("%s: cannot keep the owner, which takes CAP_CHOWN: %s", path, strerror(errno));
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

/* Nothing that is there already is touched. */
static bool copy(const char *from, const char *to, const struct stat *status)
{
	if (S_ISDIR(status->st_mode))
		return !mkdir(to, 0700);
	if (S_ISREG(status->st_mode))
		return copy_bytes(from, to, status->st_size);
	return S_ISLNK(status->st_mode) && copy_link(from, to);
}

static int keep(const char *path, const struct stat *status, int type, struct FTW *position)
{
	char kept[4096];

	(void)type;
	(void)position;
	if (!S_ISDIR(status->st_mode) && status->st_uid != owner->user)
		return 0;
	if (S_ISREG(status->st_mode) && (kept_bytes += status->st_size) > MOST_BYTES)
		fail("the application has more than %lld MB of files in places like that of %s", MOST_BYTES >> 20,
		     path);
	snprintf(kept, sizeof kept, SEED "%s", path);
	if (copy(path, kept, status))
		give(kept, status);
	return 0;
}

/* Directories matter where they are the application's, or for what they contain. */
static int prune(const char *path, const struct stat *status, int type, struct FTW *position)
{
	(void)position;
	if (type == FTW_DP && status->st_uid != owner->user)
		rmdir(path);
	return 0;
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

static void make_parents(const char *path)
{
	char kept[4096];

	snprintf(kept, sizeof kept, SEED "%s", path);
	for (char *slash = strchr(kept + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(kept, 0755);
		*slash = '/';
	}
}

static void keep_place(const char *place)
{
	struct statvfs system;

	/* What is mounted read-only is not the application's: secrets, configuration. */
	if (statvfs(place, &system) < 0 || system.f_flag & ST_RDONLY)
		return;
	make_parents(place);
	nftw(place, keep, OPEN_DIRECTORIES, FTW_PHYS | FTW_MOUNT);
}

/* A line of /proc/self/mountinfo, see proc_pid_mountinfo(5):
 * "36 35 98:0 /root /mount/point options [optional fields] - type source options". Cuts the line. */
const char *parse_tmpfs(char *line)
{
	char *word = NULL, *place = NULL;

	for (int i = 0; i < 5; i++)
		place = next_word(&line);
	do
		word = next_word(&line);
	while (word && strcmp(word, "-"));
	word = next_word(&line);
	return place && word && !strcmp(word, "tmpfs") ? place : NULL;
}

static const char *const always[] = {"/tmp", "/var/tmp", "/run"};

static bool is_another(const char *place)
{
	for (size_t i = 0; i < sizeof always / sizeof *always; i++)
		if (!strcmp(place, always[i]))
			return false;
	return strcmp(place, "/dev") && strncmp(place, "/proc", 5) && strncmp(place, "/sys", 4);
}

void keep_files(const struct identity *identity)
{
	char *mounts = read_file("/proc/self/mountinfo");

	owner = identity;
	for (size_t i = 0; i < sizeof always / sizeof *always; i++)
		keep_place(always[i]);
	for (char *line; (line = next_line(&mounts));) {
		const char *place = parse_tmpfs(line);

		if (place && is_another(place))
			keep_place(place);
	}
	nftw(SEED, prune, OPEN_DIRECTORIES, FTW_PHYS | FTW_DEPTH);
}

void put_back_files(void)
{
	nftw(SEED, put_back, OPEN_DIRECTORIES, FTW_PHYS);
}

/* For a cold start, which is to find what it would have found without us. */
void remove_files(void)
{
	while (made_count > 0)
		remove(made[--made_count]);
}
