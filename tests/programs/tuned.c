/* Makes settings that CRIU's images have no place for, and says which it has: for a process that restores itself.
 *
 * tune() makes them; tell_tuning() prints " NAME=VALUE" for each, as the kernel has it now.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tuned.h"

enum { PROCESS = 1, BEST_EFFORT = 2 << 13 }; /* of ioprio_set(2) */

static int semaphore, listener, four, six, terminal, reset4, reset6;
static _Atomic pid_t helper;
static struct in_addr group4, source4;
static struct in6_addr group6;

static void check(const char *what, long result)
{
	if (result < 0)
		perror(what);
}

static void *help(void *unused)
{
	cpu_set_t processors;

	sched_getaffinity(0, sizeof processors, &processors);
	for (int i = 0, first = 1; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &processors) && !first--)
			CPU_CLR(i, &processors);
	check("affinity", sched_setaffinity(0, sizeof processors, &processors));
	check("slack", prctl(PR_SET_TIMERSLACK, 123456));
	check("mce", prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	check("ioprio", syscall(SYS_ioprio_set, PROCESS, 0, BEST_EFFORT | 6));
	helper = gettid(); /* last: tune() waits for it */
	for (;;)
		pause();
	return unused;
}

/* A member of one group by one source, and of another by all but none. */
static void join(void)
{
	struct ip_mreq_source by_source = {.imr_interface.s_addr = htonl(INADDR_LOOPBACK)};
	struct ipv6_mreq all = {.ipv6mr_interface = if_nametoindex("lo")};
	unsigned device = all.ipv6mr_interface;
	struct ip_mreqn sending = {.imr_address.s_addr = htonl(INADDR_LOOPBACK)};

	inet_pton(AF_INET, "232.7.7.7", &group4);
	inet_pton(AF_INET, "10.1.2.3", &source4);
	inet_pton(AF_INET6, "ff05::77", &group6);
	by_source.imr_multiaddr = group4;
	by_source.imr_sourceaddr = source4;
	all.ipv6mr_multiaddr = group6;
	check("source", setsockopt(four, SOL_IP, IP_ADD_SOURCE_MEMBERSHIP, &by_source, sizeof by_source));
	check("group", setsockopt(six, SOL_IPV6, IPV6_JOIN_GROUP, &all, sizeof all));
	check("device", setsockopt(four, SOL_IP, IP_MULTICAST_IF, &sending, sizeof sending));
	check("device", setsockopt(six, SOL_IPV6, IPV6_MULTICAST_IF, &device, sizeof device));
}

/* A child with a terminal of its own, as a shell has it. It answers each line. */
static void open_terminal(void)
{
	char line[64];

	if (forkpty(&terminal, NULL, NULL, NULL))
		return;
	check("/dev/tty", open("/dev/tty", O_RDWR));
	while (read(STDIN_FILENO, line, sizeof line) > 0)
		check("answer", write(STDOUT_FILENO, "answer\n", 7));
	_exit(0);
}

static void tell_terminal(void)
{
	struct pollfd polled = {.fd = terminal, .events = POLLIN};
	char seen[1024] = "";
	size_t length = 0;

	check("question", write(terminal, "question\n", 9));
	while (!strstr(seen, "answer") && poll(&polled, 1, 2000) > 0) {
		ssize_t count = read(terminal, seen + length, sizeof seen - 1 - length);

		if (count <= 0)
			break;
		length += count;
	}
	printf(" terminal=%s", strstr(seen, "answer") ? "answers" : "silent");
}

static void set(int fd, int level, int name, int value)
{
	check("option", setsockopt(fd, level, name, &value, sizeof value));
}

/* Return what is left of a connection that its client has reset. It has multicast options of the client's packets, which
 * nobody can set for TCP. */
