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

/* Use the system call, because the vDSO may still have the clocks of the previous time namespace. */
uint64_t clock_ns(int clock)
{
	long time[2] = {0};

	syscall(SYS_clock_gettime, clock, time);
	return time[0] * 1000000000ull + time[1];
}

/* Whether less than `limit_ns` have passed. If a runtime has restored this process on another node, its clock can be
 * behind: then nobody knows, and the answer is no. */
bool is_within(uint64_t since_ns, uint64_t now_ns, uint64_t limit_ns)
{
	return now_ns >= since_ns && now_ns - since_ns < limit_ns;
}

/* Fork short-lived processes until the pid `last` is used up. Return the last pid used, or -1. */
pid_t spend_pids(pid_t last)
{
	pid_t pid;

	do {
		pid = vfork();
		if (!pid)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			return -1;
	} while (pid < last);
	return pid;
}

/* Parse the parent in /proc/PID/stat: " S PPID ..." after a name in parentheses that may contain any character. See
 * proc(5). Modifies the text. */
bool parse_parent(char *stat, pid_t *parent)
{
	char *rest = strrchr(stat, ')');
	uint64_t number;

	next_word(&rest);
	next_word(&rest);
	if (!parse_number(next_word(&rest), MAX_PID, &number))
		return false;
	*parent = number;
	return true;
}

/* Read /proc/NAME/stat if the name is a pid. */
static bool read_stat(const char *name, char *stat, size_t size)
{
	char path[64];
	uint64_t pid;
	ssize_t length;
	int fd;

	if (!parse_number(name, MAX_PID, &pid))
		return false;
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	length = fd < 0 ? -1 : read(fd, stat, size - 1);
	close(fd);
	if (length < 0)
		return false;
	stat[length] = 0;
	return true;
}

static bool is_child(const char *name)
{
	char stat[512];
	pid_t parent;

	return read_stat(name, stat, sizeof stat) && parse_parent(stat, &parent) && parent == getpid();
}

/* Kill our children until none is left. We are a subreaper, so orphans become our children and are killed as well. */
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

struct process {
	pid_t pid, parent;
	char state;
	uint64_t threads;
	char name[64];
};

/* Parse /proc/PID/stat: "PID (NAME) STATE PPID ..."; field 20 is the number of threads. Modifies the text. */
static bool parse_process(const char *number, char *stat, struct process *process)
{
	char *name = strchr(stat, '('), *end = strrchr(stat, ')'), *rest;
	uint64_t parent;

	if (!name || !end || strlen(end) < 3)
		return false;
	process->pid = atoi(number);
	process->state = end[2];
	snprintf(process->name, sizeof process->name, "%.*s", (int)(end - name - 1), name + 1);
	rest = end + 2;
	next_word(&rest);
	if (!parse_number(next_word(&rest), MAX_PID, &parent))
		return false;
	process->parent = parent;
	for (int field = 5; field < 20; field++)
		next_word(&rest);
	return parse_number(next_word(&rest), MAX_PID, &process->threads);
}

static size_t list_processes(struct process **processes)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	size_t count = 0;
	char stat[512];

	*processes = NULL;
	while (proc && (entry = readdir(proc))) {
		struct process found;

		if (!read_stat(entry->d_name, stat, sizeof stat) || !parse_process(entry->d_name, stat, &found))
			continue;
		*processes = grow(*processes, count, sizeof **processes);
		(*processes)[count++] = found;
	}
	if (!proc || !count)
		fail("cannot list the processes of the container: %s", strerror(errno));
	closedir(proc);
	return count;
}

void print_processes(void)
{
	struct process *processes;
	size_t count = list_processes(&processes);

	printf("pids");
	for (size_t i = 0; i < count; i++)
		if (!strchr("ZX", processes[i].state))
			printf(" %d", processes[i].pid);
	printf("\n");
}

static const struct process *find_process(const struct process *processes, size_t count, pid_t pid)
{
	for (size_t i = 0; i < count; i++)
		if (processes[i].pid == pid)
			return &processes[i];
	return NULL;
}

static bool is_descendant(const struct process *processes, size_t count, const struct process *process, pid_t app)
{
	/* The parents were not all read at the same moment, so they may form a loop. */
	for (size_t steps = 0; process && steps <= count; steps++) {
		if (process->pid == app)
			return true;
		process = find_process(processes, count, process->parent);
	}
	return false;
}

/* A process may continue in other threads after its first thread has ended. */
static bool has_ended(const struct process *process)
{
	return (process->state == 'Z' || process->state == 'X') && process->threads <= 1;
}

static bool find_other_process(pid_t app, bool must_be_stopped, struct reason *reason)
{
	struct process *processes;
	size_t count = list_processes(&processes);
	bool found = false;

	for (size_t i = 0; i < count && !found; i++) {
		const struct process *each = &processes[i];

		if (each->pid == 1 || each->pid == getpid() || has_ended(each))
			continue;
		found = true;
		if (!is_descendant(processes, count, each, app))
			set_reason(reason,
				   "process %d (%s) is not a descendant of the application, so it would be neither dumped "
				   "nor stopped: end it before the checkpoint",
				   each->pid, escape(each->name));
		else if (must_be_stopped && each->state != 'T')
			set_reason(reason, "process %d (%s) of the application is not stopped", each->pid,
				   escape(each->name));
		else
			found = false;
	}
	free(processes);
	return found;
}

/* Check that our pid namespace contains only the first process, ourselves, and the application with its descendants (all
 * of them stopped, with `must_be_stopped`). Wait up to a second for processes that are about to end or stop. */
bool check_no_other_processes(pid_t app, bool must_be_stopped, struct reason *reason)
{
	for (int i = 0; i < 100; i++) {
		if (!find_other_process(app, must_be_stopped, reason))
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	return false;
}
