/*
 * Holds sockets in several states on the address that it is given. On SIGUSR1 it says what each is like.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int listener, reset_server, half_closed_server, open_client, open_server, reset_server6, udp;
static struct sockaddr_in here;
static struct sockaddr_in6 here6;

static void check(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static int listen_on(struct sockaddr *address, socklen_t size)
{
	int fd = socket(address->sa_family, SOCK_STREAM, 0);
	check(bind(fd, address, size) == 0 && listen(fd, 8) == 0, "listen");
	check(getsockname(fd, address, &size) == 0, "getsockname");
	return fd;
}

static int connect_to(struct sockaddr *address, socklen_t size)
{
	int fd = socket(address->sa_family, SOCK_STREAM, 0);
	check(connect(fd, address, size) == 0, "connect");
	return fd;
}

static void reset(int fd)
{
	struct linger linger = { 1, 0 };
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(fd);
}

static void describe(const char *name, int fd)
{
	struct tcp_info info = {};
	socklen_t size = sizeof(info);
	struct sockaddr_storage peer;
	socklen_t peer_size = sizeof(peer);
	struct pollfd poller = { fd, POLLIN | POLLRDHUP, 0 };
	char byte;

	getsockopt(fd, SOL_TCP, TCP_INFO, &info, &size);
	int connected = getpeername(fd, (struct sockaddr *)&peer, &peer_size) == 0;
	poll(&poller, 1, 0);
	int hung_up = (poller.revents & (POLLHUP | POLLRDHUP)) != 0;
	ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);
	int receive_error = got < 0 ? errno : 0;
	ssize_t put = send(fd, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	int send_error = put < 0 ? errno : 0;
	printf("%s state=%d connected=%d hung_up=%d recv=%zd/%d send=%zd/%d\n", name, info.tcpi_state, connected,
	       hung_up, got, receive_error, put, send_error);
}

static void serve_once(void)
{
	int client = connect_to((struct sockaddr *)&here, sizeof(here));
	int server = accept(listener, NULL, NULL);
	char byte = 0;
	check(write(client, "!", 1) == 1 && read(server, &byte, 1) == 1 && byte == '!', "serve");
	close(client);
	close(server);
	printf("listener serves\n");
}

int main(int argc, char **argv)
{
	sigset_t signals;
	int got;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);

	struct sockaddr_in any = { .sin_family = AF_INET };
	here6.sin6_family = AF_INET6;
	here6.sin6_addr = in6addr_loopback;
	listener = listen_on((struct sockaddr *)&any, sizeof(any));
	here = any;
	check(inet_pton(AF_INET, argv[1], &here.sin_addr) == 1, "address");
	int listener6 = listen_on((struct sockaddr *)&here6, sizeof(here6));

	int client = connect_to((struct sockaddr *)&here, sizeof(here));
	reset_server = accept(listener, NULL, NULL);
	reset(client);
	client = connect_to((struct sockaddr *)&here6, sizeof(here6));
	reset_server6 = accept(listener6, NULL, NULL);
	reset(client);
	if (argc > 2) { /* with connections that are open */
		client = connect_to((struct sockaddr *)&here, sizeof(here));
		half_closed_server = accept(listener, NULL, NULL);
		close(client);
		open_client = connect_to((struct sockaddr *)&here, sizeof(here));
		open_server = accept(listener, NULL, NULL);
		check(write(open_client, "unread", 6) == 6, "write");
	}
	udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in loopback = here;
	loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	check(connect(udp, (struct sockaddr *)&loopback, sizeof(loopback)) == 0, "udp");
	usleep(100000);
	printf("ready\n");
	for (;;) {
		sigwait(&signals, &got);
		here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		describe("reset", reset_server);
		describe("reset6", reset_server6);
		if (argc > 2) {
			describe("half-closed", half_closed_server);
			describe("open-client", open_client);
			describe("open-server", open_server);
		}
		serve_once();
		printf("checked\n");
	}
}
