/* Signals and children: act as the application towards the runtime. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

static sigset_t before;

static int block(const sigset_t *signals)
{
	sigprocmask(SIG_BLOCK, signals, &before);
	return signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

int block_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	return block(&all);
}

int block_child_signal(void)
{
	sigset_t only;

	sigemptyset(&only);
	sigaddset(&only, SIGCHLD);
	return block(&only);
}

void unblock_signals(void)
{
	sigset_t broken_pipe;

	/* Discard a SIGPIPE raised by our own message. */
	sigemptyset(&broken_pipe);
	sigaddset(&broken_pipe, SIGPIPE);
	sigtimedwait(&broken_pipe, NULL, &(struct timespec){0});
	sigprocmask(SIG_SETMASK, &before, NULL);
}

/* Return a pending signal, or 0. Ignore signals that we raised ourselves, such as SIGPIPE. */
int next_signal(int signals)
{
	struct signalfd_siginfo info;

	do
		if (read(signals, &info, sizeof info) != sizeof info)
			return 0;
	while (info.ssi_pid == (uint32_t)getpid());
	return info.ssi_signo;
}

bool is_stop_signal(int number)
{
	return number == SIGTERM || number == SIGINT || number == SIGQUIT || number == SIGHUP;
}

/* Reap ended children. Return whether the application is one of them; if it is not our child, report SIGKILL. */
bool reap(pid_t app, int *status)
{
	bool over = false;
	int each;
	pid_t pid;

	while ((pid = waitpid(-1, &each, WNOHANG)) > 0)
		if (pid == app) {
			*status = each;
			over = true;
		}
	if (!over && pid < 0 && errno == ECHILD) {
		*status = SIGKILL;
		return true;
	}
	return over;
}

static void forward_output(struct copy *copy)
{
	char bytes[65536];
	ssize_t got = read(copy->from, bytes, sizeof bytes);

	for (ssize_t done = 0, put; done < got; done += put) {
		put = write(copy->to, bytes + done, got - done);
		if (put < 0 && errno != EINTR && errno != EAGAIN)
			break;
		if (put < 0)
			put = 0;
	}
	if (got <= 0 && errno != EAGAIN)
		copy->from = -1;
}

void forward_signals(pid_t app, int signals, struct app_exit *end)
{
	for (int number; (number = next_signal(signals));)
		if (number != SIGCHLD) {
			kill(app, number);
			end->stop_requested |= is_stop_signal(number);
		}
}

/* Forward signals to the application, and copy its output, until it ends. */
struct app_exit supervise(pid_t app, int signals, struct copy *copies, size_t count)
{
	struct pollfd polled[3] = {{.fd = signals, .events = POLLIN}};
	struct app_exit end = {0};

	while (!reap(app, &end.status)) {
		for (size_t i = 0; i < count; i++)
			polled[i + 1] = (struct pollfd){.fd = copies[i].from, .events = POLLIN};
		if (poll(polled, count + 1, -1) < 0)
			continue;
		for (size_t i = 0; i < count; i++)
			if (polled[i + 1].revents)
				forward_output(&copies[i]);
		forward_signals(app, signals, &end);
	}
	for (size_t i = 0; i < count; i++)
		while (copies[i].from >= 0 && poll(&(struct pollfd){.fd = copies[i].from, .events = POLLIN}, 1, 0) > 0)
			forward_output(&copies[i]);
	return end;
}

/* Return the exit status for this wait status. If a signal ended the application, end by the same signal, unless we are
 * PID 1. */
int exit_like(int status)
{
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	if (getpid() != 1) {
		sigset_t only;

		setrlimit(RLIMIT_CORE, &(struct rlimit){0});
		signal(WTERMSIG(status), SIG_DFL);
		raise(WTERMSIG(status));
		sigemptyset(&only);
		sigaddset(&only, WTERMSIG(status));
		sigprocmask(SIG_UNBLOCK, &only, NULL);
	}
	return 128 + WTERMSIG(status);
}
