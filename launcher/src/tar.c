/* Write a tar to standard output: POSIX ustar, with pax records for all that does not fit into its fields. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "launcher.h"

#define BLOCK 512
/* Limits of the kernel, see xattr(7). */
#define LIST_BYTES 65536
#define VALUE_BYTES 65536
#define KEY_BYTES 256
#define PAX_BYTES (1 << 18)

struct header {
	char name[100], mode[8], user[8], group[8], size[12], time[12], checksum[8], type, link[100];
	char magic[8], user_name[32], group_name[32], major[8], minor[8], prefix[155], unused[12];
};

static char records[PAX_BYTES];
static size_t records_length;

static void write_all(const void *bytes, size_t count)
{
	for (size_t done = 0; done < count;) {
		ssize_t written = write(STDOUT_FILENO, (const char *)bytes + done, count - done);

		if (written < 0 && errno != EINTR)
			fail("cannot write the tar: %s", strerror(errno));
		done += written > 0 ? written : 0;
	}
}

static void fill_block(uint64_t size)
{
	static const char zeros[BLOCK];

	write_all(zeros, -size % BLOCK);
}

/* A record is "LENGTH KEY=VALUE\n", and the length counts itself. */
static void add_record(const char *key, const void *value, size_t size)
{
	size_t rest = strlen(key) + size + 3, length = rest + 1;
	int written;

	while (length < rest + snprintf(NULL, 0, "%zu", length))
		length++;
	if (records_length + length >= sizeof records)
		fail("the attributes of a file exceed %d bytes", PAX_BYTES);
	written = snprintf(records + records_length, sizeof records - records_length, "%zu %s=", length, key);
	memcpy(records + records_length + written, value, size);
	records_length += length;
	records[records_length - 1] = '\n';
}

static void add_attributes(int fd)
{
	static char names[LIST_BYTES], value[VALUE_BYTES];
	char path[64], key[KEY_BYTES + 32];
	ssize_t length, size;

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	length = listxattr(path, names, sizeof names);
	for (char *name = names; length > 0 && name < names + length; name += strlen(name) + 1) {
		/* Those of the file system, and privileges. */
		if (!strncmp(name, "trusted.", 8) || !strncmp(name, "security.", 9))
			continue;
		size = getxattr(path, name, value, sizeof value);
		snprintf(key, sizeof key, "SCHILY.xattr.%.255s", name);
		if (size >= 0)
			add_record(key, value, size);
	}
}

static void set_number(char *field, size_t size, uint64_t number)
{
	snprintf(field, size, "%0*jo", (int)size - 1, (uintmax_t)number);
}

/* Numbers that do not fit are also in a record, which takes precedence. */
static void set_or_record(char *field, size_t size, const char *key, uint64_t number)
{
	char text[32];

	if (number >> (3 * (size - 1))) {
		add_record(key, text, snprintf(text, sizeof text, "%ju", (uintmax_t)number));
		number = 0;
	}
	set_number(field, size, number);
}

static void set_text(char *field, size_t size, const char *key, const char *text)
{
	if (strlen(text) > size)
		add_record(key, text, strlen(text));
	memcpy(field, text, strnlen(text, size));
}

static void write_header(struct header *header)
{
	unsigned sum = 0;

	memcpy(header->magic, "ustar\00000", 8);
	memset(header->checksum, ' ', sizeof header->checksum);
	for (size_t i = 0; i < sizeof *header; i++)
		sum += ((unsigned char *)header)[i];
	snprintf(header->checksum, sizeof header->checksum, "%06o", sum);
	write_all(header, sizeof *header);
}

static void write_records(void)
{
	struct header header = {.type = 'x', .name = "pax"};

	if (!records_length)
		return;
	set_number(header.mode, sizeof header.mode, 0644);
	set_number(header.size, sizeof header.size, records_length);
	write_header(&header);
	write_all(records, records_length);
	fill_block(records_length);
}

/* Write the header of a member. With `fd`, a file opened with O_PATH, its extended attributes are added. */
static void write_member(const char *name, char type, const struct stat *status, const char *link, uint64_t size, int fd)
{
	struct header header = {.type = type};

	records_length = 0;
	set_text(header.name, sizeof header.name, "path", name);
	set_text(header.link, sizeof header.link, "linkpath", link);
	set_number(header.mode, sizeof header.mode, status->st_mode & 07777);
	set_or_record(header.user, sizeof header.user, "uid", status->st_uid);
	set_or_record(header.group, sizeof header.group, "gid", status->st_gid);
	set_or_record(header.size, sizeof header.size, "size", size);
	set_or_record(header.time, sizeof header.time, "mtime", status->st_mtime < 0 ? 0 : status->st_mtime);
	if (fd >= 0)
		add_attributes(fd);
	write_records();
	write_header(&header);
}

static void write_content(int fd, const char *name, uint64_t left)
{
	static char bytes[1 << 18];
	char path[64];
	uint64_t size = left;
	int file;

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (file < 0)
		fail("cannot read %s: %s", name, strerror(errno));
	while (left) {
		ssize_t count = read(file, bytes, left < sizeof bytes ? left : sizeof bytes);

		if (count <= 0)
			fail("cannot read %s: %s", name, count ? strerror(errno) : "the file has shrunk");
		write_all(bytes, count);
		left -= count;
	}
	close(file);
	fill_block(size);
}

struct seen {
	dev_t device;
	ino_t inode;
	char *name;
};

/* Return the name under which this file is in the tar already, or NULL. */
static const char *find_seen(const struct stat *status, const char *name)
{
	static struct seen *seen;
	static size_t count;

	if (status->st_nlink < 2)
		return NULL;
	for (size_t i = 0; i < count; i++)
		if (seen[i].device == status->st_dev && seen[i].inode == status->st_ino)
			return seen[i].name;
	seen = grow(seen, count, sizeof *seen);
	seen[count++] = (struct seen){status->st_dev, status->st_ino, strdup(name)};
	return NULL;
}

/* Add a file, opened with O_PATH; a directory without its content. Sockets and devices are left out. */
void tar_add(int fd, const char *name, const struct stat *status)
{
	const char *first = S_ISDIR(status->st_mode) ? NULL : find_seen(status, name);
	char target[PATH_MAX] = "";

	if (first) {
		write_member(name, '1', status, first, 0, -1);
	} else if (S_ISREG(status->st_mode)) {
		write_member(name, '0', status, "", status->st_size, fd);
		write_content(fd, name, status->st_size);
	} else if (S_ISLNK(status->st_mode)) {
		if (readlinkat(fd, "", target, sizeof target - 1) < 0)
			fail("cannot read %s: %s", name, strerror(errno));
		write_member(name, '2', status, target, 0, -1);
	} else if (S_ISDIR(status->st_mode)) {
		write_member(name, '5', status, "", 0, fd);
	} else if (S_ISFIFO(status->st_mode)) {
		write_member(name, '6', status, "", 0, -1);
	}
}

/* Add an empty file, for its name only. */
void tar_add_name(const char *name)
{
	struct stat status = {.st_mode = 0644};

	write_member(name, '0', &status, "", 0, -1);
}

void tar_end(void)
{
	static const char zeros[2 * BLOCK];

	write_all(zeros, sizeof zeros);
}
