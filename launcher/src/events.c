/* Signals and children: stand in for the application. */
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

int take_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	return signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
}

void give_back_signals(void)
{
	sigset_t broken_pipe;

	/* Discard a SIGPIPE raised by our own message. */
	sigemptyset(&broken_pipe);
	sigaddset(&broken_pipe, SIGPIPE);
	sigtimedwait(&broken_pipe, NULL, &(struct timespec){0});
	sigprocmask(SIG_SETMASK, &before, NULL);
}

/* Return a pending signal, or 0. Ignore those we raised, such as SIGPIPE. */
int next_signal(int signals)
{
	struct signalfd_siginfo info;

	do
		if (read(signals, &info, sizeof info) != sizeof info)
			return 0;
	while (info.ssi_pid == (uint32_t)getpid());
	return info.ssi_signo;
}

bool asks_to_stop(int number)
{
	return number == SIGTERM || number == SIGINT || number == SIGQUIT || number == SIGHUP;
}

/* Reap ended children, and return whether this one is among them. If it is not our child, report SIGKILL. */
static bool reap(pid_t app, int *status)
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

static void pass(struct copy *copy)
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

/* Forward signals to the application, and copy its output, until it ends. */
struct end attend(pid_t app, int signals, struct copy *copies, size_t count)
{
	struct pollfd polled[3] = {{.fd = signals, .events = POLLIN}};
	struct end end = {0};

	while (!reap(app, &end.status)) {
		for (size_t i = 0; i < count; i++)
			polled[i + 1] = (struct pollfd){.fd = copies[i].from, .events = POLLIN};
		if (poll(polled, count + 1, -1) < 0)
			continue;
		for (size_t i = 0; i < count; i++)
			if (polled[i + 1].revents)
				pass(&copies[i]);
		for (int number; (number = next_signal(signals));)
			if (number != SIGCHLD) {
				kill(app, number);
				end.asked |= asks_to_stop(number);
			}
	}
	for (size_t i = 0; i < count; i++)
		while (copies[i].from >= 0 && poll(&(struct pollfd){.fd = copies[i].from, .events = POLLIN}, 1, 0) > 0)
			pass(&copies[i]);
	return end;
}

/* Return the exit status for this wait status. Die of the application's signal if we can. */
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
