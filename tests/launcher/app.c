/* An application to dump and restore. It prints `ready`, and a report about itself on SIGUSR1.
 *
 *   app family     a process and three workers with three threads each, with alternating ids
 *   app older      a thread that is older than a child process
 *   app files      an unlinked file, a locked file in /tmp, a pipe with content, a connection
 *   app memory     64 MB that it can check
 *   app server     greets clients on port 8080
 *   app web        answers HTTP requests on port 8080
 *   app volume     a log, a changed file and a mapped file in /data; reads /data/conf/secret
 *   app sandbox    two threads; shared filters forbid both to call mkdir() and chroot()
 *   app corner     two threads; only the second must not call mkdir()
 *   app restrained restricts itself in every possible way, see ../programs/restrained.c
 *   app tuned      makes settings that CRIU's images have no place for, see ../programs/tuned.c
 *   app box        one thread that must not call mkdir() or futex()
 *   app init N COMMAND...    not an application: uses up N pids, runs the command, and exits like it
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../programs/restrained.h"
#include "../programs/tuned.h"

static int unlinked, locked, pipes[2], connection, logged, changed;
static char *mapped;
static const char *greeting = "hello";
static pid_t workers[3];
static uint64_t *memory;
#define WORDS (8 << 20)

static void *wait_forever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void start_thread(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, wait_forever, NULL);
}

static void be_family(void)
{
	for (int i = 0; i < 3; i++) {
		workers[i] = fork();
		if (workers[i])
			continue;
		signal(SIGUSR1, SIG_IGN);
		for (int j = 0; j < 2; j++) {
			usleep(50000 * (i + 1) + 1000 * j);
			start_thread();
		}
		wait_forever(NULL);
	}
	for (int j = 0; j < 2; j++) {
		usleep(170000);
		start_thread();
	}
	usleep(260000);
}

static void be_older(void)
{
	start_thread();
	workers[0] = fork();
	if (!workers[0]) {
		signal(SIGUSR1, SIG_IGN);
		wait_forever(NULL);
	}
}

static void be_with_files(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	static char much[20000];

	bind(listener, (struct sockaddr *)&address, length);
	listen(listener, 1);
	getsockname(listener, (struct sockaddr *)&address, &length);
	connection = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(connection, (struct sockaddr *)&address, length) || accept(listener, NULL, NULL) < 0)
		perror("connect");
	unlinked = open("/tmp", O_TMPFILE | O_RDWR, 0600);
	locked = open("/tmp/locked", O_CREAT | O_RDWR, 0640);
	if (unlinked < 0 || locked < 0 || flock(locked, LOCK_EX) || pipe(pipes))
		perror("files");
	if (write(unlinked, "unlinked", 8) + write(locked, "locked", 6) + write(pipes[1], much, sizeof much) != 20014)
		perror("write");
}

static void *serve(void *listener)
{
	for (;;) {
		int client = accept(*(int *)listener, NULL, NULL);

		/* Not before the client has written, or it may get a reset. */
		if (*greeting == 'H' && recv(client, (char[1000]){0}, 1000, 0) < 0)
			perror("recv");
		if (client < 0 || write(client, greeting, strlen(greeting)) < 0)
			perror("serve");
		close(client);
	}
	return listener;
}

static void be_server(void)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(8080)};
	static int listener;
	pthread_t thread;

	listener = socket(AF_INET6, SOCK_STREAM, 0);
	if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 7))
		perror("listen");
	pthread_create(&thread, NULL, serve, &listener);
}

static void be_with_volume(void)
{
	logged = open("/data/app.log", O_CREAT | O_WRONLY | O_APPEND, 0640);
	changed = open("/data/changed", O_CREAT | O_RDWR, 0600);
	if (logged < 0 || changed < 0 || ftruncate(changed, 4096))
		perror("volume");
	mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, changed, 0);
	if (mapped == MAP_FAILED || write(logged, "built\n", 6) != 6)
		perror("mapped");
	else
		strcpy(mapped, "mapped");
}

static void tell_volume(void)
{
	int secret = open("/data/conf/secret", O_RDONLY);
	char text[16] = "";
	struct stat status;

	if (secret < 0 || read(secret, text, sizeof text - 1) < 0 || write(logged, "told\n", 5) != 5 ||
	    stat("/data/app.log", &status))
		perror("volume");
	close(secret);
	printf(" secret=%s log=%jd,%jd", text, (intmax_t)status.st_size, (intmax_t)lseek(logged, 0, SEEK_END));
	if (pread(changed, text, 7, 0) != 7)
		perror("changed");
	printf(" changed=%s,%s", text, mapped);
}

static void fill_memory(void)
{
	memory = malloc(WORDS * sizeof *memory);
	for (uint64_t i = 0; i < WORDS; i++)
		memory[i] = i * 0x9E3779B97F4A7C15ull;
}

static void tell_memory(void)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < WORDS; i++)
		wrong += memory[i] != i * 0x9E3779B97F4A7C15ull;
	printf(" wrong=%ju", (uintmax_t)wrong);
}

/* System calls that are denied with EACCES; flags as for seccomp(2). */
static void deny(unsigned number, unsigned flags)
{
	struct sock_filter instructions[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof instructions / sizeof *instructions, instructions};

	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program))
		perror("seccomp");
}

struct view {
	int denied; /* errno of mkdir(), or 0 */
	int filters;
};
static int questions[2] = {-1, -1}, answers[2];

static struct view look(void)
{
	struct view view = {mkdirat(AT_FDCWD, "/tmp/made", 0700) ? errno : 0, -1};
	FILE *status = fopen("/proc/thread-self/status", "r");
	char line[256];

