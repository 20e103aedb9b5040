/* Read ahead: bring the files of a restore into the page cache while CRIU works. Otherwise CRIU, and then the page faults
 * of the application, read them from the disk in small parts, and wait for each.
 *
 * CRIU reads its own program and the checkpoint. The application touches a part of its memory, and of its libraries: the
 * list READ_AHEAD has what it touched until its first answer, when the image was built. To read the rest as well would
 * take longer than the page faults, which wait for the same disk. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"

/* In one call, the kernel reads no more than the device's read-ahead size, which is 128 KiB by default. See
 * force_page_cache_ra() in mm/readahead.c of Linux. */
#define PART_BYTES (128 << 10)
/* Bytes that the disk has to read at one time. It is busy with fewer, and page faults wait behind these. */
#define WINDOW_BYTES (2 << 20)
/* Of all files. */
#define MAX_BYTES (512ull << 20)

struct reader {
	uint64_t left; /* bytes that may still be read */
	const char *path;
	int fd;		 /* of the path, or -1 */
	uint64_t issued; /* bytes since the mark */
	off_t mark;	 /* offset of a part of this file that the disk was to read before, or -1 */
};

/* Wait until the disk has read the part at the mark. */
static void wait_for_mark(struct reader *reader)
{
	char byte;

	if (reader->mark >= 0 && pread(reader->fd, &byte, 1, reader->mark) < 0)
		reader->left = 0;
	reader->mark = -1;
}

static void close_file(struct reader *reader)
{
	wait_for_mark(reader);
	if (reader->fd >= 0)
		close(reader->fd);
	reader->fd = -1;
}

/* The list names files of the application, so they need not be what they were. Opening a FIFO would wait. */
static void open_file(struct reader *reader, const char *path)
{
	struct stat status;

	if (reader->path && !strcmp(path, reader->path))
		return;
	close_file(reader);
	reader->path = path;
	reader->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (reader->fd >= 0 && (fstat(reader->fd, &status) < 0 || !S_ISREG(status.st_mode)))
		close_file(reader);
}

/* Have the disk read a range of the open file. Pages in the page cache are not read. */
static void read_range(struct reader *reader, uint64_t start, uint64_t size)
{
	if (reader->fd < 0 || size > reader->left)
		return;
	reader->left -= size;
	for (uint64_t at = start; at < start + size; at += PART_BYTES) {
		uint64_t part = start + size - at < PART_BYTES ? start + size - at : PART_BYTES;

		if (posix_fadvise(reader->fd, at, part, POSIX_FADV_WILLNEED))
			return;
		reader->issued += part;
		if (reader->issued >= WINDOW_BYTES / 2) {
			wait_for_mark(reader);
			reader->mark = at;
			reader->issued = 0;
		}
	}
}

static void read_whole(struct reader *reader, const char *path)
{
	struct stat status;

	open_file(reader, path);
	if (reader->fd >= 0 && !fstat(reader->fd, &status))
		read_range(reader, 0, status.st_size);
}

/* The files in the directory of the checkpoint. The others are mapped, and CRIU does not read them. */
static void read_checkpoint(struct reader *reader, const struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->file_count; i++) {
		char *path;

		if (strchr(manifest->files[i].name, '/'))
			continue;
		if (asprintf(&path, CHECKPOINT "/%s", manifest->files[i].name) < 0)
			return;
		read_whole(reader, path);
	}
}

bool parse_range(char *line, struct range *range)
{
	range->path = NULL;
	return parse_number(next_word(&line), INT64_MAX / 2, &range->start) &&
	       parse_number(next_word(&line), INT64_MAX / 2, &range->size) && (range->path = next_word(&line)) &&
	       unescape(range->path) && *range->path == '/' && !*line;
}

static void read_listed(struct reader *reader)
{
	char *list = read_file(READ_AHEAD), *line;
	struct range range;

	while (list && (line = next_line(&list)) && parse_range(line, &range)) {
		open_file(reader, range.path);
		read_range(reader, range.start, range.size);
	}
}

/* Page cache counts for the container that reads a file first, so fill at most half of its memory. */
static uint64_t max_bytes(void)
{
	uint64_t half = memory_limit() / 2;

	return half < MAX_BYTES ? half : MAX_BYTES;
}

static bool is_enabled(void)
{
	const char *setting = getenv("WARMSTART_READ_AHEAD");

	return !setting || strcmp(setting, "off");
}

/* Start to read. A process of its own does it, because it waits for the disk. It ends by itself, and is reaped like any
 * child. Its pid is below that of the application, which is the oldest of its processes. */
void read_ahead(const struct manifest *manifest)
{
	struct reader reader = {.left = max_bytes(), .fd = -1, .mark = -1};
	pid_t parent = getpid();

	if (!is_enabled() || parent >= manifest->pid || fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || getpid() >= manifest->pid)
		_exit(0);
	syscall(SYS_close_range, 3, ~0u, 0);
	read_whole(&reader, CRIU);
	read_checkpoint(&reader, manifest);
	read_listed(&reader);
	_exit(0);
}
