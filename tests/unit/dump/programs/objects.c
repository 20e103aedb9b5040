/* Holds many kinds of kernel objects, so that its dump has many kinds of image files. */
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <time.h>
#include <unistd.h>

static void check(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static void deleted_file(const char *name, size_t gap)
{
	int fd = open(name, O_RDWR | O_CREAT, 0600);
	check(fd >= 0 && write(fd, "deleted", 7) == 7, "file");
	if (gap)
		check(pwrite(fd, "end", 3, gap) == 3, "sparse file");
	unlink(name);
}

static void system_v(void)
{
	struct { long type; char text[13]; } message = { 7, "in the queue" };
	int queue = msgget(IPC_PRIVATE, 0600);
	check(msgsnd(queue, &message, sizeof(message.text), 0) == 0, "msgsnd");
	check(msgsnd(queue, &message, 1, 0) == 0, "msgsnd");
	int set = semget(IPC_PRIVATE, 5, 0600);
	check(semctl(set, 3, SETVAL, 42) == 0, "semctl");
	int segment = shmget(IPC_PRIVATE, 70000, 0600);
	char *shared = shmat(segment, NULL, 0);
	check(shared != (void *)-1, "shmat");
	memset(shared, 's', 70000);
	check(shmdt(shared) == 0, "shmdt");
}

int main(int argc, char **argv)
{
	int pair[2];

	check(pipe(pair) == 0 && write(pair[1], "in the pipe", 11) == 11, "pipe");
	check(mkfifo("/scratch/fifo", 0600) == 0, "mkfifo");
	int fifo = open("/scratch/fifo", O_RDWR);
	check(write(fifo, "in the fifo", 11) == 11, "fifo");
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && write(pair[0], "queued", 6) == 6, "socketpair");
	int epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 99 };
	check(epoll_ctl(epoll, EPOLL_CTL_ADD, eventfd(3, 0), &event) == 0, "epoll");
	check(epoll_ctl(epoll, EPOLL_CTL_ADD, pair[1], &event) == 0, "epoll");
	struct itimerspec later = { .it_value.tv_sec = 1000 };
	check(timerfd_settime(timerfd_create(CLOCK_MONOTONIC, 0), 0, &later, NULL) == 0, "timerfd");
	timer_t timer;
	check(timer_create(CLOCK_REALTIME, NULL, &timer) == 0, "timer");
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR2);
	check(signalfd(-1, &signals, 0) >= 0, "signalfd");
	sigprocmask(SIG_BLOCK, &signals, NULL);
	kill(getpid(), SIGUSR2);
	check(inotify_add_watch(inotify_init(), "/scratch", IN_CREATE) >= 0, "inotify");
	deleted_file("/scratch/small", 0);
	deleted_file("/scratch/sparse", 8 << 20);
	check(flock(open("/scratch", O_RDONLY), LOCK_EX) == 0, "flock");
	int memory = memfd_create("memory", 0);
	check(write(memory, "memfd", 5) == 5, "memfd");
	char *shared = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(shared, 'a', 65536);
	if (argc > 1)
		system_v();
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog filter = { 1, &allow };
	check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0, "seccomp");
	if (fork() == 0 && fork() == 0)
		for (;;)
			pause();
	printf("ready\n");
	fflush(stdout);
	for (;;)
		pause();
}