	rmdir("/tmp/made");
	while (status && fgets(line, sizeof line, status))
		sscanf(line, "Seccomp_filters: %d", &view.filters);
	if (status)
		fclose(status);
	return view;
}

static void *look_when_asked(void *confined)
{
	struct view view;
	char question;

	if (confined)
		deny(SYS_mkdirat, 0);
	while (read(questions[0], &question, 1) == 1) {
		view = look();
		if (write(answers[1], &view, sizeof view) != sizeof view)
			perror("answer");
	}
	return confined;
}

static void be_sandbox(const char *mode)
{
	pthread_t thread;

	if (!strcmp(mode, "box")) {
		deny(SYS_mkdirat, 0);
		deny(SYS_futex, 0);
		return;
	}
	if (pipe(questions) || pipe(answers))
		perror("pipe");
	pthread_create(&thread, NULL, look_when_asked, strcmp(mode, "corner") ? NULL : questions);
	usleep(200000);
	if (!strcmp(mode, "sandbox")) {
		deny(SYS_mkdirat, SECCOMP_FILTER_FLAG_TSYNC);
		deny(SYS_chroot, SECCOMP_FILTER_FLAG_TSYNC);
	}
}

static void tell_sandbox(void)
{
	struct view view = look();

	printf(" denied=%d filters=%d", view.denied, view.filters);
	if (questions[0] < 0)
		return;
	if (write(questions[1], "?", 1) != 1 || read(answers[0], &view, sizeof view) != sizeof view)
		perror("question");
	printf(" other_denied=%d other_filters=%d", view.denied, view.filters);
}

static bool is_sandbox(const char *mode)
{
	return !strcmp(mode, "sandbox") || !strcmp(mode, "corner") || !strcmp(mode, "box");
}

static void list_threads(pid_t pid)
{
	char path[64];
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof path, "/proc/%d/task", pid);
	tasks = opendir(path);
	for (printf(" %d:", pid); tasks && (entry = readdir(tasks));)
		if (*entry->d_name != '.')
			printf("%s,", entry->d_name);
	if (tasks)
		closedir(tasks);
}

static const char *outer_environment(const char *name)
{
	static char text[65536];
	int fd = open("/.warmstart/env", O_RDONLY);
	ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);

	close(fd);
	for (char *entry = text; entry < text + length; entry += strlen(entry) + 1)
		if (!strncmp(entry, name, strlen(name)) && entry[strlen(name)] == '=')
			return entry + strlen(name) + 1;
	return "unknown";
}

static void tell_files(void)
{
	char bytes[32768];
	int other = open("/tmp/locked", O_RDWR), waiting;

	printf(" unlinked=%zd", pread(unlinked, bytes, sizeof bytes, 0));
	printf(" locked=%zd,%d", pread(locked, bytes, sizeof bytes, 0), flock(other, LOCK_EX | LOCK_NB) ? errno : 0);
	printf(" pipe=%d", ioctl(pipes[0], FIONREAD, &waiting) < 0 ? -1 : waiting);
	printf(" connection=%d", send(connection, "x", 1, MSG_NOSIGNAL) < 0 ? errno : 0);
	close(other);
}

static void tell(const char *mode, uint64_t id)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("state id=%016jx clock=%jd GREETING=%s outer=%s tasks", (uintmax_t)id, (intmax_t)now.tv_sec,
	       getenv("GREETING"), outer_environment("GREETING"));
	list_threads(getpid());
	for (int i = 0; i < 3; i++)
		if (workers[i])
			list_threads(workers[i]);
	if (!strcmp(mode, "files"))
		tell_files();
	if (!strcmp(mode, "memory"))
		tell_memory();
	if (!strcmp(mode, "volume"))
		tell_volume();
	if (is_sandbox(mode))
		tell_sandbox();
	if (!strcmp(mode, "restrained"))
		tell_restraints();
	if (!strcmp(mode, "tuned"))
		tell_tuning();
	printf("\n");
}

static int be_init(int spent, char **command)
{
	int status;
	pid_t pid;

	while (spent-- > 0) {
		pid = fork();
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
	pid = fork();
	if (!pid) {
		execv(*command, command);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	printf("init: %s %d\n", WIFSIGNALED(status) ? "signal" : "status",
	       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return 0;
}

int main(int count, char **arguments)
{
	const char *mode = count > 1 ? arguments[1] : "";
	sigset_t signals;
	uint64_t id;
	int number;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (count > 3 && !strcmp(mode, "init"))
		return be_init(atoi(arguments[2]), arguments + 3);
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGUSR2);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	if (getrandom(&id, sizeof id, 0) != sizeof id)
		return 1;
	if (!strcmp(mode, "family"))
		be_family();
	else if (!strcmp(mode, "older"))
		be_older();
	else if (!strcmp(mode, "files"))
		be_with_files();
	else if (!strcmp(mode, "memory"))
		fill_memory();
	else if (!strcmp(mode, "server"))
		be_server();
	else if (!strcmp(mode, "web"))
		greeting = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", be_server();
	else if (!strcmp(mode, "volume"))
		be_with_volume();
	else if (is_sandbox(mode))
		be_sandbox(mode);
	else if (!strcmp(mode, "restrained"))
		restrain();
	else if (!strcmp(mode, "tuned"))
		tune();
	printf("ready\n");
	for (;;) {
		sigwait(&signals, &number);
		if (number == SIGUSR2)
			return 7;
		tell(mode, id);
	}
}