static int open_reset(int family)
{
	struct sockaddr_storage address = {.ss_family = family};
	socklen_t length = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	int server = socket(family, SOCK_STREAM, 0), client = socket(family, SOCK_STREAM, 0), left;

	check("listen", bind(server, (struct sockaddr *)&address, length) | listen(server, 1));
	check("name", getsockname(server, (struct sockaddr *)&address, &length));
	check("connect", connect(client, (struct sockaddr *)&address, length));
	left = accept(server, NULL, NULL);
	check("reset", left | setsockopt(client, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
	close(client);
	close(server);
	return left;
}

static int get_tcp_state(int fd)
{
	unsigned char info[8] = {0};
	socklen_t length = sizeof info;

	check("state", getsockopt(fd, IPPROTO_TCP, 11, info, &length)); /* TCP_INFO */
	return *info;
}

void tune(void)
{
	struct sockaddr_in any = {.sin_family = AF_INET};
	FILE *filter = fopen("/proc/self/coredump_filter", "w");
	pthread_t thread;

	if (!filter || fputs("0x11", filter) < 0 || fclose(filter))
		perror("coredump_filter");
	open_terminal();
	semaphore = eventfd(5, EFD_SEMAPHORE | EFD_NONBLOCK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	four = socket(AF_INET, SOCK_DGRAM, 0);
	six = socket(AF_INET6, SOCK_DGRAM, 0);
	check("bind", bind(listener, (struct sockaddr *)&any, sizeof any) | listen(listener, 5));
	set(listener, IPPROTO_TCP, 9, 7);      /* TCP_DEFER_ACCEPT */
	set(listener, IPPROTO_TCP, 23, 64);    /* TCP_FASTOPEN */
	set(listener, IPPROTO_TCP, 18, 5000);  /* TCP_USER_TIMEOUT */
	set(listener, SOL_SOCKET, 44, 1);      /* SO_LOCK_FILTER */
	set(four, SOL_IP, 33, 9);	       /* IP_MULTICAST_TTL */
	set(four, SOL_SOCKET, 42, 3);	       /* SO_PEEK_OFF */
	set(six, SOL_IP, 1, 0x10);	       /* IP_TOS, of a socket that is IPv6 */
	set(six, SOL_IPV6, 67, 8);	       /* IPV6_TCLASS */
	reset4 = open_reset(AF_INET);
	reset6 = open_reset(AF_INET6);
	join();
	check("thread", pthread_create(&thread, NULL, help, NULL));
	while (!helper)
		usleep(1000);
	/* Its thread has a lower nice value than the process. */
	check("nice", setpriority(PRIO_PROCESS, 0, 5));
	check("lock", mlockall(MCL_FUTURE | MCL_ONFAULT));
}

static int get(int fd, int level, int name)
{
	socklen_t length = sizeof(int);
	int value = 0;

	return getsockopt(fd, level, name, &value, &length) < 0 ? -errno : value;
}

static void tell_group(const char *name, int fd, int level, const char *device, const struct sockaddr *group, size_t size)
{
	char room[GROUP_FILTER_SIZE(4)] = {0}, text[64] = "";
	struct group_filter *filter = (void *)room;
	socklen_t length = sizeof room;

	filter->gf_interface = if_nametoindex(device);
	filter->gf_numsrc = 4;
	memcpy(&filter->gf_group, group, size);
	if (getsockopt(fd, level, MCAST_MSFILTER, filter, &length) < 0) {
		printf(" %s=%d", name, -errno);
		return;
	}
	if (filter->gf_numsrc)
		inet_ntop(AF_INET, &((struct sockaddr_in *)filter->gf_slist)->sin_addr, text, sizeof text);
	printf(" %s=%u:%u:%s", name, filter->gf_fmode, filter->gf_numsrc, text);
}

static unsigned read_filter(void)
{
	FILE *file = fopen("/proc/self/coredump_filter", "r");
	unsigned filter = 0;

	if (!file || fscanf(file, "%x", &filter) != 1)
		perror("coredump_filter");
	fclose(file);
	return filter;
}

/* Memory that is used for the first time is locked. */
static void tell_locked(void)
{
	size_t size = 1 << 16;
	char *new = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), line[256];
	unsigned long start, end, address = (unsigned long)new;
	FILE *maps = fopen("/proc/self/smaps", "r");
	int inside = 0;

	while (maps && fgets(line, sizeof line, maps))
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= address && address < end;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			printf(" future=%s%s", strstr(line, " lo") ? "locked" : "", strstr(line, " lf") ? ",fault" : "");
	if (maps)
		fclose(maps);
	munmap(new, size);
}

/* The timer slack and the policy for machine check errors can only be read by a thread for itself, or by root. */
static void tell_helper(void)
{
	cpu_set_t processors;

	check("affinity", sched_getaffinity(helper, sizeof processors, &processors));
	printf(" processors=%d nice=%d,%d ioprio=%ld", CPU_COUNT(&processors), getpriority(PRIO_PROCESS, 0),
	       getpriority(PRIO_PROCESS, helper), syscall(SYS_ioprio_get, PROCESS, helper));
}

void tell_tuning(void)
{
	struct sockaddr_in by_source = {.sin_family = AF_INET, .sin_addr = group4};
	struct sockaddr_in6 all = {.sin6_family = AF_INET6, .sin6_addr = group6};
	uint64_t count = 0;

	check("semaphore", read(semaphore, &count, sizeof count) + write(semaphore, &(uint64_t){1}, sizeof count));
	printf(" semaphore=%ju filter=%x", (uintmax_t)count, read_filter());
	printf(" tcp=%d,%d,%d,%d", get(listener, IPPROTO_TCP, 9), get(listener, IPPROTO_TCP, 23),
	       get(listener, IPPROTO_TCP, 18), get(listener, SOL_SOCKET, 44));
	printf(" udp=%d,%d,%d,%d", get(four, SOL_IP, 33), get(four, SOL_SOCKET, 42), get(six, SOL_IP, 1),
	       get(six, SOL_IPV6, 67));
	printf(" reset=%d,%d", get_tcp_state(reset4), get_tcp_state(reset6));
	printf(" devices=%x,%u", ntohl(get(four, SOL_IP, IP_MULTICAST_IF)), get(six, SOL_IPV6, IPV6_MULTICAST_IF));
	tell_group("source", four, SOL_IP, "lo", (struct sockaddr *)&by_source, sizeof by_source);
	tell_group("group", six, SOL_IPV6, "lo", (struct sockaddr *)&all, sizeof all);
	tell_helper();
	tell_locked();
	tell_terminal();
}
