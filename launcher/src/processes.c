/* Other processes, and clocks. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

#define MOST_PID 0x7fffffff

/* By the system call: the vDSO may not know yet that the time namespace has changed. */
uint64_t clock_ns(int clock)
{
	long time[2] = {0};

	syscall(SYS_clock_gettime, clock, time);
	return time[0] * 1000000000ull + time[1];
}

/* Lets processes come and go until the pid has been given out; the last one, or -1. */
pid_t spend_pids(pid_t upto)
{
	pid_t pid;

	do {
		pid = vfork();
		if (!pid)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			return -1;
	} while (pid < upto);
	return pid;
}

/* In /proc/PID/stat, after a name in parentheses that may have any character in it: " S PPID ...". See proc(5). Cuts
 * the text. */
bool parse_parent(char *stat, pid_t *parent)
{
	char *rest = strrchr(stat, ')');
	uint64_t number;

	next_word(&rest);
	next_word(&rest);
	if (!parse_number(next_word(&rest), MOST_PID, &number))
		return false;
	*parent = number;
	return true;
}

static bool is_child(const char *name)
{
	char path[64], stat[512];
	uint64_t pid;
	pid_t parent;
	ssize_t length;
	int fd;

	if (!parse_number(name, MOST_PID, &pid))
		return false;
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	length = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
	close(fd);
	if (length < 0)
		return false;
	stat[length] = 0;
	return parse_parent(stat, &parent) && parent == getpid();
}

/* What our children leave behind when they die becomes ours; so the end of our children is the end of them all. */
void kill_descendants(void)
{
	uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + 1000000000;

	do {
		struct dirent *entry;
		DIR *proc = opendir("/proc");

		while (proc && (entry = readdir(proc)))
			if (is_child(entry->d_name))
				kill(atoi(entry->d_name), SIGKILL);
		if (proc)
			closedir(proc);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			return;
		nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
	} while (clock_ns(CLOCK_MONOTONIC) < deadline);
}
