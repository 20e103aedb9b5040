/* Pass the container's environment to the restored application, which still has the environment of the build. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

/* Missing in older C libraries. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

static bool write_all(int fd, const char *bytes, size_t count)
{
	while (count) {
		ssize_t written = write(fd, bytes, count);

		if (written <= 0)
			return false;
		bytes += written;
		count -= written;
	}
	return true;
}

static int make_memory_file(void)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create("environment", flags | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create("environment", flags);
	return fd;
}

/* Write NAME=VALUE and a NUL for each variable to a sealed memfd that only our user can open. */
int environment_file(char **environment)
{
	int fd = make_memory_file();
	bool is_written = fd >= 0;

	for (; is_written && *environment; environment++)
		is_written = write_all(fd, *environment, strlen(*environment) + 1);
	if (is_written && !fchmod(fd, 0400) && !lseek(fd, 0, SEEK_SET) &&
	    !fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
		return fd;
	say("cannot pass the container's environment to the application: %s", strerror(errno));
	close(fd);
	return empty_environment();
}

int empty_environment(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}
